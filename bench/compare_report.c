/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of a comparison (compare.h), one for each row of the goals, then
 * everything that was measured. A ratio says how many times better pikvd is:
 * more bytes in the same time, or the same in less time. */
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "bench/compare.h"

struct report {
    struct results *r;
    FILE *out;
    uint32_t met, missed;
};

/* ---- Pieces ---- */

static const char *size_text(uint64_t bytes)
{
    static char text[4][24];
    static uint32_t at;
    char *t = text[at++ % 4];
    bool mib = bytes >= 1 << 20;

    snprintf(t, sizeof text[0], "%llu %s",
             (unsigned long long)(bytes >> (mib ? 20 : 10)),
             mib ? "MiB" : "KiB");
    return t;
}

static struct load_shape shape(enum load_op op, uint64_t size, uint32_t depth)
{
    return (struct load_shape){
        .op = op, .size = size, .depth = depth, .batch = 1};
}

static const char *op_text(enum load_op op)
{
    return op == LOAD_GET ? "GET" : op == LOAD_PUT ? "PUT" : "LOOKUP";
}

/* "1.23 (goal 0.9: met)"; low: the measured value must be at most the goal. */
static const char *against(struct report *p, double is, double goal, bool low)
{
    static char text[8][80];
    static uint32_t at;
    char *t = text[at++ % 8];
    double by = low ? is / goal - 1 : 1 - is / goal;
    bool met = is > 0 && by <= 0.0005;

    if (is <= 0) {
        snprintf(t, sizeof text[0], "-");
        return t;
    }
    p->met += met;
    p->missed += !met;
    if (met)
        snprintf(t, sizeof text[0], "%.2f (goal %.2f: met)", is, goal);
    else
        snprintf(t, sizeof text[0], "**%.2f** (goal %.2f: missed by %.0f %%)",
                 is, goal, by * 100);
    return t;
}

static struct cell *at(struct report *p, struct load_shape s, uint32_t clients,
                       enum variant v)
{
    return results_find(p->r, &s, clients, v);
}

static double gbps(struct report *p, struct load_shape s, uint32_t clients,
                   enum variant v)
{
    return cell_median(at(p, s, clients, v), M_GBPS);
}

/* How many times the throughput of b. */
static double faster(struct report *p, struct load_shape s, uint32_t clients,
                     enum variant a, enum variant b)
{
    return cell_ratio(at(p, s, clients, a), at(p, s, clients, b), M_GBPS);
}

/* How many times shorter than b's latency. */
static double sooner(struct report *p, struct load_shape s, enum variant a,
                     enum variant b)
{
    return cell_ratio(at(p, s, 1, b), at(p, s, 1, a), M_P50);
}

/* ---- The goals, row by row ---- */

static void goal_shm(struct report *p)
{
    fprintf(p->out,
            "\n## Shared memory against the copy loops, depth 16\n\n"
            "GB/s. copy+crc is the limit of a store that checks what it "
            "keeps; the bare\ncopies are printed too. Ratios: shm to copy+crc, "
            "shm to Redis on its unix socket.\n\n"
            "| op | size | shm | copy+crc | memcpy | NT copy | redis unix | to "
            "copy+crc | to redis |\n|---|---|---|---|---|---|---|---|---|\n");
    for (int op = LOAD_GET; op <= LOAD_PUT; op++)
        for (uint32_t i = 0; i < p->r->size_n; i++) {
            struct load_shape s = shape((enum load_op)op, p->r->sizes[i], 16);

            if (s.size < 65536)
                continue;
            fprintf(p->out,
                    "| %s | %s | %.2f | %.2f | %.2f | %.2f | %.2f | %s | %s "
                    "|\n",
                    op_text(s.op), size_text(s.size), gbps(p, s, 1, V_SHM),
                    gbps(p, s, 1, V_CRC), gbps(p, s, 1, V_MEMCPY),
                    gbps(p, s, 1, V_NT), gbps(p, s, 1, V_REDIS_UNIX),
                    against(p, faster(p, s, 1, V_SHM, V_CRC), 0.9, false),
                    against(p, faster(p, s, 1, V_SHM, V_REDIS_UNIX), 3, false));
        }
}

