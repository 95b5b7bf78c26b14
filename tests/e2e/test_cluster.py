# SPDX-License-Identifier: Apache-2.0
"""Clusters of three and four real daemons: how they form, who is sent where,
what becomes of a node that is killed, stopped, drained or removed, and what a
node does without a leader."""

import json
import os
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from cluster import DOWN_S, Cluster, wait_s  # noqa: E402
from ctl_case import ERROR, OK, USAGE, Run  # noqa: E402
from daemon import program  # noqa: E402
from node import Node, until  # noqa: E402
from kv import NAME  # noqa: E402
from raw import Raw, batch, key, pb  # noqa: E402

HERE = 8  # BATCH_HERE of wire.h


def get_raw(d, ns, name, epoch=0, flags=0):
    """GET by a client that goes to lane 0 of d whatever any view says: status
    and owner of the one result."""
    c = Raw(d.socket)
    try:
        c.hello()
        r = c.ask("get", [batch(ns=ns, key_n=1, epoch=epoch, flags=flags),
                          key(key_len=len(name), len=0)], name.encode())
        return NAME[r.results[0]["status"]], r.results[0]["owner"]
    finally:
        c.close()


def ready(d):
    """Status and text of /readyz."""
    try:
        with urllib.request.urlopen(d.admin_url + "/readyz", timeout=20) as r:
            return r.status, r.read().decode().strip()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode().strip()


class Static(unittest.TestCase):
    def test_a_fixed_list_is_a_cluster_at_once_and_takes_no_commands(self):
        with Cluster(3, provider="static") as c:
            c.form()
            slots = [n["slots"] for n in c["a"].nodes().values()]
            self.assertEqual(sum(slots), 65536)
            self.assertLess(max(slots) - min(slots), 1500)
            views = {d.name: d.json("cluster", "slots", "--limit", "300")
                     for d in c}
            self.assertEqual(views["a"], views["b"])
            self.assertEqual(views["a"], views["c"])
            run = c["a"].ctl("node", "drain", "b")
            self.assertEqual(run.rc, ERROR)
            self.assertIn("static", run.err)

    def test_a_node_that_is_not_listed_does_not_start(self):
        with Cluster(2, provider="static") as c:
            d = c["b"]
            d.settings["node.name"] = "stranger"
            status, line = d.refused()
            self.assertEqual(status, 78)
            self.assertIn("cluster.nodes", line)
            self.assertIn("stranger", line)


class Form(unittest.TestCase):
    def test_three_voters_form_a_cluster_and_share_out_the_slots(self):
        with Cluster(3) as c:
            c.form()
            self.assertEqual(ready(c["a"]), (200, "ok"))
            leads = [d.name for d in c if d.status()["leader"] == d.name]
            self.assertEqual(len(leads), 1)
            for d in c:
                self.assertEqual(d.status()["leader"], leads[0])
                voters = d.json("coord", "status")["voters"]
                self.assertEqual(len(voters), 3)
            slots = [n["slots"] for n in c["a"].nodes().values()]
            self.assertLess(max(slots) - min(slots), 65536 * 0.1)
            loads = [n["beat_age_ms"] for n in c[leads[0]].nodes().values()]
            self.assertTrue(all(age < 5000 for age in loads), loads)
            text = [e["text"] for e in c[leads[0]].json("cluster", "events")]
            self.assertTrue(any("leads" in t for t in text), text)
            m = c["b"].metrics()
            self.assertEqual(m["cluster_nodes_up"], 3)
            self.assertEqual(m["cluster_member"], 1)
            self.assertGreaterEqual(m["peer_links"], 1)

    def test_a_watcher_joins_and_gets_its_part(self):
        with Cluster(4) as c:
            c.start("a", "b", "c")
            self.assertTrue(c.settled("a", "b", "c"), c.report())
            before = c["a"].nodes()
            c.start("d")
            self.assertTrue(c.settled("a", "b", "c", "d"), c.report())
            nodes = c["a"].nodes()
            self.assertFalse(nodes["d"]["voter"])
            self.assertGreater(nodes["d"]["slots"], 65536 / 4 * 0.85)
            moved = sum(before[m]["slots"] - nodes[m]["slots"] for m in "abc")
            self.assertLess(moved, 65536 / 4 * 1.1)

    def test_a_restart_of_all_keeps_the_cluster(self):
        with Cluster(3) as c:
            c.form()
            epoch = c["a"].epoch()
            before = {m: n["slots"] for m, n in c["a"].nodes().items()}
            for d in c:
                d.stop()
            c.start()
            self.assertTrue(c.settled("a", "b", "c"), c.report())
            after = c["a"].nodes()
            self.assertEqual({m: n["slots"] for m, n in after.items()},
                             before)
            self.assertTrue(all(n["incarnation"] == 2
                                for n in after.values()))
            self.assertGreaterEqual(c["a"].epoch(), epoch)


