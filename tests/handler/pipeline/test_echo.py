"""What an answer repeats of its request."""

from __future__ import annotations

import base64
import contextlib
import copy
import json

import pytest
from receiver import SECRET as SIGNED_WITH
from receiver import receiving
from worker import GRAPH, worker

from handler.errors import HandlerError
from handler.payload import parse_payload
from handler.pipeline.echo import LONGEST_TEXT, echo
from handler.settings import Settings
from handler.submission import Submission

SECRET = "canary4711secret"
KEYS = {"type": "s3", "access_key_id": "AK", "secret_access_key": SECRET}


def told(graph=GRAPH, **keys):
    return echo(parse_payload({"prompt": graph, **keys}), "me", graph)


def test_little_is_told_of_a_plain_request():
    """Id and graph, the latter as it is."""
    plain = told()
    assert plain == {"id": "me", "prompt": GRAPH}
    assert plain["prompt"] is GRAPH


def test_accepted_fields_have_their_defaults():
    """As comfyui-api tells them."""
    one = told(
        convert_output={"format": "jpeg", "options": {"chromaSubsampling": "4:4:4"}},
        s3={"bucket": "b1", "prefix": "p/"},
        hf_upload={"repo": "a/b"},
        archive="zip",
    )
    assert one["convert_output"]["options"]["chromaSubsampling"] == "4:4:4"
    assert one["s3"] == {"bucket": "b1", "prefix": "p/", "async": False}
    assert one["hf_upload"] == {
        "repo": "a/b",
        "repo_type": "model",
        "revision": "main",
        "directory": "/",
        "async": False,
    }
    assert one["archive"] == "zip"


def test_no_secret_is_told():
    """Of targets, receivers, credentials, keys."""
    auth = {"type": "bearer", "token": SECRET}
    one = told(
        s3={"bucket": "b1", "prefix": "", "auth": KEYS},
        http_upload={"url_prefix": f"https://me:{SECRET}@e.org/x", "auth": auth},
        presigned={"url": f"https://e.org/x?sig={SECRET}"},
        webhook=f"https://me:{SECRET}@e.org/hook?token={SECRET}",
        webhook_v2="https://e.org/v2",
        webhook_secret="whsec_" + base64.b64encode(SECRET.encode()).decode(),
        credentials=[{"url_pattern": "**", "auth": auth}],
        extra_data={"api_key_comfy_org": SECRET},
    )
    assert SECRET not in json.dumps(one)
    assert base64.b64encode(SECRET.encode()).decode() not in json.dumps(one)
    assert one["webhook"].startswith("https://e.org/hook")
    assert one["webhook_v2"] == "https://e.org/v2"
    assert one["presigned"] == {"async": False, "urls": 1}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("data:image/png;base64,AAAA", "data:image/png;base64,... (26 characters)"),
        ("data:;base64,AAAA", "data:;base64,... (17 characters)"),
        ("data:text/plain;charset=utf-8,x", "data:text/plain;charset=utf-8,... (31 characters)"),
        ("iVBO" * 2000, "iVBOiVBOiVBOiVBO... (8000 characters of base64)"),
        ("A" * LONGEST_TEXT, "A" * LONGEST_TEXT),
        ("a picture, of a cat. " * 400, "a picture, of a cat. " * 400),
        ("data: a chart, in red", "data: a chart, in red"),
        ("cat.png", "cat.png"),
        (5, 5),
        (None, None),
    ],
)
def test_media_of_the_graph_are_told_by_their_length(value, shown):
    """An answer is no place to send a picture back; texts stay."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": value, "n": [1, "2"]}},
        "2": {"class_type": "X", "inputs": {"images": {"__value__": [value, "b.png"]}}},
        "3": {"class_type": "Y", "inputs": {}},
    }
    before = copy.deepcopy(graph)
    one = told(graph)["prompt"]

    assert one["1"]["inputs"] == {"image": shown, "n": [1, "2"]}
    assert one["2"]["inputs"] == {"images": {"__value__": [shown, "b.png"]}}
    assert one["3"] is graph["3"]
    assert graph == before


def test_urls_of_the_graph_are_told_without_their_secrets():
    """Users, passwords and signatures, at any depth; of what has none the graph is as it came."""
    url = f"http://me:{SECRET}@e.org/x?sig={SECRET}"
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": url, "n": [1, "2"]}},
        "2": {"class_type": "X", "inputs": {"images": {"__value__": [url, "https://e.org/b.png"]}}},
        "3": {"class_type": "Y", "inputs": {"text": f"like {url} but red"}},
    }
    one = told(graph)["prompt"]

    assert SECRET not in json.dumps(one)
    assert one["1"]["inputs"] == {"image": "http://e.org/x?sig=...", "n": [1, "2"]}
    assert one["2"]["inputs"]["images"]["__value__"][1] == "https://e.org/b.png"
    assert one["3"]["inputs"]["text"] == "like http://e.org/x?sig=... but red"
    assert graph["1"]["inputs"]["image"] == url


@pytest.mark.parametrize("fails", [False, True])
async def test_no_secret_of_an_input_comes_back_or_lies_about(tmp_path, fails):
    """Neither in a 202, an answer, a replay, a post or a letter that waits for its receiver."""
    url = f"http://me:{SECRET}@127.0.0.1:1/x.png?sig={SECRET}"
    graph = {**GRAPH, "2": {**GRAPH["2"], "_meta": {"title": "t", "source": url}}}
    if fails:
        graph["9"] = {"class_type": "LoadImage", "inputs": {"image": url}}
        graph["8"] = {**GRAPH["2"], "inputs": {**GRAPH["2"]["inputs"], "images": ["9", 0]}}
    settings = Settings(url_allow_hosts="127.0.0.1", webhook_secret=SIGNED_WITH)
    payload = {"prompt": graph, "id": "mine"}
    seen = []
    async with receiving() as receiver, worker(tmp_path, settings) as (handler, _):
        receiver.replies["/hook"] = [503]
        entry = await handler.enter({**payload, "webhook_v2": receiver.url()})
        seen.append(json.dumps(entry.head).encode())
        await handler.find("mine").ended()
        await receiver.got(1)
        seen.append(receiver.posts[0].body)
        for _ in range(2):
            with contextlib.suppress(HandlerError):
                async with await handler.handle(
                    {"prompt": graph, "id": "kept"}, Submission(key="http:k")
                ) as answer:
                    seen.append(json.dumps(await answer.json()).encode())
        files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
        seen += [path.read_bytes() for path in files]

    assert len(seen) - len(files) == (2 if fails else 4)
    assert b"sig=..." in seen[0]
    assert b"sig=..." in seen[1]
    assert any(seen[1] in one for one in seen[-len(files) :])  # the letter waits
    assert [one for one in seen if SECRET.encode() in one] == []
