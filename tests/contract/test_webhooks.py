"""Rows 16 to 21 of comfyui-api's own suite, webhooks of prompts; and what goes beyond them."""

from __future__ import annotations

import base64
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import svix.webhooks
from contract.graphs import (
    Graph,
    animation,
    assert_same_pixels,
    encoded,
    inverted,
    negative,
    photo,
    picture_of,
    plain,
    refused,
    tone,
)
from live import LiveServer, live_server
from prometheus_client.parser import text_string_to_metric_families
from receiver import Post, Receiver, receiving
from sources.puts import storing
from sources.threaded import threaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

# The suite's `testsecret`: who made it unpadded pads it, as the suite's own receiver does.
SECRET = "testsecret=="
OWN_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FORMS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


@dataclass(frozen=True, slots=True)
class Hook:
    """A path of a receiver that only one test is told of."""

    receiver: Receiver
    path: str

    @property
    def url(self) -> str:
        """Where posts go."""
        return self.receiver.url(self.path)

    def posts(self) -> list[Post]:
        """Give what came."""
        return [post for post in list(self.receiver.posts) if post.path == self.path]

    def told(self, server: LiveServer, job_id: str) -> list[dict[str, Any]]:
        """Give all that a job tells here: it is over, and no post is on its way any more."""
        until(lambda: _told(server, job_id) == {"delivered"})
        until(lambda: letters(server)["pending"] == 0)
        return [orjson.loads(post.body) for post in self.posts()]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Give a receiver that answers everything with 200."""
    with threaded(receiving()) as running:
        yield running


@pytest.fixture
def hook(receiver: Receiver) -> Hook:
    """Give a path of the test's own."""
    return Hook(receiver, f"/{secrets.token_hex(4)}")


@pytest.fixture
def other(receiver: Receiver) -> Hook:
    """Give one more."""
    return Hook(receiver, f"/{secrets.token_hex(4)}")


def until(what: Any, limit_s: float = 50.0) -> Any:
    """Wait until a call gives something true, and give that."""
    deadline = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def _told(server: LiveServer, job_id: str) -> set[str]:
    """Give what the record of a job says of its webhooks."""
    webhooks = server.get(f"/jobs/{job_id}").json()["webhooks"] or {}
    return {entry["status"] for entry in webhooks.values()}


def letters(server: LiveServer) -> dict[str, float]:
    """Count the letters of a server's outbox by their state."""
    for family in text_string_to_metric_families(server.get("/metrics").text):
        if family.name == "comfyfn_webhook_letters":
            return {one.labels["state"]: one.value for one in family.samples}
    raise AssertionError("no figures of webhooks")


def taken(answer: Any) -> dict[str, Any]:
    """Give the body of a 202."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body.get("status")) == (202, "ok"), answer.text[:2000]
    assert answer.headers["location"] == f"/jobs/{body['id']}"
    return body


def wide(batch: int = 1) -> Graph:
    """Give a graph of pictures as the suite's are: 512 by 512."""
    return plain(width=512, height=512, batch=batch)


def between(class_type: str, **inputs: Any) -> Graph:
    """Give a graph with a node of the embedded engine's own before its last one."""
    node = {"class_type": class_type, "inputs": {"image": ["1", 0], **inputs}}
    graph = plain()
    graph["2"]["inputs"]["images"] = ["3", 0]
    return {**graph, "3": node}


def raising(message: str) -> Graph:
    """Give a graph whose middle node fails."""
    return between("TestRaise", message=message)


def sent_photo() -> tuple[Image.Image, str]:
    """Give a picture as the suite sends one in: 768 by 768, as base64."""
    picture = photo(768, 768)
    return picture, base64.b64encode(encoded(picture)).decode()


def valid(name: str, image: str, size: tuple[int, int] = (512, 512)) -> Image.Image:
    """Check a picture as the suite does: its size, and its real format by its name."""
    picture = picture_of(base64.b64decode(image, validate=True))
    assert (picture.size, picture.format) == (size, FORMS[name.rpartition(".")[2]])
    return picture


