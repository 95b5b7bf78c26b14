/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated node's lives. Of one life only two things come to the next: the
 * SSDs' media and the text of the registry.
 *
 *   start --------> runs --------> killed: the media as a crash leaves them
 *     ^               |                    (mem_media_crash) and the text are
 *     |               |                    put aside at that moment
 *     |               +----------> stopped: drained, closed with a checkpoint;
 *     |                                    what was not flushed is lost then
 *     +-- audit <--- another number of lanes perhaps <---+
 *
 * A killed node is not torn down half-way, which no code is made for: its
 * clients lose their connections at once, and it comes to rest and ends in
 * order on media that nobody looks at any more.
 *
 * audit: before anybody connects, every key of the model is looked up in every
 * lane: what is there must be explained, what was durable must be there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "lib/sim_client.h"
#include "server/peer.h"

enum { SIM_BOOT_S = 1700000000 };

/* ---- set-up ---------------------------------------------------------------*/

static uint64_t node_random(void *arg)
{
    struct sim *s = arg;

    return env_random(&s->rng);
}

static enum err node_save(void *arg, const char *text, size_t len)
{
    struct sim *s = arg;

    free(s->registry);
    s->registry = malloc(len + 1);
    MUST(s->registry);
    memcpy(s->registry, text, len);
    s->registry_len = len;
    return OK;
}

static void node_config_ssd(struct sim *s, struct config *c)
{
    c->ssd.segment_bytes = s->cfg.segment_bytes;
    c->ssd.io_timeout_us = 100000;
    c->ssd.linger_us = sim_random(s, 2) ? 1000 : 100;
    c->ssd.write_window_bytes = MIB(8);
    c->ssd.load_window_bytes = MIB(8);
    c->ssd.scrub_bytes = sim_random(s, 2) ? MIB(64) : 0;
    c->ssd.discard = sim_random(s, 2);
    c->ssd.promote =
        s->cfg.second_touch ? PROMOTE_SECOND_TOUCH : PROMOTE_DEMAND;
    if (s->cfg.write_buffer)
        c->namespaces.dram = TIERING_WRITE_BUFFER;
    if (s->cfg.budget)
        snprintf(c->ssd.write_budget, sizeof c->ssd.write_budget, "60MiB/s");
}

static void node_config(struct sim *s)
{
    struct config *c = &s->config;

    config_defaults(c);
    c->dram.capacity_bytes = s->cfg.dram_bytes;
    c->limits.ops_per_lane = 64;
    c->limits.ops_per_client = 16;
    c->limits.pins_per_client = 64;
    c->limits.pinned_per_client_bytes = MIB(2);
    c->limits.pin_ttl_us = 500000;
    c->limits.slow_reader_us = 200000;
    c->limits.open_time_us = 300000;
    c->limits.open_blocks = 16;
    c->limits.clients = 64;
    c->limits.batch_keys = 64;
    if (s->cfg.seed % 3 == 0) /* small: polls find that events were lost */
        c->limits.events_bytes = EVENTS_BYTES_MIN;
    if (s->media)
        node_config_ssd(s, c);
}

static uint64_t node_wall_us(const struct sim *s)
{
    return SIM_BOOT_S * UINT64_C(1000000) + s->now_ns / NS_PER_US;
}

static void node_control(struct sim *s)
{
    struct control_shell shell = {.random = node_random,
                                  .save = s->media ? node_save : NULL,
                                  .arg = s,
                                  .wall_us = node_wall_us(s)};
    struct errmsg m;

    MUST(control_init(&s->control, &s->config, s->lanes, s->lane_n, &shell) ==
         OK);
    if (s->registry)
        MUST(registry_load(&s->control.registry, s->registry, s->registry_len,
                           &m) == OK);
}

static void node_lane(struct sim *s, uint32_t i)
{
    struct unit_pool *pools[STORE_POOLS] = {&s->pool};
    struct lane *l = calloc(1, sizeof *l);

    MUST(l);
    l->env.now_ns = s->now_ns;
    l->env.wall_s = SIM_BOOT_S + s->now_ns / NS_PER_S;
    l->env.boot_us = node_wall_us(s);
    l->env.rng[0] = env_random(&s->rng) | 1;
    l->env.rng[1] = env_random(&s->rng);
    l->trace.hashing = true;
    l->ssd_bytes = s->cfg.ssd_bytes * s->cfg.ssds;
    MUST(lane_init(l, &s->config, i, s->lane_n, pools, &s->control) == OK);
    s->lanes[i] = l;
    sim_net_init(&s->nets[i], s, l);
    l->transports[0] = &s->nets[i].t;
    l->transport_n = 1;
}

