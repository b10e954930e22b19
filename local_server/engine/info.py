"""The engine's routes that tell of nodes, models and the machine."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from aiohttp import web

from local_server.engine.keys import ENGINE

NO_MODELS = frozenset({"configs", "custom_nodes"})


async def object_info(request: web.Request) -> web.Response:
    """Describe all nodes."""
    engine = request.app[ENGINE]
    return web.json_response(
        {name: node.info(engine.folders) for name, node in engine.nodes.items()}
    )


async def object_info_of(request: web.Request) -> web.Response:
    """Describe one node, `{}` for an unknown one."""
    engine = request.app[ENGINE]
    name = request.match_info["name"]
    node = engine.nodes.get(name)
    return web.json_response({} if node is None else {name: node.info(engine.folders)})


async def models(request: web.Request) -> web.Response:
    """List the names of the model folders."""
    return web.json_response(list(request.app[ENGINE].folders.searched))


async def models_in(request: web.Request) -> web.Response:
    """List the files of a model folder; 404 for an unknown one."""
    folder = request.match_info["folder"]
    if folder not in request.app[ENGINE].folders.searched:
        return web.Response(status=404)
    return web.json_response(request.app[ENGINE].folders.models_in(folder))


async def folder_paths(request: web.Request) -> web.Response:
    """Tell where models are searched: folder name -> paths, in order."""
    searched = request.app[ENGINE].folders.searched
    return web.json_response({name: [*map(str, of.folders)] for name, of in searched.items()})


async def experiment_models(request: web.Request) -> web.Response:
    """Tell the same as a list, without what holds no models."""
    searched = request.app[ENGINE].folders.searched
    told = [
        {"name": name, "folders": [*map(str, of.folders)]}
        for name, of in searched.items()
        if name not in NO_MODELS
    ]
    return web.json_response(told)


async def embeddings(request: web.Request) -> web.Response:
    """List the embeddings without their suffixes."""
    names = request.app[ENGINE].folders.models_in("embeddings")
    return web.json_response([str(Path(name).with_suffix("")) for name in names])


async def extensions(request: web.Request) -> web.Response:  # noqa: ARG001 - a handler
    """List the scripts of the web page; there is none."""
    return web.json_response([])


async def features(request: web.Request) -> web.Response:
    """Tell what the server can do."""
    return web.json_response(request.app[ENGINE].features())


async def system_stats(request: web.Request) -> web.Response:  # noqa: ARG001 - a handler
    """Tell of the machine, and by the version that this is not ComfyUI."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page_bytes
    free = os.sysconf("SC_AVPHYS_PAGES") * page_bytes
    device = {
        "name": "cpu",
        "type": "cpu",
        "index": None,
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": total,
        "torch_vram_free": free,
    }
    system = {
        "os": os.name,
        "ram_total": total,
        "ram_free": free,
        "comfyui_version": f"embedded-{project_version()}",
        "required_frontend_version": None,
        "installed_templates_version": None,
        "required_templates_version": None,
        "python_version": f"{platform.python_version()} ({platform.python_implementation()})",
        "pytorch_version": None,
        "embedded_python": False,
        "argv": sys.argv,
    }
    return web.json_response({"system": system, "devices": [device]})


def project_version(package: str = "comfyfn") -> str:
    """Give the version of an installed package, `unknown` in a checkout that is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


ROUTES = (
    web.get("/object_info", object_info),
    web.get("/object_info/{name}", object_info_of),
    web.get("/models", models),
    web.get("/models/{folder}", models_in),
    web.get("/internal/folder_paths", folder_paths),
    web.get("/experiment/models", experiment_models),
    web.get("/embeddings", embeddings),
    web.get("/extensions", extensions),
    web.get("/features", features),
    web.get("/system_stats", system_stats),
)
