"""The model folders of the engine in memory: real folders, and classes that list them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handler.engine.model_folders import ModelFolders
from handler.errors import NotFound
from handler.graph.object_info import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class MemoryModels:
    """Lists what lies below a models folder.

    Args:
        root: the models folder; it need not be there.
        names: of the model folders in it.
        nodes: classes as `/object_info` tells them. A choice `@loras` stands for that folder's
            files.
    """

    def __init__(self, root: Path, names: Sequence[str], nodes: Mapping[str, Any]) -> None:
        self.folders = ModelFolders({name: (root / name,) for name in names}, root)
        self.nodes = dict(nodes)
        self.info = ObjectInfo({name: self._listed(entry) for name, entry in nodes.items()})
        self._root = root

    def files_in(self, folder: str) -> list[str]:
        """List the files of a folder, as far as their names have an ending.

        Raises:
            NotFound: there is no such folder.
        """
        for root in self.folders.paths.get(folder, ()):
            files = (path for path in root.rglob("*") if path.is_file() and path.suffix)
            return sorted(path.relative_to(root).as_posix() for path in files)
        raise NotFound(f"there is no model folder {folder}")

    def refresh(self, class_type: str) -> None:
        """Read one class anew."""
        entry = self.nodes.get(class_type)
        self.info.replace(class_type, self._listed(entry) if entry else {})

    def _listed(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        sections = entry.get("input", {})
        inputs = {
            section: {name: self._with_files(spec) for name, spec in declared.items()}
            for section, declared in sections.items()
        }
        return {**entry, "input": inputs}

    def _with_files(self, spec: list[Any]) -> list[Any]:
        if not (spec and isinstance(spec[0], list)):
            return spec
        choices: list[Any] = []
        for choice in spec[0]:
            is_folder = isinstance(choice, str) and choice.startswith("@")
            choices += self.files_in(choice[1:]) if is_folder else [choice]
        return [choices, *spec[1:]]
