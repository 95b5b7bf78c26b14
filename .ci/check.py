#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of this repository that a machine can hold.

    .ci/check.py [--format] [--pikvd PATH [--write]]

Layers by include, outside world in shell files only, sizes, banned calls,
promises that name an existing test, functions that documents mention. With
--pikvd also: the files made from the tables are what that daemon prints
(--write writes them instead). One line per problem; the last line counts.
"""

import argparse
import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
TEST_LINES_MAX = 1000  # a suite is a list: one module, one file
PUBLIC_HEADER = "client/pikv.h"  # a list as well
COLUMNS_MAX = 80

# A folder may include these folders or files; the first match decides. What
# tests include is not limited here: the libraries they link are.
LAYERS = [
    ("daemon/base/*", ["base/", "proto/"]),
    ("daemon/store/*", ["store/", "base/", "proto/"]),
    ("daemon/cluster/*", ["cluster/", "base/", "proto/", "peer.pb-c.h"]),
    ("daemon/rpc/*", ["rpc/", "base/", "proto/", "pikv.pb-c.h"]),
    ("daemon/fsck*", ["fsck_*", "store/", "base/", "proto/"]),
    # The door for Redis clients is a client of its own daemon: it knows the
    # public library, and of the server only what boot needs.
    ("daemon/door/*", ["door/", "client/pikv.h", "base/", "pikv.pb-c.h",
                       "server/config.h", "server/files.h",
                       "server/listen.h"]),
    ("daemon/main.c", ["door/door.h", "server/", "base/"]),
    # The puller is a client of other daemons.
    ("daemon/server/puller*", ["server/", "cluster/", "client/pikv.h", "base/",
                               "proto/", "pikv.pb-c.h"]),
    ("daemon/*", ["server/", "rpc/", "store/", "cluster/", "base/", "proto/",
                  "pikv.pb-c.h", "peer.pb-c.h"]),
    # libpikv speaks the same wire but knows no server and no store.
    ("client/*", ["client/", "base/", "proto/", "pikv.pb-c.h", "rpc/frame.h",
                  "rpc/msg.h", "rpc/ring.h", "rpc/shm_wire.h"]),
    # The bench replays traces through the daemon's own policies, and reports
    # loads of experts, for which libpikv has no call.
    ("bench/*", ["bench/", "client/pikv.h", "base/", "proto/", "pikv.pb-c.h",
                 "store/evict*", "store/mrc.h", "store/catalog.h", "store/disk.h",
                 "server/disk_open.h", "cluster/place.h",
                 "cluster/balance.h"]),
]

# What only shell files may include: everything with a clock, a thread, a
# descriptor or chance behind it.
OUTSIDE = re.compile(
    r"uv\.h|uc[pst]/.*|sys/(socket|un|random|epoll|eventfd|timerfd|time|uio)"
    r"\.h|netinet/.*|arpa/.*|netdb\.h|net/.*|time\.h|poll\.h|signal\.h"
    r"|pthread\.h|threads\.h|microhttpd\.h|liburing\.h|cuda.*")

# (shell file, why it is one). The rest of daemon/ is deterministic.
SHELLS = [
    ("daemon/main.c", "arguments, signals, set-up and tear-down"),
    ("daemon/fsck*", "pikv-fsck: a program of its own, files and descriptors"),
    ("daemon/server/loop.*", "libuv loops, clocks, threads of the lanes"),
    ("daemon/server/loop_*", "parts of loop.c"),
    ("daemon/server/ssd_boot.*", "turns all lanes at boot and stop"),
    ("daemon/server/admin*", "admin HTTP"),
    ("daemon/server/listen.*", "listening TCP sockets"),
    ("daemon/server/cluster_loop*", "libuv timers and links of the cluster"),
    ("daemon/server/peer_link*", "libuv sockets and OpenSSL"),
    ("daemon/server/raft_disk*", "raft_uv: the log on disk"),
    ("daemon/server/puller*", "a thread with libpikv, for moves"),
    ("daemon/server/notify.*", "sd_notify datagrams"),
    ("daemon/server/files*", "files, memfds, clocks and seeds for env"),
    ("daemon/server/disk_*", "io_uring, and threads where it is not allowed"),
    ("daemon/rpc/transport_ucx*", "UCX"),
    ("daemon/rpc/transport_shm*", "unix sockets and passed descriptors"),
    ("daemon/door/door.c", "the thread and loop of the door, its socket"),
    ("daemon/door/conn.c", "sockets of Redis clients"),
    ("daemon/door/out.c", "writes to them"),
    ("daemon/door/ask.c", "a worker thread of libuv"),
    ("daemon/door/impl.h", "libuv handles of those"),
    ("daemon/base/mailbox.*", "the one mutex between threads"),
    ("daemon/base/log.c", "a mutex for whole lines, gmtime_r for stamps"),
]

# (file, why it may allocate): nothing else does, and lanes never after boot.
ALLOCATORS = [
    ("daemon/main.c", "boot"),
    ("daemon/fsck*", "pikv-fsck"),
    ("daemon/base/metrics.c", "text for the admin page, control thread"),
    ("daemon/server/admin*", "control thread"),
    ("daemon/server/config*", "configuration, boot and reload"),
    ("daemon/server/control*", "control thread, boot and reload"),
    ("daemon/server/registry*", "boot, control thread"),
    ("daemon/server/files*", "boot and control thread"),
    ("daemon/server/disk_*", "boot"),
    ("daemon/server/loop*", "boot"),
    ("daemon/cluster/*", "control thread only"),
    ("daemon/server/cluster_*", "control thread"),
    ("daemon/server/peer_link*", "control thread"),
    ("daemon/server/raft_disk*", "control thread"),
    ("daemon/server/puller*", "its own thread"),
    ("daemon/rpc/transport_*", "boot and connection set-up"),
    ("daemon/door/door.c", "boot"),
    ("daemon/door/space.c", "boot"),
    ("daemon/door/conn.c", "connection set-up; input buffers, bounded"),
    ("daemon/door/out.c", "text of replies, bounded"),
    ("daemon/door/ask.c", "once, at the first SCAN"),
    ("client/*", "libpikv and pikvctl"),
    ("bench/*", "not the daemon"),
    ("tests/*", "not the daemon"),
]

ALLOCATE = re.compile(
    r"(?<![\w.>])(malloc|calloc|realloc|strdup|strndup|asprintf)\s*\(")
BANNED = re.compile(
    r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|gets|strtok|alloca"
    r"|atoi|rand|srand|time)\s*\(")
# Seeded chance and literals copied into buffers of known size.
IN_TESTS = ("rand", "srand", "strcpy")
CLOCK = re.compile(
    r"(?<![\w.>])(clock_gettime|gettimeofday|getrandom|pthread_create"
    r"|socket|usleep|nanosleep)\s*\(")
# In two halves so that this file does not accuse itself.
LEFTOVER = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")

# What pikvd prints is what the file holds.
GENERATED = [
    ("config/pikvd.json", ["--explain", "defaults"]),
    ("docs/PROTOCOL.md", ["--explain", "protocol"]),
    ("docs/reference/config.md", ["--explain", "config"]),
    ("docs/reference/ops.md", ["--explain", "ops"]),
    ("docs/reference/errors.md", ["--explain", "errors"]),
    ("docs/reference/metrics.md", ["--explain", "metrics"]),
    ("docs/reference/policies.md", ["--explain", "policies"]),
    ("docs/man/pikvd.json.5.scd", ["--explain", "man"]),
]

# Below this line errors.py is made from proto/errors.tbl.
ERRORS_MARK = "# ---- made from proto/errors.tbl by `make docs` ----"

TEXT = (".c", ".h", ".tbl", ".proto", ".py", ".sh", ".md", ".scd", ".json")

problems = []


def problem(path, line, text):
    problems.append(f"{path}:{line}: {text}" if line else f"{path}: {text}")


def listed(path, table):
    return any(fnmatch.fnmatch(path, pattern) for pattern, _ in table)


def repository_files():
    git = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"],
                         capture_output=True, text=True, check=False)
    if git.returncode == 0:
        return sorted({f for f in git.stdout.splitlines()
                       if os.path.isfile(f)})
    found = []
    for folder, folders, files in os.walk("."):
        folders[:] = [d for d in folders if d not in ("out", ".git")]
        found += [os.path.relpath(os.path.join(folder, f)) for f in files]
    return sorted(found)


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def code_of(text):
    """C without comments and string contents; lines keep their numbers."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text,
                  flags=re.S)


