# SPDX-License-Identifier: Apache-2.0
"""What libpikv answers for a whole call, as exceptions: one class per row of
proto/errors.tbl, so that `except pikv.Busy` reads as the table does.

    try:
        ns.put(keys, values)
    except pikv.Error as e:
        e.code, e.name, e.who, e.text

who says who acts: "nobody" (a normal answer), "retry" (the same call later),
"other" (another node, or open again), "giveup" (a person). The statuses of
single items are in Results and are never raised by themselves. Arguments that
never reach libpikv raise TypeError or ValueError.
"""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """Base of all. results: the Results of a call that waited, of which some
    items may have succeeded; None if there are none."""

    code: int = 0
    name: str = "OK"
    who: str = "nobody"
    text: str = ""
    results: Any = None

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        if self.text in self.detail:
            return f"{self.name}: {self.detail}"
        more = f" ({self.detail})" if self.detail else ""
        return f"{self.name}: {self.text}{more}"


# ---- made from proto/errors.tbl by `make docs` ----


class Miss(Error):
    """No such block."""

    code, name, who = -1, "MISS", "nobody"
    text = "no such block"


class Exists(Error):
    """The block is already stored; nothing was sent."""

    code, name, who = -2, "EXISTS", "nobody"
    text = "the block is already stored; nothing was sent"


class Pending(Error):
    """Another writer is storing this block now."""

    code, name, who = -3, "PENDING", "retry"
    text = "another writer is storing this block now"


class Partial(Error):
    """The soft deadline passed; only part of the batch was done."""

    code, name, who = -4, "PARTIAL", "nobody"
    text = "the soft deadline passed; only part of the batch was done"


class Timeout(Error):
    """The deadline passed."""

    code, name, who = -5, "TIMEOUT", "retry"
    text = "the deadline passed"


class Busy(Error):
    """A limit is reached (ops, bytes, pool); try again later."""

    code, name, who = -6, "BUSY", "retry"
    text = "a limit is reached (ops, bytes, pool); try again later"


class Retry(Error):
    """The connection was reset under this request."""

    code, name, who = -7, "RETRY", "retry"
    text = "the connection was reset under this request"


class Version(Error):
    """The stored version is not the one asked for."""

    code, name, who = -8, "VERSION", "nobody"
    text = "the stored version is not the one asked for"


class Mismatch(Error):
    """The namespace exists with another fingerprint."""

    code, name, who = -9, "MISMATCH", "giveup"
    text = "the namespace exists with another fingerprint"


class BadRequest(Error):
    """Malformed request."""

    code, name, who = -10, "BAD_REQUEST", "giveup"
    text = "malformed request"


class Limit(Error):
    """A field is beyond its limit."""

    code, name, who = -11, "LIMIT", "giveup"
    text = "a field is beyond its limit"


class Unsupported(Error):
    """The operation or option is not supported by this server."""

    code, name, who = -12, "UNSUPPORTED", "giveup"
    text = "the operation or option is not supported by this server"


class BadVersion(Error):
    """Protocol version not supported."""

    code, name, who = -13, "BAD_VERSION", "giveup"
    text = "protocol version not supported"


class NoNamespace(Error):
    """No such namespace; open it first."""

    code, name, who = -14, "NO_NAMESPACE", "other"
    text = "no such namespace; open it first"


class StaleGeneration(Error):
    """The namespace was flushed; open it again."""

    code, name, who = -15, "STALE_GENERATION", "other"
    text = "the namespace was flushed; open it again"


class NoLayout(Error):
    """No such layout."""

    code, name, who = -16, "NO_LAYOUT", "giveup"
    text = "no such layout"


class NoMem(Error):
    """No such registered memory."""

    code, name, who = -17, "NO_MEM", "giveup"
    text = "no such registered memory"


class MemFault(Error):
    """The client's memory could not be read or written (truncated?)."""

    code, name, who = -18, "MEM_FAULT", "giveup"
    text = "the client's memory could not be read or written (truncated?)"


class Denied(Error):
    """Not allowed."""

    code, name, who = -19, "DENIED", "giveup"
    text = "not allowed"


