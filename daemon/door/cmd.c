/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands of the door, and those among them that need no data: they answer
 * at once. Errors are in Redis' words, clients look at them. */
#include <string.h>

#include "base/log.h"
#include "door/impl.h"

#define DOOR_REDIS "7.0.0" /* whose RESP2 this is, for clients that ask */

/* ---- Helpers ---- */

static bool end(struct conn *c)
{
    conn_consume(c);
    return true;
}

static bool end_ok(struct conn *c)
{
    out_raw(c, "+OK\r\n", 5);
    return end(c);
}

static void out_word(struct conn *c, const char *word)
{
    out_bulk(c, word, strlen(word));
}

static bool end_unknown(struct conn *c)
{
    struct pikv_bytes sub = conn_arg(c, 1);

    out_error(c, "ERR unknown subcommand '%.*s' of '%s'",
              (int)min_u64(sub.len, 64), (const char *)sub.p, c->cmd->name);
    return end(c);
}

/* ---- Who is there ---- */

static bool run_ping(struct conn *c)
{
    struct pikv_bytes a;

    if (c->resp.n == 1) {
        out_raw(c, "+PONG\r\n", 7);
    } else {
        a = conn_arg(c, 1);
        out_bulk(c, a.p, a.len);
    }
    return end(c);
}

/* A web page made a browser send its bytes here: as Redis does, none of what
 * follows is listened to. */
static bool run_foreign(struct conn *c)
{
    LOG(LOG_WARN, "resp_http_refused", "client=%llu",
        (unsigned long long)c->id);
    c->ending = true;
    return end(c);
}

static bool run_quit(struct conn *c)
{
    c->ending = true;
    return end_ok(c);
}

static bool run_select(struct conn *c)
{
    struct pikv_bytes a = conn_arg(c, 1);
    uint64_t n;

    if (resp_u64(a.p, a.len, &n) && n == 0)
        return end_ok(c);
    out_error(c, "ERR DB index is out of range");
    return end(c);
}

/* ---- Authentication ---- */

/* In the same time whatever is wrong with it. */
static bool password_is(const struct door *d, struct pikv_bytes word)
{
    const uint8_t *p = word.p;
    uint32_t differ = word.len != d->password_len;

    for (uint32_t i = 0; i < d->password_len; i++)
        differ |= (uint8_t)d->password[i] ^ (i < word.len ? p[i] : 0U);
    return differ == 0;
}

static bool authenticate(struct conn *c, uint32_t user, uint32_t word)
{
    struct door *d = c->door;
    bool known = !user || conn_arg_is(c, user, "default");

    if (!d->password_len && !user) {
        out_error(c, "ERR AUTH <password> called without any password "
                     "configured for the default user. Are you sure your "
                     "configuration is correct?");
        return false;
    }
    if (known && (!d->password_len || password_is(d, conn_arg(c, word)))) {
        c->authenticated = true;
        c->resp.limits = &d->limits;
        return true;
    }
    LOG(LOG_WARN, "resp_password_wrong", "client=%llu",
        (unsigned long long)c->id);
    out_error(c,
              "WRONGPASS invalid username-password pair or user is disabled.");
    return false;
}

static bool run_auth(struct conn *c)
{
    bool named = c->resp.n == 3;

    return authenticate(c, named, named + 1U) ? end_ok(c) : end(c);
}

static bool name_set(struct conn *c, uint32_t i)
{
    struct pikv_bytes a = conn_arg(c, i);
    const uint8_t *p = a.p;

    for (size_t k = 0; k < a.len; k++)
        if (p[k] < '!' || p[k] > '~' || a.len > DOOR_NAME) {
            out_error(c,
                      "ERR Client names cannot contain spaces, newlines or "
                      "special characters, or have more than %d bytes.",
                      DOOR_NAME);
            return false;
        }
    memcpy(c->name, a.p, a.len);
    c->name[a.len] = '\0';
    return true;
}

/* HELLO [2 or 3 [AUTH user password] [SETNAME name]] */
static bool hello_options(struct conn *c)
{
    for (uint32_t i = 2; i < c->resp.n;) {
        if (conn_arg_is(c, i, "auth") && i + 2 < c->resp.n) {
            if (!authenticate(c, i + 1, i + 2))
                return false;
            i += 3;
        } else if (conn_arg_is(c, i, "setname") && i + 1 < c->resp.n) {
            if (!name_set(c, i + 1))
                return false;
            i += 2;
        } else {
            out_error(c, "ERR Syntax error in HELLO");
            return false;
        }
    }
    if (c->authenticated)
        return true;
    out_error(c, "NOAUTH HELLO must be called with the client already "
                 "authenticated, otherwise the HELLO <proto> AUTH <user> "
                 "<pass> option can be used to authenticate the client and "
                 "select the RESP protocol version at the same time");
    return false;
}

static bool run_hello(struct conn *c)
{
    bool three = c->resp.n > 1 && conn_arg_is(c, 1, "3");

    if (c->resp.n > 1 && !three && !conn_arg_is(c, 1, "2")) {
        out_error(c, "NOPROTO unsupported protocol version");
        return end(c);
    }
    if (!hello_options(c))
        return end(c);
    c->resp3 = c->resp.n > 1 ? three : c->resp3;
    out_map(c, 7);
    out_text(c,
             "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n"
             "$%zu\r\n%s\r\n$5\r\nproto\r\n:%d\r\n$2\r\nid\r\n:%llu\r\n"
             "$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n"
             "$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
             strlen(DOOR_REDIS), DOOR_REDIS, c->resp3 ? 3 : 2,
             (unsigned long long)c->id);
    return end(c);
}

