/* SPDX-License-Identifier: Apache-2.0
 *
 * What the admin pages ask of the cluster: a file of its own, so that they link
 * without links, puller and disk. */
#include "server/cluster_loop_impl.h"

void cluster_loop_status(const struct cluster_loop *cl,
                         struct cluster_status *out)
{
    cluster_status(cl->cluster, out);
}

const struct view *cluster_loop_view(const struct cluster_loop *cl)
{
    return cluster_view(cl->cluster);
}

const char *cluster_phase_name(enum cluster_phase p)
{
    switch (p) {
    case CLUSTER_SEEKING:
        return "seeking";
    case CLUSTER_JOINING:
        return "joining";
    case CLUSTER_MEMBER:
        return "member";
    case CLUSTER_CUT:
        return "cut";
    case CLUSTER_EXPELLED:
        return "expelled";
    }
    return "?";
}
