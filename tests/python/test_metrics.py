# SPDX-License-Identifier: Apache-2.0
"""stats() and the Prometheus text made of it."""

import re

from case import Case, payload

SAMPLE = re.compile(r'^(\w+)(?:\{(.*)\})? (\S+)$')


class Metrics(Case):
    def setUp(self):
        super().setUp()
        self.put((b"a", payload(100)), (b"b", payload(50)))
        self.ns.get([b"a", b"none"], [bytearray(100), bytearray(1)])

    def test_stats_count_calls_items_bytes(self):
        s = self.client.stats()
        put, get = s["ops"]["put"], s["ops"]["get"]
        self.assertEqual((put["calls"], put["items"], put["bytes"]),
                         (1, 2, 150))
        self.assertEqual((get["items"], get["hits"], get["misses"],
                          get["bytes"]), (2, 1, 1, 100))
        self.assertEqual(sum(get["buckets"]), 1)
        self.assertEqual((s["lanes"], s["lanes_up"], s["inflight"]), (2, 2, 0))

    def samples(self, labels):
        out, seen = {}, set()
        for line in self.client.metrics_text(labels).splitlines():
            if line.startswith("# TYPE"):
                name = line.split()[2]
                self.assertNotIn(name, seen)
                seen.add(name)
            elif not line.startswith("#"):
                name, of, value = SAMPLE.match(line).groups()
                self.assertTrue(any(name.startswith(s) for s in seen), name)
                out[name, of] = float(value)
        return out

    def test_text_has_every_sample_once_with_its_labels(self):
        s = self.samples({"rank": "0", "model": 'a"b\\c\nd'})
        of = r'rank="0",model="a\"b\\c\nd",op="put"'
        self.assertEqual(s["pikv_client_items_total", of], 2)
        self.assertEqual(s["pikv_client_bytes_total", of], 150)
        self.assertEqual(s["pikv_client_call_seconds_count", of], 1)
        self.assertEqual(s["pikv_client_call_seconds_bucket",
                           of + ',le="+Inf"'], 1)
        self.assertEqual(s["pikv_client_lanes_up",
                           r'rank="0",model="a\"b\\c\nd"'], 2)

    def test_buckets_only_grow(self):
        s = self.samples({})
        rows = [v for (name, of), v in s.items()
                if name.endswith("_bucket") and 'op="get"' in of]
        self.assertEqual(rows, sorted(rows))
        self.assertEqual(s["pikv_client_lanes", None], 2)