/* ---- the SSDs -------------------------------------------------------------*/

static void node_ssd_init(struct sim *s)
{
    s->ssds = (struct ssd_node){
        .n = s->cfg.ssds, .lanes = s->lanes, .lane_n = s->lane_n};
    for (uint32_t i = 0; i < s->cfg.ssds; i++) {
        struct ssd_dev *d = &s->ssds.devs[i];

        snprintf(d->path, sizeof d->path, "/sim/ssd%u", i);
        d->engine = "memory";
        d->bytes = s->media->bytes;
        d->why = "";
    }
    for (uint32_t i = 0; i < s->lane_n; i++) {
        struct lane *l = s->lanes[i];
        struct disk_mem_cfg cfg = {.env = &l->env,
                                   .latency_ns = 20000,
                                   .spread_ns = 200000,
                                   .ns_per_mib = 300000,
                                   .shuffle = sim_random(s, 2),
                                   .seed = env_random(&s->rng)};

        disk_mem_init(&s->disks[i], s->media, &cfg);
        MUST(ssd_link_init(&l->link, l, &s->ssds, &s->disks[i].disk) == OK);
    }
}

static bool node_is_open(const struct sim *s)
{
    for (uint32_t i = 0; i < s->cfg.ssds; i++)
        if (!s->lanes[ssd_owner(&s->ssds, i)]->link.logs[i].opened)
            return false;
    return true;
}

/* Only mail and the links turn: the stores are being filled. */
static void node_ssd_open(struct sim *s)
{
    uint8_t uuid[16];
    struct errmsg m;
    bool more = true;

    for (uint32_t i = 0; i < s->cfg.ssds; i++) {
        for (uint32_t k = 0; k < sizeof uuid; k++)
            uuid[k] = (uint8_t)sim_random(s, 256);
        MUST(ssd_link_open(&s->lanes[ssd_owner(&s->ssds, i)]->link, i,
                           SEGLOG_OPEN_OR_FORMAT, uuid, &m) == OK);
    }
    while (more || !node_is_open(s)) {
        uint64_t next = DEADLINE_NEVER;

        for (uint32_t i = 0; i < s->lane_n && !more; i++)
            next = min_u64(next, min_u64(disk_mem_next_ns(&s->disks[i]),
                                         ssd_link_next_ns(&s->lanes[i]->link)));
        MUST(more || next != DEADLINE_NEVER);
        s->now_ns = more ? s->now_ns : max_u64(next, s->now_ns);
        more = false;
        for (uint32_t i = 0; i < s->lane_n; i++) {
            struct lane *l = s->lanes[i];

            l->env.now_ns = s->now_ns;
            more |= mailbox_run(&l->mailbox, l, 64) > 0;
            more |= ssd_link_turn(&l->link);
        }
    }
    for (uint32_t i = 0; i < s->cfg.ssds; i++)
        MUST(s->lanes[ssd_owner(&s->ssds, i)]->link.logs[i].err == OK);
    for (uint32_t i = 0; i < s->lane_n; i++)
        store_adopted(s->lanes[i]->store);
}

void sim_node_start(struct sim *s)
{
    s->memory = mem_reserve(s->cfg.dram_bytes);
    MUST(s->memory);
    MUST(unit_pool_init(&s->pool, s->memory, s->cfg.dram_bytes, s->lane_n) ==
         OK);
    node_config(s);
    node_control(s);
    for (uint32_t i = 0; i < s->lane_n; i++)
        node_lane(s, i);
    s->lives++;
    if (s->media) {
        node_ssd_init(s);
        MUST(control_tell_lanes(&s->control) == OK);
        node_ssd_open(s);
    }
    sim_events_start(s);
}

uint64_t sim_node_hash(const struct sim *s)
{
    uint64_t h = s->hash;

    for (uint32_t i = 0; i < s->lane_n; i++)
        h = hash_64(h, &s->lanes[i]->trace.hash, sizeof(uint64_t));
    return h;
}

