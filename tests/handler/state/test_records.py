"""What is remembered of a job, as bytes and back."""

from __future__ import annotations

import time
from dataclasses import replace

import orjson
import pytest

from handler.state.records import (
    EVENTS_TAIL,
    BrokenRecord,
    OutputRecord,
    decode,
    encode,
    payload_digest,
)

CANARY = "canary4711secret"
GRAPH = {"1": {"class_type": "A", "inputs": {"seed": 2**64 - 1, "x": 1.5}}}


def test_a_record_comes_back_as_it_was(record):
    """Outputs and events included."""
    output = OutputRecord("a b.png", "image/png", 5, "0" * 64, {"node_id": "9"}, url="https://e/")
    full = record(
        phase="succeeded",
        finished=2000.5,
        key="header:k",
        outputs=(output,),
        stats={"nodes": {"1": 2}},
        events=({"type": "phase"},),
    )

    assert decode(encode(full)) == full
    assert full.output("a b.png") is output
    assert full.output("other") is None


def test_what_a_later_version_adds_is_passed_over(record):
    """As long as it is of the same format."""
    told = orjson.loads(encode(record(outputs=(OutputRecord("a", "b", 1, "c"),))))
    told["later"] = told["outputs"][0]["later"] = 1

    assert decode(orjson.dumps(told)).outputs[0].name == "a"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"format":2}', b'{"format":1}', b'{"format":1,"id":"a"}']
)
def test_what_is_no_record_is_told(body):
    """One of another format, too."""
    with pytest.raises(BrokenRecord):
        decode(body)


def test_lone_surrogates_and_large_numbers_do_not_stop_a_record(record):
    """ComfyUI tells both."""
    odd = record(error={"error": "a\ud800b"}, stats={1: 2**70})

    assert decode(encode(odd)).error == {"error": "a\\ud800b"}


def test_final_and_retryable_follow_the_phase(record):
    """An error's envelope says whether another try may do."""
    failed = record(phase="failed", error={"retryable": True})

    assert failed.final
    assert failed.retryable
    assert not replace(failed, error={"retryable": False}).retryable
    assert not record(phase="running").final
    assert record(phase="cancelled").final
    assert not record(phase="cancelled", error={"retryable": False}).retryable
    assert record(phase="cancelled", error={"retryable": True}).retryable  # never begun
    assert not record(phase="succeeded").retryable


def test_only_the_newest_events_stay(record):
    """The record is read often: it must be small."""
    one = record()
    for number in range(EVENTS_TAIL + 3):
        one = one.told({"seq": number})

    assert [event["seq"] for event in one.events] == list(range(3, EVENTS_TAIL + 3))


def test_the_digest_knows_the_payload_and_not_its_secrets():
    """The order of keys is no difference; fresh credentials are none, either."""
    payload = {"prompt": GRAPH, "id": "a", "s3": {"bucket": "b", "auth": {"secret": CANARY}}}
    digest = payload_digest(payload)
    again = {
        "s3": {"auth": {"secret": "other"}, "bucket": "b"},
        "credentials": [{"auth": CANARY}],
        "extra_data": {"api_key_comfy_org": CANARY},
        "webhook_secret": CANARY,
        "id": "a",
        "prompt": GRAPH,
    }

    assert payload_digest(again) == digest
    assert payload_digest({**payload, "id": "b"}) != digest
    assert payload_digest({**payload, "s3": {"bucket": "c"}}) != digest
    assert payload_digest({**payload, "prompt": {"1": {"inputs": {"auth": 1}}}}) != digest
    assert payload_digest({"prompt": {"auth": {}}}) != payload_digest({"prompt": {}})


@pytest.mark.parametrize(
    ("payload", "other"),
    [
        ({"s3": {"auth": {"endpoint": "https://a"}}}, {"s3": {"auth": {"endpoint": "https://b"}}}),
        (
            {"azure_blob_upload": {"auth": {"account": "a"}}},
            {"azure_blob_upload": {"auth": {"account": "b"}}},
        ),
        (
            {"azure_blob_upload": {"auth": {"connection_string": "AccountName=a;AccountKey=k"}}},
            {"azure_blob_upload": {"auth": {"connection_string": "AccountName=b;AccountKey=k"}}},
        ),
        (
            {"credentials": [{"url_pattern": "s3://b/*", "auth": {"endpoint": "https://a"}}]},
            {"credentials": [{"url_pattern": "s3://b/*", "auth": {"endpoint": "https://b"}}]},
        ),
    ],
)
def test_another_store_is_another_payload(payload, other):
    """The same bucket and name elsewhere is another file, whoever asks."""
    assert payload_digest(payload) != payload_digest(other)


