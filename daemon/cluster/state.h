/* SPDX-License-Identifier: Apache-2.0
 *
 * The replicated state: what the voters agree on. A pure state machine: the
 * same commands in the same order make the same bytes on every voter.
 *
 *     command (bytes) --state_apply(index)--> state, an answer, maybe epoch+1
 *
 * state = view (members, slots) + expert placement + tenants + namespaces'
 * flush counts + feature level + the last STATE_DEDUPE command ids. The epoch
 * is the raft index of the last command that changed the view.
 *
 * Every command carries a random id: said twice (an acknowledgement was lost)
 * it changes nothing the second time and answers the same. A command that does
 * not fit the state is refused by an answer, never by a crash; what is refused
 * changes nothing, not even the epoch.
 *
 * Applying needs no memory and reads nothing but the state and the command, so
 * that a voter short of memory cannot come to another state: all room is taken
 * by state_init and state_decode (some 7 MiB, touched as it is used); where
 * glibc's qsort takes some, it sorts without it when there is none.
 *
 * Threads: the control thread's. Memory: malloc, control thread only. */
#ifndef CLUSTER_STATE_H
#define CLUSTER_STATE_H

#include "cluster/view.h"

enum {
    STATE_DEDUPE = 1024,
    STATE_TENANTS_MAX = 256,
    STATE_FLUSHES_MAX = 4096,
    STATE_EXPERTS_MAX = 1 << 16,    /* placed expert replicas */
    STATE_MODELS_MAX = 1024,        /* with placed experts */
    STATE_NODE_BYTES_MAX = 1 << 20, /* all members' names and addresses */
    STATE_WHY_MAX = 256,            /* words of a refusal that are kept */
    /* A snapshot at its worst; 1,000 nodes with 47,000 experts: 0.8 MiB. With
     * its frame it is within COORD_MESSAGE_MAX. */
    STATE_BYTES_MAX = (4 << 20) - (64 << 10),
    CMD_BYTES_MAX = 64 << 10,
    CMD_SLOTS_MAX = 2048,   /* rows of one CMD_SLOTS */
    CMD_EXPERTS_MAX = 4000, /* rows of one CMD_EXPERTS */
};

/* What is refused, and with what, is said in words by answer.msg.
 *
 * JOIN of a name that no member (not REMOVED) has: a new index, JOINING. Of a
 * member's name and uuid: a larger incarnation updates what it says of itself
 * and brings it from DOWN to UP (DRAINING if `drained`), JOINING stays; the
 * same one changes nothing; a smaller one is STALE (a rolled-back disk).
 * Another uuid, or this uuid under another name, or the same incarnation from
 * another machine or port: DENIED.
 *
 * SET_STATE, from row to column (same to same: OK, nothing changes):
 *                UP          DRAINING        DOWN           REMOVED
 *   JOINING      yes         no              yes            yes
 *   UP           -           yes             yes            no: drain first
 *   DRAINING     yes         -               drained = 1    yes
 *   DOWN         comes back  drained = 1     -              yes
 *   REMOVED      no          no              no             -
 * DOWN to UP is a node that comes back: to DRAINING if `drained`. With flag it
 * is the operator's undrain of a node that stays DOWN: drained = 0. JOINING is
 * nobody's target. A REMOVED node leaves all slots (owners move up; a slot
 * without any goes to its `from`, else to its `to`) and all experts. */
enum cmd_kind {
    CMD_JOIN = 1,   /* node: a new member or a new incarnation of one */
    CMD_SET_STATE,  /* index, incarnation (another one: STALE), new_state,
                     * flag as above */
    CMD_SLOTS,      /* rows: slot -> struct slot, each slot once; base_epoch
                     * they were planned on: STALE_EPOCH if one of these slots
                     * was changed after it */
    CMD_EXPERTS,    /* rows of struct expert_place: set or (tier 0xff) clear */
    CMD_TENANT,     /* tenant: set by id, or (flag) remove */
    CMD_FLUSH,      /* name of a namespace: its flush count + 1 */
    CMD_FEATURE,    /* level: only upwards, at most what every node speaks */
    CMD_GENERATION, /* coord recover: generation + 1, voters as listed (an odd
                     * number); level: the generation it was planned on, 0:
                     * whichever */
    CMD_VOTER,      /* index, flag: a voter or not; never the last one */
};

