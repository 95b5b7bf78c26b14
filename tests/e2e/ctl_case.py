# SPDX-License-Identifier: Apache-2.0
"""What the tests of pikvctl share: one run of it, and what is expected."""

import json
import subprocess
import unittest

from daemon import Daemon, clean_env, program

OK, ERROR, USAGE, MISS, NO_SERVER = range(5)
TIMEOUT_S = 60


class Run:
    """One run of pikvctl."""

    def __init__(self, *args, address=None, stdin=b"", env=None):
        argv = [program("pikvctl")]
        if address:
            argv += ["--address", address]
        done = subprocess.run(
            argv + [str(a) for a in args], input=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=TIMEOUT_S, env=clean_env(**(env or {})), check=False)
        self.rc, self.bytes = done.returncode, done.stdout
        self.out = done.stdout.decode(errors="replace")
        self.err = done.stderr.decode(errors="replace")

    def json(self):
        return json.loads(self.out)


class Case(unittest.TestCase):
    def expect(self, run, rc, err=None):
        self.assertEqual(run.rc, rc, run.out[-2000:] + run.err)
        if err is None:
            self.assertEqual(run.err, "")
        else:
            lines = run.err.splitlines()
            self.assertEqual(len(lines), 1, run.err)
            self.assertTrue(lines[0].startswith("pikvctl: "), run.err)
            self.assertRegex(lines[0], err)
        return run


class WithDaemon(Case):
    """One daemon for all tests of a class; each uses keys of its own."""

    settings = {}
    config = None

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(cls.settings, config=cls.config)
        cls.addClassCleanup(cls.daemon.remove)
        cls.daemon.start()

    def ctl(self, *args, **more):
        return Run(*args, address=self.daemon.address, **more)

    def ok(self, *args, **more):
        return self.expect(self.ctl(*args, **more), OK)

    def json(self, *args, **more):
        return self.ok("-o", "json", *args, **more).json()

    def put(self, key, data=b"bytes", *args):
        return self.json("put", key, *args, stdin=data)
