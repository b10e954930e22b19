"""A container of Modal, as a process: the client package's own entrypoint behind our double."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from live import REPO, children
from modal_proto import api_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from platforms.modal_double import ModalDouble


class Container:
    """One container of a function.

    Args:
        function: by name, `Worker.*`.
        snapshot: take a snapshot after the hooks that come before it; it is restored at once, in
            the same process.
        held: not at once, but when `restore` is called.
    """

    def __init__(
        self,
        modal: ModalDouble,
        home: Path,
        function: str = "Worker.*",
        *,
        snapshot: bool = False,
        held: bool = False,
        **env: str,
    ) -> None:
        self.modal = modal
        self.function_id = modal.named(function)
        self.definition = api_pb2.Function()
        self.definition.CopyFrom(modal.functions[self.function_id])
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "container.log"
        self.env = self._environment(env, snapshot=snapshot)
        self.process: subprocess.Popen[bytes] | None = None
        if snapshot and not held:
            self.restore()

    def _environment(self, more: Mapping[str, str], *, snapshot: bool) -> dict[str, str]:
        arguments = self.home / "arguments.bin"
        if snapshot:
            self.definition.is_checkpointing_function = True
        arguments.write_bytes(self._arguments(snapshot).SerializeToString())
        values = {
            name: text
            for secret_id in self.definition.secret_ids
            for name, text in self.modal.secret_values[secret_id].items()
        }
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            # Modal puts the app's file beside our packages.
            "PYTHONPATH": f"{REPO}:{REPO / 'adapters'}",
            "PYTHONUNBUFFERED": "1",
            **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
            **values,
            "MODAL_SERVER_URL": self.modal.url,
            "MODAL_TASK_ID": "ta-1",
            "MODAL_IS_REMOTE": "1",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments),
            "MODAL_CONFIG_PATH": str(self.home / "modal.toml"),
            **more,
        }
        if snapshot:
            env["MODAL_ENABLE_SNAP_RESTORE"] = "1"
            env["MODAL_RESTORE_STATE_PATH"] = str(self.home / "restore.json")
        return env

    def _arguments(self, snapshot: bool) -> api_pb2.ContainerArguments:
        modal, name = self.modal, self.definition.function_name
        layout = api_pb2.AppLayout()
        for function_id, metadata in modal.metadata.items():
            layout.objects.add(object_id=function_id, function_handle_metadata=metadata)
            layout.function_ids[metadata.function_name] = function_id
        for tag, class_id in modal.classes.items():
            function_id = modal.named(f"{tag}.*")
            layout.objects.add(
                object_id=class_id,
                class_handle_metadata=api_pb2.ClassHandleMetadata(
                    class_function_id=function_id,
                    class_function_metadata=modal.metadata[function_id],
                ),
            )
            layout.class_ids[tag] = class_id
        known = {one.object_id for one in layout.objects}
        for dependency in self.definition.object_dependencies:
            if dependency.object_id not in known:
                layout.objects.add(**_dependency(dependency.object_id))
        return api_pb2.ContainerArguments(
            task_id="ta-1",
            function_id=modal.named(name),
            app_id="ap-00001",
            function_def=self.definition,
            app_layout=layout,
            environment_name="main",
            checkpoint_id="cp-1" if snapshot else "",
        )

    def start(self) -> Container:
        """Start it; it takes calls when its hooks have run."""
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "modal._container_entrypoint"],
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        return self

    def restore(self) -> None:
        """Let it go on from its snapshot."""
        (self.home / "restore.json").write_text("{}")

    def frozen(self, limit_s: float = 60) -> Container:
        """Wait until the snapshot is taken."""
        asked = len(self.modal.asked("ContainerCheckpoint"))
        self.modal.wait(
            lambda: len(self.modal.asked("ContainerCheckpoint")) > asked or self._ended(), limit_s
        )
        return self

    def engines(self) -> list[int]:
        """List the engine's processes."""
        assert self.process is not None
        found, left = [], [self.process.pid]
        while left:
            for child in children(left.pop()):
                left.append(child)
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{child}/cmdline").read_bytes()
                    if b"local_server.engine" in words and b"comfyfn-watchdog" not in words:
                        found.append(child)
        return found

    def ready(self, limit_s: float = 60) -> Container:
        """Wait until it asks for calls, which it does when all its hooks have run."""
        self.modal.wait(lambda: self.waiting or self._ended(), limit_s)
        assert not self._ended(), self.text
        return self

    @property
    def waiting(self) -> bool:
        """Whether it waits for a call."""
        return self.function_id in self.modal.polling

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def wait(self, limit_s: float = 40) -> int:
        """Wait for its end, and give its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it did not end:\n{self.text}") from None

    def kill_switch(self, limit_s: float = 40) -> int:
        """End it as Modal ends an idle one."""
        self.modal.kill(self.function_id)
        return self.wait(limit_s)

    def interrupt(self, limit_s: float = 40) -> int:
        """End it as Modal ends a busy one that it takes away."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.wait(limit_s)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text() if self.log.exists() else ""

    def close(self) -> None:
        """End it, however it is."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.interrupt(15)
            except AssertionError:
                return


def _dependency(object_id: str) -> dict[str, object]:
    """Describe an object that a function needs, as the container wants it."""
    found: dict[str, object] = {"object_id": object_id}
    if object_id.startswith("vo-"):
        found["volume_metadata"] = api_pb2.VolumeMetadata(name=object_id)
    if object_id.startswith("mo-"):
        found["mount_handle_metadata"] = api_pb2.MountHandleMetadata()
    return found
