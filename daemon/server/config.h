/* SPDX-License-Identifier: Apache-2.0
 *
 * The settings: one plain struct made from config.tbl, without pointers, so it
 * is copied by assignment, compared by bytes and handed to lanes by message.
 *
 *   config_defaults -> config_load_text (pikvd.json, then conf.d/ in order)
 *                   -> config_load_env (PIKVD_...) -> config_set (--set)
 *                   -> config_check -> used, or config_diff against the old one
 *
 * Everything here works on buffers and reads no file, so it fuzzes and runs in
 * the simulator. Loading a further text is a merge by RFC 7396: what it names
 * is replaced, null gives back the default, the rest stays.
 *
 * Invariants
 *  1. A struct config that a function answered OK for has every value within
 *     the bounds of its row; only config_check sees several rows together.
 *  2. On an error the struct is as it was before the call.
 *  3. Errors read "file:line:column: path: what is wrong; allowed: what is",
 *     or with the name of a variable or --set instead of the position.
 *
 * Called at boot and at reload, on the control thread; jansson allocates.
 * ERR_CONFIG: not valid; ERR_NO_MEMORY: jansson could not allocate. */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include "base/err.h"
#include "base/log.h"
#include "base/metrics.h"

enum {
    CONFIG_STRING = 512,       /* bytes of a STRING with its NUL */
    CONFIG_ORIGIN = 128,       /* bytes of an origin with its NUL */
    CONFIG_TEXT_MAX = 1 << 20, /* bytes of one configuration file */
};

enum config_hugepages { HUGEPAGES_AUTO, HUGEPAGES_ON, HUGEPAGES_OFF };
enum config_loans { LOANS_OFF, LOANS_ON, LOANS_ANY };
enum config_promote { PROMOTE_DEMAND, PROMOTE_SECOND_TOUCH };
enum config_engine { ENGINE_AUTO, ENGINE_URING, ENGINE_SYNC };
enum config_tiering { TIERING_CACHE, TIERING_WRITE_BUFFER };
enum config_provider { PROVIDER_STATIC, PROVIDER_RAFT };
enum config_security { SECURITY_TLS, SECURITY_PSK, SECURITY_PLAIN };

/* The member that a row of each type makes. */
#define CONFIG_MEMBER_BYTES(name) name##_bytes
#define CONFIG_MEMBER_BYTES_AUTO(name) name##_bytes
#define CONFIG_MEMBER_TIME(name) name##_us
#define CONFIG_MEMBER_UINT(name) name
#define CONFIG_MEMBER_UINT_AUTO(name) name
#define CONFIG_MEMBER_PERCENT(name) name##_pct
#define CONFIG_MEMBER_MODE(name) name
#define CONFIG_MEMBER_BOOL(name) name
#define CONFIG_MEMBER_STRING(name) name
#define CONFIG_MEMBER_CHOICE(name) name

#define CONFIG_DECLARE_BYTES(name) uint64_t name##_bytes;
#define CONFIG_DECLARE_BYTES_AUTO(name) uint64_t name##_bytes;
#define CONFIG_DECLARE_TIME(name) uint64_t name##_us;
#define CONFIG_DECLARE_UINT(name) uint64_t name;
#define CONFIG_DECLARE_UINT_AUTO(name) uint64_t name;
#define CONFIG_DECLARE_PERCENT(name) uint64_t name##_pct;
#define CONFIG_DECLARE_MODE(name) uint64_t name;
#define CONFIG_DECLARE_BOOL(name) bool name;
#define CONFIG_DECLARE_STRING(name) char name[CONFIG_STRING];

enum config_type {
    CONFIG_TYPE_BYTES,
    CONFIG_TYPE_BYTES_AUTO,
    CONFIG_TYPE_TIME,
    CONFIG_TYPE_UINT,
    CONFIG_TYPE_UINT_AUTO,
    CONFIG_TYPE_PERCENT,
    CONFIG_TYPE_MODE,
    CONFIG_TYPE_BOOL,
    CONFIG_TYPE_STRING,
    CONFIG_TYPE_CHOICE,
};

enum config_class { CONFIG_LIVE, CONFIG_DRAIN, CONFIG_RESTART };

enum {
    CONFIG_ROWS = 0
#define GROUP(member, path, doc) +1
#define END(member) +1
#define KEY(type, group, name, def, min, max, class, doc) +1
#define CHOICE(list, group, name, def, class, doc) +1
#include "server/config.tbl"
};

struct config {
#define GROUP(member, path, doc) struct {
#define END(member)                                                            \
    }                                                                          \
    member;
#define KEY(type, group, name, def, min, max, class, doc)                      \
    CONFIG_DECLARE_##type(name)
#define CHOICE(list, group, name, def, class, doc) uint32_t name;
#include "server/config.tbl"
    char origin[CONFIG_ROWS][CONFIG_ORIGIN]; /* who set it, for people */
};

enum config_row_kind { CONFIG_ROW_GROUP, CONFIG_ROW_END, CONFIG_ROW_KEY };

/* A row of the table, in its order; groups and ends included. */
struct config_row {
    enum config_row_kind kind;
    const char *path; /* "listen.shm.path" */
    const char *name; /* "path" */
    const char *doc;
    /* of keys only: */
    enum config_type type;
    enum config_class class;
    const char *def;
    uint64_t min, max;
    size_t off;               /* in struct config */
    const char *const *words; /* CHOICE; may have NULL holes */
    uint32_t word_n;
};