class PinLimit(Error):
    """The pin cap is reached; the block is not pinned."""

    code, name, who = -20, "PIN_LIMIT", "retry"
    text = "the pin cap is reached; the block is not pinned"


class TooSmall(Error):
    """The buffer is smaller than the bytes asked for."""

    code, name, who = -21, "TOO_SMALL", "giveup"
    text = "the buffer is smaller than the bytes asked for"


class Corrupt(Error):
    """The bytes do not match their checksum; nothing was stored."""

    code, name, who = -22, "CORRUPT", "retry"
    text = "the bytes do not match their checksum; nothing was stored"


class NoSpace(Error):
    """Larger than the tier or the namespace quota."""

    code, name, who = -23, "NO_SPACE", "giveup"
    text = "larger than the tier or the namespace quota"


class Stale(Error):
    """The loan ended; its bytes do not count."""

    code, name, who = -24, "STALE", "retry"
    text = "the loan ended; its bytes do not count"


class WrongNode(Error):
    """This slot is not served here."""

    code, name, who = -25, "WRONG_NODE", "other"
    text = "this slot is not served here"


class StaleEpoch(Error):
    """The view is out of date."""

    code, name, who = -26, "STALE_EPOCH", "other"
    text = "the view is out of date"


class Canceled(Error):
    """The operation was cancelled."""

    code, name, who = -27, "CANCELED", "retry"
    text = "the operation was cancelled"


class PeerGone(Error):
    """The connection ended."""

    code, name, who = -28, "PEER_GONE", "retry"
    text = "the connection ended"


class NoServer(Error):
    """No server answers at this address."""

    code, name, who = -29, "NO_SERVER", "other"
    text = "no server answers at this address"


class NoBasis(Error):
    """The codec's basis version is not loaded."""

    code, name, who = -30, "NO_BASIS", "giveup"
    text = "the codec's basis version is not loaded"


class Forked(Error):
    """The handle was opened in the parent process; open one after fork."""

    code, name, who = -31, "FORKED", "giveup"
    text = "the handle was opened in the parent process; open one after fork"


class Closed(Error):
    """The handle is closed."""

    code, name, who = -32, "CLOSED", "giveup"
    text = "the handle is closed"


class NoMemory(Error):
    """Out of memory."""

    code, name, who = -33, "NO_MEMORY", "retry"
    text = "out of memory"


class Io(Error):
    """A system call failed."""

    code, name, who = -34, "IO", "giveup"
    text = "a system call failed"


class Config(Error):
    """The configuration is not valid."""

    code, name, who = -35, "CONFIG", "giveup"
    text = "the configuration is not valid"


class Draining(Error):
    """The server is shutting down."""

    code, name, who = -36, "DRAINING", "other"
    text = "the server is shutting down"


class Internal(Error):
    """Internal error."""

    code, name, who = -37, "INTERNAL", "giveup"
    text = "internal error"


class NotDurable(Error):
    """Stored in memory, but it could not be made durable on the SSD."""

    code, name, who = -38, "NOT_DURABLE", "retry"
    text = "stored in memory, but it could not be made durable on the SSD"


class NoQuorum(Error):
    """The voters of the cluster have no majority now."""

    code, name, who = -39, "NO_QUORUM", "retry"
    text = "the voters of the cluster have no majority now"


__all__ = [
    "Miss",
    "Exists",
    "Pending",
    "Partial",
    "Timeout",
    "Busy",
    "Retry",
    "Version",
    "Mismatch",
    "BadRequest",
    "Limit",
    "Unsupported",
    "BadVersion",
    "NoNamespace",
    "StaleGeneration",
    "NoLayout",
    "NoMem",
    "MemFault",
    "Denied",
    "PinLimit",
    "TooSmall",
    "Corrupt",
    "NoSpace",
    "Stale",
    "WrongNode",
    "StaleEpoch",
    "Canceled",
    "PeerGone",
    "NoServer",
    "NoBasis",
    "Forked",
    "Closed",
    "NoMemory",
    "Io",
    "Config",
    "Draining",
    "Internal",
    "NotDurable",
    "NoQuorum",
]

ERRORS = {cls.code: cls for cls in Error.__subclasses__()}
