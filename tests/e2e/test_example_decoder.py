# SPDX-License-Identifier: Apache-2.0
"""examples/decoder.py against a real pikvd: a restarted program, a killed
daemon, blocks that are gone; the logits are the same, bit for bit, always."""

import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from daemon import ROOT, Daemon, clean_env, program  # noqa: E402
from node import BUILD, SANITIZED  # noqa: E402
from ssd import SsdNode  # noqa: E402

PACKAGE = os.path.join(ROOT, "out/debug" if SANITIZED else BUILD, "python")
LIMIT_S = 120
TOKENS = 100  # six whole blocks and a part of one
BLOCKS = 6


def with_numpy():
    """An interpreter that has numpy (Debian's package is for Debian's)."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and subprocess.run(
                [python, "-c", "import numpy"], check=False,
                stderr=subprocess.DEVNULL).returncode == 0:
            return python
    return None


PYTHON = with_numpy()


@unittest.skipUnless(PYTHON, "no Python with numpy; install python3-numpy")
@unittest.skipUnless(os.path.isdir(os.path.join(PACKAGE, "pikv")),
                     "the Python package is not built")
class Decoder(unittest.TestCase):
    def daemon(self, d):
        self.addCleanup(d.remove)
        d.start()
        return d

    def play(self, d, *args, tokens=TOKENS):
        """What it told of one run, as a process of its own, and the logits as
        bytes of a .npy file."""
        path = os.path.join(d.dir, "logits.npy")
        done = subprocess.run(
            [PYTHON, os.path.join(ROOT, "examples/decoder.py"), "--address",
             d.address, "--tokens", str(tokens), "--layers", "2", "--json",
             "--deadline-ms", "20000", "--logits", path, *args],
            env=clean_env(PYTHONPATH=PACKAGE, PYTHONDONTWRITEBYTECODE="1"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            timeout=LIMIT_S, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with open(path, "rb") as f:
            return json.loads(done.stdout), f.read()

    def plain(self, d, *args, **more):
        """The logits of a run without any cache; says that it had none."""
        told, logits = self.play(d, "--namespace", "other", *args, **more)
        self.assertEqual(told["loaded_blocks"], 0)
        return logits

    def found(self, told):
        return [r["found"] for r in told["blocks"]]

    def ctl(self, d, *args):
        subprocess.run([program("pikvctl"), "--address", d.address,
                        "--deadline", "20s", *args], check=True,
                       stdout=subprocess.DEVNULL, env=clean_env(),
                       timeout=LIMIT_S)

    def test_a_restarted_run_loads_and_gives_the_same_bits(self):
        d = self.daemon(Daemon())
        first, logits = self.play(d, "--check")
        self.assertEqual((first["loaded_blocks"], first["stored_blocks"]),
                         (0, BLOCKS))
        self.assertEqual({r["reason"] for r in first["blocks"]},
                         {"never_seen"})
        again, same = self.play(d, "--check")
        self.assertEqual((again["loaded_blocks"], again["stored_blocks"]),
                         (BLOCKS, 0))
        self.assertEqual({r["tier"] for r in again["blocks"]}, {"dram"})
        for row in again["blocks"]:
            self.assertGreater(row["loaded_ms"], 0)
            self.assertGreater(row["saved_ms"], 0)
        self.assertEqual(same, logits)
        self.assertTrue(first["bit_equal"] and again["bit_equal"])
        self.assertEqual(self.plain(d), logits)

    def test_a_longer_prompt_that_starts_alike_uses_what_is_there(self):
        d = self.daemon(Daemon())
        self.play(d)
        told, logits = self.play(d, tokens=TOKENS + 50)
        self.assertEqual(self.found(told), ["hit"] * 6 + ["miss"] * 3)
        self.assertEqual((told["loaded_blocks"], told["stored_blocks"]),
                         (6, 3))
        self.assertEqual(self.plain(d, tokens=TOKENS + 50), logits)

    def test_a_gap_is_computed_and_explained(self):
        d = self.daemon(Daemon())
        _, logits = self.play(d)
        rows = json.loads(subprocess.run(
            [program("pikvctl"), "--address", d.address, "-o", "json", "keys",
             "-N", "decoder"], stdout=subprocess.PIPE, env=clean_env(),
            check=True, timeout=LIMIT_S).stdout)
        third = next(r for r in rows if r["page"] == 2)
        self.ctl(d, "evict", third["key"], "--route", third["route"], "-N",
                 "decoder")
        told, same = self.play(d)
        self.assertEqual(self.found(told),
                         ["hit", "hit", "miss", "hit", "hit", "hit"])
        self.assertEqual([r.get("reason") for r in told["blocks"]],
                         [None, None, "dropped"] +
                         ["a block before it is missing"] * 3)
        self.assertEqual(told["loaded_blocks"], 2)
        self.assertEqual(same, logits)

    def test_other_weights_never_meet(self):
        d = self.daemon(Daemon())
        self.play(d)
        told, _ = self.play(d, "--seed", "2")
        self.assertEqual(told["loaded_blocks"], 0)
        self.assertIn("MISMATCH", told["problem"])
        self.assertIn("model", told["problem"])

    def test_kill_9_with_an_ssd(self):
        d = self.daemon(SsdNode(lanes=2))
        _, logits = self.play(d, "--durable")
        d.kill()
        d.start()
        told, same = self.play(d, "--check")
        self.assertEqual(told["loaded_blocks"], BLOCKS)
        self.assertEqual({r["tier"] for r in told["blocks"]}, {"ssd"})
        self.assertEqual(same, logits)
        self.assertTrue(told["bit_equal"])

    def test_kill_9_without_one(self):
        d = self.daemon(Daemon())
        _, logits = self.play(d)
        d.kill()
        told, same = self.play(d)
        self.assertEqual((told["loaded_blocks"], told["stored_blocks"]),
                         (0, 0))
        self.assertIn("NO_SERVER", told["problem"])
        self.assertEqual(same, logits)
        d.start()
        told, same = self.play(d)
        self.assertEqual(self.found(told), ["miss"] * BLOCKS)
        self.assertEqual(told["stored_blocks"], BLOCKS)
        self.assertEqual(same, logits)

    def test_what_people_see(self):
        d = self.daemon(Daemon())
        for _ in range(2):
            done = subprocess.run(
                [PYTHON, os.path.join(ROOT, "examples/decoder.py"),
                 "--address", d.address, "--prompt", "x" * 40, "--layers",
                 "1", "--check"], stdout=subprocess.PIPE, text=True,
                env=clean_env(PYTHONPATH=PACKAGE,
                              PYTHONDONTWRITEBYTECODE="1"),
                timeout=LIMIT_S, check=True)
        self.assertRegex(done.stdout, r"(?m)^block   1  tokens   16-31    hit "
                         r" dram in [\d.]+ ms, saved [\d.]+ ms$")
        self.assertIn("loaded 2 of 2 blocks, 32 of 40 prompt tokens not "
                      "computed", done.stdout)
        self.assertIn("equal, bit for bit", done.stdout)


if __name__ == "__main__":
    unittest.main()
