/* SPDX-License-Identifier: Apache-2.0
 *
 * One function per topic; each walks one table by its macros. */
#include "server/explain.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "base/units.h"
#include "server/config.h"

static void made_by(struct textbuf *out, const char *topic, const char *table)
{
    textbuf_add(out,
                "<!-- Made by `pikvd --explain %s` from %s: change that. -->\n",
                topic, table);
}

void explain_cell(struct textbuf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            textbuf_add(out, "%c", '\\');
        textbuf_add(out, "%c", *text);
    }
}

/* ---- config */

static void config_intro(struct textbuf *out)
{
    made_by(out, "config", "daemon/server/config.tbl");
    textbuf_add(
        out, "%s",
        "# Settings\n\n"
        "One JSON file, `pikvd --config FILE`; without it the defaults below "
        "count, and they run on any machine. What counts, later over "
        "earlier:\n\n"
        "1. the defaults\n"
        "2. the file\n"
        "3. every `conf.d/*.json` beside it, by name, merged as RFC 7396 says: "
        "what a file names is replaced, `null` gives back the default\n"
        "4. variables: `PIKVD_` and the path in capitals, "
        "`PIKVD_DRAM_CAPACITY=24GiB`\n"
        "5. `--set dram.capacity=24GiB`\n\n"
        "The JSON is strict: no comments but the key `\"$comment\"` (a string "
        "or a list of strings), which may stand in every object; no duplicate "
        "keys; an unknown key is an error that names the nearest one. An error "
        "reads `file:line:column: path: what is wrong; allowed: what is`. "
        "`pikvd --check-config` checks, `--dump-config` prints what counts and "
        "who set it, `--print-schema` the JSON Schema.\n\n"
        "Sizes take B, KiB, MiB, GiB, TiB or are a number of bytes; times take "
        "us, ms, s, m, h. SIGHUP and `pikvctl reload` read everything again "
        "and apply all of it or nothing; the reload column says how: **live** "
        "at once; **drain** for new connections, open ones keep the old value "
        "until they end; **restart** is reported and left as it was.\n");
}

static void config_key(struct textbuf *out, const struct config_row *k)
{
    char allowed[CONFIG_VALUE_TEXT];

    textbuf_add(out, "| `%s` | ", k->path);
    explain_cell(out, config_allowed(k, allowed));
    textbuf_add(out, " | %s%s%s | %s | ", k->def[0] ? "`" : "", k->def,
                k->def[0] ? "`" : "(empty)", config_class_name(k->class));
    explain_cell(out, k->doc);
    textbuf_add(out, "%s", " |\n");
}

static void explain_config(struct textbuf *out)
{
    const struct config_row *r, *next;

    config_intro(out);
    for (uint32_t i = 0; (r = config_row(i)) != NULL; i++) {
        if (r->kind == CONFIG_ROW_KEY)
            config_key(out, r);
        if (r->kind != CONFIG_ROW_GROUP)
            continue;
        textbuf_add(out, "\n## %s: %s\n\n", r->path, r->doc);
        next = config_row(i + 1);
        if (next && next->kind == CONFIG_ROW_KEY)
            textbuf_add(out, "%s",
                        "| setting | allowed | default | reload | meaning |\n"
                        "|---|---|---|---|---|\n");
    }
}

/* ---- pikvd.json(5) */

/* scdoc takes underscores, stars and backslashes for markup. */
static void man_text(struct textbuf *out, const char *text)
{
    for (; *text; text++) {
        if (strchr("_*\\#~<>", *text))
            textbuf_add(out, "%c", '\\');
        textbuf_add(out, "%c", *text);
    }
}

static void man_key(struct textbuf *out, const struct config_row *k)
{
    char allowed[CONFIG_VALUE_TEXT];

    textbuf_add(out, "%c", '*');
    man_text(out, k->path);
    textbuf_add(out, "%s", "*\n\t");
    man_text(out, k->doc);
    textbuf_add(out, "%s", "++\nAllowed: ");
    man_text(out, config_allowed(k, allowed));
    textbuf_add(out, "%s", ". Default: ");
    man_text(out, k->def[0] ? k->def : "empty");
    textbuf_add(out, ". Reload: %s.\n\n", config_class_name(k->class));
}

