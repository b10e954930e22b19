"""The port to an engine."""

from __future__ import annotations

import inspect

import pytest

from handler.engine.base import Engine, EnginePrompt, EngineState, NeverStarted
from handler.engine.comfyui import ComfyEngine
from handler.engine.memory import MemoryEngine
from handler.errors import EngineDied

METHODS = [name for name, _ in inspect.getmembers(Engine, inspect.isfunction) if name[0] != "_"]
PROPERTIES = [name for name, v in inspect.getmembers(Engine) if isinstance(v, property)]


@pytest.mark.parametrize("implementation", [ComfyEngine, MemoryEngine])
def test_every_implementation_has_the_whole_port(implementation):
    """With the same parameters, and async where the port is."""
    for name in METHODS:
        ours, port = getattr(implementation, name), getattr(Engine, name)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(port).parameters)
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(port)
    given = {*dir(implementation), *implementation.__annotations__}
    assert set(PROPERTIES) <= given


def test_never_started_is_a_way_to_die():
    """Who does not hand it in again answers it as any other death of the engine."""
    error = NeverStarted("x")

    assert isinstance(error, EngineDied)
    assert (error.code, error.status) == ("engine_died", 502)


def test_a_prompt_shows_no_extra_data():
    """It holds the caller's keys."""
    assert "s3cret" not in repr(EnginePrompt("p", {}, {"api_key_comfy_org": "s3cret"}))


def test_states_are_words_for_people():
    """They stand in /health."""
    assert [state.value for state in EngineState] == [
        *("starting", "ready", "restarting", "failed", "stopped")
    ]
