/* SPDX-License-Identifier: Apache-2.0
 *
 * The providers by name, and the calls of coord.h passed on to them. */
#include "cluster/coord.h"

#include <string.h>

#include "cluster/coord_impl.h"

static const struct coord_ops *const coord_table[] = {
    &coord_static_ops,
    &coord_raft_ops,
};

enum err coord_open(const struct coord_cfg *cfg, const struct coord_events *ev,
                    struct coord **out, struct errmsg *m)
{
    for (size_t i = 0; i < countof(coord_table); i++)
        if (strcmp(cfg->provider, coord_table[i]->name) == 0)
            return coord_table[i]->open(cfg, ev, out, m);
    return errmsg_set(m, ERR_CONFIG, "no coordination provider \"%s\"",
                      cfg->provider);
}

void coord_close(struct coord *c, void (*closed)(void *arg), void *arg)
{
    c->ops->close(c, closed, arg);
}

enum err coord_propose(struct coord *c, const uint8_t *p, size_t n,
                       coord_done_fn *done, void *arg, void *answer)
{
    if (n > COORD_COMMAND_MAX)
        return ERR_LIMIT;
    return c->ops->propose(c, p, n, done, arg, answer);
}

void coord_receive(struct coord *c, uint64_t from, const uint8_t *p, size_t n)
{
    c->ops->receive(c, from, p, n);
}

void coord_tick(struct coord *c, uint64_t now_ms)
{
    c->ops->tick(c, now_ms);
}

void coord_status(const struct coord *c, struct coord_status *out)
{
    *out = (struct coord_status){.provider = c->ops->name};
    c->ops->status(c, out);
}

enum coord_role coord_role(const struct coord *c)
{
    struct coord_status s;

    coord_status(c, &s);
    return s.role;
}

uint64_t coord_leader(const struct coord *c)
{
    struct coord_status s;

    coord_status(c, &s);
    return s.leader;
}

enum err coord_transfer(struct coord *c, uint64_t to, coord_done_fn *done,
                        void *arg)
{
    return c->ops->transfer(c, to, done, arg);
}

enum err coord_voter_add(struct coord *c, const struct coord_voter *v,
                         coord_done_fn *done, void *arg)
{
    return c->ops->voter_add(c, v, done, arg);
}

enum err coord_voter_remove(struct coord *c, uint64_t id, coord_done_fn *done,
                            void *arg)
{
    return c->ops->voter_remove(c, id, done, arg);
}