static void explain_man(struct textbuf *out)
{
    const struct config_row *r;

    textbuf_add(
        out, "%s",
        "pikvd.json(5)\n\n"
        "; SPDX-License-Identifier: Apache-2.0\n"
        "; Made by `pikvd --explain man` from daemon/server/config.tbl.\n\n"
        "# NAME\n\npikvd.json - settings of pikvd(8)\n\n"
        "# DESCRIPTION\n\n"
        "Strict JSON. The key *$comment* (a string or a list of strings) may "
        "stand in every object. What counts, later over earlier: the "
        "defaults, the file given by *--config*, every _conf.d/\\*.json_ "
        "beside it by name (merged by RFC 7396; *null* gives back the "
        "default), variables named *PIKVD\\_* and the path in capitals, and "
        "*--set* path=value.\n\n"
        "Sizes take B, KiB, MiB, GiB, TiB or are a number of bytes; times "
        "take us, ms, s, m, h.\n\n"
        "A reload (SIGHUP) applies all or nothing. Reload classes: _live_ at "
        "once; _drain_ for new connections, open ones keep the old value "
        "until they end; _restart_ is reported and left as it was.\n\n"
        "# SETTINGS\n\n");
    for (uint32_t i = 0; (r = config_row(i)) != NULL; i++) {
        if (r->kind == CONFIG_ROW_KEY)
            man_key(out, r);
        if (r->kind != CONFIG_ROW_GROUP)
            continue;
        textbuf_add(out, "%s", "## ");
        man_text(out, r->path);
        textbuf_add(out, "%s", "\n\n");
        textbuf_add(out, "%c", toupper((unsigned char)r->doc[0]));
        man_text(out, r->doc + 1);
        textbuf_add(out, "%s", ".\n\n");
    }
    textbuf_add(
        out, "%s",
        "# FILES\n\n_/etc/pikvd/pikvd.json_, _/etc/pikvd/conf.d/\\*.json_\n\n"
        "# EXAMPLE\n\n```\n{\n  \"dram\": { \"capacity\": \"24GiB\" },\n"
        "  \"log\": { \"level\": \"notice\" }\n}\n```\n\n"
        "# SEE ALSO\n\n*pikvd*(8), *pikvctl*(1)\n");
}

/* ---- ops */

static void op_row(struct textbuf *out, uint32_t id, const char *name,
                   const char *body, bool now, uint64_t us, uint64_t per_mib,
                   bool idempotent, const char *doc)
{
    char text[32], more[32];

    textbuf_add(out, "| %" PRIu32 " | %s | %s | %s | %s", id, name, body,
                now ? "now" : "later", units_print_us(us, text));
    if (per_mib)
        textbuf_add(out, " + %s per MiB", units_print_us(per_mib, more));
    textbuf_add(out, " | %s | ", idempotent ? "yes" : "no");
    explain_cell(out, doc);
    textbuf_add(out, "%s", " |\n");
}

#define BODY_BATCH "records"
#define BODY_MSG "message"
#define SINCE_NOW true
#define SINCE_LATER false
#define IDEM_YES true
#define IDEM_NO false

static void explain_ops(struct textbuf *out)
{
    made_by(out, "ops", "proto/ops.tbl");
    textbuf_add(
        out, "%s",
        "# Operations\n\n"
        "Body: *records* are wire_batch, wire_key and wire_result records "
        "(docs/PROTOCOL.md), a *message* is a message of proto/pikv.proto. "
        "Since: *later* is laid out and answered with UNSUPPORTED by this "
        "version. Deadline: counts when the caller gives none. Repeat: may "
        "libpikv send it again by itself after RETRY.\n\n"
        "| id | operation | body | since | deadline | repeat | what it does "
        "|\n|---|---|---|---|---|---|---|\n");
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc)                \
    op_row(out, id, #NAME, BODY_##body, SINCE_##since, us, per_mib,            \
           IDEM_##idem, doc);
#include "proto/ops.tbl"
}

/* ---- errors */

