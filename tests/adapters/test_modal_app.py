"""The file that is deployed; tests/platforms has it in Modal's own hands."""

from __future__ import annotations

import subprocess
import sys

from live import REPO


def test_it_is_light_to_import_and_asks_nobody():
    """On the user's machine, and in the container before the engine is launched."""
    heavy = ("torch", "numpy", "PIL", "aiohttp", "httpx", "pydantic", "starlette", "uvicorn")
    program = (
        "import sys, adapters.modal_app as app;"
        f"print(app.app.name, [one for one in {heavy!r} if one in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPO,
        env={"PATH": "/usr/bin:/bin", "MODAL_CONFIG_PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "comfyfn []\n"


def test_a_container_that_failed_half_way_ends_its_engine():
    """The exit hook does what it can where not all is there yet, or fails itself."""
    program = (
        "import asyncio, adapters.modal_app as app\n"
        "kind = app.Worker._get_user_cls()\n"
        "class Part:\n"
        "    def __init__(self, fails=False): self.fails, self.said = fails, []\n"
        "    async def stop(self): self.said.append('stopped')\n"
        "    async def end(self):\n"
        "        if self.fails: raise RuntimeError('watch')\n"
        "leave = kind.leave._get_raw_f()\n"
        "asyncio.run(leave(kind()))\n"
        "one, two = kind(), kind()\n"
        "one.stages, two.stages, two.watch = Part(), Part(), Part(fails=True)\n"
        "asyncio.run(leave(one))\n"
        "try: asyncio.run(leave(two))\n"
        "except RuntimeError: print(one.stages.said, two.stages.said)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPO,
        env={"PATH": "/usr/bin:/bin", "MODAL_CONFIG_PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout == "['stopped'] ['stopped']\n", said.stderr
