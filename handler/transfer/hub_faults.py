"""What the faults of huggingface_hub mean."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from handler.errors import InputFailed
from handler.transfer.base import AccessDenied
from handler.transfer.http_line import passing
from handler.transfer.room import is_storing_fault

if TYPE_CHECKING:
    from collections.abc import Iterator


class Left(Exception):
    """The download was cancelled; the way out of the library's reading loop."""


class Elsewhere(Exception):
    """There is no such revision, or no such file in it; the next choice may be right."""

    def __init__(self, told: InputFailed) -> None:
        super().__init__(told.message)
        self.told = told


@contextlib.contextmanager
def final() -> Iterator[None]:
    """Tell what is not there as such, where no other choice is left."""
    try:
        yield
    except Elsewhere as fault:
        raise fault.told from fault


@contextlib.contextmanager
def translated(repo: str, kind: str, revision: str, path: str) -> Iterator[None]:
    """Turn the library's faults into ours."""
    from huggingface_hub import errors

    name = f"{path} of {repo} at {revision}"
    page = f"https://huggingface.co/{'' if kind == 'model' else kind + 's/'}{repo}"
    try:
        yield
    except (InputFailed, Left):
        raise
    except errors.GatedRepoError as fault:
        raise AccessDenied(
            f"{repo} is gated: its licence has to be accepted first",
            hint=f"open {page}, accept the licence, and set HF_TOKEN or send `credentials` of "
            "type bearer of that account",
            details={"licence_page": page},
        ) from fault
    except errors.LocalEntryNotFoundError as fault:
        # Of the family of the next one, and yet: the hub was asked and did not answer.
        raise passing(f"{name}: the hub cannot be reached") from fault
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as fault:
        raise Elsewhere(InputFailed(f"there is no {name}", details={"status": 404})) from fault
    except errors.RepositoryNotFoundError as fault:
        raise AccessDenied(
            f"{repo} is not there, or is private",
            hint=f"look at {page}; for a private one set HF_TOKEN or send `credentials` of type "
            "bearer",
        ) from fault
    except errors.HfHubHTTPError as fault:
        raise _http_fault(name, fault) from fault
    except errors.HFValidationError as fault:
        raise InputFailed(f"{repo} is no name of a repository") from fault
    except OSError as fault:
        if is_storing_fault(fault):
            raise
        raise passing(f"{name}: the hub cannot be reached") from fault
    except Exception as fault:
        # The library's HTTP client has changed twice; its faults have no common root.
        raise passing(f"{name}: the hub cannot be reached ({type(fault).__name__})") from fault


def _http_fault(name: str, fault: Any) -> InputFailed:
    status = int(getattr(fault.response, "status_code", 0) or 0)
    details = {"status": status}
    if status in {401, 403}:
        return AccessDenied(
            f"{name}: {status}",
            hint="set HF_TOKEN or send `credentials` of type bearer",
            details=details,
        )
    if status == 429 or status >= 500 or not status:
        return passing(f"{name}: {status}", **details)
    return InputFailed(f"{name}: {status}", details=details)
