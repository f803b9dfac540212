"""The door for gRPC: what it answers is what REST answers, and so is what it refuses."""

import asyncio
import base64
import threading
import time
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from flask import g
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from modelserver.core.errors import (
    BadRequest,
    LoopbackOnly,
    ModelNotReady,
    Overloaded,
    StartError,
)
from modelserver.web.dialects.tensor_bodies import DTYPES
from modelserver.web.grpc_door import _open_inference_pb2 as messages
from modelserver.web.grpc_door import server as door
from modelserver.web.grpc_door import tensors
from modelserver.web.grpc_door.calls import Call, Calls
from modelserver.web.grpc_door.methods import METHODS, SERVICE, Method
from modelserver.web.grpc_door.parts import split
from support import apps
from support.app_client import SECONDS, left_in, photo
from support.dialect_requests import KINDS, RED, write_models
from support.graph_runs import run
from support.grpc_calls import Caller, infer_request, serving
from support.servers import wait_for

BOXES = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
PHOTOS = [photo(RED), photo((10, 20, 30))]
IMAGE = np.random.default_rng(5).integers(0, 256, (1, 6, 8, 3), np.uint8)
CODES = grpc.StatusCode
TYPES = {"FP32": "<f4", "INT64": "<i8"}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """An app with a detector ``m`` and a classifier ``c``."""
    folder, uploads = (tmp_path_factory.mktemp(name) for name in ("models", "pics"))
    write_models(folder)
    limits = {"MAX_TENSOR_MB": 1, "MAX_UPLOAD_MB": 2}
    with apps.loaded(KINDS, folder, uploads, **limits) as app:
        app.folder, app.uploads = folder, uploads
        yield app


@pytest.fixture(scope="module")
def world(app):
    """A caller of the app's door, which has a client over HTTP, too."""
    with serving(app.extensions["modelserver"]) as caller:
        caller.http = app.test_client()
        caller.backend, caller.folder = app.extensions["modelserver"], app.folder
        yield caller
    assert left_in(app.uploads) == []


def arrays(response):
    """The outputs of an answer by their names; texts as lists."""
    found = {}
    assert len(response.outputs) == len(response.raw_output_contents)
    for told, data in zip(response.outputs, response.raw_output_contents, strict=True):
        if told.datatype == "BYTES":
            found[told.name], rest_ = [], data
            while rest_:
                end = 4 + int.from_bytes(rest_[:4], "little")
                found[told.name].append(rest_[4:end].decode())
                rest_ = rest_[end:]
        else:
            values = np.frombuffer(data, TYPES[told.datatype])
            found[told.name] = values.reshape(tuple(told.shape))
    return found


def rest(world, path, **body):
    """What REST answers."""
    if body:
        return world.http.post(path, json=body).json
    return world.http.get(path).json


def without(told, *names):
    """An answer less some members."""
    return {name: value for name, value in told.items() if name not in names}


def plain(message):
    """A message as JSON has it, with all members and our names."""
    return MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def texts(value):
    """JSON with its integers as texts, as protobuf writes those of 64 bits."""
    if isinstance(value, dict):
        return {name: texts(each) for name, each in value.items()}
    if isinstance(value, list):
        return [texts(each) for each in value]
    return str(value) if type(value) is int else value


def test_the_server_and_its_models_are_told_as_over_rest(world):
    """Live, ready, metadata, configuration and index have the same members."""
    assert world.call("ServerLive").live
    assert world.call("ServerReady").ready
    assert plain(world.call("ServerMetadata")) == rest(world, "/v2")
    for model in ("m", "c"):
        named = messages.ModelReadyRequest(name=model, version="1")
        assert world.call("ModelReady", named).ready
        told = plain(world.call("ModelMetadata", named))
        assert told == texts(without(rest(world, f"/v2/models/{model}"), "images"))
        told = texts(plain(world.call("ModelConfig", named))["config"])
        assert told == texts(rest(world, f"/v2/models/{model}/config"))
    told = plain(world.call("RepositoryIndex"))["models"]
    assert told == world.http.post("/v2/repository/index", data=b"{}").json
    ready = messages.RepositoryIndexRequest(ready=True)
    assert {one.name for one in world.call("RepositoryIndex", ready).models} == {
        "m",
        "c",
    }