def legacy(
    server: LiveServer, hook: Hook, graph: Graph, count: int, size: tuple[int, int] = (512, 512)
) -> list[Image.Image]:
    """Run a graph for a legacy webhook, and check its posts as the suite does."""
    body = taken(server.prompt(graph, webhook=hook.url))
    told = hook.told(server, body["id"])

    assert len(told) == count
    for post in told:
        assert set(post) == {"event", "image", "id", "filename", "prompt", "stats"}
        assert (post["event"], post["id"]) == ("output.complete", body["id"])
    assert len({post["filename"] for post in told}) == count
    assert all("webhook-signature" not in post.headers for post in hook.posts())
    return [valid(post["filename"], post["image"], size) for post in told]


def version_2(
    server: LiveServer, hook: Hook, graph: Graph, count: int, size: tuple[int, int] = (512, 512)
) -> list[Image.Image]:
    """Run a graph for `webhook_v2`, and check its only post as the suite does."""
    body = taken(server.prompt(graph, webhook_v2=hook.url))
    (told,) = hook.told(server, body["id"])
    (post,) = hook.posts()

    post.verify(SECRET)
    assert post.headers["content-type"] == "application/json"
    assert body["id"] == told["id"] == post.id
    assert told["type"] == "prompt.complete"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["timestamp"])
    assert (len(told["images"]), len(told["filenames"])) == (count, count)
    assert {"prompt", "stats"} <= set(told)
    pairs = zip(told["filenames"], told["images"], strict=True)
    return [valid(name, image, size) for name, image in pairs]


# -- the suite's rows ---------------------------------------------------------------------------


def test_row_16_legacy_one_picture(server: LiveServer, hook: Hook) -> None:
    """Row 16: one POST; its id is the 202's, its picture valid."""
    legacy(server, hook, wide(), 1)


def test_row_17_legacy_batch_of_four(server: LiveServer, hook: Hook) -> None:
    """Row 17: four POSTs, each valid."""
    legacy(server, hook, wide(4), 4)


def test_row_18_legacy_picture_as_base64(server: LiveServer, hook: Hook) -> None:
    """Row 18: of a picture that was sent as base64, 768 by 768."""
    picture, text = sent_photo()

    (found,) = legacy(server, hook, inverted(text), 1, (768, 768))

    assert_same_pixels(found, negative(picture))


def test_row_19_one_picture(server: LiveServer, hook: Hook) -> None:
    """Row 19: one POST that svix verifies; the body's id and `webhook-id` are the 202's."""
    version_2(server, hook, wide(), 1)


def test_row_20_batch_of_four(server: LiveServer, hook: Hook) -> None:
    """Row 20: one POST with four images."""
    version_2(server, hook, wide(4), 4)


def test_row_21_picture_as_base64(server: LiveServer, hook: Hook) -> None:
    """Row 21: of a picture that was sent as base64, 768 by 768."""
    picture, text = sent_photo()

    (found,) = version_2(server, hook, inverted(text), 1, (768, 768))

    assert_same_pixels(found, negative(picture))


# -- beyond them --------------------------------------------------------------------------------


def test_the_202_repeats_what_was_taken(server: LiveServer, hook: Hook) -> None:
    """The fields of the request with defaults filled in, but for secrets and unknown keys."""
    url = hook.url.replace("http://", "http://me:canary@") + "?token=canary"
    graph = plain()
    keys = {
        "id": "accepted",
        "webhook_v2": url,
        "webhook_secret": OWN_SECRET,
        "convert_output": {"format": "webp", "options": {"quality": 80}},
        "http_upload": None,
        "nonsense": 1,
    }
    answer = server.prompt(graph, **keys)
    body = taken(answer)

    assert set(body) == {"id", "prompt", "convert_output", "webhook_v2", "status"}
    assert (body["id"], body["prompt"]) == ("accepted", graph)
    assert body["webhook_v2"] == f"{hook.url}?token=..."
    assert body["convert_output"]["format"] == "webp"
    assert body["convert_output"]["options"]["quality"] == 80
    assert "canary" not in answer.text
    hook.told(server, "accepted")


def test_what_the_caller_gave_along_comes_back(server: LiveServer, hook: Hook, other: Hook) -> None:
    """`webhook_extra` is in every post of either form, as it was sent."""
    extra = {"order": [1, {"ü": None}], "big": 2**53 + 1}
    body = taken(
        server.prompt(plain(batch=2), webhook=other.url, webhook_v2=hook.url, webhook_extra=extra)
    )
    (told,) = hook.told(server, body["id"])

    assert told["webhook_extra"] == extra
    assert [post["webhook_extra"] for post in other.told(server, body["id"])] == [extra, extra]


