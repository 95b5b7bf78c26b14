# SPDX-License-Identifier: Apache-2.0
"""Blocks move between two daemons (server/puller.h): every byte and attribute
is the same there, whatever fails between. e2e_puller is the puller with a view
made by hand."""

import os
import re
import subprocess
import threading
import time
import unittest

from daemon import clean_env, program
from node import LIMIT_S, Node, until
from ssd import SsdNode


def puller(*args, status=0, limit_s=LIMIT_S * 3):
    p = subprocess.run([program("e2e_puller"), *args], env=clean_env(),
                       stdout=subprocess.PIPE, text=True, timeout=limit_s)
    assert p.returncode == status, (args, p.returncode, p.stdout)
    out = {}
    for name, value in re.findall(r"(\w+)=([\d.]+)", p.stdout):
        out[name] = float(value) if "." in value else int(value)
    return out


class Moves(unittest.TestCase):
    def moves(self, source, a, b, n=1500, **more):
        """n blocks of a come to b over source; what the puller counted."""
        args = [f"{k}={v}" for k, v in more.items()]
        got = puller("pull", source, b.address, *args)
        self.assertEqual((got["failed"], got["refused"]), (0, 0), got)
        return got

    def test_all_blocks_of_slots_come_with_their_bytes_and_attributes(self):
        with Node(lanes=2, dram="128MiB") as a, \
                Node(lanes=3, dram="128MiB") as b:
            puller("fill", a.address, "n=1500")
            got = self.moves(a.address, a, b)
            self.assertEqual((got["moved"], got["blocks"]), (65536, 1500))
            puller("check", b.address, "n=1500")
            # Once more: they are here already and are not read again.
            read = a.stat("bytes_out")
            got = self.moves(a.address, a, b, how="rest")
            self.assertEqual((got["exists"], got["blocks"]), (1500, 0))
            self.assertEqual(a.stat("bytes_out"), read)
            self.assertIs(a.at_rest(), True)
            self.assertIs(b.at_rest(), True)

    def test_they_come_over_ucx_too(self):
        with Node(lanes=2, ucx=True, dram="256MiB") as a, \
                Node(lanes=1, dram="256MiB") as b:
            puller("fill", a.address, "n=600", "size=300000")
            puller("check", a.address, "n=600", "size=300000")
            got = self.moves(a.ucx_address, a, b)
            self.assertEqual(got["blocks"], 600)
            puller("check", b.address, "n=600", "size=300000")

    def test_blocks_longer_than_a_haul_come(self):
        big = ("n=5", "size=25000000")
        with Node(dram="256MiB", ucx=True) as a, Node(dram="256MiB") as b:
            puller("fill", a.address, *big)
            self.assertEqual(self.moves(a.address, a, b)["blocks"], 5)
            puller("check", b.address, *big)
            puller("fill", a.address, "first=100", *big)
            self.assertEqual(self.moves(a.ucx_address, a, b)["blocks"], 5)
            puller("check", b.address, "first=100", *big)

    def test_blocks_on_the_ssd_of_the_source_come(self):
        with SsdNode(lanes=2) as a, Node(lanes=2, dram="128MiB") as b:
            puller("fill", a.address, "n=1500", "demote=1")
            self.assertTrue(until(lambda: a.metrics()["cold_blocks"] == 1500))
            # Also after a restart, from the checkpoint and from a scan.
            a.stop()
            a.start()
            got = self.moves(a.address, a, b, part=20000)
            some = got["blocks"]
            self.assertTrue(0 < some < 1500, got)
            a.written()
            a.kill()
            a.start()
            got = self.moves(a.address, a, b)
            self.assertEqual((got["exists"], got["blocks"]),
                             (some, 1500 - some))
            puller("check", b.address, "n=1500")

    def test_only_the_slots_that_move_come(self):
        with Node(lanes=2, dram="128MiB") as a, \
                Node(lanes=2, dram="128MiB") as b:
            puller("fill", a.address, "n=1000")
            got = self.moves(a.address, a, b, part=32768)
            self.assertEqual(got["moved"], 32768)
            self.assertTrue(300 < got["blocks"] < 700, got)
            there = puller("count", b.address, "n=1000")
            self.assertEqual(there["there"], got["blocks"])

    def test_copies_are_of_blocks_that_have_so_many(self):
        with Node(dram="128MiB") as a, Node(dram="128MiB") as b:
            puller("fill", a.address, "n=1000")
            got = self.moves(a.address, a, b, how="copy2")
            self.assertEqual(got["blocks"], 500) # every other has 2 or 3
            got = self.moves(a.address, a, b, how="hot")
            self.assertEqual((got["exists"], got["blocks"]), (500, 500))
            puller("check", b.address, "n=1000")

    def test_single_keys_are_asked_for(self):
        with Node(ucx=True, dram="128MiB") as a, Node(dram="128MiB") as b:
            puller("fill", a.address, "n=800")
            got = puller("want", a.address, b.address, "n=400", "absent=0")
            self.assertEqual(got["hits"], 400)
            got = puller("want", a.ucx_address, b.address, "n=400",
                         "first=400", "absent=100")
            self.assertEqual((got["hits"], got["answered"]), (400, 500))
            puller("check", b.address, "n=800")

    def test_a_rate_is_kept(self):
        with Node(dram="128MiB") as a, Node(dram="128MiB") as b:
            puller("fill", a.address, "n=500", "size=60000")
            got = self.moves(a.address, a, b, rate=10 << 20, seconds=60)
            self.assertEqual(got["blocks"], 500)
            self.assertLess(got["bytes"] / got["seconds"], 16 << 20, got)

    def test_a_source_that_dies_and_comes_back_is_asked_again(self):
        with Node(lanes=2, dram="128MiB") as b, \
                SsdNode(lanes=2, dram="128MiB") as a:
            puller("fill", a.address, "n=1500", "size=40000")
            a.written()
            got = {}

            def pull():
                got.update(puller("pull", a.address, b.address,
                                  f"rate={8 << 20}", "seconds=90"))

            t = threading.Thread(target=pull)
            t.start()
            self.assertTrue(until(lambda: b.metrics()["blocks"] > 200))
            a.kill()
            time.sleep(0.5)
            a.start()
            t.join()
            self.assertEqual(got["moved"], 65536, got)
            puller("check", b.address, "n=1500", "size=40000")

    def test_a_node_without_room_does_not_hold_the_slot_up(self):
        with Node(dram="128MiB") as a, Node(dram="16MiB") as b:
            puller("fill", a.address, "n=2000", "size=40000")
            got = puller("pull", a.address, b.address, "seconds=90")
            self.assertEqual(got["moved"], 65536, got)
            there = puller("count", b.address, "n=2000", "size=40000")
            self.assertEqual(there["wrong"], 0)
            self.assertGreater(there["there"], 100)


if __name__ == "__main__":
    unittest.main()
