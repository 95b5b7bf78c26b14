/* SPDX-License-Identifier: Apache-2.0
 *
 * doctor: the daemon, its settings, its socket and ports. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/ctl/ctl_doctor.h"

#define CONFIG_FILE "/etc/pikvd/pikvd.json"
#define SOCKET_DFLT "/run/pikvd/pikvd.sock"

enum { PATH_BYTES = 300, OUTPUT_BYTES = 256 << 10 };

/* ---- config ---- */

/* Runs a program; what it prints to fd 1 and 2 in out. Its exit status, or -1.
 */
static int run_program(char *const *argv, char *out, size_t n)
{
    posix_spawn_file_actions_t acts;
    int pipes[2], status = -1;
    size_t at = 0;
    ssize_t got = 1;
    pid_t pid;

    if (pipe(pipes) != 0)
        return -1;
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_adddup2(&acts, pipes[1], 1);
    posix_spawn_file_actions_adddup2(&acts, pipes[1], 2);
    posix_spawn_file_actions_addclose(&acts, pipes[0]);
    posix_spawn_file_actions_addclose(&acts, pipes[1]);
    if (posix_spawn(&pid, argv[0], &acts, NULL, argv, environ) != 0)
        pid = -1;
    posix_spawn_file_actions_destroy(&acts);
    close(pipes[1]);
    while (pid > 0 && got > 0 && at < n - 1) {
        got = read(pipes[0], out + at, n - 1 - at);
        at += got > 0 ? (size_t)got : 0;
    }
    out[at] = '\0';
    close(pipes[0]);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static char word_dump[] = "--dump-config", word_config[] = "--config";

/* What pikvd says of the configuration in d->settings, or in out why not; its
 * exit status, -1 if it does not run, d->pikvd "" if there is none. */
static int read_settings(struct doctor *d, char *out, size_t n)
{
    static char config[PATH_BYTES];
    char *argv[] = {d->pikvd, word_dump, word_config, config, NULL};
    int rc;

    d->config = d->c->opt[OPT_CONFIG];
    if (!d->config && access(CONFIG_FILE, R_OK) == 0)
        d->config = CONFIG_FILE;
    snprintf(config, sizeof(config), "%s", d->config ? d->config : "");
    if (!config_find_pikvd(d->pikvd, sizeof(d->pikvd))) {
        d->pikvd[0] = '\0';
        return -1;
    }
    if (!d->config)
        argv[2] = NULL;
    rc = run_program(argv, out, n);
    d->settings = rc == 0 ? json_loads(out, 0, NULL) : NULL;
    out[strcspn(out, "\n")] = '\0';
    return rc;
}

int doctor_settings(struct doctor *d)
{
    static char out[OUTPUT_BYTES];
    int rc = read_settings(d, out, sizeof(out));

    if (d->settings)
        return CTL_OK;
    if (!d->pikvd[0])
        return ctl_fail(CTL_ERROR, "%s: no pikvd beside pikvctl, in $PIKVD or "
                                   "in PATH; set PIKVD to its path",
                        d->c->verb->name);
    return ctl_fail(CTL_ERROR, "%s: %s", d->c->verb->name,
                    rc < 0 ? "pikvd does not run" : out);
}

void doctor_config(struct doctor *d)
{
    static const char why[] = "pikvd refuses to start with a wrong setting";
    static char out[OUTPUT_BYTES];
    const char *config;
    char fix[2 * PATH_BYTES + 40];
    int rc = read_settings(d, out, sizeof(out));

    if (!d->pikvd[0]) {
        doctor_say(d, DOCTOR_WARN, why, "export PIKVD=/path/to/pikvd",
                   "no pikvd on this machine; defaults are assumed");
        return;
    }
    config = d->config ? d->config : "";
    snprintf(fix, sizeof(fix), "edit %s; pikvctl config check %s", config,
             config);
    if (d->settings)
        doctor_say(d, DOCTOR_OK, why, NULL, "%s",
                   d->config ? d->config : "built-in settings");
    else
        doctor_say(d, DOCTOR_FAIL, why, d->config ? fix : NULL, "%s",
                   rc < 0 ? "pikvd does not run" : out);
}

/* ---- daemon ---- */

/* Where the daemon of this machine is, as pikvctl would find it. */
static void default_address(struct doctor *d)
{
    static char address[PATH_BYTES + 8];
    const char *env = getenv("PIKV_ADDRESS");

    if (d->c->opt[OPT_ADDRESS])
        return;
    d->c->opt[OPT_ADDRESS] = address;
    if (env && *env) {
        snprintf(address, sizeof(address), "%s", env);
        return;
    }
    snprintf(address, sizeof(address), "shm:%s",
             doctor_text(d, "listen.shm.path", SOCKET_DFLT));
}

void doctor_daemon(struct doctor *d)
{
    static const char why[] = "clients need one that answers";
    struct pikv_options o = {.engine = "pikvctl doctor"};
    struct pikv_info info;
    struct pikv *kv;
    int code;

    default_address(d);
    o.address = d->c->opt[OPT_ADDRESS];
    code = pikv_open(&o, &kv);
    if (!code) {
        code = pikv_info(kv, &info);
        d->running = !code && strcmp(info.transport, "shm") == 0;
        pikv_close(kv);
        doctor_say(d, DOCTOR_OK, why, NULL, "%s answers over %s, %u lanes",
                   info.server, info.transport, info.lanes);
        return;
    }
    snprintf(d->running_error, sizeof(d->running_error), "%s",
             pikv_last_error());
    doctor_say(d, code == PIKV_NO_SERVER ? DOCTOR_WARN : DOCTOR_FAIL, why,
               code == PIKV_NO_SERVER ? "systemctl start pikvd"
                                      : "systemctl restart pikvd",
               "%s", d->running_error);
}

/* ---- socket ---- */

static const char *socket_path(const struct doctor *d, char *path, size_t n)
{
    const char *address = d->c->opt[OPT_ADDRESS];

    if (address && strncmp(address, "shm:", 4) == 0)
        snprintf(path, n, "%s", address + 4);
    else
        snprintf(path, n, "%s", doctor_text(d, "listen.shm.path", SOCKET_DFLT));
    return path;
}

static bool has_unit(void)
{
    static const char *const paths[] = {
        "/etc/systemd/system/pikvd.service",
        "/lib/systemd/system/pikvd.service",
        "/usr/lib/systemd/system/pikvd.service",
        "/usr/local/lib/systemd/system/pikvd.service",
    };
    bool has = false;

    for (size_t i = 0; i < countof(paths); i++)
        has |= access(paths[i], F_OK) == 0;
    return has;
}

void doctor_socket_dir(struct doctor *d)
{
    static const char why[] = "pikvd makes its socket there";
    char path[PATH_BYTES] = "", fix[2 * PATH_BYTES + 80];
    const char *dir;
    struct stat st;

    socket_path(d, path, sizeof(path));
    dir = dirname(path);
    if (stat(dir, &st) != 0) {
        bool unit = strcmp(dir, "/run/pikvd") == 0 && has_unit();

        snprintf(fix, sizeof(fix), "%s%s",
                 unit ? "systemctl start pikvd" : "sudo install -d -o $USER ",
                 unit ? "" : dir);
        doctor_say(d, unit ? DOCTOR_WARN : DOCTOR_FAIL, why, fix, "%s: %s%s",
                   dir, strerror(errno), unit ? "; the unit makes it" : "");
    } else if (!S_ISDIR(st.st_mode)) {
        snprintf(fix, sizeof(fix), "rm %s && install -d %s", dir, dir);
        doctor_say(d, DOCTOR_FAIL, why, fix, "%s is not a directory", dir);
    } else if (access(dir, W_OK | X_OK) == 0) {
        doctor_say(d, DOCTOR_OK, why, NULL, "%s is writable", dir);
    } else if (d->running) {
        doctor_say(d, DOCTOR_OK, why, NULL, "%s is the daemon's, not yours",
                   dir);
    } else {
        doctor_say(d, DOCTOR_WARN, why,
                   "start pikvd as the owner, or --set "
                   "listen.shm.path=$XDG_RUNTIME_DIR/pikvd.sock",
                   "%s belongs to uid %u and is not writable for you", dir,
                   (unsigned)st.st_uid);
    }
}

static int socket_try(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), e = 0;

    if (strlen(path) >= sizeof(a.sun_path) || fd < 0) {
        if (fd >= 0)
            close(fd);
        return ENAMETOOLONG;
    }
    memcpy(a.sun_path, path, strlen(path));
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) != 0)
        e = errno;
    close(fd);
    return e;
}

