# SPDX-License-Identifier: Apache-2.0
"""Every example of client/python/README.md does what it says."""

import os
import re
from unittest import mock

import pikv
from case import ROOT, Case, Client

README = os.path.join(ROOT, "client/python/README.md")


def examples():
    with open(README, encoding="utf-8") as f:
        text = f.read()
    return re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```",
                      text, re.M | re.S)


class Readme(Case):
    def test_examples(self):
        found = examples()
        self.assertGreaterEqual(len(found), 6)
        for title, code in found:
            with self.subTest(title), mock.patch("pikv.Client", Client), \
                    mock.patch("pikv.client.Client", Client):
                exec(compile(code, title, "exec"),
                     {"address": self.node.address, "__name__": "readme"})

    def test_every_python_block_is_an_example(self):
        with open(README, encoding="utf-8") as f:
            self.assertEqual(f.read().count("```python"), len(examples()))

    def test_operations_of_the_table_exist(self):
        with open(README, encoding="utf-8") as f:
            table = [r for r in f.read().splitlines() if r.startswith("| `")]
        names = {n for r in table
                 for n in re.findall(r"`(\w+)(?:\(|`)", r.split("|")[1])}
        self.assertGreater(len(names), 12)
        for name in names:
            self.assertTrue(hasattr(pikv.Namespace, name), name)
