"""Which known names are near to one that is not known: for "did you mean" in answers."""

from __future__ import annotations

import difflib
import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_COMPARED_CHARS = 120
"""difflib is quadratic, and a value may be a whole base64 file."""

CUTOFF = 0.6
"""How like a name has to be, 0..1; difflib's own default."""

_SHORTLIST = 150


def leaf(name: str) -> str:
    """Give the last part of a path with slashes of either kind."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def extension(name: str) -> str:
    """Give the lower-case extension without dot, of at most 11 characters, else an empty text."""
    _, dot, ext = leaf(name).rpartition(".")
    return ext.lower() if dot and 0 < len(ext) < 12 and ext.isalnum() else ""


def stem(name: str) -> str:
    """Give the leaf without its extension."""
    last = leaf(name)
    ext = extension(last)
    return last[: -len(ext) - 1] if ext else last


def nearest(
    name: str, candidates: Iterable[str], *, limit: int = 5, cutoff: float = CUTOFF
) -> tuple[str, ...]:
    """Give the candidates most like `name`, best first, at most `limit`; often none.

    Case does not count. File names are compared by their stem as well, so that a missing
    folder, a wrong slash or another extension still finds the file.
    """
    wanted = name[:MAX_COMPARED_CHARS].casefold()
    if not wanted.strip():
        return ()
    whole, stems = _Scorer(wanted, cutoff), _Scorer(stem(wanted), cutoff)
    scored = []
    for candidate in _shortlist(wanted, list(candidates)):
        folded = candidate[:MAX_COMPARED_CHARS].casefold()
        score = whole.ratio(folded)
        if score < 1.0 and (extension(folded) or extension(wanted)):
            # A little less than an equal name, so that `x.ckpt` does not outdo `x.safetensors`.
            score = max(score, 0.99 * stems.ratio(stem(folded)))
        if score >= cutoff:
            scored.append((-score, candidate))
    scored.sort()
    return tuple(candidate for _, candidate in scored[:limit])


def _shortlist(wanted: str, candidates: list[str]) -> list[str]:
    """Keep those with most letter triples in common: difflib takes 0.1 ms for each."""
    if len(candidates) <= _SHORTLIST:
        return candidates
    known = _triples(wanted)

    def common(candidate: str) -> float:
        triples = _triples(candidate[:MAX_COMPARED_CHARS].casefold())
        return len(known & triples) / (len(known) + len(triples))

    return heapq.nlargest(_SHORTLIST, candidates, key=common)


def _triples(text: str) -> set[str]:
    return {text[at : at + 3] for at in range(max(1, len(text) - 2))}


class _Scorer:
    """Compares one text with many; difflib keeps what it knows of the second."""

    def __init__(self, text: str, cutoff: float) -> None:
        self._cutoff = cutoff
        self._matcher = difflib.SequenceMatcher(autojunk=False)
        self._matcher.set_seq2(text)
        self._length = len(text)

    def ratio(self, other: str) -> float:
        """Give 0..1; 0 for what cannot reach the cutoff, without the costly comparison."""
        # The upper bound by length alone, as `real_quick_ratio` has it, without its call.
        total = len(other) + self._length
        if not total or 2 * min(len(other), self._length) < self._cutoff * total:
            return 0.0
        self._matcher.set_seq1(other)
        return self._matcher.ratio() if self._matcher.quick_ratio() >= self._cutoff else 0.0


class Suggestions:
    """Looks for near names a limited number of times: each look may take milliseconds.

    Args:
        budget: looks; after them nothing is near.
    """

    def __init__(self, budget: int) -> None:
        self._left = budget

    def near(
        self, name: object, candidates: Iterable[object], *, cutoff: float = CUTOFF
    ) -> tuple[str, ...]:
        """Give the nearest of those candidates that are texts; none for what is no text."""
        if not isinstance(name, str) or self._left <= 0:
            return ()
        self._left -= 1
        texts = [candidate for candidate in candidates if isinstance(candidate, str)]
        return nearest(name, texts, cutoff=cutoff)
