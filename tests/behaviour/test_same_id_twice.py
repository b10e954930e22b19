"""Requests that share an id: each gets its own result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from behaviour.driving import assert_no_files_left, assert_picture, later
from behaviour.graphs import fresh_color, picture, slow

if TYPE_CHECKING:
    from live import LiveServer


def test_two_requests_of_one_id_at_once_get_their_own_pictures(server: LiveServer) -> None:
    """Sizes and colours differ, ids and prefixes do not: nothing is mixed up."""
    wanted = [(fresh_color(), (8 * n, 4 * n)) for n in range(1, 9)]
    jobs = [later(server.prompt, picture(*size, color), id="the-same") for color, size in wanted]
    for job, (color, size) in zip(jobs, wanted, strict=True):
        answer = job.result(60)
        assert_picture(answer, color, size)
        assert answer.json()["id"] == "the-same"
    assert_no_files_left(server)


def test_a_quick_one_does_not_take_the_place_of_a_slow_one(server: LiveServer) -> None:
    """An end of one job is not told to another of the same id."""
    first, second = fresh_color(), fresh_color()
    one = later(server.prompt, slow(server.engine, 1, 20, 12, first), id="one-id")
    two = later(server.prompt, picture(12, 20, second), id="one-id")
    assert_picture(one.result(60), first, (20, 12))
    assert_picture(two.result(60), second, (12, 20))
