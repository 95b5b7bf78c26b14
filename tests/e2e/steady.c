/* SPDX-License-Identifier: Apache-2.0
 *
 * A libpikv client that writes and reads without pause while something is
 * broken, and says what it felt.
 *
 *     e2e_steady ADDRESS [key=value ...]
 *       me=N       its number, from 0        all=N    clients in all
 *       ms=N       deadline of a call        size=N   bytes of a block
 *       pause=N    microseconds between calls of a thread
 *
 * A writer puts blocks 0, 1, 2, ... with two copies and a crc; a reader gets
 * those of all clients at random. A block's bytes follow from its key and no
 * other block has them: every byte read is checked, and the crc that the
 * server says.
 *
 *     stdin  --line--> the figures since the line before, as a line of JSON
 *     stdin  --end---> the same, and the end
 *
 *   {"put": FIGURES, "get": FIGURES, "slack_us": N}, where FIGURES are
 *   calls    ended            ok     stored or read whole
 *   miss     not there        wrong  other bytes than were written
 *   failed   any other answer, by name in "errors"
 *   lost_us  time spent in calls that failed: what its user felt
 *   longest_us, late_us  of the longest call; past the deadline, 0 never
 * slack_us is how late a thread that sleeps 5 ms was woken at worst: what the
 * machine adds to late_us.
 *
 * stdout says "up" after the first block stored and read. A client that cannot
 * open ends with status 2. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/pikv.h"

enum { KEY_BYTES = 32, CODES = 64, SLEEP_US = 5000, WINDOW = 2000 };

struct figures {
    uint64_t calls, ok, miss, wrong, failed, lost_us, longest_us;
    uint64_t codes[CODES];
};

struct side { /* the writer, or the reader */
    struct client *c;
    pthread_t thread;
    pthread_mutex_t lock;
    struct figures f;
    uint64_t draws;
    uint8_t *buf;
};

struct client {
    struct pikv *kv;
    uint32_t ns;
    const char *address;
    uint64_t me, all, ms, size, pause;
    struct side put, get;
    _Atomic uint64_t written;
    _Atomic uint64_t slack_us;
    _Atomic bool ending;
};

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void die(const char *what, int e)
{
    fprintf(stderr, "%s: %s: %s\n", what, pikv_error_name(e),
            pikv_last_error());
    exit(2);
}

static uint64_t draw(struct side *s)
{
    s->draws ^= s->draws << 13;
    s->draws ^= s->draws >> 7;
    s->draws ^= s->draws << 17;
    return s->draws;
}

/* ---- Blocks ---- */

static uint64_t word(uint64_t owner, uint64_t number, uint64_t i)
{
    return ((owner << 40) + number) * UINT64_C(0x9e3779b97f4a7c15) +
           i * UINT64_C(0x10001);
}

static void fill(uint8_t *p, uint64_t n, uint64_t owner, uint64_t number)
{
    for (uint64_t i = 0; i < n / 8; i++) {
        uint64_t v = word(owner, number, i);

        memcpy(p + i * 8, &v, 8);
    }
}

static bool same(const uint8_t *p, uint64_t n, uint64_t owner, uint64_t number)
{
    for (uint64_t i = 0; i < n / 8; i++) {
        uint64_t v = word(owner, number, i);

        if (memcmp(p + i * 8, &v, 8) != 0)
            return false;
    }
    return true;
}

static struct pikv_key key_of(char name[KEY_BYTES], uint64_t owner,
                              uint64_t number)
{
    int n = snprintf(name, KEY_BYTES, "s%" PRIu64 "-%" PRIu64, owner, number);

    return (struct pikv_key){.key = {name, (size_t)n}};
}

/* ---- Calls ---- */

static void count(struct side *s, int status, bool wrong, uint64_t took_us)
{
    struct figures *f = &s->f;

    pthread_mutex_lock(&s->lock);
    f->calls++;
    if (took_us > f->longest_us)
        f->longest_us = took_us;
    if (wrong) {
        f->wrong++;
    } else if (status == PIKV_OK || status == PIKV_EXISTS) {
        f->ok++;
    } else if (status == PIKV_MISS) {
        f->miss++;
    } else {
        f->failed++;
        f->lost_us += took_us;
        f->codes[-status < CODES ? -status : 0]++;
    }
    pthread_mutex_unlock(&s->lock);
}

static bool put_one(struct client *c)
{
    struct side *s = &c->put;
    uint64_t number = c->written, from;
    char name[KEY_BYTES];
    uint32_t crc;
    struct pikv_call call = {.deadline_us = (uint32_t)c->ms * 1000};
    struct pikv_result r = {.status = PIKV_OK};
    struct pikv_put item = {.key = key_of(name, c->me, number),
                            .data = {s->buf, c->size},
                            .crc32c = &crc,
                            .replicas = 2};
    int e;

    fill(s->buf, c->size, c->me, number);
    crc = pikv_crc32c(0, s->buf, c->size);
    from = now_us();
    e = pikv_put_sync(c->kv, c->ns, &item, 1, &call, &r);
    count(s, e ? e : r.status, false, now_us() - from);
    /* A block that failed may be stored all the same: it is read as well. */
    c->written = number + 1;
    return !e && r.status == PIKV_OK;
}

