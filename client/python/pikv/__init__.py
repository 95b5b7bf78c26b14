# SPDX-License-Identifier: Apache-2.0
"""pikv: the client of pikvd, a KV-cache server for LLM inference.

    import pikv

    with pikv.Client() as client:            # shm:/run/pikvd/pikvd.sock
        ns = client.open("demo")
        ns.put([b"k1"], [b"bytes"])
        ns.get_bytes(b"k1")                  # b"bytes", or None

Operations take lists and answer with Results, one status per item; a miss is a
normal answer. Every operation op of a Namespace comes as ns.op(...), which
waits, and ns.submit_op(...), which does not. pikv.aio has the same names for
asyncio. README.md beside this package has examples, docs/ENGINES.md the doors
for engines.
"""

from . import _pikv, errors
from .errors import *  # noqa: F401,F403
from .errors import ERRORS, Error

_pikv._set_errors(ERRORS)

from ._pikv import (Completion, Event, Explanation, Info, Loan,  # noqa: E402
                    Lookup, Memory, Registration, Result, Results, crc32c,
                    version)
from .client import (Client, EventStream, Group, Namespace,  # noqa: E402
                     error_name)

__version__ = version


def __getattr__(name: str):
    """pikv.aio, imported when it is first used."""
    if name == "aio":
        import importlib
        return importlib.import_module("pikv.aio")
    raise AttributeError(f"module 'pikv' has no attribute {name!r}")


__all__ = [
    "Client", "Completion", "Error", "Event", "EventStream", "Explanation",
    "Group", "Info", "Loan", "Lookup", "Memory", "Namespace", "Registration",
    "Result", "Results", "crc32c", "error_name", "errors", *errors.__all__,
]
