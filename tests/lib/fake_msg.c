/* SPDX-License-Identifier: Apache-2.0
 *
 * The MSG operations of the fake pikvd (fake_pikvd.h). */
#include "tests/lib/fake_impl.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pikv.pb-c.h"

void fake_do_hello(struct lane *l, struct fake_conn *c,
                   const struct wire_frame *req)
{
    struct fake *f = l->f;
    Pikv__HelloReply m;
    Pikv__Lane lanes[LANES], *list[LANES];
    char addrs[LANES][160];
    char server[] = "fake 1", none[] = "";
    uint8_t env[2048];

    pikv__hello_reply__init(&m);
    for (uint32_t i = 0; i < f->lane_n; i++) {
        pikv__lane__init(&lanes[i]);
        snprintf(addrs[i], sizeof(addrs[i]), "shm:%s", f->lanes[i].path);
        lanes[i].shm = addrs[i];
        lanes[i].ucx = none;
        list[i] = &lanes[i];
    }
    m.version = 1;
    m.features = f->tells ? FEATURE_PARTS : 0;
    if (f->view) {
        m.features |= FEATURE_VIEW;
        m.epoch = f->view->epoch;
    }
    m.server = server;
    m.boot = f->boot;
    m.lane = l->idx;
    m.lanes = list;
    m.n_lanes = f->lane_n;
    m.credit_ops = f->credit_ops;
    m.credit_bytes = f->credit_bytes;
    m.batch_keys_max = 1024;
    m.message_bytes_max = RING_BYTES / 2;
    m.block_bytes_max = GIB(1);
    f->hellos++;
    fake_reply(c, req, 0, env, 0, (uint32_t)pikv__hello_reply__pack(&m, env));
}

void fake_do_open(struct lane *l, struct fake_conn *c,
                  const struct message *msg)
{
    Pikv__Open *o = pikv__open__unpack(NULL, msg->frame.env_len, msg->env);
    Pikv__OpenReply m;
    char field[] = "dtype", have[] = "fp16", want[] = "fp8";
    uint8_t env[512];
    int status = 0;

    pikv__open_reply__init(&m);
    if (o && strcmp(o->name, "other") == 0) {
        status = ERR_MISMATCH;
        m.mismatch_field = field;
        m.mismatch_have = have;
        m.mismatch_want = want;
    }
    if (l->f->refuses_open)
        status = l->f->refuses_open;
    if (o && o->settings) {
        snprintf(l->seen.policy, sizeof(l->seen.policy), "%s",
                 o->settings->policy);
        snprintf(l->seen.dram, sizeof(l->seen.dram), "%s", o->settings->dram);
    }
    m.id = l->f->ns_id;
    l->f->ns_opens++;
    m.generation = l->f->generation;
    m.slot_seed = 99;
    pikv__open__free_unpacked(o, NULL);
    fake_reply(c, &msg->frame, status, env, 0,
               (uint32_t)pikv__open_reply__pack(&m, env));
}

void fake_do_register(struct fake_conn *c, const struct message *msg, int fd)
{
    Pikv__MemRegister *r =
        pikv__mem_register__unpack(NULL, msg->frame.env_len, msg->env);
    Pikv__MemRegisterReply m = PIKV__MEM_REGISTER_REPLY__INIT;
    struct mem *mem = &c->mems[c->mem_n % MEMS];
    uint8_t env[32];
    uint64_t pad = r->offset % 4096;
    uint8_t *p = mmap(NULL, r->length + pad, PROT_READ | PROT_WRITE, MAP_SHARED,
                      fd, (off_t)(r->offset - pad));

    close(fd); /* before the answer: tests count descriptors */
    *mem = (struct mem){p == MAP_FAILED ? NULL : p + pad, r->length, pad};
    m.id = c->mem_n++;
    pikv__mem_register__free_unpacked(r, NULL);
    fake_reply(c, &msg->frame, mem->p ? 0 : ERR_MEM_FAULT, env, 0,
               (uint32_t)pikv__mem_register_reply__pack(&m, env));
}

