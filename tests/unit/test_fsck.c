/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto
 *
 * pikv-fsck as a person runs it: a program over an image in a file. The image
 * is what a log in memory wrote. */
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/logrig.h"

static char dir[PATH_MAX], image[PATH_MAX + 8], fsck[PATH_MAX];
static char output[1 << 20];

/* The program lies beside the folder of the unit tests. */
static void find_program(void)
{
    ssize_t n = readlink("/proc/self/exe", fsck, sizeof(fsck) - 20);
    char *slash;

    ck_assert_int_gt(n, 0);
    fsck[n] = 0;
    for (int i = 0; i < 2 && (slash = strrchr(fsck, '/')); i++)
        *slash = 0;
    strcpy(fsck + strlen(fsck), "/pikv-fsck");
    ck_assert_msg(access(fsck, X_OK) == 0, "no %s", fsck);
}

static void save(uint64_t bytes)
{
    FILE *f = fopen(image, "wb");

    ck_assert(f && fwrite(rig_scratch->image[0], 1, bytes, f) == bytes);
    ck_assert_int_eq(fclose(f), 0);
}

/* An image of a log that was closed, or was not. */
static void make(bool close)
{
    static struct rig w;
    struct mem_media *m = mem_media_new(1, RIG_BYTES, false);

    rig_begin(&w, m);
    rig_work(&w, &(struct rig_work){90, 90000, 20, 25, 8});
    rig_go(&w, UINT32_MAX);
    if (close)
        rig_finish(&w, true);
    rig_page_back(m->image[0], 0, RIG_BYTES);
    rig_fini(&w);
    mem_media_free(m);
    save(RIG_BYTES);
}

static void setup(void)
{
    const char *tmp = getenv("TMPDIR");

    rig_setup();
    find_program();
    snprintf(dir, sizeof(dir), "%s/pikv-fsck-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(image, sizeof(image), "%s/image", dir);
}

static void teardown(void)
{
    char cmd[PATH_MAX + 16];

    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    ck_assert_int_eq(system(cmd), 0);
    rig_teardown();
}

/* The exit status; what it said is in output. */
static int run(const char *args)
{
    char cmd[4 * PATH_MAX];
    size_t n;
    int rc;
    FILE *f;

    snprintf(cmd, sizeof(cmd), "'%s' %s '%s' 2>&1", fsck, args, image);
    f = popen(cmd, "r");
    ck_assert_ptr_nonnull(f);
    n = fread(output, 1, sizeof(output) - 1, f);
    output[n] = 0;
    rc = pclose(f);
    ck_assert_msg(WIFEXITED(rc), "%s: died: %s", cmd, output);
    return WEXITSTATUS(rc);
}

static void says(const char *words)
{
    ck_assert_msg(strstr(output, words) != NULL, "no '%s' in: %s", words,
                  output);
}

/* Blocks that are there and count. */
static uint32_t living(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < rig_put_n; i++)
        n += rig_puts[i].placed && rig_last[rig_puts[i].k] == i + 1 &&
             rig_asked[rig_puts[i].k] <= i;
    return n;
}

static const struct rig_put *one(void)
{
    for (uint32_t i = 0; i < rig_put_n; i++)
        if (rig_puts[i].placed && rig_last[rig_puts[i].k] == i + 1 &&
            rig_asked[rig_puts[i].k] <= i)
            return &rig_puts[i];
    ck_abort_msg("nothing lives");
    return NULL;
}

static void salvaged(uint32_t n)
{
    char name[PATH_MAX + 100], path[2 * PATH_MAX];
    uint32_t found = 0;

    snprintf(name, sizeof(name), "salvage -o '%s/out'", dir);
    run(name);
    for (uint32_t i = 0; i < rig_put_n; i++) {
        const struct seg_meta *m = &rig_puts[i].req.meta;
        static uint8_t bytes[1 << 20];
        FILE *f;

        snprintf(path, sizeof(path), "%s/out/1-0-%016lx%016lx.bin", dir,
                 m->key.hash.hi, m->key.hash.lo);
        if (rig_last[rig_puts[i].k] != i + 1 || !(f = fopen(path, "rb")))
            continue;
        ck_assert_uint_eq(fread(bytes, 1, sizeof(bytes), f), m->len);
        ck_assert_mem_eq(bytes, rig_puts[i].span.p, m->len);
        fclose(f);
        found++;
    }
    ck_assert_uint_eq(found, n);
    snprintf(path, sizeof(path), "%s/out/index.json", dir);
    ck_assert_int_eq(access(path, R_OK), 0);
}

START_TEST(a_good_image_is_counted)
{
    char words[64];

    make(true);
    ck_assert_int_eq(run("check --verify"), 0);
    snprintf(words, sizeof(words), "%u live", living());
    says(words);
    says(", clean, written by pikvd test, format 1.0");
    says(" 0 corrupt");
    snprintf(words, sizeof(words), "%u of %u entries", living(), living());
    says(words);
    ck_assert_int_eq(run("--json check"), 0);
    snprintf(words, sizeof(words), "\"live\":%u,", living());
    says(words);
    make(false);
    ck_assert_int_eq(run("check"), 0);
    says("not closed");
}
END_TEST

START_TEST(a_dump_has_a_line_for_each_record)
{
    uint32_t lines = 0, live = 0;

    make(false);
    ck_assert_int_eq(run("dump"), 0);
    for (char *p = output; *p; p = strchr(p, '\n') + 1) {
        live += strncmp(p, "live ", 5) == 0;
        lines++;
    }
    ck_assert_uint_eq(live, living());
    ck_assert_uint_gt(lines, live);
    says("tomb ");
    says("namespace=1 generation=0 group=0");
    ck_assert_int_eq(run("--json --segment 0 dump"), 0);
    says("{\"state\":\"");
}
END_TEST

