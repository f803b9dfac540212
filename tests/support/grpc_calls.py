"""A door for gRPC in this process, and calls of it as any client makes them."""

import asyncio
import random
import socket
import threading
from contextlib import contextmanager

import grpc

from modelserver.web.grpc_door import _open_inference_pb2 as messages
from modelserver.web.grpc_door.methods import SERVICE
from modelserver.web.grpc_door.server import Server
from support.app_client import SECONDS


class Caller:
    """Calls a door.

    Attributes:
        channel: to it.
    """

    def __init__(self, port):
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=(("grpc.max_send_message_length", -1),)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.channel.close()

    def begin(self, name, request=b"", metadata=(), seconds=SECONDS, **options):
        """Begin a call; give what waits for its answer, in bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        method = self.channel.unary_unary(f"/{SERVICE}/{name}")
        return method.future(data, seconds, metadata, wait_for_ready=True, **options)

    def call(self, name, request=b"", metadata=(), **options):
        """Make a call; give its answer."""
        data = self.begin(name, request, metadata, **options).result()
        return getattr(messages, f"{name}Response").FromString(data)

    def refused(self, name, request=b"", metadata=(), **options):
        """Make a call that is refused; give the code, the sentence and the metadata."""
        error = self.begin(name, request, metadata, **options).exception()
        assert error is not None
        trailing = dict(error.trailing_metadata() or ())
        return error.code(), error.details(), trailing


@contextmanager
def serving(backend):
    """Give a caller of a door for gRPC to a backend that has started."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="grpc-loop")
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(SECONDS)

    async def make():
        made = Server(backend)
        return made, await made.start("127.0.0.1", 0)

    server, port = run(make())
    try:
        with Caller(port) as caller:
            caller.server, caller.port = server, port
            yield caller
    finally:
        run(server.stop(0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def parameter(value):
    """A parameter of a request."""
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
    kind = kinds.get(type(value), "double_param")
    return messages.InferParameter(**{kind: value})


def infer_request(array, *, model="m", raw=True, datatype="BYTES", name="x", **more):
    """A request with one input, its values as bytes or in the field of their type."""
    request = messages.ModelInferRequest(model_name=model, id="7")
    for key, value in more.items():
        request.parameters[key].CopyFrom(parameter(value))
    given = request.inputs.add(name=name, datatype=datatype)
    if datatype != "BYTES":
        given.shape.extend(array.shape)
        request.raw_input_contents.append(array.tobytes())
        return request
    given.shape.append(len(array))
    if raw:
        data = (len(one).to_bytes(4, "little") + one for one in array)
        request.raw_input_contents.append(b"".join(data))
    else:
        given.contents.bytes_contents.extend(array)
    return request


def free_port():
    """A port that nobody has, and that the system gives to nobody by itself."""
    while True:
        port = random.SystemRandom().randrange(20000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
