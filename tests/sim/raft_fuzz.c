/* SPDX-License-Identifier: Apache-2.0
 *
 * Voters under adversarial schedules: is libraft behind raft_guard a safe Raft,
 * and does it need the guard?
 *
 *     sim_raft_fuzz [SEED=n] [SEEDS=n] [STEPS=n] [GUARD=0|1] [FORK=0]
 *
 * Without arguments: guarded seeds, which must all be well, and then a list of
 * seeds without the guard, of which one at least must diverge: else the
 * schedule sees nothing. Each seed runs in a process of its own, so that an
 * abort within libraft is one failed seed.
 *
 * A seed decides once: snapshot threshold, latencies, whether nodes crash,
 * disks fail, voters change, links are cut in one direction, messages are lost.
 * Then steps, each a shape of the network for some time and perhaps a proposal.
 * A shape is often ended at the instant in which a leader's commit moves, and
 * one in four is Raft's figure 8 played out on purpose (fig_8): what is
 * committed too early is overwritten only by such schedules.
 *
 * Without the guard no disk fails: libraft aborts then, which is not what is
 * asked. The last line is "N passed, N failed". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "lib/coord_rig.h"

enum { VOTERS = 5, STEPS = 200, DIED = 64, IDLE = 128 };

/* Diverge without the guard; more of them: GUARD=0 SEEDS=1000. */
static const uint64_t known[] = {158, 164, 196, 198, 200, 202, 211, 224};

struct fuzz {
    struct rig r;
    uint64_t seed;
    bool guard, crashes, faults, changes, one_way, loses;
};

struct outcome {
    uint64_t hash, acked, applied, guarded, ms, restores, changes;
    unsigned found;
};

static uint32_t chance(struct fuzz *f, uint32_t n)
{
    return raft_mem_chance(&f->r.w, n);
}

/* ---- Shapes -------------------------------------------------------------- */

static void shape_groups(struct fuzz *f)
{
    uint32_t k = chance(f, 10), masks[3] = {0};

    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++)
        masks[k < 2 ? 0 : chance(f, k > 7 ? 3 : 2)] |= 1u << i;
    crig_groups(&f->r, masks, 3);
    if (f->one_way && chance(f, 3) == 0)
        f->r.w.node[chance(f, VOTERS)].cut[chance(f, VOTERS)] = true;
}

/* Until the time is over or, mostly, a leader commits. */
static void play(struct fuzz *f, uint64_t ms, bool till_commit)
{
    uint64_t end = f->r.w.now_ms + ms, was[RAFT_MEM_NODES];

    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++)
        was[i] = crig_commit(&f->r, i);
    while (crig_step(&f->r, end)) {
        int l = till_commit ? crig_leader(&f->r) : -1;

        if (l >= 0 && crig_commit(&f->r, (uint32_t)l) > was[l])
            return;
    }
}

static void impatient(struct fuzz *f, uint32_t mask, uint32_t one)
{
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++)
        f->r.w.node[i].timeout_ms = i == one        ? 1000
                                    : mask >> i & 1 ? 1600 + 50 * i
                                                    : 0;
}

/* Only the nodes of mask hear each other; one of them is elected first. */
static int elect_within(struct fuzz *f, uint32_t mask, uint32_t one,
                        uint64_t ms)
{
    uint64_t end = f->r.w.now_ms + ms;

    crig_groups(&f->r, &mask, 1);
    impatient(f, mask, one);
    while (crig_step(&f->r, end)) {
        int l = crig_leader(&f->r);

        if (l == (int)one)
            return l;
    }
    return -1;
}

static void pick(struct fuzz *f, uint32_t at[VOTERS])
{
    for (uint32_t i = 0; i < VOTERS; i++)
        at[i] = i;
    for (uint32_t i = VOTERS - 1; i; i--) {
        uint32_t j = chance(f, i + 1), t = at[i];

        at[i] = at[j];
        at[j] = t;
    }
}

/* a writes what only b gets; e, elected by the other side, writes against it;
 * a comes back with b and c in a newer term and its old entry reaches most;
 * the instant it counts it as committed e comes back with the rest. */
static void fig_8(struct fuzz *f)
{
    uint32_t v[VOTERS], none = 0;

    pick(f, v);
    if (elect_within(f, 0xff, v[0], 6000) < 0)
        return;
    play(f, 200 + chance(f, 300), false);
    crig_groups(&f->r, (uint32_t[]){1u << v[0] | 1u << v[1]}, 1);
    crig_propose(&f->r, v[0]);
    play(f, 20 + chance(f, 150), false);
    crig_groups(&f->r, &none, 1);
    if (elect_within(f, 1u << v[2] | 1u << v[3] | 1u << v[4], v[4], 5000) < 0)
        return;
    crig_groups(&f->r, &none, 1);
    crig_propose(&f->r, v[4]);
    play(f, 100 + chance(f, 100), false);
    if (f->crashes && chance(f, 2))
        crig_crash(&f->r, v[4]);
    if (elect_within(f, 1u << v[0] | 1u << v[1] | 1u << v[2], v[0], 8000) < 0)
        return;
    play(f, 1500, true);
    crig_groups(&f->r, &none, 1);
    if (f->crashes && chance(f, 2))
        crig_crash(&f->r, v[0]);
    if (!f->r.node[v[4]].c)
        crig_boot(&f->r, v[4]);
    elect_within(f, 0xffu & ~(1u << v[0]), v[4], 8000);
    play(f, 500 + chance(f, 1500), false);
}

