from __future__ import annotations

from typing import Any

import pytest

from local_server.engine.queue import HISTORY_LIMIT, Ending, Item, PromptQueue

DONE = Ending({}, {}, succeeded=True, messages=[])


@pytest.fixture
def changes() -> list[int]:
    return []


@pytest.fixture
def queue(changes: list[int]) -> PromptQueue:
    made: PromptQueue = PromptQueue(changed=lambda: changes.append(made.remaining()))
    return made


def item(number: float, prompt_id: str, **extra: Any) -> Item:
    return (number, prompt_id, {"1": {"inputs": {}}}, extra, ["1"])


def test_the_lowest_number_runs_first(queue: PromptQueue, changes: list[int]) -> None:
    """Prompts run by number, and each change is told with the count of prompts left."""
    for number, name in ((2, "c"), (-1, "a"), (0.5, "b")):
        queue.put(item(number, name))
    taken = []
    while queue.remaining():
        found = queue.take()
        assert found is not None
        taken.append(found[1])
        queue.finish(DONE)

    assert taken == ["a", "b", "c"]
    assert changes == [1, 2, 3, 3, 2, 2, 1, 1, 0]
    assert repr(queue) == "PromptQueue(0 left, 3 ended)"


def test_the_same_number_and_id_are_queued_all_the_same(queue: PromptQueue) -> None:
    """The heap cannot order the graphs; ComfyUI answers 500 and runs both."""
    queue.put(item(5, "same"))
    with pytest.raises(TypeError):
        queue.put((5, "same", {"other": {}}, {}, []))

    assert queue.remaining() == 2


def test_what_runs_is_shown_as_it_was_sent(queue: PromptQueue) -> None:
    """The executor may write into the graph; clients do not see that."""
    queue.put(item(0, "a"))
    taken = queue.take()
    assert taken is not None
    taken[2]["1"]["is_changed"] = "x"

    assert queue.snapshot() == {"queue_running": [item(0, "a")], "queue_pending": []}
    assert queue.running_id() == "a"


def test_only_waiting_prompts_can_be_deleted(queue: PromptQueue, changes: list[int]) -> None:
    """Running and unknown ones are left alone."""
    for number, name in enumerate("abc"):
        queue.put(item(number, name))
    queue.take()
    changes.clear()
    for name in ("a", "c", "x", "b"):
        queue.delete(name)

    assert queue.snapshot()["queue_pending"] == []
    assert queue.remaining() == 1
    assert changes == [2, 1, 1]


def test_clear_drops_all_that_wait(queue: PromptQueue) -> None:
    """The running prompt stays."""
    for number, name in enumerate("abc"):
        queue.put(item(number, name))
    queue.take()
    queue.clear()

    assert queue.remaining() == 1


def test_secrets_do_not_reach_the_history(queue: PromptQueue) -> None:
    """Keys of paid services are dropped, other extra data stay."""
    queue.put(item(0, "a", api_key_comfy_org="s", auth_token_comfy_org="t", custom=1))
    queue.take()
    queue.finish(Ending({"1": {}}, {"1": {"node_id": "1"}}, succeeded=False, messages=[("e", {})]))

    assert queue.history_of("a") == {
        "a": {
            "prompt": item(0, "a", custom=1),
            "outputs": {"1": {}},
            "status": {"status_str": "error", "completed": False, "messages": [("e", {})]},
            "meta": {"1": {"node_id": "1"}},
        }
    }
    assert queue.history_of("b") == {}


@pytest.mark.parametrize(
    ("max_items", "offset", "expected"),
    [
        (None, -1, "abcd"),
        (2, -1, "cd"),
        (9, -1, "abcd"),
        (0, -1, ""),
        (2, 1, "bc"),
        (None, 3, "d"),
        (0, 1, "b"),
    ],
)
def test_the_history_is_paged(
    queue: PromptQueue, max_items: int | None, offset: int, expected: str
) -> None:
    """Without an offset the newest are given, oldest first."""
    for number, name in enumerate("abcd"):
        queue.put(item(number, name))
        queue.take()
        queue.finish(DONE)

    assert "".join(queue.history(max_items, offset)) == expected


def test_the_oldest_history_entries_go(queue: PromptQueue) -> None:
    """The history keeps ten thousand prompts and one."""
    for number in range(HISTORY_LIMIT + 3):
        queue.put((number, str(number), {}, {}, []))
        queue.take()
        queue.finish(DONE)

    assert len(queue.history()) == HISTORY_LIMIT + 1
    assert queue.history_of("1") == {}
    queue.forget(["2", "unknown"])
    assert queue.history_of("2") == {}
    queue.clear_history()
    assert queue.history() == {}


def test_requests_for_memory_wake_the_worker_once(queue: PromptQueue) -> None:
    """Take returns without a prompt, and the flags are given once."""
    queue.ask(unload_models=True, free_memory=False)
    queue.ask(unload_models=False, free_memory=True)

    assert queue.take() is None
    flags = queue.take_flags()
    assert (flags.unload_models, flags.free_memory) == (True, True)
    assert not queue.take_flags().free_memory


def test_a_closed_queue_gives_nothing(queue: PromptQueue) -> None:
    """The worker ends even though prompts wait; finishing nothing is harmless."""
    queue.put(item(0, "a"))
    queue.close()

    assert queue.closed
    assert queue.take() is None
    queue.finish(DONE)
    assert queue.history() == {}
