/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server store base proto
 *
 * Control between fake lanes: the lane functions below take the place of
 * lane.c's and note what they were told; a lane runs only when a test says so,
 * hence every order of mail can be played. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "server/control.h"
#include "server/lane.h"

enum { LANES = 3 };

static struct config cfg;
static struct control control;
static struct lane lanes[LANES];
static struct lane *lane_list[LANES];
static struct { /* what each lane knows */
    struct registry_ns ns[8];
    struct store_ns_cfg store[8];
    uint32_t told;
    const struct config *cfg;
    const struct view *view;
    uint16_t self_node;
    enum err answer;
} known[LANES];

static struct config next_cfg;
static enum err reload_answer, save_answer;
static char saved[65536];
static uint32_t saves;
static uint64_t seed;

void lane_ns_mail(struct mail *m, void *lane)
{
    struct ctl_ask *ask = ctl_ask_of(m);
    uint32_t idx = ((struct lane *)lane)->idx;

    ck_assert_uint_eq(ask->lane, idx);
    known[idx].told++;
    if (!known[idx].answer) {
        known[idx].ns[ask->job->ns->id] = *ask->job->ns;
        known[idx].store[ask->job->ns->id] = *ask->job->store;
    }
    ctl_ack(ask, known[idx].answer);
}

void lane_config_mail(struct mail *m, void *lane)
{
    known[((struct lane *)lane)->idx].cfg = ctl_ask_of(m)->job->cfg;
    ctl_ack(ctl_ask_of(m), OK);
}

void lane_view_mail(struct mail *m, void *lane)
{
    uint32_t idx = ((struct lane *)lane)->idx;

    known[idx].view = ctl_ask_of(m)->job->view;
    known[idx].self_node = ctl_ask_of(m)->job->self_node;
    ctl_ack(ctl_ask_of(m), OK);
}

void lane_usage_mail(struct mail *m, void *lane)
{
    struct ctl_job *job = ctl_ask_of(m)->job;
    uint32_t idx = ((struct lane *)lane)->idx;

    for (uint32_t i = 0; i < job->usage_n; i++)
        job->usage[idx * job->usage_n + i] =
            (struct ctl_usage){i + 1, 10 * (i + 1), 100, 1, 2};
    ctl_ack(ctl_ask_of(m), OK);
}

void lane_clients_mail(struct mail *m, void *lane)
{
    (void)lane;
    ctl_ack(ctl_ask_of(m), OK);
}

void lane_ping_mail(struct mail *m, void *lane)
{
    (void)lane;
    ctl_ack(ctl_ask_of(m), OK);
}

void lane_drain_mail(struct mail *m, void *lane)
{
    ((struct lane *)lane)->draining = true;
    ctl_ack(ctl_ask_of(m), OK);
}

enum err lane_ns_set(struct lane *l, const struct registry_ns *ns,
                     const struct store_ns_cfg *store)
{
    known[l->idx].told++;
    known[l->idx].ns[ns->id] = *ns;
    known[l->idx].store[ns->id] = *store;
    return known[l->idx].answer;
}

/* What was asked of each lane about SSDs, in order. */
static char ssd_asked[LANES][16];
static enum err ssd_answer;

static void ssd_ask(struct mail *m, void *lane, char what)
{
    char *to = ssd_asked[((struct lane *)lane)->idx];

    to[strlen(to)] = what;
    ctl_ack(ctl_ask_of(m), ssd_answer);
}

void lane_ssd_info_mail(struct mail *m, void *lane)
{
    ssd_ask(m, lane, 'i');
}

void lane_ssd_retire_mail(struct mail *m, void *lane)
{
    ssd_ask(m, lane, 'r');
}

void lane_ssd_forget_mail(struct mail *m, void *lane)
{
    ssd_ask(m, lane, 'f');
}

void lane_ssd_replace_mail(struct mail *m, void *lane)
{
    ssd_ask(m, lane, 'n');
}

