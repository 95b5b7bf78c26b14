#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs everything `make check` built and counts.

    .ci/test.py [--only TEXT] [--jobs N] [--soak MINUTES]

A job is one program. What it prints decides what it counts for: Check's
summary line for unit tests, "N passed, N failed" for the end-to-end runner and
check.py's own line, else one test that passes when the exit status is 0. A
program that is not there, hangs, or dies after its summary is a failure. The
output of a failed job is shown whole. The last line is "N passed, N failed".
"""

import argparse
import concurrent.futures
import glob
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time

CHECK_LINE = re.compile(r"\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)")
COUNT_LINE = re.compile(r"^(\d+) passed, (\d+) failed$", re.M)
# Printed by simulator runs; the same seeds give the same in every build.
HASH_LINE = re.compile(r"^.*\bhash[ =:]+[0-9a-f]{8,}.*$", re.M)

ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
    "CK_DEFAULT_TIMEOUT": "60",
}


class Job:
    def __init__(self, name, argv, timeout_s):
        self.name, self.argv, self.timeout_s = name, argv, timeout_s
        self.passed = self.failed = 0
        self.output, self.took_s = "", 0.0

    def run(self):
        start = time.monotonic()
        rc = self.execute()
        self.took_s = time.monotonic() - start
        self.count(rc)
        return self

    def execute(self):
        """The exit status; None when there was none. A program that ran out
        of time goes with all that it started."""
        try:
            p = subprocess.Popen(self.argv, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True,
                                 errors="replace", env={**ENV, **os.environ},
                                 start_new_session=True)
        except OSError as e:
            self.output = f"cannot start: {e}\n"
            return None
        try:
            self.output, _ = p.communicate(timeout=self.timeout_s)
            return p.returncode
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            self.output, _ = p.communicate()
            self.output += f"\nkilled after {self.timeout_s} s\n"
            return None

    def count(self, rc):
        checks = CHECK_LINE.findall(self.output)
        counts = COUNT_LINE.findall(self.output)
        if checks:
            ran = sum(int(c[0]) for c in checks)
            self.failed = sum(int(c[1]) + int(c[2]) for c in checks)
            self.passed = ran - self.failed
        elif counts:
            self.passed, self.failed = map(int, counts[-1])
        elif rc == 0:
            self.passed = 1
        if rc != 0 and self.failed == 0:
            self.output += f"\nexit status {rc}\n"
            self.failed = 1
        elif self.passed + self.failed == 0:
            self.output += "\nno test ran\n"
            self.failed = 1

    def report(self):
        state = "FAIL" if self.failed else "ok"
        print(f"{state:4} {self.name:40} {self.passed:5} passed"
              f" {self.failed:3} failed {self.took_s:7.1f} s", flush=True)
        if self.failed:
            print("     $ " + " ".join(self.argv))
            for line in self.output.splitlines():
                print("     | " + line)


def stems(pattern):
    return [os.path.basename(p)[:-2] for p in sorted(glob.glob(pattern))]


def no_aslr():
    """ThreadSanitizer wants addresses where older kernels put them."""
    argv = ["setarch", platform.machine(), "-R"]
    try:
        ok = subprocess.run(argv + ["true"], stderr=subprocess.DEVNULL,
                            check=False).returncode == 0
    except OSError:
        ok = False
    return argv if ok else []


def has_threads(stem):
    with open(f"tests/unit/{stem}.c", encoding="utf-8") as f:
        return "<pthread.h>" in f.read()


def tidy_jobs():
    argv = [".ci/check.py"]
    if os.path.exists("daemon/main.c"):
        argv += ["--pikvd", "out/debug/pikvd"]
    return [Job("check.py", argv, 120)]


def unit_jobs():
    jobs = []
    for stem in stems("tests/unit/test_*.c"):
        for variant in ("debug", "asan"):
            jobs.append(Job(f"unit {variant} {stem}",
                            [f"out/{variant}/unit/{stem}"], 300))
        if has_threads(stem):
            jobs.append(Job(f"unit tsan {stem}",
                            no_aslr() + [f"out/tsan/unit/{stem}"], 300))
    return jobs


def fuzz_jobs():
    jobs = []
    for stem in stems("tests/fuzz/fuzz_*.c"):
        name = stem[len("fuzz_"):]
        dirs = [d for d in (f"tests/fuzz/corpus/{name}",
                            f"tests/fuzz/regress/{name}") if os.path.isdir(d)]
        jobs.append(Job(f"replay {name}", [f"out/asan/fuzz/{stem}"] + dirs,
                        300))
    return jobs


def sim_jobs():
    return [Job(f"sim {variant} {stem}", [f"out/{variant}/sim_{stem}"], 600)
            for stem in stems("tests/sim/*.c")
            for variant in ("debug", "release")]


def e2e_jobs():
    path = "tests/e2e/run.py"
    return [Job("e2e", [path], 2400)] if os.path.exists(path) else []


def python_jobs():
    """The Python package; V=asan loads the sanitizer before Python."""
    path = "tests/python/run.py"
    return [Job(f"python {variant}",
                ["env", f"PIKV_BUILD=out/{variant}", path], 900)
            for variant in ("debug", "asan")
            if os.path.exists(f"out/{variant}/python")]


def engine_jobs():
    """The engines' doors; stand-ins for engines that are not installed."""
    path = "tests/engines/run.py"
    return [Job("engines debug", ["env", "PIKV_BUILD=out/debug", path], 900)] \
        if os.path.exists("out/debug/python") else []