static bool get_one(struct client *c)
{
    struct side *s = &c->get;
    uint64_t last = c->written, owner = draw(s) % c->all, from, took;
    uint64_t number = last - 1 - draw(s) % (last < WINDOW ? last : WINDOW);
    char name[KEY_BYTES];
    struct pikv_call call = {.deadline_us = (uint32_t)c->ms * 1000};
    struct pikv_result r = {.status = PIKV_OK};
    struct pikv_get item = {.key = key_of(name, owner, number),
                            .data = {s->buf, c->size}};
    bool wrong = false;
    int e;

    memset(s->buf, 0xee, c->size);
    from = now_us();
    e = pikv_get_sync(c->kv, c->ns, &item, 1, &call, &r);
    took = now_us() - from;
    e = e ? e : r.status;
    if (e == PIKV_OK)
        wrong = r.moved != c->size || r.len != c->size ||
                !same(s->buf, c->size, owner, number) ||
                r.crc32c != pikv_crc32c(0, s->buf, c->size);
    count(s, e, wrong, took);
    return e == PIKV_OK;
}

static void *writer(void *arg)
{
    struct client *c = arg;

    while (!c->ending) {
        put_one(c);
        usleep((useconds_t)c->pause);
    }
    return NULL;
}

static void *reader(void *arg)
{
    struct client *c = arg;

    while (!c->ending) {
        get_one(c);
        usleep((useconds_t)c->pause);
    }
    return NULL;
}

static void *sleeper(void *arg)
{
    struct client *c = arg;

    while (!c->ending) {
        uint64_t from = now_us(), took;

        usleep(SLEEP_US);
        took = now_us() - from;
        if (took > SLEEP_US && took - SLEEP_US > c->slack_us)
            c->slack_us = took - SLEEP_US;
    }
    return NULL;
}

/* ---- Figures ---- */

static void tell_side(const char *name, struct side *s)
{
    uint64_t deadline_us = s->c->ms * 1000;
    const char *between = "";
    struct figures f;

    pthread_mutex_lock(&s->lock);
    f = s->f;
    memset(&s->f, 0, sizeof(s->f));
    pthread_mutex_unlock(&s->lock);
    printf("\"%s\": {\"calls\": %" PRIu64 ", \"ok\": %" PRIu64
           ", \"miss\": %" PRIu64 ", \"wrong\": %" PRIu64
           ", \"failed\": %" PRIu64 ", \"lost_us\": %" PRIu64
           ", \"longest_us\": %" PRIu64 ", \"late_us\": %" PRIu64
           ", \"errors\": {",
           name, f.calls, f.ok, f.miss, f.wrong, f.failed, f.lost_us,
           f.longest_us,
           f.longest_us > deadline_us ? f.longest_us - deadline_us : 0);
    for (int i = 0; i < CODES; i++)
        if (f.codes[i]) {
            printf("%s\"%s\": %" PRIu64, between,
                   i ? pikv_error_name(-i) : "other", f.codes[i]);
            between = ", ";
        }
    printf("}}");
}

static void tell(struct client *c)
{
    printf("{");
    tell_side("put", &c->put);
    printf(", ");
    tell_side("get", &c->get);
    printf(", \"slack_us\": %" PRIu64 "}\n", atomic_exchange(&c->slack_us, 0));
    fflush(stdout);
}

/* ---- Main ---- */

static void options(struct client *c, int argc, char **argv)
{
    const struct {
        const char *name;
        uint64_t *to;
    } all[] = {
        {"me=", &c->me},     {"all=", &c->all},     {"ms=", &c->ms},
        {"size=", &c->size}, {"pause=", &c->pause},
    };

    for (int i = 2; i < argc; i++)
        for (size_t j = 0; j < sizeof(all) / sizeof(all[0]); j++)
            if (strncmp(argv[i], all[j].name, strlen(all[j].name)) == 0)
                *all[j].to = strtoull(argv[i] + strlen(all[j].name), NULL, 10);
    if (!c->all || !c->ms || c->size < 8 || c->size % 8) {
        fprintf(stderr, "all and ms are not 0, size is a multiple of 8\n");
        exit(64);
    }
}

static void side_init(struct client *c, struct side *s, uint64_t seed)
{
    void *p;
    int e = pikv_mem_alloc(c->kv, c->size, &p);

    if (e)
        die("memory", e);
    *s = (struct side){.c = c, .buf = p, .draws = seed * 2 + 1};
    pthread_mutex_init(&s->lock, NULL);
}

static void set_up(struct client *c)
{
    struct pikv_options o = {.address = c->address, .engine = "steady",
                             .connect_ms = 20000};
    struct pikv_namespace d = {.name = "steady", .create = true};
    struct pikv_call call = {.deadline_us = 20000000};
    int e = pikv_open(&o, &c->kv);

    if (e)
        die("open", e);
    e = pikv_namespace_open(c->kv, &d, &c->ns, &call);
    if (e)
        die("namespace", e);
    side_init(c, &c->put, c->me + 1);
    side_init(c, &c->get, c->me + 1000);
}

static void start(pthread_t *t, void *(*run)(void *), void *arg)
{
    if (pthread_create(t, NULL, run, arg) == 0)
        return;
    fprintf(stderr, "no thread\n");
    exit(2);
}

int main(int argc, char **argv)
{
    struct client c = {.all = 1, .ms = 500, .size = 16384, .pause = 2000};
    char line[64];
    pthread_t sleeps;

    if (argc < 2)
        return 64;
    c.address = argv[1];
    options(&c, argc, argv);
    set_up(&c);
    while (!put_one(&c))
        usleep(1000);
    while (!get_one(&c))
        usleep(1000);
    puts("up");
    fflush(stdout);
    start(&sleeps, sleeper, &c);
    start(&c.put.thread, writer, &c);
    start(&c.get.thread, reader, &c);
    while (fgets(line, sizeof(line), stdin))
        tell(&c);
    c.ending = true;
    pthread_join(c.put.thread, NULL);
    pthread_join(c.get.thread, NULL);
    pthread_join(sleeps, NULL);
    tell(&c);
    pikv_close(c.kv);
    return 0;
}