static void error_row(struct textbuf *out, int code, const char *name,
                      enum err_who who, const char *text)
{
    textbuf_add(out, "| %d | %s | %s | ", code, name, err_who_text(who));
    explain_cell(out, text);
    textbuf_add(out, "%s", " |\n");
}

static void explain_errors(struct textbuf *out)
{
    made_by(out, "errors", "proto/errors.tbl");
    textbuf_add(
        out, "%s",
        "# Errors\n\n"
        "One list for the wire, the daemon and libpikv. *Who acts* says what "
        "a program should do; codes are never reused.\n\n"
        "| code | name | who acts | meaning |\n|---|---|---|---|\n"
        "| 0 | OK | nobody: a normal answer | done |\n");
#define ERR(name, code, who, text) error_row(out, code, #name, WHO_##who, text);
#include "proto/errors.tbl"
}

/* ---- metrics */

static void metric_row(struct textbuf *out, const char *name,
                       const char *suffix, const char *type, const char *label,
                       const char *doc)
{
    textbuf_add(out, "| `pikvd_%s%s` | %s | %s | ", name, suffix, type, label);
    explain_cell(out, doc);
    textbuf_add(out, "%s", " |\n");
}

static void explain_metrics(struct textbuf *out)
{
    made_by(out, "metrics", "daemon/base/metrics.tbl");
    textbuf_add(
        out, "%s",
        "# Metrics\n\n"
        "Served at `/metrics` of the admin address as Prometheus text 0.0.4 "
        "or OpenMetrics 1.0, summed over lanes. `pikvctl stat` and the STAT "
        "operation give the same numbers by their short names (without "
        "`pikvd_` and `_total`; labels after a dot: `requests.get`, "
        "`results.MISS`). Histograms have 25 buckets from 10 us to 10 s, "
        "four per decade.\n\n"
        "| name | type | label | meaning |\n|---|---|---|---|\n");
#define COUNTER(name, doc) metric_row(out, #name, "_total", "counter", "", doc);
#define GAUGE(name, doc) metric_row(out, #name, "", "gauge", "", doc);
#define OP_COUNTER(name, doc)                                                  \
    metric_row(out, #name, "_total", "counter", "op", doc);
#define OP_HIST(name, doc) metric_row(out, #name, "", "histogram", "op", doc);
#define STAGE_HIST(name, doc) metric_row(out, #name, "", "histogram", "", doc);
#define ERR_COUNTER(name, doc)                                                 \
    metric_row(out, #name, "_total", "counter", "code", doc);
#include "base/metrics.tbl"
}

/* ---- policies */

static void policy_row(struct textbuf *out, const char *name, const char *doc)
{
    textbuf_add(out, "| `%s` | ", name);
    explain_cell(out, doc);
    textbuf_add(out, "%s", " |\n");
}

static void explain_policies(struct textbuf *out)
{
    made_by(out, "policies", "daemon/store/evict.tbl");
    textbuf_add(
        out, "%s",
        "# Eviction policies\n\n"
        "Chosen per namespace, by `namespaces.policy` for new ones, and "
        "changeable live without a flush. Every policy evicts leaves before "
        "roots and never a block that is pinned, lent or in use. "
        "`pikv-bench policy` runs a trace through the same code.\n\n"
        "| name | what it does |\n|---|---|\n");
#define POLICY(name, ops, doc) policy_row(out, #name, doc);
#include "store/evict.tbl"
}

/* ---- JSON */

static void explain_defaults(struct textbuf *out)
{
    struct config c;

    config_defaults(&c);
    config_dump(&c, CONFIG_DUMP_DOCS, out);
}

/* ---- topics */

static const struct {
    const char *name;
    void (*fn)(struct textbuf *out);
} topics[] = {
    {"config", explain_config},     {"ops", explain_ops},
    {"errors", explain_errors},     {"metrics", explain_metrics},
    {"policies", explain_policies}, {"protocol", explain_protocol},
    {"defaults", explain_defaults}, {"schema", config_schema},
    {"man", explain_man},
};

bool explain(const char *topic, struct textbuf *out)
{
    for (uint32_t i = 0; i < countof(topics); i++) {
        if (strcmp(topics[i].name, topic) == 0) {
            topics[i].fn(out);
            return true;
        }
    }
    return false;
}
