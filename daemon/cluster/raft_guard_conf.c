/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads what libraft has in its public structs but gives no function for: the
 * log in memory, a circular array, and configurations.
 *
 *   entries   [ . . front ... back . . ]   index of front = offset + 1
 *   configuration, encoded:  u8 1, u64 n, n x (u64 id, address NUL, u8 role)
 *
 * raft_guard_conf_set mends what 0.15.0 forgets (rule 8 of raft_guard.c). Its
 * invariants:
 *  1. g->conf is the configuration committed at g->conf_index, always.
 *  2. r->configuration is that of the last change in the log, committed or not;
 *     r->configuration_uncommitted_index is that change's index while it is not
 *     known to be committed, else 0.
 * No memory: the guard ends as if the disk had failed. */
#include <stdlib.h>
#include <string.h>

#include "base/slice.h"
#include "cluster/raft_guard.h"

static void *entries_batch(const struct raft_append_entries *a)
{
    return a->n_entries ? a->entries[0].batch : NULL;
}

void raft_message_discard(struct raft_message *m)
{
    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        raft_free(entries_batch(&m->append_entries));
        raft_free(m->append_entries.entries);
    } else if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_configuration_close(&m->install_snapshot.conf);
        raft_free(m->install_snapshot.data.base);
    }
    m->type = 0;
}

static bool conf_server(struct slice *s, struct raft_configuration *out)
{
    char address[RAFT_CONF_ADDRESS];
    uint64_t id = 0;
    uint8_t role = 0;
    const void *nul = NULL;

    slice_copy(s, &id, sizeof id);
    if (!s->bad && s->len)
        nul =
            memchr(s->p, 0, s->len < sizeof address ? s->len : sizeof address);
    if (!nul)
        return false;
    slice_copy(s, address, (size_t)((const uint8_t *)nul - s->p) + 1);
    slice_copy(s, &role, 1);
    return !s->bad && id && role <= RAFT_SPARE &&
           raft_configuration_add(out, id, address, role) == 0;
}

bool raft_conf_decode(const void *p, size_t n, struct raft_configuration *out)
{
    struct slice s = slice_of(p, n);
    uint8_t version = 0;
    uint64_t servers = 0;

    slice_copy(&s, &version, 1);
    slice_copy(&s, &servers, sizeof servers);
    if (s.bad || version != 1 || !servers || servers > RAFT_CONF_SERVERS)
        return false;
    for (uint64_t i = 0; i < servers; i++) {
        if (conf_server(&s, out))
            continue;
        raft_configuration_close(out);
        raft_configuration_init(out);
        return false;
    }
    return true;
}

bool raft_conf_copy(const struct raft_configuration *from,
                    struct raft_configuration *out)
{
    for (unsigned i = 0; i < from->n; i++) {
        const struct raft_server *s = &from->servers[i];

        if (raft_configuration_add(out, s->id, s->address, s->role) == 0)
            continue;
        raft_configuration_close(out);
        raft_configuration_init(out);
        return false;
    }
    return true;
}

static raft_index log_entries(const struct raft_log *l)
{
    return l->front <= l->back ? l->back - l->front
                               : l->size - l->front + l->back;
}

raft_index raft_log_last(const struct raft *r)
{
    return r->log.offset + log_entries(&r->log);
}

const struct raft_entry *raft_log_entry(const struct raft *r, raft_index i)
{
    const struct raft_log *l = &r->log;

    if (i <= l->offset || i > raft_log_last(r))
        return NULL;
    return &l->entries[(l->front + (i - 1 - l->offset)) % l->size];
}

raft_term raft_log_term(const struct raft *r, raft_index i)
{
    const struct raft_entry *e = raft_log_entry(r, i);

    if (i && i == r->log.snapshot.last_index)
        return r->log.snapshot.last_term;
    return e ? e->term : 0;
}

/* Takes conf over. */
static void conf_replace(struct raft_configuration *at,
                         struct raft_configuration *conf)
{
    raft_configuration_close(at);
    *at = *conf;
}

bool raft_guard_conf_note(struct raft_guard *g)
{
    struct raft *r = g->r;
    const struct raft_entry *e = raft_log_entry(r, r->configuration_index);
    struct raft_configuration conf;
    bool ok;

    if (r->configuration_index == g->conf_index)
        return true;
    raft_configuration_init(&conf);
    if (!r->configuration_uncommitted_index)
        ok = raft_conf_copy(&r->configuration, &conf);
    else
        ok = e && e->type == RAFT_CHANGE &&
             raft_conf_decode(e->buf.base, e->buf.len, &conf);
    if (!ok)
        return false;
    conf_replace(&g->conf, &conf);
    g->conf_index = r->configuration_index;
    return true;
}

bool raft_guard_conf_set(struct raft_guard *g, raft_index end)
{
    struct raft *r = g->r;
    struct raft_configuration conf;
    const struct raft_entry *e = NULL;
    raft_index i = end;
    bool ok;

    raft_configuration_init(&conf);
    while (--i > g->conf_index) {
        e = raft_log_entry(r, i);
        if (e && e->type == RAFT_CHANGE)
            break;
    }
    if (i > g->conf_index)
        ok = raft_conf_decode(e->buf.base, e->buf.len, &conf);
    else
        ok = raft_conf_copy(&g->conf, &conf);
    if (!ok)
        return false;
    conf_replace(&r->configuration, &conf);
    r->configuration_index = g->conf_index;
    r->configuration_uncommitted_index = i > g->conf_index ? i : 0;
    return true;
}
