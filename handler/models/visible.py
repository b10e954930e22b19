"""Whether the engine sees a file: asked of the engine, never concluded from our own writing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from handler.engine.base import EngineState
from handler.errors import HandlerError, InputFailed, InternalFault
from handler.graph.file_kinds import is_model_name
from handler.graph.model_inputs import PROBE_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    from handler.engine.base import Engine
    from handler.graph.model_inputs import ModelInput

log = logging.getLogger("comfyfn.models")

# Lists are read anew when a folder's time changes, and that may be coarse.
PAUSES_S = (0.0, 0.05, 0.25, 1.0)
# Kinds that only some folders list, as those of node packs; what we know no kind of is `.bin`.
_SOME_FOLDERS = frozenset({".gguf", ".yaml", ".onnx", ".engine", ".bin"})


async def make_visible(engine: Engine, want: ModelInput, folder: str, path: Path) -> None:
    """Make sure that a node's list has a file that was just put into a model folder.

    An engine that is down meanwhile lists all files anew when it is back.

    Args:
        path: the file; its name there is told by the folders of the engine.

    Raises:
        InternalFault: the engine does not see it; InputFailed where such a file is no model.
    """
    name = await _listed_name(engine, folder, path)
    if await has_choice(engine, want, name):
        return  # it was there before
    for pause in PAUSES_S:
        await _nudged(path, pause)
        try:
            if await _is_seen(engine, want, folder, name):
                return
        except HandlerError as fault:
            log.info("the engine cannot be asked for %s now: %s", name, fault)
        if engine.state is EngineState.RESTARTING:
            return
    raise _unseen(
        f'{want.class_type} does not list "{name}" of the model folder {folder} ({path})',
        f"does its input {want.input} take files that end with {path.suffix or 'nothing'}?",
        path,
    )


def _unseen(message: str, hint: str, path: Path) -> HandlerError:
    """A name that no folder lists is the caller's; one that is not seen all the same is not."""
    if is_model_name(path.name) and path.suffix.lower() not in _SOME_FOLDERS:
        return InternalFault(message, hint=hint)
    return InputFailed(message, hint=hint)


async def _is_seen(engine: Engine, want: ModelInput, folder: str, name: str) -> bool:
    if want.place and isinstance(want.place[-1], str):  # in an object that no class declares
        return name in await engine.models_in(folder)
    await engine.refresh_class(want.class_type)
    return await has_choice(engine, want, name)


async def make_listed(engine: Engine, folder: str, path: Path) -> None:
    """Make sure that the engine lists a file that was just put into a model folder.

    Raises:
        InternalFault: it does not; InputFailed where such a file is no model.
    """
    name = await _listed_name(engine, folder, path)
    for pause in PAUSES_S:
        if pause:
            await _nudged(path, pause)
        if name in await engine.models_in(folder):
            return
    raise _unseen(
        f'the engine does not list "{name}" in the model folder {folder} ({path})',
        f"does the folder take files that end with {path.suffix or 'nothing'}?",
        path,
    )


async def find_folder(engine: Engine, want: ModelInput, suffix: str) -> str | None:
    """Find out which of several folders an input lists: by an empty file in each, for a moment.

    Args:
        suffix: what a model's name ends with, `.safetensors`.

    Returns:
        None where the input lists none of them.

    Raises:
        HandlerError: the engine does not answer.
    """
    folders = await engine.model_folders()
    mark = f"{PROBE_PREFIX}{uuid.uuid4().hex[:12]}"
    probes: dict[str, Path] = {}
    try:
        for index, name in enumerate(want.folders):
            root = folders.writable(name)
            if root is not None:
                with contextlib.suppress(OSError):
                    root.mkdir(parents=True, exist_ok=True)
                    path = root / f"{mark}-{index}{suffix}"
                    path.touch()
                    probes[name] = path
        for pause in PAUSES_S[:-1]:
            await asyncio.sleep(pause)
            await engine.refresh_class(want.class_type)
            for name, path in probes.items():
                if await has_choice(engine, want, path.name):
                    log.info("input %s of %s lists %s", want.input, want.class_type, name)
                    return name
        return None
    finally:
        for path in probes.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        with contextlib.suppress(HandlerError):  # the probe is no choice any more
            await engine.refresh_class(want.class_type)


async def has_choice(engine: Engine, want: ModelInput, name: str) -> bool:
    """Tell whether the input's choices, as last read, have a name."""
    spec = (await engine.object_info()).node(want.class_type)
    declared = spec.inputs.get(want.input) if spec else None
    return declared is not None and declared.has_choice(name)


def model_suffix(url: str) -> str:
    """Give the ending of a URL's path where it is one of model files, else `.safetensors`."""
    name = url.partition("?")[0].partition("#")[0]
    return PurePosixPath(name).suffix.lower() if is_model_name(name) else ".safetensors"


async def _listed_name(engine: Engine, folder: str, path: Path) -> str:
    for root in (await engine.model_folders()).paths.get(folder, ()):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name


async def _nudged(path: Path, pause: float) -> None:
    """Wait, and change the folder's time: the engine looks at nothing else."""
    if pause:
        await asyncio.sleep(pause)
        with contextlib.suppress(OSError):
            os.utime(path.parent)
