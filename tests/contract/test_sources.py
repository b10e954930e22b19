"""Pictures from every kind of source, rows 5 to 10 of comfyui-api's suite and what it lacks."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from contract.disk import assert_nothing_new, files_below
from contract.graphs import (
    assert_same_pixels,
    encoded,
    fine,
    inverted,
    negative,
    photo,
    pictures,
    refused,
    save,
)
from live import LiveServer, live_server
from sources.stores import BlobStore, S3Store, blob_store, s3_store, threaded_hub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contract.file_server import FileServer
    from sources.hub import Hub

HF_TOKEN = "hf_of-the-operator"
BOTH = [pytest.param("embedded"), pytest.param("comfyui", marks=pytest.mark.comfyui)]


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the server under test may fetch from."""

    s3: S3Store
    hub: Hub
    shared: Path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Run an S3 store and a hub, and share a folder."""
    with s3_store() as s3, threaded_hub() as hub:
        yield Stores(s3, hub, tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlobStore]:
    """Run Azure's emulator."""
    with blob_store(tmp_path_factory.mktemp("azurite")) as running:
        yield running


def fetching_env(stores: Stores, **env: str) -> dict[str, str]:
    """Set a server up for the stores."""
    return {
        "URL_ALLOW_HOSTS": "127.0.0.1",
        "ALLOW_PATHS": str(stores.shared),
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": stores.s3.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "HF_ENDPOINT": stores.hub.endpoint,
        "HF_TOKEN": HF_TOKEN,
        **env,
    }


@pytest.fixture(scope="module", params=BOTH)
def fetching(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stores: Stores
) -> Iterator[LiveServer]:
    """A server that is set up for the stores; once per engine."""
    home = tmp_path_factory.mktemp(f"fetching-{request.param}")
    with live_server(home, request.param, **fetching_env(stores)) as running:
        yield running


@pytest.fixture(scope="module", params=BOTH)
def with_azure(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    stores: Stores,
    blobs: BlobStore,
) -> Iterator[LiveServer]:
    """A server that is set up for the emulator's account, too."""
    home = tmp_path_factory.mktemp(f"azure-{request.param}")
    env = fetching_env(stores, AZURE_STORAGE_CONNECTION_STRING=blobs.connection_string)
    with live_server(home, request.param, **env) as running:
        yield running


def picture(width: int, height: int) -> tuple[bytes, Any]:
    """Make a PNG, and what its negative is."""
    made = photo(width, height)
    return encoded(made), negative(made)


def came_back(server: LiveServer, url: str, expected: Any, **keys: Any) -> None:
    """Check that one picture comes out, and is the negative of what the URL names."""
    body = fine(server.prompt(inverted(url), **keys))
    (filename,) = body["filenames"]
    assert filename.endswith(".png")
    assert_same_pixels(pictures(body)[0], expected)
    assert len(body["images"]) == 1


def test_row_5_a_url(fetching: LiveServer, source: FileServer) -> None:
    """640x480 over HTTP."""
    content, expected = picture(640, 480)
    came_back(fetching, source.put("/row5.png", content, "image/png"), expected)


def test_row_6_an_s3_url(fetching: LiveServer, stores: Stores) -> None:
    """768x768 from a bucket, with the operator's keys."""
    content, expected = picture(768, 768)
    came_back(fetching, stores.s3.put("row6", "in/a b.png", content), expected)


@pytest.mark.azurite
@pytest.mark.timeout(240)
def test_row_7_an_azure_url(with_azure: LiveServer, blobs: BlobStore) -> None:
    """768x768 from a container of the emulator, with the operator's account."""
    content, expected = picture(768, 768)
    url = blobs.put(f"row7-{secrets.token_hex(4)}", "in/a.png", content)
    came_back(with_azure, url, expected)


@pytest.mark.azurite
@pytest.mark.timeout(240)
def test_an_azure_url_with_its_own_token(fetching: LiveServer, blobs: BlobStore) -> None:
    """In the URL, or set on it by credentials; without any, or with a wrong one, it is refused."""
    content, expected = picture(64, 64)
    container = f"own-{secrets.token_hex(4)}"
    url, token = blobs.put(container, "a.png", content), blobs.token(container)
    parts = dict(pair.split("=", 1) for pair in token.split("&"))
    came_back(fetching, f"{url}?{token}", expected)
    sig = unquote(parts.pop("sig"))
    unsigned = f"{url}?{'&'.join(f'{name}={value}' for name, value in parts.items())}"
    auth = {"type": "query", "query_param": "sig", "query_value": sig}
    came_back(fetching, unsigned, expected, credentials=[{"url_pattern": "**", "auth": auth}])
    refused(fetching.prompt(inverted(url)), 400, "access_denied")
    wrong = refused(fetching.prompt(inverted(f"{url}?{token}x")), 400, "access_denied")
    assert sig not in unquote(str(wrong))


