#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demo of many nodes: daemons on this machine, linked by TLS with a key
made here, serve a conversation trace as one cache while they are killed, join,
are drained and removed, and while one prefix and a few experts turn hot. Every
byte that comes back is compared. Nothing else runs, and nothing is left behind.

    steps (Demo.script) --> daemons, pikvctl
             |
           watch: every tick the leader is asked, the clients' last lines are
             |    read (bench/live.h), one table is drawn
             v
    a row for each step, and the verdict

On a terminal the table stands still and is refreshed, elsewhere there is a line
now and then. The exit status is not 0 when a byte was wrong, when the cluster
did not come to rest, or when clients felt more than misses: a node that was
gone may cost answers (TIMEOUT, RETRY, NO_SERVER, within a budget, each a miss
to an engine), anything else is an error.

    DEMO=small    shorter, for a laptop
    OUT=DIR       where the programs are (out/release)
    DEMO_DIR=DIR  where state and SSD files go (out; must not be on tmpfs)
"""

import os
import secrets
import shutil
import signal
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # nothing is written beside the sources

from demo_nodes import (COUNTS, ROOT, Client, Failed,  # noqa: E402
                        Node, free_ports)

TRACE = "bench/traces/conversation_trace.jsonl.gz"
SLOTS = 65536
BLOCK = 8  # KiB that stand for a block of 512 tokens
TICK_S = 0.5
LINE_S = 2.0  # between lines where there is no terminal
QUIET_S = 1.2  # without a change: at rest
GPUS = 8  # that the experts' plan is for
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
GONE = ("TIMEOUT", "RETRY", "NO_SERVER")
GONE_BUDGET = 0.01  # of the blocks asked for, where nobody was killed


class Size:
    """What differs between the demo and the small one."""

    def __init__(self, small):
        self.pace = 60  # requests a second: the trace is for 200 s
        self.hot_rate = 400 if small else 800
        self.dram, self.ssd = ("48MiB", "256MiB") if small \
            else ("96MiB", "768MiB")
        self.play_s = 2 if small else 8  # between two events
        self.rest_s = 0 if small else 5  # after moves
        self.hot_s = 7 if small else 20
        self.limit_s = 60  # for each change
        self.sets = ["cluster.beat=200ms", "cluster.suspect=600ms",
                     "cluster.down=1200ms", "cluster.election=400ms",
                     "cluster.heartbeat=50ms"] if small else []
        self.sets += ["cluster.move_slots=4096", "cluster.move_grace=3s"]


# ---- What is shown ----------------------------------------------------------


def max_mean(nodes):
    """How uneven the load of those is that serve."""
    loads = [n["load"] for n in nodes.values()
             if n["slots"] and n["state"] != "down"]
    mean = sum(loads) / len(loads) if loads else 0
    return max(loads) / mean if mean else 0.0


def total(clients, key):
    return sum(c.last[key] for c in clients)


def all_errors(clients):
    out = {}
    for c in clients:
        for kind, n in c.last["errors"].items():
            out[kind] = out.get(kind, 0) + n
    return out


def moved(before, after):
    """Slots that have another home now, at the least."""
    return sum(max(0, n["slots"] - before.get(m, {"slots": 0})["slots"])
               for m, n in after.items()) if before else 0


def unplanned(row):
    """Blocks not answered that no death explains."""
    return 0 if row["death"] else row["gone"]


def words(errors):
    return " ".join(f"{k} {n}" for k, n in sorted(errors.items())) or "none"


class Screen:
    """One table that is refreshed, or lines."""

    def __init__(self):
        self.tty = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.drawn, self.shown_s = 0, 0.0

    def say(self, text):
        """Stays, above the table."""
        self.clear()
        print(text, flush=True)

    def clear(self):
        if self.drawn:
            print(f"\x1b[{self.drawn}A\x1b[J", end="", flush=True)
            self.drawn = 0

    def show(self, demo):
        now = time.monotonic()
        if self.tty:
            rows = self.table(demo)
            width = shutil.get_terminal_size().columns
            self.clear()
            print("\n".join(r[:width - 1] for r in rows), flush=True)
            self.drawn = len(rows)
        elif now - self.shown_s >= LINE_S:
            self.shown_s = now
            print(self.line(demo), flush=True)

    @staticmethod
    def line(d):
        slots = " ".join(f"{m}:{n['slots']}" for m, n in d.view.items())
        refs = total(d.clients, "refs")
        return (f"  {d.now_s():5.1f} s  epoch {d.epoch}  slots {slots}"
                f"  moving {d.moving}  max/mean {max_mean(d.view):.2f}"
                f"  hits {share(total(d.clients, 'hits'), refs)}"
                f"  lost {lost(d.clients)}"
                f"  redirects {total(d.clients, 'redirects')}"
                f"  not answered {words(all_errors(d.clients))}"
                f"  wrong {total(d.clients, 'wrong')}")

    @staticmethod
    def table(d):
        rows = ["", f"{d.now_s():6.1f} s   epoch {d.epoch}   leader "
                f"{d.leader or 'none'}   slots that move {d.moving}", "",
                "node  state        slots    in   out    ops/s   MiB/s"
                "  kept MiB"]
        for m, n in d.view.items():
            rows.append(
                f"{m:5} {n['state']:9} {n['slots']:8} {n['moving_in']:5}"
                f" {n['moving_out']:5} {n['ops']:8}"
                f" {n['bytes'] / 1048576:7.1f} {n['used_mib']:9}  "
                + "#" * round(24 * n["load"] / max(d.peak_load, 1)))
        refs = total(d.clients, "refs")
        rows += [
            f"load  max/mean {max_mean(d.view):.2f}", "",
            f"client   {total(d.clients, 'requests')} requests, "
            f"{share(total(d.clients, 'hits'), refs)} of {refs} blocks hit, "
            f"{total(d.clients, 'redirects')} redirects",
            f"felt     {lost(d.clients)} hits less than if nothing had "
            f"happened; not answered: {words(all_errors(d.clients))}",
            f"         longest call of this step {d.slowest():.0f} ms",
            f"verify errors {total(d.clients, 'wrong')}"]
        return rows


def lost(clients):
    """Hits that a cache which loses nothing would have had, and this had not:
    all that an engine feels."""
    return max(0, total(clients, "could") - total(clients, "hits"))


def share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"


# ---- The demo ---------------------------------------------------------------


class Demo:
    def __init__(self, size, out, run_dir, disk_dir):
        self.size, self.out = size, out
        self.run_dir, self.disk_dir = run_dir, disk_dir
        self.screen = Screen()
        self.nodes, self.clients, self.rows = {}, [], []
        self.view, self.leader = {}, None
        self.epoch = self.moving = 0
        self.peak_load = self.peak_mean = 0.0
        self.begun_s = self.ticked_s = time.monotonic()
        self.step = None
        port = free_ports(4)
        self.peers = {m: f"127.0.0.1:{port + i}"
                      for i, m in enumerate("abcd")}
        self.voters = ",".join(f"{m}={self.peers[m]}" for m in "abc")
        self.psk = os.path.join(run_dir, "peer.psk")
        with open(os.open(self.psk, os.O_CREAT | os.O_WRONLY, 0o600), "w",
                  encoding="ascii") as f:
            f.write(secrets.token_hex(32) + "\n")

    def program(self, name):
        return os.path.join(self.out, name)

    def now_s(self):
        return time.monotonic() - self.begun_s

    def add(self, name):
        self.nodes[name] = Node(self, name, self.peers[name])
        return self.nodes[name]

    # ---- looking

    def members(self):
        return [n for n in self.nodes.values() if n.process and not n.expelled]

    def look(self):
        """Asks who leads, and the leader for the nodes."""
        seen = {}
        for n in self.members():
            s = n.ctl("cluster", "status")
            if s:
                seen[n.name] = s
        self.seen = seen
        if not seen:
            return
        newest = max(seen.values(), key=lambda s: s["epoch"])
        self.epoch, self.moving = newest["epoch"], newest["moving_slots"]
        lead = [m for m, s in seen.items() if s["leader"] == m]
        self.leader = lead[0] if lead else None
        at = self.nodes[self.leader or next(iter(seen))]
        rows = at.ctl("cluster", "nodes")
        if rows:
            self.view = {r["name"]: {**r, "load": self.load_of(r)}
                         for r in rows}
            self.peak_load = max([n["load"] for n in self.view.values()]
                                 + [self.peak_load])
            self.peak_mean = max(self.peak_mean, max_mean(self.view))

    @staticmethod
    def load_of(row):
        """As the balancer counts (daemon/cluster/balance.h)."""
        return 0 if row["state"] == "down" else \
            row["ops"] + row["bytes"] / 65536 + row["misses"]

    def tick(self):
        """A look and a table, once in a while; else a moment's sleep."""
        if time.monotonic() - self.ticked_s < TICK_S:
            time.sleep(0.02)
            return
        self.ticked_s = time.monotonic()
        self.look()
        for c in self.clients:
            c.check()
        for n in self.nodes.values():
            if n.dead():
                raise Failed(f"pikvd {n.name} ended by itself:\n"
                             + n.text()[-2000:])
        self.screen.show(self)

    def play(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tick()

    def until(self, what, condition):
        """Looks until it is so; seconds it took."""
        begin = time.monotonic()
        while not condition():
            if time.monotonic() - begin > self.size.limit_s:
                raise Failed(f"not within {self.size.limit_s} s: {what}")
            self.tick()
        return time.monotonic() - begin

    def state(self, name):
        return self.view.get(name, {}).get("state", "removed")

    def at_rest(self, *up):
        """Since QUIET_S ago: all are members, these are up, every slot has its
        home, none moves. Who may stand in for whom is rearranged after that,
        which moves nothing here."""
        homes = {m: n["slots"] for m, n in self.view.items()}
        if not self.settled(*up) or homes != self.quiet_homes:
            self.quiet_s, self.quiet_homes = time.monotonic(), homes
        return time.monotonic() - self.quiet_s >= QUIET_S

    def settled(self, *up):
        return (len(self.seen) == len(self.members())
                and all(s["phase"] == "member" and s["moving_slots"] == 0
                        for s in self.seen.values())
                and all(self.state(m) == "up" for m in up)
                and sum(n["slots"] for n in self.view.values()) == SLOTS)

    def rest(self, *up):
        self.seen, self.quiet_homes = {}, None
        return self.until(f"{', '.join(up)} up and at rest",
                          lambda: self.at_rest(*up))

    def asked(self, node, *args):
        """A node's answer; it is asked until there is one."""
        answer = []
        self.until(f"{node.name} answers {' '.join(args)}",
                   lambda: answer.append(node.ctl(*args)) or answer[-1])
        return answer[-1]

    def change(self, *args):
        """An operator's command, to any member; said again while there is no
        leader."""
        def done():
            return self.members()[0].ctl(*args) is not None
        self.until(" ".join(args), done)

    # ---- the steps

    def begin(self, title, death=False):
        """death: a node does not answer, and the view does not say so yet."""
        self.end()
        self.step = {"title": title, "at": self.now_s(), "epoch": self.epoch,
                     "death": death, "view": self.view, **self.figures()}
        for c in self.clients:
            c.slowest_ms = 0.0
        self.peak_mean = 0.0
        self.screen.say(f"{self.now_s():5.1f} s  {title}")

    def figures(self):
        errors = all_errors(self.clients)
        return {k: total(self.clients, k) for k in COUNTS} | {
            "gone": sum(n for k, n in errors.items() if k in GONE)}

    def slowest(self):
        return max((c.slowest_ms for c in self.clients), default=0)

    def note(self, text):
        self.screen.say(f"         {text}")

    def end(self):
        if not self.step:
            return
        s, now = self.step, self.figures()
        self.rows.append({
            **{k: now[k] - s[k] for k in now}, "title": s["title"],
            "death": s["death"], "took": self.now_s() - s["at"],
            "epochs": self.epoch - s["epoch"], "mean": max_mean(self.view),
            "moved": moved(s["view"], self.view), "slowest": self.slowest()})
        self.step = None

    def script(self):
        self.form()
        self.kill_and_return()
        self.join()
        self.drain_and_remove()
        self.turn_hot()
        self.calm()

    def form(self):
        self.begin("three daemons form a cluster")
        for m in "abc":
            self.add(m).start()
        took = self.rest("a", "b", "c")
        self.note(f"every slot has its home after {took:.1f} s more;"
                  f" {self.leader} leads")
        self.clients.append(Client(
            self, "replay", "--live", "--trace", TRACE, "--block",
            f"{BLOCK}KiB", "--pace", str(self.size.pace)))
        self.begin("the trace is replayed across them")
        self.play(2 * self.size.play_s)

    def kill_and_return(self):
        victim = self.nodes[self.leader]
        before = victim.keys()
        self.begin(f"{victim.name}, the leader, is killed with -9",
                   death=True)
        victim.kill()
        took = self.until(f"{victim.name} down", lambda: self.leader and
                          self.state(victim.name) == "down")
        self.note(f"{self.leader} leads and {victim.name} is down"
                  f" {took:.1f} s later; others stand in for its slots")
        self.play(self.size.play_s)
        self.begin(f"{victim.name} comes back", death=True)
        took = victim.start()
        self.note(f"ready after {took:.1f} s with {victim.keys()} of the"
                  f" {before} blocks it had")
        self.rest("a", "b", "c")
        self.play(self.size.play_s)

    def join(self):
        self.begin("a fourth joins")
        d = self.add("d")
        d.start()
        took = self.rest("a", "b", "c", "d")
        self.note(f"d is the home of {self.view['d']['slots']} slots and has"
                  f" {d.keys()} blocks after {took:.1f} s")
        self.play(self.size.rest_s)

    def drain_and_remove(self):
        name = next(m for m in "bca" if m != self.leader)
        others = [m for m in "abcd" if m != name]
        self.begin(f"{name} is drained and removed")
        self.change("node", "drain", name)
        took = self.until(f"{name} without slots", lambda: self.moving == 0
                          and self.view[name]["slots"] == 0)
        self.change("node", "remove", name, "--yes")
        self.nodes[name].expelled = True
        self.until(f"{name} removed", lambda: name not in self.view)
        self.nodes[name].stop()
        self.rest(*others)
        self.note(f"{name} gave its slots away in {took:.1f} s, and is gone")
        self.play(self.size.rest_s)

    def turn_hot(self):
        self.begin("a prefix and some experts turn hot")
        hot = Client(self, "hot", "--block", f"{BLOCK}KiB", "--rate",
                     str(self.size.hot_rate))
        self.clients.append(hot)
        self.play(self.size.hot_s)
        worst, now = self.peak_mean, max_mean(self.view)
        self.note(f"synthetic load; max/mean {worst:.2f} at its worst, {now:.2f} now")
        plan = []
        self.until("loads of experts are with the leader",
                   lambda: plan.append(self.experts()) or plan[-1])
        self.note(plan[-1])

    def experts(self):
        """The plan for their replicas, by the loads that were reported; None:
        the leader has none yet."""
        lead = self.nodes.get(self.leader)
        loads = lead and lead.ctl("experts", "load")
        plan = loads and lead.ctl("experts", "plan", "--model",
                                  loads[0]["model"], "--gpus", str(GPUS),
                                  "--redundant", str(GPUS))
        if not plan:
            return None
        sums, each = [0] * GPUS, len(loads) // GPUS
        for r in loads:
            sums[min(r["expert"] // each, GPUS - 1)] += r["load"]
        return (f"experts on {GPUS} GPUs: max/mean"
                f" {max(sums) * GPUS / max(sum(sums), 1):.2f} in order,"
                f" {plan['skew_permille'][0] / 1000:.2f} as `pikvctl experts"
                f" plan` has them, {GPUS} replicas")

    def calm(self):
        self.begin("the clients stop, all comes to rest")
        for c in self.clients:
            c.stop()
        self.rest()
        self.end()

    # ---- the end

    def summary(self):
        """seconds, epochs, slots that moved, hits of what was asked for and
        what a cache that loses nothing would have hit, blocks that were sent
        elsewhere, not answered; the longest call; load at the end; wrong."""
        print("\nstep                                 seconds epochs slots    hits"
              "   (of)  sent un-  longest  max/ wrong\n"
              "                                                    moved        "
              "          on   ans. call ms  mean bytes")
        for r in self.rows:
            print(f"{r['title'][:36]:36} {r['took']:7.1f} {r['epochs']:6}"
                  f" {r['moved']:6} {share(r['hits'], r['refs']):>7}"
                  f" {share(r['could'], r['refs']):>7}"
                  f" {r['redirects']:4} {r['gone']:5} {r['slowest']:7.0f}"
                  f" {r['mean']:5.2f} {r['wrong']:5}")

    def verdict(self):
        """Reasons why this was no success."""
        errors, refs = all_errors(self.clients), total(self.clients, "refs")
        gone = sum(unplanned(r) for r in self.rows)
        other = {k: n for k, n in errors.items() if k not in GONE}
        wrong = total(self.clients, "wrong")
        print(f"\n{refs} blocks asked for, every byte of the"
              f" {total(self.clients, 'hits')} that came was compared\n"
              f"lost hits {lost(self.clients)}; not answered:"
              f" {words(errors)}\nverify errors {wrong}")
        if wrong:
            yield f"{wrong} blocks with wrong bytes"
        if other:
            yield f"clients felt {words(other)}"
        if gone > GONE_BUDGET * refs:
            yield f"{gone} of {refs} blocks not answered though nobody died"

    def remove(self):
        for c in self.clients:
            c.kill()
        for n in self.nodes.values():
            n.kill()


INTRO = """This demo
  starts    three pikvd, later a fourth, each with {dram} of memory and {ssd} of SSD (a file)
  replays   a real conversation trace ({trace}) across them, {block} KiB a block
  writes    to {disk} and a little to {run}; both are removed at the end
  listens   on unix sockets there, and for links between the daemons on 127.0.0.1
"""


def run(size, out, run_dir, disk_dir):
    demo = Demo(size, out, run_dir, disk_dir)
    print(INTRO.format(dram=size.dram, ssd=size.ssd, trace=TRACE, block=BLOCK,
                       disk=disk_dir, run=run_dir), flush=True)
    why = []
    try:
        demo.script()
    except Failed as e:
        why = [str(e)]
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        demo.remove()
    demo.screen.clear()
    demo.end()
    demo.summary()
    why += demo.verdict()
    for w in why:
        print("demo-cluster: " + w, file=sys.stderr)
    return 1 if why else 0


def main():
    kind = os.environ.get("DEMO", "")
    if kind not in ("", "small"):
        print(f"demo-cluster: DEMO={kind} is not a demo; there is DEMO=small",
              file=sys.stderr)
        return 2
    os.chdir(ROOT)
    for number in SIGNALS:
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    out = os.path.abspath(os.environ.get("OUT", "out/release"))
    base = os.path.abspath(os.environ.get("DEMO_DIR", "out"))
    with tempfile.TemporaryDirectory(prefix="pikv-demo.") as run_dir, \
            tempfile.TemporaryDirectory(prefix="demo.", dir=base) as disk_dir:
        return run(Size(kind == "small"), out, run_dir, disk_dir)


if __name__ == "__main__":
    sys.exit(main())
