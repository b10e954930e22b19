"""Credentials: which URL gets which, and that no text gives a secret away."""

from __future__ import annotations

import time

import pytest
from pydantic import BaseModel, ValidationError

from handler.credentials import Credential, S3Auth, auth_for, url_matches
from handler.payload import invalid_payload

SECRET = "canary-4711"
EVERY = [
    {"type": "bearer", "token": SECRET},
    {"type": "basic", "username": "me", "password": SECRET},
    {"type": "header", "header_name": "X-Key", "header_value": SECRET},
    {"type": "query", "query_param": "token", "query_value": SECRET},
    {
        "type": "s3",
        "access_key_id": "AK",
        "secret_access_key": SECRET,
        "session_token": SECRET,
        "endpoint": "http://minio:9000",
        "region": "eu-west-1",
    },
]
# Values that may be any text.
SAFE = {
    *("type", "username", "password", "query_param", "query_value", "access_key_id"),
    *("secret_access_key", "session_token", "endpoint", "region"),
}


class Outer(BaseModel):
    credentials: list[Credential]


@pytest.mark.parametrize(
    ("pattern", "url", "yes"),
    [
        ("https://a.test/*", "https://a.test/m.bin", True),
        ("https://a.test/*", "https://a.test/x/m.bin", False),
        ("https://a.test/*", "https://a.test/", True),
        ("https://a.test/**", "https://a.test/x/m.bin?a=b", True),
        ("https://a.test/**/m.*", "https://a.test/x/y/m.bin", True),
        ("https://a.test/**/m.*", "https://a.test/m.bin", False),
        ("**a*b", "a/ab", True),
        ("**", "", True),
        ("***", "x/y", True),
        ("*", "x/y", False),
        ("https://a.test/m?bin", "https://a.test/m.bin", True),
        ("https://a.test/m?a=b", "https://a.test/m?a=b", True),
        ("https://a.test/m?", "https://a.test/m", False),
        ("https://a.test/m", "https://a.test/m?a=b", False),
        ("https://a.test/m", "https://aXtest/m", False),
        ("https://a.test/[m]", "https://a.test/[m]", True),
        ("https://a.test/[m]", "https://a.test/m", False),
        ("https://*.test/m", "https://evil.example/x.test/m", False),
        ("https://a.test/m\n", "https://a.test/m", False),
        ("a?b", "a\nb", True),
        ("a?b", "a", False),
        ("", "", True),
    ],
)
def test_patterns(pattern, url, yes):
    """`*` stays within a segment, `**` does not, `?` is any character, all else is itself."""
    assert url_matches(pattern, url) is yes


def test_a_hostile_pattern_costs_little():
    """It is the caller's, and regular expressions would never end."""
    began = time.perf_counter()

    assert not url_matches("**a*a" * 800, "a" * 8000 + "b")
    assert not any(url_matches("?" * 4095 + "b", "a" * 4096) for _ in range(200))

    assert time.perf_counter() - began < 8


def test_the_first_match_wins():
    """In the order of the list."""
    first, second = (
        Credential(url_pattern=f"https://a.test/{end}", auth={"type": "bearer", "token": end})
        for end in ("*", "**")
    )

    assert auth_for([first, second], "https://a.test/m") is first.auth
    assert auth_for([first, second], "https://a.test/m/n") is second.auth
    assert auth_for([first, second], "https://b.test/m") is None


@pytest.mark.parametrize("auth", EVERY, ids=lambda auth: auth["type"])
def test_no_text_has_the_secret(auth):
    """Not repr, not str, not the JSON of the model, alone or in another one."""
    one = Credential.model_validate({"url_pattern": f"https://a.test/?k={SECRET}", "auth": auth})
    texts = [repr(one), str(one), f"{one.auth}", repr(Outer(credentials=[one]))]
    texts += [one.auth.model_dump_json(), str(one.auth.model_dump())]

    assert SECRET not in "".join(texts)
    assert one == Credential.model_validate(one.model_dump())
    assert len({one, one.model_copy()}) == 1


@pytest.mark.parametrize("auth", EVERY, ids=lambda auth: auth["type"])
def test_no_fault_has_the_secret(auth):
    """Whatever is wrong beside it."""
    spoilt = [{**auth, "type": "none"}, {**{key: [value] for key, value in auth.items()}}]
    spoilt += [{**auth, name: [SECRET]} for name in auth if name != "type"]
    spoilt += [{**auth, name: SECRET + "\n\0"} for name in auth if name not in SAFE]
    for bad in spoilt:
        with pytest.raises(ValidationError) as caught:
            Outer.model_validate({"credentials": [{"url_pattern": "*", "auth": bad}]})
        assert SECRET not in str(invalid_payload(caught.value).envelope())
        with pytest.raises(ValidationError) as caught:
            Credential.model_validate({"url_pattern": "*", "auth": bad})
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "auth",
    [
        {"type": "header", "header_name": "X Key", "header_value": "a"},
        {"type": "header", "header_name": "Range", "header_value": "bytes=0-"},
        {"type": "header", "header_name": "host", "header_value": "a"},
        {"type": "header", "header_name": "X-Key", "header_value": "a\r\nHost: b"},
        {"type": "bearer", "token": "a\nb"},
        {"type": "bearer", "token": ""},
        {"type": "query", "query_param": "", "query_value": "a"},
        {"type": "oauth", "token": "a"},
    ],
)
def test_what_would_break_the_request_is_refused(auth):
    """Line ends, names that make the request itself, unknown types."""
    with pytest.raises(ValidationError):
        Credential.model_validate({"url_pattern": "*", "auth": auth})


@pytest.mark.parametrize("empty", ["access_key_id", "secret_access_key"])
def test_s3_keys_are_not_empty(empty):
    """With empty ones boto3 would sign with the operator's, for an endpoint of the caller's."""
    keys = {"access_key_id": "a", "secret_access_key": "b", "endpoint": "http://evil.test"}

    with pytest.raises(ValidationError):
        S3Auth.model_validate({**keys, empty: ""})


def test_s3_needs_only_its_keys():
    """Endpoint, region and session are for some."""
    auth = S3Auth.model_validate({"access_key_id": "a", "secret_access_key": "b", "other": 1})

    assert (auth.session_token, auth.endpoint, auth.region) == (None, None, None)
    assert (auth.headers(), auth.query()) == ({}, {})
