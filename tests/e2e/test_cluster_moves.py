# SPDX-License-Identifier: Apache-2.0
"""Blocks follow their slots through a cluster: nodes join, are drained, die and
come back, and what was stored is read throughout, byte for byte; what was
dropped or flushed meanwhile does not come back."""

import threading
import unittest

from cluster import Cluster, wait_s
from node import LIMIT_S, until
from test_moves import puller

SOON = ("cluster.move_grace=5s", "cluster.move_rate=16GiB")


class Reader(threading.Thread):
    """Reads all blocks again and again, by the view of one node."""

    def __init__(self, address, *args):
        super().__init__()
        self.address, self.args = address, args
        self.rounds, self.least, self.wrong = 0, None, 0
        self.ending = False
        self.error = None

    def run(self):
        try:
            while not self.ending or self.rounds == 0:
                got = puller("count", self.address, "view=1", *self.args)
                self.rounds += 1
                self.wrong += got["wrong"]
                self.least = min(got["there"],
                                 got["there"] if self.least is None
                                 else self.least)
        except AssertionError as e:
            self.error = e

    def end(self):
        self.ending = True
        self.join()
        if self.error:
            raise self.error


def here(node, *args):
    return puller("count", node.address, *args)["there"]


class ClusterMoves(unittest.TestCase):
    def joined(self, c):
        """Waits until d has its part, and what is in it."""
        self.assertTrue(until(lambda: c["a"].nodes().get("d", {}).get(
            "slots", 0) > 14000, LIMIT_S * 4), c.report())
        self.assertTrue(c.settled("a", "b", "c", "d", limit_s=LIMIT_S * 4),
                        c.report())

    def test_a_node_that_joins_gets_the_blocks_of_its_slots(self):
        with Cluster(4, sets=SOON, dram="128MiB", lanes=2) as c:
            c.start("a", "b", "c")
            self.assertTrue(c.settled("a", "b", "c"), c.report())
            puller("fill", c["a"].address, "n=2000", "view=1")
            # Every fourth has two copies, every fourth three (puller.c).
            self.assertEqual(sum(here(c[m], "n=2000") for m in "abc"), 3500)
            reader = Reader(c["b"].address, "n=2000")
            reader.start()
            c.start("d")
            self.joined(c)
            reader.end()
            self.assertEqual(reader.wrong, 0)
            self.assertEqual(reader.least, 2000)
            self.assertGreater(here(c["d"], "n=2000"), 300)
            puller("check", c["d"].address, "n=2000", "view=1")
            # The others let go of what is not theirs any more: a slot has
            # three owners of four.
            self.assertTrue(until(lambda: all(
                c[m].metrics()["moved_blocks"] > 0 for m in "abc")),
                c.report())
            self.assertTrue(until(lambda: sum(
                here(c[m], "n=2000") for m in "abcd") >= 3500), c.report())

    def test_a_drained_node_gives_all_its_blocks_away(self):
        with Cluster(3, sets=SOON, dram="128MiB") as c:
            c.form()
            puller("fill", c["a"].address, "n=1500", "view=1")
            reader = Reader(c["a"].address, "n=1500")
            reader.start()
            self.assertEqual(c["a"].ctl("node", "drain", "b").rc, 0)
            self.assertTrue(until(lambda: c["a"].nodes()["b"]["slots"] == 0,
                                  LIMIT_S * 2), c.report())
            self.assertTrue(c.settled(), c.report())
            reader.end()
            self.assertEqual((reader.wrong, reader.least), (0, 1500))
            c["b"].kill()
            puller("check", c["c"].address, "n=1500", "view=1")

    def test_what_is_dropped_while_its_slot_moves_stays_away(self):
        slow = ("cluster.move_grace=0", "cluster.move_rate=4MiB")
        with Cluster(4, sets=slow, dram="128MiB") as c:
            c.start("a", "b", "c")
            self.assertTrue(c.settled("a", "b", "c"), c.report())
            puller("fill", c["a"].address, "n=2000", "view=1")
            c.start("d")
            # Somewhat in the middle of it.
            self.assertTrue(until(lambda: c["a"].nodes().get("d", {}).get(
                "state") == "up"), c.report())
            puller("drop", c["c"].address, "n=2000", "step=2", "view=1")
            self.joined(c)
            for m in "abcd":
                puller("check", c[m].address, "n=2000", "step=2", "gone=1")
            puller("check", c["d"].address, "first=1", "n=2000", "step=2",
                   "view=1")

    def test_what_is_flushed_while_it_moves_stays_away(self):
        slow = ("cluster.move_grace=0", "cluster.move_rate=4MiB")
        with Cluster(4, sets=slow, dram="128MiB") as c:
            c.start("a", "b", "c")
            self.assertTrue(c.settled("a", "b", "c"), c.report())
            puller("fill", c["a"].address, "n=2000", "view=1")
            c.start("d")
            self.assertTrue(until(lambda: c["a"].nodes().get("d", {}).get(
                "state") == "up"), c.report())
            puller("flush", c["c"].address, "view=1")
            wait_s(1)  # until all nodes have heard of it
            puller("fill", c["b"].address, "first=5000", "n=300", "view=1")
            self.joined(c)
            for m in "abcd":
                puller("check", c[m].address, "n=2000", "gone=1")
            puller("check", c["d"].address, "first=5000", "n=300", "view=1")

    def test_after_a_loss_copies_are_made_anew(self):
        with Cluster(4, sets=SOON, dram="128MiB") as c:
            c.form()
            puller("fill", c["a"].address, "n=1000", "view=1")
            self.assertEqual(sum(here(c[m], "n=1000") for m in "abcd"),
                             1000 + 250 + 2 * 250)
            c["d"].kill()
            c.until_state("d", "down", "a")
            self.assertEqual(c["a"].ctl("node", "remove", "d",
                                           "--yes").rc, 0)
            self.assertTrue(c.settled("a", "b", "c"), c.report())
            # No block with copies is lost, and each has all of them again.
            def copies():
                return [sum(here(c[m], f"first={i}", "n=1000", "step=4")
                            for m in "abc") for i in (1, 2)]

            self.assertTrue(until(lambda: copies() == [500, 750], LIMIT_S * 2),
                            (copies(), c.report()))


if __name__ == "__main__":
    unittest.main()