static void goal_loan(struct report *p)
{
    fprintf(p->out,
            "\n## Loan: GET and touch every line\n\n"
            "Time of a block. Depth 1: p50 of GET and reading it. Depth 16: "
            "1 / throughput.\n\n"
            "| depth | size | copied, us | loan, us | loan to copied |\n"
            "|---|---|---|---|---|\n");
    for (uint32_t depth = 1; depth <= 16; depth += 15)
        for (uint32_t i = 0; i < p->r->size_n; i++) {
            struct load_shape s = shape(LOAD_GET, p->r->sizes[i], depth);
            enum metric m = depth == 1 ? M_P50 : M_PER_S;
            struct cell *copy, *loan;
            double a, b;

            s.touch = true;
            copy = at(p, s, 1, V_SHM);
            loan = at(p, s, 1, V_LOAN);
            if (!copy || !loan)
                continue;
            a = cell_median(copy, m);
            b = cell_median(loan, m);
            fprintf(p->out, "| %u | %s | %.1f | %.1f | %s |\n", depth,
                    size_text(s.size), m == M_P50 ? a : 1e6 / a,
                    m == M_P50 ? b : 1e6 / b,
                    against(p,
                            m == M_P50 ? cell_ratio(loan, copy, m)
                                       : cell_ratio(copy, loan, m),
                            0.6, true));
        }
}

static void goal_ucx(struct report *p)
{
    struct load_shape s = shape(LOAD_GET, 1 << 20, 16);

    fprintf(p->out,
            "\n## UCX over tcp, GET of 1 MiB, depth 16\n\n"
            "| ucx/tcp, GB/s | plain tcp | redis tcp | to plain | to redis "
            "|\n|---|---|---|---|---|\n| %.2f | %.2f | %.2f | %s | %s |\n",
            gbps(p, s, 1, V_UCX), gbps(p, s, 1, V_PLAIN_TCP),
            gbps(p, s, 1, V_REDIS_TCP),
            against(p, faster(p, s, 1, V_UCX, V_PLAIN_TCP), 0.95, false),
            against(p, faster(p, s, 1, V_UCX, V_REDIS_TCP), 1.5, false));
}

static void goal_lookup(struct report *p)
{
    struct load_shape s = shape(LOAD_LOOKUP, 65536, 1);

    s.batch = COMPARE_LOOKUP;
    fprintf(p->out,
            "\n## LOOKUP of %u positions, spinning client\n\n"
            "| | p50, us | p99, us | goal |\n|---|---|---|---|\n",
            COMPARE_LOOKUP);
    for (int miss = 0; miss < 2; miss++)
        for (uint32_t v = V_SHM; v <= V_UCX; v += V_UCX - V_SHM) {
            struct cell *c;

            s.miss = miss;
            c = at(p, s, 1, (enum variant)v);
            if (c)
                fprintf(p->out, "| %s, %s | %.1f | %.1f | %s |\n",
                        miss ? "miss" : "hit", compare_names[v],
                        cell_median(c, M_P50), cell_median(c, M_P99),
                        v == V_SHM ? against(p, cell_median(c, M_P50), 12, true)
                                   : "none");
        }
}

