"""The methods of ``GRPCInferenceService``: each translates, and asks the engine.

Like a dialect's views they have no logic of their own; what they ask and answer is that
of the Open Inference Protocol over REST.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from modelserver.core import logs
from modelserver.core.errors import BadRequest
from modelserver.web.access import note_evaluations
from modelserver.web.backend import backend
from modelserver.web.dialects import inference
from modelserver.web.dialects.evaluations import VERSION, check_version
from modelserver.web.grpc_door import _open_inference_pb2, tensors
from modelserver.web.grpc_door.parts import split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MESSAGES: Any = _open_inference_pb2
SERVICE: str = _MESSAGES.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_RAW_FIELD: int = _MESSAGES.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER


class Method(NamedTuple):
    """One method of the service.

    Attributes:
        name: within the service.
        view: returns the answer to its request; gets what is in ``raw_field`` besides.
        is_open: it takes no token, and its request is not read: it is empty.
        is_own: without a token only this machine may call it, whatever is allowed.
        evaluates: it is refused like a photo where no model would take one.
        raw_field: number of the request's field that holds large values, which are not
            parsed; 0 if there is none.
    """

    name: str
    view: Callable[..., Any]
    is_open: bool = False
    is_own: bool = False
    evaluates: bool = False
    raw_field: int = 0

    @property
    def route(self) -> str:
        """Its path, as metrics and traces name it."""
        return f"/{SERVICE}/{self.name}"

    def answer(self, request: bytes) -> bytes:
        """Return the answer to a request; in the context of a call.

        Raises:
            BadRequest: the bytes are no such request.
            RequestError, HTTPException: it cannot be answered.
        """
        kind = getattr(_MESSAGES, f"{self.name}Request")
        rest, raw = split(request, self.raw_field)
        try:
            message = kind.FromString(rest)
        except DecodeError as error:
            raise BadRequest(f"The message is no {kind.__name__}.") from error
        told = self.view(message, raw) if self.raw_field else self.view(message)
        answer: bytes = told.SerializeToString()
        return answer


def _server_live(_: Any) -> Any:
    return _MESSAGES.ServerLiveResponse(live=True)


def _server_ready(_: Any) -> Any:
    return _MESSAGES.ServerReadyResponse(ready=inference.is_ready())


def _server_metadata(_: Any) -> Any:
    return _MESSAGES.ServerMetadataResponse(**_members(inference.server()))


def _model_ready(asked: Any) -> Any:
    ready = inference.is_model_ready(asked.name, asked.version or VERSION)
    return _MESSAGES.ModelReadyResponse(ready=ready)


def _model_metadata(asked: Any) -> Any:
    told = inference.metadata(asked.name, asked.version or VERSION)
    # The message has no place for what images give.
    return _MESSAGES.ModelMetadataResponse(**_members(told, "images"))


def _model_config(asked: Any) -> Any:
    told = inference.config(asked.name, asked.version or VERSION)
    return _MESSAGES.ModelConfigResponse(config=_members(told))


def _model_statistics(asked: Any) -> Any:
    found = inference.statistics(asked.name, asked.version or VERSION)
    told = [_members(each, "batch_stats", "memory_usage") for each in found]
    return _MESSAGES.ModelStatisticsResponse(model_stats=told)


def _model_infer(asked: Any, raw: Sequence[memoryview]) -> Any:
    check_version(asked.model_name, asked.model_version or VERSION)
    given = tensors.inference_of(asked, raw, backend().spool)
    columns, seen = inference.infer(asked.model_name, given)
    logs.bind(model=seen[0].title)
    note_evaluations(*seen)
    return tensors.response_of(asked.model_name, given.head, columns)


def _repository_index(asked: Any) -> Any:
    models = [_members(each) for each in inference.index(ready=asked.ready)]
    return _MESSAGES.RepositoryIndexResponse(models=models)


def _load(asked: Any) -> Any:
    model = _model_of(asked)
    inference.load(model)
    return _MESSAGES.RepositoryModelLoadResponse(model_name=model, isLoaded=True)


def _unload(asked: Any) -> Any:
    model = _model_of(asked)
    inference.unload(model)
    return _MESSAGES.RepositoryModelUnloadResponse(model_name=model, isUnloaded=True)


def _model_of(asked: Any) -> str:
    """Return the model to load or unload; KServe's is Triton's name of a repository."""
    model: str = asked.model_name or asked.repository_name
    return model


def _members(told: msgspec.Struct, *left_out: str) -> dict[str, Any]:
    """Return a struct's members, as messages take them."""
    members = msgspec.to_builtins(told).items()
    return {name: value for name, value in members if name not in left_out}


METHODS = (
    Method("ServerLive", _server_live, is_open=True),
    Method("ServerReady", _server_ready, is_open=True),
    Method("ServerMetadata", _server_metadata),
    Method("ModelReady", _model_ready),
    Method("ModelMetadata", _model_metadata),
    Method("ModelConfig", _model_config),
    Method("ModelStatistics", _model_statistics),
    Method("ModelInfer", _model_infer, evaluates=True, raw_field=_RAW_FIELD),
    Method("RepositoryIndex", _repository_index),
    Method("RepositoryModelLoad", _load, is_own=True),
    Method("RepositoryModelUnload", _unload, is_own=True),
)
"""All that there are."""
