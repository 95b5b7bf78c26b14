# SPDX-License-Identifier: Apache-2.0
"""What the tests of the SGLang and vLLM doors share: memory as engines have
it, and stand-ins for an engine that is not installed.

A test runs against the real package where it can be imported, with PYTHONPATH
or a virtual environment that has it; else against a stand-in of its published
interface, made here. ENGINE says which, in every test's first line of output.
"""

import ctypes
import importlib
import mmap
import os
import sys
import tempfile
import types

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
for path in (os.path.join(ROOT, "tests", "e2e"),
             os.path.join(ROOT, os.environ.get("PIKV_BUILD", "out/debug"),
                          "python")):
    if path not in sys.path:
        sys.path.append(path)

import pikv  # noqa: E402,F401
from daemon import Daemon, clean_env  # noqa: E402,F401
from node import until  # noqa: E402,F401

LONG_MS = 20000  # beyond what a loaded machine takes


def payload(n, seed):
    """n bytes that tell where they came from."""
    one = bytes((i * 131 + seed * 29 + (i >> 8)) & 255
                for i in range(min(n, 4096)))
    return (one * (n // len(one) + 1))[:n]


class Mem:
    """A run of memory with what a CPU tensor says of itself. shared: a mapped
    file in /dev/shm, as an engine's shared allocator makes it."""

    def __init__(self, nbytes, shared=True):
        if shared:
            with tempfile.TemporaryFile(dir="/dev/shm") as f:
                f.truncate(nbytes)
                self.map = mmap.mmap(f.fileno(), nbytes)
        else:
            self.map = bytearray(nbytes)
        self.n = nbytes
        self.at = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def data_ptr(self):
        return self.at

    def numel(self):
        return self.n

    def element_size(self):
        return 1

    def __getitem__(self, where):
        return bytes(self.map[where])

    def __setitem__(self, where, data):
        self.map[where] = data


class Indices(list):
    """Host indices without torch."""

    def tolist(self):
        return list(self)

    def numel(self):
        return len(self)


def real(name):
    """The module, or None with the reason."""
    try:
        return importlib.import_module(name), ""
    except Exception as e:  # a package may fail in any way without a GPU
        return None, repr(e)


def module(name, **names):
    """A stand-in module, with its parents."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        whole = ".".join(parts[:i])
        if whole not in sys.modules:
            sys.modules[whole] = types.ModuleType(whole)
            sys.modules[whole].__path__ = []
            if i > 1:
                setattr(sys.modules[".".join(parts[:i - 1])], parts[i - 1],
                        sys.modules[whole])
    for key, value in names.items():
        setattr(sys.modules[name], key, value)
    return sys.modules[name]


def forget(name):
    """A half-imported package must not shine through its stand-in."""
    for known in list(sys.modules):
        if known == name or known.startswith(name + "."):
            del sys.modules[known]
