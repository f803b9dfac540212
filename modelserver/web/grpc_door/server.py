"""The gRPC server: calls are received in one thread, and answered in many.

A call whose request is still on its way holds no thread. Whether its client may call at
all is checked before any of the request is read; how much memory requests may have that
are large is bounded.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from modelserver.core.errors import (
    BadRequest,
    BodyTooSlow,
    Overloaded,
    RequestError,
    StartError,
)
from modelserver.core.messages.questions import Readiness
from modelserver.engine import admission
from modelserver.web.grpc_door.calls import Answer, Call, Calls, code_of
from modelserver.web.grpc_door.methods import METHODS, SERVICE, Method
from modelserver.web.server.upload_pace import BODY_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from modelserver.web.backend import Backend

_HEALTH: Any = health_pb2
_REFLECTION: Any = reflection_pb2
_HEALTH_SERVICE = _HEALTH.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION_SERVICE = _REFLECTION.DESCRIPTOR.services_by_name[
    "ServerReflection"
].full_name
# Requests up to this are free again once they were read; of larger ones there may be so
# many bytes in memory until they are answered.
_SMALL_BYTES = 1 << 20
_LARGE_BYTES = 512 << 20
_LEAST_LARGE = 4
# How long a request waits for room to be read.
_ROOM_S = 5.0
# Calls that hold no thread: those that arrive, and watchers of health.
_MORE_CALLS = 128
_WATCHERS = 64
_HEALTH_S = 1.0
_CONNECTIONS = 1000
_OPTIONS = (
    # An address that another process has is an error, not shared.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_allowed_incoming_connections", _CONNECTIONS),
    # A client that vanished without a word is noticed, one that is silent closed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 600_000),
)


class Server:
    """Answers gRPC. For one event loop.

    Args:
        backend: started.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        settings = backend.settings
        self._limit_s = settings.request_timeout_s
        self._calls = Calls(backend)
        threads = admission.threads(settings)
        backend.has_threads(threads)
        self._pool = ThreadPoolExecutor(threads, "grpc")
        most = settings.max_upload_mb << 20
        self._room = asyncio.Semaphore(max(_LEAST_LARGE, _LARGE_BYTES // most))
        # Those that need no token must not take the room of those that have it.
        self._open_room = asyncio.Semaphore(_LEAST_LARGE)
        self._handled = 0
        self._watchers = 0
        self._health = health.aio.HealthServicer()
        self._beat: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(
            options=(*_OPTIONS, ("grpc.max_receive_message_length", most)),
            maximum_concurrent_rpcs=threads + _MORE_CALLS,
        )
        self._server.add_generic_rpc_handlers(self._handlers())

    def _handlers(self) -> list[grpc.GenericRpcHandler]:
        """Return what answers each method.

        As gRPC itself sees them, all have streams of requests: so the one request of a
        call is read when we say so.
        """
        ours = {
            method.name: grpc.stream_unary_rpc_method_handler(
                partial(self._answer, method)
            )
            for method in METHODS
        }
        probes = {
            "Check": grpc.stream_unary_rpc_method_handler(
                self._check_health,
                response_serializer=_HEALTH.HealthCheckResponse.SerializeToString,
            ),
            "Watch": grpc.stream_stream_rpc_method_handler(
                self._watch_health,
                response_serializer=_HEALTH.HealthCheckResponse.SerializeToString,
            ),
        }
        shown = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                self._reflect,
                _REFLECTION.ServerReflectionRequest.FromString,
                _REFLECTION.ServerReflectionResponse.SerializeToString,
            )
        }
        self._reflection = reflection.aio.ReflectionServicer(
            (SERVICE, _HEALTH_SERVICE, _REFLECTION_SERVICE)
        )
        services = (
            (SERVICE, ours),
            (_HEALTH_SERVICE, probes),
            (_REFLECTION_SERVICE, shown),
        )
        return [grpc.method_handlers_generic_handler(*each) for each in services]

    async def start(self, host: str, port: int) -> int:
        """Listen, and answer from now on.

        Returns:
            The port, which is a free one for 0.

        Raises:
            StartError: it cannot listen there.
        """
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._server.add_insecure_port(place)
        except RuntimeError:
            bound = 0
        if not bound:
            raise StartError(
                f"Cannot listen for gRPC on {host}, port {port}. GRPC_PORT and HOST"
                " choose others."
            )
        await self._tell_health(is_ready=False)
        await self._server.start()
        self._beat = asyncio.create_task(self._look_at_health())
        return bound

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, and end once those in flight are answered.

        Args:
            grace_s: how long they have.
        """
        if self._beat is not None:
            self._beat.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, method: Method, _requests: Any, context: Any) -> bytes:
        """Answer one call of the service."""
        call = _call_of(context)
        try:
            request = await self._take(call, method, context)
        except RequestError as error:
            call.begin(self._limit_s)
            answer = self._calls.answer(call, method, partial(_fail, error))
        else:
            answer = await self._work(call, method, request)
        context.set_trailing_metadata(answer.trailing)
        if answer.code is not grpc.StatusCode.OK:
            await context.abort(answer.code, answer.details, answer.trailing)
        return answer.content

    async def _take(self, call: Call, method: Method, context: Any) -> _Request:
        """Check who calls, and return the request.

        Raises:
            RequestError: it is refused, or does not come.
        """
        self._calls.check(call, is_open=method.is_open, is_own=method.is_own)
        if method.is_open:
            return _Request(b"")
        if method.evaluates:
            refusal = self._backend.link.refusal(self._handled)
            if refusal is not None:
                raise refusal
        return await self._read(context, self._room)

    async def _read(self, context: Any, room: asyncio.Semaphore) -> _Request:
        """Return a call's request, once there is room for it.

        Raises:
            Overloaded: there was none.
            BodyTooSlow, BadRequest: it came too slowly, or not at all.
        """
        try:
            await asyncio.wait_for(room.acquire(), _ROOM_S)
        except asyncio.TimeoutError:
            raise Overloaded(1.0, "The server has too many requests at once") from None
        request = _Request(b"", room)
        try:
            request.content = await _read(context)
        except BaseException:
            request.leave()
            raise
        if len(request.content) <= _SMALL_BYTES:
            request.leave()
        return request

    async def _work(self, call: Call, method: Method, request: _Request) -> Answer:
        """Have a thread answer a call; the engine is told if its client goes."""
        call.begin(self._limit_s)
        loop = asyncio.get_running_loop()
        self._handled += method.evaluates
        work = partial(method.answer, request.content)
        future = self._pool.submit(self._calls.answer, call, method, work)

        def end() -> None:
            request.leave()
            self._handled -= method.evaluates

        future.add_done_callback(lambda _: loop.call_soon_threadsafe(end))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            call.caller.has_left = True
            raise

    async def _look_at_health(self) -> None:
        """Tell those who ask for health what ``/readyz`` tells, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            is_ready = await loop.run_in_executor(self._pool, self._is_ready)
            await self._tell_health(is_ready=is_ready)
            await asyncio.sleep(_HEALTH_S)

    def _is_ready(self) -> bool:
        try:
            return self._backend.ask("ready", Readiness).ready
        except RequestError:  # there is no engine at the moment
            return False

    async def _tell_health(self, *, is_ready: bool) -> None:
        states = _HEALTH.HealthCheckResponse
        for service in ("", SERVICE):
            await self._health.set(
                service, states.SERVING if is_ready else states.NOT_SERVING
            )

    async def _asked_health(self, context: Any) -> Any:
        """Check who asks for health, and return the request."""
        try:
            self._calls.check(_call_of(context), is_open=True)
            request = await self._read(context, self._open_room)
            request.leave()
            return _HEALTH.HealthCheckRequest.FromString(request.content)
        except RequestError as error:
            await context.abort(code_of(error.status), str(error))
        except DecodeError:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "The message is no request."
            )

    async def _check_health(self, _requests: Any, context: Any) -> Any:
        return await self._health.Check(await self._asked_health(context), context)

    async def _watch_health(self, _requests: Any, context: Any) -> None:
        if self._watchers >= _WATCHERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many watch already."
            )
        self._watchers += 1
        try:
            await self._health.Watch(await self._asked_health(context), context)
        finally:
            self._watchers -= 1

    async def _reflect(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            self._calls.check(_call_of(context))
        except RequestError as error:
            await context.abort(code_of(error.status), str(error))
        async for each in self._reflection.ServerReflectionInfo(requests, context):
            yield each


class _Request:
    """A call's request, and the room in memory that it holds."""

    def __init__(self, content: bytes, room: asyncio.Semaphore | None = None) -> None:
        self.content = content
        self._room = room

    def leave(self) -> None:
        """Give the room to others. Idempotent."""
        if self._room is not None:
            self._room.release()
            self._room = None


def _call_of(context: Any) -> Call:
    metadata = {
        name: value
        for name, value in context.invocation_metadata() or ()
        if isinstance(value, str)
    }
    return Call(metadata, context.peer(), context.time_remaining())


async def _read(context: Any) -> bytes:
    """Return a call's request.

    Raises:
        BodyTooSlow, BadRequest: it comes too slowly, or not at all.
    """
    try:
        content = await asyncio.wait_for(context.read(), BODY_S)
    except asyncio.TimeoutError:
        raise BodyTooSlow from None
    if content is grpc.aio.EOF:
        raise BadRequest("The call has no request.")
    return bytes(content)


def _fail(error: RequestError) -> bytes:
    raise error