void doctor_socket(struct doctor *d)
{
    static const char why[] = "clients on this machine connect to it";
    char path[PATH_BYTES] = "";
    int e;

    if (!doctor_bool(d, "listen.shm.enabled", true)) {
        doctor_say(d, DOCTOR_OK, why, NULL, "listen.shm is off");
        return;
    }
    e = socket_try(socket_path(d, path, sizeof(path)));
    if (e == 0)
        doctor_say(d, DOCTOR_OK, why, NULL, "%s is live", path);
    else if (e == ENOENT)
        doctor_say(d, DOCTOR_WARN, why, "systemctl start pikvd",
                   "%s is not there", path);
    else if (e == ECONNREFUSED)
        doctor_say(d, DOCTOR_WARN, why, "systemctl start pikvd",
                   "%s is stale: nobody listens; a new pikvd replaces it",
                   path);
    else if (e == EACCES)
        doctor_say(d, DOCTOR_FAIL, why,
                   "usermod -aG pikvd $USER, then log in again",
                   "%s: you may not connect", path);
    else
        doctor_say(d, DOCTOR_FAIL, why, "rm the file; systemctl start pikvd",
                   "%s: %s", path, strerror(e));
}

/* ---- ports ---- */

/* The inode of the socket that listens on a tcp port; 0: nobody does. */
static unsigned long listener(const char *table, unsigned port)
{
    FILE *f = fopen(table, "re");
    char line[512];
    unsigned long inode = 0;

    while (f && !inode && fgets(line, sizeof(line), f)) {
        unsigned at, state;
        unsigned long n;

        /* sl: local:port remote:port st queues timers retrnsmt uid timeout
         * inode */
        if (sscanf(line,
                   " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s "
                   "%*s %*s %lu",
                   &at, &state, &n) == 3 &&
            at == port && state == 0x0a)
            inode = n;
    }
    if (f)
        fclose(f);
    return inode;
}