class Route(unittest.TestCase):
    """One cluster for all tests of this class."""

    @classmethod
    def setUpClass(cls):
        cls.c = Cluster(3)
        cls.addClassCleanup(cls.c.__exit__, None, None, None)
        cls.c.form()
        for d in cls.c:  # the namespace, on every node
            run = d.ctl("namespace", "create", "default")
            assert run.rc == OK, run.err

    def ns(self, d):
        rows = d.json("namespace", "list")
        return next(r["id"] for r in rows if r["name"] == "default")

    def test_a_namespace_has_the_same_slots_on_all_nodes(self):
        keys = [f"same{i}" for i in range(8)]
        for k in keys:
            run = self.c["a"].ctl("put", k, stdin=k.encode())
            self.assertEqual(run.rc, OK, run.err)
        for d in self.c:
            for k in keys:
                run = d.ctl("get", k)
                self.assertEqual((run.rc, run.out), (OK, k), run.err)

    def test_a_client_that_knows_no_view_is_told_who_has_the_slot(self):
        nodes = self.c["a"].nodes()
        index = {n["index"]: m for m, n in nodes.items()}
        owners = set()
        for i in range(40):
            status, owner = get_raw(self.c["a"], self.ns(self.c["a"]),
                                    f"none{i}")
            if status == "MISS":
                owners.add("a")
                continue
            self.assertEqual(status, "WRONG_NODE")
            owners.add(index[owner])
            there = self.c[index[owner]]
            status, _ = get_raw(there, self.ns(there), f"none{i}")
            self.assertEqual(status, "MISS")
        self.assertEqual(owners, {"a", "b", "c"})
        self.assertGreater(self.c["a"].metrics()["redirects"], 0)

    def test_who_says_here_or_knows_a_newer_view_is_not_sent_elsewhere(self):
        a = self.c["a"]
        ns = self.ns(a)
        for i in range(20):
            self.assertEqual(get_raw(a, ns, f"gone{i}", flags=HERE)[0], "MISS")
            self.assertEqual(
                get_raw(a, ns, f"gone{i}", epoch=1 << 40)[0], "MISS")

    def test_a_flush_is_every_nodes(self):
        generations = {d.name: self.generation(d) for d in self.c}
        run = self.c["b"].ctl("namespace", "bump", "default", "--yes")
        self.assertEqual(run.rc, OK, run.err)
        for d in self.c:
            self.assertTrue(until(lambda d=d: self.generation(d) >
                                  generations[d.name]), self.c.report())

    @staticmethod
    def generation(d):
        return d.json("namespace", "show", "default")["generation"]


