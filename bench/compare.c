/* SPDX-License-Identifier: Apache-2.0
 *
 * pikv-bench compare: pikvd beside its rivals, everything in one run.
 *
 *   for each block size
 *     start all servers anew, fill each with one arena of blocks, check bytes
 *     for each question: rounds of (variant, variant, ...), one after another
 *     stop all servers
 *
 * One client spins; several clients sleep, because cores are few. PUT comes
 * last: it replaces the arena (rivals overwrite, pikvd stores new keys and
 * evicts). Servers live in a directory of ours, on loopback and unix sockets,
 * and die with us. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/compare.h"

/* ---- Results ---- */

static bool shape_same(const struct load_shape *a, const struct load_shape *b)
{
    return a->op == b->op && a->size == b->size && a->depth == b->depth &&
           a->batch == b->batch && a->touch == b->touch && a->miss == b->miss;
}

struct cell *results_find(struct results *r, const struct load_shape *s,
                          uint32_t clients, enum variant v)
{
    for (uint32_t i = 0; i < r->n; i++) {
        struct cell *c = &r->cells[i];

        if (c->variant == v && c->clients == clients &&
            shape_same(&c->shape, s))
            return c;
    }
    return NULL;
}

static int double_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n)
{
    if (n == 0)
        return 0;
    qsort(v, n, sizeof *v, double_order);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

double cell_median(const struct cell *c, enum metric m)
{
    double v[COMPARE_ROUNDS];

    if (!c)
        return 0;
    memcpy(v, c->value[m], sizeof v);
    return median(v, c->rounds);
}

double cell_ratio(const struct cell *a, const struct cell *b, enum metric m)
{
    double v[COMPARE_ROUNDS];
    uint32_t n = 0;

    for (uint32_t i = 0; a && b && i < a->rounds && i < b->rounds; i++)
        if (b->value[m][i] > 0)
            v[n++] = a->value[m][i] / b->value[m][i];
    return median(v, n);
}

/* ---- Set-up ---- */

static uint64_t memory_available(void)
{
    unsigned long long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "r");

    while (f && fgets(line, sizeof line, f) &&
           sscanf(line, "MemAvailable: %llu", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return kib << 10;
}

static void usage(void)
{
    puts("usage: pikv-bench compare --dir DIR [OPTIONS]\n"
         "  --dir DIR        sockets and logs of the servers; yours to remove\n"
         "  --pikvd PATH     the daemon (pikvd)\n"
         "  --quick          4 KiB, 64 KiB and 1 MiB only, short runs\n"
         "  --sizes LIST     other sizes: 64KiB,16MiB\n"
         "  --rounds N       of each question (5)\n"
         "  --without NAMES  variants to leave out: ucx\n"
         "  --markdown FILE  write the tables there; what stands between its\n"
         "                   by-hand markers is kept");
}

static void parse_sizes(struct compare *c, char *list)
{
    char *save = NULL;

    c->res.size_n = 0;
    for (char *s = strtok_r(list, ",", &save); s;
         s = strtok_r(NULL, ",", &save)) {
        if (c->res.size_n == COMPARE_SIZES)
            bench_die("compare: at most %d sizes", COMPARE_SIZES);
        c->res.sizes[c->res.size_n++] = bench_bytes("--sizes", s);
    }
}

static void parse(struct compare *c, int argc, char **argv)
{
    static const struct option longs[] = {
        {"dir", 1, 0, 'd'},      {"pikvd", 1, 0, 'p'},  {"quick", 0, 0, 'q'},
        {"sizes", 1, 0, 's'},    {"rounds", 1, 0, 'r'}, {"without", 1, 0, 'w'},
        {"markdown", 1, 0, 'm'}, {"help", 0, 0, 'h'},   {0, 0, 0, 0}};
    static char all[] = "4KiB,64KiB,256KiB,1MiB,4MiB,16MiB";
    static char few[] = "4KiB,64KiB,1MiB";
    char *sizes = NULL;
    int o;

    c->pikvd = "pikvd";
    c->res.rounds = 5;
    c->usable = COMPARE_ALL;
    while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (o) {
        case 'd':
            c->dir = optarg;
            break;
        case 'p':
            c->pikvd = optarg;
            break;
        case 'q':
            c->res.quick = true;
            break;
        case 's':
            sizes = optarg;
            break;
        case 'r':
            c->res.rounds = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'w':
            c->usable &= strstr(optarg, "ucx") ? ~(1u << V_UCX) : COMPARE_ALL;
            snprintf(c->res.absent, sizeof c->res.absent, "%s", optarg);
            break;
        case 'm':
            c->markdown = optarg;
            break;
        case 'h':
            usage();
            exit(0);
        default:
            usage();
            exit(2);
        }
    }
    parse_sizes(c, sizes ? sizes : c->res.quick ? few : all);
    c->res.seconds_each = c->res.quick ? 0.08 : 0.25;
    if (!c->dir || c->res.rounds < 1 || c->res.rounds > COMPARE_ROUNDS)
        bench_die("compare: --dir DIR is needed; --rounds is 1 to %d",
                  COMPARE_ROUNDS);
}

static char *read_hand_part(const char *path)
{
    static const char begin[] = "<!-- by hand: begin -->\n";
    static const char none[] = "<!-- by hand: begin -->\n<!-- by hand: end "
                               "-->\n";
    char *text = NULL, *part;
    FILE *f = fopen(path, "r");
    size_t cap = 0;

    if (f && getdelim(&text, &cap, '\0', f) < 0)
        *text = '\0';
    if (f)
        fclose(f);
    part = text ? strstr(text, begin) : NULL;
    part = strdup(part ? part : none);
    free(text);
    if (!part)
        bench_die("out of memory");
    return part;
}

static void write_report(struct compare *c)
{
    char *hand, tmp[512];
    FILE *f;

    compare_report(&c->res, stdout);
    if (!c->markdown)
        return;
    hand = read_hand_part(c->markdown);
    snprintf(tmp, sizeof tmp, "%s.new", c->markdown);
    f = fopen(tmp, "w");
    if (!f)
        bench_die("%s: %s", tmp, strerror(errno));
    compare_report(&c->res, f);
    fputs("\n## Why goals are missed\n\nKept by hand; the command leaves it "
          "alone.\n\n",
          f);
    fputs(hand, f);
    free(hand);
    if (fclose(f) || rename(tmp, c->markdown))
        bench_die("%s: %s", c->markdown, strerror(errno));
}

int bench_compare(int argc, char **argv)
{
    static struct compare c;
    uint64_t arena = UINT64_C(1) << 30;

    parse(&c, argc, argv);
    signal(SIGPIPE, SIG_IGN);
    c.res.own_network = rival_own_network();
    while (arena > 64 << 20 && memory_available() < 12 * arena)
        arena /= 2;
    c.res.arena = arena;
    c.arena = load_mem(arena);
    for (uint32_t i = 0; i < c.res.size_n; i++)
        compare_size(&c, c.res.sizes[i]);
    write_report(&c);
    return c.res.wrong != 0;
}
