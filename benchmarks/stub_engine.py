"""A stand-in for ComfyUI in benches: its HTTP and WebSocket protocol, and no work behind it.

The order of events, the strictly serial queue, the 400 answers and the history are those of
ComfyUI 0.3.64; the time an engine needs is what --delay-ms says. See benchmarks/README.md.

For the bench only: GET /bench/timings (milliseconds from POST /prompt to execution_success, of
each prompt since the last call), GET /bench/state, POST /bench/config {"delay_ms": n}.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from stub_nodes import Folders
from stub_queue import Engine
from stub_routes import Routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def build_app(engine: Engine) -> web.Application:
    """The engine's application; its worker runs as long as it is served."""
    app = web.Application(client_max_size=1 << 31)
    app.add_routes(Routes(engine).table())

    async def working(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(engine.work())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    app.cleanup_ctx.append(working)
    return app


def process_age_s() -> float:
    """Seconds since this process was executed: imports count as boot time, too."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--home", type=Path, default=Path(), help="holds input, output, models")
    parser.add_argument("--input-directory", type=Path)
    parser.add_argument("--output-directory", type=Path)
    parser.add_argument("--delay-ms", type=float, default=0, help="what every prompt takes")
    parser.add_argument("--boot-s", type=float, default=0, help="listen so long after exec")
    # Servers may add options of the real engine to the command they are given.
    args, _ = parser.parse_known_args()
    home = args.home.resolve()
    folders = Folders(
        input=(args.input_directory or home / "input").resolve(),
        output=(args.output_directory or home / "output").resolve(),
        temp=home / "temp",
        models=home / "models",
    )
    app = build_app(Engine(folders, args.delay_ms))
    time.sleep(max(0.0, args.boot_s - process_age_s()))
    web.run_app(app, host="127.0.0.1", port=args.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
