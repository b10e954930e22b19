"""What passes the downloader's door."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from handler.credentials import BearerAuth
from handler.transfer.records import Wanted


def wanted(**fields):
    return Wanted("https://e.org/m?token=canary4711", Path("/m"), **fields)


def test_equal_wishes_are_one_and_other_credentials_are_not():
    """They are keys of what is under way."""
    one, two = (BearerAuth(token=SecretStr(text)) for text in ("a", "b"))
    assert hash(wanted(auth=one)) == hash(wanted(auth=one))
    assert wanted(auth=one) == wanted(auth=one)
    assert wanted(auth=one) != wanted(auth=two)


def test_no_text_of_a_wish_has_a_secret():
    """Neither the URL's nor the auth's."""
    assert "canary4711" not in repr(wanted(auth=BearerAuth(token=SecretStr("canary4711"))))