static uint64_t counting(void *arg)
{
    return ++*(uint64_t *)arg;
}

static enum err save_text(void *arg, const char *text, size_t len)
{
    (void)arg;
    saves++;
    ck_assert_uint_lt(len, sizeof(saved));
    if (!save_answer)
        memcpy(saved, text, len + 1);
    return save_answer;
}

static enum err reload_next(void *arg, struct config *out, struct errmsg *m)
{
    (void)arg;
    if (reload_answer)
        return errmsg_set(m, reload_answer, "pikvd.json:1:1: broken");
    *out = next_cfg;
    return OK;
}

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void set_up(void)
{
    struct control_shell shell = {.save = save_text,
                                  .reload = reload_next,
                                  .random = counting,
                                  .arg = &seed,
                                  .wall_us = 1000};

    log_sink_set(quiet, NULL);
    config_defaults(&cfg);
    cfg.namespaces.max = 4;
    next_cfg = cfg;
    memset(known, 0, sizeof(known));
    save_answer = reload_answer = ssd_answer = OK;
    memset(ssd_asked, 0, sizeof(ssd_asked));
    saves = 0;
    for (uint32_t i = 0; i < LANES; i++) {
        lane_list[i] = &lanes[i];
        lanes[i].idx = i;
        lanes[i].control = &control;
        mailbox_init(&lanes[i].mailbox, 256, NULL, NULL);
    }
    ck_assert_int_eq(control_init(&control, &cfg, lane_list, LANES, &shell),
                     OK);
}

static bool run_lane(uint32_t i)
{
    return mailbox_run(&lanes[i].mailbox, &lanes[i], 1000) > 0;
}

/* Until nothing moves. */
static void settle(void)
{
    bool more = true;

    while (more) {
        more = control_turn(&control);
        for (uint32_t i = 0; i < LANES; i++)
            more |= run_lane(i);
    }
}

static void tear_down(void)
{
    settle();
    ck_assert(control_idle(&control));
    control_fini(&control);
    for (uint32_t i = 0; i < LANES; i++)
        mailbox_fini(&lanes[i].mailbox);
    log_sink_set(NULL, NULL);
}

/* ---- A caller as an op would be one ---- */

struct caller {
    struct ctl_call call;
    struct ctl_ns ns[4];
    struct ctl_reload reload;
    Pikv__Open open;
    Pikv__Fingerprint fp;
    Pikv__NamespaceRequest request;
    Pikv__Settings settings;
    char name[32], model[32];
    int answers;
};

static void caller_done(struct mail *m, void *lane)
{
    struct caller *c = container_of(ctl_call_of(m), struct caller, call);

    ck_assert_ptr_eq(c->call.lane, lane);
    c->answers++;
}

static void post(struct caller *c, enum ctl_what what, const void *request)
{
    c->call = (struct ctl_call){.lane = &lanes[1],
                                .what = what,
                                .request = request,
                                .done = caller_done,
                                .ns = c->ns,
                                .ns_cap = countof(c->ns),
                                .reload = &c->reload};
    c->answers = 0;
    ctl_call_post(&c->call);
}

static void post_open(struct caller *c, const char *name, const char *model)
{
    pikv__open__init(&c->open);
    pikv__fingerprint__init(&c->fp);
    snprintf(c->name, sizeof(c->name), "%s", name);
    snprintf(c->model, sizeof(c->model), "%s", model);
    c->fp.model = c->model;
    c->open.fingerprint = &c->fp;
    c->open.name = c->name;
    c->open.create = true;
    post(c, CTL_OPEN, &c->open);
}

static void post_namespace(struct caller *c, const char *name, bool bump,
                           const char *policy)
{
    static char text[16];

    pikv__namespace_request__init(&c->request);
    pikv__settings__init(&c->settings);
    snprintf(c->name, sizeof(c->name), "%s", name);
    c->request.name = c->name;
    c->request.bump = bump;
    if (policy) {
        snprintf(text, sizeof(text), "%s", policy);
        c->settings.policy = text;
        c->request.change = &c->settings;
    }
    post(c, CTL_NAMESPACE, &c->request);
}

