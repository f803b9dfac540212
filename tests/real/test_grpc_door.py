"""A server with a door for gRPC: as real clients meet it, and what its death costs."""

import os
import signal
import socket
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelserver.core.errors import START_FAILED
from modelserver.web.grpc_door import _open_inference_pb2 as messages
from support.app_client import photo
from support.dialect_requests import RED, write_models
from support.grpc_calls import Caller, free_port, infer_request
from support.servers import (
    ROOT,
    SECONDS,
    alive,
    children,
    command,
    started,
    wait_for,
)

pytestmark = pytest.mark.real


def grpc_doors(server):
    """Process ids of its doors for gRPC."""
    pids = children(server.process.pid)
    return [pid for pid in pids if b"grpc_door" in command(pid) and alive(pid)]


def serves(caller):
    """Whether health says so."""
    health = health_pb2_grpc.HealthStub(caller.channel)
    try:
        asked = health_pb2.HealthCheckRequest()
        told = health.Check(asked, timeout=SECONDS, wait_for_ready=True)
    except grpc.RpcError:  # it died meanwhile
        return False
    return told.status == health_pb2.HealthCheckResponse.SERVING


def labels(caller):
    """What a photo gives."""
    response = caller.call("ModelInfer", infer_request([photo(RED)]))
    names = [one.name for one in response.outputs]
    return response.raw_output_contents[names.index("labels")]


def test_a_door_for_grpc_lives_beside_the_others(folder, uploads, tmp_path):
    """It answers, comes back after its death, outlives an engine, and ends with all."""
    write_models(folder)
    port = free_port()
    server = started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, GRPC_PORT=port
    )
    with server as here, Caller(port) as caller:
        here.wait()
        wait_for(lambda: serves(caller), "it serves")
        assert labels(caller) == b"\x03\0\0\0red"
        assert caller.call("ServerReady").ready
        (first,) = grpc_doors(here)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: grpc_doors(here) not in ([], [first]), "another is started")
        wait_for(lambda: serves(caller), "it serves again")
        assert labels(caller) == b"\x03\0\0\0red"
        (second,) = grpc_doors(here)

        os.kill(here.engine(), signal.SIGKILL)
        named = messages.ModelReadyRequest(name="m")

        def is_ready():
            try:
                return caller.call("ModelReady", named).ready
            except grpc.RpcError:
                return False

        wait_for(is_ready, "the next engine answers")
        wait_for(lambda: serves(caller), "and health says so")
        assert grpc_doors(here) == [second]
        family = here.descendants()
        assert here.end() == 0
        wait_for(lambda: not any(map(alive, family)), "all have gone")


def test_a_door_for_grpc_goes_with_an_arbiter_that_is_killed(folder, uploads, tmp_path):
    """As every process of the server does."""
    write_models(folder)
    port = free_port()
    server = started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, GRPC_PORT=port
    )
    with server as here, Caller(port) as caller:
        assert caller.call("ServerLive").live
        (door,) = grpc_doors(here)
        here.end(signal.SIGKILL)
        wait_for(lambda: not alive(door), "it has gone")


def test_a_port_that_is_taken_ends_the_server(folder, uploads, tmp_path):
    """With a sentence, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = {"GRPC_PORT": str(taken.getsockname()[1]), "PORT": "0"}
        ended = subprocess.run(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env={**os.environ, "MODEL_FOLDER": str(folder), **environ},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert ended.returncode == START_FAILED
    assert "GRPC_PORT and HOST choose others" in ended.stderr
