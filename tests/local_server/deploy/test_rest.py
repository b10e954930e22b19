"""The client of REST APIs: what error answers say, and which key of the file is meant."""

from __future__ import annotations

import httpx
import pytest
from platforms.api_double import ApiDouble, Refused

from local_server.deploy.faults import DeployFailed
from local_server.deploy.plan import Request
from local_server.deploy.rest import Api, told
from local_server.deploy.secret import Secret


class Echo(ApiDouble):
    """Answers with what it was sent."""

    def problem(self, status, detail, errors=None):
        return {"title": "Refused", "status": status, "detail": detail, "errors": errors or []}

    def handle(self, method, path, headers, body):
        return 200, {"body": body, "key": headers.get("X-Key")}


@pytest.fixture
def echo():
    with Echo() as double:
        yield double


def open_api(echo, **options):
    fields = {"container.image": "image", "container": "the container"}
    return Api("Echo", echo.url, {"X-Key": "canary-key"}, key_name="KEY", fields=fields, **options)


def test_secrets_are_sent_as_they_are(echo):
    """With the key, and the request's own content type."""
    request = Request("PATCH", f"{echo.url}/x", {"t": Secret("s")}, "application/merge-patch+json")
    with open_api(echo) as api:
        answer = api.send(request)
    assert answer == {"body": {"t": "s"}, "key": "canary-key"}
    assert echo.seen[0].content_type == "application/merge-patch+json"


def test_a_refusal_never_repeats_a_secret(echo):
    """Neither the key nor one of the body."""
    echo.fail("POST", "/x", Refused(422, "bad canary-1 for canary-key", ["$.t: canary-1"]))
    with open_api(echo) as api, pytest.raises(DeployFailed) as caught:
        api.send(Request("POST", f"{echo.url}/x", {"t": Secret("canary-1")}))
    assert "canary" not in f"{caught.value.message} {caught.value.hint}"
    assert "bad *** for ***" in caught.value.message


def test_the_nearest_key_of_the_file_is_named(echo):
    """A field below one that is known counts as that."""
    problems = {"container.image[0].tag": ["no such tag"]}
    echo.fail("POST", "/x", Refused(400, "validation", problems))
    with open_api(echo) as api, pytest.raises(DeployFailed) as caught:
        api.send(Request("POST", f"{echo.url}/x", {}))
    assert caught.value.hint.startswith("in deploy.yaml that is image;")


def test_what_is_not_there_may_be_missing(echo):
    """Where that is allowed; else it is an error."""
    echo.fail("GET", "/x", Refused(404, "none"))
    with open_api(echo) as api:
        assert api.get("/x", missing_ok=True) is None
        with pytest.raises(DeployFailed, match="404"):
            api.get("/x")


def test_a_list_of_another_shape_is_told(echo):
    """An address that is no platform's may answer anything."""
    with open_api(echo) as api, pytest.raises(DeployFailed, match="without a list of things"):
        api.items("/x", "things")


def test_a_write_without_an_answer_may_have_been_done(echo):
    """A timeout says nothing of what happened."""
    echo.fail("POST", "/x", "hang up")
    with open_api(echo) as api, pytest.raises(DeployFailed) as caught:
        api.send(Request("POST", f"{echo.url}/x", {}))
    assert "may have been done" in caught.value.message
    assert caught.value.retryable
    assert len(echo.seen) == 1


@pytest.mark.parametrize(
    ("answer", "text", "fields"),
    [
        ({"text": "<h1>bad\n gateway</h1>"}, "<h1>bad gateway</h1>", []),
        ({"json": "no"}, "no", []),
        ({"json": {"message": "no"}}, "no", []),
        (
            {"json": {"title": "T", "errors": {"$.a.b[0]": ["x", "y"]}}},
            "T; $.a.b[0]: x, y",
            ["a.b"],
        ),
        ({"json": {"title": "T", "errors": ["$.a.b: x"]}}, "T; $.a.b: x", ["a.b"]),
        ({"json": {"title": "T", "errors": ["/a/b: x"]}}, "T; /a/b: x", ["a.b"]),
        ({"json": {}}, "Bad Request", []),
    ],
)
def test_error_answers_are_read_in_every_form(answer, text, fields):
    """Problem details with texts or with fields, plain texts, and nothing at all."""
    assert told(httpx.Response(400, **answer)) == (text, fields)


@pytest.mark.parametrize(
    "said",
    [
        'the variable is {"t": "-----BEGIN\\ncanary \\"key\\"\\n"}',
        repr('-----BEGIN\ncanary "key"\n'),
        '-----BEGIN canary "key"',
        "x" * 1985 + '-----BEGIN\ncanary "key"\n',
    ],
)
def test_a_secret_is_blotted_out_however_it_is_repeated(echo, said):
    """Within other JSON, in one line, or cut where a long answer is."""
    secret = '-----BEGIN\ncanary "key"\n'
    echo.fail("POST", "/x", Refused(422, said))
    with open_api(echo) as api, pytest.raises(DeployFailed) as caught:
        api.send(Request("POST", f"{echo.url}/x", {"t": Secret(secret)}))
    assert "BEGIN" not in f"{caught.value.message} {caught.value.hint}"
    assert "***" in caught.value.message
