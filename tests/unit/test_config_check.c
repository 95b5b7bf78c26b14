/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/config.h"

#include <check.h>
#include <string.h>

static struct config cfg;
static struct errmsg msg;

static void setup(void)
{
    config_defaults(&cfg);
    msg.text[0] = '\0';
}

static enum err load(const char *text)
{
    return config_load_text(&cfg, "x.json", text, strlen(text), &msg);
}

/* ---- one value against another */

static const struct {
    const char *set[3];
    const char *error;
} crossed[] = {
    {{"dram.low_water=5%"},
     "--set: dram.low_water: 5% is not below dram.high_water; allowed: less "
     "than 5%"},
    {{"dram.pin_limit=90%", "dram.high_water=20%"},
     "--set: dram.pin_limit: 90% and dram.high_water are more than the tier; "
     "allowed: up to 80%"},
    {{"namespaces.loans=on"},
     "--set: namespaces.loans: there is no loan memory; allowed: off, or a "
     "dram.loan_capacity above 0"},
    {{"namespaces.loans=on", "dram.loan_capacity=64MiB",
      "listen.shm.enabled=false"},
     "--set: listen.shm.enabled: no listener is enabled; allowed: true here or "
     "in listen.ucx.enabled"},
    {{"dram.loan_capacity=1MiB"},
     "--set: dram.loan_capacity: less than one unit of memory; allowed: 0, or "
     "2MiB and more"},
    {{"dram.loan_capacity=64MiB", "namespaces.max=2"},
     "default: dram.loan_namespaces: more than namespaces.max; allowed: up to "
     "2"},
    {{"listen.shm.ring=300KiB"},
     "--set: listen.shm.ring: not a power of two; allowed: 64KiB, 128KiB, ... "
     "16MiB"},
    {{"limits.message=256KiB"},
     "default: listen.shm.ring: too small for limits.message; allowed: more "
     "than twice 262144 bytes"},
    {{"limits.batch_keys=16384"},
     "--set: limits.batch_keys: the reply does not fit limits.message; "
     "allowed: up to 3070"},
    {{"limits.ops_per_lane=8"},
     "default: limits.ops_per_client: more than limits.ops_per_lane; allowed: "
     "up to 8"},
    {{"limits.clients=8"},
     "default: limits.unauthenticated: more than limits.clients; allowed: up "
     "to 8"},
    {{"limits.bytes_per_client=1MiB"},
     "--set: limits.bytes_per_client: smaller than limits.block: such a block "
     "could never be sent; allowed: at least 1073741824"},
    {{"listen.admin.host=0.0.0.0"},
     "--set: listen.admin.host: \"0.0.0.0\" can be reached by others and has "
     "no authentication; allowed: 127.0.0.1, ::1, localhost, or "
     "listen.admin.insecure true"},
    {{"listen.resp.enabled=true", "listen.resp.host=0.0.0.0"},
     "--set: listen.resp.host: \"0.0.0.0\" can be reached by others and has no "
     "password; allowed: 127.0.0.1, ::1, localhost, or a "
     "listen.resp.password_file, or listen.resp.insecure true"},
    {{"listen.resp.enabled=true", "listen.shm.enabled=false",
      "listen.ucx.enabled=true"},
     "--set: listen.resp.enabled: it needs listen.shm, through which it "
     "reaches the lanes; allowed: listen.shm.enabled true"},
    {{"listen.resp.password_file=secret"},
     "--set: listen.resp.password_file: \"secret\" is relative; allowed: an "
     "absolute path or \"\""},
    {{"listen.resp.enabled=true", "listen.resp.value=512MiB",
      "limits.block=256MiB"},
     "--set: listen.resp.value: longer than limits.block; allowed: up to "
     "268435456"},
    {{"listen.resp.enabled=true", "listen.resp.value=512MiB"},
     "default: listen.resp.memory: less than twice listen.resp.value; allowed: "
     "at least 1073741824"},
    {{"listen.resp.enabled=true", "limits.registered_per_client=64MiB"},
     "default: listen.resp.memory: more than limits.registered_per_client; "
     "allowed: up to 67108864"},
    {{"dram.backing=/dev/shm"},
     "--set: dram.backing: \"/dev/shm\" is not known; allowed: memfd, "
     "hugetlbfs:/DIRECTORY, tmpfs:/DIRECTORY"},
    {{"dram.backing=tmpfs:shm"},
     "--set: dram.backing: \"tmpfs:shm\" is not known; allowed: memfd, "
     "hugetlbfs:/DIRECTORY, tmpfs:/DIRECTORY"},
    {{"dram.backing=hugetlbfs:/h", "dram.hugepages=off"},
     "--set: dram.hugepages: off contradicts dram.backing \"hugetlbfs:/h\"; "
     "allowed: auto, on"},
    {{"node.state_dir=var"},
     "--set: node.state_dir: \"var\" is relative; allowed: an absolute path or "
     "\"\""},
    {{"listen.shm.path=pikvd.sock"},
     "--set: listen.shm.path: \"pikvd.sock\" is relative; allowed: an absolute "
     "path"},
    {{"listen.ucx.enabled=true", "listen.ucx.port_range=8000-7000"},
     "--set: listen.ucx.port_range: \"8000-7000\" is not a range; allowed: "
     "FIRST-LAST within 1024-65535"},
    {{"listen.ucx.enabled=true", "listen.ucx.port_range=7000 -8000"},
     "--set: listen.ucx.port_range: \"7000 -8000\" is not a range; allowed: "
     "FIRST-LAST within 1024-65535"},
    {{"listen.ucx.enabled=true", "listen.ucx.port=65530", "node.lanes=8"},
     "--set: listen.ucx.port: 65530 leaves no ports for 8 lanes; allowed: up "
     "to 65528"},
    {{"listen.ucx.enabled=true", "listen.ucx.port=7497"},
     "default: listen.ucx.port_range: 7500-7999 holds ports 7497 to 7500 of "
     "the lanes; allowed: a range without them"},
    {{"ssd.paths=/mnt/a"},
     "--set: ssd.paths: blocks on an SSD outlive the daemon, but without "
     "node.state_dir their namespaces do not; allowed: \"\", or set "
     "node.state_dir"},
    {{"node.state_dir=/s", "ssd.paths=/mnt/a,b"},
     "--set: ssd.paths: \"/mnt/a,b\" is not a list; allowed: absolute paths "
     "separated by commas, at most 8"},
    {{"node.state_dir=/s", "ssd.paths=/mnt/a, /mnt/b,/mnt/a"},
     "--set: ssd.paths: a path stands there twice; allowed: each SSD once"},
    {{"namespaces.dram=write_buffer"},
     "--set: namespaces.dram: write_buffer needs an SSD tier; allowed: cache, "
     "or set ssd.paths"},
    {{"ssd.segment=3MiB"},
     "--set: ssd.segment: not a power of two; allowed: 1MiB, 2MiB, ... 1GiB"},
    {{"ssd.capacity=1GiB"},
     "--set: ssd.capacity: too small for 8 segments of ssd.segment; allowed: "
     "at least 1026MiB, or a smaller ssd.segment"},
    {{"ssd.write_budget=1.5 DWPD"},
     "--set: ssd.write_budget: \"1.5 DWPD\" is not a budget; allowed: off, "
     "1.5DWPD, 500GB/day, 80MiB/s and the like"},
    {{"listen.ucx.enabled=true", "listen.ucx.port=7418"},
     "default: listen.admin.port: 7421 belongs to the lanes (7418 to 7421); "
     "allowed: another one"},
};

