"""Runs the embedded engine as a process of its own: `python -m local_server.engine --port 8188`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from local_server.engine.config import EngineConfig, parse_arguments

logger = logging.getLogger("comfyfn.embedded")


async def serve(config: EngineConfig) -> None:
    """Serve until the process is ended from outside."""
    from local_server.engine.engine import Engine

    await asyncio.sleep(config.boot_seconds)
    engine = Engine(config)
    await engine.start()
    logger.info("Listening on http://%s:%d", config.listen[0], engine.port)
    try:
        await asyncio.Event().wait()
    finally:
        await engine.stop()


def main() -> None:
    """Read the command line and serve."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    config = parse_arguments(sys.argv[1:])
    logger.info("This is comfyfn's embedded engine, not ComfyUI.")
    if config.exit_at_boot is not None:
        sys.exit(config.exit_at_boot)
    # Like ComfyUI: a signal ends the process at once, nothing is drained.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