static void goal_clients(struct report *p)
{
    fprintf(p->out,
            "\n## %u clients at once, depth %u each\n\n"
            "GB/s together; all sleep when idle. Redis and memcached: unix "
            "socket beside shm,\ntcp beside ucx.\n\n"
            "| op | size | transport | pikvd | redis | memcached | to redis | "
            "to memcached |\n|---|---|---|---|---|---|---|---|\n",
            COMPARE_CLIENTS, COMPARE_CLIENT_DEPTH);
    for (int op = LOAD_GET; op <= LOAD_PUT; op++)
        for (uint64_t size = 65536; size <= 1 << 20; size <<= 4)
            for (int tcp = 0; tcp < 2; tcp++) {
                struct load_shape s =
                    shape((enum load_op)op, size, COMPARE_CLIENT_DEPTH);
                enum variant us = tcp ? V_UCX : V_SHM,
                             redis = tcp ? V_REDIS_TCP : V_REDIS_UNIX,
                             mc = tcp ? V_MC_TCP : V_MC_UNIX;
                double goal = !tcp ? 2 : size == 65536 ? 0.8 : 1.1;
                uint32_t n = COMPARE_CLIENTS;
                bool both = !tcp || size > 65536;
                char plain[24];

                if (!at(p, s, n, us))
                    continue;
                snprintf(plain, sizeof plain, "%.2f", faster(p, s, n, us, mc));
                fprintf(
                    p->out, "| %s | %s | %s | %.2f | %.2f | %.2f | %s | %s |\n",
                    op_text(s.op), size_text(size), tcp ? "ucx/tcp" : "shm",
                    gbps(p, s, n, us), gbps(p, s, n, redis), gbps(p, s, n, mc),
                    against(p, faster(p, s, n, us, redis), goal, false),
                    both ? against(p, faster(p, s, n, us, mc), goal, false)
                         : plain);
            }
}

static double cpu_us(const struct cell *c)
{
    return c && c->items ? c->server_cpu_s / (double)c->items * 1e6 : 0;
}

static double cpu_gib(const struct cell *c)
{
    return c && c->bytes ? c->server_cpu_s / ((double)c->bytes / (1 << 30)) : 0;
}

static void goal_cpu(struct report *p)
{
    static const enum variant who[] = {V_SHM, V_REDIS_UNIX, V_MC_UNIX,
                                       V_UCX, V_REDIS_TCP,  V_MC_TCP};

    fprintf(p->out,
            "\n## Server CPU, depth 16\n\n"
            "us per operation (s per GiB). Goal: below Redis and memcached on "
            "the same kind of\nsocket at every size.\n\n"
            "| op | size | shm | redis unix | memcached unix | ucx/tcp | redis "
            "tcp | memcached tcp | shm | ucx |\n"
            "|---|---|---|---|---|---|---|---|---|---|\n");
    for (int op = LOAD_GET; op <= LOAD_PUT; op++)
        for (uint32_t i = 0; i < p->r->size_n; i++) {
            struct load_shape s = shape((enum load_op)op, p->r->sizes[i], 16);
            double us[6];

            fprintf(p->out, "| %s | %s |", op_text(s.op), size_text(s.size));
            for (int k = 0; k < 6; k++) {
                struct cell *c = at(p, s, 1, who[k]);

                us[k] = cpu_us(c);
                fprintf(p->out, " %.1f (%.3f) |", us[k], cpu_gib(c));
            }
            for (int k = 0; k < 6; k += 3) {
                double least = us[k + 1] < us[k + 2] ? us[k + 1] : us[k + 2];
                bool met = us[k] > 0 && us[k] < least;

                if (us[k] <= 0 || least <= 0) {
                    fprintf(p->out, " - |");
                    continue;
                }
                p->met += met;
                p->missed += !met;
                if (met)
                    fprintf(p->out, " met |");
                else
                    fprintf(p->out, " **missed by %.0f %%** |",
                            (us[k] / least - 1) * 100);
            }
            fprintf(p->out, "\n");
        }
}

static void goal_memory(struct report *p)
{
    fprintf(p->out,
            "\n## Daemon memory beyond the tiers\n\n"
            "Resident bytes without block memory and clients' memory, MiB. "
            "Goal: 48 + 80 bytes\nand the key for each block, and 64 MiB.\n\n"
            "| size | blocks | resident | ratio to the goal |\n"
            "|---|---|---|---|\n");
    for (uint32_t i = 0; i < p->r->memory_n; i++) {
        const struct memory *m = &p->r->memory[i];
        double goal = (double)(m->blocks * (48 + 80 + LOAD_KEY)) + (64 << 20);

        fprintf(p->out, "| %s | %llu | %.1f | %s |\n", size_text(m->size),
                (unsigned long long)m->blocks, (double)m->beyond / (1 << 20),
                against(p, (double)m->beyond / goal, 1, true));
    }
}

