# SPDX-License-Identifier: Apache-2.0
"""The demo of many nodes, the small one, with the programs under test: no byte
is wrong, all steps come to their end, and nothing stays behind; also when it is
told to end in the middle (run.py looks for what is left)."""

import os
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from daemon import ROOT  # noqa: E402
from node import BUILD, SANITIZED  # noqa: E402
from ssd import disk_dir  # noqa: E402

LIMIT_S = 270
STEPS = ["form a cluster", "is killed with -9", "comes back",
         "a fourth joins", "is drained and removed", "turn hot",
         "all comes to rest"]


class DemoCluster(unittest.TestCase):
    def setUp(self):
        if SANITIZED:
            self.skipTest("a demo at the pace of a sanitizer shows nothing")
        self.disk = disk_dir()
        self.addCleanup(os.rmdir, self.disk)  # it left nothing there
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "bench/demo_cluster.py")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "DEMO": "small", "OUT": BUILD,
                 "DEMO_DIR": self.disk})
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)

    def test_it_goes_through_all_steps_and_no_byte_is_wrong(self):
        out, _ = self.process.communicate(timeout=LIMIT_S)
        self.assertEqual(self.process.returncode, 0, out)
        self.assertIn("verify errors 0\n", out)
        at = 0
        for step in STEPS:
            at = out.find(step, at)
            self.assertGreater(at, 0, (step, out))

    def test_it_is_told_to_end_and_leaves_nothing(self):
        for line in self.process.stdout:
            if "the trace is replayed" in line:
                break
        time.sleep(1)
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=LIMIT_S)
        self.assertEqual(self.process.returncode, 128 + signal.SIGINT, out)


if __name__ == "__main__":
    unittest.main()