/* Row by place, NULL past the end; group or key by path, NULL if none. */
const struct config_row *config_row(uint32_t idx);
const struct config_row *config_find(const char *path);
/* The path most like this one: for messages. */
const char *config_nearest(const char *path);
/* Who set the value: "default", "pikvd.json:3:5", "env PIKVD_X", "--set". */
const char *config_origin(const struct config *c, const struct config_row *key);
const char *config_class_name(enum config_class class);
const char *config_type_name(enum config_type type);
/* Bytes that every text of a value or of what is allowed fits in. */
enum { CONFIG_VALUE_TEXT = 640 };
/* What a key may be, in words: "64KiB to 16MiB". Returns buf. */
char *config_allowed(const struct config_row *key, char buf[CONFIG_VALUE_TEXT]);
/* The value as --set takes it. Returns buf. */
char *config_value(const struct config *c, const struct config_row *key,
                   char buf[CONFIG_VALUE_TEXT]);
/* "PIKVD_LISTEN_SHM_PATH". Returns buf. */
char *config_env_name(const struct config_row *key, char buf[64]);

void config_defaults(struct config *c);
/* Merges a JSON text; name is the file's, for messages and origins. */
must_check enum err config_load_text(struct config *c, const char *name,
                                     const char *text, size_t len,
                                     struct errmsg *m);
/* Takes every PIKVD_ variable that names a key. Others are put into ignored (a
 * list for one log line; "" if none): container managers make some up, so they
 * are no error. */
must_check enum err config_load_env(struct config *c, char *const *environ_list,
                                    struct errmsg *ignored, struct errmsg *m);
/* One value as text: "24GiB", "true", "off". origin: "--set". */
must_check enum err config_set(struct config *c, const char *path,
                               const char *text, const char *origin,
                               struct errmsg *m);
/* "path=value", as after --set. */
must_check enum err config_set_arg(struct config *c, const char *arg,
                                   struct errmsg *m);
/* The parts that loading a text is made of. put checks and stores one value
 * given as text and says only what is wrong with it; reset gives a key or all
 * keys of a group their defaults. */
must_check enum err config_put(struct config *c, const struct config_row *key,
                               const char *text, const char *origin,
                               struct errmsg *why);
void config_reset(struct config *c, const struct config_row *row);
/* Line and column (from 1, in characters) of a member of a valid JSON text,
 * named by its place in each object on the way down; the member's key, or its
 * value if value is set. 0:0 if there is no such member. */
struct config_pos {
    uint32_t line, column;
};
struct config_pos config_where(const char *text, size_t len,
                               const uint32_t *places, uint32_t depth,
                               bool value);
/* What rows cannot say alone: one value against another. */
must_check enum err config_check(const struct config *c, struct errmsg *m);
/* ---- ssd (config_ssd.c) */
enum { CONFIG_SSDS = 8 };
struct config_ssd_paths {
    uint32_t n;
    char path[CONFIG_SSDS][CONFIG_STRING];
};
/* ssd.paths one by one; false: not a list of absolute paths, or too many.
 * Blanks around a path do not count. */
bool config_ssd_paths(const char *list, struct config_ssd_paths *out);
/* ssd.write_budget for an SSD of which so many bytes are in use, in bytes per
 * second; 0: off. false: not a budget. A budget is at least 1. */
bool config_ssd_budget(const char *text, uint64_t bytes, uint64_t *rate_out);
/* What of ssd contradicts itself or others, a part of config_check: the path of
 * the setting to change and why, or NULL. */
const char *config_ssd_check(const struct config *c, struct errmsg *why);

/* ---- cluster (config_cluster.c) */
enum { CONFIG_NODES = 16, CONFIG_NODE_NAME = 64, CONFIG_ADDRESS = 128 };
struct config_node {
    char name[CONFIG_NODE_NAME], peer[CONFIG_ADDRESS];
    /* of cluster.nodes only: */
    char shm[CONFIG_ADDRESS], ucx[CONFIG_ADDRESS]; /* as clients open them */
    uint32_t lanes;
};
struct config_nodes {
    uint32_t n;
    struct config_node node[CONFIG_NODES];
};
/* cluster.voters, or cluster.nodes (whole), one by one. CONFIG: why says what
 * is wrong with which part and what is allowed. */
must_check enum err config_nodes(const char *list, bool whole,
                                 struct config_nodes *out, struct errmsg *why);
/* May this be a node's name? Letters, digits, dots, dashes, underscores. */
bool config_node_name(const char *name);
/* What of cluster contradicts itself or others: as config_ssd_check. */
const char *config_cluster_check(const struct config *c, struct errmsg *why);

/* The keys whose values differ, in table order; returns how many. */
uint32_t config_diff(const struct config *a, const struct config *b,
                     const struct config_row *keys_out[CONFIG_ROWS]);
/* Copies all values of a class (and their origins) from one to another. */
void config_take(struct config *to, const struct config *from,
                 enum config_class class);

enum config_dump_as {
    CONFIG_DUMP_PLAIN,   /* values */
    CONFIG_DUMP_ORIGINS, /* and in each group's $comment who set them */
    CONFIG_DUMP_DOCS,    /* and in each group's $comment what they mean */
};
/* JSON that config_load_text reads back to the same values. out->bad: no
 * memory. */
void config_dump(const struct config *c, enum config_dump_as as,
                 struct textbuf *out);
/* JSON Schema 2020-12 of a configuration file. */
void config_schema(struct textbuf *out);

#endif