/* ---- What tools ask for ---- */

static bool run_client(struct conn *c)
{
    char text[256];
    int n;

    if (conn_arg_is(c, 1, "setname") && c->resp.n == 3)
        return name_set(c, 2) ? end_ok(c) : end(c);
    if (conn_arg_is(c, 1, "setinfo") && c->resp.n == 4)
        return end_ok(c);
    if (conn_arg_is(c, 1, "getname")) {
        out_word(c, c->name);
    } else if (conn_arg_is(c, 1, "id")) {
        out_int(c, (int64_t)c->id);
    } else if (conn_arg_is(c, 1, "info")) {
        n = snprintf(text, sizeof(text),
                     "id=%llu name=%s db=0 sub=0 psub=0 multi=-1 user=default "
                     "resp=2\n",
                     (unsigned long long)c->id, c->name);
        out_bulk(c, text, (uint64_t)n);
    } else {
        return end_unknown(c);
    }
    return end(c);
}

static bool run_command(struct conn *c)
{
    if (c->resp.n > 1 && conn_arg_is(c, 1, "count"))
        out_int(c, 0);
    else
        out_head(c, '*', 0);
    return end(c);
}

/* What redis-benchmark and others look at; any pattern is one name. */
static bool run_config(struct conn *c)
{
    const struct config *cfg = &c->door->cfg;
    char longest[24], clients[24];
    const char *const rows[][2] = {
        {"save", ""},
        {"appendonly", "no"},
        {"databases", "1"},
        {"maxmemory-policy", "allkeys-lru"},
        {"proto-max-bulk-len", longest},
        {"maxclients", clients},
    };
    uint32_t n = 0;

    snprintf(longest, sizeof(longest), "%llu",
             (unsigned long long)cfg->listen.resp.value_bytes);
    snprintf(clients, sizeof(clients), "%llu",
             (unsigned long long)cfg->listen.resp.clients);
    if (!conn_arg_is(c, 1, "get") || c->resp.n != 3)
        return end_unknown(c);
    for (int pass = 0; pass < 2; pass++) {
        if (pass)
            out_map(c, n);
        for (size_t i = 0; i < countof(rows); i++) {
            struct pikv_bytes a = conn_arg(c, 2);

            if (!resp_match(a.p, a.len, (const uint8_t *)rows[i][0],
                            strlen(rows[i][0])))
                continue;
            n++;
            if (pass)
                out_word(c, rows[i][0]);
            if (pass)
                out_word(c, rows[i][1]);
        }
    }
    return end(c);
}

/* ---- The table ---- */

static const struct cmd cmds[] = {
    {"get", 2, 2, data_get, false},       {"set", 3, 0, set_one, false},
    {"mget", 2, 0, data_get, false},      {"mset", 3, 0, set_many, false},
    {"exists", 2, 0, data_exists, false}, {"del", 2, 0, data_del, false},
    {"unlink", 2, 0, data_del, false},    {"strlen", 2, 2, data_strlen, false},
    {"ttl", 2, 2, ask_ttl, false},        {"pttl", 2, 2, ask_pttl, false},
    {"scan", 2, 0, ask_scan, false},      {"dbsize", 1, 1, ask_size, false},
    {"info", 1, 0, ask_info, false},      {"ping", 1, 2, run_ping, false},
    {"echo", 2, 2, run_ping, false},      {"select", 2, 2, run_select, false},
    {"client", 2, 0, run_client, false},  {"command", 1, 0, run_command, false},
    {"config", 2, 0, run_config, false},  {"auth", 2, 3, run_auth, true},
    {"hello", 1, 0, run_hello, true},     {"quit", 1, 0, run_quit, true},
    {"post", 1, 0, run_foreign, true},    {"host:", 1, 0, run_foreign, true},
};

const struct cmd *cmd_find(const struct conn *c)
{
    for (size_t i = 0; i < countof(cmds); i++)
        if (conn_arg_is(c, 0, cmds[i].name))
            return &cmds[i];
    return NULL;
}

static void say_unknown(struct conn *c)
{
    struct pikv_bytes a = conn_arg(c, 0);
    char args[128];
    size_t n = 0;

    args[0] = '\0';
    for (uint32_t i = 1; i < c->resp.n && n < sizeof(args) - 40; i++) {
        struct pikv_bytes w;

        if (c->resp.args[i].off == RESP_OUTSIDE)
            break;
        w = conn_arg(c, i);
        n += (size_t)snprintf(args + n, sizeof(args) - n, "'%.*s' ",
                              (int)min_u64(w.len, 32), (const char *)w.p);
    }
    out_error(c, "ERR unknown command '%.*s', with args beginning with: %s",
              (int)min_u64(a.len, 64), (const char *)a.p, args);
}

bool cmd_allowed(struct conn *c, const struct cmd *cmd)
{
    if (!c->authenticated && !(cmd && cmd->unauthenticated))
        out_error(c, "NOAUTH Authentication required.");
    else if (!cmd)
        say_unknown(c);
    else if (c->resp.n < cmd->args_min ||
             (cmd->args_max && c->resp.n > cmd->args_max))
        out_error(c, "ERR wrong number of arguments for '%s' command",
                  cmd->name);
    else
        return true;
    return false;
}
