"""Who answers: the instance and the adapter that it works behind."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field


@dataclass(slots=True)
class Identity:
    """This worker, as answers and figures name it.

    Attributes:
        instance: the host's name where the platform gives no other.
        adapter: whom it serves first: `http`, `runpod`, `modal`. A job may come another way.
    """

    instance: str = field(default_factory=socket.gethostname)
    adapter: str = "http"

    def renew(self, instance: str = "") -> None:
        """Take another name: a snapshot of this process is restored on another host."""
        self.instance = instance or socket.gethostname()
