"""The queue before the engine."""

from __future__ import annotations

import asyncio

import pytest

from handler.slots import Slots


class Owner:
    """Somebody who wants a slot; equal to every other, so that identity must be what counts."""

    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return True

    __hash__ = None

    def __repr__(self):
        return self.name


A, B, C, D = (Owner(name) for name in "ABCD")


async def started(work):
    """Start a task and let it come to its first wait."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


async def test_slots_are_given_in_the_order_of_asking():
    """First come, first served."""
    slots, order = Slots(1), []

    async def take(owner):
        await slots.acquire(owner)
        order.append(owner.name)
        slots.release(owner)

    await slots.acquire(A)
    waiting = [await started(take(owner)) for owner in (B, C, D)]
    slots.release(A)
    await asyncio.gather(*waiting)

    assert order == ["B", "C", "D"]
    assert repr(slots) == "<Slots 0/1 waiting=0>"


async def test_positions_count_everybody_before():
    """Those with a slot count as well; somebody unknown has no place."""
    slots = Slots(2)
    await slots.acquire(A)
    await slots.acquire(B)
    waiting = [await started(slots.acquire(C)), await started(slots.acquire(D))]

    assert [slots.position(owner) for owner in (A, B, C, D)] == [0, 1, 2, 3]
    assert slots.position(Owner("E")) is None
    assert (len(slots), slots.waiting) == (2, 2)

    slots.release(A)
    assert [slots.position(owner) for owner in (A, B, C, D)] == [None, 0, 1, 2]
    await waiting[0]
    slots.release(B)
    await waiting[1]


async def test_everybody_in_line_is_told_when_it_moves():
    """A release and a leaving move the line."""
    told = []
    slots = Slots(1, lambda owner, position: told.append((owner.name, position)))
    await slots.acquire(A)
    waiting = [await started(slots.acquire(owner)) for owner in (B, C, D)]
    waiting[1].cancel()
    await asyncio.wait({waiting[1]})
    assert told == [("B", 1), ("D", 2)]

    told.clear()
    slots.release(A)
    assert told == [("D", 1)]
    slots.release(B)
    slots.release(D)
    await asyncio.gather(waiting[0], waiting[2])


async def test_a_cancelled_wait_leaves_the_line():
    """The next in line is not held up by one who went."""
    slots = Slots(1)
    await slots.acquire(A)
    leaving = await started(slots.acquire(B))
    staying = await started(slots.acquire(C))

    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert slots.waiting == 1
    slots.release(A)
    await staying

    assert slots.position(C) == 0


async def test_a_release_in_the_moment_of_a_cancel_skips_the_cancelled():
    """The task was told to stop but has not run yet: its turn goes to the next."""
    slots = Slots(1)
    await slots.acquire(A)
    leaving = await started(slots.acquire(B))
    staying = await started(slots.acquire(C))

    leaving.cancel()
    slots.release(A)
    await asyncio.wait({leaving, staying})

    assert leaving.cancelled()
    assert (slots.position(B), slots.position(C)) == (None, 0)


async def test_a_cancel_in_the_very_moment_of_the_turn_gives_the_slot_on():
    """The turn came, and before the task saw it, it was cancelled: no slot is lost."""
    slots = Slots(1)
    await slots.acquire(A)
    late = await started(slots.acquire(B))
    following = await started(slots.acquire(C))

    slots.release(A)
    late.cancel()
    await asyncio.wait({late, following})

    assert late.cancelled()
    assert slots.position(C) == 0
    assert len(slots) == 1
    slots.release(C)
    assert len(slots) == 0


async def test_nobody_overtakes_the_line():
    """A slot that is free in the moment of a release belongs to the line."""
    slots = Slots(1)
    await slots.acquire(A)
    first = await started(slots.acquire(B))
    slots.release(A)
    second = await started(slots.acquire(C))
    await first

    assert (slots.position(B), slots.position(C)) == (0, 1)
    assert not second.done()
    slots.release(B)
    await second