def run_all(jobs, workers):
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for job in concurrent.futures.as_completed(
                pool.submit(job.run) for job in jobs):
            job.result().report()


def same_hashes(jobs):
    """One pseudo job: debug and release made the same decisions."""
    hashes = {}
    for job in jobs:
        if job.name.startswith("sim "):
            _, variant, stem = job.name.split()
            hashes[stem, variant] = HASH_LINE.findall(job.output)
    out = []
    for stem in sorted({s for s, _ in hashes}):
        a, b = hashes.get((stem, "debug")), hashes.get((stem, "release"))
        if not a and not b:
            continue
        job = Job(f"sim same trace {stem}", ["compare", "debug", "release"], 0)
        job.passed, job.failed = (1, 0) if a == b else (0, 1)
        job.output = "\n".join(["debug:"] + a + ["release:"] + b)
        job.report()
        out.append(job)
    return out


def finish(jobs):
    passed = sum(j.passed for j in jobs)
    failed = sum(j.failed for j in jobs)
    bad = [j.name for j in jobs if j.failed]
    if bad:
        print("failed: " + ", ".join(bad))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def check(only, workers):
    jobs = [j for j in tidy_jobs() + unit_jobs() + fuzz_jobs() + sim_jobs()
            if only in j.name]
    run_all(jobs, workers)
    jobs += same_hashes(jobs)
    # Real processes and real deadlines: alone on the machine.
    last = [j for j in e2e_jobs() + python_jobs() + engine_jobs()
            if only in j.name]
    run_all(last, 1)
    return finish(jobs + last)


def soak(minutes):
    """Fresh seeds until the time is over; the seed of a failure is in its
    command line."""
    end = time.monotonic() + minutes * 60
    jobs = []
    while time.monotonic() < end and not any(j.failed for j in jobs):
        seed = random.randrange(1, 1 << 31)
        batch = [Job(f"sim asan {s}", [f"out/asan/sim_{s}", f"SEED={seed}"],
                     3600) for s in stems("tests/sim/*.c")]
        run_all(batch, 2)
        more = e2e_jobs()
        run_all(more, 1)
        jobs += batch + more
    return finish(jobs)


def main():
    p = argparse.ArgumentParser(description="run the tests that were built")
    p.add_argument("--only", default="", help="jobs whose name has this text")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--soak", type=float, metavar="MINUTES")
    a = p.parse_args()
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    return soak(a.soak) if a.soak else check(a.only, a.jobs)


if __name__ == "__main__":
    sys.exit(main())
