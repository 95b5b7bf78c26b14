# SPDX-License-Identifier: Apache-2.0
"""The wheel: what is in it, what it asks of a machine, and that it works."""

import base64
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile

import pikv
from case import ROOT, SANITIZED, Case

BACKEND = os.path.join(ROOT, "client/python/build_backend.py")


def backend():
    spec = importlib.util.spec_from_file_location("build_backend", BACKEND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True,
                          check=True).stdout.splitlines()


class Extension(unittest.TestCase):
    path = pikv._pikv.__file__

    def test_exports_nothing_but_its_init(self):
        names = [n.split()[-1] for n in lines("nm", "-D", "--defined-only",
                                              self.path)]
        if SANITIZED:
            names = [n for n in names if "asan" not in n]
        self.assertEqual(names, ["PyInit__pikv"])

    def test_asks_for_no_python_symbol_outside_the_stable_abi(self):
        """Of names with an underscore only those that its macros stand
        for."""
        asked = [n.split()[-1] for n in lines("nm", "-D", "--undefined-only",
                                              self.path)]
        stable = {"_Py_Dealloc", "_Py_NoneStruct", "_Py_TrueStruct",
                  "_Py_FalseStruct", "_Py_BuildValue_SizeT",
                  "_PyObject_CallFunction_SizeT", "_PyArg_ParseTuple_SizeT"}
        self.assertEqual({n for n in asked if n.startswith("_Py")} - stable,
                         set())

    @unittest.skipIf(SANITIZED, "a sanitizer is linked in")
    def test_needs_isal_and_the_c_library_only(self):
        needed = {re.sub(r"\.so.*", "", m)
                  for m in re.findall(r"NEEDED.*\[(.*)\]", "\n".join(
                      lines("objdump", "-p", self.path)) + "\n".join(
                      lines("readelf", "-d", self.path)))}
        self.assertEqual(needed - {"ld-linux-x86-64", "libm", "libpthread",
                                   "libdl"}, {"libisal", "libc"})


@unittest.skipIf(SANITIZED, "a sanitized extension needs its preload")
class Wheel(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.name = backend().pack(pikv._pikv.__file__, folder.name)
        cls.wheel = os.path.join(folder.name, cls.name)
        cls.left = os.listdir(folder.name)
        cls.site = os.path.join(folder.name, "site")
        with zipfile.ZipFile(cls.wheel) as z:
            z.extractall(cls.site)
            cls.names = z.namelist()

    def test_name_says_the_stable_abi(self):
        self.assertRegex(self.name, r"^pikv-[\d.]+-cp311-abi3-linux_\w+\.whl$")
        self.assertEqual(self.left, [self.name])

    def test_record_is_right(self):
        info = f"pikv-{pikv.__version__}.dist-info"
        with open(f"{self.site}/{info}/RECORD", encoding="utf-8") as f:
            rows = [r.strip().split(",") for r in f]
        self.assertEqual([r[0] for r in rows], self.names)
        for name, digest, size in rows[:-1]:
            with open(os.path.join(self.site, name), "rb") as f:
                data = f.read()
            want = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
            self.assertEqual(digest, "sha256=" + want.rstrip(b"=").decode())
            self.assertEqual(int(size), len(data))

    def test_has_the_package_its_types_and_licences(self):
        for name in ("pikv/__init__.py", "pikv/aio.py", "pikv/_pikv.pyi",
                     "pikv/py.typed", "pikv/_pikv.abi3.so"):
            self.assertIn(name, self.names)
        self.assertTrue([n for n in self.names if n.endswith("/LICENSE")])
        self.assertTrue([n for n in self.names if "pikv/libisal" in n])

    def test_works_without_the_repository(self):
        code = ("import sys, pikv\n"
                "c = pikv.Client(sys.argv[1], connect_ms=20000)\n"
                "ns = c.open('wheel', deadline_ms=20000)\n"
                "ns.put([b'k'], [b'v'], deadline_ms=20000)\n"
                "print(pikv.__file__, ns.get_bytes(b'k'))\n"
                "print([l.split()[-1] for l in open('/proc/self/maps')"
                " if 'libisal' in l][0])\n")
        out = subprocess.run(
            [sys.executable, "-c", code, self.node.address], text=True,
            stdout=subprocess.PIPE, check=True, cwd="/",
            env={"PYTHONPATH": self.site, "PATH": os.environ["PATH"]}).stdout
        self.assertIn(self.site, out.splitlines()[0])
        self.assertIn("b'v'", out.splitlines()[0])
        self.assertTrue(out.splitlines()[1].startswith(self.site))
