"""`comfyfn start`: what a container runs, whatever platform it is on."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from adapters.serving import Platform
    from handler.settings import Settings
    from local_server.platforms import Choice

log = logging.getLogger("comfyfn.start")
# A container is reached through its port or not at all.
HOST = "0.0.0.0"  # noqa: S104
# RunPod's load balancer cuts what is over 30 MB or 5.5 minutes: some of both is for the way.
BALANCED_BYTES = 28_000_000
BALANCED_S = 320.0
WORKERS = {"runpod": "adapters.runpod_worker", "salad": "adapters.salad_container"}


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "start", help="run the adapter of the platform this is on: the entry point of the image"
    )
    parser.add_argument(
        "--print", action="store_true", help="only print which adapter it would be, and why"
    )
    parser.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Run the adapter in this process, until its platform ends it.

    Raises:
        BootFailed: this is Modal, which starts its app itself.
        SettingsError: a setting cannot be used.
    """
    from handler.settings import Settings, inherited_environment
    from local_server.platforms import choose

    settings = Settings.from_env()
    choice = choose(inherited_environment(), settings.adapter)
    if options.print:
        print(f"{choice.adapter}: {choice.reason}")
        return 0
    _say(choice, settings)
    if choice.adapter == "modal":
        _refuse(choice)
    if choice.adapter == "http":
        return _serve(choice)
    return _work(WORKERS[choice.adapter])


def _say(choice: Choice, settings: Settings) -> None:
    from adapters.logs import configure_logging

    configure_logging(settings)
    log.info("adapter %s: %s", choice.adapter, choice.reason)
    for folder in _closed(settings):
        log.warning(
            "%s cannot be written to by user %d, as a volume that is root's: let the group 0 write "
            "there, or build the image with RUN_AS=0",
            folder,
            os.geteuid(),
        )
    # The adapter writes its lines in its own way, and may name its instance in them.
    logging.getLogger().handlers.clear()


def _closed(settings: Settings) -> Iterator[str]:
    """Name the folders that were set, and that this user may neither write to nor make."""
    wanted = {
        "CACHE_DIR": settings.cache_dir,
        "INPUT_DIR": settings.input_dir,
        "MODEL_DIR": settings.model_dir,
        "OUTPUT_DIR": settings.output_dir,
        "STATE_DIR": settings.state_dir,
        "WORK_DIR": settings.work_dir,
    }
    for name, folder in wanted.items():
        if folder is not None:
            there = next(p for p in (folder, *folder.parents) if os.access(p, os.F_OK))
            if not os.access(there, os.W_OK):
                yield f"{name}={folder}"


def _refuse(choice: Choice) -> None:
    from handler.errors import BootFailed

    raise BootFailed(
        f"Modal starts its app itself, nothing is to be started here ({choice.reason})",
        hint="deploy adapters/modal_app.py with `modal deploy` and give its image no entry point, "
        "or set ADAPTER=http to serve HTTP all the same",
        blame="image",
    )


def _serve(choice: Choice) -> int:
    from adapters.serving import serve
    from handler.settings import Settings

    defaults = {"host": HOST} if choice.port is None else {"host": HOST, "port": choice.port}
    return serve(Settings.from_env(**defaults), platform_of(choice))


def platform_of(choice: Choice) -> Platform:
    """Tell the server what is between it and its callers."""
    from adapters.serving import Platform

    if not choice.balanced:
        return Platform()
    return Platform(inline_bytes=BALANCED_BYTES, answer_within_s=BALANCED_S)


def _work(module: str) -> int:
    """Run a worker; its module, and with it the SDK of its platform, is loaded only now."""
    from importlib import import_module

    return int(import_module(module).main())
