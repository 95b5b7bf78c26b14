/* SPDX-License-Identifier: Apache-2.0
 *
 * pikvctl: looks at a pikvd and changes it, for people and scripts.
 *
 *   ctl.c            main, options, help
 *   ctl_verbs.c      the table of verbs; completion is made from it
 *   ctl_link.c       connection, namespace, one MSG operation
 *   ctl_key.c        keys, salts and numbers from words and back
 *   ctl_out.c        rows as a table or as JSON; errors
 *   ctl_data.c       put, get, lookup
 *   ctl_export*.c, ctl_import.c, ctl_bulk.c   export, import
 *   block_file*.c    their file
 *   ctl_bar.c        progress of what takes long
 *   ctl_evict.c      evict and what it would do
 *   ctl_look.c       stat, inspect, keys, clients, ping, reload
 *   ctl_hint.c       explain, prefetch, session
 *   ctl_events.c     events
 *   ctl_size*.c      size: from the daemon, from a trace
 *   ctl_ssd.c        ssd ...
 *   ctl_cluster.c    cluster, node, placement, coord
 *   ctl_experts.c    experts ...
 *   ctl_firewall.c   firewall
 *   ctl_top*.c       top: the loop and screen; the tiers
 *   ctl_namespace.c  namespace ...
 *   ctl_config.c     config ...: runs pikvd
 *   ctl_doctor*.c    doctor
 *
 * An error is one line, "pikvctl: what: why; fix", from the function that meets
 * it; what it returns is the exit status and everybody above passes it on.
 * One thread; memory lives as long as the process where that is simpler. */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include <jansson.h>

#include "base/base.h"
#include "client/pikv.h"
#include "pikv.pb-c.h"

enum ctl_exit {
    CTL_OK = 0,
    CTL_ERROR = 1,
    CTL_USAGE = 2,
    CTL_MISS = 3,
    CTL_NO_SERVER = 4,
};

enum ctl_opt {
#define OPT(ID, name, letter, arg, doc) OPT_##ID,
#include "client/ctl/ctl_options.tbl"
    OPT_N
};

/* A set of options. */
#define OPT_BIT(id) (UINT64_C(1) << OPT_##id)

enum { CTL_LABELS = 4 };

struct ctl {
    const struct verb *verb;
    char **args; /* what follows the verb */
    uint32_t arg_n;
    const char *opt[OPT_N]; /* NULL: not given; "" for one without argument */
    uint64_t labels[CTL_LABELS];
    uint32_t label_n;
    bool json;
    struct pikv *kv;
    struct pikv_info info;
    struct pikv_call call;
    uint32_t ns;
};

struct verb {
    const char *name; /* one word, or two */
    const char *args; /* for people */
    uint32_t arg_min, arg_max;
    uint64_t options; /* beside those that every verb takes */
    const char *doc;
    int (*run)(struct ctl *c);
};

extern const struct verb ctl_verbs[];
extern const uint32_t ctl_verb_n;

struct ctl_option {
    const char *name;
    char letter;     /* '\0': none */
    const char *arg; /* NULL: takes none */
    const char *doc;
};
extern const struct ctl_option ctl_options[OPT_N];
/* The options of every verb. */
extern const uint64_t ctl_options_all;

/* ---- ctl_out.c ---- */

/* Prints "pikvctl: ..." as one line; returns status. */
int ctl_fail(int status, const char *fmt, ...) printf_like(2, 3);
/* The same for a code of libpikv: its text, and what to do about it. */
int ctl_fail_code(int code, const char *fmt, ...) printf_like(2, 3);
int ctl_status(int code);

struct column {
    const char *name; /* of the member and, in capitals, above the column */
    bool right;
};
/* rows: an array of objects; takes it. Returns CTL_OK or CTL_ERROR. */
int out_rows(const struct ctl *c, const struct column *columns, size_t n,
             json_t *rows);
/* One object: JSON, or a line per member. Takes it. */
int out_object(const struct ctl *c, json_t *object);
/* "3 words" for one scalar of JSON; buf holds n bytes. */
const char *out_cell(const json_t *value, char *buf, size_t n);
/* A string that JSON can carry, whatever the bytes are. */
json_t *out_text(const char *text);
json_t *out_u64(uint64_t n);
/* "0x...": for 64-bit names, which JSON numbers cannot hold. */
json_t *out_hex64(uint64_t n);
/* A tier's name. */
const char *ctl_tier(uint8_t tier);
/* ctl_look.c: a block's class, by name. */
const char *ctl_class(uint32_t cls);
/* Asks "question ARGUMENT?" unless --yes; any status but CTL_OK: not done. */
int ctl_confirm(const struct ctl *c, const char *question, const char *verb);
/* --dry-run: "would ...". */
int out_would(const struct ctl *c, const char *fmt, ...) printf_like(2, 3);
/* Writes what is buffered; CTL_ERROR if that failed and somebody reads. */
int out_flush(int status);

/* ---- ctl_key.c ---- */

/* Memory that is never given back; NULL if there is none. */
void *ctl_keep(size_t bytes);
/* "text" or "hex:0aff". The bytes live on. */
int key_parse(const char *text, struct pikv_bytes *out);
/* The same way back, as JSON; scope likewise. */
json_t *key_json(const void *p, size_t n);
json_t *hex_json(const void *p, size_t n);
/* A key with --group, --scope, --route of the command line. */
int key_of_args(const struct ctl *c, const char *text, struct pikv_key *out);
int opt_scope(const struct ctl *c, const uint8_t **scope_out);
/* Absent: dflt. Plain numbers, 0x too. */
int opt_number(const struct ctl *c, enum ctl_opt opt, uint64_t dflt,
               uint64_t max, uint64_t *out);