@pytest.mark.parametrize("raw", [True, False], ids=["bytes", "contents"])
def test_images_give_what_they_give_over_rest(world, raw):
    """However they lie in the message; rows of several are filled up with zeros."""
    response = world.call("ModelInfer", infer_request(PHOTOS, raw=raw, labels="red"))
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "7")
    data = [base64.b64encode(each).decode() for each in PHOTOS]
    image = {"name": "x", "shape": [2], "datatype": "BYTES", "data": data}
    told = rest(
        world, "/v2/models/m/infer", inputs=[image], parameters={"labels": "red"}
    )
    found = arrays(response)
    assert [one["name"] for one in told["outputs"]] == list(found)
    for one in told["outputs"]:
        wanted = one["data"]
        if one["datatype"] != "BYTES":
            assert found[one["name"]].shape == tuple(one["shape"])
            wanted = pytest.approx(wanted, abs=1e-6)
            assert found[one["name"]].reshape(-1).tolist() == wanted
        else:
            assert found[one["name"]] == wanted


def test_a_packed_request_is_unpacked(world):
    """By gRPC's own compression."""
    packed = world.call(
        "ModelInfer", infer_request(PHOTOS[:1]), compression=grpc.Compression.Gzip
    )
    assert arrays(packed)["labels"] == ["red"]


def test_parameters_and_outputs_choose(world):
    """The best classes of a classifier, one output of all, values with labels."""
    red = [photo((250, 3, 5))]
    assert len(arrays(world.call("ModelInfer", infer_request(red, model="c")))) == 3
    best = infer_request(red, model="c", top_k=1, min_confidence=0.0)
    assert arrays(world.call("ModelInfer", best))["labels"] == ["red"]
    wanted = best.outputs.add(name="scores")
    wanted.parameters["classification"].int64_param = 2
    wanted.parameters["empty"].SetInParent()
    (text,) = arrays(world.call("ModelInfer", best))["scores"]
    assert text.split(":")[1:] == ["0", "red"]


@pytest.mark.parametrize("raw", [True, False], ids=["bytes", "contents"])
def test_numbers_give_all_that_the_graph_gives(world, raw):
    """As TensorFlow itself gives it for the file."""
    request = infer_request(IMAGE, datatype="UINT8", name="image_tensor")
    if not raw:
        del request.raw_input_contents[:]
        request.inputs[0].contents.uint_contents.extend(IMAGE.reshape(-1).tolist())
    found = arrays(world.call("ModelInfer", request))
    graph = (world.folder / "m.frozen.pb").read_bytes()
    wanted = run(graph, BOXES, {"image_tensor": IMAGE})
    assert list(found) == list(BOXES)
    for name, array in zip(BOXES, wanted, strict=True):
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)


def test_what_was_counted_is_told_as_over_rest(world):
    """Of one model and of all; the calls have a series with the door as dialect."""
    world.call("ModelInfer", infer_request(PHOTOS[:1]))
    one = messages.ModelStatisticsRequest(name="m")
    (told,) = plain(world.call("ModelStatistics", one))["model_stats"]
    (wanted,) = rest(world, "/v2/models/m/stats")["model_stats"]
    assert told["inference_stats"] == texts(wanted["inference_stats"])
    assert told["inference_count"] == str(wanted["inference_count"])
    assert len(world.call("ModelStatistics").model_stats) == 2
    route = f'route="/{SERVICE}/ModelInfer"'
    line = (
        f'modelserver_requests_total{{dialect="grpc",model="m",{route},status="200"}}'
    )
    assert line in world.http.get("/metrics").text


def test_a_model_leaves_and_comes_back(world):
    """Unloaded and loaded by their methods, and ready or not in between."""
    named = messages.ModelReadyRequest(name="c")
    world.call(
        "RepositoryModelUnload", messages.RepositoryModelUnloadRequest(model_name="c")
    )
    assert not world.call("ModelReady", named).ready
    code, words, trailing = world.refused("ModelMetadata", named)
    assert code is CODES.UNAVAILABLE
    assert "'c' is unloaded" in words
    assert (
        int(trailing["grpc-retry-pushback-ms"]) == int(trailing["retry-after"]) * 1000
    )
    # As KServe's messages name a model.
    told = world.call(
        "RepositoryModelLoad", messages.RepositoryModelLoadRequest(repository_name="c")
    )
    assert (told.model_name, told.isLoaded) == ("c", True)
    assert world.call("ModelReady", named).ready


