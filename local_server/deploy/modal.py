"""An app of Modal, by its own CLI: `modal deploy adapters/modal_app.py`, knobs as variables.

What was deployed is known by the deployment's tag: a digest of the knobs and of all that goes into
the image. Modal keeps it in the app's history.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import shlex
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adapters
import handler
import local_server
from adapters.modal_knobs import Knobs
from handler.manifest.commands import run
from handler.manifest.faults import InstallFailed
from handler.settings import SettingsError
from handler.version import VERSION
from local_server.deploy import needs
from local_server.deploy.faults import DeployFailed
from local_server.deploy.plan import Action, Change, Plan, Step
from local_server.deploy.schema import SecretRef
from local_server.deploy.secret import MASK, advises, scrubbed, sounds_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from handler.manifest.commands import Done
    from handler.manifest.records import Manifest
    from local_server.deploy.schema import Deploy

APP = Path(adapters.__file__).parent / "modal_app.py"
KNOBS = {spec.metadata["env"] for spec in fields(Knobs)}
TOKEN = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")
_ELSEWHERE = {
    "COMFYFN_APP": "name", "COMFYFN_ENV": "env", "COMFYFN_MANIFEST": "manifest",
    "COMFYFN_SECRETS": "modal.secrets",
}  # fmt: skip
"""Knobs that only keys of deploy.yaml may set: what is looked up and checked goes by those."""
_DEPLOY_S, _ASK_S = 7200.0, 120.0
_GIVEN = {
    "gpu": "GPU", "min_containers": "MIN_CONTAINERS", "max_containers": "MAX_CONTAINERS",
    "buffer_containers": "BUFFER_CONTAINERS", "scaledown_s": "SCALEDOWN_WINDOW",
    "job_timeout_s": "JOB_TIMEOUT", "startup_timeout_s": "STARTUP_TIMEOUT", "region": "REGION",
    "snapshot": "SNAPSHOT", "proxy_auth": "PROXY_AUTH", "volume": "MODELS_VOLUME",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """A call of Modal's CLI.

    Attributes:
        knobs: variables that it is given beside those of the shell.
        secrets: values that are never shown.
    """

    words: tuple[str, ...]
    knobs: Mapping[str, str]
    secrets: frozenset[str] = frozenset()

    def shown(self) -> str:
        """Write it as for a shell."""
        knobs = [f"{name}={shlex.quote(text)}" for name, text in self.knobs.items()]
        quoted = {_quoted(secret) for secret in self.secrets}  # once in ENV, and once as a whole
        secrets = self.secrets | quoted | {_quoted(secret) for secret in quoted}
        return scrubbed(" \\\n  ".join([*knobs, shlex.join(self.words)]), secrets)


def _quoted(text: str) -> str:
    """Give a text as `shlex.quote` has it between the outermost quotes."""
    return text.replace("'", "'\"'\"'")


class Cli:
    """Calls Modal's CLI.

    Attributes:
        words: how it is called; by default the package beside us, else the program on the PATH.
        env: of the shell, whose own knobs are left out: they would not be in the plan.
    """

    def __init__(self, env: Mapping[str, str], words: Sequence[str] | None = None) -> None:
        self.words = tuple(words) if words is not None else _found()
        self.env = {name: text for name, text in env.items() if name not in KNOBS}

    def ask(self, *words: str) -> Any:
        """Read JSON; None for what is not there.

        Raises:
            DeployFailed: it cannot be read.
        """
        done = self._run(Command((*self.words, *words, "--json"), {}), f"modal {words[0]}", _ASK_S)
        try:
            return json.loads(done.output)
        except ValueError as error:
            shown = f"modal {' '.join(words)} gave no JSON"
            raise DeployFailed(shown, hint="is this Modal's own CLI, of 1.6 or later?") from error

    def send(self, command: Command) -> Any:
        """Deploy.

        Raises:
            DeployFailed: it did not go well.
        """
        return self._run(command, "modal deploy", _DEPLOY_S).output

    def _run(self, command: Command, what: str, limit_s: float) -> Done:
        try:
            return asyncio.run(
                run(command.words, what=what, env={**self.env, **command.knobs}, timeout_s=limit_s)
            )
        except InstallFailed as error:
            told = " ".join(line.strip("│╭╮╰╯─ ") for line in error.log_tail or [])[-2000:]
            secrets = command.secrets | {self.env.get(name, "") for name in TOKEN}
            text = scrubbed(f"{error.message.partition(':')[0]}: {told}", secrets)
            raise DeployFailed(text if told else error.message, hint=_hint(told)) from error


def _found() -> tuple[str, ...]:
    if importlib.util.find_spec("modal") is not None:
        return (sys.executable, "-m", "modal")
    if program := shutil.which("modal"):
        return (program,)
    raise DeployFailed("Modal's CLI is not here", hint="pip install 'comfyfn[modal]'")


def _hint(said: str) -> str:
    low = said.lower()
    if "secret '" in low and "not found" in low:  # its name may have a TOKEN in it
        return "make it: `modal secret create NAME KEY=VALUE`; deploy.yaml refers to it by NAME"
    if "token" in low or "unauthenticated" in low or "credentials" in low:
        return "run `modal setup`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
    if "connect" in low or "unavailable" in low or "deadline" in low:
        return "Modal cannot be reached: look at the network and at status.modal.com"
    return "Modal's own words are above; nothing is half deployed: the app before is still served"


def make_plan(deploy: Deploy, manifest: Manifest | None, folder: Path, cli: Cli) -> Plan:
    """Look at what is there, and lay out what is to be done.

    Args:
        folder: of the deploy.yaml, which paths in it start from.

    Raises:
        DeployFailed: what is wanted does not fit, or Modal cannot be asked.
    """
    requires = manifest.requires if manifest is not None else None
    knobs = _knobs(deploy, manifest, folder)
    try:
        read = Knobs.read(knobs)
    except SettingsError as error:
        raise DeployFailed(f"Modal's knobs: {error}", hint="mend `modal` in deploy.yaml") from error
    cards = {gpu: needs.MODAL_VRAM_GB.get(gpu.partition(":")[0]) for gpu in read.gpu}
    hints = needs.check_vram(requires, cards)
    needs.check_memory(requires, read.memory / 1024)
    if deploy.image or deploy.registry:
        hints.append("Modal builds its own image: `image` and `registry` are not used")
    env = {**deploy.env, **deploy.modal.env}
    plain = {n: v for n, v in env.items() if isinstance(v, str) and sounds_secret(n)}
    hints += [
        f"{n} stands in deploy.yaml as it is: `{{secret: NAME}}` is safer"
        for n in filter(advises, plain)
    ]
    tag = f"comfyfn-{_digest(knobs, read)}"
    action = _action(deploy, tag, cli)
    secrets = frozenset(plain.values())
    return Plan(
        platform="Modal",
        steps=(_step(deploy, knobs, tag, action, cli, secrets),),
        hints=tuple(hints),
    )


def _knobs(deploy: Deploy, manifest: Manifest | None, folder: Path) -> dict[str, str]:
    own = deploy.modal
    env = {**deploy.env, **own.env}
    refs = [value.secret for value in env.values() if isinstance(value, SecretRef)]
    plain = [f"{name}={value}" for name, value in env.items() if isinstance(value, str)]
    values: dict[str, Any] = {name: getattr(own, key) for key, name in _GIVEN.items()}
    values["GPU"] = own.gpu or deploy.gpu or None
    values["APP"] = deploy.name
    values["SECRETS"] = list(dict.fromkeys([*own.secrets, *refs])) or None
    values["ENV"] = shlex.join(plain) or None
    if deploy.manifest is not None:
        values["MANIFEST"] = str((folder / deploy.manifest).absolute())
    ram = manifest.requires.ram_gb if manifest is not None and manifest.requires else None
    memory = own.memory_gb or max(ram or 0, 16)
    values["MEMORY"] = round(memory * 1024)
    written = {f"COMFYFN_{n}": _written(v) for n, v in values.items() if v is not None}
    taken = sorted(_ELSEWHERE.keys() & own.knobs)
    if taken:
        raise DeployFailed(
            f"modal.knobs: {', '.join(taken)}: the plan would not tell it",
            hint=f"use {', '.join(f'`{_ELSEWHERE[name]}`' for name in taken)}",
        )
    unknown = sorted(set(own.knobs) - KNOBS)
    if unknown:
        known = ", ".join(sorted(KNOBS))
        raise DeployFailed(f"no knobs: {', '.join(unknown)}", hint=f"known: {known}")
    return {**written, **own.knobs}


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _digest(knobs: Mapping[str, str], read: Knobs) -> str:
    """Sum up what a deployment is made of: knobs, our code, and the files that they name."""
    total = hashlib.sha256(f"{VERSION}\n{json.dumps(dict(knobs), sort_keys=True)}".encode())
    sources = [Path(package.__file__ or "").parent for package in (adapters, handler, local_server)]
    named = [path for path, _ in read.files().values()]
    locks = [path.with_name(f"{path.stem}.lock.yaml") for path in named]  # beside the manifest
    for source in [*sources, *named, *filter(Path.is_file, locks)]:
        for path in _files(source):
            total.update(str(path.relative_to(source.parent)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    else:
        found = (path for path in sorted(source.rglob("*")) if "__pycache__" not in path.parts)
        yield from (path for path in found if path.is_file())


def _action(deploy: Deploy, tag: str, cli: Cli) -> Action:
    where = ("-e", deploy.modal.environment) if deploy.modal.environment else ()
    apps = cli.ask("app", "list", *where)
    # The history of an app that was stopped is still told.
    if not any(
        app.get("description") == deploy.name and app.get("state") == "deployed" for app in apps
    ):
        return Action.CREATE
    history = cli.ask("app", "history", deploy.name, *where)
    return Action.KEEP if history and history[0].get("tag") == tag else Action.UPDATE


def _step(
    deploy: Deploy,
    knobs: Mapping[str, str],
    tag: str,
    action: Action,
    cli: Cli,
    secrets: frozenset[str],
) -> Step:
    subject = f"app {deploy.name}"
    if action is Action.KEEP:
        return Step(subject=subject, action=action)
    where = ("-e", deploy.modal.environment) if deploy.modal.environment else ()
    words = (*cli.words, "deploy", str(APP), "--tag", tag, *where)
    changes = [
        Change(name, None, MASK if name == "COMFYFN_ENV" and secrets else text)
        for name, text in sorted(knobs.items())
    ]
    command = Command(words, knobs, secrets)
    return Step(subject=subject, action=action, changes=tuple(changes), operation=command)
