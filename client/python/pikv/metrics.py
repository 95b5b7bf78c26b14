# SPDX-License-Identifier: Apache-2.0
"""What a client did, as Prometheus text: for the metrics page of an engine.

    text(client.stats(), {"rank": "0"})

One name per kind with op as a label, so that a new operation of libpikv needs
nothing here.
"""

from __future__ import annotations

from typing import Any, Mapping

_COUNTERS = [
    ("calls", "Calls completed."),
    ("items", "Items of completed calls."),
    ("bytes", "Bytes moved."),
    ("hits", "Items found, or stored."),
    ("misses", "Items not found."),
    ("exists", "Items of puts that were there already; nothing was sent."),
    ("timeouts", "Items not answered by their deadline."),
    ("busy", "Items refused at a limit."),
    ("down", "Items without a server."),
    ("errors", "Items with another error."),
]
_GAUGES = [
    ("inflight", "Calls submitted and not completed."),
    ("staging_bytes", "Bytes of the staging area in use."),
    ("registered_bytes", "Bytes of registered memory."),
    ("lanes", "Lanes of the server."),
    ("lanes_up", "Lanes that are connected."),
    ("breaker_open", "Nodes that are not asked for now."),
]
_TOTALS = [
    ("reconnects", "Connections made again."),
    ("redirects", "Items that a node sent to another."),
    ("failovers", "Items that went to the next owner of their slot."),
    ("copies_failed", "Copies of blocks that were not made."),
    ("hedges", "Gets asked of a second node."),
    ("hedges_won", "Gets that the second node answered first."),
]


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r'\"')


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{k}="{_escape(str(v))}"'
                          for k, v in labels.items()) + "}"


def _head(name: str, kind: str, doc: str) -> list[str]:
    return [f"# HELP {name} {doc}", f"# TYPE {name} {kind}"]


def _histogram(ops: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    name = "pikv_client_call_seconds"
    out = _head(name, "histogram", "From submit to completion.")
    for op, s in ops.items():
        total = 0
        for i, n in enumerate(s["buckets"]):
            total += n
            last = i == len(s["buckets"]) - 1
            le = "+Inf" if last else repr(2 ** i / 1e6)
            out.append(f"{name}_bucket"
                       f"{_labels({**labels, 'op': op, 'le': le})} {total}")
        of = _labels({**labels, "op": op})
        out.append(f"{name}_sum{of} {s['sum_us'] / 1e6!r}")
        out.append(f"{name}_count{of} {total}")
    return out


def text(stats: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """The text of Client.stats(); labels go on every sample."""
    out: list[str] = []
    for field, doc in _COUNTERS:
        name = f"pikv_client_{field}_total"
        out += _head(name, "counter", doc)
        out += [f"{name}{_labels({**labels, 'op': op})} {s[field]}"
                for op, s in stats["ops"].items()]
    for field, doc in _GAUGES:
        name = f"pikv_client_{field}"
        out += _head(name, "gauge", doc)
        out.append(f"{name}{_labels(labels)} {stats[field]}")
    for field, doc in _TOTALS:
        name = f"pikv_client_{field}_total"
        out += _head(name, "counter", doc)
        out.append(f"{name}{_labels(labels)} {stats[field]}")
    return "\n".join(out + _histogram(stats["ops"], labels)) + "\n"