START_TEST(a_damaged_payload_is_found_when_it_is_read)
{
    char words[64];
    uint64_t off;

    make(true);
    off = (uint64_t)one()->req.place.page * SEG_PAGE;
    rig_scratch->image[0][off] ^= 1;
    save(RIG_BYTES);
    ck_assert_int_eq(run("check"), 0);
    ck_assert_int_eq(run("--verify check"), 1);
    says("payload differs from its checksum");
    says(" 1 corrupt");
    snprintf(words, sizeof(words), "page %u", one()->req.place.page);
    says(words);
    salvaged(living() - 1);
}
END_TEST

START_TEST(damaged_pages_are_problems)
{
    uint64_t head = SEG_DATA, header = SEG_DATA + SEG_PAGE;

    make(true);
    rig_scratch->image[0][header + 70] ^= 1;
    save(RIG_BYTES);
    ck_assert_int_eq(run("check"), 1);
    says("damaged group header");
    rig_scratch->image[0][header + 70] ^= 1;
    rig_scratch->image[0][head + 40] ^= 1;
    save(RIG_BYTES);
    ck_assert_int_eq(run("--json check"), 1);
    says("\"what\":\"damaged head page\"");
    rig_scratch->image[0][head + 40] ^= 1;
    rig_scratch->image[0][SEG_SUPER_B + 40] ^= 1;
    save(RIG_BYTES);
    ck_assert_int_eq(run("check"), 1);
    says("damaged or missing superblock");
}
END_TEST

/* The first header that has records, and how many of them live. */
static uint32_t first_header(uint64_t *off_out)
{
    uint32_t n = 0;
    struct seg_group g;

    for (uint64_t off = SEG_DATA;; off += SEG_PAGE) {
        ck_assert_uint_lt(off, RIG_BYTES);
        memcpy(&g, rig_scratch->image[0] + off, sizeof(g));
        *off_out = off;
        if (g.magic != SEG_MAGIC_GROUP)
            continue;
        n = 0;
        for (uint32_t i = 0; i < rig_put_n; i++) {
            const struct seg_place p = rig_puts[i].req.place;

            n += rig_puts[i].placed && rig_last[rig_puts[i].k] == i + 1 &&
                 rig_asked[rig_puts[i].k] <= i && p.page > g.page &&
                 p.page < g.page + g.pages;
        }
        if (n)
            return n;
    }
}

START_TEST(a_damaged_header_costs_its_own_blocks)
{
    uint64_t off;
    uint32_t n;

    make(true);
    n = first_header(&off);
    rig_scratch->image[0][off + 70] ^= 1;
    save(RIG_BYTES);
    ck_assert_int_eq(run("check"), 1);
    says("problems     1");
    salvaged(living() - n);
}
END_TEST

START_TEST(blocks_are_salvaged_even_without_superblocks)
{
    make(true);
    salvaged(living());
    memset(rig_scratch->image[0], 0, SEG_DATA);
    save(RIG_BYTES);
    ck_assert_int_eq(run("check"), 1);
    says("superblocks lost");
    salvaged(living());
}
END_TEST

START_TEST(what_cannot_be_read_is_said)
{
    struct seg_super s;
    int fd;

    make(true);
    fd = open(image, O_RDONLY);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    ck_assert_int_eq(run("check"), 2);
    says("in use by a running pikvd; fix:");
    close(fd);
    memcpy(&s, rig_scratch->image[0], sizeof(s));
    s.major = 3;
    seg_super_seal(&s);
    memcpy(rig_scratch->image[0], &s, sizeof(s));
    save(RIG_BYTES);
    ck_assert_int_eq(run("check"), 2);
    says("written by pikvd test with format 3.0");
    memset(rig_scratch->image[0], 7, RIG_BYTES);
    save(RIG_BYTES);
    ck_assert_int_eq(run("check"), 2);
    says("not a pikvd store");
    ck_assert_int_eq(run("frobnicate"), 2);
    says("usage:");
    ck_assert_int_eq(run("salvage"), 2);
    ck_assert_int_eq(run("--segment x check"), 2);
    snprintf(image, sizeof(image), "%s", dir);
    ck_assert_int_eq(run("check"), 2);
    says("neither a file nor a block device");
    snprintf(image, sizeof(image), "%s/none", dir);
    ck_assert_int_eq(run("check"), 2);
    says("No such file");
}
END_TEST

START_TEST(a_short_or_scrambled_image_is_survived)
{
    make(true);
    for (int i = 0; i < 40; i++) {
        for (uint32_t n = chance(40); n > 0; n--)
            rig_scratch->image[0][chance(RIG_BYTES)] ^= (uint8_t)chance(256);
        rig_scratch->image[0][SEG_DATA + chance(SEG_PAGE * 2)] ^= 1;
        save(RIG_BYTES - chance(RIG_BYTES));
        ck_assert_int_ge(run("--verify check"), 1);
        ck_assert_int_le(run("--json dump"), 2);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("fsck");
    TCase *t = tcase_create("fsck");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_good_image_is_counted);
    tcase_add_test(t, a_dump_has_a_line_for_each_record);
    tcase_add_test(t, a_damaged_payload_is_found_when_it_is_read);
    tcase_add_test(t, damaged_pages_are_problems);
    tcase_add_test(t, a_damaged_header_costs_its_own_blocks);
    tcase_add_test(t, blocks_are_salvaged_even_without_superblocks);
    tcase_add_test(t, what_cannot_be_read_is_said);
    tcase_add_test(t, a_short_or_scrambled_image_is_survived);
    suite_add_tcase(s, t);
    return s;
}