@pytest.mark.parametrize("repo", ["me/pictures", "datasets/me/pictures"], ids=["row 8", "row 9"])
@pytest.mark.parametrize("end", ["", "?download=true"])
def test_rows_8_and_9_a_link_of_hugging_face(
    fetching: LiveServer, stores: Stores, repo: str, end: str
) -> None:
    """512x512 from a model's and a dataset's repository, private ones, with HF_TOKEN."""
    content, expected = picture(512, 512)
    stores.hub.put(repo, "in/row.png", content)
    stores.hub.secrets[repo] = HF_TOKEN
    url = f"https://huggingface.co/{repo}/resolve/main/in/row.png{end}"
    came_back(fetching, url, expected)


def test_row_10_a_folder_with_spaces(fetching: LiveServer, stores: Stores) -> None:
    """They are `%20` in the URL."""
    content, expected = picture(512, 512)
    stores.hub.put("me/spaced", "a folder/with spaces/row 10.png", content)
    url = "https://huggingface.co/me/spaced/resolve/main/a%20folder/with%20spaces/row%2010.png"
    came_back(fetching, url, expected)


def test_a_path_below_an_allowed_folder(fetching: LiveServer, stores: Stores) -> None:
    """As it is, and as a file URL; nothing is changed there. Elsewhere no path is taken."""
    content, expected = picture(64, 64)
    (stores.shared / "a b.png").write_bytes(content)
    (stores.shared.parent / "secret.png").write_bytes(content)
    (stores.shared / "link.png").symlink_to(stores.shared.parent / "secret.png")
    try:
        for value in (str(stores.shared / "a b.png"), (stores.shared / "a b.png").as_uri()):
            came_back(fetching, value, expected)
        secret = stores.shared.parent / "secret.png"
        up = f"{stores.shared}/../secret.png"
        for value in (str(secret), secret.as_uri(), up, str(stores.shared / "link.png")):
            body = refused(fetching.prompt(inverted(value)), 400, "input_failed")
            assert body["location"] == "prompt.1.inputs.image"
        assert (stores.shared / "a b.png").read_bytes() == content
    finally:
        (stores.shared / "link.png").unlink()


BASIC = "Basic " + base64.b64encode(b"me:word").decode()
PROTECTED: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "bearer": ({"token": "word"}, {"Authorization": "Bearer word"}),
    "basic": ({"username": "me", "password": "word"}, {"Authorization": BASIC}),
    "header": ({"header_name": "X-Key", "header_value": "word"}, {"X-Key": "word"}),
}


@pytest.mark.parametrize("kind", PROTECTED)
def test_credentials_open_what_is_protected(
    fetching: LiveServer, source: FileServer, kind: str
) -> None:
    """Those that fit the URL; wrong ones and none are told as such, with the host."""
    content, expected = picture(64, 48)
    fields, wants = PROTECTED[kind]
    url = source.put(f"/{kind}/a.png", content, "image/png", wants=wants)
    fits = {"url_pattern": source.url(f"/{kind}/*"), "auth": {"type": kind, **fields}}
    other = {**fits, "url_pattern": source.url("/other/**")}

    came_back(fetching, url, expected, credentials=[other, fits])
    came_back(fetching, f"{url}?size=1", expected, credentials=[fits])
    for credentials in (None, [], [other]):
        answer = fetching.prompt(inverted(url), credentials=credentials)
        body = refused(answer, 400, "access_denied")
        assert body["location"] == "prompt.1.inputs.image"
        assert "127.0.0.1" in body["error"]
        assert "`credentials`" in body["hint"]


def test_a_query_parameter_is_set(fetching: LiveServer, source: FileServer) -> None:
    """On the URL that is asked, and in no answer."""
    content, expected = picture(64, 48)
    url = source.put("/query.png", content, "image/png")
    auth = {"type": "query", "query_param": "key", "query_value": "a word"}
    came_back(fetching, url, expected, credentials=[{"url_pattern": "**", "auth": auth}])
    assert source.asked[-1][0] == "/query.png?key=a+word"


