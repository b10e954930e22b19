"""ComfyUI's routes as the stand-in engine answers them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

from aiohttp import web
from stub_nodes import NODES, describe, listed
from stub_queue import Job, refusal

if TYPE_CHECKING:
    from stub_queue import Engine

FEATURES = {"supports_preview_metadata": True, "max_upload_size": 100 << 20}
MODEL_FOLDERS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision",
    "controlnet", "upscale_models", "diffusers", "embeddings",
)  # fmt: skip


class Routes:
    """ComfyUI's routes over an `Engine`, each also under /api."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.folders = engine, engine.folders

    async def post_prompt(self, request: web.Request) -> web.Response:
        received, engine = time.perf_counter(), self.engine
        body = await request.json()
        graph = body.get("prompt")
        if graph is None:
            error = refusal("no_prompt", "The body has no prompt")
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        refused, outputs = engine.check(graph)
        if refused is not None:
            return web.json_response(refused, status=400)
        extra = dict(body.get("extra_data") or {})
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        prompt_id = str(body["prompt_id"]) if "prompt_id" in body else str(uuid.uuid4())
        job = Job(engine.number, prompt_id, graph, extra, outputs, received)
        engine.number += 1
        front = bool(body.get("front"))
        # After this answer is on its way: the events of a prompt follow its 200.
        asyncio.get_running_loop().call_soon(lambda: engine.enqueue(job, front=front))
        answer = {"prompt_id": prompt_id, "number": job.number, "node_errors": {}}
        return web.json_response(answer)

    async def get_prompt(self, _: web.Request) -> web.Response:
        return web.json_response(self.engine.exec_info())

    async def get_history(self, request: web.Request) -> web.Response:
        history = self.engine.history
        if "id" in request.match_info:
            found = history.get(request.match_info["id"])
            return web.json_response({request.match_info["id"]: found} if found else {})
        newest = int(request.query.get("max_items", len(history)))
        return web.json_response(dict(list(history.items())[len(history) - newest :]))

    async def post_history(self, request: web.Request) -> web.Response:
        body = await request.json()
        for prompt_id in list(self.engine.history) if body.get("clear") else body.get("delete", []):
            self.engine.history.pop(prompt_id, None)
        return web.Response()

    async def get_queue(self, _: web.Request) -> web.Response:
        running = [self.engine.running.listing()] if self.engine.running else []
        pending = [job.listing() for job in self.engine.pending]
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def post_queue(self, request: web.Request) -> web.Response:
        body, pending = await request.json(), self.engine.pending
        doomed = {job.prompt_id for job in pending} if body.get("clear") else body.get("delete", [])
        kept = [job for job in pending if job.prompt_id not in doomed]
        pending.clear()
        pending.extend(kept)
        await self.engine.send("status", {"status": self.engine.exec_info()}, None)
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        running = self.engine.running
        self.engine.interrupts += 1
        wanted = body.get("prompt_id")
        if running and self.engine.task and wanted in (None, running.prompt_id):
            self.engine.task.cancel()
        return web.Response()

    async def view(self, request: web.Request) -> web.StreamResponse:
        root = self.folders.of(request.query.get("type", "output"))
        if root is None or "filename" not in request.query:
            return web.Response(status=404 if root else 400)
        path = (root / request.query.get("subfolder", "") / request.query["filename"]).resolve()
        if not path.is_relative_to(root):
            return web.Response(status=403)
        if not path.is_file():
            return web.Response(status=404)
        named = {"Content-Disposition": f'filename="{path.name}"'}
        return web.FileResponse(path, headers=named)

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        sent = form.get("image")
        root = self.folders.of(str(form.get("type", "input")))
        if not isinstance(sent, web.FileField) or root is None:
            return web.Response(status=400)
        subfolder = str(form.get("subfolder", ""))
        target = root / subfolder
        target.mkdir(parents=True, exist_ok=True)
        stem, suffix = os.path.splitext(os.path.basename(sent.filename))
        path, tries = target / (stem + suffix), 0
        while path.exists() and str(form.get("overwrite", "")).lower() not in ("true", "1"):
            tries += 1
            path = target / f"{stem} ({tries}){suffix}"
        await asyncio.to_thread(path.write_bytes, sent.file.read())
        kind = str(form.get("type", "input"))
        return web.json_response({"name": path.name, "subfolder": subfolder, "type": kind})

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        engine, socket = self.engine, web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        sid = request.query.get("clientId") or uuid.uuid4().hex
        engine.sockets[sid] = socket
        await engine.send("status", {"status": engine.exec_info(), "sid": sid}, sid)
        first = True
        async for message in socket:
            if first and message.type is web.WSMsgType.TEXT and "feature_flags" in message.data:
                await engine.send("feature_flags", FEATURES, sid)
            first = False
        if engine.sockets.get(sid) is socket:
            del engine.sockets[sid]
        return socket

    async def object_info(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name")
        names = sorted(NODES) if name is None else sorted(NODES & {name})
        return web.json_response({name: describe(name, self.folders) for name in names})

    async def system_stats(self, _: web.Request) -> web.Response:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        system: dict[str, Any] = {
            "os": "posix",
            "ram_total": memory,
            "ram_free": memory,
            "argv": sys.argv,
        }
        system |= {"comfyui_version": "0.3.64", "python_version": sys.version}
        system |= {"pytorch_version": "none", "embedded_python": False}
        device: dict[str, Any] = {"name": "cpu", "type": "cpu", "index": None}
        device |= dict.fromkeys(("vram_total", "vram_free"), memory)
        device |= dict.fromkeys(("torch_vram_total", "torch_vram_free"), memory)
        return web.json_response({"system": system, "devices": [device]})

    async def models(self, request: web.Request) -> web.Response:
        kind = request.match_info.get("kind")
        if kind is None:
            return web.json_response(MODEL_FOLDERS)
        if kind not in MODEL_FOLDERS:
            return web.Response(status=404)
        return web.json_response(listed(self.folders.models / kind))

    async def nothing(self, _: web.Request) -> web.Response:
        return web.Response()

    async def features(self, _: web.Request) -> web.Response:
        return web.json_response(FEATURES)

    async def bench_config(self, request: web.Request) -> web.Response:
        self.engine.delay_s = (await request.json())["delay_ms"] / 1000
        return web.Response()

    async def bench_timings(self, _: web.Request) -> web.Response:
        taken = list(self.engine.timings)
        self.engine.timings.clear()
        return web.json_response(taken)

    async def bench_state(self, _: web.Request) -> web.Response:
        engine = self.engine
        state = {"sockets": len(engine.sockets), "pending": len(engine.pending)}
        state |= {"history": len(engine.history), "interrupts": engine.interrupts}
        return web.json_response(state)

    def table(self) -> list[web.RouteDef]:
        engine_routes = [
            web.get("/", self.nothing),
            web.get("/ws", self.websocket),
            web.post("/prompt", self.post_prompt),
            web.get("/prompt", self.get_prompt),
            web.get("/history", self.get_history),
            web.get("/history/{id}", self.get_history),
            web.post("/history", self.post_history),
            web.get("/queue", self.get_queue),
            web.post("/queue", self.post_queue),
            web.post("/interrupt", self.interrupt),
            web.post("/free", self.nothing),
            web.get("/view", self.view),
            web.post("/upload/image", self.upload),
            web.get("/object_info", self.object_info),
            web.get("/object_info/{name}", self.object_info),
            web.get("/system_stats", self.system_stats),
            web.get("/features", self.features),
            web.get("/models", self.models),
            web.get("/models/{kind}", self.models),
        ]
        again = [web.route(r.method, "/api" + r.path, r.handler) for r in engine_routes]
        return [
            *engine_routes,
            *again,
            web.post("/bench/config", self.bench_config),
            web.get("/bench/timings", self.bench_timings),
            web.get("/bench/state", self.bench_state),
        ]
