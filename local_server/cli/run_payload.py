"""What `comfyfn run` runs: a workflow file, an endpoint by its name, or a captured job."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to run.

    Attributes:
        expected: what a captured job gave the first time.
    """

    payload: dict[str, Any]
    expected: list[dict[str, Any]] = field(default_factory=list)


def wanted(options: argparse.Namespace, stored: Path | None) -> Wanted:
    """Read what the options name.

    Args:
        stored: the engine's input folder, None where it is out of reach.

    Raises:
        InvalidPayload, InvalidWorkflow: it cannot be read, or is no job.
    """
    from handler.errors import InvalidPayload
    from local_server.bundled import SAMPLE, bundled
    from local_server.cli.workflow_file import read_graph

    named = [options.graph, options.workflow, options.replay]
    if sum(one is not None for one in named) > 1:
        raise InvalidPayload("run a file, or --workflow NAME, or --replay FILE: one of them")
    if options.replay is not None:
        return _replayed(options)
    if options.workflow is not None:
        return Wanted({"workflow": options.workflow, "input": endpoint_input(options.input)})
    path = Path(options.graph) if options.graph else bundled(SAMPLE)
    return Wanted({"prompt": read_graph(path, options.input, stored)})


def _replayed(options: argparse.Namespace) -> Wanted:
    from handler.errors import InvalidPayload
    from local_server.remote.capture import read_captured

    if options.input:
        raise InvalidPayload("--replay runs a job as it was: -i does not go with it")
    captured = read_captured(Path(options.replay))
    if captured.dropped:
        names = ", ".join(captured.dropped)
        print(f"not sent again: {names} (the outputs come here)", file=sys.stderr)
    return Wanted(captured.payload, captured.expected)


def endpoint_input(changes: list[str]) -> dict[str, Any]:
    """Read the parameters of an endpoint's call, `KEY=VALUE` each.

    Raises:
        InvalidPayload: one is none.
    """
    from handler.errors import InvalidPayload
    from local_server.cli.workflow_file import given_value

    given = {}
    for change in changes:
        key, mark, text = change.partition("=")
        if not mark or not key:
            raise InvalidPayload(f"-i {change}: write it as KEY=VALUE for an endpoint")
        given[key] = given_value(text)
    return given
