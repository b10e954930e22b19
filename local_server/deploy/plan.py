"""What is there, what is wanted, and the steps from the one to the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from local_server.deploy.faults import DeployFailed
from local_server.deploy.secret import MASK, Secret, revealed, secrets_in, shown, sounds_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_MOST_SHOWN = 100


class Action(StrEnum):
    """What a step does."""

    CREATE = "create"
    UPDATE = "update"
    KEEP = "no change"


class Operation(Protocol):
    """What a step sends."""

    def shown(self) -> str:
        """Give it whole, as it is sent, with secrets masked."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request that writes.

    Attributes:
        body: JSON; `Secret`s in it are sent as they are and shown masked.
    """

    method: str
    url: str
    body: Mapping[str, Any]
    content_type: str = "application/json"

    def shown(self) -> str:
        """Give method, address and body."""
        text = json.dumps(shown(self.body), indent=2, ensure_ascii=False)
        return f"{self.method} {self.url}\nContent-Type: {self.content_type}\n\n{text}"


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs.

    Attributes:
        before, after: as they may be shown; None where there is none.
    """

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.path}: {self.after}"
        return f"{self.path}: {self.before} -> {'(none)' if self.after is None else self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing of the platform.

    Attributes:
        subject: as `endpoint sdxl`.
        operation: None where nothing is to be done.
    """

    subject: str
    action: Action
    changes: tuple[Change, ...] = ()
    operation: Operation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All steps, in their order.

    Attributes:
        hints: what the deployer may want to know.
        close: tells, from the answer of each step that was sent by its subject, what is there now.
    """

    platform: str
    steps: tuple[Step, ...]
    hints: tuple[str, ...] = ()
    close: Callable[[Mapping[str, Any]], list[str]] = lambda _answers: []

    @property
    def pending(self) -> tuple[Step, ...]:
        """The steps that send something."""
        return tuple(step for step in self.steps if step.operation is not None)

    def table(self) -> str:
        """Write it for people."""
        width = max(len(step.action) for step in self.steps)
        lines = []
        for step in self.steps:
            lines.append(f"  {step.action.value:<{width}}  {step.subject}")
            lines += [f"  {'':<{width}}    {change}" for change in step.changes]
        lines += [f"  hint: {hint}" for hint in self.hints]
        return "\n".join((f"{self.platform}:", *lines))


def carry_out(
    plan: Plan, send: Callable[[Any], Any], tell: Callable[[str], None]
) -> dict[str, Any]:
    """Send what is pending, in order; give the answers by their subjects.

    Raises:
        DeployFailed: a step failed. Its text tells what was done before and what was not.
    """
    answers: dict[str, Any] = {}
    pending = plan.pending
    for at, step in enumerate(pending):
        try:
            answers[step.subject] = send(step.operation)
        except DeployFailed as error:
            raise _partway(error, pending, at) from error
        tell(f"{step.subject}: {step.action.value}d")
    return answers


def _partway(error: DeployFailed, pending: Sequence[Step], at: int) -> DeployFailed:
    done = [f"{step.subject} ({step.action.value}d)" for step in pending[:at]]
    failed, *left = (f"{step.subject} ({step.action.value})" for step in pending[at:])
    parts = [error.message, f"failed: {failed}"]
    parts.append(f"done before: {', '.join(done)}" if done else "nothing was done before it")
    if left:
        parts.append(f"not begun: {', '.join(left)}")
    again = "the same command can be run again: it goes on from what is there"
    hint = f"{error.hint}; {again}" if error.hint else again
    return DeployFailed("\n  ".join(parts), hint=hint, retryable=error.retryable)


def creation(wanted: Mapping[str, Any]) -> tuple[Change, ...]:
    """Give the changes of something new."""
    return tuple(
        Change(path, None, _text(path, value))
        for path, value in _leaves(wanted)
        if not _bare(value)
    )


def differences(
    wanted: Mapping[str, Any], found: Mapping[str, Any], path: str = ""
) -> tuple[Change, ...]:
    """Compare what is wanted with what is there.

    Only what is wanted is looked at: platforms tell more than they are given. Variables are
    compared as a whole: one that is not wanted any more is a difference.
    """
    changes: list[Change] = []
    for key, value in wanted.items():
        here = f"{path}.{key}" if path else key
        there = found.get(key)
        if key in ("env", "environment_variables"):
            changes += _variables(here, value, there or {})
        elif isinstance(value, dict) and value:
            changes += differences(value, there if isinstance(there, dict) else {}, here)
        elif not _same(value, there):
            changes.append(Change(here, _text(here, there) or "(none)", _text(here, value)))
    return tuple(changes)


def _variables(path: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Change]:
    """Compare variables. What they were is never shown: it may be a secret that was one before."""
    for name in sorted({*wanted, *found}):
        if name not in wanted:
            yield Change(f"{path}.{name}", "(set)", None)
        elif name not in found:
            yield Change(f"{path}.{name}", None, _text(name, wanted[name]))
        elif revealed(wanted[name]) != found[name]:
            yield Change(f"{path}.{name}", "(another value)", _text(name, wanted[name]))


def _bare(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _same(wanted: Any, found: Any) -> bool:
    if _bare(wanted) and _bare(found):
        return True
    wanted = revealed(wanted)
    if isinstance(wanted, list) and isinstance(found, list):
        return sorted(map(str, wanted)) == sorted(map(str, found))
    return bool(wanted == found)


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        here = f"{path}.{key}" if path else key
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, here)
        else:
            yield here, inner


def _text(path: str, value: Any) -> str | None:
    if _bare(value):
        return None
    if isinstance(value, Secret) or sounds_secret(path.rpartition(".")[2]):
        return MASK
    text = value if isinstance(value, str) else json.dumps(shown(value), ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def secrets_of(plan: Plan) -> set[str]:
    """Collect what must not be shown of a plan's requests."""
    bodies = (step.operation.body for step in plan.steps if isinstance(step.operation, Request))
    return set().union(*(secrets_in(dict(body)) for body in bodies))
