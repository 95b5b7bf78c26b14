#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of the engines' doors against the build in $PIKV_BUILD.

    tests/engines/run.py [--only TEXT] [--list] [--needs-engines]

test_NAME.py runs with the Python of the virtual environment in which engine
NAME is installed: $PIKV_ENGINES/NAME, default out/engines/NAME (setup.sh makes
it). Without one it runs with this Python, and what needs the real engine is
skipped, with the reason; --needs-engines makes that a failure. Otherwise as
tests/python/run.py, whose rules hold here.
"""

import argparse
import glob
import importlib.util
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIMIT_S = 600


def sibling():
    """tests/python/run.py, as a module."""
    spec = importlib.util.spec_from_file_location(
        "run_python", os.path.join(ROOT, "tests/python/run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_of(stem):
    folder = os.environ.get("PIKV_ENGINES", os.path.join(ROOT, "out/engines"))
    path = os.path.join(folder, stem.removeprefix("test_"), "bin/python")
    return path if os.path.exists(path) else None


def run(base, stem, build):
    tmp = tempfile.mkdtemp(prefix="pikv-engines.")
    p = subprocess.Popen(
        [python_of(stem) or sys.executable, "-W", "ignore",
         os.path.abspath(__file__), "--one", stem], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", cwd=HERE,
        start_new_session=True, env=base.environment(build, tmp))
    try:
        out, _ = p.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        p.kill()
        out = p.communicate()[0] + f"\nkilled after {LIMIT_S} s"
    for cache in glob.glob(os.path.join(tmp, "torchinductor_*")):
        base.shutil.rmtree(cache)  # torch's own, of every process
    left = base.left_behind(p.pid, tmp)
    base.shutil.rmtree(tmp, ignore_errors=True)
    return p.returncode, out, left


def main():
    p = argparse.ArgumentParser(description="test the doors for engines")
    p.add_argument("--only", default="", help="files whose name has this text")
    p.add_argument("--list", action="store_true")
    p.add_argument("--needs-engines", action="store_true",
                   help="fail where an engine is not installed")
    p.add_argument("--one", help=argparse.SUPPRESS)
    a = p.parse_args()
    base = sibling()
    build = os.environ["PIKV_BUILD"] = os.environ.get("PIKV_BUILD",
                                                      "out/debug")
    if a.one:
        return base.run_file(a.one)
    stems = [os.path.basename(f)[:-3] for f in
             sorted(glob.glob(os.path.join(HERE, "test_*.py")))]
    stems = [s for s in stems if a.only in s]
    if a.list:
        print("\n".join(stems))
        return 0
    base.signal.signal(base.signal.SIGTERM, lambda *_: sys.exit(1))
    total = {"ok": 0, "FAIL": 0, "skip": 0}
    for s in stems:
        if a.needs_engines and not python_of(s):
            print(f"FAIL {s}: no environment; tests/engines/setup.sh makes it")
            total["FAIL"] += 1
            continue
        for word, n in base.judge(s, *run(base, s, build)).items():
            total[word] += n
    print(f"{total['skip']} skipped")
    print(f"{total['ok']} passed, {total['FAIL']} failed")
    return 1 if total["FAIL"] or not stems else 0


if __name__ == "__main__":
    sys.path[:0] = [HERE, os.path.join(ROOT, "tests/python"),
                    os.path.join(ROOT, "tests/e2e")]
    sys.dont_write_bytecode = True
    sys.exit(main())