static struct caller a, b;

static void open_now(struct caller *c, const char *name)
{
    post_open(c, name, "llama");
    settle();
    ck_assert_int_eq(c->answers, 1);
    ck_assert_int_eq(c->call.err, OK);
}

START_TEST(open_is_answered_when_every_lane_has_the_namespace)
{
    post_open(&a, "a", "llama");
    control_turn(&control);
    ck_assert_uint_eq(saves, 1);
    run_lane(0);
    run_lane(1);
    control_turn(&control);
    run_lane(1);
    ck_assert_int_eq(a.answers, 0);
    run_lane(2);
    control_turn(&control);
    run_lane(1);
    ck_assert_int_eq(a.answers, 1);
    ck_assert_int_eq(a.call.err, OK);
    ck_assert(a.call.created);
    ck_assert_uint_eq(a.call.ns_n, 1);
    for (int i = 0; i < LANES; i++) {
        ck_assert_mem_eq(&known[i].ns[1], &a.ns[0].ns, sizeof(a.ns[0].ns));
        ck_assert_uint_eq(known[i].store[1].generation, a.ns[0].ns.generation);
    }
    ck_assert_ptr_nonnull(strstr(saved, "\"llama\""));
}
END_TEST

START_TEST(a_known_namespace_is_opened_without_the_lanes)
{
    open_now(&a, "a");
    open_now(&b, "a");
    ck_assert(!b.call.created);
    ck_assert_uint_eq(b.ns[0].ns.generation, a.ns[0].ns.generation);
    ck_assert_uint_eq(saves, 1);
    ck_assert_uint_eq(known[0].told, 1);
}
END_TEST

START_TEST(two_who_open_the_same_new_namespace_share_it)
{
    post_open(&a, "a", "llama");
    post_open(&b, "a", "llama");
    settle();
    ck_assert_int_eq(a.answers + b.answers, 2);
    ck_assert_int_eq(a.call.err, OK);
    ck_assert_int_eq(b.call.err, OK);
    ck_assert(a.call.created && !b.call.created);
    ck_assert_uint_eq(a.ns[0].ns.id, b.ns[0].ns.id);
    ck_assert_uint_eq(saves, 1);
}
END_TEST

START_TEST(a_mismatch_is_answered_with_its_field)
{
    open_now(&a, "a");
    post_open(&b, "a", "qwen");
    settle();
    ck_assert_int_eq(b.answers, 1);
    ck_assert_int_eq(b.call.err, ERR_MISMATCH);
    ck_assert_str_eq(b.call.mismatch.field, "model");
    ck_assert_str_eq(b.call.mismatch.have, "llama");
    ck_assert_str_eq(b.call.mismatch.want, "qwen");
    ck_assert_uint_eq(b.call.ns_n, 0);
}
END_TEST

START_TEST(what_cannot_be_saved_did_not_happen)
{
    save_answer = ERR_IO;
    post_open(&a, "a", "llama");
    settle();
    ck_assert_int_eq(a.call.err, ERR_IO);
    ck_assert_uint_eq(known[0].told, 0);
    ck_assert_uint_eq(control.registry.n, 0);
    save_answer = OK;
    open_now(&a, "a");
    ck_assert(a.call.created);
    save_answer = ERR_IO;
    post_namespace(&b, "a", true, NULL);
    settle();
    ck_assert_int_eq(b.call.err, ERR_IO);
    ck_assert_uint_eq(control.registry.ns[0].generation, a.ns[0].ns.generation);
}
END_TEST