def test_the_callers_own_secret_signs(server: LiveServer, hook: Hook) -> None:
    """In place of the operator's, which a receiver of the caller's does not know."""
    body = taken(server.prompt(plain(), webhook_v2=hook.url, webhook_secret=OWN_SECRET))
    (told,) = hook.told(server, body["id"])
    (post,) = hook.posts()

    post.verify(OWN_SECRET)
    with pytest.raises(svix.webhooks.WebhookVerificationError):
        post.verify(SECRET)
    assert OWN_SECRET not in str(told)
    assert OWN_SECRET not in server.log.read_text()


def test_both_forms_are_served(server: LiveServer, hook: Hook, other: Hook) -> None:
    """First the posts per output, then the one of all, as comfyui-api has it."""
    body = taken(server.prompt(wide(2), webhook=other.url, webhook_v2=hook.url))
    (told,) = hook.told(server, body["id"])
    each = other.told(server, body["id"])

    assert [post["image"] for post in each] == told["images"]
    assert [post["filename"] for post in each] == told["filenames"]
    assert max(post.at for post in other.posts()) < hook.posts()[0].at


def test_every_kind_of_file_is_posted(server: LiveServer, hook: Hook) -> None:
    """An animation is a medium like a picture: its bytes come as they are."""
    body = taken(server.prompt(animation(5), webhook=hook.url))
    (told,) = hook.told(server, body["id"])

    content = base64.b64decode(told["image"], validate=True)
    assert told["filename"].endswith(".webp")
    assert content[:4] + content[8:12] == b"RIFFWEBP"


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize(("key", "name"), [("gifs", "clip.mp4"), ("audio", "tone.flac")])
def test_videos_and_sounds_are_posted(server: LiveServer, hook: Hook, key: str, name: str) -> None:
    """Whatever key ComfyUI tells them under; comfyui-api's clients decode `image`."""
    inputs = {"name": name, "size_bytes": 300_000, "key": key}
    graph = {"1": {"class_type": "TestFile", "inputs": inputs}}
    body = taken(server.prompt(graph, webhook=hook.url))
    (told,) = hook.told(server, body["id"])

    assert told["filename"].endswith(name)
    assert base64.b64decode(told["image"], validate=True) == bytes(300_000)


@pytest.mark.comfyui
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_a_real_sound_is_posted(server: LiveServer, hook: Hook) -> None:
    """ComfyUI's own audio nodes: a WAV file in, a FLAC file out."""
    graph = {
        "1": {
            "class_type": "LoadAudio",
            "inputs": {"audio": f"data:audio/wav;base64,{base64.b64encode(tone()).decode()}"},
        },
        "2": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": "a"}},
    }
    body = taken(server.prompt(graph, webhook=hook.url))
    (told,) = hook.told(server, body["id"])

    assert told["event"] == "output.complete", told
    assert told["filename"].endswith(".flac")
    assert base64.b64decode(told["image"], validate=True)[:4] == b"fLaC"


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_failure_is_told_with_its_reason(server: LiveServer, hook: Hook, other: Hook) -> None:
    """Signed, with the whole envelope; where both forms are asked for, `webhook_v2` alone."""
    graph = raising("oh no")
    keys = {"webhook": other.url, "webhook_v2": hook.url, "webhook_extra": "mine"}
    body = taken(server.prompt(graph, **keys))
    (told,) = hook.told(server, body["id"])
    (post,) = hook.posts()

    post.verify(SECRET)
    assert (told["type"], told["id"], post.id) == ("prompt.failed", body["id"], body["id"])
    assert "oh no" in told["error"]
    assert (told["code"], told["node_id"], told["retryable"]) == ("execution_error", "3", False)
    assert (told["prompt"], told["webhook_extra"]) == (graph, "mine")
    assert told.items() >= server.get(f"/jobs/{body['id']}").json()["error"].items()
    assert other.posts() == []


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_failure_is_told_in_the_older_form(server: LiveServer, hook: Hook) -> None:
    """`event`, `id`, `prompt` and `error`, as comfyui-api has it."""
    graph = raising("oh no")
    body = taken(server.prompt(graph, webhook=hook.url))
    (told,) = hook.told(server, body["id"])

    assert (told["event"], told["id"]) == ("prompt.failed", body["id"])
    assert told["prompt"] == graph
    assert "oh no" in told["error"]


