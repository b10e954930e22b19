"""Takes values out of a tree by their type, and collects every fault instead of stopping at one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from handler.graph.nearest import nearest
from handler.manifest.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.manifest.document import Entry

T = TypeVar("T")
_SHOWN = 80


class Reader:
    """Reads one entry and what is below it. Whatever does not fit is told and left out.

    Attributes:
        faults: shared by all readers of a document.
    """

    def __init__(self, entry: Entry, path: str, faults: list[Fault]) -> None:
        self.entry = entry
        self.path = path
        self.faults = faults

    @property
    def line(self) -> int:
        """Where the entry stands."""
        return self.entry.line

    @property
    def empty(self) -> bool:
        """Whether the key is there without a value, as in `pip:`."""
        return self.entry.value is None

    def fault(self, message: str) -> None:
        """Note that something is wrong here."""
        self.faults.append(Fault(self.line, self.path, message))

    def keys(self, *known: str) -> dict[str, Reader]:
        """Give the values of a mapping by key, those without a value left out."""
        if self.empty:
            return {}
        if not isinstance(self.entry.value, dict):
            self.fault(f"must be a mapping with keys, not {_kind(self.entry)}")
            return {}
        found = {}
        for name, inner in self.entry.value.items():
            below = self._below(inner, f".{name}" if self.path else name)
            if known and name not in known:
                near = nearest(name, known, limit=2)
                hint = (
                    f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
                )
                below.fault(f"is no key here; {hint}")
            elif not below.empty:
                found[name] = below
        return found

    def items(self) -> list[Reader]:
        """Give the members of a list; a missing value is an empty list."""
        if self.empty:
            return []
        if not isinstance(self.entry.value, list):
            self.fault(f"must be a list, not {_kind(self.entry)}")
            return []
        return [self._below(inner, f"[{at}]") for at, inner in enumerate(self.entry.value)]

    def text(self) -> str | None:
        """Give a text, as it is written: `1.10` stays `1.10`."""
        value = self.entry.value
        if isinstance(value, (dict, list, bool)) or value is None:
            self.fault(f"must be a text, not {_kind(self.entry)}")
            return None
        text = self.entry.text.strip()
        if not text or any(ord(letter) < 32 for letter in text):
            self.fault("must be a text of one line, and not empty")
            return None
        return text

    def flag(self) -> bool:
        """Give true or false."""
        if not isinstance(self.entry.value, bool):
            self.fault(f"must be true or false, not {_kind(self.entry)}")
            return False
        return self.entry.value

    def number(self, *, whole: bool = False) -> float | None:
        """Give a number above 0."""
        value = self.entry.value
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
            self.fault(f"must be a {'whole ' * whole}number above 0, not {_kind(self.entry)}")
            return None
        return value

    def choice(self, *words: str) -> str | None:
        """Give one of some words."""
        text = self.text()
        if text is not None and text not in words:
            self.fault(f"must be {' or '.join(words)}, not {text!r}")
            return None
        return text

    def parsed(self, parse: Callable[[str], T]) -> T | None:
        """Give what `parse` makes of a text; its ValueError is the fault."""
        text = self.text()
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.fault(f"{_shown(text)!r} {error}")
            return None

    def texts(self, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Give a list of what `parse` makes of each text."""
        found = (item.parsed(parse) for item in self.items())
        return tuple(value for value in found if value is not None)

    def _below(self, inner: Entry, step: str) -> Reader:
        return Reader(inner, self.path + step, self.faults)


def _shown(text: str) -> str:
    text = _without_secrets(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _without_secrets(text: str) -> str:
    head, mark, tail = text.partition("://")
    if not mark:
        return text
    secret, at, rest = tail.partition("@")
    if at and "/" not in secret:  # user and password of an address
        tail = f"...@{rest}"
    address, question, _ = tail.partition("?")  # and tokens in its query
    return f"{head}://{address}{question}{'...' * bool(question)}"


def _kind(entry: Entry) -> str:
    value: Any = entry.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value is None else repr(_shown(entry.text))
