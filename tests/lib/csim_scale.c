/* SPDX-License-Identifier: Apache-2.0
 *
 * The large simulated cluster (csim_scale.h). */
#include "lib/csim_scale.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/csim.h"

enum {
    EPOCHS = 4096,  /* followed at a time */
    LEADER_MS = 20000,
    NODE_MS = 2000, /* a node goes or comes */
    STEP_MS = 10,
    FORM_MS = 60000,
};

struct follow { /* one epoch */
    uint64_t epoch, first_us, p99_us;
    uint32_t have;
};

struct times {
    uint64_t *ms;
    uint32_t n, cap;
};

struct scale {
    struct follow at[EPOCHS];
    struct times spread, died, silent;
    uint64_t lost_us; /* the leader was lost then; 0: there is one */
    bool was_silent;
    uint32_t down; /* node + 1 */
    uint64_t lead_us, leader_ns, all_ns;
};

static void times_add(struct times *t, uint64_t ms)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 256;
        t->ms = realloc(t->ms, t->cap * sizeof(*t->ms));
        MUST(t->ms);
    }
    t->ms[t->n++] = ms;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static uint64_t times_at(struct times *t, uint32_t per_mille)
{
    if (!t->n)
        return 0;
    qsort(t->ms, t->n, sizeof(*t->ms), by_size);
    return t->ms[(uint64_t)(t->n - 1) * per_mille / 1000];
}

/* A node has a view: it has all that was new in the epochs before as well. */
static void published(struct csim *s, struct csim_node *n)
{
    struct scale *c = s->arg;
    uint64_t epoch = n->view->v.epoch;
    struct follow *f = &c->at[epoch % EPOCHS];

    if (f->epoch != epoch)
        *f = (struct follow){.epoch = epoch, .first_us = s->now_us};
}

/* Which epochs does 99 % of the nodes have by now? The first epoch at which a
 * change was seen anywhere counts from there. */
static void follow_all(struct csim *s)
{
    static uint64_t have[8192];
    struct scale *c = s->arg;
    uint32_t n = 0;
    uint64_t low;

    for (uint32_t i = 0; i < s->node_n; i++)
        if (s->nodes[i].up && s->nodes[i].view &&
            s->now_us - s->nodes[i].published_us > 0)
            have[n++] = s->nodes[i].view->v.epoch;
    if (!n)
        return;
    qsort(have, n, sizeof(*have), by_size);
    low = have[n / 100];
    for (uint32_t i = 0; i < EPOCHS; i++) {
        struct follow *f = &c->at[i];

        if (!f->epoch || f->p99_us || f->epoch > low)
            continue;
        f->p99_us = s->now_us;
        times_add(&c->spread, (f->p99_us - f->first_us) / 1000);
    }
}

static void lose_leader(struct csim *s, bool silent)
{
    struct scale *c = s->arg;
    struct csim_node *n = csim_leader(s);

    if (!n || c->lost_us)
        return;
    c->lost_us = s->now_us;
    c->was_silent = silent;
    if (s->cfg.verbose)
        printf("%9.3f n%u is lost\n", (double)s->now_us / 1e6, n->at);
    csim_crash(s, n, !silent);
    csim_at(s, s->now_us + 8000000,
            (struct csim_event){.kind = CSIM_BOOT, .node = n->at});
}

static void find_leader(struct csim *s)
{
    struct scale *c = s->arg;

    if (!c->lost_us || !csim_leader(s))
        return;
    times_add(c->was_silent ? &c->silent : &c->died,
              (s->now_us - c->lost_us) / 1000);
    c->lost_us = 0;
}

