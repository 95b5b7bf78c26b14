# SPDX-License-Identifier: Apache-2.0
# Types of the extension, for type checkers. What a call means: client/pikv.h
# and the docstrings (help(pikv.Namespace)).

from typing import Any, NamedTuple, Sequence, Union

version: str

Key = Union[bytes, str]
Address = tuple[int, int]
# Buffer protocol, (address, nbytes), a CPU tensor, or a list of these; with
# layout= the number of a block.
Buffer = Any
Each = Union[int, Sequence[int], None]  # for all items, or one per item
Texts = Union[Key, Sequence[Union[Key, None]], None]
Labels = Union[int, Sequence[int], Sequence[Union[Sequence[int], None]], None]

def _set_errors(map: dict[int, type], /) -> None: ...
def error(code: int, /) -> tuple[str, str, int]: ...
def crc32c(data: Any, crc: int = 0, /) -> int: ...

class Result(NamedTuple):
    status: int
    state: int
    tier: int
    version: int
    len: int
    moved: int
    crc32c: int
    eta_us: int
    pinned: bool
    lossy: bool
    token: int

class Results(Sequence[Result]):
    statuses: list[int]
    states: list[int]
    tiers: list[int]
    versions: list[int]
    lengths: list[int]
    moved: list[int]
    etas_us: list[int]
    tokens: list[int]
    ok: list[bool]
    hits: list[bool]
    all_ok: bool
    def raise_for_status(self) -> None: ...
    def loan(self, i: int, /) -> Loan: ...
    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Result: ...  # type: ignore[override]

class Completion(NamedTuple):
    id: int
    status: int
    results: Results | None
    prefix: int
    count: int  # type: ignore[assignment]
    part: bool
    item: int
    data: Any
    stops: bytes | None

class Lookup(NamedTuple):
    prefix: int
    results: Results
    stops: bytes

class Info(NamedTuple):
    server: str
    transport: str
    lanes: int
    batch_keys_max: int
    block_bytes_max: int
    pin_ttl_ms_max: int
    boot: int
    nodes: int
    epoch: int

class Explanation(NamedTuple):
    reason: str
    tier: str
    when_ms: int
    eta_us: int
    advice: str

class Event(NamedTuple):
    kind: str
    lane: int
    seq: int
    boot: int
    count: int  # type: ignore[assignment]
    key: bytes
    parent: bytes
    hash: bytes
    group: int
    cls: int
    tier: int
    scope: bytes
    len: int
    version: int
    page: int
    token_end: int
    token_n: int
    labels: tuple[int, int, int, int]
    when_ms: int
    node: int

class Memory:
    address: int
    nbytes: int
    def free(self) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Memory: ...
    def __exit__(self, *args: object) -> None: ...

class Registration:
    address: int
    nbytes: int
    def unregister(self) -> None: ...
    def __enter__(self) -> Registration: ...
    def __exit__(self, *args: object) -> None: ...

class Loan:
    def release(self) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Handle:
    closed: bool
    inflight: int
    def info(self) -> Info: ...
    def close(self) -> None: ...
    def drain(self) -> list[Completion]: ...
    def poll(self) -> list[Completion]: ...
    def wait(self, id: int, /) -> Completion: ...
    def fileno(self) -> int: ...
    def _open(self, *args: Any) -> None: ...
    def _open_namespace(self, *args: Any) -> int: ...
    def _alloc(self, nbytes: int, /) -> Memory: ...
    def _register(self, buffer: Any, /) -> Registration: ...
    def _layout(self, *args: Any) -> int: ...
    def _layout_free(self, id: int, /) -> None: ...
    def _stats(self) -> dict[str, Any]: ...
    def nodes(self) -> list[dict[str, Any]]: ...