START_TEST(settings_that_contradict_each_other_are_refused_by_name)
{
    for (uint32_t i = 0; i < 3 && crossed[_i].set[i]; i++)
        ck_assert_msg(config_set_arg(&cfg, crossed[_i].set[i], &msg) == OK,
                      "%s", msg.text);
    ck_assert_int_eq(config_check(&cfg, &msg), ERR_CONFIG);
    ck_assert_str_eq(msg.text, crossed[_i].error);
}
END_TEST

START_TEST(the_defaults_are_a_valid_whole)
{
    ck_assert_msg(config_check(&cfg, &msg) == OK, "%s", msg.text);
}
END_TEST

START_TEST(ucx_enabled_on_defaults_is_a_valid_whole)
{
    /* auto means at most four lanes: their ports must not meet the admin's. */
    ck_assert_int_eq(config_set_arg(&cfg, "listen.ucx.enabled=true", &msg), OK);
    ck_assert_msg(config_check(&cfg, &msg) == OK, "%s", msg.text);
}
END_TEST

START_TEST(a_door_for_others_needs_a_password_or_consent)
{
    static const char *const set[] = {"listen.resp.insecure=true",
                                      "listen.resp.password_file=/etc/p"};

    for (uint32_t i = 0; i < countof(set); i++) {
        setup();
        ck_assert(!config_set_arg(&cfg, "listen.resp.enabled=true", &msg));
        ck_assert(!config_set_arg(&cfg, "listen.resp.host=::", &msg));
        ck_assert_int_eq(config_check(&cfg, &msg), ERR_CONFIG);
        ck_assert(!config_set_arg(&cfg, set[i], &msg));
        ck_assert_msg(config_check(&cfg, &msg) == OK, "%s", msg.text);
    }
}
END_TEST

