"""The payload's schema and what is said of one that does not fit."""

from __future__ import annotations

import subprocess
import sys

import pytest
from live import REPO

from handler.errors import InvalidPayload, WorkflowFormatUi
from handler.payload import LARGEST_EXTRA, PromptRequest, parse_payload
from handler.records import TARGET_KINDS

GRAPH = {"1": {"class_type": "X", "inputs": {}}}


def test_the_smallest_payload_is_a_graph():
    """Everything else has a default."""
    request = parse_payload({"prompt": GRAPH})

    assert request == PromptRequest(prompt=GRAPH)
    assert (request.id, request.convert_output, request.extra_data) == (None, None, None)
    assert (request.include_temp, request.previews, request.timeouts) == (False, False, None)


def test_every_key_is_read():
    """Nothing that is documented is dropped."""
    request = parse_payload(
        {
            "prompt": GRAPH,
            "id": "me",
            "convert_output": {"format": "webp", "options": {"quality": 5}},
            "extra_data": {"api_key_comfy_org": "k"},
            "include_temp": True,
            "previews": True,
            "timeouts": {"queue_s": 1, "no_progress_s": 2, "total_s": 3},
            "credentials": [{"url_pattern": "**", "auth": {"type": "bearer", "token": "t"}}],
        }
    )

    assert (request.id, request.convert_output.format) == ("me", "webp")
    assert request.timeouts.total_s == 3
    assert (request.include_temp, request.previews) == (True, True)
    assert request.credentials[0].auth.headers() == {"Authorization": "Bearer t"}


def test_unknown_keys_are_ignored():
    """As comfyui-api does; its clients send keys of their own."""
    assert parse_payload({"prompt": GRAPH, "workflow": 1}) == PromptRequest(prompt=GRAPH)


@pytest.mark.parametrize("value", [[], "x", None, 3])
def test_a_prompt_that_is_no_object_is_left_to_the_pipeline(value):
    """There the answer says what the caller sent in place of a graph."""
    assert parse_payload({"prompt": value}).prompt == {"": value}


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ([], "a list"),
        ("x", "a text"),
        (1, "a number"),
        (1.5, "a number"),
        (True, "a boolean"),
        (None, "null"),
        (b"", "bytes"),
    ],
)
def test_a_payload_that_is_no_object_is_named(raw, named):
    """The message says what came."""
    with pytest.raises(InvalidPayload, match=f"not {named}$"):
        parse_payload(raw)


