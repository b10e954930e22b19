"""Volumes are looked at anew; tests/platforms/test_modal_container.py has them on the wire."""

from __future__ import annotations

from types import SimpleNamespace

from modal import exception
from worker import until

from adapters.modal_volumes import Watch, commit, reload


class Volume:
    """A Volume as the SDK has it: methods with an `aio` each."""

    def __init__(self, error=None):
        self.error, self.asked = error, []

    @property
    def reload(self):
        return self._method("reload")

    @property
    def commit(self):
        return self._method("commit")

    def _method(self, name):
        async def aio():
            self.asked.append(name)
            if self.error is not None:
                raise self.error

        return SimpleNamespace(aio=aio)


async def test_what_is_in_the_way_is_no_reason_to_fail():
    """Open files, or Modal that does not answer."""
    for error in (RuntimeError("there are open files"), exception.ServiceError("x")):
        volume = Volume(error)
        assert not await reload(volume)
        assert not await commit(volume)
    assert await reload(Volume())
    assert await commit(Volume())


async def test_a_volume_is_reloaded_while_nothing_runs():
    """And not under a job that reads from it."""
    volume, busy = Volume(), [True]
    looked = []

    def idle():
        looked.append(1)
        return not busy[0]

    watch = Watch(volume, idle, every_s=0.001)
    watch.begin()
    await until(lambda: len(looked) > 3)
    assert volume.asked == []
    busy[0] = False
    await until(lambda: len(volume.asked) > 2)
    await watch.end()


async def test_ending_what_never_began():
    """A boot that failed comes here as well."""
    await Watch(Volume(), lambda: True).end()
