#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of the Python package against the build in $PIKV_BUILD.

    tests/python/run.py [--only TEXT] [--list]

Each test_*.py is a process of its own with its own daemons and an empty TMPDIR;
it fails, too, when it leaves a process or a file behind, and a process that
dies takes the tests that it had not finished with it. In a sanitized build the
sanitizer is loaded before Python, which makes it check the extension; what
Python itself does not free is not looked for. A line per file, the output of
failed ones, the reasons of skipped tests. The last line is
"N passed, N failed".
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
ROOT = os.path.dirname(os.path.dirname(HERE))
LIMIT_S = 300
DONE = "@done "


class Tally(unittest.TextTestResult):
    """Says what was done as it is done: a process may die in the middle."""

    def told(self, word, test, more=""):
        print(f"{DONE}{word} {test.id()} {more}".rstrip(), flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.told("ok", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.told("skip", test, reason)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.told("FAIL", test)

    def addError(self, test, err):
        super().addError(test, err)
        self.told("FAIL", test)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.told("FAIL", test)


def ids_in(suite):
    for t in suite:
        if isinstance(t, unittest.TestSuite):
            yield from ids_in(t)
        else:
            yield t.id()


def load(stem):
    return unittest.defaultTestLoader.loadTestsFromName(stem)


def run_file(stem):
    """In the file's own process."""
    runner = unittest.TextTestRunner(stream=sys.stdout, verbosity=0,
                                     resultclass=Tally)
    return 0 if runner.run(load(stem)).wasSuccessful() else 1


def environment(build, tmp):
    env = {**os.environ, "TMPDIR": tmp,
           "PYTHONPATH": os.path.join(ROOT, build, "python"),
           "PYTHONDONTWRITEBYTECODE": "1", "PYTHONFAULTHANDLER": "1"}
    if os.path.basename(build) == "asan":
        env["LD_PRELOAD"] = subprocess.run(
            [os.environ.get("CC", "gcc"), "-print-file-name=libasan.so"],
            stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        env["ASAN_OPTIONS"] = "detect_leaks=0"
        env["PYTHONMALLOC"] = "malloc"
    return env


def processes(session):
    out = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/stat", encoding="utf-8") as f:
                state, _, _, sid = f.read().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            out.append(int(p))
    return out


def left_behind(session, tmp):
    end = time.monotonic() + 5
    while (left := processes(session)) and time.monotonic() < end:
        time.sleep(0.02)
    for p in left:
        try:
            os.kill(p, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return ([f"process {p}" for p in left] +
            [f"file {f}" for f in os.listdir(tmp)])


def run(stem, build):
    """Output of one file, and what it left behind."""
    tmp = tempfile.mkdtemp(prefix="pikv-python.")
    p = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--one",
                          stem], stdout=subprocess.PIPE, text=True,
                         stderr=subprocess.STDOUT, errors="replace", cwd=HERE,
                         start_new_session=True, env=environment(build, tmp))
    try:
        out, _ = p.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, _ = p.communicate()
        out += f"\nkilled after {LIMIT_S} s"
    except BaseException:  # told to end: its daemons end with it
        os.killpg(p.pid, signal.SIGKILL)
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    left = left_behind(p.pid, tmp)
    shutil.rmtree(tmp, ignore_errors=True)
    return p.returncode, out, left


def judge(stem, rc, out, left):
    """ok, FAIL and skip of one file, printed."""
    count = {"ok": 0, "FAIL": 0, "skip": 0}
    state = {}
    for line in out.splitlines():
        if line.startswith(DONE):
            word, name, *reason = line[len(DONE):].split(" ", 2)
            state[name] = "FAIL" if state.get(name) == "FAIL" else word
            if word == "skip":
                print(f"     | skipped {name}: {' '.join(reason)}")
    for word in state.values():
        count[word] += 1
    trouble = []
    if rc != 0 and not count["FAIL"] or not state:
        trouble.append(f"exit status {rc}")
    if left:
        trouble.append("left behind: " + ", ".join(left))
    count["FAIL"] += bool(trouble)
    word = "FAIL" if count["FAIL"] else "ok"
    print(f"{word:4} {stem:30} {count['ok']:4} passed {count['FAIL']:3} "
          f"failed {count['skip']:3} skipped", flush=True)
    if count["FAIL"]:
        for line in out.splitlines() + trouble:
            if not line.startswith(DONE + "ok"):
                print("     | " + line, flush=True)
    return count


def main():
    p = argparse.ArgumentParser(description="test the Python package")
    p.add_argument("--only", default="", help="files whose name has this text")
    p.add_argument("--list", action="store_true")
    p.add_argument("--one", help=argparse.SUPPRESS)
    a = p.parse_args()
    build = os.environ["PIKV_BUILD"] = os.environ.get("PIKV_BUILD",
                                                      "out/debug")
    if a.one:
        return run_file(a.one)
    stems = [os.path.basename(f)[:-3] for f in
             sorted(glob.glob(os.path.join(HERE, "test_*.py")))]
    stems = [s for s in stems if a.only in s]
    if a.list:
        for s in stems:
            print("\n".join(ids_in(load(s))))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    total = {"ok": 0, "FAIL": 0, "skip": 0}
    for s in stems:
        for word, n in judge(s, *run(s, build)).items():
            total[word] += n
    print(f"{total['skip']} skipped")
    print(f"{total['ok']} passed, {total['FAIL']} failed")
    return 1 if total["FAIL"] or not stems else 0


if __name__ == "__main__":
    sys.path[:0] = [HERE, os.path.join(ROOT, "tests/e2e")]
    sys.dont_write_bytecode = True
    sys.exit(main())
