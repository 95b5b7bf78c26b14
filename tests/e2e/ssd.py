# SPDX-License-Identifier: Apache-2.0
"""A Node with SSDs that are files, what can go wrong with them, and blocks whose
every byte is known.

    with SsdNode() as d:             # 32 MiB of memory, 256 MiB of SSD
        d.written()                  # everything admitted is on the SSD
        d.kill(); d.start()

Files lie in a directory of the test that is not on tmpfs: in TMPDIR, or else
in the build folder."""

import mmap
import os
import random
import shutil
import struct
import subprocess
import tempfile

from kv import crc32c
from node import BUILD, Node, ROOT, until

MIB = 1 << 20
PAGE = 4096
SUPER_B = MIB
SUPER_CRC = 184  # offset of seg_super.crc
SUPER_MAJOR = 8
SUPER_SEQ = 32


def on_tmpfs(path):
    p = subprocess.run(["stat", "-f", "-c", "%T", path], check=True,
                       stdout=subprocess.PIPE, text=True)
    return p.stdout.strip() in ("tmpfs", "ramfs")


def disk_dir():
    tmp = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="pikvd-ssd-",
                            dir=BUILD if on_tmpfs(tmp) else tmp)


def value(key, version, n):
    """The bytes of one PUT."""
    return random.Random(b"%s %d" % (key, version)).randbytes(n)


class SsdNode(Node):
    """n files. more: settings; engine: None takes what there is."""

    def __init__(self, *sets, n=1, capacity="256MiB", segment="4MiB",
                 dram="32MiB", engine=None, **more):
        self.disks = disk_dir()
        self.images = [os.path.join(self.disks, f"ssd{i}") for i in range(n)]
        settings = ["ssd.paths=" + ",".join(self.images),
                    f"ssd.capacity={capacity}", f"ssd.segment={segment}"]
        if engine:
            settings.append(f"ssd.engine={engine}")
        super().__init__(*settings, *sets, dram=dram, **more)
        if "node.state_dir" not in self.settings:
            self.settings["node.state_dir"] = self.dir

    def remove(self):
        try:
            super().remove()
        finally:
            shutil.rmtree(self.disks, ignore_errors=True)

    def __exit__(self, kind, value_, trace):
        try:
            super().__exit__(kind, value_, trace)
        finally:
            shutil.rmtree(self.disks, ignore_errors=True)

    # ---- looking

    def written(self):
        """Waits until nothing more goes to the SSDs: the metrics then."""
        last = {}

        def still():
            m = self.metrics()
            same = (m["ssd_queued_bytes"] == 0 and
                    m["ssd_written_bytes"] == last.get("ssd_written_bytes") and
                    m["ssd_blocks"] == last.get("ssd_blocks"))
            last.clear()
            last.update(m)
            return same

        assert until(still), f"writing goes on: {last}"
        return last

    def ready(self):
        """Status and text of /readyz?verbose."""
        status, _, text = self.get("/readyz?verbose")
        return status, text

    # ---- images

    def read(self, off, n, image=0):
        with open(self.images[image], "rb") as f:
            f.seek(off)
            return f.read(n)

    def write(self, off, data, image=0):
        with open(self.images[image], "r+b") as f:
            f.seek(off)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())

    def patch_super(self, off, data, image=0):
        """Changes bytes of both superblocks and seals them again."""
        for at in (0, SUPER_B):
            page = bytearray(self.read(at, PAGE, image))
            if page[:8] != b"KVSUPER1":
                continue
            page[off:off + len(data)] = data
            page[SUPER_CRC:SUPER_CRC + 4] = bytes(4)
            crc = crc32c(bytes(page))
            page[SUPER_CRC:SUPER_CRC + 4] = struct.pack("<I", crc)
            self.write(at, bytes(page), image)


class IoFaults:
    """What the preloaded io_fault.c does to one image; see there."""

    WORDS = {"none": 0, "eio": 1, "enospc": 2, "hang": 3, "short": 4,
             "slow": 5, "flip": 6, "gone": 7}

    def __init__(self, path):
        self.path = path
        self.dir = tempfile.mkdtemp(prefix="io-fault-")
        self.control = os.path.join(self.dir, "control")
        with open(self.control, "wb") as f:
            f.write(bytes(PAGE))
        self.f = open(self.control, "r+b")
        self.words = mmap.mmap(self.f.fileno(), PAGE)
        self.lib = os.path.join(self.dir, "io_fault.so")
        subprocess.run(
            [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o",
             self.lib, os.path.join(ROOT, "tests/e2e/preload/io_fault.c"),
             "-ldl"], check=True)

    def env(self):
        return {"LD_PRELOAD": self.lib, "IO_FAULT_PATH": self.path,
                "IO_FAULT_CONTROL": self.control,
                "ASAN_OPTIONS": "verify_asan_link_order=0"}

    def set(self, read="none", write="none", flush="none"):
        struct.pack_into("<3I", self.words, 0, self.WORDS[read],
                         self.WORDS[write], self.WORDS[flush])

    def hits(self):
        return struct.unpack_from("<I", self.words, 12)[0]

    def close(self):
        self.set()
        self.words.close()
        self.f.close()
        shutil.rmtree(self.dir, ignore_errors=True)