static void change_node(struct csim *s)
{
    struct scale *c = s->arg;
    uint32_t k;

    if (c->down) {
        csim_boot(s, &s->nodes[c->down - 1]);
        c->down = 0;
        return;
    }
    k = s->cfg.voters + csim_chance(s, s->cfg.nodes);
    if (!s->nodes[k].up)
        return;
    csim_crash(s, &s->nodes[k], true);
    c->down = k + 1;
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void play(struct csim *s, uint64_t end_ms)
{
    uint64_t begin = s->now_us / 1000;
    bool silent = false;

    for (uint64_t t = begin; t < end_ms; t += STEP_MS) {
        csim_run(s, t + STEP_MS);
        find_leader(s);
        if (t % 50 == 0)
            follow_all(s);
        if (t % LEADER_MS == 0 && t > begin + LEADER_MS) {
            lose_leader(s, silent);
            silent = !silent;
        } else if (t % NODE_MS == 0 && t > begin + NODE_MS) {
            change_node(s);
        }
    }
}

static int report(struct csim *s, uint64_t formed_ms, double cpu_s,
                  uint64_t end_ms)
{
    struct scale *c = s->arg;
    const struct csim_stats *t = &s->stats;
    double sec = (double)(end_ms - formed_ms) / 1000;
    uint64_t p99 = times_at(&c->spread, 990);
    uint64_t died = times_at(&c->died, 990);
    uint64_t silent = times_at(&c->silent, 990);
    const char *why = csim_wrong(s);
    bool ok = !why && p99 <= 2000 && died <= 2500 && silent <= 5000 &&
              c->spread.n && c->died.n && c->silent.n;

    printf("%u nodes: formed after %.1f s; then %.0f s with %u changes\n",
           s->node_n, (double)formed_ms / 1000, sec, c->spread.n);
    printf("a change reaches 99 %% of the nodes: p50 %llu ms, p99 %llu ms, "
           "max %llu ms\n", (unsigned long long)times_at(&c->spread, 500),
           (unsigned long long)p99,
           (unsigned long long)times_at(&c->spread, 1000));
    printf("a new leader after its process died: p50 %llu ms, p99 %llu ms "
           "(%u); after silence: p50 %llu ms, p99 %llu ms (%u)\n",
           (unsigned long long)times_at(&c->died, 500),
           (unsigned long long)died, c->died.n,
           (unsigned long long)times_at(&c->silent, 500),
           (unsigned long long)silent, c->silent.n);
    printf("messages: %.0f a second in all, the leader %.0f in and out, %.0f "
           "KiB a second\n", (double)t->messages / sec,
           (double)t->leader_messages / sec,
           (double)t->leader_bytes / sec / 1024);
    printf("simulated in %.1f s of one core; the leader's steps took %.2f %% "
           "of a core in its own time, hash %016llx\n", cpu_s,
           100 * (double)s->leader_ns / 1e9 / sec,
           (unsigned long long)s->hash);
    if (why)
        printf("%s\n", why);
    printf("%d passed, %d failed\n", ok, !ok);
    return !ok;
}

int csim_scale(uint64_t seed, uint32_t voters, uint32_t nodes,
               uint64_t minutes, bool verbose)
{
    static struct csim s;
    static struct scale c;
    struct csim_cfg cfg = {
        .seed = seed,
        .voters = voters,
        .nodes = nodes - voters,
        .latency_us = 500,
        .start_ms = 1000,
        .move_slots = 2048,
        .check = 1 << 20,
        .verbose = verbose,
    };
    uint64_t end_ms, formed_ms = 0;
    double begin = now_s();
    int rc;

    csim_init(&s, &cfg);
    s.arg = &c;
    s.timed = true;
    while (formed_ms < FORM_MS && (!formed_ms || csim_unsettled(&s))) {
        formed_ms += 1000;
        csim_run(&s, formed_ms);
        csim_mark(&s);
    }
    printf("formed: %s, %.1f s\n", csim_unsettled(&s), now_s() - begin);
    s.stats = (struct csim_stats){0};
    s.leader_ns = 0;
    s.on_publish = published;
    end_ms = formed_ms + minutes * 60000;
    play(&s, end_ms);
    if (c.down)
        change_node(&s);
    for (uint32_t i = 0; i < 12; i++)
        csim_run(&s, end_ms += 1000);
    rc = report(&s, formed_ms, now_s() - begin, end_ms);
    csim_fini(&s);
    free(c.spread.ms);
    free(c.died.ms);
    free(c.silent.ms);
    return rc;
}
