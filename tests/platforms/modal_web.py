"""What Modal's double answers over HTTP: blobs, and the web address of an app."""

# ruff: noqa: N802  # methods are named as the calls are
from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import Any

from aiohttp import web
from modal._serialization import deserialize_data_format, serialize_data_format
from modal_proto import api_pb2
from platforms.modal_tasks import Call


class Web:
    """A part of `ModalDouble`."""

    def do_BlobCreate(self, _: Any) -> Any:
        blob_id = self._new("bl")
        urls = api_pb2.UploadUrlList(items=[f"{self.web_url}/__blob/{blob_id}"])
        return api_pb2.BlobCreateResponse(blob_ids=[blob_id], upload_urls=urls)

    def do_BlobGet(self, request: Any) -> Any:
        url = f"{self.web_url}/__blob/{request.blob_id}"
        return api_pb2.BlobGetResponse(download_url=url)

    async def _put_blob(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.blobs[request.match_info["id"]] = body
        tag = hashlib.md5(body).hexdigest()
        return web.Response(headers={"ETag": f'"{tag}"'})

    async def _get_blob(self, request: web.Request) -> web.Response:
        return web.Response(body=self.blobs[request.match_info["id"]])

    # -- the web address ------------------------------------------------------------------------

    async def _web(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, as Modal's proxy does."""
        function_id, name = self._hooked()
        hook = self.functions[function_id].method_definitions[name].webhook_config
        sent = (request.headers.get("Modal-Key"), request.headers.get("Modal-Secret"))
        if hook.requires_proxy_auth and sent != self.proxy_tokens:
            return web.Response(status=401, text="modal-http: missing credentials")
        call = await self._ask(function_id, name, request)
        try:
            return await self._answered(request, call)
        except asyncio.CancelledError:  # the client went away
            await self.cancel(call)
            raise

    def _hooked(self) -> tuple[str, str]:
        for function_id, definition in reversed(self.functions.items()):
            for name, one in definition.method_definitions.items():
                if one.webhook_config.type:
                    return function_id, name
        raise web.HTTPNotFound

    async def _ask(self, function_id: str, name: str, request: web.Request) -> Call:
        host = "workspace--comfyfn-worker-web.modal.run"
        headers = [(k.lower(), v) for k, v in request.raw_headers if k.lower() != b"host"]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "https",
            "path": request.path,
            "raw_path": request.raw_path.partition("?")[0].encode(),
            "query_string": request.query_string.encode(),
            "root_path": "",
            "headers": [(b"host", host.encode()), *headers],
            "client": ("203.0.113.9", 40000),
            "server": (host, 443),
        }
        body = {"type": "http.request", "body": await request.read(), "more_body": False}
        given = api_pb2.FunctionInput(
            args=serialize_data_format(((scope,), {}), api_pb2.DATA_FORMAT_PICKLE),
            data_format=api_pb2.DATA_FORMAT_PICKLE,
            method_name=name,
        )
        chunk = api_pb2.DataChunk(
            data_format=api_pb2.DATA_FORMAT_ASGI,
            data=serialize_data_format(body, api_pb2.DATA_FORMAT_ASGI),
            index=1,
        )
        call_id = f"fc-{uuid.uuid4().hex[:20]}"
        call = Call(call_id, f"in-{uuid.uuid4().hex[:20]}", function_id, given)
        call.data_in.append(chunk)
        self.calls[call_id] = call
        if self.on_call is not None:
            self.on_call(function_id)
        await self._notify()
        return call

    async def _answered(self, request: web.Request, call: Call) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        async for chunk in self._chunks(call, call.data_out, 0):
            raw = self.blobs[chunk.data_blob_id] if chunk.data_blob_id else chunk.data
            message = deserialize_data_format(raw, chunk.data_format, None)
            if message["type"] == "http.response.start":
                response = web.StreamResponse(status=message["status"])
                for key, value in message["headers"]:
                    response.headers.add(bytes(key).decode(), bytes(value).decode("latin-1"))
                await response.prepare(request)
            elif message["type"] == "http.response.body" and response is not None:
                await response.write(message.get("body", b""))
        if response is None:
            return web.Response(status=500, text="modal-http: the function gave no answer")
        await response.write_eof()
        return response
