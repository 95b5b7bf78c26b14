# SPDX-License-Identifier: Apache-2.0
"""A stand-in for sglang.srt.mem_cache.hicache_storage: its names and shapes as
of SGLang 0.5.23, for machines without the package. No behaviour."""

import abc
import dataclasses
import enum
from typing import Any, List, Optional

import doors


class PoolName(str, enum.Enum):
    KV = "kv"
    MAMBA = "mamba"
    SWA = "swa"
    INDEXER = "indexer"
    DRAFT = "draft"


class PoolHitPolicy(str, enum.Enum):
    ALL_PAGES = "all_pages"
    TRAILING_PAGES = "trailing_pages"
    BLOCK_GROUPS = "block_groups"


@dataclasses.dataclass
class PoolTransfer:
    name: Any
    host_indices: Any = None
    device_indices: Any = None
    keys: Optional[List[str]] = None
    hit_policy: PoolHitPolicy = PoolHitPolicy.ALL_PAGES


@dataclasses.dataclass
class PoolTransferResult:
    kv_hit_pages: int
    extra_pool_hit_pages: dict
    restorable_prefix_pages: Optional[List[int]] = None


@dataclasses.dataclass
class HiCacheStorageExtraInfo:
    prefix_keys: Optional[List[str]] = None
    extra_info: Optional[dict] = None


@dataclasses.dataclass
class HiCacheStorageConfig:
    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    attn_cp_rank: int
    attn_cp_size: int
    is_mla_model: bool
    enable_storage_metrics: bool
    is_page_first_layout: bool
    model_name: Optional[str]
    tp_lcm_size: Optional[int] = None
    should_split_heads: bool = False
    dp_rank: int = 0
    extra_config: Optional[dict] = None
    dcp_size: int = 1
    dcp_rank: int = 0
    logical_page_size: Optional[int] = None

    @property
    def is_storage_writer(self):
        return not self.is_mla_model or self.tp_rank == self.dcp_rank


class HiCacheStorage(abc.ABC):
    @abc.abstractmethod
    def get(self, key, target_location=None, target_sizes=None):
        ...

    @abc.abstractmethod
    def batch_get(self, keys, target_locations=None, target_sizes=None):
        ...

    @abc.abstractmethod
    def set(self, key, value=None, target_location=None, target_sizes=None):
        ...

    @abc.abstractmethod
    def batch_set(self, keys, values=None, target_locations=None,
                  target_sizes=None):
        ...

    @abc.abstractmethod
    def exists(self, key):
        ...


def install():
    doors.forget("sglang")
    names = {n: v for n, v in globals().items()
             if n.startswith(("Pool", "HiCache"))}
    return doors.module("sglang.srt.mem_cache.hicache_storage", **names)
