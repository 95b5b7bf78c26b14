/* SPDX-License-Identifier: Apache-2.0
 *
 * Links to other daemons: what they say is an event each, and who may have one
 * is struct cluster's to judge. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "server/cluster_loop_impl.h"

static void on_hello(void *arg, uint8_t **p_out, size_t *n_out)
{
    struct cluster_loop *cl = arg;
    struct bytes b = {0};

    cluster_hello(cl->cluster, &b);
    *p_out = b.p;
    *n_out = b.bad ? 0 : b.len;
}

static enum err on_check(void *arg, const uint8_t *p, size_t n,
                         char name_out[64], struct errmsg *m)
{
    const struct cluster_loop *cl = arg;
    struct node who;
    enum err e = cluster_hello_check(cl->cluster, p, n, &who, m);

    if (!e)
        memcpy(name_out, who.name, sizeof(who.name));
    return e;
}

static void on_up(void *arg, uint64_t link, const char *name,
                  const char *dialed, const uint8_t *hello, size_t n)
{
    struct cluster_loop *cl = arg;
    struct errmsg m;
    struct node who;
    struct cluster_event ev = {.kind = CLUSTER_LINK_UP,
                               .link = link,
                               .hello = &who,
                               .p = hello,
                               .n = n};

    (void)name;
    if (cl->closing)
        return;
    if (cluster_hello_check(cl->cluster, hello, n, &who, &m)) {
        peer_links_hang_up(cl->links, link, m.text); /* changed meanwhile */
        return;
    }
    snprintf(ev.peer, sizeof(ev.peer), "%s", dialed ? dialed : "");
    cluster_loop_step(cl, &ev);
}

static void on_message(void *arg, uint64_t link, uint16_t kind,
                       const uint8_t *p, size_t n)
{
    struct cluster_loop *cl = arg;
    struct cluster_event ev = {
        .kind = CLUSTER_MESSAGE, .link = link, .msg = kind, .p = p, .n = n};

    if (!cl->closing)
        cluster_loop_step(cl, &ev);
}

static void on_down(void *arg, uint64_t link, const char *dialed, enum err e,
                    const char *why)
{
    struct cluster_loop *cl = arg;
    struct cluster_event ev = {.kind = CLUSTER_LINK_DOWN, .link = link};

    if (cl->closing)
        return;
    LOG(LOG_DEBUG, "peer_down", "link=%" PRIu64 " peer=%s error=%s why=%s",
        link, LOG_STR(dialed ? dialed : ""), err_name(e), LOG_STR(why));
    snprintf(ev.peer, sizeof(ev.peer), "%s", dialed ? dialed : "");
    cluster_loop_step(cl, &ev);
}

enum err cluster_links_open(struct cluster_loop *cl, struct errmsg *m)
{
    const struct config *c = cl->conf;
    struct peer_links_cfg cfg = {
        .loop = cl->cfg.uv,
        .self = c->node.name,
        .host = c->cluster.host,
        .port = (uint16_t)c->cluster.port,
        .security = c->cluster.security == SECURITY_TLS   ? PEER_SECURITY_TLS
                    : c->cluster.security == SECURITY_PSK ? PEER_SECURITY_PSK
                                                          : PEER_SECURITY_PLAIN,
        .ca = c->cluster.tls.ca,
        .cert = c->cluster.tls.cert,
        .key = c->cluster.tls.key,
        .psk_file = c->cluster.tls.psk_file,
        .hello = on_hello,
        .check = on_check,
        .up = on_up,
        .message = on_message,
        .down = on_down,
        .arg = cl,
    };

    return peer_links_open(&cfg, &cl->links, m);
}

void cluster_links_reloaded(void *arg)
{
    struct cluster_loop *cl = arg;
    struct errmsg m = {""};

    if (!cl->closing && peer_links_reload(cl->links, &m))
        LOG(LOG_ERROR, "certificates_not_reloaded", "error=%s",
            LOG_STR(m.text));
}
