"""How Modal's exceptions are told; tests/platforms/test_modal_container.py has the calls."""

from __future__ import annotations

import pytest
from modal import exception

from adapters.modal_calls import ModalCalls, cancelled_by_caller


class Raising:
    """A remote method whose calls fail."""

    def __init__(self, error):
        self.spawn = self
        self._error = error

    async def aio(self, *_):
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exception.NotFoundError("x"), "not_found"),
        (exception.ServiceError("x"), "internal_error"),
        (exception.RemoteError("crashed"), "worker_lost"),
        (exception.FunctionTimeoutError("x"), "timed_out"),
        (exception.RemoteError(""), "cancelled"),
        (exception.OutputExpiredError(), "result_gone"),
    ],
)
async def test_what_modal_raises_is_told_as_ours(error, code):
    """With a code of ours."""
    from handler.errors import HandlerError

    with pytest.raises(HandlerError) as told:
        await ModalCalls(Raising(error)).spawn({}, None)
    assert told.value.code == code


def test_without_modals_books_whoever_cancels_is_the_caller():
    """Here is no container, so that none is taken away."""
    assert cancelled_by_caller("in-1")
    assert cancelled_by_caller(None)
