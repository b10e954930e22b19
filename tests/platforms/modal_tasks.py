"""What Modal's double answers to containers."""

# ruff: noqa: N802  # methods are named as the calls are
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TERMINATED = api_pb2.GenericResult.GENERIC_STATUS_TERMINATED
HELD_S = 10.0  # a poll is held so long at most


@dataclass(eq=False)
class Call:
    """A call of a function, with its one input."""

    id: str
    input_id: str
    function_id: str
    input: api_pb2.FunctionInput
    kind: int = 0
    data_in: list[api_pb2.DataChunk] = field(default_factory=list)
    data_out: list[api_pb2.DataChunk] = field(default_factory=list)
    output: api_pb2.FunctionPutOutputsItem | None = None
    cancelled: bool = False
    deliveries: int = 0


class Tasks:
    """A part of `ModalDouble`."""

    def do_ContainerHello(self, _: Any) -> Any:
        return Empty()

    async def do_ContainerHeartbeat(self, _: Any) -> Any:
        found = await self._until(self._to_cancel, HELD_S)
        told = api_pb2.ContainerHeartbeatResponse()
        if found:
            told.cancel_input_event.input_ids.extend(found)
        return told

    def _to_cancel(self) -> list[str]:
        calls = [one for one in self.calls.values() if one.deliveries and one.output is None]
        return [one.input_id for one in calls if one.cancelled]

    def do_ContainerCheckpoint(self, _: Any) -> Any:
        return Empty()

    def do_ContainerStop(self, _: Any) -> Any:
        return api_pb2.ContainerStopResponse()

    def do_FunctionGetDynamicConcurrency(self, request: Any) -> Any:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def do_FunctionGetInputs(self, request: Any) -> Any:
        wanted = request.function_id
        self.polling.add(wanted)
        await self._notify()
        while True:
            await self._until(lambda: wanted in self.killed or self._next(wanted), HELD_S)
            if wanted in self.killed:
                self.killed.discard(wanted)
                self.polling.discard(wanted)
                item = api_pb2.FunctionGetInputsItem(kill_switch=True)
                return api_pb2.FunctionGetInputsResponse(inputs=[item])
            call = self._next(wanted)
            if call is not None:
                call.deliveries += 1
                item = api_pb2.FunctionGetInputsItem(
                    input_id=call.input_id,
                    input=call.input,
                    function_call_id=call.id,
                    function_call_invocation_type=call.kind,
                )
                return api_pb2.FunctionGetInputsResponse(inputs=[item])

    def _next(self, function_id: str) -> Call | None:
        for call in self.calls.values():
            if call.function_id == function_id and not call.deliveries and call.output is None:
                return call
        return None

    async def do_FunctionPutOutputs(self, request: Any) -> Any:
        by_input = {call.input_id: call for call in self.calls.values()}
        for item in request.outputs:
            by_input[item.input_id].output = item
        await self._notify()

    async def do_FunctionCallPutDataOut(self, request: Any) -> Any:
        self._call(request.function_call_id).data_out.extend(request.data_chunks)
        await self._notify()

    def do_FunctionCallGetDataIn(self, request: Any) -> AsyncIterator[Any]:
        call = self._call(request.function_call_id)
        return self._chunks(call, call.data_in, request.last_index)

    def do_TaskResult(self, _: Any) -> Any:
        return Empty()

    def do_VolumeCommit(self, _: Any) -> Any:
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    def do_VolumeReload(self, _: Any) -> Any:
        return Empty()
