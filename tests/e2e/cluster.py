# SPDX-License-Identifier: Apache-2.0
"""Clusters of real daemons on this machine.

    with Cluster(3) as c:              # raft: a, b, c are the voters
        c.form()
        c["b"].kill(); c.until_state("b", "down", seen_by="a")

Links between daemons are plain, on loopback; times are shorter than in the
field. A node keeps its state_dir through stop, kill and start."""

import os
import time

from ctl_case import Run
from node import LIMIT_S, SANITIZED, Node, free_ports, until

# A machine with sanitizers and other tests on it is slow: what must not happen
# early is given more time there.
SLOW = 4 if SANITIZED else 1
DOWN_S = 1.2 * SLOW


class Member(Node):
    def __init__(self, name, sets, lanes=1, dram="64MiB"):
        super().__init__(*sets, f"node.name={name}", lanes=lanes, dram=dram)
        self.name = name
        self.settings["node.state_dir"] = os.path.join(self.dir, "state")
        os.makedirs(self.settings["node.state_dir"])

    def ctl(self, *args, **more):
        return Run("--deadline", "20s", *args, address=self.address, **more)

    def json(self, *args, **more):
        run = self.ctl("-o", "json", *args, **more)
        assert run.rc == 0, run.err
        return run.json()

    def status(self):
        return self.json("cluster", "status")

    def nodes(self):
        return {n["name"]: n for n in self.json("cluster", "nodes")}

    def epoch(self):
        return self.status()["epoch"]


class Cluster:
    """n nodes, a, b, c, ...; the first `voters` of them vote (raft)."""

    def __init__(self, n, provider="raft", voters=3, sets=(), lanes=1,
                 dram="64MiB"):
        self.names = [chr(ord("a") + i) for i in range(n)]
        port = free_ports(n)
        peers = {m: f"127.0.0.1:{port + i}" for i, m in enumerate(self.names)}
        self.common = [
            "cluster.enabled=true", "cluster.id=e2e", "cluster.security=plain",
            f"cluster.provider={provider}",
            "cluster.beat=100ms", f"cluster.suspect={int(400 * SLOW)}ms",
            f"cluster.down={int(DOWN_S * 1000)}ms",
            f"cluster.election={int(400 * SLOW)}ms", "cluster.heartbeat=50ms",
            "cluster.move_slots=4096", "log.level=debug", *sets]
        self.nodes = {}
        for m in self.names:
            self.nodes[m] = Member(m, self.common, lanes, dram)
            self.nodes[m].settings["cluster.port"] = peers[m].split(":")[1]
        if provider == "raft":
            who = ",".join(f"{m}={peers[m]}" for m in self.names[:voters])
            for d in self.nodes.values():
                d.settings["cluster.voters"] = who
                d.settings["cluster.advertise.peer"] = peers[d.name]
        else:
            who = ",".join(
                f"{m}={peers[m]}/lanes:{lanes}/shm:{self.nodes[m].socket}"
                for m in self.names)
            for d in self.nodes.values():
                d.settings["cluster.nodes"] = who

    def __getitem__(self, name):
        return self.nodes[name]

    def __iter__(self):
        return iter(self.nodes.values())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for d in self:
            d.kill()  # all at once: nobody takes over from the others
        for d in self:
            d.remove()

    def start(self, *names):
        for m in names or self.names:
            self.nodes[m].start()

    def form(self):
        """Starts all; when all are up and every slot has its home."""
        self.start()
        assert self.settled(*self.names), self.report()

    def settled(self, *names, limit_s=LIMIT_S * 2):
        """The running nodes agree that these are up and nothing moves."""
        return until(lambda: self.agree(names), limit_s)

    def agree(self, names):
        epochs = set()
        for d in self:
            if not d.process:
                continue
            s = d.status()
            nodes = d.nodes()
            epochs.add(s["epoch"])
            if s["phase"] != "member" or s["moving_slots"]:
                return False
            part = 65536 / len(nodes) * 0.8  # they weigh alike
            if any(nodes.get(m, {}).get("state") != "up" or
                   nodes[m]["slots"] < part for m in names):
                return False
            if sum(n["slots"] for n in nodes.values()) != 65536:
                return False
        return len(epochs) == 1

    def leader(self):
        """The running node that leads, or None."""
        for d in self:
            if d.process and d.json("coord", "status")["leads"]:
                return d
        return None

    def until_leader(self):
        d = until(self.leader)
        assert d, self.report()
        return d

    def until_state(self, name, state, seen_by, limit_s=LIMIT_S * 2):
        ok = until(lambda: self.nodes[seen_by].nodes().get(
            name, {}).get("state", "removed") == state, limit_s)
        assert ok, self.report()

    def report(self):
        return "\n".join(f"--- {d.name}\n{d.log()[-3000:]}" for d in self)

    def owner_of(self, slot, seen_by="a"):
        rows = self.nodes[seen_by].json("cluster", "slots", "--limit", "0")
        return rows[slot]["owners"][0]


def wait_s(seconds):
    time.sleep(seconds)
