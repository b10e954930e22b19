"""Files sent to a prefix and their name."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import time
import urllib.request

import pytest
from pydantic import SecretStr

from handler.credentials import HeaderAuth
from handler.delivery.base import PutFailed
from handler.delivery.http import HttpUploader
from handler.delivery.http_put import HttpPut
from handler.errors import InvalidPayload, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.targets import Targets

SECRET = "canary4711secret"
AWKWARD = "a b 50%?#猫.png"


@pytest.fixture
def uploader(threads):
    def make(prefix, allow="127.0.0.1", header=None, origins=frozenset(), **fields):
        policy = AddressPolicy(allow)
        target = Targets.model_validate({"http_upload": {"url_prefix": prefix, **fields}})
        http = HttpPut(policy, threads)
        return HttpUploader(target.http_upload, http, policy, header=header, header_origins=origins)

    return make


async def test_a_file_goes_to_prefix_and_name(uploader, store, item, progress):
    """Slashes between them are one; the type goes with it."""
    file = item("cat.png")

    stored = await uploader(store.url("/up/here//")).put(file, progress)

    assert stored.url == stored.location == store.url("/up/here/cat.png")
    assert stored.etag == '"e1"'
    assert store.files == {"/up/here/cat.png": file.path.read_bytes()}
    assert store.puts[0].headers["content-type"] == "image/png"
    assert "authorization" not in store.puts[0].headers


async def test_names_are_escaped_for_the_request(uploader, store, item, progress):
    """The URL given back is the contract's, and leads to the file."""
    file = item(AWKWARD)

    stored = await uploader(store.url("/x y")).put(file, progress)

    assert list(store.files) == ["/x%20y/a%20b%2050%25%3F%23%E7%8C%AB.png"]
    assert stored.url == store.url("/x y/a b 50%25%3F%23猫.png")


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "bearer", "token": SECRET}, "authorization", f"Bearer {SECRET}"),
        (
            {"type": "basic", "username": "me", "password": SECRET},
            "authorization",
            "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode(),
        ),
        ({"type": "header", "header_name": "X-Key", "header_value": SECRET}, "x-key", SECRET),
    ],
)
async def test_a_request_brings_its_own_credentials(
    uploader, store, item, progress, auth, header, value
):
    """Nothing else is added."""
    operators = HeaderAuth(header_name="X-Operator", header_value="no")
    origins = frozenset({("http", "127.0.0.1", store.port)})
    sender = uploader(store.url("/"), auth=auth, header=operators, origins=origins)

    stored = await sender.put(item(), progress)

    assert store.puts[0].headers[header] == value
    assert "x-operator" not in store.puts[0].headers
    assert sender.own_credentials
    assert SECRET not in stored.url + sender.location("k") + repr(stored)


async def test_a_parameter_is_set_on_the_request_only(uploader, store, item, progress):
    """The URL given back has none."""
    auth = {"type": "query", "query_param": "key", "query_value": SECRET}

    stored = await uploader(store.url("/a"), auth=auth, method="POST").put(item(), progress)

    assert (store.puts[0].method, store.puts[0].query) == ("POST", f"key={SECRET}")
    assert stored.url == store.url("/a/cat.png")


async def test_user_and_password_in_the_url_become_a_header(uploader, store, item, progress):
    """And are in nothing that is given back."""
    sender = uploader(store.url("/a", user=f"me:{SECRET}%40@"))

    stored = await sender.put(item(), progress)

    pair = base64.b64encode(f"me:{SECRET}@".encode()).decode()
    assert store.puts[0].headers["authorization"] == f"Basic {pair}"
    assert stored.url == store.url("/a/cat.png")
    assert sender.own_credentials