class Loss(unittest.TestCase):
    def test_a_killed_node_is_down_is_stood_in_for_and_comes_back(self):
        with Cluster(3) as c:
            c.form()
            leader = c.until_leader()
            victim = next(d for d in c if d is not leader)
            other = next(d for d in c if d not in (leader, victim))
            before = leader.nodes()[victim.name]["slots"]
            victim.kill()
            c.until_state(victim.name, "down", leader.name)
            c.until_state(victim.name, "down", other.name)
            rows = other.json("cluster", "slots", victim.name, "--limit", "5")
            self.assertTrue(all(len(r["owners"]) >= 2 for r in rows), rows)
            status = other.status()
            self.assertEqual(status["moving_slots"], 0)
            self.assertIn("0 slots that nobody serves", status["nodes"])
            victim.start()
            self.assertTrue(c.settled(*c.names), c.report())
            node = leader.nodes()[victim.name]
            self.assertEqual(node["slots"], before)
            self.assertEqual(node["incarnation"], 2)

    def test_the_leader_is_killed_and_another_one_leads(self):
        with Cluster(3) as c:
            c.form()
            old = c.until_leader()
            term = old.json("coord", "status")["term"]
            old.kill()
            new = c.until_leader()
            self.assertIsNot(new, old)
            self.assertGreater(new.json("coord", "status")["term"], term)
            c.until_state(old.name, "down", new.name)
            old.start()
            self.assertTrue(c.settled(*c.names), c.report())

    def test_a_node_alone_serves_says_degraded_and_changes_nothing(self):
        with Cluster(3) as c:
            c.form()
            a = c["a"]
            self.assertEqual(a.ctl("put", "kept", stdin=b"kept").rc, OK)
            c["b"].kill()
            c["c"].kill()
            self.assertTrue(until(lambda: a.status()["phase"] == "cut"),
                            c.report())
            self.assertEqual(ready(a), (200, "ok, degraded"))
            run = a.ctl("node", "drain", "b")
            self.assertEqual(run.rc, ERROR)
            self.assertIn("no leader answers", run.err)
            self.assertEqual(a.ctl("namespace", "create", "x").rc, OK)
            run = a.ctl("namespace", "bump", "x", "--yes")
            self.assertEqual(run.rc, ERROR)
            self.assertIn("nothing was", run.err)
            c.start("b")
            self.assertTrue(c.settled("a", "b", limit_s=60), c.report())
            self.assertEqual(ready(a), (200, "ok"))

    def test_a_node_that_starts_without_a_leader_has_its_last_view(self):
        with Cluster(3) as c:
            c.form()
            epoch = c["a"].epoch()
            for d in c:
                d.kill()
            c.start("a")
            s = c["a"].status()
            self.assertGreaterEqual(s["epoch"], epoch - 40)
            self.assertNotEqual(s["phase"], "member")
            self.assertEqual(sum(n["slots"] for n in
                                 c["a"].nodes().values()), 65536)

    def test_an_orderly_stop_of_the_leader_hands_over(self):
        with Cluster(3) as c:
            c.form()
            old = c.until_leader()
            old.stop()
            new = c.until_leader()
            self.assertIsNot(new, old)


