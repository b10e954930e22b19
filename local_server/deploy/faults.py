"""What can be wrong with a deploy.yaml, and with carrying it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.errors import HandlerError

if TYPE_CHECKING:
    from handler.manifest.faults import Fault


class DeployFailed(HandlerError):
    """Nothing, or not all, was deployed; `hint` says what to do."""

    code = "deploy_failed"
    status = 400
    default_blame = "caller"


class DocumentInvalid(DeployFailed):
    """The deploy.yaml cannot be used; `faults` lists everything that is wrong with it."""

    def __init__(self, source: str, faults: list[Fault]) -> None:
        self.faults = tuple(sorted(faults))
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        listed = "".join(f"\n  {fault}" for fault in self.faults)
        super().__init__(f"{source} has {count}:{listed}")
