"""Where a caller wants outputs to go, as the request says it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from handler.records import TARGET_KINDS
from handler.targets import Targets

SECRET = "canary4711secret"
EVERY = {
    "s3": {
        "bucket": "b-1",
        "prefix": "out/",
        "auth": {"access_key_id": "AK", "secret_access_key": SECRET, "session_token": SECRET},
    },
    "azure_blob_upload": {"container": "c-1", "auth": {"account": "acct", "key": SECRET}},
    "hf_upload": {"repo": "me/data", "auth": {"type": "bearer", "token": SECRET}},
    "http_upload": {
        "url_prefix": f"https://user:{SECRET}@e.org/up/",
        "auth": {"type": "query", "query_param": "t", "query_value": SECRET},
    },
    "gcs_upload": {"bucket": "bbb", "auth": {"type": "bearer", "token": SECRET}},
    "presigned": {"urls": [f"https://e.org/a?sig={SECRET}"], "headers": {"x-amz-acl": SECRET}},
    "volume": {"path": "/mnt/out"},
}


def read(kind, **fields):
    return Targets.model_validate({kind: fields}).targets()[0]


def test_all_targets_of_a_request_are_given_in_the_contracts_order():
    """The first one's URLs are the answer's."""
    found = Targets.model_validate(dict(reversed(EVERY.items()))).targets()

    assert [target.kind for target in found] == list(TARGET_KINDS)
    assert TARGET_KINDS[:4] == ("s3", "hf_upload", "azure_blob_upload", "http_upload")
    assert Targets().targets() == []


@pytest.mark.parametrize("kind", EVERY)
def test_no_text_made_of_a_target_has_a_secret(kind):
    """Neither what an answer repeats, nor a log."""
    target = read(kind, **EVERY[kind])

    assert SECRET not in f"{target!r} {target} {target.public()} {target.model_dump(mode='json')}"
    assert SECRET not in repr(Targets.model_validate(EVERY))


def test_an_answer_repeats_the_contracts_fields_with_their_defaults():
    """And what was added, without the secrets."""
    assert read("s3", bucket="bkt", prefix="").public() == {
        "async": False,
        "bucket": "bkt",
        "prefix": "",
    }
    assert read("azure_blob_upload", container="ccc").public() == {
        "async": False,
        "container": "ccc",
        "blob_prefix": "",
    }
    assert read("hf_upload", repo="a/b", **{"async": True}).public() == {
        "async": True,
        "repo": "a/b",
        "repo_type": "model",
        "revision": "main",
        "directory": "/",
    }
    assert read("http_upload", url_prefix="http://u:p@e.org:1/x").public() == {
        "async": False,
        "url_prefix": "http://e.org:1/x",
    }
    assert read("presigned", url="http://e.org/?a=b").public() == {"async": False, "urls": 1}


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        ("s3", {}, "bucket"),
        ("s3", {"bucket": "a/b"}, "bucket"),
        ("s3", {"bucket": "bkt", "endpoint": "ftp://e.org"}, "http"),
        ("s3", {"bucket": "bkt", "endpoint": f"https://u:{SECRET}@e.org"}, "without user"),
        ("s3", {"bucket": "bkt", "endpoint": "https://e.org:0"}, "http"),
        ("s3", {"bucket": "bkt", "region": "x.e.org/"}, "region"),
        ("s3", {"bucket": "bkt", "presign_s": 604801}, "presign_s"),
        ("s3", {"bucket": "bkt", "presgin_s": 60}, "did you mean presign_s"),
        ("s3", {"bucket": "bkt", "key": "{prefix}{secret}"}, "knows {prefix}"),
        ("s3", {"bucket": "bkt", "key": "{id.__class__}"}, "knows {prefix}"),
        ("s3", {"bucket": "bkt", "key": "{id!r}"}, "knows {prefix}"),
        ("s3", {"bucket": "bkt", "key": "{id"}, "expected '}'"),
        ("s3", {"bucket": "bkt", "prefix": "a\r\nb"}, "control characters"),
        ("s3", {"bucket": "bkt", "cache_control": "a\nX: y"}, "control characters"),
        ("s3", {"bucket": "bkt", "auth": {"type": "bearer", "token": SECRET}}, "auth"),
        (
            "s3",
            {
                "bucket": "bkt",
                "auth": {"access_key_id": "A", "secret_access_key": SECRET, "endpoint": "x:y"},
            },
            "http",
        ),
        ("azure_blob_upload", {"container": "A_B"}, "container"),
        ("azure_blob_upload", {"container": "ccc", "auth": {"account": "e.org/"}}, "account"),
        ("azure_blob_upload", {"container": "ccc", "auth": {"key": SECRET}}, "connection_string"),
        ("hf_upload", {"repo": "single"}, "repo"),
        ("hf_upload", {"repo": "a/b", "directory": "a/../b"}, "`..`"),
        ("hf_upload", {"repo": "a/b", "revision": "../x"}, "`..`"),
        ("http_upload", {"url_prefix": "file:///etc"}, "http"),
        ("http_upload", {"url_prefix": f"http://e.org/?t={SECRET}"}, "presigned"),
        ("http_upload", {"url_prefix": "http://["}, "http"),
        (
            "http_upload",
            {
                "url_prefix": "http://e.org",
                "auth": {"type": "s3", "access_key_id": "A", "secret_access_key": SECRET},
            },
            "named by `s3`",
        ),
        ("gcs_upload", {"bucket": "UPPER"}, "bucket"),
        ("presigned", {}, "either url or urls"),
        ("presigned", {"url": "http://e.org", "urls": ["http://e.org"]}, "either url or urls"),
        ("presigned", {"url": f"ftp://{SECRET}"}, "http"),
        ("presigned", {"url": "http://e.org", "key": "x"}, "takes no key"),
        ("presigned", {"url": "http://e.org", "headers": {"Host": "x"}}, "header"),
        ("presigned", {"url": "http://e.org", "headers": {"a": f"{SECRET}\n"}}, "headers"),
        ("volume", {"path": "/mnt/../etc"}, "`..`"),
        ("volume", {"path": "/mnt", "prefix": "../x"}, "`..`"),
        ("volume", {"path": "/mnt", "key": "../{filename}"}, "key has a `.` or `..`"),
        ("volume", {"path": "/mnt", "key": "{prefix}../{filename}"}, "key has a `.` or `..`"),
        ("volume", {"path": "/mnt", "prefix": ".", "key": "{prefix}./x"}, "`..`"),
        ("volume", {"path": "/mnt", "key": "//"}, "names no file"),
        ("hf_upload", {"repo": "a/b", "key": "a/../{filename}"}, "key has a `.` or `..`"),
    ],
)
def test_what_cannot_be_is_told_without_the_values(kind, fields, told):
    """They may be secret."""
    with pytest.raises(ValidationError) as caught:
        read(kind, **fields)
    assert SECRET not in str(caught.value)
    assert any(told in str((fault["loc"], fault["msg"])) for fault in caught.value.errors())


def test_unknown_keys_are_ignored():
    """As comfyui-api does, unless one is nearly a known one."""
    assert read("s3", bucket="bkt", color="red").public()["bucket"] == "bkt"


def test_names_begin_as_the_target_says():
    """Each provider's prefix is written another way."""
    assert read("s3", bucket="bkt", prefix="a b/").prefix_text == "a b/"
    assert read("azure_blob_upload", container="ccc", blob_prefix="/a/").prefix_text == "a/"
    assert read("hf_upload", repo="a/b").prefix_text == ""
    assert read("hf_upload", repo="a/b", directory="//x//y z/").prefix_text == "x/y z/"
    assert read("http_upload", url_prefix="http://e.org/a").prefix_text == ""
    assert read("gcs_upload", bucket="bbb", prefix="p").prefix_text == "p"
    assert read("volume", path="/mnt", prefix="p/").prefix_text == "p/"


def test_an_endpoint_may_stand_in_the_credentials():
    """As it does for downloads."""
    auth = {"access_key_id": "A", "secret_access_key": SECRET, "endpoint": "https://e.org"}

    assert read("s3", bucket="bkt", auth=auth).callers_endpoint == "https://e.org"
    assert read("s3", bucket="bkt", endpoint="https://f.org/").callers_endpoint == "https://f.org"
    assert read("s3", bucket="bkt").callers_endpoint is None