/* ---- its end --------------------------------------------------------------*/

uint64_t sim_node_disk_ns(const struct sim *s, uint32_t lane)
{
    return s->media ? disk_mem_next_ns(&s->disks[lane]) : DEADLINE_NEVER;
}

bool sim_node_is_quiet(const struct sim *s)
{
    for (uint32_t i = 0; i < s->lane_n; i++) {
        const struct lane *l = s->lanes[i];

        if (!lane_drained(l) || !list_empty(&l->peer_list) || l->mailbox.n ||
            !store_ssd_idle(l->store) || !ssd_link_quiet(&l->link))
            return false;
    }
    return control_idle(&s->control) && s->control.mailbox.n == 0;
}

static bool node_is_closed(const struct sim *s)
{
    for (uint32_t i = 0; i < s->lane_n; i++)
        if (!ssd_link_closed(&s->lanes[i]->link) ||
            !ssd_link_quiet(&s->lanes[i]->link))
            return false;
    return true;
}

static void node_ssd_close(struct sim *s, bool checkpoint)
{
    for (uint32_t i = 0; i < s->lane_n; i++)
        s->lanes[i]->closing = true;
    for (uint32_t i = 0; i < s->lane_n; i++)
        ssd_link_close(&s->lanes[i]->link, checkpoint);
    sim_pass(s, node_is_closed);
}

static void node_free(struct sim *s)
{
    s->hash = sim_node_hash(s);
    sim_events_check(s);
    sim_events_stop(s);
    for (uint32_t i = 0; i < s->lane_n; i++) {
        sim_net_fini(&s->nets[i]);
        lane_fini(s->lanes[i]);
        free(s->lanes[i]);
        s->lanes[i] = NULL;
        if (s->media)
            disk_mem_fini(&s->disks[i]);
    }
    control_fini(&s->control);
    unit_pool_fini(&s->pool);
    mem_release(s->memory, s->cfg.dram_bytes);
}

void sim_node_stop(struct sim *s)
{
    if (s->media)
        node_ssd_close(s, sim_random(s, 2));
    node_free(s);
}

void sim_node_unhang(struct sim *s)
{
    for (uint32_t i = 0; s->media && i < s->lane_n; i++) {
        if (s->disks[i].fault.hang)
            s->disks[i].fault = (struct disk_mem_fault){0};
        disk_mem_unhang(&s->disks[i]);
    }
}

/* Everybody loses the connection; what hung does not any more. */
static void node_rest(struct sim *s)
{
    s->down = true;
    for (uint32_t i = 0; i < s->lane_n; i++)
        sim_net_hangup_all(&s->nets[i]);
    sim_node_unhang(s);
    sim_pass(s, sim_node_is_quiet);
    sim_check_rest(s);
}

/* ---- another life ---------------------------------------------------------*/

static void audit_found(struct sim *s, const struct registry_ns *ns,
                        uint32_t key, const struct store *st, uint32_t block)
{
    struct model_seen seen = {
        .key = key,
        .no_crc = true,
        .generation = ns->generation,
        .version = store_version(st, block),
        .len = store_len(st, block),
        .begun_ns = s->now_ns,
    };

    s->recovered++;
    model_check(s->model, &seen, 0, NULL, 0);
}

/* Much less than a device holds, whichever the blocks went to. */
static bool audit_is_strict(const struct sim *s)
{
    return s->cfg.disk_fault == SIM_DISK_SOUND && !s->cfg.budget;
}

static void audit_key(struct sim *s, const struct registry_ns *ns, uint32_t key)
{
    static const uint8_t no_scope[16];
    uint64_t must = model_must_have(s->model, key, s->cfg.ssd_bytes / 4);
    enum store_found why = FOUND_MISS_NEVER;
    uint32_t found = 0, lane;
    char text[32];
    struct store_key k = {.ns = ns->id, .scope = no_scope};

    k.key_len = (uint16_t)snprintf(text, sizeof text, "key-%u", key);
    k.key = (const uint8_t *)text;
    k.route = k.key;
    lane = hash_slot(ns->slot_seed, text, k.key_len) % s->lane_n;
    for (uint32_t i = 0; i < s->lane_n; i++) {
        struct store *st = s->lanes[i]->store;
        uint32_t block;

        store_key_hash(st, &k);
        block = store_find(st, &k, &why);
        MUST(!block || i == lane);
        if (!block)
            continue;
        audit_found(s, ns, key, st, block);
        found = block;
        MUST(store_version(st, block) >= must);
    }
    if (must && !found && audit_is_strict(s)) {
        fprintf(stderr, "sim: key %u: durable version %llu is lost (why %d)\n",
                key, (unsigned long long)must, (int)why);
        MUST(false);
    }
}

