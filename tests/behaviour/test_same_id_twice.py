"""Requests that share an id: one run for the same payload, a conflict for another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from behaviour.driving import (
    assert_error,
    assert_no_files_left,
    assert_picture,
    begin,
    later,
    wait_phase,
)
from behaviour.graphs import fresh_color, picture, slow

if TYPE_CHECKING:
    from live import LiveServer


def test_requests_of_one_id_at_once_are_never_mixed_up(server: LiveServer) -> None:
    """Sizes and colours differ, ids and prefixes do not: each gets its own picture or a 409."""
    wanted = [(fresh_color(), (8 * n, 4 * n)) for n in range(1, 9)]
    jobs = [later(server.prompt, picture(*size, color), id="the-same") for color, size in wanted]
    served = 0
    for job, (color, size) in zip(jobs, wanted, strict=True):
        answer = job.result(60)
        if answer.status_code == 409:
            assert_error(answer, 409, "conflict")
            continue
        served += 1
        assert_picture(answer, color, size)
        assert answer.json()["id"] == "the-same"
    assert served
    assert_no_files_left(server)


def test_the_same_request_of_one_id_is_run_once(server: LiveServer) -> None:
    """Whoever sends it again while it runs is answered with the same picture."""
    color = fresh_color()
    graph = slow(server.engine, 1, 20, 12, color)
    jobs = [begin(server, "twice", graph)]
    jobs += [later(server.prompt, graph, id="twice") for _ in range(3)]
    answers = [job.result(60) for job in jobs]
    for answer in answers:
        assert_picture(answer, color, (20, 12))
    assert len({str(answer.json()["stats"]["comfy_execution"]) for answer in answers}) == 1


def test_a_quick_one_does_not_take_the_place_of_a_slow_one(server: LiveServer) -> None:
    """It is refused while the slow one runs, and run after it."""
    first, second = fresh_color(), fresh_color()
    one = begin(server, "one-id", slow(server.engine, 1, 20, 12, first))
    wait_phase(server, "one-id", "running")
    assert_error(server.prompt(picture(12, 20, second), id="one-id"), 409, "conflict")
    assert_picture(one.result(60), first, (20, 12))
    assert_picture(server.prompt(picture(12, 20, second), id="one-id"), second, (12, 20))