/* "64KiB", 65536 / "250ms". */
int parse_bytes(const char *what, const char *text, uint64_t *out);
int parse_us(const char *what, const char *text, uint64_t *out);
int parse_number(const char *what, const char *text, uint64_t max,
                 uint64_t *out);
int opt_us(const struct ctl *c, enum ctl_opt opt, uint64_t dflt, uint64_t *out);
int opt_bytes(const struct ctl *c, enum ctl_opt opt, uint64_t dflt,
              uint64_t *out);

/* ---- ctl_link.c ---- */

int link_open(struct ctl *c);
void link_close(struct ctl *c);
/* The namespace of --namespace into c->ns; create makes a missing one. */
int link_namespace(struct ctl *c, bool create);
const char *link_namespace_name(const struct ctl *c);
/* One MSG operation: a reply to free with protobuf_c_message_free_unpacked,
 * or NULL and the code. An error may come with a reply. */
void *link_ask(struct ctl *c, const char *op, uint32_t lane,
               const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *reply, int *code_out);
/* link_open, ask, and the failure in words; NULL with *status_out. */
void *link_get(struct ctl *c, const char *op, uint32_t lane,
               const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *reply, int *status_out);
void link_free(void *reply);
/* Describes one namespace ("": all); a code such as NO_NAMESPACE is the
 * caller's to judge. *out is to be freed in any case. */
int link_find(struct ctl *c, const char *name, int *code_out,
              Pikv__NamespaceReply **out);
/* The same; a namespace that is not there is said. */
int link_describe(struct ctl *c, const char *name, Pikv__NamespaceReply **out);

/* Calls fn for each block of the namespace c->ns, lane by lane, until it
 * returns false. */
typedef bool link_block_fn(const Pikv__BlockInfo *b, void *arg);
int link_blocks(struct ctl *c, link_block_fn *fn, void *arg);
/* Seconds of a clock that only runs forward. */
double link_now_s(void);
/* The client rows of `clients` and `top`, one per client. */
int look_clients(struct ctl *c, json_t **rows_out);
/* All counters as one JSON object. */
int look_stat(struct ctl *c, const char *prefix, json_t **out);

/* ---- ctl_cluster.c ---- */

/* The daemon's answer, or NULL and the failure said. */
Pikv__ClusterReply *cluster_ask(struct ctl *c, const Pikv__ClusterRequest *m,
                                int *status_out);

/* ---- ctl_top_tiers.c ---- */

/* The rows of tiers between two samples of counters, dt seconds apart. */
json_t *top_tiers(const json_t *before, const json_t *now, double dt);
/* One row as text; n bytes of buf. tier NULL: the line above the rows. */
const char *top_tier_line(const json_t *tier, char *buf, size_t n);
/* A counter of a sample, and its growth per second. */
uint64_t top_counter(const json_t *stat, const char *name);
double top_rate(const json_t *before, const json_t *now, const char *name,
                double dt);
const char *top_human(uint64_t bytes, char *buf, size_t n);

/* ---- ctl_bar.c ---- */

/* A line on the terminal, if standard error is one, until bar_end(). */
void bar_begin(const struct ctl *c, const char *verb);
void bar_show(uint64_t done, uint64_t total, uint64_t blocks);
void bar_end(void); /* fine without a bar */

/* ---- ctl_config.c ---- */

/* The daemon's program; false and an error line if there is none. */
bool config_find_pikvd(char *path, size_t n);

/* ---- the verbs ---- */

int verb_put(struct ctl *c);
int verb_get(struct ctl *c);
int verb_lookup(struct ctl *c);
int verb_evict(struct ctl *c);
int verb_export(struct ctl *c);
int verb_import(struct ctl *c);
int verb_explain(struct ctl *c);
int verb_prefetch(struct ctl *c);
int verb_session(struct ctl *c);
int verb_events(struct ctl *c);
int verb_ssd_list(struct ctl *c);
int verb_ssd_retire(struct ctl *c);
int verb_ssd_replace(struct ctl *c);
int verb_cluster_status(struct ctl *c);
int verb_cluster_nodes(struct ctl *c);
int verb_cluster_slots(struct ctl *c);
int verb_cluster_events(struct ctl *c);
int verb_node_drain(struct ctl *c);
int verb_node_undrain(struct ctl *c);
int verb_node_remove(struct ctl *c);
int verb_placement_show(struct ctl *c);
int verb_placement_plan(struct ctl *c);
int verb_placement_apply(struct ctl *c);
int verb_coord_status(struct ctl *c);
int verb_coord_transfer(struct ctl *c);
int verb_coord_recover(struct ctl *c);
int verb_experts_load(struct ctl *c);
int verb_experts_plan(struct ctl *c);
int verb_experts_export(struct ctl *c);
int verb_firewall(struct ctl *c);
int verb_size(struct ctl *c);
int verb_stat(struct ctl *c);
int verb_top(struct ctl *c);
int verb_inspect(struct ctl *c);
int verb_keys(struct ctl *c);
int verb_clients(struct ctl *c);
int verb_ns_list(struct ctl *c);
int verb_ns_show(struct ctl *c);
int verb_ns_create(struct ctl *c);
int verb_ns_set(struct ctl *c);
int verb_ns_bump(struct ctl *c);
int verb_reload(struct ctl *c);
int verb_ping(struct ctl *c);
int verb_config_check(struct ctl *c);
int verb_config_dump(struct ctl *c);
int verb_config_schema(struct ctl *c);
int verb_doctor(struct ctl *c);
int verb_completion(struct ctl *c);

#endif
