/* SPDX-License-Identifier: Apache-2.0
 *
 * From the configuration to open transports: which limits of config.tbl become
 * which limits of a transport, and where each lane listens.
 *
 *   lane 0   listen.shm.path       listen.ucx.port
 *   lane i   listen.shm.path.i     listen.ucx.port + i
 *
 * A client connects to lane 0 and learns the others from its HELLO. */
#include "server/loop_links.h"

#include <stdio.h>
#include <string.h>

#include "rpc/transport_shm.h"
#include "rpc/transport_ucx.h"

/* Lane 0 listens where the configuration says, the others beside it. */
void loop_links_address(const struct config *c, struct lane *l)
{
    if (c->listen.shm.enabled && l->idx == 0)
        snprintf(l->addr_shm, sizeof(l->addr_shm), "shm:%.120s",
                 c->listen.shm.path);
    else if (c->listen.shm.enabled)
        snprintf(l->addr_shm, sizeof(l->addr_shm), "shm:%.110s.%u",
                 c->listen.shm.path, l->idx);
    if (c->listen.ucx.enabled)
        snprintf(l->addr_ucx, sizeof(l->addr_ucx), "ucx:%.110s:%u",
                 c->cluster.advertise.ucx[0] ? c->cluster.advertise.ucx
                                             : c->listen.ucx.host,
                 (unsigned)c->listen.ucx.port + l->idx);
}

static void shm_config(struct transport *t, const struct config *c)
{
    transport_shm_slice_set(t, c->loop.copy_slice_bytes);
}

static enum err open_shm(const struct config *c, const struct transport *base,
                         struct loop_transport *out, struct errmsg *m)
{
    const struct lane *l = base->lane;
    struct transport_shm_cfg cfg = {
        .path = l->addr_shm + strlen("shm:"),
        .mode = (uint32_t)c->listen.shm.mode,
        .ring_bytes = (uint32_t)c->listen.shm.ring_bytes,
        .peers_max = (uint32_t)c->limits.clients,
        .memories_per_peer = (uint32_t)c->limits.memories_per_client,
        .registered_bytes_per_peer = c->limits.registered_per_client_bytes,
        .copy_slice_bytes = c->loop.copy_slice_bytes,
    };
    enum err e = transport_shm_open(&cfg, base, &out->t, m);

    if (e)
        return e;
    out->fd = transport_shm_fd(out->t);
    out->close = transport_shm_close;
    out->config = shm_config;
    return OK;
}

/* UCX binds its data ports on every device it may use, whatever the listener's
 * address is: a listener on the loopback must not open ports to the world. */
static const char *ucx_devices(const struct config *c)
{
    if (c->listen.ucx.devices[0] || strncmp(c->listen.ucx.host, "127.", 4) != 0)
        return c->listen.ucx.devices;
    return "lo";
}

static struct transport_ucx_cfg ucx_cfg(const struct config *c, uint32_t lane)
{
    uint64_t held = c->limits.rndv_per_client + c->limits.ops_per_client;

    return (struct transport_ucx_cfg){
        .host = c->listen.ucx.host,
        .port = (uint16_t)(c->listen.ucx.port + lane),
        .tls = c->listen.ucx.transports,
        .devices = ucx_devices(c),
        .port_range = c->listen.ucx.port_range,
        .peers_max = (uint32_t)c->limits.clients,
        .sends_max = 2 * (uint32_t)c->limits.ops_per_lane,
        .xfers_max = 16 * (uint32_t)c->limits.ops_per_lane,
        .held_max = (uint32_t)held,
        .held_bytes = c->limits.bytes_per_client_bytes,
        .held_all = (uint32_t)min_u64(held * c->limits.clients, 16384),
        .inline_max = WIRE_EAGER_MAX,
        .slice_bytes = c->loop.copy_slice_bytes,
    };
}

static enum err open_ucx(const struct config *c, const struct transport *base,
                         struct loop_transport *out, struct errmsg *m)
{
    const struct lane *l = base->lane;
    struct transport_ucx_cfg cfg = ucx_cfg(c, l->idx);
    enum err e = transport_ucx_open(&cfg, base, &out->t, m);

    if (e)
        return e;
    out->fd = transport_ucx_fd(out->t);
    out->close = transport_ucx_close;
    return OK;
}

enum err loop_links_env(const struct config *c, struct errmsg *m)
{
    struct transport_ucx_cfg cfg = ucx_cfg(c, 0);

    return c->listen.ucx.enabled ? transport_ucx_env(&cfg, m) : OK;
}

enum err loop_links_open(const struct config *c, struct lane *l,
                         struct loop_transport out[LANE_TRANSPORTS],
                         uint32_t *n_out, struct errmsg *m)
{
    struct transport base = {.events = &lane_events,
                             .lane = l,
                             .env = &l->env,
                             .metrics = &l->metrics,
                             .trace = &l->trace,
                             .limits = &l->limits};
    uint32_t n = 0;
    enum err e = OK;

    memset(out, 0, LANE_TRANSPORTS * sizeof(*out));
    if (c->listen.shm.enabled) {
        e = open_shm(c, &base, &out[n], m);
        n += e == OK;
    }
    if (!e && c->listen.ucx.enabled) {
        e = open_ucx(c, &base, &out[n], m);
        n += e == OK;
    }
    if (!e)
        *n_out = n;
    while (e && n-- > 0)
        out[n].close(out[n].t);
    return e;
}
