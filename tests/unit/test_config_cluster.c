/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server cluster rpc store base proto */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "server/config.h"

static struct config cfg;
static struct errmsg msg;

static void set(const char *arg)
{
    ck_assert_int_eq(config_set_arg(&cfg, arg, &msg), OK);
}

/* A node that could start. */
static void setup(void)
{
    config_defaults(&cfg);
    msg.text[0] = '\0';
    set("cluster.enabled=true");
    set("cluster.id=house");
    set("node.name=a");
    set("node.state_dir=/var/lib/pikvd");
    set("cluster.voters=a=10.0.0.1:7441,b=10.0.0.2:7441,c=10.0.0.3:7441");
    set("cluster.tls.ca=/etc/pikvd/ca.pem");
    set("cluster.tls.cert=/etc/pikvd/a.pem");
    set("cluster.tls.key=/etc/pikvd/a.key");
}

START_TEST(a_whole_configuration_is_accepted)
{
    ck_assert_int_eq(config_check(&cfg, &msg), OK);
    set("cluster.security=psk");
    set("cluster.tls.psk_file=/etc/pikvd/psk");
    ck_assert_int_eq(config_check(&cfg, &msg), OK);
    set("node.name=watcher"); /* no voter */
    ck_assert_int_eq(config_check(&cfg, &msg), OK);
    set("node.name="); /* the host's name */
    ck_assert_int_eq(config_check(&cfg, &msg), OK);
}
END_TEST

START_TEST(defaults_have_no_cluster)
{
    config_defaults(&cfg);
    ck_assert_int_eq(config_check(&cfg, &msg), OK);
    ck_assert(!cfg.cluster.enabled);
}
END_TEST

/* Each names its key, and what would do. */
static const struct {
    const char *set[3], *key, *says;
} wrong[] = {
    {{"cluster.id="}, "cluster.id", "empty"},
    {{"cluster.id=a b"}, "cluster.id", "letters"},
    {{"node.state_dir="}, "node.state_dir", "identity"},
    {{"node.name=a b"}, "node.name", "letters"},
    {{"cluster.voters="}, "cluster.voters", "empty"},
    {{"cluster.voters=a=x:1,b=y:1"}, "cluster.voters", "2 voters"},
    {{"cluster.voters=a=x:1,b=y:1,c=z:1,d=w:1"}, "cluster.voters", "4 voters"},
    {{"cluster.voters=a=x:1,a=y:1,c=z:1"}, "cluster.voters", "listed twice"},
    {{"cluster.voters=a=x:1,b=x:1,c=z:1"}, "cluster.voters", "same address"},
    {{"cluster.voters=a=x"}, "cluster.voters", "no address"},
    {{"cluster.voters=a=x:0"}, "cluster.voters", "no address"},
    {{"cluster.voters=a=x:70000"}, "cluster.voters", "no address"},
    {{"cluster.voters=x:1"}, "cluster.voters", "not NAME=HOST:PORT"},
    {{"cluster.voters=a=x:1,"}, "cluster.voters", "comma"},
    {{"cluster.voters=a/b=x:1"}, "cluster.voters", "no name"},
    {{"cluster.provider=static"}, "cluster.nodes", "not among them"},
    {{"cluster.provider=static", "cluster.nodes=b=x:1,c=y:1"},
     "cluster.nodes", "not among them"},
    {{"cluster.provider=static", "cluster.nodes=a=x:1/lanes:65"},
     "cluster.nodes", "lanes:64"},
    {{"cluster.provider=static", "cluster.nodes=a=x:1/shm:relative"},
     "cluster.nodes", "shm:/PATH"},
    {{"cluster.advertise.peer=x"}, "cluster.advertise.peer", "HOST:PORT"},
    {{"cluster.port=7421"}, "cluster.port", "listen.admin.port"},
    {{"listen.ucx.enabled=true", "cluster.port=7431"}, "cluster.port",
     "listen.ucx"},
    {{"listen.ucx.enabled=true", "listen.ucx.host=0.0.0.0"},
     "cluster.advertise.ucx", "empty"},
    {{"cluster.tls.ca="}, "cluster.tls.ca", "absolute"},
    {{"cluster.tls.key=a.key"}, "cluster.tls.key", "absolute"},
    {{"cluster.security=psk"}, "cluster.tls.psk_file", "absolute"},
    {{"cluster.security=plain", "cluster.host=10.0.0.1"}, "cluster.security",
     "plain"},
    {{"cluster.suspect=600ms"}, "cluster.suspect", "twice"},
    {{"cluster.down=1500ms"}, "cluster.down", "longer"},
    {{"cluster.removed=2s"}, "cluster.removed", "longer"},
    {{"cluster.heartbeat=500ms"}, "cluster.election", "five times"},
};