def test_keys_and_endpoint_of_a_bucket(
    server: LiveServer, strict_server: LiveServer, stores: Stores, request: pytest.FixtureRequest
) -> None:
    """With a server that is not set up for S3; the endpoint is held to the address policy."""
    content, expected = picture(64, 48)
    url = stores.s3.put(f"own{secrets.token_hex(4)}", "a.png", content)
    auth = {
        "type": "s3",
        "access_key_id": "mine",
        "secret_access_key": "word",
        "endpoint": stores.s3.endpoint,
        "region": "eu-west-1",
    }
    credentials = [{"url_pattern": "s3://own*/**", "auth": auth}]
    came_back(server, url, expected, credentials=credentials)
    answer = strict_server.prompt(inverted(url), credentials=credentials)
    refused(answer, 400, "url_not_allowed")
    body = refused(server.prompt(inverted(url)), 400, "input_failed")
    assert (body["blame"], body["retryable"]) == ("image", False)
    assert "AWS_REGION" in body["hint"]
    bearer = [{"url_pattern": "**", "auth": {"type": "bearer", "token": "t"}}]
    body = refused(server.prompt(inverted(url), credentials=bearer), 400, "input_failed")
    assert "type s3, not bearer" in body["error"]


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://metadata.google.internal"])
def test_an_endpoint_of_the_callers_leads_to_no_metadata(
    fetching: LiveServer, endpoint: str
) -> None:
    """Nothing is dialled: the address is refused by its number; the name is unknown here."""
    auth = {"type": "s3", "access_key_id": "a", "secret_access_key": "b", "endpoint": endpoint}
    credentials = [{"url_pattern": "**", "auth": auth}]
    answer = fetching.prompt(inverted("s3://latest/meta-data"), credentials=credentials)
    assert answer.status_code == 400
    assert answer.json()["code"] in (
        {"url_not_allowed"} if "169" in endpoint else {"url_not_allowed", "input_failed"}
    )


def test_a_token_of_the_callers_opens_their_repository(
    fetching: LiveServer, stores: Stores
) -> None:
    """It wins over the operator's, which is not enough there."""
    content, expected = picture(64, 48)
    stores.hub.put("they/own", "a.png", content)
    stores.hub.secrets["they/own"] = "hf_of-the-caller"
    url = "https://huggingface.co/they/own/resolve/main/a.png"
    auth = {"type": "bearer", "token": "hf_of-the-caller"}
    pattern = "https://huggingface.co/they/**"

    came_back(fetching, url, expected, credentials=[{"url_pattern": pattern, "auth": auth}])
    body = refused(fetching.prompt(inverted(url)), 400, "access_denied")

    assert "they/own" in body["error"]
    assert "HF_TOKEN" in body["hint"]


def test_credentials_do_not_follow_to_another_origin(
    tmp_path_factory: pytest.TempPathFactory, source: FileServer
) -> None:
    """A redirect to another host is asked without them."""
    content, expected = picture(64, 48)
    source.put("/led.png", content, "image/png")
    url = source.redirect("/lead.png", source.url("/led.png").replace("127.0.0.1", "localhost"))
    auth = {"type": "header", "header_name": "X-Key", "header_value": "word"}
    home = tmp_path_factory.mktemp("origins")
    with live_server(home, URL_ALLOW_HOSTS="127.0.0.1,localhost") as server:
        came_back(server, url, expected, credentials=[{"url_pattern": "**", "auth": auth}])
    (first, heard), (second, heard_next) = source.asked[-2:]
    assert (first, second) == ("/lead.png", "/led.png")
    assert heard["X-Key"] == "word"
    assert "X-Key" not in heard_next


def test_one_url_in_several_nodes_is_fetched_once(fetching: LiveServer, source: FileServer) -> None:
    """Each node gets it all the same."""
    content, _ = picture(40, 30)
    url = source.put("/once.png", content, "image/png")
    before = len(source.asked)
    graph: dict[str, Any] = {}
    for i in range(4):
        graph[f"load{i}"] = {"class_type": "LoadImage", "inputs": {"image": url}}
        graph[f"save{i}"] = save(f"load{i}", f"p{i}")
    body = fine(fetching.prompt(graph))
    for found in pictures(body):
        assert_same_pixels(found, photo(40, 30))
    assert len(body["images"]) == 4
    assert [path for path, _ in source.asked[before:]] == ["/once.png"]


def test_nothing_is_left(fetching: LiveServer, source: FileServer, stores: Stores) -> None:
    """Neither of a job that went well nor of one that failed after a fetch; in no cache either."""
    content, expected = picture(64, 48)
    url = source.put("/left.png", content, "image/png")
    linked = stores.hub.put("me/left", "a.png", content)
    before = files_below(fetching.home)
    for one in (url, linked, stores.s3.put("left", "a.png", content)):
        came_back(fetching, one, expected)
    graph = inverted(url)
    graph["4"] = {"class_type": "LoadImage", "inputs": {"image": source.url("/none.png")}}
    graph["5"] = save("4")
    refused(fetching.prompt(graph), 400, "input_failed")
    assert_nothing_new(before, fetching.home)


@pytest.mark.parametrize(
    ("credentials", "location"),
    [
        ([{"url_pattern": "**", "auth": {"type": "my-secret"}}], "credentials.0.auth"),
        ([{"auth": {"type": "bearer", "token": "my-secret"}}], "credentials.0.url_pattern"),
        ({"my-secret": 1}, "credentials"),
    ],
)
def test_credentials_that_cannot_be_read_are_refused(
    strict_server: LiveServer, credentials: Any, location: str
) -> None:
    """Their place is told, no value."""
    answer = strict_server.prompt(inverted("a.png"), credentials=credentials)
    body = refused(answer, 400, "invalid_payload")
    assert body["location"] == location
    assert "my-secret" not in answer.text
