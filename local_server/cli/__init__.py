"""The command `comfyfn`: one verb a file."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING

from handler.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = ("serve", "start", "run", "doctor", "manifest", "models", "outbox", "deploy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; errors are one line on stderr.

    Returns:
        The exit status: 0 fine, 1 the job or the server failed, 2 wrong usage or settings.
    """
    from importlib import import_module

    parser = argparse.ArgumentParser(
        prog="comfyfn", description="Run ComfyUI workflows as a stateless API."
    )
    parser.add_argument("--version", action="version", version=f"comfyfn {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        import_module(f"local_server.cli.{name}").add_parser(verbs)
    options = parser.parse_args(arguments)
    return run_verb(options)


def run_verb(options: argparse.Namespace) -> int:
    """Call the verb's `call`, and turn what it raises into a line and a status."""
    from handler.errors import HandlerError
    from handler.settings import SettingsError
    from local_server.cli.plain import plain

    try:
        status = int(options.call(options))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except SettingsError as error:
        print(f"comfyfn: settings: {error}", file=sys.stderr)
        return 2
    except HandlerError as error:
        hint = f" ({error.hint})" if error.hint else ""
        print(plain(f"comfyfn: {error.message}{hint}"), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"comfyfn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    else:
        return status
