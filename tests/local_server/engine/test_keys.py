"""Where request handlers find the engine."""

from __future__ import annotations

from aiohttp import web

from local_server.engine.config import EngineConfig
from local_server.engine.engine import Engine
from local_server.engine.keys import ENGINE


async def test_an_application_gives_its_engine(tmp_path):
    """Typed: no look-up by a text."""
    engine = Engine(EngineConfig.below(tmp_path))
    app = web.Application()
    app[ENGINE] = engine

    assert app[ENGINE] is engine