START_TEST(loans_without_shared_memory_are_refused)
{
    ck_assert_int_eq(
        load("{\"namespaces\": {\"loans\": \"on\"}, \"dram\": "
             "{\"loan_capacity\": \"64MiB\"}, \"listen\": {\"shm\": "
             "{\"enabled\": false}, \"ucx\": {\"enabled\": true, \"port\": "
             "7430}}}"),
        OK);
    ck_assert_int_eq(config_check(&cfg, &msg), ERR_CONFIG);
    ck_assert_str_eq(msg.text,
                     "x.json:1:26: namespaces.loans: loans need shared memory; "
                     "allowed: off, or listen.shm.enabled true");
}
END_TEST

/* ---- ssd */

START_TEST(an_ssd_tier_with_all_its_settings_is_a_valid_whole)
{
    static const char *const set[] = {
        "node.state_dir=/var/lib/pikvd",
        "ssd.paths=/dev/nvme0n1,/mnt/b/kv",
        "ssd.capacity=9MiB",
        "ssd.capacity=10MiB",
        "ssd.segment=1MiB",
        "ssd.write_budget=0.3DWPD",
        "namespaces.dram=write_buffer",
    };

    for (uint32_t i = 0; i < countof(set); i++)
        ck_assert_int_eq(config_set_arg(&cfg, set[i], &msg),
                         i == 2 ? ERR_CONFIG : OK);
    ck_assert_msg(config_check(&cfg, &msg) == OK, "%s", msg.text);
}
END_TEST

START_TEST(a_list_of_paths_is_taken_apart)
{
    struct config_ssd_paths p;

    ck_assert(config_ssd_paths("", &p));
    ck_assert_uint_eq(p.n, 0);
    ck_assert(config_ssd_paths("/dev/nvme0n1", &p));
    ck_assert_uint_eq(p.n, 1);
    ck_assert_str_eq(p.path[0], "/dev/nvme0n1");
    ck_assert(config_ssd_paths(" /a b , /c", &p));
    ck_assert_uint_eq(p.n, 2);
    ck_assert_str_eq(p.path[0], "/a b");
    ck_assert_str_eq(p.path[1], "/c");
    ck_assert(config_ssd_paths("/1,/2,/3,/4,/5,/6,/7,/8", &p));
    ck_assert_uint_eq(p.n, 8);
    ck_assert_str_eq(p.path[7], "/8");
}
END_TEST