static bool process_has(const char *pid, const char *link_text)
{
    char path[PATH_BYTES + 64], text[64];
    DIR *dir;
    struct dirent *e;
    bool has = false;

    snprintf(path, sizeof(path), "/proc/%.64s/fd", pid);
    dir = opendir(path);
    while (dir && !has && (e = readdir(dir))) {
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%.32s/fd/%.32s", pid, e->d_name);
        n = readlink(path, text, sizeof(text) - 1);
        text[n > 0 ? n : 0] = '\0';
        has = strcmp(text, link_text) == 0;
    }
    if (dir)
        closedir(dir);
    return has;
}

/* "name (pid N)" of who holds a socket; false if that cannot be seen. */
static bool owner_of(unsigned long inode, char *who, size_t n)
{
    DIR *dir = opendir("/proc");
    struct dirent *e;
    char link_text[64], path[64], comm[64];
    bool found = false;

    snprintf(link_text, sizeof(link_text), "socket:[%lu]", inode);
    while (dir && !found && (e = readdir(dir))) {
        if (e->d_name[0] < '0' || e->d_name[0] > '9' ||
            !process_has(e->d_name, link_text))
            continue;
        found = true;
        snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
        doctor_read(path, comm, sizeof(comm));
        comm[strcspn(comm, "\n")] = '\0';
        snprintf(who, n, "%s (pid %.20s)", comm, e->d_name);
    }
    if (dir)
        closedir(dir);
    return found;
}

/* true if it was said that the port is taken. */
static bool port_taken(struct doctor *d, const char *setting, unsigned port,
                       const char *why)
{
    unsigned long inode = listener("/proc/net/tcp", port);
    char who[128] = "", fix[160];
    bool ours;

    if (!inode)
        inode = listener("/proc/net/tcp6", port);
    if (!inode)
        return false;
    if (!owner_of(inode, who, sizeof(who)))
        snprintf(who, sizeof(who), "%s",
                 d->running ? "pikvd (run as root to be sure)"
                            : "a process of another user");
    ours = strncmp(who, "pikvd", 5) == 0;
    snprintf(fix, sizeof(fix), "give another: \"%s\" in %s", setting,
             d->config ? d->config : CONFIG_FILE);
    doctor_say(d, ours ? DOCTOR_OK : DOCTOR_FAIL, why, ours ? NULL : fix,
               "port %u is taken by %s", port, who);
    return true;
}

void doctor_admin_port(struct doctor *d)
{
    static const char why[] = "metrics and health are served there";
    unsigned port = (unsigned)doctor_number(d, "listen.admin.port", 7421);

    if (!doctor_bool(d, "listen.admin.enabled", true))
        doctor_say(d, DOCTOR_OK, why, NULL, "listen.admin is off");
    else if (!port_taken(d, "listen.admin.port", port, why))
        doctor_say(d, DOCTOR_OK, why, NULL, "port %u is free", port);
}

void doctor_ucx_port(struct doctor *d)
{
    static const char why[] = "clients of other machines connect there";
    unsigned port = (unsigned)doctor_number(d, "listen.ucx.port", 7430);
    unsigned lanes = doctor_lanes(d);
    bool taken = false;

    if (!doctor_bool(d, "listen.ucx.enabled", false)) {
        doctor_say(d, DOCTOR_OK, why, NULL, "listen.ucx is off");
        return;
    }
    for (unsigned i = 0; i < lanes && !taken; i++)
        taken = port_taken(d, "listen.ucx.port", port + i, why);
    if (!taken)
        doctor_say(d, DOCTOR_OK, why, NULL, "ports %u to %u are free", port,
                   port + lanes - 1);
}
