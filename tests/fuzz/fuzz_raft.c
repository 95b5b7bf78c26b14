/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of lying voters to a voter: coord_raft_unpack, the guard, libraft.
 * The input is a list of records; a record is a message put together from a few
 * bytes, small numbers so that they meet what the node has, or raw bytes for
 * the codec. Time passes between them. Nothing may break; that the node ends
 * (fatal) is allowed, after which it is started again from its disk.
 *
 *   record: kind, then
 *     0       n, n raw bytes
 *     1..6    from, term, a, b, c, flags, entries, n, n bytes, ms
 *             entries: n times (term, type, length), data zeros; n bytes: conf
 *             and snapshot, or the data of a change of voters */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/slice.h"
#include "cluster/coord_impl.h"
#include "cluster/peer_msg.h"
#include "lib/raft_mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORDS_MAX = 64, ENTRIES_MAX = 5 };

struct world {
    struct raft_mem w;
    struct coord *c;
    struct coord_voter voters[3];
    bool ended;
    uint64_t applied;
};

static void on_apply(void *arg, uint64_t index, const uint8_t *p, size_t n,
                     void *answer)
{
    struct world *f = arg;

    (void)answer;
    MUST(index > f->applied);
    f->applied = index;
    for (size_t i = 0; i < n; i++)
        f->applied += p[i] & 0; /* every byte is there */
}

static enum err on_snapshot(void *arg, uint8_t **p_out, size_t *n_out)
{
    struct world *f = arg;

    *p_out = calloc(1, 8);
    *n_out = 8;
    MUST(*p_out);
    memcpy(*p_out, &f->applied, 8);
    return OK;
}

static enum err on_restore(void *arg, uint64_t index, const uint8_t *p,
                           size_t n)
{
    struct world *f = arg;

    if (n && p[0] == 0xee)
        return ERR_CORRUPT;
    f->applied = index;
    return OK;
}

static void on_role(void *arg, enum coord_role role, uint64_t term)
{
    (void)arg;
    (void)role;
    (void)term;
}

/* What we say ourselves must be what we would read. */
static void on_send(void *arg, uint64_t to, const uint8_t *p, size_t n)
{
    Peer__Raft *m = peer_msg_unpack(PEER_RAFT, p, n);

    (void)arg;
    MUST(to && m && m->from == 101);
    peer_msg_free(m);
}

static void on_fatal(void *arg, const char *why)
{
    (void)why;
    ((struct world *)arg)->ended = true;
}

static void on_closed(void *arg)
{
    ((struct world *)arg)->c = NULL;
}

static bool boot(struct world *f)
{
    const struct coord_events ev = {on_apply, on_snapshot, on_restore, on_role,
                                    on_send,  on_fatal,    f};
    struct coord_cfg cfg = {
        .provider = "raft",
        .self = 101,
        .voters = f->voters,
        .voter_n = 3,
        .snapshot_after = 4,
        .snapshot_trailing = 2,
    };
    struct errmsg m;

    f->ended = false;
    f->applied = 0;
    cfg.io = raft_mem_boot(&f->w, 0);
    return coord_open(&cfg, &ev, &f->c, &m) == OK;
}

static void down(struct world *f)
{
    if (!f->c)
        return;
    raft_mem_stop(&f->w, 0);
    coord_close(f->c, on_closed, f);
}

static uint8_t u8_of(struct slice *s)
{
    uint8_t v = 0;

    slice_copy(s, &v, 1);
    return v;
}

static void say_message(struct world *f, struct slice *s, uint8_t kind)
{
    Peer__RaftEntry entries[ENTRIES_MAX], *list[ENTRIES_MAX];
    static uint8_t zeros[256];
    Peer__Raft m = PEER__RAFT__INIT;
    struct bytes b = {0};
    const void *p;
    uint8_t flags, n;

    m.kind = kind;
    m.from = 102 + (u8_of(s) & 1);
    m.term = u8_of(s);
    m.a = u8_of(s);
    m.b = u8_of(s);
    m.c = u8_of(s);
    flags = u8_of(s);
    m.flag = flags & 1;
    m.flag2 = flags >> 1 & 1;
    m.n_entries = (flags >> 2) % (ENTRIES_MAX + 1);
    m.entries = list;
    for (size_t i = 0; i < m.n_entries; i++) {
        peer__raft_entry__init(&entries[i]);
        entries[i].term = u8_of(s);
        entries[i].type = u8_of(s) % 5;
        entries[i].data.data = zeros;
        entries[i].data.len = u8_of(s);
        list[i] = &entries[i];
    }
    n = u8_of(s);
    p = slice_take(s, n);
    m.conf.data = m.snapshot.data = (uint8_t *)(uintptr_t)p;
    m.conf.len = m.snapshot.len = p ? n : 0;
    for (size_t i = 0; i < m.n_entries; i++)
        if (entries[i].type == 3)
            entries[i].data = m.conf;
    if (peer_msg_pack(PEER_RAFT, &m, &b) == OK)
        coord_receive(f->c, m.from, b.p, b.len);
    bytes_fini(&b);
    raft_mem_run(&f->w, 10u * u8_of(s));
}

static void record(struct world *f, struct slice *s)
{
    uint8_t kind = u8_of(s), n;
    const void *p;

    if (kind > 0 && kind <= 6) {
        say_message(f, s, kind);
        return;
    }
    n = u8_of(s);
    p = slice_take(s, n);
    if (p)
        coord_receive(f->c, 102, p, n);
}

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void ignore_done(void *arg, enum err e, void *answer)
{
    (void)arg;
    (void)e;
    (void)answer;
}

static void propose(struct world *f, const uint8_t *p, size_t n)
{
    enum err e = coord_propose(f->c, p, n, ignore_done, f, NULL);

    MUST(e == OK || e == ERR_BUSY || e == ERR_IO);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice s = slice_of(data, size);
    struct world *f = calloc(1, sizeof *f);

    MUST(f);
    log_sink_set(quiet, NULL);
    raft_mem_init(&f->w, 1, NULL, NULL);
    for (uint32_t i = 0; i < 3; i++)
        f->voters[i] =
            (struct coord_voter){.id = 101 + i, .name = {(char)('a' + i)}};
    MUST(boot(f));
    for (int i = 0; i < RECORDS_MAX && s.len && !s.bad && f->c; i++) {
        record(f, &s);
        if (coord_role(f->c) == COORD_LEADER)
            propose(f, data, min_u64(size, 40));
        if (!f->ended)
            continue;
        down(f);
        if (!boot(f))
            break;
    }
    down(f);
    raft_mem_fini(&f->w);
    free(f);
    return 0;
}