/* ---- Faults -------------------------------------------------------------- */

static void faults(struct fuzz *f)
{
    struct rig *r = &f->r;
    uint32_t i = chance(f, VOTERS);

    if (f->crashes && chance(f, 4) == 0) {
        if (r->node[i].c)
            crig_crash(r, i);
        else
            crig_boot(r, i);
    }
    i = chance(f, VOTERS);
    if (f->faults && chance(f, 6) == 0 && r->node[i].c) {
        r->node[i].faulty = true;
        r->w.node[i].fail_in = (int32_t)chance(f, 6);
    }
    for (i = 0; i < VOTERS; i++)
        if (!r->node[i].c && chance(f, 4) == 0)
            crig_boot(r, i);
}

static void change_voters(struct fuzz *f, struct outcome *o)
{
    int l = crig_leader(&f->r);
    uint32_t i = chance(f, VOTERS + 2);

    if (!f->changes || l < 0 || chance(f, 3))
        return;
    if (i >= VOTERS && !f->r.node[i].c)
        crig_boot(&f->r, i);
    o->changes += chance(f, 2) ? crig_add(&f->r, (uint32_t)l, i)
                               : crig_remove(&f->r, (uint32_t)l, i);
}

static void propose_some(struct fuzz *f)
{
    for (uint32_t i = 0; i < VOTERS; i++) {
        if (f->r.node[i].role != COORD_LEADER)
            continue;
        for (uint32_t n = 1 + chance(f, 3); n; n--)
            crig_propose(&f->r, i);
        play(f, chance(f, 70), false);
    }
}

/* ---- A seed -------------------------------------------------------------- */

static struct coord_cfg fuzz_cfg(uint64_t seed, bool guard)
{
    static const uint32_t after[] = {8, 20, 1024}, trailing[] = {1, 4, 8};

    return (struct coord_cfg){
        .provider = "raft",
        .snapshot_after = after[seed % 3],
        .snapshot_trailing = trailing[seed / 3 % 3],
        .unguarded = !guard,
    };
}

static void fuzz_init(struct fuzz *f, uint64_t seed, bool guard)
{
    struct coord_cfg cfg = fuzz_cfg(seed, guard);

    *f = (struct fuzz){.seed = seed, .guard = guard};
    crig_init(&f->r, seed, VOTERS, &cfg);
    f->crashes = seed % 2;
    f->faults = guard && seed / 2 % 3 == 0;
    f->changes = seed / 4 % 3 == 0;
    f->one_way = seed / 8 % 2;
    f->loses = seed / 16 % 3 == 0;
    f->r.snapshot_bytes = chance(f, 3000);
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++) {
        f->r.w.node[i].disk_ms = 1 + chance(f, 60);
        f->r.w.node[i].net_ms = 1 + chance(f, 60);
        f->r.w.node[i].loss_pct = f->loses ? chance(f, 10) : 0;
    }
    crig_boot_all(&f->r);
}

static void fuzz_step(struct fuzz *f, struct outcome *o)
{
    if (chance(f, 8) == 0) {
        fig_8(f);
    } else {
        shape_groups(f);
        impatient(f, 0, UINT32_MAX);
        play(f, chance(f, 3) ? 200 + chance(f, 2500) : 5 + chance(f, 120),
             chance(f, 2));
    }
    if (chance(f, 3) == 0)
        propose_some(f);
    faults(f);
    change_voters(f, o);
}

static struct outcome fuzz_seed(uint64_t seed, uint64_t steps, bool guard)
{
    struct fuzz *f = calloc(1, sizeof *f);
    struct outcome o = {0};

    MUST(f);
    fuzz_init(f, seed, guard);
    for (uint64_t i = 0; i < steps && !f->r.found; i++)
        fuzz_step(f, &o);
    if (!f->r.found)
        crig_settle(&f->r, 40000);
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++) {
        struct coord_status s = {0};

        if (f->r.node[i].c)
            coord_status(f->r.node[i].c, &s);
        o.guarded += s.guarded;
        o.restores += f->r.node[i].restored;
    }
    o.found = f->r.found | (f->r.acked ? 0 : IDLE);
    o.acked = f->r.acked;
    o.applied = f->r.values;
    o.ms = f->r.w.now_ms;
    o.hash = f->r.w.trace;
    crig_fini(&f->r);
    free(f);
    return o;
}