START_TEST(a_namespace_that_a_lane_refused_is_sent_again)
{
    known[2].answer = ERR_NO_MEMORY;
    post_open(&a, "a", "llama");
    settle();
    ck_assert_int_eq(a.answers, 1);
    ck_assert_int_eq(a.call.err, ERR_NO_MEMORY);
    ck_assert_int_ne(a.call.msg.text[0], '\0');
    known[2].answer = OK;
    open_now(&a, "a");
    ck_assert(!a.call.created);
    ck_assert_uint_eq(known[2].ns[1].id, 1);
}
END_TEST

START_TEST(describe_adds_up_the_lanes)
{
    open_now(&a, "a");
    open_now(&a, "b");
    post_namespace(&b, "", false, NULL);
    settle();
    ck_assert_int_eq(b.call.err, OK);
    ck_assert_uint_eq(b.call.ns_n, 2);
    ck_assert_str_eq(b.ns[1].ns.name, "b");
    ck_assert_uint_eq(b.ns[1].usage.blocks, 2 * LANES);
    ck_assert_uint_eq(b.ns[1].usage.bytes, 20 * LANES);
    ck_assert_uint_eq(b.ns[1].usage.share_bytes, 100 * LANES);
    post_namespace(&b, "b", false, NULL);
    settle();
    ck_assert_uint_eq(b.call.ns_n, 1);
    ck_assert_uint_eq(b.ns[0].usage.blocks, 2 * LANES);
    post_namespace(&b, "c", false, NULL);
    settle();
    ck_assert_int_eq(b.call.err, ERR_NO_NAMESPACE);
}
END_TEST

START_TEST(an_empty_registry_is_described_as_empty)
{
    post_namespace(&b, "", false, NULL);
    settle();
    ck_assert_int_eq(b.call.err, OK);
    ck_assert_uint_eq(b.call.ns_total, 0);
}
END_TEST

START_TEST(what_does_not_fit_into_the_answer_is_counted)
{
    open_now(&a, "a");
    open_now(&a, "b");
    pikv__namespace_request__init(&b.request);
    b.call = (struct ctl_call){.lane = &lanes[0],
                               .what = CTL_NAMESPACE,
                               .request = &b.request,
                               .done = caller_done,
                               .ns = b.ns,
                               .ns_cap = 1};
    ctl_call_post(&b.call);
    settle();
    ck_assert_uint_eq(b.call.ns_n, 1);
    ck_assert_uint_eq(b.call.ns_total, 2);
}
END_TEST

START_TEST(bump_and_change_reach_every_lane_before_the_answer)
{
    open_now(&a, "a");
    post_namespace(&b, "a", true, "lru");
    settle();
    ck_assert_int_eq(b.call.err, OK);
    ck_assert_uint_gt(b.ns[0].ns.generation, a.ns[0].ns.generation);
    ck_assert_str_eq(b.ns[0].ns.settings.policy->name, "lru");
    for (int i = 0; i < LANES; i++) {
        ck_assert_uint_eq(known[i].store[1].generation, b.ns[0].ns.generation);
        ck_assert_str_eq(known[i].store[1].policy->name, "lru");
    }
    post_namespace(&b, "a", false, "best");
    settle();
    ck_assert_int_eq(b.call.err, ERR_BAD_REQUEST);
    ck_assert_ptr_nonnull(strstr(b.call.msg.text, "settings.policy"));
    post_namespace(&b, "", true, NULL);
    settle();
    ck_assert_int_eq(b.call.err, ERR_BAD_REQUEST);
    post_namespace(&b, "zz", true, NULL);
    settle();
    ck_assert_int_eq(b.call.err, ERR_NO_NAMESPACE);
}
END_TEST

START_TEST(a_namespace_from_the_file_goes_to_the_lanes_at_its_first_open)
{
    struct errmsg m;
    struct control_shell shell = control.shell;

    open_now(&a, "a");
    control_fini(&control);
    memset(known, 0, sizeof(known));
    ck_assert_int_eq(control_init(&control, &cfg, lane_list, LANES, &shell),
                     OK);
    ck_assert_int_eq(registry_load(&control.registry, saved, strlen(saved), &m),
                     OK);
    open_now(&b, "a");
    ck_assert(!b.call.created);
    ck_assert_uint_eq(b.ns[0].ns.generation, a.ns[0].ns.generation);
    ck_assert_uint_eq(known[1].ns[1].id, 1);
}
END_TEST