def test_a_call_has_its_id_and_its_times(world):
    """The client's own id, or a new one; with an error, too."""
    waiting = world.begin(
        "ModelInfer", infer_request(PHOTOS[:1]), (("x-request-id", "mine"),)
    )
    waiting.result()
    trailing = dict(waiting.trailing_metadata())
    assert trailing["x-request-id"] == "mine"
    assert "run;dur=" in trailing["server-timing"]
    _, _, trailing = world.refused("ModelInfer", b"", (("x-request-id", "no good"),))
    assert len(trailing["x-request-id"]) == 32


def changed(**facts):
    """A request with a tensor, changed."""
    request = infer_request(IMAGE, datatype="UINT8", name="image_tensor")
    (given,) = request.inputs
    for name, value in facts.items():
        if name == "shape":
            del given.shape[:]
            given.shape.extend(value)
        elif name == "raw":
            del request.raw_input_contents[:]
            request.raw_input_contents.extend(value)
        elif name == "contents":
            getattr(given.contents, value[0]).extend(value[1])
        elif name == "inputs":
            request.inputs.extend([given] * value)
        elif name in {"model_name", "model_version"}:
            setattr(request, name, value)
        else:
            setattr(given, name, value)
    return request


WRONG = {
    "no input": (b"", CODES.INVALID_ARGUMENT, "inputs"),
    "no message": (b"\xff\xff", CODES.INVALID_ARGUMENT, "is malformed"),
    "two inputs": (
        changed(inputs=1, raw=[b"", b""]),
        CODES.INVALID_ARGUMENT,
        "has one input",
    ),
    "bytes of no input": (
        changed(raw=[b"", b""]),
        CODES.INVALID_ARGUMENT,
        "as many as",
    ),
    "bytes and contents": (
        changed(contents=("uint_contents", [1])),
        CODES.INVALID_ARGUMENT,
        "both contents and raw",
    ),
    "too few bytes": (
        changed(raw=[b"\0"]),
        CODES.INVALID_ARGUMENT,
        "has 1 bytes, and 144",
    ),
    "nothing": (changed(raw=[]), CODES.INVALID_ARGUMENT, "is in nowhere"),
    "another place": (
        changed(raw=[], contents=("fp32_contents", [1.0])),
        CODES.INVALID_ARGUMENT,
        "belongs in uint_contents, and is in fp32_contents",
    ),
    "too large numbers": (
        changed(raw=[], contents=("uint_contents", [256] * 144)),
        CODES.INVALID_ARGUMENT,
        "does not fit into uint8",
    ),
    "fewer numbers than the shape says": (
        changed(raw=[], contents=("uint_contents", [1] * 143)),
        CODES.INVALID_ARGUMENT,
        "has 143 values in uint_contents, and 144 by its shape",
    ),
    "more images than there may be": (
        changed(
            datatype="BYTES",
            shape=[40],
            raw=[],
            contents=("bytes_contents", [b"a"] * 40),
        ),
        CODES.RESOURCE_EXHAUSTED,
        "32 images",
    ),
    "too many axes": (changed(shape=[1] * 40), CODES.INVALID_ARGUMENT, "shape"),
    "too many parameters": (
        infer_request([b"a"], **{f"p{i}": 1 for i in range(65)}),
        CODES.INVALID_ARGUMENT,
        "64 parameters",
    ),
    "a thousand empty inputs": (
        b"\x2a\x00" * 1000,
        CODES.INVALID_ARGUMENT,
        "more than 256 parts",
    ),
    "a text that is none": (
        b"\x0a\x01\xff",
        CODES.INVALID_ARGUMENT,
        "no ModelInferRequest",
    ),
    "half floats in contents": (
        changed(datatype="FP16", raw=[], contents=("fp32_contents", [1.0])),
        CODES.INVALID_ARGUMENT,
        "belongs in raw_input_contents",
    ),
    "an unknown type": (
        changed(datatype="BF16"),
        CODES.INVALID_ARGUMENT,
        "'BF16' is not supported",
    ),
    "another type": (
        changed(datatype="INT8"),
        CODES.INVALID_ARGUMENT,
        "takes uint8",
    ),
    "a side of nothing": (
        changed(shape=[1, 0, 8, 3]),
        CODES.INVALID_ARGUMENT,
        "shape",
    ),
    "bytes that lie": (
        changed(datatype="BYTES", shape=[1], raw=[b"\xff\0\0\0a"]),
        CODES.INVALID_ARGUMENT,
        "longer than what is there",
    ),
    "no image": (
        changed(datatype="BYTES", shape=[1], raw=[b"\1\0\0\0a"]),
        CODES.INVALID_ARGUMENT,
        "not a JPEG",
    ),
    "too many images": (
        changed(datatype="BYTES", shape=[1 << 20]),
        CODES.RESOURCE_EXHAUSTED,
        "32 images",
    ),
    "no such model": (
        changed(model_name="nope"),
        CODES.NOT_FOUND,
        "There is no model 'nope'",
    ),
    "no such version": (changed(model_version="2"), CODES.NOT_FOUND, "only 1"),
    "too large": (
        bytes((2 << 20) + 1),
        CODES.RESOURCE_EXHAUSTED,
        "larger than max",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_refused_with_a_code_and_a_sentence(world, case):
    """Nothing of it is believed before it was compared with what came."""
    request, code, words = WRONG[case]
    found, sentence, _ = world.refused("ModelInfer", request)
    assert (found, words in sentence) == (code, True), sentence


def test_what_there_is_not_is_refused(world):
    """A method of nobody, and a call without a request."""
    assert world.refused("TraceSetting")[0] is CODES.UNIMPLEMENTED
    silent = world.channel.stream_unary(f"/{SERVICE}/ModelReady")
    with pytest.raises(grpc.RpcError) as error:
        silent(iter(()), timeout=SECONDS)
    assert error.value.details() == "The call has no request."


def test_a_request_that_does_not_come_is_given_up(world, monkeypatch):
    """One that is too slow, and one for which there is no room; others are read."""
    monkeypatch.setattr(door, "BODY_S", 0.1)
    over = threading.Event()

    def never():
        over.wait(SECONDS)
        yield b""

    ask = world.channel.stream_unary(f"/{SERVICE}/ModelReady")
    with pytest.raises(grpc.RpcError) as error:
        ask(never(), timeout=SECONDS)
    assert error.value.code() is CODES.DEADLINE_EXCEEDED
    assert "came too slowly" in error.value.details()
    over.set()
    monkeypatch.setattr(door, "BODY_S", SECONDS)
    monkeypatch.setattr(door, "_ROOM_S", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(world.server, "_room", asyncio.Semaphore(0))
        code, words, _ = world.refused("ModelReady")
    assert code is CODES.UNAVAILABLE
    assert "too many requests at once" in words
    assert world.call("ModelReady", messages.ModelReadyRequest(name="m")).ready


def test_a_photo_that_no_model_would_take_is_not_even_read(world, monkeypatch):
    """It is refused as a door for HTTP refuses it."""
    refusal = Overloaded(1.5)
    monkeypatch.setattr(world.backend.link, "refusal", lambda handled: refusal)
    code, words, trailing = world.refused("ModelInfer", infer_request(PHOTOS[:1]))
    assert (code, words) == (CODES.UNAVAILABLE, str(refusal))
    assert (trailing["retry-after"], trailing["grpc-retry-pushback-ms"]) == (
        "2",
        "1500",
    )
    assert world.call("ModelReady", messages.ModelReadyRequest(name="m")).ready


def test_a_fault_of_our_own_is_told_by_its_number(world, monkeypatch, caplog):
    """The log has it all."""
    monkeypatch.setattr("modelserver.web.dialects.inference.server", lambda: 1 / 0)
    code, words, trailing = world.refused("ServerMetadata")
    assert code is CODES.INTERNAL
    assert trailing["x-request-id"] in words
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_goes_is_told_to_the_engine(app):
    """And so is one whose time is over: what waits for it is dropped."""
    callers, over = [], threading.Event()

    def wait(_message):
        callers.append(g.caller)
        over.wait(SECONDS)
        return messages.ServerMetadataResponse()

    methods = [Method("ServerMetadata", wait, evaluates=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "METHODS", methods)
        with serving(app.extensions["modelserver"]) as caller:
            waiting = caller.begin("ServerMetadata")
            wait_for(lambda: callers, "the call has a thread")
            assert not callers[0].has_left
            waiting.cancel()
            wait_for(lambda: callers[0].has_left, "the door saw it")
            assert caller.refused("ServerMetadata", seconds=0.5)[0] is (
                CODES.DEADLINE_EXCEEDED
            )
            wait_for(lambda: all(one.has_left for one in callers), "and this")
            over.set()


def test_the_token_is_asked_for_before_anything_is_read(tmp_path_factory):
    """Health apart; by either of its names, and by reflection, too."""
    folder, uploads = (tmp_path_factory.mktemp(name) for name in ("models", "pics"))
    with (
        apps.loaded(KINDS, folder, uploads, API_TOKEN="s3cret") as app,
        serving(app.extensions["modelserver"]) as caller,
    ):
        for method in METHODS:
            if method.is_open:
                caller.call(method.name)
                continue
            for wrong in ((), (("authorization", "Bearer other"),)):
                code, words, _ = caller.refused(method.name, metadata=wrong)
                assert code is CODES.UNAUTHENTICATED, method.name
                assert "needs its API token" in words
        for right in (("authorization", "Bearer s3cret"), ("x-api-key", "s3cret")):
            assert caller.call("ServerMetadata", metadata=(right,)).name
        health = health_pb2_grpc.HealthStub(caller.channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        shown = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as error:
            list(shown.ServerReflectionInfo(iter([asked]), timeout=SECONDS))
        assert error.value.code() is CODES.UNAUTHENTICATED


def test_health_follows_the_server(world, monkeypatch):
    """Of the server and of the service; watchers see it change."""
    health = health_pb2_grpc.HealthStub(world.channel)
    states = health_pb2.HealthCheckResponse

    def status(service=""):
        asked = health_pb2.HealthCheckRequest(service=service)
        return health.Check(asked, timeout=SECONDS).status

    wait_for(lambda: status() == states.SERVING, "it serves")
    assert status(SERVICE) == states.SERVING
    for wrong, code in (
        (health_pb2.HealthCheckRequest(service="other"), CODES.NOT_FOUND),
        (None, CODES.INVALID_ARGUMENT),
    ):
        data = b"\xff" if wrong is None else wrong.SerializeToString()
        check = world.channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as error:
            check(data, timeout=SECONDS)
        assert error.value.code() is code
    changes = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert next(changes).status == states.SERVING
    with monkeypatch.context() as patch:

        def away(*_arguments, **_options):
            raise ModelNotReady("", "restarting")

        patch.setattr(world.backend, "ask", away)
        assert next(changes).status == states.NOT_SERVING
    assert next(changes).status == states.SERVING
    changes.cancel()
    monkeypatch.setattr(door, "_WATCHERS", 0)
    with pytest.raises(grpc.RpcError) as error:
        next(health.Watch(health_pb2.HealthCheckRequest()))
    assert error.value.code() is CODES.RESOURCE_EXHAUSTED


def test_reflection_shows_the_services(world):
    """Their names, and the file that tells the messages."""
    shown = reflection_pb2_grpc.ServerReflectionStub(world.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    names, file = shown.ServerReflectionInfo(iter(asked), timeout=SECONDS)
    found = {one.name for one in names.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} < found
    (data,) = file.file_descriptor_response.file_descriptor_proto
    assert b"ModelInferRequest" in data


def test_other_machines_are_refused_without_a_token(world):
    """As over HTTP, and a proxy on this machine is no way around it."""
    forwarded = (("x-forwarded-for", "192.0.2.7"),)
    code, words, _ = world.refused("ServerLive", metadata=forwarded)
    assert code is CODES.PERMISSION_DENIED
    assert "its own machine only" in words
    with pytest.raises(grpc.RpcError) as error:
        health_pb2_grpc.HealthStub(world.channel).Check(
            health_pb2.HealthCheckRequest(), metadata=forwarded, timeout=SECONDS
        )
    assert error.value.code() is CODES.PERMISSION_DENIED


def test_only_this_machine_loads_and_unloads_without_a_token(world):
    """Also where anybody may ask; with a token, whoever has it."""
    far, near = (
        Call({}, f"ipv4:{host}:5", None) for host in ("192.0.2.7", "127.0.0.1")
    )
    secret = Call({"x-api-key": "s"}, "ipv4:192.0.2.7:5", None)

    def calls(**settings):
        settings = {"api_token": "", "allow_anonymous": False, **settings}
        return Calls(SimpleNamespace(settings=SimpleNamespace(**settings)))

    open_to_all = calls(allow_anonymous=True)
    open_to_all.check(far)
    open_to_all.check(near, is_own=True)
    with pytest.raises(LoopbackOnly):
        open_to_all.check(far, is_own=True)
    with pytest.raises(LoopbackOnly):
        calls().check(far, is_open=True)
    calls(api_token="s").check(secret, is_own=True)


@given(st.data())
def test_numbers_in_fields_are_those_in_bytes(data):
    """Of every type that has a field, at its limits, too."""
    datatype = data.draw(st.sampled_from(sorted(set(DTYPES) - {"FP16"})))
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind == "b":
        each = st.booleans()
    elif dtype.kind == "f":
        each = st.floats(width=8 * dtype.itemsize, allow_nan=False)
    else:
        limits = np.iinfo(dtype)
        each = st.integers(int(limits.min), int(limits.max))
    values = data.draw(st.lists(each, min_size=1, max_size=5))
    request = messages.ModelInferRequest(model_name="m")
    told = request.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    getattr(told.contents, tensors._PLACES[datatype]).extend(values)
    found = tensors.inference_of(request, [], None)
    assert found.content == np.array(values, dtype).tobytes()
    assert found.head.inputs[0].parameters == {"binary_data_size": len(found.content)}


@given(st.binary(max_size=20))
def test_parts_are_told_apart_in_whatever_comes(data):
    """What is refused is refused by a sentence; what protobuf can read is not."""
    try:
        whole = messages.ModelInferRequest.FromString(data)
    except DecodeError:
        with suppress(BadRequest):
            split(data, 7)
        return
    groups = any(byte & 7 in {3, 4} for byte in data)
    with suppress(BadRequest) if groups else nullcontext():
        rest, raw = split(data, 7)
        assert list(whole.raw_input_contents) == [bytes(each) for each in raw]
        less = messages.ModelInferRequest.FromString(rest)
        del whole.raw_input_contents[:]
        assert less == whole


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0b", "malformed"),  # a group
        (b"\x0a\x05ab", "malformed"),  # a length that lies
        (b"\x09abc", "malformed"),  # fewer than eight bytes
        (b"\x08\x80", "malformed"),  # a number without an end
        (b"\x08" + b"\xff" * 11, "malformed"),
        (b"\x08\x01" * 257, "more than 256"),
    ],
)
def test_parts_that_cannot_be_are_refused(data, words):
    """And as many as are allowed are not."""
    several = b"\x08\x01" * 200 + b"\x0dabcd" + b"\x09abcdefgh" + b"\x0a\x01a"
    assert split(several, 0) == (several, [])
    assert split(b"\x08\x01" * 256, 0)
    with pytest.raises(BadRequest, match=words):
        split(data, 0)


def test_a_port_that_another_has_is_an_error(world):
    """One sentence names the variables that choose another."""

    async def start():
        other = door.Server(world.backend)
        try:
            await other.start("127.0.0.1", world.port)
        finally:
            await other.stop(0)

    with pytest.raises(StartError, match="GRPC_PORT"):
        asyncio.run(start())
    with Caller(world.port) as caller:
        assert caller.call("ServerLive").live


def test_a_call_is_traced(world, monkeypatch):
    """Its span has the route, the caller's trace, the stages and the outcome."""
    said = []
    traces = SimpleNamespace(
        begin=lambda verb, route, headers: (
            said.append((verb, route, headers)) or "span"
        ),
        add_evaluation=lambda seen: said.append(seen.model),
        end=lambda span, number, status: said.append((span, number, int(status))),
    )
    monkeypatch.setattr(world.backend, "traces", traces)
    parent = ("traceparent", "00-1-2-01")
    world.call("ModelInfer", infer_request(PHOTOS[:1]), (parent, ("x-request-id", "i")))
    (verb, route, headers), model, end = said
    assert (verb, route, model) == ("POST", f"/{SERVICE}/ModelInfer", "m")
    assert headers["traceparent"] == "00-1-2-01"
    assert end == ("span", "i", 200)
    assert Headers(list(headers.items()))["traceparent"] == "00-1-2-01"


def test_time_runs_as_the_client_counts_it(app):
    """A client's deadline runs from the call's head, the server's from its request."""
    now = time.perf_counter()
    call = Call({}, "ipv4:127.0.0.1:5", 2.0)
    call.begin(30.0)
    assert call.caller.seconds == 2.0
    assert now + 2.0 <= call.caller.until <= time.perf_counter() + 2.0
    call = Call({}, "ipv6:%5B::1%5D:5", None)
    call.begin(30.0)
    assert (call.host, call.caller.seconds) == ("::1", 30.0)
    assert Call({}, "unix:", None).host == ""
