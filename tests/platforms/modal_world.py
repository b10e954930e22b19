"""Modal as a test needs it: the double, the real CLI, containers and a user's program."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from live import COMFY_HOME, COMFY_PYTHON, REPO, free_port
from platforms.modal_container import Container
from platforms.modal_double import ModalDouble

if TYPE_CHECKING:
    from collections.abc import Mapping

APP = "adapters/modal_app.py"
MODAL = Path(sys.executable).with_name("modal")


def settings_in(home: Path, engine: str = "embedded") -> dict[str, str]:
    """Give the settings of a worker whose folders are all in one place."""
    env = {
        "INPUT_DIR": str(home / "input"),
        "OUTPUT_DIR": str(home / "output"),
        "WORK_DIR": str(home / "work"),
        "STATE_DIR": str(home / "worker-state"),
        "COMFYUI_PORT_HOST": str(free_port()),
        "LOG_FORMAT": "text",
        "LOG_LEVEL": "debug",
        "DRAIN_TIMEOUT_S": "5",
    }
    if engine == "embedded":
        return {**env, "ENGINE": "embedded", "COMFYFN_TEST_FAULTS": "true"}
    env |= {"ENGINE": "comfyui", "COMFY_HOME": COMFY_HOME, "ALLOW_CPU": "true"}
    return {**env, "COMFY_PYTHON": COMFY_PYTHON or "", "MODEL_DIR": "", "CACHE_DIR": ""}


class World:
    """`with World(home) as world: world.deploy(); world.container(); world.remote(payload)`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.modal = ModalDouble(home)
        self.containers: list[Container] = []
        self.seen: dict[str, Any] = {}
        self._client: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.modal.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close_client()
        for container in self.containers:
            container.close()
        self.modal.__exit__()

    # -- the command line -------------------------------------------------------------------------

    def cli(self, *words: str, **knobs: str) -> subprocess.CompletedProcess[str]:
        """Run the real `modal`."""
        return subprocess.run(
            [MODAL, *words],
            cwd=REPO,
            env={**self._env(), **knobs},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def deploy(
        self, settings: Mapping[str, str] | None = None, **knobs: str
    ) -> subprocess.CompletedProcess[str]:
        """Deploy the app; settings are those of its containers."""
        said = self.cli("deploy", APP, **self.knobs(settings, **knobs))
        assert said.returncode == 0, said.stdout + said.stderr
        return said

    def knobs(self, settings: Mapping[str, str] | None = None, **knobs: str) -> dict[str, str]:
        """Give the variables of a deployment whose Volumes are folders of ours."""
        told = {"COMFYFN_VOLUMES": str(self.home / "vol"), **knobs}
        if settings is not None:
            told["COMFYFN_ENV"] = shlex.join(f"{k}={v}" for k, v in settings.items())
        for name in ("models", "state"):
            (self.home / "vol" / name).mkdir(parents=True, exist_ok=True)
        return told

    def _env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}
        return {"PATH": os.environ["PATH"], "COLUMNS": "200", **kept, **self.modal.env()}

    # -- containers -------------------------------------------------------------------------------

    def container(self, name: str = "one", **options: Any) -> Container:
        """Start a container."""
        found = Container(self.modal, self.home / name, **options).start()
        self.containers.append(found)
        return found

    def start_when_called(self) -> None:
        """Have a container of a function started with its first call."""
        started: set[str] = set()

        def start(function_id: str) -> None:
            if function_id not in started:
                started.add(function_id)
                name = self.modal.functions[function_id].function_name
                self.container(name.strip(".*"), function=name)

        self.modal.on_call = start

    # -- a user's program -------------------------------------------------------------------------

    def client(self, what: str, given: Any = None, **more: Any) -> Any:
        """Have the user's program ask something, and give what it tells."""
        if self._client is None:
            command = [sys.executable, Path(__file__).with_name("modal_client.py"), "comfyfn"]
            with (self.home / "client.log").open("ab") as sink:
                self._client = subprocess.Popen(
                    command,
                    env=self._env(),
                    cwd=self.home,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=sink,
                    text=True,
                )
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(json.dumps({"what": what, "given": given, **more}) + "\n")
        self._client.stdin.flush()
        line = self._client.stdout.readline()
        assert line, (self.home / "client.log").read_text()
        return json.loads(line)

    def close_client(self) -> None:
        """End the user's program."""
        if self._client is not None:
            self._client.communicate(timeout=20)
            self._client = None