START_TEST(reload_applies_what_can_change_and_names_the_rest)
{
    next_cfg.loop.spin_us = 77;
    next_cfg.node.lanes = 9;
    post(&a, CTL_RELOAD, NULL);
    control_turn(&control);
    run_lane(0);
    control_turn(&control);
    ck_assert_int_eq(a.answers, 0);
    settle();
    ck_assert_int_eq(a.answers, 1);
    ck_assert_int_eq(a.call.err, OK);
    ck_assert_uint_eq(a.reload.changed_n, 1);
    ck_assert_str_eq(a.reload.changed[0]->path, "loop.spin");
    ck_assert_uint_eq(a.reload.restart_n, 1);
    ck_assert_str_eq(a.reload.restart[0]->path, "node.lanes");
    for (int i = 0; i < LANES; i++) {
        ck_assert_ptr_eq(known[i].cfg, control.cfg);
        ck_assert_uint_eq(known[i].cfg->loop.spin_us, 77);
        ck_assert_uint_eq(known[i].cfg->node.lanes, cfg.node.lanes);
    }
}
END_TEST

START_TEST(a_bad_configuration_changes_nothing)
{
    struct errmsg m;

    reload_answer = ERR_CONFIG;
    next_cfg.loop.spin_us = 77;
    post(&a, CTL_RELOAD, NULL);
    settle();
    ck_assert_int_eq(a.call.err, ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(a.call.msg.text, "pikvd.json:1:1"));
    ck_assert_int_eq(control_reload(&control, NULL, &m), ERR_CONFIG);
    ck_assert_ptr_eq(control.cfg, &cfg);
    ck_assert_ptr_null(known[0].cfg);
}
END_TEST

START_TEST(values_that_only_fit_after_a_restart_are_refused_whole)
{
    struct errmsg m;

    /* A connection may have so many only together with the lane's limit. */
    next_cfg.limits.ops_per_lane = 4096;
    next_cfg.limits.ops_per_client = 2048;
    ck_assert_int_eq(config_check(&next_cfg, &m), OK);
    ck_assert_int_eq(control_reload(&control, NULL, &m), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(m.text, "restart"));
    ck_assert_ptr_eq(control.cfg, &cfg);
}
END_TEST

static struct view *view_of_epoch(uint64_t epoch)
{
    struct view *v = malloc(sizeof(*v));

    ck_assert_ptr_nonnull(v);
    ck_assert_int_eq(view_init(v), OK);
    v->epoch = epoch;
    return v;
}

/* Under AddressSanitizer: each view is freed once, and not before every lane
 * has its successor. */
START_TEST(views_in_a_row_reach_all_lanes_and_are_freed_after_their_successor)
{
    ck_assert_int_eq(control_view(&control, view_of_epoch(1), 3), OK);
    settle();
    ck_assert_int_eq(control_view(&control, view_of_epoch(2), 3), OK);
    ck_assert_int_eq(control_view(&control, view_of_epoch(3), NODE_NONE), OK);
    run_lane(0);
    control_turn(&control);
    ck_assert_uint_eq(known[0].view->epoch, 3);
    ck_assert_uint_eq(known[1].view->epoch, 1);
    ck_assert_uint_eq(known[1].self_node, 3);
    settle();
    for (uint32_t i = 0; i < LANES; i++) {
        ck_assert_ptr_eq(known[i].view, control.view);
        ck_assert_uint_eq(known[i].view->epoch, 3);
        ck_assert_uint_eq(known[i].self_node, NODE_NONE);
    }
}
END_TEST

