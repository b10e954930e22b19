"""What the worker makes of its settings, and what it loads; the rest is in tests/platforms."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace

from live import REPO

from adapters.runpod_worker import worker_settings
from handler.settings import Settings


def test_other_names_are_heard() -> None:
    """Those that worker-comfyui's users know."""
    environ = {
        "BUCKET_ENDPOINT_URL": "https://s3",
        "BUCKET_ACCESS_KEY_ID": "id",
        "BUCKET_SECRET_ACCESS_KEY": "secret",
        "COMFY_LOG_LEVEL": "DEBUG",
        "COMFY_ARGS": "--fast",
        "REFRESH_WORKER": "true",
    }
    settings = worker_settings(Settings.from_env(environ))

    assert settings.comfy_args == ("--verbose", "DEBUG", "--fast")
    assert '"endpoint": "https://s3"' in settings.output_storage
    assert settings.refresh_worker
    assert "secret" not in repr(settings)


def test_without_them_nothing_changes() -> None:
    """The settings are as they were."""
    settings = replace(Settings(), log_level="debug")

    assert worker_settings(settings) == settings


def test_before_the_engine_is_launched_nothing_heavy_is_loaded() -> None:
    """Neither the SDK nor what the handler is made of."""
    heavy = ("runpod", "aiohttp", "httpx", "orjson", "pydantic", "boto3", "numpy", "PIL", "uvloop")
    program = (
        f"import sys, adapters.runpod_worker; print([m for m in {heavy!r} if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"
    assert logging.getLogger("comfyfn.runpod")
