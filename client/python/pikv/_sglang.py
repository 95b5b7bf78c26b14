# SPDX-License-Identifier: Apache-2.0
"""Small pieces of pikv.sglang that need no server: where the bytes of a page
are, and what SGLang is told about a chain of pages."""

from __future__ import annotations

from typing import Any, Sequence

from pikv._moves import ROUTE_BYTES, prefix_of
from sglang.srt.mem_cache import hicache_storage as hicache


def of(rank: int, size: int, letter: str) -> list[str]:
    """A rank in a key; nothing where there is only one."""
    return [f"{letter}{rank}of{size}"] if size > 1 else []

def text_of(name: Any) -> str:
    """Of a pool name or hit policy, which may be an Enum."""
    return str(getattr(name, "value", name))


def route_of(page: str) -> bytes:
    return page.encode()[:ROUTE_BYTES]


def extents_of(pool: Any, indices: Any, pages: int,
               per_page: int) -> list[list[tuple[int, int]]] | None:
    """The (address, bytes) lists of all blocks; None if the pool has none."""
    if per_page > 1:
        at, sizes = pool.get_split_heads_page_buffer_meta(indices, per_page)
    else:
        try:
            at, sizes = pool.get_page_buffer_meta(indices)
        except (NotImplementedError, AttributeError):
            return None
        except ValueError as e:
            if "layout" not in str(e):
                raise
            return None
    n, rest = divmod(len(at), pages * per_page)
    if rest or not n or len(sizes) != len(at):
        raise ValueError(f"{len(at)} addresses and {len(sizes)} sizes for "
                         f"{pages * per_page} blocks")
    flat = [(int(a), int(s)) for a, s in zip(at, sizes)]
    return [flat[i:i + n] for i in range(0, len(flat), n)]


def flat_bytes(page: Any) -> Any:
    """A tensor as a run of bytes: a view where it is one already."""
    import torch
    return page.contiguous().view(torch.uint8).reshape(-1)


def extent_of(data: Any, sizes: Any,
              store: bool) -> tuple[Any, list[tuple[int, int]]]:
    """(what to keep until the call is over, [(address, bytes), ...])."""
    if hasattr(data, "data_ptr"):
        flat = flat_bytes(data)
        return flat, [(flat.data_ptr(), flat.numel())]
    if isinstance(data, int):
        data, sizes = [data], [sizes]
    if data is None or sizes is None or len(data) != len(sizes):
        raise ValueError("want a tensor, or addresses and as many sizes")
    return None, [(int(a), int(n)) for a, n in zip(data, sizes)]


def give_back(target: Any, flat: Any) -> Any:
    """The target, filled: what was read into a copy of it goes there."""
    if flat is None:
        return True
    if flat.data_ptr() != target.data_ptr():
        target.copy_(flat.view(target.dtype).reshape(target.shape))
    return target


def verdict(kv: int, pools: Sequence[tuple[Any, int, list[bool]]]) -> Any:
    """SGLang's PoolTransferResult. kv: pages of the KV prefix; pools: (name,
    trailing window or 0 for all pages, which pages are there)."""
    hits: dict[Any, int] = {kv_name(): kv} if kv else {}
    lengths = list(range(1, kv + 1))
    for name, window, there in pools:
        if not lengths:
            break
        if window:
            run, good = 0, set()
            for i, is_there in enumerate(there[:kv]):
                run = run + 1 if is_there else 0
                if run >= min(window, i + 1):
                    good.add(i + 1)
        else:
            good = set(range(1, min(kv, prefix_of(there)) + 1))
        if good:
            hits[name] = max(good)
        lengths = [n for n in lengths if n in good]
    final = lengths[-1] if lengths else 0
    try:
        return hicache.PoolTransferResult(final, hits, lengths)
    except TypeError:  # an SGLang that does not ask for the lengths
        return hicache.PoolTransferResult(final, hits)


def kv_name() -> Any:
    names = getattr(hicache, "PoolName", None)
    return getattr(names, "KV", "kv")