# ---- C -------------------------------------------------------------------

def check_includes(path, text):
    allowed = next((a for p, a in LAYERS if fnmatch.fnmatch(path, p)), None)
    shell = listed(path, SHELLS) or not path.startswith("daemon/")
    for n, line in enumerate(text.splitlines(), 1):
        m = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not m:
            continue
        kind, name = m.groups()
        if kind == '"' and allowed is not None and not any(
                fnmatch.fnmatch(name, a + "*" if a.endswith("/") else a)
                for a in allowed):
            problem(path, n, f"layer: may not include {name}")
        if kind == "<" and not shell and OUTSIDE.fullmatch(name):
            problem(path, n, f"shell: only shell files include <{name}>")


def check_functions(path, text):
    start = None
    for n, line in enumerate(text.splitlines(), 1):
        if line == "{":
            start = n
        elif line.startswith("}") and start is not None:
            if n - start + 1 > FUNCTION_LINES_MAX:
                problem(path, start, f"function of {n - start + 1} lines, "
                                     f"at most {FUNCTION_LINES_MAX}")
            start = None


def check_columns(path, text):
    table = False
    for n, line in enumerate(text.splitlines(), 1):
        if "clang-format off" in line:
            table = True
        elif "clang-format on" in line:
            table = False
        if len(line) > COLUMNS_MAX and not table:
            problem(path, n, f"{len(line)} columns, at most {COLUMNS_MAX}")
        if "\t" in line or line != line.rstrip():
            problem(path, n, "a tab or trailing space")