class Calls:
    _client: Any
    _ns: int
    def __new__(cls, handle: Handle, number: int, /) -> Any: ...
    def _explain(self, *args: Any) -> Explanation: ...
    def _session(self, session: int, state: int, /) -> None: ...
    def _bump(self, deadline_us: int, /) -> None: ...
    def put(
        self, keys: Sequence[Key], values: Sequence[Buffer], *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, parents: Texts = None,
        labels: Labels = None, pages: Each = None, token_ends: Each = None,
        token_ns: Each = None, affinity: Each = 0, priority: Each = 0,
        replicas: Each = 0, ttl_ms: Each = 0, pin_ttl_ms: Each = 0,
        durable: bool = False,
        crc32c: Each = None, layout: int = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> Results: ...
    def submit_put(
        self, keys: Sequence[Key], values: Sequence[Buffer], *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, parents: Texts = None,
        labels: Labels = None, pages: Each = None, token_ends: Each = None,
        token_ns: Each = None, affinity: Each = 0, priority: Each = 0,
        replicas: Each = 0, ttl_ms: Each = 0, pin_ttl_ms: Each = 0,
        durable: bool = False,
        crc32c: Each = None, layout: int = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def get(
        self, keys: Sequence[Key], buffers: Sequence[Buffer], *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, offsets: Each = None,
        lengths: Each = None, if_versions: Each = None,
        verify: bool = False, parts: bool = False, soft_ms: float = 0,
        loan: bool = False, layout: int = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> Results: ...
    def submit_get(
        self, keys: Sequence[Key], buffers: Sequence[Buffer], *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, offsets: Each = None,
        lengths: Each = None, if_versions: Each = None,
        verify: bool = False, parts: bool = False, soft_ms: float = 0,
        loan: bool = False, layout: int = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def lookup(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, cols: int = 1, columns: Sequence[Any] | None = None,
        pin_ttl_ms: int = 0, promote: bool = False, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> Lookup: ...
    def submit_lookup(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, cols: int = 1, columns: Sequence[Any] | None = None,
        pin_ttl_ms: int = 0, promote: bool = False, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def exists(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, tag: Any = None, deadline_ms: float = 0,
        trace: int = 0
    ) -> list[bool]: ...
    def submit_exists(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, tag: Any = None, deadline_ms: float = 0,
        trace: int = 0
    ) -> int: ...
    def evict(
        self, keys: Sequence[Key] | None = None, *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, select: str = 'keys',
        label: int = 0, demote: bool = False, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def submit_evict(
        self, keys: Sequence[Key] | None = None, *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, select: str = 'keys',
        label: int = 0, demote: bool = False, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def pin(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, pin_ttl_ms: int = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> Results: ...
    def submit_pin(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, pin_ttl_ms: int = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def unpin(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, tag: Any = None, deadline_ms: float = 0,
        trace: int = 0
    ) -> Results: ...
    def submit_unpin(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, tag: Any = None, deadline_ms: float = 0,
        trace: int = 0
    ) -> int: ...
    def touch(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, tag: Any = None, deadline_ms: float = 0,
        trace: int = 0
    ) -> Results: ...
    def submit_touch(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, tag: Any = None, deadline_ms: float = 0,
        trace: int = 0
    ) -> int: ...
    def prefetch(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, cap_mib: int = 0, soft_ms: float = 0,
        tag: Any = None, deadline_ms: float = 0, trace: int = 0
    ) -> Results: ...
    def submit_prefetch(
        self, keys: Sequence[Key], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, cap_mib: int = 0, soft_ms: float = 0,
        tag: Any = None, deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def begin(
        self, keys: Sequence[Key], lengths: Each, *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, parents: Texts = None,
        labels: Labels = None, pages: Each = None, token_ends: Each = None,
        token_ns: Each = None, affinity: Each = 0, priority: Each = 0,
        replicas: Each = 0, ttl_ms: Each = 0, pin_ttl_ms: Each = 0,
        durable: bool = False,
        writers: Each = 1, open_ms: int = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> Results: ...
    def submit_begin(
        self, keys: Sequence[Key], lengths: Each, *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, parents: Texts = None,
        labels: Labels = None, pages: Each = None, token_ends: Each = None,
        token_ns: Each = None, affinity: Each = 0, priority: Each = 0,
        replicas: Each = 0, ttl_ms: Each = 0, pin_ttl_ms: Each = 0,
        durable: bool = False,
        writers: Each = 1, open_ms: int = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def write(
        self, keys: Sequence[Key], tokens: Each, offsets: Each,
        values: Sequence[Buffer], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, crc32c: Each = None, layout: int = 0,
        lengths: Each = None, tag: Any = None, deadline_ms: float = 0,
        trace: int = 0
    ) -> Results: ...
    def submit_write(
        self, keys: Sequence[Key], tokens: Each, offsets: Each,
        values: Sequence[Buffer], *, route: Key | None = None,
        routes: Texts = None, scope: Texts = None, group: Each = 0,
        cls: Each = 0, crc32c: Each = None, layout: int = 0,
        lengths: Each = None, tag: Any = None, deadline_ms: float = 0,
        trace: int = 0
    ) -> int: ...
    def commit(
        self, keys: Sequence[Key], tokens: Each, writer: Each = 0, *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> Results: ...
    def submit_commit(
        self, keys: Sequence[Key], tokens: Each, writer: Each = 0, *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...
    def abort(
        self, keys: Sequence[Key], tokens: Each, *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> Results: ...
    def submit_abort(
        self, keys: Sequence[Key], tokens: Each, *,
        route: Key | None = None, routes: Texts = None, scope: Texts = None,
        group: Each = 0, cls: Each = 0, tag: Any = None,
        deadline_ms: float = 0, trace: int = 0
    ) -> int: ...

class Events:
    closed: bool
    def __new__(cls, namespace: Calls, from_seq: Any = None, /) -> Any: ...
    def _next(self, max: int, wait_ms: int, /) -> list[Event]: ...
    def close(self) -> None: ...