START_TEST(a_view_that_finds_no_job_stays_the_callers)
{
    struct view *v = view_of_epoch(1);

    fault_arm(1);
    ck_assert_int_eq(control_view(&control, v, 0), ERR_BUSY);
    fault_arm(0);
    ck_assert_ptr_null(control.view);
    ck_assert_int_eq(control_view(&control, v, 0), OK);
}
END_TEST

START_TEST(reloads_in_a_row_free_each_configuration_after_its_successor)
{
    struct errmsg m;
    struct ctl_reload report;

    for (uint64_t i = 1; i <= 5; i++) {
        next_cfg.loop.spin_us = i;
        ck_assert_int_eq(control_reload(&control, &report, &m), OK);
        ck_assert_uint_eq(report.changed_n, 1);
        ck_assert_uint_eq(control.cfg->loop.spin_us, i);
    }
    settle();
    ck_assert_uint_eq(known[2].cfg->loop.spin_us, 5);
}
END_TEST

START_TEST(more_changes_than_jobs_are_busy_and_pass)
{
    static struct caller many[CTL_JOBS + 2];

    open_now(&a, "a");
    for (int i = 0; i < CTL_JOBS + 2; i++)
        post_namespace(&many[i], "a", true, NULL);
    control_turn(&control);
    settle();
    for (int i = 0; i < CTL_JOBS + 2; i++) {
        ck_assert_int_eq(many[i].answers, 1);
        ck_assert_int_eq(many[i].call.err, i < CTL_JOBS ? OK : ERR_BUSY);
    }
    ck_assert_uint_eq(known[0].store[1].generation,
                      control.registry.ns[0].generation);
}
END_TEST

START_TEST(every_failure_on_the_way_is_answered)
{
    uint32_t hits = 0;

    for (uint32_t i = 1;; i++) {
        fault_arm(i);
        next_cfg.loop.spin_us = i;
        post_open(&a, "a", "llama");
        settle();
        ck_assert_int_eq(a.answers, 1);
        post_namespace(&a, "a", true, NULL);
        settle();
        ck_assert_int_eq(a.answers, 1);
        post(&b, CTL_RELOAD, NULL);
        settle();
        ck_assert_int_eq(b.answers, 1);
        ck_assert(control_idle(&control));
        if (!fault_hit())
            break;
        hits++;
    }
    fault_arm(0);
    ck_assert_uint_ge(hits, 5);
    open_now(&a, "a");
}
END_TEST

START_TEST(init_fails_clean)
{
    struct control c;
    struct control_shell shell = control.shell;

    for (uint32_t i = 1; i <= 2; i++) {
        fault_arm(i);
        ck_assert_int_eq(control_init(&c, &cfg, lane_list, LANES, &shell),
                         ERR_NO_MEMORY);
        ck_assert(fault_hit());
    }
    fault_arm(0);
    memset(&c, 0, sizeof(c));
    control_fini(&c);
}
END_TEST

/* ---- SSDs */

static struct ssd_node ssds;
static struct ctl_ssd infos[DISK_DEVS];

static void ask_ssd(uint32_t what, const char *path)
{
    static Pikv__SsdRequest m;
    static char text[16];

    pikv__ssd_request__init(&m);
    snprintf(text, sizeof(text), "%s", path);
    snprintf(ssds.devs[0].path, sizeof(ssds.devs[0].path), "/ssd");
    ssds.n = 1;
    lanes[0].link.node = &ssds;
    memset(ssd_asked, 0, sizeof(ssd_asked));
    m.what = (Pikv__SsdRequest__What)what;
    m.path = text;
    a.call = (struct ctl_call){.lane = &lanes[1],
                               .what = CTL_SSD,
                               .request = &m,
                               .done = caller_done,
                               .ssds = infos};
    a.answers = 0;
    ctl_call_post(&a.call);
    settle();
    ck_assert_int_eq(a.answers, 1);
}