@pytest.mark.parametrize(
    ("keys", "location"),
    [
        ({"prompt": ...}, "prompt"),
        ({"id": ""}, "id"),
        ({"id": "x" * 513}, "id"),
        ({"id": 5}, "id"),
        ({"convert_output": {"format": "gif"}}, "convert_output"),
        ({"convert_output": "webp"}, "convert_output"),
        ({"extra_data": []}, "extra_data"),
        ({"include_temp": "perhaps"}, "include_temp"),
        ({"previews": 7}, "previews"),
        ({"timeouts": {"queue_s": 0}}, "timeouts.queue_s"),
        ({"timeouts": {"queue_s": -1}}, "timeouts.queue_s"),
        ({"timeouts": {"boot_s": 1}}, "timeouts.boot_s"),
        ({"timeouts": 5}, "timeouts"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(keys, location):
    """Blame caller, 400, and where."""
    raw = {k: v for k, v in {"prompt": GRAPH, **keys}.items() if v is not ...}
    with pytest.raises(InvalidPayload) as caught:
        parse_payload(raw)

    assert caught.value.location.startswith(location)
    assert caught.value.details[0]["location"] == caught.value.location
    assert caught.value.status == 400


def test_all_faults_are_told_without_the_values():
    """The values may be secret or large."""
    secret = {"prompt": GRAPH, "id": 5, "extra_data": "TOP-SECRET", "previews": "TOP-SECRET"}
    with pytest.raises(InvalidPayload) as caught:
        parse_payload(secret)

    assert [fault["location"] for fault in caught.value.details] == ["id", "extra_data", "previews"]
    assert "(and 2 more)" in caught.value.message
    assert "TOP-SECRET" not in str(caught.value.envelope())


def test_what_the_caller_trusts_us_with_stays_out_of_logs():
    """A printed request shows no keys."""
    auth = {"type": "s3", "access_key_id": "k3y", "secret_access_key": "k3y"}
    keys = {"extra_data": {"key": "k3y"}, "credentials": [{"url_pattern": "**", "auth": auth}]}
    request = parse_payload({"prompt": GRAPH, **keys})
    assert "k3y" not in f"{request!r} {request} {request.credentials}"


BEARER = {"type": "bearer", "token": "t"}


@pytest.mark.parametrize(
    ("credentials", "location"),
    [
        ("TOP-SECRET", "credentials"),
        ({"my-bucket": {"key": "TOP-SECRET"}}, "credentials"),
        (["TOP-SECRET"], "credentials.0"),
        ([{"url_pattern": "", "auth": BEARER}], "credentials.0.url_pattern"),
        ([{"url_pattern": "**"}], "credentials.0.auth"),
        ([{"url_pattern": "**", "auth": {"type": "TOP-SECRET"}}], "credentials.0.auth"),
        ([{"url_pattern": "**", "auth": {"token": "TOP-SECRET"}}], "credentials.0.auth"),
        ([{"url_pattern": "**", "auth": {"type": "bearer"}}], "credentials.0.auth.bearer.token"),
        (
            [
                {"url_pattern": "**", "auth": BEARER},
                {"url_pattern": "**", "auth": {**BEARER, "token": "TOP-SECRET\n"}},
            ],
            "credentials.1.auth.bearer.token",
        ),
        ([{"url_pattern": "**", "auth": BEARER}] * 101, "credentials"),
    ],
)
def test_credentials_that_cannot_be_used_name_their_place_and_no_value(credentials, location):
    """What was mistyped may be the secret itself."""
    with pytest.raises(InvalidPayload) as caught:
        parse_payload({"prompt": GRAPH, "credentials": credentials})

    assert caught.value.location == location
    assert "TOP-SECRET" not in str(caught.value.envelope())


def test_credentials_that_are_null_are_none():
    """Clients send every key."""
    assert parse_payload({"prompt": GRAPH, "credentials": None}).credentials == []


TARGETS = {
    "s3": {"bucket": "bbb"},
    "hf_upload": {"repo": "me/data"},
    "azure_blob_upload": {"container": "ccc"},
    "http_upload": {"url_prefix": "https://e.org/in"},
    "gcs_upload": {"bucket": "bbb"},
    "presigned": {"url": "https://e.org/put?sig=TOP-SECRET"},
    "volume": {"path": "/mnt/out"},
}


def test_what_is_delivered_where_is_read():
    """Every upload object, in the contract's order whatever that of the payload; the webhooks."""
    hooks = {
        "webhook": "https://e.org/old",
        "webhook_v2": "https://e.org/new",
        "webhook_extra": {"any": ["thing"]},
        "webhook_secret": "whsec_TOP-SECRET",
    }
    named = dict(reversed(TARGETS.items()))
    request = parse_payload({"prompt": GRAPH, **hooks, **named, "archive": "zip"})

    assert [target.kind for target in request.targets] == list(TARGET_KINDS) == list(TARGETS)
    assert request.webhook.get_secret_value() == hooks["webhook"]
    assert request.webhook_v2.get_secret_value() == hooks["webhook_v2"]
    assert request.webhook_secret.get_secret_value() == hooks["webhook_secret"]
    assert (request.webhook_extra, request.archive) == ({"any": ["thing"]}, "zip")
    assert "TOP-SECRET" not in f"{request!r} {request}"


def test_nothing_is_delivered_unless_that_is_asked_for():
    """Null is the same as left out; an empty URL is none."""
    keys = dict.fromkeys([*TARGETS, "webhook", "webhook_v2", "webhook_secret", "archive"])
    for nothing in ({}, keys, {"webhook": "", "webhook_v2": "", "webhook_secret": ""}):
        request = parse_payload({"prompt": GRAPH, **nothing})
        assert (request.targets, request.webhook, request.webhook_v2) == ((), None, None)
        assert (request.webhook_secret, request.archive) == (None, None)
        assert not request.asynchronous


@pytest.mark.parametrize(
    ("keys", "asynchronous"),
    [
        ({"webhook": "https://e.org"}, True),
        ({"webhook_v2": "https://e.org"}, True),
        ({"s3": {"bucket": "bbb"}}, False),
        ({"s3": {"bucket": "bbb", "async": False}}, False),
        ({"s3": {"bucket": "bbb", "async": True}}, True),
        ({"s3": {"bucket": "bbb"}, "volume": {"path": "/mnt", "async": True}}, True),
        ({"webhook_extra": None, "webhook_secret": None, "archive": "zip"}, False),
    ],
)
def test_a_payload_tells_whether_its_caller_waits(keys, asynchronous):
    """A webhook, or an upload with `async`, says that it does not."""
    assert parse_payload({"prompt": GRAPH, **keys}).asynchronous is asynchronous


@pytest.mark.parametrize(
    ("keys", "location"),
    [
        ({"webhook": 5}, "webhook"),
        ({"webhook_v2": "https://e.org/" + "TOP-SECRET" * 1000}, "webhook_v2"),
        ({"webhook_secret": "TOP-SECRET" * 1000}, "webhook_secret"),
        ({"archive": "tar"}, "archive"),
        ({"s3": {}}, "s3.bucket"),
        ({"s3": "TOP-SECRET"}, "s3"),
        ({"s3": []}, "s3"),
        ({"s3": {"bucket": "bbb", "async": "perhaps"}}, "s3.async"),
        ({"http_upload": {"url_prefix": "ftp://TOP-SECRET"}}, "http_upload.url_prefix"),
        ({"presigned": {}}, "presigned"),
    ],
)
def test_a_delivery_that_cannot_be_read_is_told_with_its_place(keys, location):
    """And without the value, which may be secret."""
    with pytest.raises(InvalidPayload) as caught:
        parse_payload({"prompt": GRAPH, **keys})

    assert caught.value.location == location
    assert "TOP-SECRET" not in str(caught.value.envelope())


def test_what_stores_need_is_loaded_by_who_needs_it():
    """The schemas of uploads take a tenth of a second: most payloads have none."""
    program = (
        "import sys; from handler.payload import parse_payload\n"
        "graph = {'1': {'class_type': 'X', 'inputs': {}}}\n"
        "parse_payload({'prompt': graph, 's3': None, 'webhook_v2': 'https://e.org'})\n"
        "print('handler.targets' in sys.modules)\n"
        "parse_payload({'prompt': graph, 's3': {'bucket': 'bbb'}})\n"
        "print('handler.targets' in sys.modules)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["False", "True"]


IN_INPUT = "send what is in `input`, or use `comfyfn serve --as runpod`"


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        ({"promt": {}}, "did you mean prompt?"),
        ({"prompt": {}, "convert_outptu": {}}, "did you mean convert_output?"),
        ({"prompt": {}, "webhok": "x"}, "did you mean webhook?"),
        ({"prompt": {}, "http_uplaod": {}}, "did you mean http_upload?"),
        ({"prompt": {}, "gcs_uploads": {}}, "did you mean gcs_upload?"),
        ({"prompt": {}, "volumes": {}}, "did you mean volume?"),
        ({"prompt": {}, "presignd": {}}, "did you mean presigned?"),
        ({"1": {"class_type": "LoadImage"}}, 'send it as {"prompt": <graph>}'),
        ({"input": {"prompt": {}}}, IN_INPUT),
        ({"input": {"workflow": {}}, "id": "x"}, IN_INPUT),
    ],
)
def test_what_was_nearly_right_is_told_how(raw, hint):
    """A misspelt key or a bare graph is refused with what was meant."""
    with pytest.raises(InvalidPayload) as caught:
        parse_payload(raw)

    assert caught.value.hint == hint


def test_a_misspelt_key_of_a_target_is_told():
    """With its place, and what was meant."""
    with pytest.raises(InvalidPayload, match="did you mean bucket") as caught:
        parse_payload({"prompt": {}, "s3": {"bukcet": "bbb"}})
    assert caught.value.location == "s3"


def test_a_bare_graph_of_the_editor_is_named():
    """Save's format is told apart at the top level, too."""
    with pytest.raises(WorkflowFormatUi):
        parse_payload({"nodes": [], "links": []})


def test_patterns_have_a_limit_together():
    """Every URL of a graph is held against all of them; what has no `*` is soon told."""
    long = "https://h.example/" + "a" * 4000

    def credentials(pattern):
        entries = [{"url_pattern": pattern, "auth": BEARER}] * 5
        return {"prompt": {}, "credentials": entries}

    assert len(parse_payload(credentials(long)).credentials) == 5
    with pytest.raises(InvalidPayload, match="16384 characters") as caught:
        parse_payload(credentials(f"{long}*"))
    assert caught.value.location == "credentials"


@pytest.mark.parametrize("key", ["webhook_secret", "webhook_extra"])
@pytest.mark.parametrize("hook", [{}, {"webhook": ""}, {"webhook_v2": None}])
def test_what_is_for_a_webhook_needs_one(key, hook):
    """Else a caller waits for a post that nobody was asked for."""
    with pytest.raises(InvalidPayload, match="no webhook") as caught:
        parse_payload({"prompt": GRAPH, key: "whsec_x", **hook})
    assert caught.value.location == key
    assert "webhook_v2" in caught.value.hint
    assert parse_payload({"prompt": GRAPH, key: "whsec_x", "webhook_v2": "https://e.org"})


def test_what_comes_back_in_every_post_is_small():
    """It fills the outbox of all callers."""
    hook = {"webhook_v2": "https://example.com/"}
    assert parse_payload({"prompt": {}, **hook, "webhook_extra": {"a": [1]}}).webhook_extra
    with pytest.raises(InvalidPayload) as caught:
        parse_payload({"prompt": {}, **hook, "webhook_extra": "x" * LARGEST_EXTRA})
    assert caught.value.location == "webhook_extra"
