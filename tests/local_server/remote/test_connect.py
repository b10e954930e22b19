"""Keys go to whom they are for, and to nobody else."""

from __future__ import annotations

import pytest

from handler.errors import InvalidPayload
from handler.settings import Settings
from local_server.remote.connect import connect, read_headers
from local_server.remote.http import HttpRemote
from local_server.remote.modal import ModalRemote
from local_server.remote.runpod import RunpodRemote
from local_server.remote.salad import SaladRemote
from local_server.remote.target import parse_target

SETTINGS = Settings.from_env(
    {
        "COMFYFN_API_KEY": "mine",
        "RUNPOD_API_KEY": "rp",
        "RUNPOD_ENDPOINT_BASE_URL": "http://127.0.0.1:9/v2/",
        "SALAD_API_KEY": "sa",
        "MODAL_PROXY_TOKEN_ID": "wk",
        "MODAL_PROXY_TOKEN_SECRET": "ws",
    }
)
OURS = ("authorization", "salad-api-key", "modal-key", "modal-secret")


async def sent(to, settings=SETTINGS, headers=()):
    """Connect; give the remote's class, its base and the keys that it sends."""
    remote, fetch = connect(parse_target(to), settings, headers)
    link = remote._link
    told = {name: link._client.headers[name] for name in OURS if name in link._client.headers}
    await remote.close()
    await fetch.close()
    return type(remote), link.base, told


@pytest.mark.parametrize(
    ("to", "kind", "base", "keys"),
    [
        (
            "runpod:abc",
            RunpodRemote,
            "http://127.0.0.1:9/v2/abc",
            {"authorization": "Bearer rp"},
        ),
        (
            "salad:acme/art/qq",
            SaladRemote,
            "https://api.salad.com/api/public/organizations/acme/projects/art/queues/qq",
            {"salad-api-key": "sa"},
        ),
        ("http://h", HttpRemote, "http://h", {"authorization": "Bearer mine"}),
        (
            "https://x.salad.cloud",
            HttpRemote,
            "https://x.salad.cloud",
            {"authorization": "Bearer mine", "salad-api-key": "sa"},
        ),
        (
            "https://x.modal.run",
            HttpRemote,
            "https://x.modal.run",
            {"authorization": "Bearer mine", "modal-key": "wk", "modal-secret": "ws"},
        ),
        *(
            (url, HttpRemote, url, {"authorization": "Bearer mine"})
            for url in ("http://x.salad.cloud", "https://salad.cloud.evil.example")
        ),
    ],
)
async def test_each_platform_has_its_own_key(to, kind, base, keys):
    """On its own hosts, over TLS alone."""
    assert await sent(to) == (kind, base, keys)


async def test_a_load_balanced_endpoint_of_runpod_has_runpods_key():
    """Where no key of the server's own is set."""
    settings = Settings(runpod_api_key="rp")
    assert (await sent("https://abc.api.runpod.ai", settings))[2] == {"authorization": "Bearer rp"}
    assert (await sent("https://abc.example", settings))[2] == {}


async def test_a_header_wins():
    """It was given by hand; no text of the settings shows a key."""
    given = ["authorization: Basic eA==", "X-More: a: b"]
    assert (await sent("http://h", headers=given))[2] == {"authorization": "Basic eA=="}
    assert read_headers(given)["X-More"] == "a: b"
    assert not any(key in repr(SETTINGS) for key in ("mine", "'rp'", "'sa'", "'wk'", "'ws'"))


def test_modal_is_asked_by_its_own_client():
    """It loads with the first job."""
    remote, _ = connect(parse_target("modal:app"), Settings())
    assert isinstance(remote, ModalRemote)


@pytest.mark.parametrize(
    ("to", "headers", "said"),
    [
        ("runpod:abc", [], "needs RUNPOD_API_KEY"),
        ("salad:acme/art/qq", [], "needs SALAD_API_KEY"),
        ("runpod:abc", ["A: b"], "--header is for a URL"),
        ("http://h", ["A: b", "hush"], "--header no. 2"),
        ("http://h", ["A: hush\nB: c"], "--header no. 1"),
        ("http://h", ["bad name: hush"], "--header no. 1"),
    ],
)
def test_what_cannot_be_sent_is_refused(to, headers, said):
    """A value is not repeated: it may be a key."""
    with pytest.raises(InvalidPayload, match=said) as caught:
        connect(parse_target(to), Settings(), headers)
    assert "hush" not in caught.value.message
