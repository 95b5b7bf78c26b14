# SPDX-License-Identifier: Apache-2.0
"""A stand-in for vllm.v1.kv_offload.{base,tiering.base} and a little of
kv_cache_utils: their names and shapes as of vLLM 0.33.0, for machines without
the package. No behaviour but that of the tier's base class."""

import abc
import dataclasses
import enum
import hashlib
import time
from typing import Any

import doors


class LookupResult(enum.Enum):
    MISS = enum.auto()
    HIT = enum.auto()
    HIT_PENDING = enum.auto()
    RETRY = enum.auto()


class Medium(enum.Enum):
    CPU = "CPU"
    STORAGE = "STORAGE"


class Locality(enum.Enum):
    LOCAL = "LOCAL"
    REMOTE = "REMOTE"


@dataclasses.dataclass
class ReqContext:
    req_id: str
    _positions: dict = dataclasses.field(default_factory=dict)

    def set_offload_key_position(self, key, end_token):
        self._positions[key] = end_token

    def get_offload_key_position(self, key):
        return self._positions.get(key)


@dataclasses.dataclass
class RequestOffloadingContext:
    policy: Any = None


@dataclasses.dataclass
class OffloadingEvent:
    keys: list
    medium: Medium
    removed: bool
    locality: Any = None


@dataclasses.dataclass
class TransferJob:
    job_id: int
    keys: Any
    chunk_ids: Any
    is_promotion: bool
    req_context: Any
    submit_time: float = dataclasses.field(default_factory=time.monotonic)


@dataclasses.dataclass
class JobResult:
    job_id: int
    success: bool
    successful_keys: Any = None
    transfer_time: Any = None
    transfer_bytes: Any = None


class SecondaryTierManager(abc.ABC):
    def __init__(self, offloading_spec, primary_kv_view, tier_type,
                 backpressure_detector=None):
        self._primary_kv_view = primary_kv_view
        self.tier_type = tier_type
        self.locality = None
        self.bp_detector = backpressure_detector

    def on_schedule_end(self, context):
        return

    @abc.abstractmethod
    def lookup(self, key, req_context):
        ...

    @abc.abstractmethod
    def submit_store(self, job_metadata):
        ...

    @abc.abstractmethod
    def submit_load(self, job_metadata):
        ...

    @abc.abstractmethod
    def get_finished_jobs(self):
        ...

    @abc.abstractmethod
    def on_new_request(self, req_context):
        ...

    @abc.abstractmethod
    def drain_jobs(self):
        ...


def install():
    doors.forget("vllm")
    mine = {n: v for n, v in globals().items() if n[0].isupper()}
    doors.module("vllm.v1.kv_offload.base", **mine)
    doors.module("vllm.v1.kv_offload.tiering.base", **mine)
    doors.module("vllm.v1.core.kv_cache_utils",
                 DEFAULT_NONE_HASH_SEED="vllm-none-hash",
                 get_none_hash_seed=lambda: "vllm-none-hash",
                 NONE_HASH=hashlib.sha256(b"seed").digest())
