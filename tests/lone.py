"""The engine of the port over ComfyUI's protocol, with the embedded engine as its child."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx
from live import free_port

from handler.engine.base import EnginePrompt
from handler.engine.boot import Site, open_site
from handler.engine.comfyui import ComfyEngine
from handler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def site_in(home: Path, **env: str) -> Site:
    """Open a site whose folders all lie in `home`, on a free port."""
    return open_site(
        Settings.from_env(
            {
                "ENGINE": "embedded",
                "COMFYFN_TEST_FAULTS": "true",
                "COMFYUI_PORT_HOST": str(free_port()),
                "INPUT_DIR": str(home / "input"),
                "OUTPUT_DIR": str(home / "output"),
                "MODEL_DIR": str(home / "models"),
                "WORK_DIR": str(home / "work"),
                **env,
            }
        ),
        embedded_allowed=True,
    )


@contextlib.asynccontextmanager
async def lone_engine(
    home: Path, *, start: bool = True, **env: str
) -> AsyncIterator[tuple[ComfyEngine, list[str]]]:
    """Give a started engine and the list of its states so far."""
    engine, states = ComfyEngine(site_in(home, **env)), []

    async def warm_up() -> None:
        states.append("warmup")

    engine.prepare(lambda state: states.append(state.value), warm_up)
    try:
        if start:
            await engine.start()
        yield engine, states
    finally:
        await engine.stop()


async def switch(engine: ComfyEngine, name: str, **body: Any) -> None:
    """Use one of the embedded engine's fault switches."""
    url = f"http://127.0.0.1:{engine._settings.comfy_port}/_test/{name}"
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(url, json=body)).raise_for_status()


def prompt(name: str, *chain: tuple[str, dict[str, Any]], **limits: float) -> EnginePrompt:
    """EmptyImage, then nodes that take an image and give one, then SaveImage."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 255}
    graph: dict[str, Any] = {"1": {"class_type": "EmptyImage", "inputs": size}}
    for number, (class_type, inputs) in enumerate(chain, start=2):
        given = {"image": [str(number - 1), 0], **inputs}
        graph[str(number)] = {"class_type": class_type, "inputs": given}
    save = {"images": [str(len(graph)), 0], "filename_prefix": f"{name}/x"}
    return EnginePrompt(name, {**graph, "9": {"class_type": "SaveImage", "inputs": save}}, **limits)