def check_calls(path, code):
    pure = path.startswith("daemon/") and not listed(path, SHELLS)
    for n, line in enumerate(code.splitlines(), 1):
        for m in BANNED.finditer(line):
            if path.startswith("tests/") and m.group(1) in IN_TESTS:
                continue
            problem(path, n, f"banned: {m.group(1)}()")
        for m in ALLOCATE.finditer(line):
            if not listed(path, ALLOCATORS):
                problem(path, n, f"allocates: {m.group(1)}(), not listed")
        for m in CLOCK.finditer(line) if pure else ():
            problem(path, n, f"shell: only shell files call {m.group(1)}()")


def check_c(path, text):
    if not text.startswith(("/* SPDX-License-Identifier: Apache-2.0",
                            "// SPDX-License-Identifier: Apache-2.0")):
        problem(path, 1, "no SPDX line")
    check_includes(path, text)
    check_functions(path, text)
    check_columns(path, text)
    check_calls(path, code_of(text))


# ---- Python, sizes, leftovers --------------------------------------------

def check_python(path, text):
    try:
        tree = ast.parse(text)
    except SyntaxError as e:
        problem(path, e.lineno, f"does not parse: {e.msg}")
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                problem(path, node.lineno, f"function of {lines} lines, "
                                           f"at most {FUNCTION_LINES_MAX}")


def check_file(path):
    text = read(path)
    if path.endswith((".c", ".h")):
        check_c(path, text)
    if path.endswith(".py"):
        check_python(path, text)
    if path.endswith((".c", ".h", ".py")):
        lines = text.count("\n")
        most = TEST_LINES_MAX if path.startswith("tests/") or \
            path == PUBLIC_HEADER else FILE_LINES_MAX
        if lines > most:
            problem(path, 0, f"{lines} lines, at most {most}")
    for n, line in enumerate(text.splitlines(), 1):
        if LEFTOVER.search(line):
            problem(path, n, "unfinished: " + LEFTOVER.search(line).group())


# ---- Documents -----------------------------------------------------------