struct slot_row {
    uint16_t slot;
    struct slot to;
};

struct expert_place { /* replica r of expert e of a layer lives on node */
    uint64_t model;   /* digest of the model's name and weights version */
    uint16_t layer, expert;
    uint8_t replica, tier; /* 0 dram, 1 ssd, 2 hbm, 0xff cleared */
    uint16_t node;
};

struct tenant {
    uint64_t id;
    char name[NODE_NAME_MAX];
    uint64_t quota_bytes;
    uint8_t key_hash[32];
};

struct flush {
    char name[64]; /* namespace */
    uint64_t count;
};

/* A command in memory; which members count is said by kind. */
struct cmd {
    enum cmd_kind kind;
    uint64_t id; /* random, never 0 */
    struct node node;
    uint16_t index;
    uint32_t incarnation;
    uint8_t new_state;
    bool flag; /* VOTER: is one; TENANT: remove; SET_STATE: undrain */
    uint64_t base_epoch;
    uint32_t level;
    uint16_t voters[VIEW_VOTERS_MAX]; /* GENERATION: indexes */
    uint32_t voter_n;
    struct tenant tenant;
    char name[64];
    struct slot_row *rows; /* borrowed */
    uint32_t row_n;
    struct expert_place *experts; /* borrowed */
    uint32_t expert_n;
};

/* Bytes of a command; LIMIT beyond CMD_BYTES_MAX, and out as it was. Decoding:
 * rows and experts point into scratch (emptied first), which the caller frees;
 * bounds are checked first. A kind that is newer than this program is
 * BAD_REQUEST: the feature level keeps it away until everybody knows it. */
must_check enum err cmd_encode(const struct cmd *c, struct bytes *out);
must_check enum err cmd_decode(struct cmd *c, const uint8_t *p, size_t n,
                               struct bytes *scratch);

struct state {
    struct view view;
    uint32_t feature_level;
    struct expert_place *experts;      /* by model, layer, expert, replica */
    struct expert_place *experts_next; /* where changes are made */
    uint32_t expert_n;
    struct tenant tenants[STATE_TENANTS_MAX];
    uint32_t tenant_n;
    struct flush *flushes; /* view.flushes has the same at the same index */
    uint32_t flush_n;
    uint64_t *slot_epoch; /* of each slot's last change */
    uint64_t applied;     /* index of the last command, malformed ones too */
    struct {
        uint64_t id, value;
        int32_t err;
    } seen[STATE_DEDUPE];
    char (*seen_why)[STATE_WHY_MAX];
    uint32_t seen_next;
    struct bytes scratch;
};

/* An empty state of generation 1. */
must_check enum err state_init(struct state *s, uint64_t cluster);
void state_fini(struct state *s);

struct answer { /* of a command, to whoever proposed it */
    enum err err;
    uint64_t value;    /* OK of JOIN: node index; of FLUSH: the count; else the
                        * epoch */
    struct errmsg msg; /* why it was refused: names the field and the fix */
};
/* Applies the command at that index (larger than all before). Deterministic;
 * answer may be NULL. Malformed bytes: BAD_REQUEST, nothing but applied
 * changes. */
void state_apply(struct state *s, uint64_t index, const uint8_t *p, size_t n,
                 struct answer *answer);

/* A snapshot, and back: all or nothing. */
void state_encode(const struct state *s, struct bytes *out);
must_check enum err state_decode(struct state *s, const uint8_t *p, size_t n);
uint64_t state_digest(const struct state *s);

#endif