void fake_do_attach(struct lane *l, struct fake_conn *c,
                    const struct message *msg)
{
    Pikv__LoanAttachReply m = PIKV__LOAN_ATTACH_REPLY__INIT;
    uint8_t env[32];

    if (!l->loan) {
        l->loan_fd = memfd_create("loan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        (void)!ftruncate(l->loan_fd, LOAN_BYTES);
        fcntl(l->loan_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
        l->loan = mmap(NULL, LOAN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
                       l->loan_fd, 0);
    }
    m.bytes = LOAN_BYTES;
    fake_reply_fd(c, &msg->frame, env,
                  (uint32_t)pikv__loan_attach_reply__pack(&m, env), l->loan_fd);
}

void fake_do_namespace(struct lane *l, struct fake_conn *c,
                       const struct message *msg)
{
    Pikv__NamespaceReply m;
    Pikv__NamespaceInfo info, *list[1] = {&info};
    uint8_t env[256];

    pikv__namespace_reply__init(&m);
    pikv__namespace_info__init(&info);
    info.id = l->f->ns_id;
    info.generation = ++l->f->generation;
    l->f->bumps++;
    m.namespaces = list;
    m.n_namespaces = 1;
    fake_reply(c, &msg->frame, 0, env, 0,
               (uint32_t)pikv__namespace_reply__pack(&m, env));
}

void fake_do_feedback(struct lane *l, struct fake_conn *c,
                      const struct message *msg)
{
    Pikv__Feedback *m =
        pikv__feedback__unpack(NULL, msg->frame.env_len, msg->env);

    MUST(m && m->ns == l->f->ns_id);
    l->seen.feedbacks++;
    l->seen.session = m->session;
    snprintf(l->seen.session_state, sizeof(l->seen.session_state), "%s",
             m->session_state);
    pikv__feedback__free_unpacked(m, NULL);
    fake_reply(c, &msg->frame, 0, NULL, 0, 0);
}

bool fake_is_cold(const void *key, size_t len)
{
    return len >= 4 && memcmp(key, "cold", 4) == 0;
}

/* The reason of every key that is not in the dictionary is "late". */
void fake_do_explain(struct lane *l, struct fake_conn *c,
                     const struct message *msg)
{
    Pikv__ExplainRequest *m =
        pikv__explain_request__unpack(NULL, msg->frame.env_len, msg->env);
    char here[] = "here", late[] = "late", dram[] = "dram", ssd[] = "ssd",
         none[] = "", advice[600];
    const struct block *b = l->f->blocks;
    Pikv__ExplainReply r;
    uint8_t env[1024];

    MUST(m && m->ns == l->f->ns_id);
    l->seen.explains++;
    while (b && (b->lane != l->idx || b->key_len != m->key.len ||
                 memcmp(b->key, m->key.data, b->key_len) != 0))
        b = b->next;
    pikv__explain_reply__init(&r);
    memset(advice, 'a', sizeof(advice));
    advice[l->mode == FAKE_BOASTS ? sizeof(advice) - 1 : 5] = '\0';
    r.reason = l->mode == FAKE_CUTS ? none : b ? here : late;
    r.tier = !b ? none : fake_is_cold(m->key.data, m->key.len) ? ssd : dram;
    r.eta_us = r.tier == ssd ? 250 : 0;
    r.when_ms = b ? 0 : 1234;
    r.advice = advice;
    pikv__explain_request__free_unpacked(m, NULL);
    memset(env, 0xff, sizeof(env));
    fake_reply(c, &msg->frame, 0, env, 0,
               l->mode == FAKE_FLIPS
                   ? (uint32_t)sizeof(env)
                   : (uint32_t)pikv__explain_reply__pack(&r, env));
}