def test_failures_before_and_after_the_run_are_told(
    server: LiveServer, hook: Hook, other: Hook
) -> None:
    """An input that cannot be fetched, a storage that is not there: comfyui-api told neither."""
    with threaded(storing()) as store:
        store.replies = [(403, {}, "not you")] * 2
        lost = taken(server.prompt(inverted(store.url("/a.png")), webhook_v2=hook.url))
        upload = {"url_prefix": store.url("/up")}
        unstored = taken(server.prompt(plain(), webhook_v2=other.url, http_upload=upload))
        (before,), (after,) = hook.told(server, lost["id"]), other.told(server, unstored["id"])

    assert (before["type"], before["code"]) == ("prompt.failed", "access_denied")
    assert (after["type"], after["code"]) == ("prompt.failed", "upload_failed")
    assert "http_upload" in after["error"]


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_cancelled_job_is_told_as_such(server: LiveServer, hook: Hook, other: Hook) -> None:
    """`prompt.cancelled` for who knows it; in the older form a failure."""
    graph = between("TestSleep", seconds=60.0, steps=600)
    first = taken(server.prompt(graph, webhook_v2=hook.url))
    second = taken(server.prompt(graph, webhook=other.url))
    for body in (first, second):
        cancelled = server.post(f"/jobs/{body['id']}/cancel", None)
        assert cancelled.json()["cancelled"] is True
    (told,), (older,) = hook.told(server, first["id"]), other.told(server, second["id"])

    hook.posts()[0].verify(SECRET)
    assert (told["type"], told["id"], told["code"]) == (
        "prompt.cancelled",
        first["id"],
        "cancelled",
    )
    assert (older["event"], older["id"]) == ("prompt.failed", second["id"])
    assert older["code"] == "cancelled"


def test_a_graph_that_cannot_run_is_refused_at_once(server: LiveServer, hook: Hook) -> None:
    """With the 400 that a caller who waits gets, and no post: the caller knows."""
    body = refused(
        server.prompt({"1": {"class_type": "Nope", "inputs": {}}}, webhook_v2=hook.url),
        400,
        "invalid_workflow",
    )

    assert "Nope" in body["error"]
    until(lambda: letters(server)["pending"] == 0)
    assert hook.posts() == []


def test_a_receiver_that_may_not_be_reached_is_refused(
    strict_server: LiveServer, hook: Hook
) -> None:
    """Before anything runs, and by the key it is in."""
    for key in ("webhook", "webhook_v2"):
        answer = strict_server.prompt(plain(), **{key: hook.url})
        assert refused(answer, 400, "url_not_allowed")["location"] == key
    assert hook.posts() == []


@pytest.fixture(scope="module")
def unsigned_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Give a server without a secret."""
    home = tmp_path_factory.mktemp("unsigned")
    with live_server(home, URL_ALLOW_HOSTS="127.0.0.1") as running:
        yield running


def test_without_a_secret_nothing_looks_signed(unsigned_server: LiveServer, hook: Hook) -> None:
    """comfyui-api signs with an empty key; here the post says that it is unsigned, and the log."""
    body = taken(unsigned_server.prompt(plain(), webhook_v2=hook.url))
    (told,) = hook.told(unsigned_server, body["id"])
    (post,) = hook.posts()

    assert (told["id"], post.id) == (body["id"], body["id"])
    assert "webhook-signature" not in post.headers
    assert post.headers["webhook-unsigned"] == "true"
    assert "WEBHOOK_SECRET is not set" in unsigned_server.log.read_text()


def test_a_callers_secret_needs_the_operators(unsigned_server: LiveServer, hook: Hook) -> None:
    """It must outlive the request, encrypted: without a key for that it is refused."""
    answer = unsigned_server.prompt(plain(), webhook_v2=hook.url, webhook_secret=OWN_SECRET)
    body = refused(answer, 400, "invalid_payload")

    assert body["location"] == "webhook_secret"
    assert "WEBHOOK_SECRET" in f"{body['error']} {body['hint']}"
    assert OWN_SECRET not in answer.text