def test_fresh_keys_of_the_same_store_are_the_same_payload():
    """Whoever comes again may have been lent new ones."""

    def sent(key):
        auth = {"endpoint": "https://a", "access_key_id": key, "secret_access_key": key}
        text = f"AccountName=a;AccountKey={key}"
        return {
            "s3": {"bucket": "b", "auth": auth},
            "azure_blob_upload": {"auth": {"connection_string": text}},
            "credentials": [{"url_pattern": "s3://b/*", "auth": auth}],
        }

    assert payload_digest(sent("old")) == payload_digest(sent("new"))


def test_what_is_nested_too_deeply_is_told_at_once():
    """Also where it is large: the event loop waits for it."""
    deep: list = []
    for _ in range(600):
        deep = [deep]
    begun = time.monotonic()

    with pytest.raises(ValueError, match="deeply"):
        payload_digest({"prompt": {}, "large": [0] * 2_000_000, "deep": deep})

    assert time.monotonic() - begun < 5


def test_every_json_has_a_digest():
    """Seeds of more than 64 bits and texts that are no Unicode, too."""
    assert len(payload_digest({"prompt": {"a\ud800": [2**80, None, "\udfff"]}})) == 64
    assert payload_digest({"prompt": {"a": 2**80}}) != payload_digest({"prompt": {"a": 2**80 + 1}})


def test_no_repr_shows_a_url_or_a_key(record):
    """They may let anybody in."""
    output = OutputRecord("a", "b", 1, "c", url=f"https://e/?X-Amz-Signature={CANARY}")

    assert CANARY not in repr(record(outputs=(output,), key=CANARY))


def test_a_text_is_whole_where_the_record_has_all_of_it():
    """Its beginning alone is no result."""

    def entry(size, **facts):
        return OutputRecord("a", "text/plain", size, "00", facts)

    assert entry(3, text="éa").whole
    assert not entry(5000, text="a" * 4096).whole
    assert not entry(0).whole


def signed(host="h", path="a", query="", sign="1", **more):
    """Give a URL as S3 signs it."""
    url = f"https://{host}/{path}?{query}X-Amz-Date={sign}&X-Amz-Signature={sign}&x-id=PutObject"
    return {"presigned": {"url": url, **more}}


@pytest.mark.parametrize(
    ("payload", "again"),
    [
        (signed(), signed(sign="2")),
        (signed(headers={"x-amz-acl": CANARY}), signed(headers={"x-amz-acl": "other"})),
        (signed(headers={"x-amz-acl": CANARY}), signed()),
        (
            {"presigned": {"urls": [f"https://me:{CANARY}@h/a?sv=1&sp=w&sig=1", "https://h/b"]}},
            {"presigned": {"urls": ["https://h/a?sig=2&sv=2&sp=w&se=3", "https://h/b"]}},
        ),
        (
            {"http_upload": {"url_prefix": f"https://me:{CANARY}@h/up"}},
            {"http_upload": {"url_prefix": "https://you:other@h/up"}},
        ),
        ({"webhook_v2": f"https://me:{CANARY}@h/"}, {"webhook_v2": "https://h/"}),
    ],
)
def test_fresh_signatures_and_passwords_are_the_same_payload(payload, again):
    """Whoever sends it again may have been lent new ones."""
    assert payload_digest({"prompt": GRAPH, **payload}) == payload_digest(
        {"prompt": GRAPH, **again}
    )


@pytest.mark.parametrize(
    ("payload", "other"),
    [
        (signed(), signed(path="b")),
        (signed(), signed(host="g")),
        (signed(query="file=a&"), signed(query="file=b&")),
        (signed(), signed(content_type="image/png")),
        ({"presigned": {"url": "https://h/?file=a"}}, {"presigned": {"url": "https://h/?file=b"}}),
        ({"presigned": {"urls": ["https://h/a"]}}, {"presigned": {"urls": ["https://h/a"] * 2}}),
        (
            {"http_upload": {"url_prefix": "https://me:p@h/up"}},
            {"http_upload": {"url_prefix": "https://me:p@g/up"}},
        ),
        ({"webhook": "https://h/?job=1"}, {"webhook": "https://h/?job=2"}),
        ({"id": "x://a@b"}, {"id": "x://c@b"}),
        ({"prompt": {"1": "https://a@h/"}}, {"prompt": {"1": "https://b@h/"}}),
    ],
)
def test_another_place_is_another_payload(payload, other):
    """However it is signed."""
    assert payload_digest({"prompt": GRAPH, **payload}) != payload_digest(
        {"prompt": GRAPH, **other}
    )


def test_urls_that_are_none_have_a_digest():
    """They are refused elsewhere."""
    for odd in ("http://[", 5, None, ["x"]):
        assert payload_digest({"presigned": {"url": odd, "urls": odd}, "webhook": odd})