START_TEST(every_lane_is_asked_about_the_ssds_in_order)
{
    ask_ssd(PIKV__SSD_REQUEST__WHAT__LIST, "");
    ck_assert_int_eq(a.call.err, OK);
    ck_assert_str_eq(ssd_asked[2], "i");
    ask_ssd(PIKV__SSD_REQUEST__WHAT__RETIRE, "/ssd");
    ck_assert_int_eq(a.call.err, OK);
    ck_assert_str_eq(ssd_asked[0], "ri");
    ask_ssd(PIKV__SSD_REQUEST__WHAT__REPLACE, "/ssd");
    ck_assert_int_eq(a.call.err, OK);
    ck_assert_str_eq(ssd_asked[1], "fni");
}
END_TEST

START_TEST(what_cannot_be_done_to_an_ssd_is_answered_and_goes_no_further)
{
    ask_ssd(PIKV__SSD_REQUEST__WHAT__RETIRE, "/other");
    ck_assert_int_eq(a.call.err, ERR_BAD_REQUEST);
    ck_assert_str_eq(ssd_asked[0], "");
    ssd_answer = ERR_BAD_REQUEST;
    ask_ssd(PIKV__SSD_REQUEST__WHAT__REPLACE, "/ssd");
    ck_assert_int_eq(a.call.err, ERR_BAD_REQUEST);
    ck_assert_str_eq(ssd_asked[0], "f");
    ck_assert_ptr_nonnull(strstr(a.call.msg.text, "path"));
}
END_TEST

START_TEST(lanes_are_told_of_all_namespaces_before_their_first_turn)
{
    open_now(&a, "a");
    open_now(&b, "b");
    memset(known, 0, sizeof(known));
    ck_assert_int_eq(control_tell_lanes(&control), OK);
    for (int i = 0; i < LANES; i++) {
        ck_assert_str_eq(known[i].ns[1].name, "a");
        ck_assert_str_eq(known[i].ns[2].name, "b");
    }
    known[1].answer = ERR_LIMIT;
    ck_assert_int_eq(control_tell_lanes(&control), ERR_LIMIT);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("control");
    TCase *t = tcase_create("control");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, open_is_answered_when_every_lane_has_the_namespace);
    tcase_add_test(t, every_lane_is_asked_about_the_ssds_in_order);
    tcase_add_test(
        t, what_cannot_be_done_to_an_ssd_is_answered_and_goes_no_further);
    tcase_add_test(t, lanes_are_told_of_all_namespaces_before_their_first_turn);
    tcase_add_test(t, a_known_namespace_is_opened_without_the_lanes);
    tcase_add_test(t, two_who_open_the_same_new_namespace_share_it);
    tcase_add_test(t, a_mismatch_is_answered_with_its_field);
    tcase_add_test(t, what_cannot_be_saved_did_not_happen);
    tcase_add_test(t, a_namespace_that_a_lane_refused_is_sent_again);
    tcase_add_test(t, describe_adds_up_the_lanes);
    tcase_add_test(t, an_empty_registry_is_described_as_empty);
    tcase_add_test(t, what_does_not_fit_into_the_answer_is_counted);
    tcase_add_test(t, bump_and_change_reach_every_lane_before_the_answer);
    tcase_add_test(
        t, a_namespace_from_the_file_goes_to_the_lanes_at_its_first_open);
    tcase_add_test(
        t, views_in_a_row_reach_all_lanes_and_are_freed_after_their_successor);
    tcase_add_test(t, a_view_that_finds_no_job_stays_the_callers);
    tcase_add_test(t, reload_applies_what_can_change_and_names_the_rest);
    tcase_add_test(t, a_bad_configuration_changes_nothing);
    tcase_add_test(t, values_that_only_fit_after_a_restart_are_refused_whole);
    tcase_add_test(
        t, reloads_in_a_row_free_each_configuration_after_its_successor);
    tcase_add_test(t, more_changes_than_jobs_are_busy_and_pass);
    tcase_add_test(t, every_failure_on_the_way_is_answered);
    tcase_add_test(t, init_fails_clean);
    suite_add_tcase(s, t);
    return s;
}
