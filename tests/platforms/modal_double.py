"""A stand-in for Modal's servers: the real client, CLI and container entrypoint speak to it.

It is a subclass of the client package's own gRPC base class. What is asked is recorded; what has
no method here is answered UNIMPLEMENTED, which names the call. Blobs and the web address are served
over HTTP. Containers are processes of this machine (`platforms.modal_container`).
"""

# ruff: noqa: N802  # methods are named as the calls are
from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal_proto import api_grpc, api_pb2
from platforms.modal_tasks import HELD_S, TERMINATED, Call, Tasks
from platforms.modal_web import Web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SUCCESS = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS


class Servicer(api_grpc.ModalClientBase):
    """All of the client's calls; those with a `do_<name>` are answered."""

    def __init__(self, double: ModalDouble) -> None:
        self.double = double


def _method(name: str) -> Callable[..., Any]:
    async def answer(self: Servicer, stream: Any) -> None:
        request = await stream.recv_message()
        double = self.double
        double.requests.append((name, request))
        do = getattr(double, f"do_{name}", None)
        if do is None:
            double.unknown.append(name)
            raise GRPCError(Status.UNIMPLEMENTED, f"the double has no {name}")
        found = do(request)
        if hasattr(found, "__aiter__"):
            async for message in found:
                await stream.send_message(message)
            return
        if asyncio.iscoroutine(found):
            found = await found
        await stream.send_message(found if found is not None else Empty())

    return answer


for _name in api_grpc.ModalClientBase.__abstractmethods__:
    setattr(Servicer, _name, _method(_name))
Servicer.__abstractmethods__ = frozenset()


