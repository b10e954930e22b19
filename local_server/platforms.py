"""Which adapter an image is to run, told from the environment that its platform gives it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# SaladCloud gives every container all of these.
_SALAD = (
    *("SALAD_MACHINE_ID", "SALAD_INSTANCE_ID"),
    *("SALAD_CONTAINER_GROUP_ID", "SALAD_CONTAINER_GROUP_NAME"),
    *("SALAD_ORGANIZATION_ID", "SALAD_ORGANIZATION_NAME"),
    *("SALAD_PROJECT_ID", "SALAD_PROJECT_NAME"),
)
_TRUE = frozenset({"true", "1", "yes", "on"})
# What RunPod's load balancer calls where the endpoint names no PORT.
_BALANCED_PORT = 80


@dataclass(frozen=True, slots=True)
class Choice:
    """An adapter, and why it is that one.

    Attributes:
        adapter: http, runpod, salad or modal.
        port: what the HTTP server listens on where PORT is not set; None for its usual one.
    """

    adapter: str
    reason: str
    port: int | None = None

    @property
    def balanced(self) -> bool:
        """Whether it is served behind RunPod's load balancer."""
        return self.adapter == "http" and self.port is not None


def choose(environ: Mapping[str, str], asked: str = "auto") -> Choice:
    """Choose the adapter; an empty variable is none.

    Args:
        asked: ADAPTER; anything but `auto` wins.
    """
    given = {name for name, text in environ.items() if text.strip()}
    locally = environ.get("SERVE_API_LOCALLY", "").strip().lower() in _TRUE
    found = _found(given, locally)
    if asked != "auto":
        return Choice(asked, f"ADAPTER={asked}", found.port if asked == "http" else None)
    return found


def _found(given: set[str], locally: bool) -> Choice:
    if "RUNPOD_WEBHOOK_GET_JOB" in given:
        return Choice("runpod", "RUNPOD_WEBHOOK_GET_JOB is set: a worker of a RunPod queue")
    if locally:
        return Choice("runpod", "SERVE_API_LOCALLY is true: the local API of RunPod's SDK")
    if "RUNPOD_ENDPOINT_ID" in given:
        why = "RUNPOD_ENDPOINT_ID is set, RUNPOD_WEBHOOK_GET_JOB is not"
        return Choice("http", f"{why}: a load-balancing endpoint of RunPod", _BALANCED_PORT)
    if "RUNPOD_POD_ID" in given:
        return Choice("http", "RUNPOD_POD_ID is set: a RunPod pod, which has no queue")
    for name in _SALAD:
        if name in given:
            return Choice("salad", f"{name} is set: a container of SaladCloud")
    if "MODAL_TASK_ID" in given:
        return Choice("modal", "MODAL_TASK_ID is set: a container of Modal")
    return Choice("http", "no platform's variables are set")
