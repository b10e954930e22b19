"""What graphs may call the operator's models: names, aliases and file names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from handler.models.records import Named

# Older names of folders; the engine takes them, and tells the newer ones.
LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}


class Catalogue:
    """The operator's models by all that they may be called.

    Args:
        models: the same one may come several times.
    """

    def __init__(self, models: Iterable[Named]) -> None:
        self._by_name: dict[str, list[Named]] = {}
        for named in models:
            for name in (*named.names, named.filename):
                known = self._by_name.setdefault(name, [])
                if named not in known:
                    known.append(named)

    def __repr__(self) -> str:
        return f"<Catalogue {len(self._by_name)} names>"

    @property
    def names(self) -> Collection[str]:
        """Names, aliases and file names."""
        return self._by_name.keys()

    def find(self, name: str, folders: Collection[str]) -> Named | None:
        """Give the model that a name means, first of all one for those folders."""
        found = self._by_name.get(name, [])
        fitting = (named for named in found if _folder(named) in folders)
        return next(fitting, found[0] if found else None)

    def names_in(self, folders: Collection[str]) -> list[str]:
        """List the names of models for those folders."""
        return [
            name
            for name, found in self._by_name.items()
            if any(_folder(named) in folders for named in found)
        ]


def _folder(named: Named) -> str:
    return LEGACY.get(named.folder, named.folder)
