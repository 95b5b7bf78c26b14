/* SPDX-License-Identifier: Apache-2.0
 *
 * The namespaces of the daemon: who may share blocks with whom, and since
 * when. Each is opened by fingerprint and keeps its name, id, salt, slot seed,
 * groups and settings; its generation is taken from one counter that only goes
 * up, so that no two namespaces and no two lives of one ever share a number.
 *
 *     registry_open     -+
 *     registry_change   -+->  draft  -> registry_text -> (durable) -> put
 *     registry_bump     -+
 *
 * The first three decide and change nothing: they fill a draft. The caller
 * makes the text with the draft durable, then registry_put() takes it over. So
 * a disk that fails leaves everything as it was.
 *
 * Invariants
 *  1. Ids are 1, 2, 3, ... in the order of creation and never reused; there is
 *     no deletion (a bump empties a namespace).
 *  2. Every generation is below next_generation, which is in the text and
 *     starts at the wall clock's microseconds if that is more: without a
 *     state_dir a restarted daemon has other generations than before as long
 *     as the clock does not go back and fewer were taken than it ran us.
 *  3. Names, ids and loan pools are unique; every text in here is printable
 *     ASCII, so that it goes into JSON, logs and labels as it is.
 *  4. A namespace's loan pool is its own from creation on.
 *  5. In a cluster the slot seed is a function of the cluster's id and the
 *     namespace's name, so that a key's slot is the same on all nodes; salts
 *     and generations are each node's own.
 *
 * Pure: randomness and the clock are given. Control thread; allocates at init
 * and for text. ERR_BAD_REQUEST and ERR_LIMIT name the field. */
#ifndef SERVER_REGISTRY_H
#define SERVER_REGISTRY_H

#include "base/err.h"
#include "base/metrics.h"
#include "pikv.pb-c.h"
#include "server/config.h"
#include "store/store.h"

enum {
    REGISTRY_NAME = 128, /* bytes of a name with its NUL */
    REGISTRY_TEXT = 128, /* of a fingerprint field */
    REGISTRY_WORD = 16,  /* of a group's kind, dtype and order */
    REGISTRY_FORMAT = 1, /* version of the text */
    REGISTRY_SHARE_MAX = 10000,
};

struct registry_fingerprint {
    char model[REGISTRY_TEXT], weights_version[REGISTRY_TEXT];
    char tokenizer_hash[REGISTRY_TEXT], hash_seed[REGISTRY_TEXT];
    char dtype[REGISTRY_TEXT], scale_format[REGISTRY_TEXT];
    char parallel_layout[REGISTRY_TEXT];
};

/* Its members in the order they are compared; the end has name NULL. */
struct registry_fp_field {
    const char *name;
    size_t off;      /* of char[REGISTRY_TEXT] in struct registry_fingerprint */
    size_t wire_off; /* of char * in Pikv__Fingerprint */
};
extern const struct registry_fp_field registry_fp_fields[];

static inline const char *registry_fp_text(const struct registry_fingerprint *f,
                                           const struct registry_fp_field *x)
{
    return (const char *)f + x->off;
}

struct registry_group {
    uint32_t id; /* below STORE_GROUPS; the key's group */
    uint32_t layers, kv_heads, head_dim, tokens_per_block;
    uint64_t block_bytes; /* 0: not given */
    char kind[REGISTRY_WORD], dtype[REGISTRY_WORD], order[REGISTRY_WORD];
};

struct registry_settings {
    const struct evict_ops *policy;
    uint32_t share; /* 1 to REGISTRY_SHARE_MAX */
    enum config_loans loans;
    uint32_t ttl_ms;      /* 0 none */
    uint64_t quota_bytes; /* 0 none; of all lanes */
    enum config_tiering dram;
};

