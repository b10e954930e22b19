"""What can be wrong with a manifest, and with carrying it out."""

from __future__ import annotations

from dataclasses import dataclass

from handler.errors import BootFailed


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong with a manifest's text.

    Attributes:
        line: counted from 1; 0 where no line is to blame.
        path: dotted path of the entry, `models.before_start[0].url`; empty for the whole.
    """

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = ", ".join(
            part for part in (f"line {self.line}" * bool(self.line), self.path) if part
        )
        return f"{where}: {self.message}" if where else self.message


class ManifestInvalid(BootFailed):
    """The manifest cannot be used; `faults` lists everything that is wrong with it."""

    default_blame = "image"

    def __init__(self, source: str, faults: list[Fault]) -> None:
        self.faults = tuple(sorted(faults))
        listed = "".join(f"\n  {fault}" for fault in self.faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        details = [{"line": f.line, "path": f.path, "message": f.message} for f in self.faults]
        super().__init__(f"{source} has {count}:{listed}", details=details)


class InstallFailed(BootFailed):
    """A step of the manifest could not be carried out: a command failed, or would do harm."""

    default_blame = "image"