class Change(unittest.TestCase):
    def test_a_drained_node_owns_nothing_and_comes_back(self):
        with Cluster(3) as c:
            c.form()
            run = c["a"].ctl("node", "drain", "c")
            self.assertEqual(run.rc, OK, run.err)
            self.assertTrue(until(lambda: c["b"].nodes()["c"]["slots"] == 0,
                                  120), c.report())
            self.assertEqual(c["b"].nodes()["c"]["state"], "draining")
            run = c["b"].ctl("node", "undrain", "c")
            self.assertEqual(run.rc, OK, run.err)
            self.assertTrue(until(lambda: c["a"].nodes()["c"]["slots"] >
                                  65536 / 3 * 0.9, 120), c.report())

    def test_a_removed_node_is_gone_and_serves_nothing_new(self):
        with Cluster(4) as c:
            c.form()
            run = c["a"].ctl("node", "remove", "d", "--yes")
            self.assertEqual(run.rc, ERROR)
            self.assertIn("drain", run.err)
            self.assertEqual(c["a"].ctl("node", "drain", "d").rc, OK)
            self.assertTrue(until(lambda: c["b"].nodes()["d"]["slots"] == 0,
                                  120), c.report())
            run = c["a"].ctl("node", "remove", "d", "--yes")
            self.assertEqual(run.rc, OK, run.err)
            self.assertTrue(until(lambda: "d" not in c["b"].nodes()))
            self.assertTrue(c_sum(c["b"]), c.report())
            self.assertTrue(
                until(lambda: c["d"].status()["phase"] == "expelled"),
                c.report())
            self.assertEqual(ready(c["d"])[0], 503)

    def test_names_and_questions_that_make_no_sense(self):
        with Cluster(3) as c:
            c.form()
            run = c["a"].ctl("node", "drain", "nobody")
            self.assertEqual(run.rc, ERROR)
            self.assertIn("nobody", run.err)
            run = c["a"].ctl("coord", "recover", "b", "--yes")
            self.assertEqual(run.rc, USAGE)
            plan = c["b"].json("placement", "plan")
            self.assertEqual(plan["moves"], 0)
            self.assertEqual(c["b"].ctl("placement", "apply").rc, OK)
            leader = c.until_leader()
            other = next(d for d in c if d is not leader)
            run = other.ctl("experts", "load")
            self.assertEqual(run.rc, ERROR)
            self.assertIn(leader.name, run.err)
            self.assertEqual(leader.json("experts", "load"), [])

    def test_leadership_is_transferred(self):
        with Cluster(3) as c:
            c.form()
            old = c.until_leader()
            to = next(d for d in c if d is not old)
            run = old.ctl("coord", "transfer", to.name)
            self.assertEqual(run.rc, OK, run.err)
            self.assertTrue(until(lambda: c.leader() is to), c.report())

    def test_loads_of_experts_come_to_the_leader_and_make_a_plan(self):
        with Cluster(3) as c:
            c.form()
            leader = c.until_leader()
            other = next(d for d in c if d is not leader)
            run = other.ctl("namespace", "create", "moe", "model=m")
            self.assertEqual(run.rc, OK, run.err)
            ns = next(r["id"] for r in other.json("namespace", "list")
                      if r["name"] == "moe")
            peer = Raw(other.socket)
            peer.hello()
            for layer in range(2):
                counts = bytes([100, 1, 2, 3])
                r = peer.ask("feedback", env=pb(
                    (1, ns), (5, pb((1, layer), (2, counts)))))
                self.assertEqual(r.frame["status"], 0)
            peer.close()
            rows = until(lambda: leader.json("experts", "load"))
            self.assertTrue(until(
                lambda: len(leader.json("experts", "load")) == 8), rows)
            rows = leader.json("experts", "load")
            self.assertEqual(rows[0]["load"], 100)
            text = leader.ctl("experts", "export", "--model",
                              rows[0]["model"], "--gpus", "2",
                              "--redundant", "2").out
            layers = json.loads(text)["physical_to_logical_map"]
            self.assertEqual(len(layers), 2)
            self.assertEqual(sorted(set(layers[0])), [0, 1, 2, 3])
            self.assertGreaterEqual(layers[0].count(0), 2)


class Move(unittest.TestCase):
    def test_no_read_misses_while_slots_move_to_a_node_that_joins(self):
        with Cluster(4) as c:
            c.start("a", "b", "c")
            self.assertTrue(c.settled("a", "b", "c"), c.report())
            keys = [f"k{i}" for i in range(40)]
            for k in keys:
                run = c["a"].ctl("put", k, stdin=k.encode())
                self.assertEqual(run.rc, OK, run.err)
            c.start("d")
            rounds = 0
            while not c.agree("abcd") or rounds == 0:
                rounds += 1
                for k in keys:
                    run = c["b"].ctl("get", k)
                    self.assertEqual((run.rc, run.out), (OK, k),
                                     run.err + c.report())
                self.assertLess(rounds, 60, c.report())
            self.assertGreater(c["d"].nodes()["d"]["slots"], 65536 / 5)
            self.assertGreater(c["d"].metrics()["blocks"], 0)
            for d in c:
                for k in keys:
                    self.assertEqual(d.ctl("get", k).out, k)


