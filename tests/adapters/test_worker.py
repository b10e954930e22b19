"""A handler and its engine, for whoever calls us."""

import pytest
from live import free_port

from adapters.worker import begin_worker
from handler.errors import BootFailed
from handler.settings import Settings, SettingsError

GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


async def test_the_engine_boots_while_the_handler_is_made(tmp_path):
    """One process, launched before the rest of us is loaded."""
    settings = Settings(
        engine="embedded", comfy_port=free_port(), state_dir=tmp_path, work_dir=tmp_path
    )
    begun = begin_worker(settings)
    try:
        assert begun.process is not None
        handler = begun.handler()
        try:
            await handler.start()
            async with await handler.handle({"prompt": GRAPH}) as answer:
                assert len((await answer.json())["images"]) == 1
        finally:
            await handler.stop()
    finally:
        begun.site.close()
    assert not begun.site.scratch.exists()


def test_without_a_comfyui_nothing_is_begun():
    """The embedded engine stands in only where somebody asks for it."""
    with pytest.raises(BootFailed, match="none is set"):
        begin_worker(Settings())


def test_a_bad_manifest_leaves_nothing(tmp_path):
    """The folder that was made for the worker is gone."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("nonsense: [")
    work = tmp_path / "work"
    with pytest.raises(SettingsError):
        begin_worker(Settings(engine="embedded", manifest=bad, work_dir=work))
    assert list(work.iterdir()) == []
