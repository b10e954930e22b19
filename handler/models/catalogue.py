"""What graphs may call the operator's models: names, aliases and file names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.models.publish import NameTaken

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from handler.models.records import ModelSource, Named, Stored

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

    def find_url(self, url: str, folders: Collection[str]) -> Named | None:
        """Give the model for those folders that the operator fetches from a URL."""
        every = (named for same in self._by_name.values() for named in same)
        return next((n for n in every if url in n.urls and _folder(n) in folders), None)

    def check_free(self, folder: str, name: str, source: ModelSource, stored: Stored) -> None:
        """Keep callers from putting another file where a model of the operator's is expected.

        Raises:
            NameTaken: graphs call one so, and this is not it as far as one can tell.
        """
        for named in self._by_name.get(name, ()):
            if _folder(named) == folder and not source.operator and not _is(named, source, stored):
                raise NameTaken(
                    f"{folder}/{name} is the name of a model of the manifest",
                    hint="give another `filename`; graphs get that model by its name",
                )

    def names_in(self, folders: Collection[str]) -> list[str]:
        """List the names of models for those folders."""
        return [
            name
            for name, found in self._by_name.items()
            if any(_folder(named) in folders for named in found)
        ]


def _is(named: Named, source: ModelSource, stored: Stored) -> bool:
    if named.size not in {None, stored.bytes}:
        return False
    # What is sent along may have the operator's URL lead elsewhere.
    plain = source.auth is None and source.url in named.urls
    return plain or (named.sha256 is not None and stored.key == f"sha256-{named.sha256}")


def _folder(named: Named) -> str:
    return LEGACY.get(named.folder, named.folder)
