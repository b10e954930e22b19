"""The way to the engine's folders: on the same disk, or through its HTTP routes when attached."""

from __future__ import annotations

import shutil
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from handler.errors import EngineRefused
from handler.records import JOBS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from handler.engine.client import ComfyClient
    from handler.engine.command import Folders


class EngineFiles:
    """A job's inputs and outputs, in a folder of the job's own in each of the engine's."""

    def __init__(self, folders: Folders, client: ComfyClient) -> None:
        self._folders = folders
        self._client = client
        self._resolved: dict[Path, Path] = {}

    @property
    def shared(self) -> bool:
        """Whether the engine's folders are on this machine."""
        return self._folders.shared

    @property
    def input_root(self) -> Path:
        """The input folder, with the files that were there before any job."""
        return self._folders.input

    def is_of_a_job(self, path: Path) -> bool:
        """Tell whether a path lies in a job's folder: such files are the job's own business."""
        roots = (self._folders.input, self._folders.output)
        return any(path.is_relative_to((root / JOBS_FOLDER).resolve()) for root in roots)

    def inputs_of(self, uid: str) -> Path:
        """Name the folder that a job's inputs are written to."""
        return self._folders.input / JOBS_FOLDER / uid

    def outputs_of(self, uid: str) -> Path | None:
        """Name the folder of a job's outputs; None where it is out of reach."""
        return self._folders.output / JOBS_FOLDER / uid if self.shared else None

    async def publish(self, path: Path) -> str:
        """Make a file below the input folder known; give the name that nodes load it by.

        Raises:
            EngineRefused, EngineDied: an attached engine did not take the upload.
        """
        name = path.relative_to(self._folders.input)
        if self.shared:
            return name.as_posix()
        folder = name.parent.as_posix()
        stored = await self._client.upload(path, path.name, folder, overwrite=True)
        return stored if "/" in stored else f"{folder}/{stored}"

    async def open(self, item: Mapping[str, Any], into: Path) -> Path:
        """Give a path to the bytes of `{"filename", "subfolder", "type"}`.

        Args:
            into: where the file goes if it must be fetched.

        Raises:
            EngineRefused: the engine announced a file that is not there.
        """
        filename, kind = str(item["filename"]), str(item.get("type") or "output")
        subfolder = str(item.get("subfolder") or "")
        if not self.shared:
            target = into / kind / subfolder / PurePosixPath(filename).name
            if not target.resolve().is_relative_to(into.resolve()):
                raise EngineRefused(
                    f"the engine named an output outside of its folder: {subfolder}"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            await self._client.view(filename, subfolder, kind, target)
            return target
        path = self.locate(item)
        if path is None or not path.is_file():
            raise EngineRefused(
                f"ComfyUI announced {kind} file {subfolder}/{filename}, which is not there",
                hint="does ComfyUI write where OUTPUT_DIR says?",
            )
        return path

    def locate(self, item: Mapping[str, Any]) -> Path | None:
        """Name the place of an announced file; None outside of the engine's folders."""
        kind = str(item.get("type") or "output")
        where = self._folders
        root = {"temp": where.temp, "input": where.input}.get(kind, where.output)
        path = (root / str(item.get("subfolder") or "") / str(item["filename"])).resolve()
        return path if path.is_relative_to(self._real(root)) else None

    def is_of(self, uid: str, path: Path) -> bool:
        """Tell whether a path that `locate` gave lies in the folder of a job's outputs."""
        return path.is_relative_to(self._real(self._folders.output) / JOBS_FOLDER / uid)

    def _real(self, root: Path) -> Path:
        """Resolve one of the engine's folders; once, since each look costs a part of a job."""
        real = self._resolved.get(root)
        if real is None:
            real = root.resolve()
            if root.exists():
                self._resolved[root] = real
        return real

    def forget(self, uid: str) -> None:
        """Remove a job's folders."""
        for root in (self._folders.input, self._folders.output):
            # Small and local: a thread would cost more than the work.
            shutil.rmtree(root / JOBS_FOLDER / uid, ignore_errors=True)
