"""What `comfyfn run` tells of the outputs that it saved, and of how they compare."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from handler.wire import Answer
    from local_server.remote.result import Saved

LARGEST_TEXT_SHOWN = 2000


def tell(saved: Saved) -> None:
    """Show a text on stderr, a path or a URL on stdout."""
    from local_server.cli.plain import plain

    if saved.text is not None:
        print(plain(f"{saved.title}: {saved.text[:LARGEST_TEXT_SHOWN]}"), file=sys.stderr)
    elif saved.path is not None:
        print(saved.path)
    else:
        name = saved.facts.get("filename") or "an output"
        print(plain(f"{name} is stored where it is not ours to fetch"), file=sys.stderr)
        print(plain(saved.url))


def save(answer: Answer, folder: Path) -> list[Saved]:
    """Copy the outputs to a folder, under new names where theirs are taken; print the paths."""
    import shutil

    from local_server.remote.result import Saved, free_name

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for output in answer.outputs:
        target = None
        if output.path is not None:
            target = free_name(folder, output.filename.removeprefix(f"{answer.job_id}_"))
            shutil.copyfile(output.path, target)
        found.append(Saved(output.public(), path=target, url=output.url))
        tell(found[-1])
    return found


def compare(expected: Collection[dict[str, Any]], saved: list[Saved]) -> None:
    """Tell whether a job that ran again gave the same."""
    from local_server.cli.plain import plain
    from local_server.remote.compare import differences

    lines = differences(list(expected), saved)
    if lines is None:
        print("compared with nothing: the captured job has no hashes", file=sys.stderr)
    elif not lines:
        print("the same outputs as captured", file=sys.stderr)
    for line in lines or ():
        print(plain(f"differs: {line}"), file=sys.stderr)