START_TEST(what_cannot_work_is_refused_by_its_key)
{
    for (uint32_t i = 0; i < 3 && wrong[_i].set[i]; i++)
        set(wrong[_i].set[i]);
    ck_assert_int_eq(config_check(&cfg, &msg), ERR_CONFIG);
    ck_assert_msg(strstr(msg.text, wrong[_i].key), "%s", msg.text);
    ck_assert_msg(strstr(msg.text, wrong[_i].says), "%s", msg.text);
    ck_assert_msg(strstr(msg.text, "allowed: "), "%s", msg.text);
}
END_TEST

START_TEST(lists_are_malformed_with_the_cluster_off_as_well)
{
    set("cluster.enabled=false");
    ck_assert_int_eq(config_check(&cfg, &msg), OK);
    set("cluster.voters=a");
    ck_assert_int_eq(config_check(&cfg, &msg), ERR_CONFIG);
}
END_TEST

START_TEST(a_node_of_a_static_list_has_all_its_addresses)
{
    struct config_nodes l;

    ck_assert_int_eq(
        config_nodes(" a=h:1 /lanes:4/shm:/run/a/b.sock/ucx:[::1]:7430,"
                     "b=[fe80::1]:2",
                     true, &l, &msg),
        OK);
    ck_assert_uint_eq(l.n, 2);
    ck_assert_str_eq(l.node[0].name, "a");
    ck_assert_str_eq(l.node[0].peer, "h:1");
    ck_assert_uint_eq(l.node[0].lanes, 4);
    ck_assert_str_eq(l.node[0].shm, "shm:/run/a/b.sock");
    ck_assert_str_eq(l.node[0].ucx, "ucx:[::1]:7430");
    ck_assert_str_eq(l.node[1].peer, "[fe80::1]:2");
    ck_assert_uint_eq(l.node[1].lanes, 1);
    ck_assert_str_eq(l.node[1].shm, "");
}
END_TEST

START_TEST(a_list_has_bounds)
{
    struct config_nodes l;
    char text[CONFIG_STRING] = "", one[16];

    for (uint32_t i = 0; i <= CONFIG_NODES; i++) {
        snprintf(one, sizeof(one), "%sn%u=h:%u", i ? "," : "", i, i + 1);
        strncat(text, one, sizeof(text) - strlen(text) - 1);
    }
    ck_assert_int_eq(config_nodes(text, false, &l, &msg), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(msg.text, "more than 16"));
    ck_assert_int_eq(config_nodes("", false, &l, &msg), OK);
    ck_assert_uint_eq(l.n, 0);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("config_cluster");
    TCase *t = tcase_create("config_cluster");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, a_whole_configuration_is_accepted);
    tcase_add_test(t, defaults_have_no_cluster);
    tcase_add_loop_test(t, what_cannot_work_is_refused_by_its_key, 0,
                        countof(wrong));
    tcase_add_test(t, lists_are_malformed_with_the_cluster_off_as_well);
    tcase_add_test(t, a_node_of_a_static_list_has_all_its_addresses);
    tcase_add_test(t, a_list_has_bounds);
    suite_add_tcase(s, t);
    return s;
}
