"""What the Open Inference Protocol's routes take and answer, less inference itself."""

from __future__ import annotations

import msgspec


class Live(msgspec.Struct, frozen=True):
    """The server lives."""

    live: bool


class Ready(msgspec.Struct, frozen=True):
    """Whether the server answers."""

    ready: bool


class ModelReady(msgspec.Struct, frozen=True):
    """Whether a model answers."""

    name: str
    ready: bool


class ServerMetadata(msgspec.Struct, frozen=True):
    """The server and what it can do."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output; -1 for an axis of any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Images(msgspec.Struct, frozen=True):
    """How a model is asked with images: any input of this type, and its outputs."""

    datatype: str
    shape: tuple[int, ...]
    outputs: tuple[TensorMetadata, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """A model's inputs and outputs, as its graph has them, and those of images.

    There is no ``images`` where the graph takes tensors alone.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    images: Images | msgspec.UnsetType = msgspec.UNSET


class ConfigTensor(msgspec.Struct, frozen=True):
    """An input or output, less its batch axis."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class ModelConfig(msgspec.Struct, frozen=True):
    """A model's configuration as Triton tells it; ``max_batch_size`` 0 for none."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: tuple[ConfigTensor, ...]
    output: tuple[ConfigTensor, ...]


class IndexRequest(msgspec.Struct, frozen=True):
    """What of the index is wanted."""

    ready: bool = False


class IndexEntry(msgspec.Struct, frozen=True):
    """One model of the folder."""

    name: str
    version: str
    state: str
    reason: str


class Duration(msgspec.Struct, frozen=True):
    """How often something was done, and for how many nanoseconds in all."""

    count: int
    ns: int


class InferenceStatistics(msgspec.Struct, frozen=True):
    """How long evaluations took, by their stages."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class Statistics(msgspec.Struct, frozen=True):
    """What was counted of one model; ``last_inference`` in milliseconds of 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: tuple[()] = ()
    memory_usage: tuple[()] = ()


class AllStatistics(msgspec.Struct, frozen=True):
    """What was counted of some models."""

    model_stats: tuple[Statistics, ...]


class Done(msgspec.Struct, frozen=True):
    """It was done."""