def check_promises(path="docs/DESIGN.md"):
    """Rows | P<n> | promise | tests/... |: each names a test there is."""
    if not os.path.exists(path):
        return
    for n, line in enumerate(read(path).splitlines(), 1):
        m = re.match(r"\|\s*(P\d+)\s*\|", line)
        if not m:
            continue
        tests = re.findall(r"tests/[\w./-]+[\w]", line)
        if not tests:
            problem(path, n, f"{m.group(1)} names no test")
        for test in tests:
            if not os.path.exists(test):
                problem(path, n, f"{m.group(1)}: no file {test}")


def check_mentions(path):
    """Every `file:function` of a document exists."""
    if not os.path.exists(path):
        return
    mention = re.compile(r"`([\w./-]+\.(?:c|h|py|sh|tbl)):(\w+)(?:\(\))?`")
    for n, line in enumerate(read(path).splitlines(), 1):
        for file, name in mention.findall(line):
            found = [f for f in (file, "daemon/" + file) if os.path.isfile(f)]
            if not found:
                problem(path, n, f"no file {file}")
            elif not re.search(rf"\b{name}\b", read(found[0])):
                problem(path, n, f"no {name} in {found[0]}")


def errors_py(table="proto/errors.tbl"):
    """client/python/pikv/errors.py, from its head above the mark and a class
    per row of the table."""
    out = []
    for name, code, who, text in re.findall(
            r'^ERR\((\w+),\s*(-\d+),\s*(\w+),\s*"([^"]*)"\)', read(table),
            re.M):
        cls = "".join(part.capitalize() for part in name.split("_"))
        out.append((cls, f"""

class {cls}(Error):
    \"""{text[0].upper() + text[1:]}.\"""

    code, name, who = {code}, "{name}", "{who.lower()}"
    text = "{text}"
"""))
    names = "".join(f'    "{cls}",\n' for cls, _ in out)
    return (f"{ERRORS_MARK}\n" + "".join(body for _, body in out) +
            f"\n\n__all__ = [\n{names}]\n\n"
            "ERRORS = {cls.code: cls for cls in Error.__subclasses__()}\n")


def check_errors_py(write, path="client/python/pikv/errors.py"):
    if not os.path.exists(path):
        return
    head = read(path).split(ERRORS_MARK)[0]
    if write:
        with open(path, "w", encoding="utf-8") as f:
            f.write(head + errors_py())
    elif read(path) != head + errors_py():
        problem(path, 0, "not what proto/errors.tbl says; run `make docs`")


def check_generated(pikvd, write):
    for path, argv in GENERATED:
        try:
            run = subprocess.run([pikvd] + argv, capture_output=True,
                                 text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as e:
            problem(path, 0, f"cannot run {pikvd}: {e}")
            return
        if run.returncode != 0:
            problem(path, 0, f"pikvd {' '.join(argv)}: exit status "
                             f"{run.returncode}: {run.stderr.strip()[:200]}")
        elif write:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(run.stdout)
        elif not os.path.exists(path) or read(path) != run.stdout:
            problem(path, 0, f"not what pikvd {' '.join(argv)} prints; "
                             "run `make docs`")


def check_format(files):
    """clang-format's opinion, where there is clang-format."""
    if not shutil.which("clang-format"):
        return
    for path in files:
        if not path.endswith((".c", ".h")):
            continue
        run = subprocess.run(["clang-format", path], capture_output=True,
                             text=True, check=False)
        if run.stdout != read(path):
            problem(path, 0, "clang-format would change it (`make format`)")


def main():
    p = argparse.ArgumentParser(description="check the repository's rules")
    p.add_argument("--format", action="store_true")
    p.add_argument("--pikvd", metavar="PATH")
    p.add_argument("--write", action="store_true")
    a = p.parse_args()
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    files = repository_files()
    for path in files:
        if path.endswith(TEXT) or path == "Makefile":
            check_file(path)
    check_promises()
    for path in ("README.md", "docs/TOUR.md"):
        check_mentions(path)
    check_errors_py(a.write)
    if a.pikvd:
        check_generated(a.pikvd, a.write)
    if a.format:
        check_format(files)
    for line in problems:
        print(line)
    print(f"check.py: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