static struct outcome in_child(uint64_t seed, uint64_t steps, bool guard)
{
    struct outcome o = {.found = DIED};
    int fds[2], status;
    pid_t pid;

    fflush(stdout);
    MUST(pipe(fds) == 0);
    pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        alarm(120);
        if (!guard)
            MUST(freopen("/dev/null", "w", stderr));
        o = fuzz_seed(seed, steps, guard);
        _exit(write(fds[1], &o, sizeof o) != sizeof o);
    }
    close(fds[1]);
    if (read(fds[0], &o, sizeof o) != sizeof o)
        o = (struct outcome){.found = DIED};
    close(fds[0]);
    MUST(waitpid(pid, &status, 0) == pid);
    return o;
}

/* ---- Many ---------------------------------------------------------------- */

struct tally {
    uint64_t seeds, well, diverged, died, other;
    struct outcome sum;
};

static void tally_add(struct tally *t, uint64_t seed, const struct outcome *o,
                      bool guard)
{
    char buf[128];

    t->seeds++;
    t->well += !o->found;
    t->diverged += (o->found & RIG_DIVERGED) != 0;
    t->died += (o->found & DIED) != 0;
    t->other += o->found && !(o->found & (RIG_DIVERGED | DIED));
    t->sum.acked += o->acked;
    t->sum.applied += o->applied;
    t->sum.guarded += o->guarded;
    t->sum.restores += o->restores;
    t->sum.changes += o->changes;
    t->sum.ms += o->ms;
    t->sum.hash = hash_64(t->sum.hash, &o->hash, sizeof o->hash);
    if (o->found)
        printf("seed %llu%s: %s%s%s\n", (unsigned long long)seed,
               guard ? "" : " without the guard",
               crig_found(o->found, buf, sizeof buf),
               o->found & DIED ? "died" : "",
               o->found & IDLE ? "nothing acknowledged" : "");
}

static struct tally campaign(const uint64_t *list, uint64_t seed, uint64_t n,
                             uint64_t steps, bool guard, bool forks)
{
    struct tally t = {0};

    for (uint64_t i = 0; i < n; i++) {
        uint64_t s = list ? list[i] : seed + i;
        struct outcome o =
            forks ? in_child(s, steps, guard) : fuzz_seed(s, steps, guard);

        tally_add(&t, s, &o, guard);
    }
    printf("%s: %llu seeds, %llu well, %llu diverged, %llu died, %llu other; "
           "%llu proposals, %llu acknowledged, %llu snapshots restored, %llu "
           "changes of voters, %llu messages guarded, %llu s simulated",
           guard ? "guarded" : "unguarded", (unsigned long long)t.seeds,
           (unsigned long long)t.well, (unsigned long long)t.diverged,
           (unsigned long long)t.died, (unsigned long long)t.other,
           (unsigned long long)t.sum.applied, (unsigned long long)t.sum.acked,
           (unsigned long long)t.sum.restores,
           (unsigned long long)t.sum.changes, (unsigned long long)t.sum.guarded,
           (unsigned long long)t.sum.ms / 1000);
    printf(guard ? ", hash %016llx\n" : "\n", (unsigned long long)t.sum.hash);
    return t;
}

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, seeds = 250, steps = STEPS, guard = 1, forks = 1;
    struct tally t, u = {0};
    bool all = argc == 1;

    for (int i = 1; i < argc; i++) {
        char *end = strchr(argv[i], '=');
        uint64_t v = end ? strtoull(end + 1, NULL, 0) : 0;

        if (strncmp(argv[i], "SEED=", 5) == 0)
            seed = v;
        else if (strncmp(argv[i], "SEEDS=", 6) == 0)
            seeds = v;
        else if (strncmp(argv[i], "STEPS=", 6) == 0)
            steps = v;
        else if (strncmp(argv[i], "GUARD=", 6) == 0)
            guard = v;
        else if (strncmp(argv[i], "FORK=", 5) == 0)
            forks = v;
        else
            return fprintf(stderr, "usage: sim_raft_fuzz [SEED=n] [SEEDS=n] "
                                   "[STEPS=n] [GUARD=0|1] [FORK=0]\n"),
                   2;
    }
    log_sink_set(quiet, NULL);
    t = campaign(NULL, seed, seeds, steps, guard, forks);
    if (all)
        u = campaign(known, 0, countof(known), steps, false, true);
    printf("%llu passed, %llu failed\n",
           (unsigned long long)(t.well + (all && u.diverged)),
           (unsigned long long)(t.seeds - t.well + (all && !u.diverged)));
    return t.well != t.seeds || (all && !u.diverged);
}
