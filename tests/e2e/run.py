#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the end-to-end tests against the programs in $PIKV_BUILD.

    tests/e2e/run.py [--only TEXT] [--cluster] [--list]

Those of many real daemons (CLUSTER) run with --cluster, `make check-cluster`:
they need a machine that is not busy, for beats and elections go by the clock.

Each test of test_*.py is a process of its own, with an empty directory as its
TMPDIR and a time limit. A test fails, too, when it leaves something behind: a
process, a file, an entry in /dev/shm. Everything listens on loopback. A line
per test; the output of a failed one follows it. The last line is
"N passed, N failed"; skipped tests are counted on the line before.
"""

import argparse
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
SKIPPED = 77
LIMIT_S = 300
CLUSTER = ("test_cluster", "test_demo_cluster", "test_netns")


def names_in(suite):
    for t in suite:
        if isinstance(t, unittest.TestSuite):
            yield from names_in(t)
        else:
            yield t.id()


def discover():
    stems = [os.path.basename(p)[:-3]
             for p in sorted(glob.glob(os.path.join(HERE, "test_*.py")))]
    return list(names_in(unittest.defaultTestLoader.loadTestsFromNames(stems)))


def run_one(name):
    """In the test's own process."""
    suite = unittest.defaultTestLoader.loadTestsFromName(name)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=0).run(suite)
    if not result.wasSuccessful():
        return 1
    if result.skipped:
        print("skipped: " + result.skipped[0][1])
        return SKIPPED
    return 0


def session_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            after = f.read().rsplit(")", 1)[1].split()
        return None if after[0] == "Z" else int(after[3])
    except (OSError, IndexError):
        return None


def processes(session):
    """Those that the test started and that still run."""
    return [int(p) for p in os.listdir("/proc")
            if p.isdigit() and session_of(p) == session]


def shm():
    return set(os.listdir("/dev/shm"))


def left_behind(session, tmp, shm_before):
    # What was killed a moment ago may take one more to be gone.
    end = time.monotonic() + 5
    while (left := processes(session)) and time.monotonic() < end:
        time.sleep(0.02)
    out = [f"process {p}" for p in left]
    for p in left:
        try:
            os.kill(p, signal.SIGKILL)
        except ProcessLookupError:
            pass
    out += [f"file {f}" for f in os.listdir(tmp)]
    # Others on this machine may make entries there; ours say so.
    out += [f"/dev/shm/{f}" for f in shm() - shm_before if "pikv" in f]
    return out


def run(name):
    """State and output of one test."""
    tmp = tempfile.mkdtemp(prefix="pikv-e2e.")
    before = shm()
    p = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--one",
                          name], stdout=subprocess.PIPE, text=True,
                         stderr=subprocess.STDOUT, errors="replace",
                         start_new_session=True, cwd=HERE,
                         env={**os.environ, "TMPDIR": tmp})
    try:
        out, _ = p.communicate(timeout=LIMIT_S)
        state = {0: "ok", SKIPPED: "skip"}.get(p.returncode, "FAIL")
    except SystemExit:  # run.py is told to stop
        left_behind(p.pid, tmp, before)
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, _ = p.communicate()
        out += f"\nkilled after {LIMIT_S} s"
        state = "FAIL"
    left = left_behind(p.pid, tmp, before)
    if left and state != "FAIL":
        out += "\nleft behind: " + ", ".join(left)
        state = "FAIL"
    shutil.rmtree(tmp, ignore_errors=True)
    return state, out


def main():
    p = argparse.ArgumentParser(description="run the end-to-end tests")
    p.add_argument("--only", default="", help="tests whose name has this text")
    p.add_argument("--cluster", action="store_true",
                   help="the tests of many real daemons, and no others")
    p.add_argument("--list", action="store_true")
    p.add_argument("--one", help=argparse.SUPPRESS)
    a = p.parse_args()
    os.environ["PIKV_BUILD"] = os.environ.get("PIKV_BUILD", "out/debug")
    if a.one:
        return run_one(a.one)
    names = [n for n in discover() if a.only in n
             and a.cluster == n.startswith(CLUSTER)]
    if a.list:
        print("\n".join(names))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    count = {"ok": 0, "FAIL": 0, "skip": 0}
    for name in names:
        start = time.monotonic()
        state, out = run(name)
        count[state] += 1
        print(f"{state:4} {name:60} {time.monotonic() - start:6.1f} s",
              flush=True)
        if state != "ok":
            for line in out.splitlines()[-200 if state == "FAIL" else -1:]:
                print("     | " + line, flush=True)
    print(f"{count['skip']} skipped")
    print(f"{count['ok']} passed, {count['FAIL']} failed")
    return 1 if count["FAIL"] or not names else 0


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    sys.dont_write_bytecode = True
    sys.exit(main())
