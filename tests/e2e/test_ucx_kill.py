# SPDX-License-Identifier: Apache-2.0
"""A host process with libpikv over UCX lives when its daemon dies."""

import subprocess
import unittest

from daemon import clean_env, program

RUNS = 6  # of each case; the program says what a run is


class UcxKill(unittest.TestCase):
    def test_a_killed_daemon_never_aborts_its_client(self):
        r = subprocess.run(
            [program("e2e_pikv_kill"), program("pikvd"), str(RUNS), "1"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=clean_env(), timeout=300, check=False)
        self.assertEqual(r.returncode, 0, r.stdout)


if __name__ == "__main__":
    unittest.main()