/* Plain bytes: copied by assignment, compared by value, kept by lanes. */
struct registry_ns {
    char name[REGISTRY_NAME];
    uint32_t id;         /* 0: no namespace */
    uint32_t pool;       /* unit pool: 0 shared, 1..15 its own (loans) */
    uint64_t generation; /* never 0 */
    uint64_t slot_seed;  /* public: slot = hash_slot(slot_seed, route) */
    uint64_t flushes;    /* of the cluster's flushes of it, the last obeyed */
    uint8_t salt[32];    /* secret: never leaves the daemon but to its file */
    struct registry_fingerprint fingerprint;
    struct registry_settings settings;
    uint32_t group_n;
    struct registry_group groups[STORE_GROUPS];
};

struct registry {
    struct registry_ns *ns; /* [i].id = i + 1 */
    uint32_t n, max;
    uint32_t loan_pools; /* pools 1..loan_pools may be given out */
    bool ssd;            /* there is an SSD tier */
    uint64_t cluster;    /* hash of its id, 0: none */
    uint64_t next_generation;
};

/* Why an OPEN did not fit. */
struct registry_mismatch {
    char field[64];
    char have[REGISTRY_TEXT], want[REGISTRY_TEXT];
};

/* cfg: namespaces.max, dram.loan_*. wall_us: the clock at boot, see 2. */
must_check enum err registry_init(struct registry *r, const struct config *cfg,
                                  uint64_t wall_us);
void registry_fini(struct registry *r);

/* By name; NULL if there is none. Valid until the next put. */
const struct registry_ns *registry_find(const struct registry *r,
                                        const char *name);
const struct registry_ns *registry_find_id(const struct registry *r,
                                           uint32_t id);

/* The namespace of this name if the fingerprint and the groups fit, else a new
 * one if the request says create; created_out tells which. A request without a
 * fingerprint and without create (tools) is not compared, one without groups
 * takes those that are there. random gives salt and seed.
 * MISMATCH fills mismatch; NO_NAMESPACE; DENIED (namespaces.create); LIMIT
 * (namespaces.max, a field); UNSUPPORTED (no loan memory); BAD_REQUEST. */
must_check enum err
registry_open(const struct registry *r, const struct config *cfg,
              const Pikv__Open *want, uint64_t (*random)(void *arg), void *arg,
              struct registry_ns *draft_out, bool *created_out,
              struct registry_mismatch *mismatch, struct errmsg *m);
/* Other settings; absent ones stay. quota UINT64_MAX and ttl UINT32_MAX mean
 * none. UNSUPPORTED: loans for a namespace made without. */
must_check enum err registry_change(const struct registry *r, const char *name,
                                    const Pikv__Settings *want,
                                    struct registry_ns *draft_out,
                                    struct errmsg *m);
/* A new generation: a draft of ns (registered or itself a draft). */
void registry_bump(const struct registry *r, const struct registry_ns *ns,
                   struct registry_ns *draft_out);
/* The same, and with it the cluster's flush of that number is obeyed. */
void registry_flush(const struct registry *r, const struct registry_ns *ns,
                    uint64_t count, struct registry_ns *draft_out);
/* Takes a draft over; nothing else was put since it was made. */
void registry_put(struct registry *r, const struct registry_ns *draft);

/* The registry as JSON, as it will be once draft (may be NULL) is put. */
void registry_text(const struct registry *r, const struct registry_ns *draft,
                   struct textbuf *out);
/* The slot seed of a namespace in a cluster: the same on all of its nodes. */
uint64_t registry_seed(const struct registry *r, const char *name);
/* Namespaces that were made without the cluster, or in another one, get its
 * seed, and a new generation: their blocks lie by other slots. Returns how
 * many; the caller saves. */
uint32_t registry_reseed(struct registry *r);
/* Reads what registry_text wrote into an empty registry; ERR_CONFIG names what
 * is wrong and leaves it empty. Namespaces get loan pools as far as there are
 * some now. */
must_check enum err registry_load(struct registry *r, const char *text,
                                  size_t len, struct errmsg *m);

/* What one lane's store is told. */
void registry_ns_cfg(const struct registry_ns *ns, uint32_t lanes,
                     struct store_ns_cfg *out);
const char *registry_loans_name(enum config_loans loans);
const char *registry_dram_name(enum config_tiering dram);

#endif