/* ---- The floor: what the prototypes reached ---- */

struct floor_row {
    const char *what;
    enum load_op op;
    enum variant a, b;
    double latency[5], throughput[5]; /* 4K 64K 256K 1M 4M; 0 none */
};

static const uint64_t floor_sizes[5] = {4096, 65536, 262144, 1 << 20, 4 << 20};
static const struct floor_row floors[] = {
    {"ucx GET to plain tcp",
     LOAD_GET,
     V_UCX,
     V_PLAIN_TCP,
     {0.75, 0.75, 0.8, 0.95, 0.85},
     {0.75, 0.75, 0.8, 0.95, 0.85}},
    {"ucx GET to redis tcp",
     LOAD_GET,
     V_UCX,
     V_REDIS_TCP,
     {2, 1.5, 1.5, 1.7, 1.6},
     {0.8, 1.2, 1.3, 1.5, 2}},
    {"ucx GET to memcached tcp",
     LOAD_GET,
     V_UCX,
     V_MC_TCP,
     {2, 1.2, 1.2, 1.2, 1.2},
     {1.2, 1.0, 0.9, 1.1, 1.0}},
    {"ucx PUT to redis tcp",
     LOAD_PUT,
     V_UCX,
     V_REDIS_TCP,
     {2, 1.4, 1.2, 1.1, 1.0},
     {1.0, 1.5, 1.7, 1.6, 1.2}},
    {"shm GET to memcpy",
     LOAD_GET,
     V_SHM,
     V_MEMCPY,
     {0},
     {0, 0.8, 0.85, 0.9, 0.9}},
    {"shm GET to redis unix",
     LOAD_GET,
     V_SHM,
     V_REDIS_UNIX,
     {7, 4, 2.5, 2.5, 2.2},
     {4, 3, 2.5, 2.5, 4}},
};

static void floor_line(struct report *p, const struct floor_row *f,
                       bool latency)
{
    const double *goals = latency ? f->latency : f->throughput;

    if (!goals[1])
        return;
    fprintf(p->out, "| %s, %s |", f->what,
            latency ? "p50 depth 1" : "GB/s depth 16");
    for (int i = 0; i < 5; i++) {
        struct load_shape s = shape(f->op, floor_sizes[i], latency ? 1 : 16);
        double is =
            latency ? sooner(p, s, f->a, f->b) : faster(p, s, 1, f->a, f->b);

        if (goals[i] > 0)
            fprintf(p->out, " %s |", against(p, is, goals[i], false));
        else if (is > 0)
            fprintf(p->out, " %.2f |", is);
        else
            fprintf(p->out, " - |");
    }
    fprintf(p->out, "\n");
}

static void goal_floor(struct report *p)
{
    fprintf(p->out, "\n## The floor\n\nTimes better than the rival.\n\n"
                    "| | 4 KiB | 64 KiB | 256 KiB | 1 MiB | 4 MiB |\n"
                    "|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < sizeof floors / sizeof *floors; i++) {
        floor_line(p, &floors[i], true);
        floor_line(p, &floors[i], false);
    }
}

/* ---- Everything ---- */

static void all_cells(struct report *p)
{
    fprintf(p->out,
            "\n## All measurements\n\n"
            "Medians of the rounds. CPU: us per block, server and client "
            "(copy loops: all of it\nis the client's).\n\n"
            "| op | size | depth | batch | clients | variant | p50 us | p99 us "
            "| GB/s | blocks/s | server us | client us |\n"
            "|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (uint32_t i = 0; i < p->r->n; i++) {
        const struct cell *c = &p->r->cells[i];
        const struct load_shape *s = &c->shape;

        fprintf(p->out,
                "| %s%s%s | %s | %u | %u | %u | %s | %.1f | %.1f | %.2f | %.0f "
                "| %.2f | %.2f |\n",
                op_text(s->op), s->touch ? ", touch" : "",
                s->miss ? ", miss" : "", size_text(s->size), s->depth, s->batch,
                c->clients, compare_names[c->variant], cell_median(c, M_P50),
                cell_median(c, M_P99), cell_median(c, M_GBPS),
                cell_median(c, M_PER_S), cpu_us(c),
                c->items ? c->client_cpu_s / (double)c->items * 1e6 : 0);
    }
}

