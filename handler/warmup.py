"""The prompt that is run once after every boot, from a file, a URL or the environment."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from handler.errors import BootFailed

if TYPE_CHECKING:
    from handler.pipeline.stages import Parts
    from handler.settings import Settings


async def warmup_payload(settings: Settings, parts: Parts) -> dict[str, Any] | None:
    """Read the warmup prompt: a graph, or a whole payload with the key `prompt`.

    Raises:
        BootFailed: what is set is no JSON object, or the file cannot be read.
        InputFailed: the URL cannot be fetched.
    """
    if settings.warmup_json:
        return _payload(settings.warmup_json.encode(), "WARMUP_PROMPT_JSON")
    if settings.warmup_file is not None:
        try:
            text = settings.warmup_file.read_bytes()
        except OSError as error:
            raise BootFailed(
                f"WARMUP_PROMPT_FILE cannot be read: {error}", blame="image"
            ) from error
        return _payload(text, "WARMUP_PROMPT_FILE")
    if settings.warmup_url:
        with tempfile.TemporaryDirectory(dir=parts.scratch) as folder:
            target = Path(folder) / "warmup.json"
            await parts.operator_fetcher.fetch(settings.warmup_url, target)
            return _payload(target.read_bytes(), "WARMUP_PROMPT_URL")
    return None


def _payload(text: bytes, source: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise BootFailed(f"{source} is no JSON: {error}", blame="image") from error
    if not isinstance(value, dict):
        raise BootFailed(f"{source} is no JSON object", blame="image")
    # As comfyui-api takes it: the graph alone.
    return value if isinstance(value.get("prompt"), dict) else {"prompt": value}