START_TEST(what_is_not_a_list_of_paths_is_refused_and_nothing_written)
{
    static const char *const bad[] = {
        ",", "/a,", ",/a",    "/a,,/b",
        "a", " ",   "/a b,c", "/1,/2,/3,/4,/5,/6,/7,/8,/9"};
    struct config_ssd_paths p = {.n = 77};

    for (uint32_t i = 0; i < countof(bad); i++)
        ck_assert_msg(!config_ssd_paths(bad[i], &p), "%s", bad[i]);
    ck_assert_uint_eq(p.n, 77);
}
END_TEST

static const struct {
    const char *text;
    uint64_t bytes, rate;
} budgets[] = {
    {"off", GIB(100), 0},
    {"1DWPD", 86400, 1},
    {"1.5DWPD", UINT64_C(7680000000000), UINT64_C(133333333)},
    {"0.000001DWPD", 86400, 1},
    {"3DWPD", UINT64_C(7680000000000), UINT64_C(266666666)},
    {"500GB/day", 1, 5787037},
    {"500GiB/day", 1, 6213783},
    {"80MiB/s", 1, MIB(80)},
    {"80MB/s", 1, 80000000},
    {"1B/s", 1, 1},
    {"1B/day", 1, 1},
    {"3600KiB/h", 1, KIB(1)},
    {"0.5GiB/s", 1, MIB(512)},
    {"16777215TiB/s", 1, UINT64_C(18446742974197923840)},
};

START_TEST(a_write_budget_is_a_rate_for_its_device)
{
    uint64_t rate = 99;

    ck_assert(config_ssd_budget(budgets[_i].text, budgets[_i].bytes, &rate));
    ck_assert_uint_eq(rate, budgets[_i].rate);
}
END_TEST

START_TEST(what_is_not_a_write_budget_is_refused)
{
    static const char *const bad[] = {"",
                                      "on",
                                      "0DWPD",
                                      "0MiB/s",
                                      "DWPD",
                                      "1.DWPD",
                                      "1..5DWPD",
                                      "1,5DWPD",
                                      "-1DWPD",
                                      "1 DWPD",
                                      "1dwpd",
                                      "1.5",
                                      "500GB",
                                      "500GB/",
                                      "/day",
                                      "1GB/week",
                                      "1gb/day",
                                      "1GB/day ",
                                      "1.0000001DWPD",
                                      "99999999999999999999MiB/s",
                                      "18446744073709551615TiB/s",
                                      "16777216TiB/s",
                                      "OFF",
                                      ".DWPD"};
    uint64_t rate = 99;

    for (uint32_t i = 0; i < countof(bad); i++)
        ck_assert_msg(!config_ssd_budget(bad[i], GIB(1), &rate), "%s", bad[i]);
    ck_assert_uint_eq(rate, 99);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("config_check");
    TCase *t = tcase_create("config_check");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(t,
                        settings_that_contradict_each_other_are_refused_by_name,
                        0, countof(crossed));
    tcase_add_test(t, the_defaults_are_a_valid_whole);
    tcase_add_test(t, an_ssd_tier_with_all_its_settings_is_a_valid_whole);
    tcase_add_test(t, a_list_of_paths_is_taken_apart);
    tcase_add_test(t,
                   what_is_not_a_list_of_paths_is_refused_and_nothing_written);
    tcase_add_loop_test(t, a_write_budget_is_a_rate_for_its_device, 0,
                        countof(budgets));
    tcase_add_test(t, what_is_not_a_write_budget_is_refused);
    tcase_add_test(t, ucx_enabled_on_defaults_is_a_valid_whole);
    tcase_add_test(t, a_door_for_others_needs_a_password_or_consent);
    tcase_add_test(t, loans_without_shared_memory_are_refused);
    suite_add_tcase(s, t);
    return s;
}