class Identity(unittest.TestCase):
    def test_a_state_dir_of_another_cluster_is_refused(self):
        with Cluster(3) as c:
            c.start("a")
            c["a"].stop()
            c["a"].settings["cluster.id"] = "other"
            status, line = c["a"].refused()
            self.assertEqual(status, 78)
            self.assertIn("e2e", line)

    def test_a_copied_identity_is_refused_by_the_others(self):
        with Cluster(4) as c:
            c.start("a", "b", "c")
            self.assertTrue(c.settled("a", "b", "c"), c.report())
            source = os.path.join(c["a"].settings["node.state_dir"],
                                  "cluster.json")
            target = os.path.join(c["d"].settings["node.state_dir"],
                                  "cluster.json")
            with open(source, encoding="utf-8") as f:
                text = f.read()
            with open(target, "w", encoding="utf-8") as f:
                f.write(text)
            c.start("d")
            wait_s(DOWN_S)
            self.assertNotIn("d", c["a"].nodes())
            self.assertNotEqual(c["d"].status()["phase"], "member")

    def test_an_occupied_peer_port_is_said_with_its_key(self):
        with Cluster(3) as c:
            c.start("a")
            c["b"].settings["cluster.port"] = c["a"].settings["cluster.port"]
            status, line = c["b"].refused()
            self.assertNotEqual(status, 0)
            self.assertIn("cluster.port", line)

    def test_recover_goes_on_with_one_voter(self):
        with Cluster(3) as c:
            c.form()
            c["b"].kill()
            c["c"].kill()
            a = c["a"]
            run = a.ctl("coord", "recover", "a", "--yes")
            self.assertEqual(run.rc, OK, run.err)
            a.stop()
            a.start()
            self.assertTrue(until(
                lambda: a.json("coord", "status")["leads"], 60), c.report())
            self.assertEqual(a.json("coord", "status")["generation"], 2)
            c.until_state("b", "down", "a")
            run = a.ctl("node", "remove", "b", "--yes")
            self.assertEqual(run.rc, OK, run.err)


class Single(unittest.TestCase):
    def test_a_single_node_has_no_cluster_to_show(self):
        with Node() as d:
            run = Run("cluster", "status", address=d.address)
            self.assertEqual(run.rc, ERROR)
            self.assertIn("cluster.enabled", run.err)

    def test_firewall_rules_have_the_ports_of_the_configuration(self):
        config = {"node": {"lanes": 3},
                  "listen": {"ucx": {"enabled": True, "host": "10.0.0.5",
                                     "port": 7600,
                                     "port_range": "7700-7799"}},
                  "cluster": {"enabled": True, "id": "x", "host": "10.0.0.5",
                              "port": 7650,
                              "voters": "a=10.0.0.5:7650,b=10.0.0.6:7650,"
                                        "c=10.0.0.7:7650",
                              "security": "psk",
                              "tls": {"psk_file": "/etc/pikvd/psk"}}}
        config["node"]["state_dir"] = "/var/lib/pikvd"
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            json.dump(config, f)
            f.flush()
            run = Run("firewall", "--config", f.name,
                      env={"PIKVD": program("pikvd")})
        self.assertEqual(run.rc, OK, run.err)
        self.assertIn("tcp dport 7650 ip saddr != @pikvd_nodes drop", run.out)
        self.assertIn("{ 7600-7602, 7700-7799 }", run.out)
        self.assertIn("10.0.0.6", run.out)
        self.assertNotIn("7421", run.out)


def c_sum(d):
    return until(lambda: sum(n["slots"] for n in d.nodes().values()) == 65536,
                 120)


if __name__ == "__main__":
    unittest.main()