static void node_audit(struct sim *s)
{
    const struct registry_ns *ns = registry_find(&s->control.registry, "sim");

    for (uint32_t i = 0; i < s->lane_n; i++)
        store_check(s->lanes[i]->store);
    for (uint32_t key = 0; ns && key < MODEL_KEYS; key++)
        audit_key(s, ns, key);
}

/* What the next life will find, at this moment of a killed one. */
static void node_killed(struct sim *s)
{
    static const uint32_t keep[] = {0, 50, 100};
    enum mem_crash how = sim_random(s, 2) ? MEM_CRASH_KILL : MEM_CRASH_POWER;
    struct mem_media *left = mem_media_crash(
        s->media, how, keep[sim_random(s, 3)], env_random(&s->rng));
    char *text = s->registry;
    size_t len = s->registry_len;

    s->registry = NULL;
    node_rest(s);
    sim_node_stop(s);
    mem_media_free(s->media);
    s->media = left;
    free(s->registry);
    s->registry = text;
    s->registry_len = len;
}

static void node_stopped(struct sim *s)
{
    struct mem_media *left;

    node_rest(s);
    node_ssd_close(s, true);
    node_free(s);
    left = mem_media_crash(s->media, MEM_CRASH_POWER, 0, env_random(&s->rng));
    mem_media_free(s->media);
    s->media = left;
}

void sim_node_restart(struct sim *s)
{
    if (sim_random(s, 4))
        node_killed(s);
    else
        node_stopped(s);
    if (sim_random(s, 3) == 0)
        s->lane_n = 1 + (uint32_t)sim_random(s, SIM_LANES_MAX);
    sim_node_start(s);
    model_restarted(s->model);
    sim_open_restarted(s);
    node_audit(s);
    s->down = false;
}

/* ---- faults ---------------------------------------------------------------*/

/* Where something was written, if a few tries find it. One superblock may be
 * hit, not both. */
static void fault_flip(struct sim *s)
{
    uint64_t dev = sim_random(s, s->media->dev_n);
    uint64_t room = s->media->bytes - SEG_DATA;
    uint64_t at = SEG_DATA + sim_random(s, room);
    uint8_t bit = (uint8_t)(1u << sim_random(s, 8));

    for (int i = 0; i < 20 && !s->media->image[dev][at]; i++)
        at = SEG_DATA + sim_random(s, room);
    if (sim_random(s, 40) == 0)
        at = sim_random(s, DISK_PAGE);
    s->media->image[dev][at] ^= bit;
    s->media->stable[dev][at] ^= bit;
    s->media->hurt = true;
}

void sim_node_fault(struct sim *s)
{
    struct disk_mem *d = &s->disks[sim_random(s, s->lane_n)];
    struct disk_mem_fault f = {.nth = 1 + (uint32_t)sim_random(s, 10),
                               .forever = sim_random(s, 2),
                               .partial = sim_random(s, 2),
                               .err = ERR_IO};

    switch (s->cfg.disk_fault) {
    case SIM_DISK_SOUND:
    case SIM_DISK_FAULTS:
        return;
    case SIM_DISK_FLIP:
        fault_flip(s);
        return;
    case SIM_DISK_WRITE:
        f.mask = MEM_WRITES;
        break;
    case SIM_DISK_READ:
        f.mask = MEM_READS;
        break;
    case SIM_DISK_FLUSH:
        f.mask = MEM_FLUSHES;
        break;
    case SIM_DISK_FULL:
        f.mask = MEM_WRITES;
        f.err = ERR_NO_SPACE;
        break;
    case SIM_DISK_HANG: /* for every lane at the same time */
        f.mask = MEM_ALL;
        f.hang = f.forever = true;
        for (uint32_t i = 0; i < s->lane_n; i++)
            s->disks[i].fault = f;
        return;
    }
    d->fault = f;
}
