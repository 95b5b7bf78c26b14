# SPDX-License-Identifier: Apache-2.0
"""What the tests of the package share: a daemon per class of tests, a client
and a namespace per test."""

import contextlib
import os
import sys
import unittest

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)),
                             "../e2e"))

import pikv  # noqa: E402
from daemon import ROOT, Daemon, clean_env, program  # noqa: E402,F401
from node import SANITIZED, until  # noqa: E402,F401

OK = 0
# Far beyond what a loaded machine takes; no test waits for it.
LONG_MS = 20000


OPERATIONS = ("put", "get", "lookup", "exists", "evict", "pin", "unpin",
              "touch", "prefetch", "begin", "write_begin", "write", "commit",
              "abort")


def patient(name):
    def call(self, *args, **options):
        options.setdefault("deadline_ms", LONG_MS)
        return getattr(super(Namespace, self), name)(*args, **options)

    return call


class Namespace(pikv.Namespace):
    """Waits long where a test does not say otherwise."""

    for _name in OPERATIONS:
        locals()[_name] = patient(_name)
        locals()["submit_" + _name] = patient("submit_" + _name)
    for _name in ("explain", "bump"):
        locals()[_name] = patient(_name)


class Client(pikv.Client):
    def __init__(self, address, **options):
        options.setdefault("connect_ms", LONG_MS)
        super().__init__(address, **options)

    def open(self, name, **options):
        options.setdefault("deadline_ms", LONG_MS)
        ns = super().open(name, **options)
        return Namespace(self, ns._ns, name)


def payload(n, seed=0):
    return bytes((i * 131 + seed * 17 + (i >> 8)) & 255 for i in range(n))


class Case(unittest.TestCase):
    settings = {}

    @classmethod
    def setUpClass(cls):
        cls.node = Daemon(cls.settings)
        cls.addClassCleanup(cls.node.remove)
        cls.node.start()

    def setUp(self):
        self.client = self.connect()
        self.ns = self.client.open(self._testMethodName)

    def connect(self, **options):
        client = Client(self.node.address, **options)
        self.addCleanup(client.close)
        return client

    def put(self, *pairs):
        keys, values = zip(*pairs)
        self.assertTrue(self.ns.put(keys, values).all_ok)

    @contextlib.contextmanager
    def refused(self, kind, *words):
        """Raises kind with all of these words in its text."""
        with self.assertRaises(kind) as caught:
            yield caught
        for word in words:
            self.assertIn(word, str(caught.exception))