async def test_the_operators_header_goes_to_allowed_origins_only(uploader, store, item, progress):
    """Where the request has nothing of its own."""
    header = HeaderAuth(header_name="X-Key", header_value=SecretStr(SECRET))
    here = frozenset({("http", "127.0.0.1", store.port)})
    elsewhere = frozenset({("http", "127.0.0.1", 1)})

    await uploader(store.url("/a"), header=header, origins=elsewhere).put(item(), progress)
    await uploader(store.url("/a"), header=header, origins=here).put(item(), progress)

    assert [put.headers.get("x-key") for put in store.puts] == [None, SECRET]


async def test_the_address_policy_holds_before_the_job_and_after(uploader, store, item, progress):
    """Checked twice, since DNS may change its mind."""
    sender = uploader(store.url("/a"), allow="")
    with pytest.raises(UrlNotAllowed) as caught:
        await sender.check()
    assert caught.value.location == "http_upload.url_prefix"
    with pytest.raises(UrlNotAllowed):
        await sender.put(item(), progress)
    with pytest.raises(InvalidPayload):
        await uploader("http://no-such-host.invalid/").check()
    await uploader(store.url("/a")).check()
    assert store.puts == []


async def test_a_refusal_is_told(uploader, store, item, progress):
    """With the status."""
    store.replies.append((507, {}, "disk full"))

    with pytest.raises(PutFailed, match="507 disk full") as caught:
        await uploader(store.url("/a")).put(item(), progress)
    assert caught.value.passing


@pytest.fixture
def webdav(tmp_path, free_port):
    """nginx with its WebDAV part; give its URL and folder."""
    command = shutil.which("nginx")
    if command is None:
        pytest.skip("no nginx on the PATH")
    folder = tmp_path / "dav"
    folder.mkdir(mode=0o777)
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; user root;\n"
        "events {}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; server {{\n"
        f"  listen 127.0.0.1:{free_port}; root {folder}; client_max_body_size 300m;\n"
        "  dav_methods PUT; create_full_put_path on; } }\n"
    )
    with subprocess.Popen(
        [command, "-p", str(tmp_path), "-c", str(config)], stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{free_port}/nginx.txt", timeout=1),
            ):
                pass
            if (tmp_path / "pid").exists():
                break
        yield f"http://127.0.0.1:{free_port}", folder
        process.terminate()


@pytest.mark.nginx
async def test_nginx_takes_files_by_webdav(uploader, webdav, item, progress):
    """Large ones and awkward names; byte for byte."""
    url, folder = webdav
    sender = uploader(f"{url}/out/deep")
    video, cat = item("video.mp4", 40_000_000), item(AWKWARD)

    for file in (video, cat):
        await sender.put(file, progress)

    assert (folder / "out/deep/video.mp4").read_bytes() == video.path.read_bytes()
    assert (folder / "out/deep" / AWKWARD).read_bytes() == cat.path.read_bytes()


async def test_a_refusal_says_whose_credentials_are_missing(uploader, store, item, progress):
    """Those of the request, or of the operator."""
    header = HeaderAuth(header_name="X-Key", header_value=SecretStr(SECRET))
    here = frozenset({("http", "127.0.0.1", store.port)})
    bearer = {"type": "bearer", "token": SECRET}
    for sender, said, callers in (
        (uploader(store.url("/a")), "HTTP_AUTH_HEADER_NAME", True),
        (uploader(store.url("/a"), auth=bearer), "http_upload.auth", True),
        (uploader(store.url("/a"), header=header, origins=here), "the operator's", False),
    ):
        for status in (401, 403):
            store.replies.append((status, {}, "no"))
            with pytest.raises(PutFailed, match=f"{status} no") as caught:
                await sender.put(item(), progress)
            assert said in (caught.value.hint or "")
            assert (caught.value.whose, sender.own_credentials) == ("store", callers)


async def test_a_place_that_takes_no_file_is_the_requests(uploader, store, item, progress):
    """Whosever header was sent."""
    store.replies.append((404, {}, "no such folder"))
    with pytest.raises(PutFailed, match="404") as caught:
        await uploader(store.url("/a")).put(item(), progress)
    assert caught.value.whose == "place"
