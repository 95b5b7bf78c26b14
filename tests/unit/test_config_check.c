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
    tcase_add_test(t, ucx_enabled_on_defaults_is_a_valid_whole);
    tcase_add_test(t, loans_without_shared_memory_are_refused);
    suite_add_tcase(s, t);
    return s;
}