static int double_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void noise(struct report *p)
{
    struct results *r = p->r;
    uint32_t n = r->others_n < COMPARE_CELLS ? r->others_n : COMPARE_CELLS;
    double *v = calloc(n + 1, sizeof *v);

    if (!v)
        bench_die("out of memory");
    memcpy(v, r->others, n * sizeof *v);
    qsort(v, n, sizeof *v, double_order);
    fprintf(p->out,
            "- CPU that others took during a run: median %.2f, nine in ten "
            "below %.2f, worst %.2f cores; stolen by the hypervisor %.1f %% of "
            "a core\n",
            v[n / 2], v[n * 9 / 10], r->others_worst,
            r->wall_s > 0 ? 100 * r->steal_s / r->wall_s : 0);
    free(v);
}

static void cpu_model(FILE *out)
{
    char line[256], *at;
    FILE *f = fopen("/proc/cpuinfo", "r");

    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0 && (at = strchr(line, ':'))) {
            fprintf(out, "%.*s", (int)strcspn(at + 2, "\n"), at + 2);
            break;
        }
    if (f)
        fclose(f);
}

static const char *congestion(char *word, size_t n)
{
    FILE *f = fopen(RIVAL_CONGESTION, "r");

    if (!f || !fgets(word, (int)n, f))
        snprintf(word, n, "unknown");
    word[strcspn(word, "\n")] = '\0';
    if (f)
        fclose(f);
    return word;
}

static void head(struct report *p)
{
    struct results *r = p->r;
    struct utsname u;
    char date[40] = "", word[32];
    struct timespec now;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &tm))
        strftime(date, sizeof date, "%Y-%m-%d", &tm);
    uname(&u);
    fprintf(p->out,
            "# Benchmarks\n\nWritten by `%s`; do not edit, except the last "
            "section.\n\n- %s, Linux %s, ",
            r->quick ? "BENCH=quick make bench" : "make bench", date,
            u.release);
    cpu_model(p->out);
    fprintf(p->out,
            ", %ld CPUs, %ld GiB\n"
            "- arena of %llu MiB, read at random; %u interleaved rounds of "
            "%.2f s for each question; medians; ratios are medians of the "
            "ratios round by round\n"
            "- tcp is 127.0.0.1 in %s, congestion control %s; one client "
            "spins on CPU 0 with the servers on the others, several sleep and "
            "share all\n",
            sysconf(_SC_NPROCESSORS_ONLN),
            (sysconf(_SC_PHYS_PAGES) >> 10) * sysconf(_SC_PAGESIZE) >> 20,
            (unsigned long long)r->arena >> 20, r->rounds, r->seconds_each,
            r->own_network ? "a network namespace of its own"
                           : "the host's network",
            congestion(word, sizeof word));
    noise(p);
    fprintf(p->out, "- wrong bytes: %llu; not served: %llu\n",
            (unsigned long long)r->wrong, (unsigned long long)r->failed);
    if (r->absent[0])
        fprintf(p->out, "- left out: %s\n", r->absent);
}

void compare_report(struct results *r, FILE *out)
{
    char *body = NULL;
    size_t len;
    struct report p = {.r = r, .out = open_memstream(&body, &len)};

    if (!p.out)
        bench_die("out of memory");
    goal_shm(&p);
    goal_loan(&p);
    goal_ucx(&p);
    goal_lookup(&p);
    goal_clients(&p);
    goal_cpu(&p);
    goal_memory(&p);
    goal_floor(&p);
    all_cells(&p);
    if (fclose(p.out))
        bench_die("out of memory");
    p.out = out;
    head(&p);
    fprintf(out, "\n**Goals met: %u of %u measured.**\n", p.met,
            p.met + p.missed);
    fputs(body, out);
    free(body);
}
