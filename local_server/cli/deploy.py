"""`comfyfn deploy`: create or update what a deploy.yaml asks a platform for."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from handler.manifest.records import Manifest
    from handler.settings import Settings
    from local_server.deploy.plan import Plan
    from local_server.deploy.schema import Deploy

PLATFORMS = ("runpod", "modal", "salad")


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    about = "create or update an endpoint, an app or a container group by a deploy.yaml"
    parser = verbs.add_parser("deploy", help=about, description=about)
    parser.add_argument("platform", choices=PLATFORMS)
    parser.add_argument("file", nargs="?", type=Path, default=Path("deploy.yaml"), metavar="FILE")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the requests; nothing that writes is sent"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(call=_deploy)


def _deploy(options: argparse.Namespace) -> int:
    from handler.settings import Settings
    from local_server.cli.plain import plain
    from local_server.deploy.document import read_deploy
    from local_server.deploy.plan import carry_out

    settings = Settings.from_env()
    deploy = read_deploy(options.file)
    manifest = _manifest(deploy, options.file.parent)
    with _understood(options), _planned(options, settings, deploy, manifest) as (plan, send):
        print(plain(plan.table()))
        if not plan.pending:
            print("nothing is to be done")
            return 0
        if options.dry_run:
            for step in plan.pending:
                assert step.operation is not None
                print(f"\n# {step.action.value} {step.subject}\n{step.operation.shown()}")
            return 0
        if not options.yes and not _agreed():
            print("nothing was sent")
            return 1
        answers = carry_out(plan, send, print)
        print(plain("\n".join(["done", *plan.close(answers)])))
    return 0


def _manifest(deploy: Deploy, folder: Path) -> Manifest | None:
    from handler.manifest.schema import read_manifest

    return read_manifest(folder / deploy.manifest) if deploy.manifest is not None else None


@contextlib.contextmanager
def _understood(options: argparse.Namespace) -> Iterator[None]:
    """Tell of an answer of quite another shape as of any other fault of the platform."""
    from local_server.deploy.faults import DeployFailed

    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        raise DeployFailed(
            f"{options.platform} gave an answer that is not understood: {error!r}",
            hint="is its address the right one? the same command can be run again",
        ) from error


@contextlib.contextmanager
def _planned(
    options: argparse.Namespace, settings: Settings, deploy: Deploy, manifest: Manifest | None
) -> Iterator[tuple[Plan, Callable[[Any], Any]]]:
    """Give the plan, and what carries out one of its operations."""
    from handler.settings import inherited_environment, variable

    if options.platform == "runpod":
        from local_server.deploy import runpod

        with runpod.api(settings.runpod_api_key, settings.runpod_rest_url) as api:
            yield runpod.make_plan(deploy, manifest, api), api.send
    elif options.platform == "salad":
        from local_server.deploy import salad

        with salad.api(settings.salad_api_key, settings.salad_api_url) as api:
            yield salad.make_plan(deploy, manifest, api, variable), api.send
    else:
        from local_server.deploy import modal

        # What a child is not given otherwise: Modal's own token is for Modal's own CLI.
        token = {name: text for name in modal.TOKEN if (text := variable(name))}
        cli = modal.Cli({**inherited_environment(), **token})
        plan = modal.make_plan(deploy, manifest, options.file.parent, cli)
        with _lines_of_modal(plan):
            yield plan, cli.send


def _agreed() -> bool:
    if not sys.stdin.isatty():
        print("comfyfn: nobody is there to ask: --yes does without", file=sys.stderr)
        return False
    try:
        return input("carry this out? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


@contextlib.contextmanager
def _lines_of_modal(plan: Plan) -> Iterator[None]:
    """Show what Modal's CLI says as it says it: an image is built for minutes."""
    from local_server.deploy.secret import scrubbed

    secrets = {s for step in plan.steps for s in getattr(step.operation, "secrets", ())}

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(scrubbed(record.getMessage(), secrets), file=sys.stderr)

    log, lines = logging.getLogger("comfyfn.manifest"), Lines()
    level = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.setLevel(level)