class ModalDouble(Tasks, Web):
    """The servers. `with ModalDouble(home) as modal: ...`.

    Attributes:
        secrets: the named Secrets that there are, with their values.
        requests: everything that was asked, in order.
        unknown: the names of what could not be answered.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.secrets: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str, Any]] = []
        self.unknown: list[str] = []
        self.functions: dict[str, api_pb2.Function] = {}
        self.metadata: dict[str, api_pb2.FunctionHandleMetadata] = {}
        self.classes: dict[str, str] = {}
        self.calls: dict[str, Call] = {}
        self.killed: set[str] = set()
        self.polling: set[str] = set()
        self.ended: set[str] = set()
        self.apps: dict[str, list[str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.secret_values: dict[str, dict[str, str]] = {}
        self.on_call: Callable[[str], None] | None = None
        self.proxy_tokens: tuple[str, str] = ("wk-key", "ws-secret")
        self._ids: dict[str, int] = {}
        self._images: dict[bytes, str] = {}
        self._changed: asyncio.Condition
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modal-double")

    # -- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any, limit_s: float = 60) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit_s)

    async def _open(self) -> None:
        self._changed = asyncio.Condition()
        self._server = Server([Servicer(self)])
        await self._server.start("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{_port(self._server._server)}"
        app = web.Application(client_max_size=1 << 30, handler_args=None)
        app.router.add_put("/__blob/{id}", self._put_blob)
        app.router.add_get("/__blob/{id}", self._get_blob)
        app.router.add_route("*", "/{path:.*}", self._web)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.web_url = f"http://127.0.0.1:{_port(site._server)}"

    async def _close(self) -> None:
        await self._runner.cleanup()
        self._server.close()
        await self._server.wait_closed()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def env(self, home: Path | None = None) -> dict[str, str]:
        """Give what the client needs to find us."""
        place = home or self.home
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": "ak-test",
            "MODAL_TOKEN_SECRET": "as-test",
            "MODAL_CONFIG_PATH": str(place / "modal.toml"),
            "HOME": str(place),
        }

    def asked(self, name: str) -> list[Any]:
        """List the requests of one name."""
        return [request for told, request in self.requests if told == name]

    def _new(self, prefix: str) -> str:
        self._ids[prefix] = self._ids.get(prefix, 0) + 1
        return f"{prefix}-{self._ids[prefix]:05d}"

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, true: Callable[[], Any], limit_s: float) -> Any:
        deadline = self._loop.time() + limit_s
        while True:
            async with self._changed:
                found = true()
                if found or self._loop.time() >= deadline:
                    return found
                # What no request tells is looked at as well, as that a process has ended.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.2)

    # -- deploying ------------------------------------------------------------------------------

    def do_ClientHello(self, _: Any) -> Any:
        return api_pb2.ClientHelloResponse()

    def do_AppGetByDeploymentName(self, _: Any) -> Any:
        return api_pb2.AppGetByDeploymentNameResponse()

    def do_AppCreate(self, _: Any) -> Any:
        return api_pb2.AppCreateResponse(app_id=self._new("ap"), app_page_url="http://page")

    def do_AppGetOrCreate(self, _: Any) -> Any:
        return api_pb2.AppGetOrCreateResponse(app_id=self._new("ap"))

    def do_EnvironmentGetOrCreate(self, _: Any) -> Any:
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    def do_FunctionPrecreate(self, request: Any) -> Any:
        function_id = self._new("fu")
        metadata = api_pb2.FunctionHandleMetadata(
            function_name=request.function_name, function_type=request.function_type
        )
        for name, one in request.method_definitions.items():
            metadata.method_handle_metadata[name].CopyFrom(self._of_method(name, one))
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=metadata)

    def do_AppHeartbeat(self, _: Any) -> Any:
        return Empty()

    def do_SecretGetOrCreate(self, request: Any) -> Any:
        name = request.deployment_name
        if name and name not in self.secrets:
            raise GRPCError(Status.NOT_FOUND, f"Secret '{name}' not found")
        secret_id = self._new("st")
        self.secret_values[secret_id] = dict(self.secrets[name] if name else request.env_dict)
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id)

    def do_MountGetOrCreate(self, _: Any) -> Any:
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex="0" * 64)
        return api_pb2.MountGetOrCreateResponse(mount_id=self._new("mo"), handle_metadata=metadata)

    def do_MountBatchedCheckExistence(self, _: Any) -> Any:
        return api_pb2.MountBatchedCheckExistenceResponse()

    def do_VolumeGetOrCreate(self, request: Any) -> Any:
        metadata = api_pb2.VolumeMetadata(name=request.deployment_name)
        volume_id = self._new("vo")
        return api_pb2.VolumeGetOrCreateResponse(volume_id=volume_id, metadata=metadata)

    def do_ImageGetOrCreate(self, request: Any) -> Any:
        key = request.image.SerializeToString(deterministic=True)
        image_id = self._images.setdefault(key, f"im-{len(self._images) + 1:05d}")
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id,
            result=api_pb2.GenericResult(status=SUCCESS),
            metadata=api_pb2.ImageMetadata(image_builder_version="2025.06"),
        )

    def do_FunctionCreate(self, request: Any) -> Any:
        ranked = request.function_data.ranked_functions
        definition = ranked[0].function if ranked else request.function
        function_id = request.existing_function_id or self._new("fu")
        self.functions[function_id] = definition
        self.apps.setdefault(request.app_id, []).append(function_id)
        metadata = api_pb2.FunctionHandleMetadata(
            function_name=definition.function_name,
            function_type=definition.function_type,
            is_method=definition.is_method,
            definition_id="de-1",
            class_parameter_info=definition.class_parameter_info,
            function_schema=definition.function_schema,
            supported_input_formats=definition.supported_input_formats,
            supported_output_formats=definition.supported_output_formats,
        )
        for name, one in definition.method_definitions.items():
            metadata.method_handle_metadata[name].CopyFrom(self._of_method(name, one))
        self.metadata[function_id] = metadata
        data = api_pb2.FunctionData(
            module_name=definition.module_name,
            function_name=definition.function_name,
            method_definitions=definition.method_definitions,
            ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0, function=definition)],
        )
        return api_pb2.FunctionCreateResponse(
            function_id=function_id,
            function=definition,
            function_data=data,
            handle_metadata=metadata,
        )

    def _of_method(self, name: str, one: Any) -> Any:
        hooked = one.webhook_config.type != api_pb2.WEBHOOK_TYPE_UNSPECIFIED
        return api_pb2.FunctionHandleMetadata(
            function_name=one.function_name,
            function_type=one.function_type,
            is_method=True,
            use_method_name=name,
            web_url=self.web_url if hooked else "",
            function_schema=one.function_schema,
            supported_input_formats=one.supported_input_formats,
            supported_output_formats=one.supported_output_formats,
        )

    def do_ClassCreate(self, _: Any) -> Any:
        return api_pb2.ClassCreateResponse(class_id=self._new("cs"))

    def do_AppPublish(self, request: Any) -> Any:
        self.classes.update(request.class_ids)
        return api_pb2.AppPublishResponse(url="http://page/deployed", deployed_at=1.0)

    def do_AppSetTags(self, _: Any) -> Any:
        return Empty()

    async def do_AppClientDisconnect(self, request: Any) -> Any:
        self.ended.add(request.app_id)
        self.killed.update(self.apps.get(request.app_id, ()))
        await self._notify()

    async def do_AppGetLogs(self, request: Any) -> AsyncIterator[Any]:
        done = await self._until(lambda: request.app_id in self.ended, HELD_S)
        yield api_pb2.TaskLogsBatch(app_done=bool(done))

    def do_TaskList(self, _: Any) -> Any:
        return api_pb2.TaskListResponse()

    # -- clients --------------------------------------------------------------------------------

    def named(self, name: str) -> str:
        """Give the id of a function by its name, `fill` or `Worker.*`: of the newest one."""
        found = [key for key, one in self.functions.items() if one.function_name == name]
        return found[-1]

    def do_ClassGet(self, request: Any) -> Any:
        if request.object_tag not in self.classes:
            raise GRPCError(Status.NOT_FOUND, f"no class {request.object_tag}")
        function_id = self.named(f"{request.object_tag}.*")
        metadata = api_pb2.ClassHandleMetadata(
            class_function_id=function_id, class_function_metadata=self.metadata[function_id]
        )
        class_id = self.classes[request.object_tag]
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=metadata)

    def do_FunctionGet(self, request: Any) -> Any:
        function_id = self.named(request.object_tag)
        return api_pb2.FunctionGetResponse(
            function_id=function_id,
            handle_metadata=self.metadata[function_id],
            function=api_pb2.FunctionData(
                module_name=self.functions[function_id].module_name,
                function_name=request.object_tag,
                ranked_functions=[
                    api_pb2.FunctionData.RankedFunction(function=self.functions[function_id])
                ],
            ),
        )

    def do_FunctionBindParams(self, request: Any) -> Any:
        metadata = self.metadata[request.function_id]
        return api_pb2.FunctionBindParamsResponse(
            bound_function_id=request.function_id, handle_metadata=metadata
        )

    async def do_FunctionMap(self, request: Any) -> Any:
        (item,) = request.pipelined_inputs
        call = await self.submit(
            request.function_id, item.input, request.function_call_invocation_type
        )
        put = api_pb2.FunctionPutInputsResponseItem(idx=0, input_id=call.input_id)
        return api_pb2.FunctionMapResponse(function_call_id=call.id, pipelined_inputs=[put])

    async def submit(self, function_id: str, given: api_pb2.FunctionInput, kind: int = 0) -> Call:
        """Take a call in."""
        call_id = f"fc-{uuid.uuid4().hex[:20]}"
        call = Call(call_id, f"in-{uuid.uuid4().hex[:20]}", function_id, given, kind)
        self.calls[call_id] = call
        if self.on_call is not None:
            self.on_call(function_id)
        await self._notify()
        return call

    async def do_FunctionGetOutputs(self, request: Any) -> Any:
        call = self._call(request.function_call_id)
        await self._until(lambda: call.output, min(request.timeout, HELD_S))
        found = api_pb2.FunctionGetOutputsResponse(last_entry_id="1-0")
        found.num_unfinished_inputs = int(call.output is None)
        if call.output is not None:
            item = found.outputs.add(input_id=call.input_id, data_format=call.output.data_format)
            item.result.CopyFrom(call.output.result)
        return found

    def _call(self, call_id: str) -> Call:
        if call_id not in self.calls:
            raise GRPCError(Status.NOT_FOUND, f"no call {call_id}")
        return self.calls[call_id]

    def do_FunctionCallFromId(self, request: Any) -> Any:
        call = self._call(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=1)

    async def do_FunctionCallCancel(self, request: Any) -> Any:
        await self.cancel(self._call(request.function_call_id))

    async def cancel(self, call: Call) -> None:
        """Cancel a call, as whoever made it may."""
        call.cancelled = True
        if not call.deliveries and call.output is None:
            call.output = api_pb2.FunctionPutOutputsItem(
                input_id=call.input_id, result=api_pb2.GenericResult(status=TERMINATED)
            )
        await self._notify()

    def do_FunctionCallGetDataOut(self, request: Any) -> AsyncIterator[Any]:
        call = self._call(request.function_call_id)
        return self._chunks(call, call.data_out, request.last_index)

    async def _chunks(self, call: Call, chunks: list[Any], last: int) -> AsyncIterator[Any]:
        while True:
            await self._until(lambda n=last: len(chunks) > n or call.output, HELD_S)
            for chunk in chunks[last:]:
                last += 1
                yield chunk
            if call.output is not None and len(chunks) <= last:
                return

    # -- what tests ask -------------------------------------------------------------------------

    def kill(self, function_id: str) -> None:
        """Have the container of a function end in good order."""

        async def tell() -> None:
            self.killed.add(function_id)
            await self._notify()

        self._do(tell())

    def redeliver(self, call: Call) -> None:
        """Hand an input out again, as when its container was lost."""

        async def again() -> None:
            call.deliveries, call.output = 0, None
            await self._notify()

        self._do(again())

    def stop_call(self, call_id: str) -> None:
        """Cancel a call."""
        self._do(self.cancel(self.calls[call_id]))

    def wait(self, true: Callable[[], Any], limit_s: float = 20) -> Any:
        """Wait until something that our state tells is so."""
        found = self._do(self._until(true, limit_s), limit_s + 5)
        assert found, f"not after {limit_s} s; unknown: {self.unknown}"
        return found


def _port(server: Any) -> int:
    return int(server.sockets[0].getsockname()[1])
