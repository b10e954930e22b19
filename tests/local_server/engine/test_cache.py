from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local_server.engine.cache import (
    Cache,
    ClassicCache,
    Kept,
    LruCache,
    NoCache,
    fingerprints,
    keys_of,
    new_cache,
)
from local_server.engine.folders import Folders
from local_server.engine.nodes import catalog

NODES = catalog(test_faults=True)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def chain(color: int = 0, first: str = "a", **more: Any) -> dict[str, Any]:
    return {
        first: node("EmptyImage", width=8, height=8, color=color, **more),
        "i": node("ImageInvert", image=[first, 0]),
    }


def keys(graph: dict[str, Any]) -> dict[str, Any]:
    return keys_of(graph, NODES, lambda node_id: False)


def kept(value: Any) -> Kept:
    return Kept([[value]], None)


def test_the_same_inputs_give_the_same_key_under_other_ids() -> None:
    """Node ids are no part of a key."""
    assert keys(chain())["i"] == keys(chain(first="z"))["i"]


@pytest.mark.parametrize("change", [{"color": 1}, {"unknown": "x"}, {"nested": {"a": [1, 2]}}])
def test_any_input_above_changes_the_key(change: dict[str, Any]) -> None:
    """Inputs that a node does not know count as well."""
    before, after = keys(chain()), keys(chain(**change))

    assert before["a"] != after["a"]
    assert before["i"] != after["i"]


def test_links_are_told_apart_by_slot_and_source() -> None:
    """Swapping two sources changes the key; the same source twice is known as such."""
    graph = {
        "a": node("EmptyImage", color=1),
        "b": node("EmptyImage", color=2),
        "1": node("ImageBatch", image1=["a", 0], image2=["b", 0]),
        "2": node("ImageBatch", image1=["b", 0], image2=["a", 0]),
        "3": node("ImageBatch", image1=["a", 0], image2=["a", 0]),
        "4": node("ImageBatch", image1=["a", 1], image2=["b", 0]),
    }

    assert len(set(keys(graph).values())) == 6


def test_a_node_that_knows_its_id_has_a_key_of_its_own() -> None:
    """GetImageSize is told its id, so another id is another node."""
    graph = chain() | {
        "x": node("GetImageSize", image=["a", 0]),
        "y": node("GetImageSize", image=["a", 0]),
    }
    found = keys(graph)

    assert found["x"] != found["y"]


def test_a_node_below_a_missing_one_is_never_cached() -> None:
    """Its key differs from itself, asked twice."""
    graph = {"i": node("ImageInvert", image=["gone", 0])}

    assert keys(graph)["i"] != keys(graph)["i"]


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    """The fingerprint is noted in the graph, and follows the file's bytes."""
    folders = Folders(tmp_path, tmp_path, tmp_path, tmp_path)

    def ask() -> Any:
        graph = {"l": node("LoadImage", image="a.png"), "e": node("EmptyImage")}
        asked = fingerprints(graph, NODES, folders)
        assert asked("e") is False
        assert asked("l") is graph["l"]["is_changed"]
        return asked("l")

    (tmp_path / "a.png").write_bytes(b"one")
    first = ask()
    (tmp_path / "a.png").write_bytes(b"two")
    second = ask()
    (tmp_path / "a.png").write_bytes(b"one")

    assert first != second
    assert first == ask()
    (tmp_path / "a.png").unlink()
    assert ask() != ask()


def test_the_fingerprint_a_client_sends_is_taken() -> None:
    """An `is_changed` in the graph stands for the file."""
    graph = {"l": {**node("LoadImage", image="gone.png"), "is_changed": ["mine"]}}
    asked = fingerprints(graph, NODES, Folders(*[Path("/nowhere")] * 4))

    assert asked("l") == ["mine"]


def begin(cache: Cache, graph: dict[str, Any]) -> None:
    cache.begin(graph, keys(graph))


def test_the_classic_cache_keeps_what_the_next_graph_can_use() -> None:
    """Everything else goes, also if an older graph comes back."""
    cache = ClassicCache()
    begin(cache, chain(1))
    cache.put("a", kept(1))
    cache.put("i", kept(2))
    begin(cache, chain(1, first="z"))
    assert cache.get("z") == kept(1)
    begin(cache, chain(2))
    assert cache.get("a") is None
    begin(cache, chain(1))

    assert cache.get("a") is None
    assert cache.get("unknown") is None


def test_the_lru_cache_keeps_older_graphs_up_to_its_size() -> None:
    """The graph that was used longest ago goes as a whole."""
    cache = LruCache(4)
    for color in (1, 2):
        begin(cache, chain(color))
        cache.put("a", kept(color))
        cache.put("i", kept(-color))
    begin(cache, chain(1))
    assert cache.get("i") == kept(-1)
    begin(cache, chain(3))
    cache.put("a", kept(3))
    cache.put("i", kept(-3))
    begin(cache, chain(4))
    begin(cache, chain(2))
    assert cache.get("a") is None
    begin(cache, chain(1))

    assert cache.get("a") == kept(1)


def test_no_cache_keeps_a_result_until_it_was_used() -> None:
    """A result goes when all its users ran, and all go with the next prompt."""
    cache = NoCache()
    graph = chain() | {"j": node("ImageInvert", image=["a", 0], loose=["gone", 0])}
    begin(cache, graph)
    cache.put("a", kept(1))
    cache.put("i", kept(2))
    assert cache.get("a") == kept(1)
    cache.put("j", kept(3))
    assert cache.get("a") is None
    assert cache.get("j") == kept(3)
    begin(cache, graph)

    assert cache.get("j") is None


def test_the_cache_is_made_by_name() -> None:
    """Each kind has its class."""
    made = [new_cache("classic", 0), new_cache("lru", 3), new_cache("none", 0)]

    assert [type(cache) for cache in made] == [ClassicCache, LruCache, NoCache]
