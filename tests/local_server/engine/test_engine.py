"""The embedded engine as one object."""

from __future__ import annotations

from aiohttp import ClientSession

from local_server.engine.config import EngineConfig
from local_server.engine.engine import Engine


async def test_it_starts_on_a_free_port_and_stops(tmp_path):
    """Its folders are made; a second stop does no harm."""
    engine = Engine(EngineConfig.below(tmp_path))
    await engine.start()
    try:
        assert engine.port > 0
        assert f"port {engine.port}" in repr(engine)
        async with (
            ClientSession() as session,
            session.get(f"http://127.0.0.1:{engine.port}/system_stats") as response,
        ):
            assert response.status == 200
        assert (tmp_path / "input").is_dir()
    finally:
        await engine.stop()
    await engine.stop()


def test_every_prompt_gets_a_greater_number(tmp_path):
    """The queue is sorted by it."""
    engine = Engine(EngineConfig.below(tmp_path))
    assert engine.take_number() < engine.take_number()
