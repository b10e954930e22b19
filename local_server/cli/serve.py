"""`comfyfn serve`: the HTTP API on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("serve", help="serve the HTTP API (docs at /docs)")
    parser.add_argument("--host", help="address to listen on (HOST, default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (PORT, default 3000)")
    parser.add_argument(
        "--ui", action="store_true", help="for designing: ComfyUI's own page on 127.0.0.1:8188"
    )
    parser.add_argument(
        "--as",
        dest="platform",
        choices=["runpod"],
        help="answer a platform's own API as well: RunPod's /run, /runsync, /status, ...",
    )
    parser.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    from adapters.serving import LOCAL, serve
    from handler.settings import Settings

    given = {"HOST": options.host, "PORT": options.port, "COMFYFN_UI": options.ui or None}
    words = {name: str(value) for name, value in given.items() if value is not None}
    settings = Settings.from_env(overrides=words)
    platform = LOCAL
    if options.platform == "runpod":
        from adapters.runpod_api import runpod_platform
        from adapters.runpod_worker import worker_settings

        settings = worker_settings(settings)
        platform = runpod_platform(settings)
    return serve(settings, platform)
