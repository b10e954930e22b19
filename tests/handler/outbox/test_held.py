"""Letters in memory."""

from __future__ import annotations

from pydantic import SecretStr

from handler.outbox.held import Held
from handler.outbox.records import Letter


def test_letter_is_held_until_it_is_removed(tmp_path):
    """Body from a file, secrets and all, and none of it is shown."""
    body = tmp_path / "body"
    body.write_bytes(b"canary")
    letter = Letter(
        url="https://e.org/canary",
        body=body,
        message_id="a",
        kind="x",
        secret=SecretStr("canary"),
    )
    held = Held()
    posted = held.put(letter, "1", 5.0, 6)

    assert posted is not None
    assert (posted.id, posted.bytes, posted.to, posted.since) == ("1", 6, "https://e.org", 5.0)
    opened = held.get("1")
    assert opened is not None
    assert (opened.url, opened.secret, opened.body) == (letter.url, "canary", b"canary")
    assert "1" in held
    assert "canary" not in f"{held!r} {posted!r} {opened!r}"
    assert held.remove("1")
    assert not held.remove("1")
    assert held.get("1") is None


def test_memory_is_bounded():
    """By the bodies together."""
    held = Held(most_bytes=10)
    letter = Letter(url="https://e.org/", body=b"x" * 6, message_id="a", kind="x")

    assert held.put(letter, "1", 1.0, 6) is not None
    assert held.put(letter, "2", 1.0, 6) is None
    held.remove("1")
    assert held.put(letter, "2", 1.0, 6) is not None
