#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the wheel of pikv: a PEP 517 backend of the standard library alone.

    build_backend.py wheel BUILD_DIR OUT_DIR     # what `make wheel` runs

    pip install ./client/python --build_wheel()--> make V=release
                                --> pack() --> pikv-0.1.0-cp311-abi3-....whl

The wheel has the package, the extension with libpikv and protobuf-c inside it,
and, beside it, the shared libraries it needs that not every Linux has (isa-l,
found by the extension's $ORIGIN). The extension keeps to the stable ABI of
CPython 3.11, so one wheel is for 3.11 and later; the platform's tag says
"linux", because it needs the C library of the machine it was built on
(`build_backend.py needs FILE` says which). It cannot make a source archive: the
sources are the repository.
"""

import base64
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PACKAGE = os.path.join(HERE, "pikv")
EXTENSION = "_pikv.abi3.so"
# What every Linux with this C library has.
SYSTEM = re.compile(r"linux-vdso|ld-linux|lib(c|m|dl|pthread|rt)\.so")


def project():
    with open(os.path.join(HERE, "pyproject.toml"), "rb") as f:
        return tomllib.load(f)["project"]


def platform_tag():
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def wheel_name():
    p = project()
    return f"{p['name']}-{p['version']}-cp311-abi3-{platform_tag()}.whl"


# ---- what goes in ----------------------------------------------------------

def sources():
    """Archive name and path of the package's files."""
    for name in sorted(os.listdir(PACKAGE)):
        if name.endswith((".py", ".pyi", ".typed")):
            yield f"pikv/{name}", os.path.join(PACKAGE, name)


def libraries(extension):
    """Shared libraries that go along, by the name they are asked for."""
    out = subprocess.run(["ldd", extension], stdout=subprocess.PIPE, text=True,
                         check=True).stdout
    for name, path in re.findall(r"^\s*(\S+) => (\S+)", out, re.M):
        if path == "not":
            raise SystemExit(f"{extension}: no {name} on this machine")
        if not SYSTEM.match(name):
            yield name, os.path.realpath(path)


def notices(names):
    """The licences of the libraries inside, where Debian keeps them."""
    for package in ["libprotobuf-c1"] + [
            re.sub(r"\.so\.", "", n) for n in names]:
        path = f"/usr/share/doc/{package}/copyright"
        if os.path.exists(path):
            yield package, path


def metadata():
    p = project()
    lines = ["Metadata-Version: 2.1", f"Name: {p['name']}",
             f"Version: {p['version']}", f"Summary: {p['description']}",
             f"License: {p['license']['text']}",
             f"Requires-Python: {p['requires-python']}",
             "Description-Content-Type: text/markdown"]
    lines += [f"Classifier: {c}" for c in p["classifiers"]]
    with open(os.path.join(HERE, p["readme"]), encoding="utf-8") as f:
        return "\n".join(lines) + "\n\n" + f.read()


class Wheel:
    """A zip that keeps its own RECORD; the same input gives the same bytes."""

    def __init__(self, path, tag):
        p = project()
        self.info = f"{p['name']}-{p['version']}.dist-info"
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self.record = []
        self.add(f"{self.info}/METADATA", metadata().encode())
        self.add(f"{self.info}/WHEEL",
                 f"Wheel-Version: 1.0\nGenerator: pikv\n"
                 f"Root-Is-Purelib: false\nTag: {tag}\n".encode())

    def add(self, name, data, mode=0o644):
        entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = (0o100000 | mode) << 16
        self.zip.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
        self.record.append(f"{name},sha256={digest.rstrip(b'=').decode()},"
                           f"{len(data)}")

    def add_file(self, name, path, mode=0o644):
        with open(path, "rb") as f:
            self.add(name, f.read(), mode)

    def close(self):
        name = f"{self.info}/RECORD"
        lines = "\n".join(self.record + [f"{name},,"]) + "\n"
        self.add(name, lines.encode())
        self.zip.close()


def pack(extension, folder):
    """The wheel of a built extension; its file name."""
    os.makedirs(folder, exist_ok=True)
    name = wheel_name()
    w = Wheel(os.path.join(folder, name),
              name[:-len(".whl")].split("-", 2)[2])
    for at, path in sources():
        w.add_file(at, path)
    names = []
    for at, path in libraries(extension):
        w.add_file(f"pikv/{at}", path, 0o755)
        names.append(at)
    for package, path in notices(names):
        w.add_file(f"{w.info}/licenses/{package}", path)
    w.add_file(f"{w.info}/licenses/LICENSE", os.path.join(ROOT, "LICENSE"))
    small = stripped(extension, folder)
    w.add_file(f"pikv/{EXTENSION}", small, 0o755)
    os.remove(small)
    w.close()
    return name


def stripped(extension, folder):
    """A copy without debug information."""
    path = os.path.join(folder, "." + EXTENSION)
    subprocess.run(["objcopy", "--strip-unneeded", extension, path],
                   check=True)
    return path


def needs(path):
    """The newest GLIBC version that a file asks for, as "2.34"."""
    out = subprocess.run(["objdump", "-T", path], stdout=subprocess.PIPE,
                         text=True, check=True).stdout
    versions = {tuple(map(int, v.split(".")))
                for v in re.findall(r"GLIBC_([\d.]+)", out)}
    return ".".join(map(str, max(versions)))


# ---- hooks -----------------------------------------------------------------

def build():
    """The extension as V=release; its path."""
    target = os.path.join("out/release/python/pikv", EXTENSION)
    include = sysconfig.get_path("include")
    argv = ["make", "-s", "-C", ROOT, f"-j{os.cpu_count() or 1}", "V=release",
            target]
    if os.path.exists(os.path.join(include, "Python.h")):
        argv.append("PYTHON_INC=" + include)
    subprocess.run(argv, check=True, stdout=sys.stderr)
    return os.path.join(ROOT, target)


def get_requires_for_build_wheel(config_settings=None):
    return []


def build_wheel(wheel_directory, config_settings=None,
                metadata_directory=None):
    return pack(build(), wheel_directory)


def build_sdist(sdist_directory, config_settings=None):
    raise SystemExit("pikv: no source archive; install from the repository")


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "wheel":
        extension = os.path.join(sys.argv[2], EXTENSION)
        print(os.path.join(sys.argv[3], pack(extension, sys.argv[3])))
    elif len(sys.argv) == 3 and sys.argv[1] == "needs":
        print(needs(sys.argv[2]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
