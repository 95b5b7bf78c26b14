/* SPDX-License-Identifier: Apache-2.0
 *
 * doctor: looks at this machine for what makes pikvd fail or slow.
 *
 *     OK    all is well
 *     WARN  it works, but slower or with less than there could be
 *     FAIL  pikvd does not start or clients do not reach it
 *
 * The checks run in the order of the list: first what pikvd is told to do, then
 * whether one runs, since a port in use by the daemon itself is no problem.
 * Nothing on the machine is changed. Exit status 1 if anything is FAIL. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "client/ctl/ctl_doctor.h"

enum { LANES_AUTO_MAX = 4, FOUND = 600 };

static const struct {
    const char *name;
    void (*run)(struct doctor *d);
} checks[] = {
    {"config", doctor_config},
    {"daemon", doctor_daemon},
    {"socket directory", doctor_socket_dir},
    {"socket", doctor_socket},
    {"admin port", doctor_admin_port},
    {"ucx port", doctor_ucx_port},
    {"memory", doctor_memory},
    {"cgroup", doctor_cgroup},
    {"hugepages", doctor_hugepages},
    {"thp", doctor_thp},
    {"/dev/shm", doctor_shm},
    {"memlock", doctor_memlock},
    {"open files", doctor_files},
    {"cpu", doctor_cpu},
    {"clock", doctor_clock},
    {"io_uring", doctor_io_uring},
    {"ssd paths", doctor_ssd_paths},
    {"ssd state", doctor_ssd_state},
    {"seccomp", doctor_seccomp},
    {"ucx", doctor_ucx},
};

static const char *const state_names[] = {"OK", "WARN", "FAIL"};

/* ---- what checks use ---- */

void doctor_say(struct doctor *d, enum doctor_state state, const char *why,
                const char *fix, const char *found, ...)
{
    char text[FOUND];
    json_t *o = json_object();
    va_list ap;

    va_start(ap, found);
    vsnprintf(text, sizeof(text), found, ap);
    va_end(ap);
    json_object_set_new(o, "check", json_string(d->check));
    json_object_set_new(o, "state", json_string(state_names[state]));
    json_object_set_new(o, "found", out_text(text));
    json_object_set_new(o, "why", json_string(why));
    json_object_set_new(o, "fix", fix ? out_text(fix) : json_null());
    json_array_append_new(d->rows, o);
    d->failed |= state == DOCTOR_FAIL;
}

static const json_t *setting(const struct doctor *d, const char *path)
{
    const json_t *o = d->settings;
    char word[64];

    while (o && *path) {
        size_t n = strcspn(path, ".");

        snprintf(word, sizeof(word), "%.*s", (int)n, path);
        o = json_object_get(o, word);
        path += n + (path[n] == '.');
    }
    return o;
}

const char *doctor_text(const struct doctor *d, const char *path,
                        const char *dflt)
{
    const char *text = json_string_value(setting(d, path));

    return text ? text : dflt;
}

uint64_t doctor_number(const struct doctor *d, const char *path, uint64_t dflt)
{
    const json_t *v = setting(d, path);
    uint64_t n;

    if (json_is_integer(v))
        return (uint64_t)json_integer_value(v);
    if (json_is_string(v) && units_bytes(json_string_value(v), &n) == OK)
        return n;
    return dflt;
}

bool doctor_bool(const struct doctor *d, const char *path, bool dflt)
{
    const json_t *v = setting(d, path);

    return json_is_boolean(v) ? json_is_true(v) : dflt;
}

uint64_t doctor_dram_bytes(const struct doctor *d)
{
    uint64_t n = doctor_number(d, "dram.capacity", 0);

    return n ? n : doctor_available() / 4;
}

uint32_t doctor_lanes(const struct doctor *d)
{
    uint64_t n = doctor_number(d, "node.lanes", 0);
    cpu_set_t cpus;

    if (n)
        return (uint32_t)n;
    if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0)
        return 1;
    n = min_u64((uint64_t)CPU_COUNT(&cpus) / 2, LANES_AUTO_MAX);
    return (uint32_t)max_u64(n, 1);
}

bool doctor_read(const char *path, char *buf, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t at = 0;
    ssize_t got = fd < 0 ? -1 : 1;

    while (got > 0 && at < n - 1) {
        got = read(fd, buf + at, n - 1 - at);
        at += got > 0 ? (size_t)got : 0;
    }
    if (fd >= 0)
        close(fd);
    buf[at] = '\0';
    return got >= 0;
}

uint64_t doctor_field(const char *text, const char *name, uint64_t dflt)
{
    const char *at = strstr(text, name);
    uint64_t n;

    if (!at || sscanf(at + strlen(name), " %" SCNu64, &n) != 1)
        return dflt;
    return n;
}

const char *doctor_bytes(uint64_t bytes, char *buf, size_t n)
{
    if (bytes >= GIB(1))
        snprintf(buf, n, "%.1f GiB", (double)bytes / (double)GIB(1));
    else if (bytes >= MIB(1))
        snprintf(buf, n, "%.1f MiB", (double)bytes / (double)MIB(1));
    else
        snprintf(buf, n, "%" PRIu64 " KiB", bytes >> 10);
    return buf;
}

/* ---- print ---- */

static const char *member(const json_t *row, const char *name)
{
    const char *text = json_string_value(json_object_get(row, name));

    return text ? text : "";
}

static void print_rows(const json_t *rows)
{
    static char cell[FOUND];
    size_t i;
    json_t *row;

    json_array_foreach(rows, i, row)
    {
        printf("%-5s %-17s %s\n", member(row, "state"), member(row, "check"),
               out_cell(json_object_get(row, "found"), cell, sizeof(cell)));
        if (strcmp(member(row, "state"), "OK") == 0)
            continue;
        printf("%24swhy: %s\n", "", member(row, "why"));
        if (json_is_string(json_object_get(row, "fix")))
            printf("%24sfix: %s\n", "", member(row, "fix"));
    }
}

int verb_doctor(struct ctl *c)
{
    struct doctor d = {.c = c, .rows = json_array()};
    int s = CTL_OK;

    for (size_t i = 0; i < countof(checks); i++) {
        d.check = checks[i].name;
        checks[i].run(&d);
    }
    json_decref(d.settings);
    if (c->json) {
        s = out_rows(c, NULL, 0, d.rows);
    } else {
        print_rows(d.rows);
        json_decref(d.rows);
    }
    return s ? s : d.failed ? CTL_ERROR : CTL_OK;
}
