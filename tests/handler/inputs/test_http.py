"""Fetching over HTTP, from real servers on the loopback interface."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import shutil
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from handler.errors import InputFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.inputs.http import Fetched, HttpFetcher

PICTURE = b"\x89PNG\r\n\x1a\n" + os.urandom(3 << 20)
NAMES = {
    "files.test": ["127.0.0.1"],
    "other.test": ["127.0.0.1"],
    "twofold.test": ["127.0.0.2", "127.0.0.1"],
    "metadata.test": ["169.254.169.254"],
}


class Names:
    """A resolver that knows the names above and counts what it is asked."""

    def __init__(self, names: dict[str, list[str]] = NAMES) -> None:
        self.names = names
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.names[host]


class Source:
    """An HTTP server whose routes are given as coroutines; keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.routes: dict[str, object] = {}
        self.port = 0

    def url(self, path: str, host: str = "files.test", user: str = "") -> str:
        return f"http://{user}{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        route = self.routes.get(request.path)
        return web.Response(status=404) if route is None else await route(request)


@asynccontextmanager
async def serving(source: Source, tls: ssl.SSLContext | None = None):
    runner = web.ServerRunner(web.Server(source.answer), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    source.port = runner.addresses[0][1]
    try:
        yield source
    finally:
        await runner.cleanup()


@pytest.fixture
async def source():
    async with serving(Source()) as running:
        yield running


@asynccontextmanager
async def raw_server(converse):
    """Serve bytes as they are, for what a proper HTTP server would not do."""
    connections: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        await converse(writer, len(connections))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()
        for writer in connections:
            writer.close()


def fetcher(names: Names | None = None, allow: str = "127.0.0.0/8", **options) -> HttpFetcher:
    policy = AddressPolicy(allow, names or Names())
    return HttpFetcher(policy, **{"backoff_s": 0.001, "max_bytes": 1 << 30, **options})


def giving(body: bytes = PICTURE, status: int = 200, **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def route(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers=named)

    return route


def leading_to(location: str, status: int = 302):
    return giving(b"", status, location=location)


async def test_a_file_is_fetched_whole(source, tmp_path):
    """Bytes, size, type and name arrive, and nothing else lies beside the file."""
    source.routes["/a/cat.png"] = giving(content_type="Image/PNG; q=1")
    target = tmp_path / "input"

    fetched = await fetcher().fetch(source.url("/a/cat.png"), target)

    assert fetched == Fetched("cat.png", "image/png", len(PICTURE))
    assert target.read_bytes() == PICTURE
    assert list(tmp_path.iterdir()) == [target]


async def test_the_request_names_the_host_and_says_who_asks(source, tmp_path):
    """The connection goes to an address, the request to the name."""
    source.routes["/"] = giving(b"x")
    await fetcher(user_agent="comfyfn/1").fetch(source.url("/"), tmp_path / "f")

    headers = source.requests[0].headers
    assert headers["Host"] == f"files.test:{source.port}"
    assert headers["User-Agent"] == "comfyfn/1"


@pytest.mark.parametrize(
    ("path", "disposition", "name"),
    [
        ("/a%20b/c%20d.png?x=1", "", "c d.png"),
        ("/", "", ""),
        ("/x", 'attachment; filename="pic 1.jpg"', "pic 1.jpg"),
        ("/x", "attachment; filename*=UTF-8''na%C3%AFve.png", "naïve.png"),
        ("/x", 'attachment; filename="../../etc/passwd"', "passwd"),
        ("/x", 'attachment; filename="C:\\\\dir\\\\a.png"', "a.png"),
        ("/x", 'attachment; filename=".."', ""),
    ],
)
async def test_a_name_is_taken_from_header_or_url_without_folders(
    source, tmp_path, path, disposition, name
):
    """The hint never leads out of a folder."""
    headers = {"content_disposition": disposition} if disposition else {}
    for route in ("/a b/c d.png", "/", "/x"):
        source.routes[route] = giving(b"x", **headers)

    assert (await fetcher().fetch(source.url(path), tmp_path / "f")).filename_hint == name


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_refusal_of_the_source_is_the_callers_fault(source, tmp_path, status):
    """It is told with status and reason, at once, and without the secrets of the URL."""
    source.routes["/gone"] = giving(b"", status)
    url = source.url("/gone?sig=s3cret", user="me:hush@")
    with pytest.raises(InputFailed) as caught:
        await fetcher().fetch(url, tmp_path / "f")

    error = caught.value
    shown = f"http://files.test:{source.port}/gone?sig=...: {status} "
    assert error.message.startswith(f"Failed to download {shown}")
    assert (error.status, error.blame, error.retryable) == (400, "caller", False)
    assert error.details == {"status": status}
    assert len(source.requests) == 1
    assert list(tmp_path.iterdir()) == []


async def test_a_passing_fault_of_the_source_is_tried_again(source, tmp_path):
    """500, then 200."""
    answers = iter([giving(b"", 500), giving(b"", 429, retry_after="0"), giving()])

    async def route(request):
        return await next(answers)(request)

    source.routes["/f"] = route
    await fetcher().fetch(source.url("/f"), tmp_path / "f")

    assert (tmp_path / "f").read_bytes() == PICTURE
    assert len(source.requests) == 3


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_lasting_fault_of_the_source_is_not_the_callers(source, tmp_path, status):
    """After a few tries the error says that later may do."""
    source.routes["/f"] = giving(b"", status)
    with pytest.raises(InputFailed, match=f"/f: {status} ") as caught:
        await fetcher().fetch(source.url("/f"), tmp_path / "f")

    assert (caught.value.blame, caught.value.retryable) == ("platform", True)
    assert caught.value.details == {"status": status}
    assert len(source.requests) == 3


async def test_a_source_that_asks_to_wait_long_is_not_waited_for(source, tmp_path):
    """The caller learns how long instead."""
    source.routes["/f"] = giving(b"", 503, retry_after="3600")
    with pytest.raises(InputFailed) as caught:
        await fetcher().fetch(source.url("/f"), tmp_path / "f")

    assert caught.value.retry_after_s == 3600
    assert len(source.requests) == 1


async def test_no_listener_is_a_passing_fault(tmp_path):
    """A refused connection is tried again, then told."""
    async with serving(Source()) as closed:
        pass
    names = Names()
    with pytest.raises(InputFailed, match="Failed to download http://files") as caught:
        await fetcher(names).fetch(closed.url("/f"), tmp_path / "f")

    assert (caught.value.blame, caught.value.retryable) == ("platform", True)
    assert len(names.asked) == 3


async def test_a_passing_fault_of_dns_is_tried_again(source, tmp_path):
    """Resolvers in fresh containers stumble."""
    source.routes["/f"] = giving(b"x")

    class Stumbling(Names):
        async def __call__(self, host, port):
            found = await super().__call__(host, port)
            if len(self.asked) == 1:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
            return found

    names = Stumbling()
    await fetcher(names).fetch(source.url("/f"), tmp_path / "f")
    assert len(names.asked) == 2


async def test_content_that_does_not_unpack_is_refused(source, tmp_path):
    """It claims to be gzip and is not."""
    source.routes["/f"] = giving(b"plain", content_encoding="gzip")
    with pytest.raises(InputFailed, match="Failed to download"):
        await fetcher().fetch(source.url("/f"), tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


async def test_the_next_address_is_tried_where_one_refuses(source, tmp_path):
    """A host with several addresses is reached by any of them."""
    source.routes["/f"] = giving(b"x")
    await fetcher().fetch(source.url("/f", "twofold.test"), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"x"


async def test_a_body_that_breaks_off_is_fetched_anew(tmp_path):
    """The half of the first try is not kept."""

    async def converse(writer, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        writer.write(b"halff" if number == 1 else b"0123456789")
        await writer.drain()

    async with raw_server(converse) as (port, connections):
        await fetcher().fetch(f"http://files.test:{port}/", tmp_path / "f")

    assert (tmp_path / "f").read_bytes() == b"0123456789"
    assert len(connections) == 2


async def test_a_body_that_always_breaks_off_leaves_no_file(tmp_path):
    """The error is a passing one."""

    async def converse(writer, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()

    async with raw_server(converse) as (port, _):
        with pytest.raises(InputFailed) as caught:
            await fetcher().fetch(f"http://files.test:{port}/", tmp_path / "f")

    assert caught.value.retryable
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])
async def test_a_silent_source_is_given_up(tmp_path, beginning):
    """Before the answer or amid the body, silence has an end."""

    async def converse(writer, number):
        writer.write(beginning)
        await asyncio.Event().wait()

    async with raw_server(converse) as (port, _):
        with pytest.raises(InputFailed, match="fell silent") as caught:
            await fetcher(idle_timeout_s=0.05).fetch(f"http://files.test:{port}/", tmp_path / "f")

    assert (caught.value.blame, caught.value.retryable) == ("platform", True)
    assert list(tmp_path.iterdir()) == []


async def test_a_source_that_drips_is_given_up(tmp_path):
    """Never silent and never done ends at the total time."""

    async def converse(writer, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b".")
            await asyncio.sleep(0.01)

    async with raw_server(converse) as (port, _):
        with pytest.raises(InputFailed, match=r"not done within 0\.2 s") as caught:
            await fetcher(total_timeout_s=0.2).fetch(f"http://files.test:{port}/", tmp_path / "f")

    assert caught.value.retryable
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_fetch_leaves_no_file(tmp_path):
    """The job went away while the body came."""
    begun = asyncio.Event()

    async def converse(writer, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + bytes(3 << 20))
        await writer.drain()
        begun.set()
        await asyncio.Event().wait()

    async with raw_server(converse) as (port, _):
        task = asyncio.create_task(fetcher().fetch(f"http://files.test:{port}/", tmp_path / "f"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert list(tmp_path.iterdir()) == []


async def test_an_announced_size_over_the_limit_is_refused_unread(source, tmp_path):
    """The header suffices."""
    source.routes["/f"] = giving()
    with pytest.raises(InputFailed, match="larger than 1000 bytes") as caught:
        await fetcher(max_bytes=1000).fetch(source.url("/f"), tmp_path / "f")

    assert (caught.value.blame, caught.value.retryable) == ("caller", False)
    assert list(tmp_path.iterdir()) == []


async def test_an_unannounced_size_over_the_limit_is_refused(source, tmp_path):
    """The bytes are counted, as they are after unpacking."""

    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    source.routes["/endless"] = endless
    source.routes["/bomb"] = giving(gzip.compress(bytes(8 << 20)), content_encoding="gzip")
    for path in ("/endless", "/bomb"):
        with pytest.raises(InputFailed, match="larger than 4000000 bytes"):
            await fetcher(max_bytes=4_000_000).fetch(source.url(path), tmp_path / "f")
    assert source.requests[0].headers["Accept-Encoding"] == "identity"
    assert list(tmp_path.iterdir()) == []


async def test_a_file_of_exactly_the_limit_passes(source, tmp_path):
    """The limit is the largest size that is allowed."""
    source.routes["/f"] = giving(bytes(1000))
    assert (await fetcher(max_bytes=1000).fetch(source.url("/f"), tmp_path / "f")).bytes == 1000


async def test_a_disk_that_takes_no_file_is_not_the_callers_fault(source, tmp_path):
    """The folder is gone."""
    source.routes["/f"] = giving(b"x")
    with pytest.raises(InputFailed, match="cannot be stored") as caught:
        await fetcher().fetch(source.url("/f"), tmp_path / "none" / "f")
    assert caught.value.blame == "platform"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://files.test/a",
        "files.test/a",
        "http://",
        "file:///etc/passwd",
        "http://a\x00b/",
        "http://[x/",
        "http://xn--/",
        "http://xn--.test/a.png",
        "http://%6c%6f/",
    ],
)
async def test_what_is_no_http_url_is_refused(tmp_path, url):
    """Without asking DNS."""
    names = Names()
    with pytest.raises(InputFailed, match="not a"):
        await fetcher(names).fetch(url, tmp_path / "f")
    assert names.asked == []


async def test_an_address_that_is_refused_is_not_dialled(source, tmp_path):
    """The loopback server is not asked without permission."""
    with pytest.raises(UrlNotAllowed, match=r"127\.0\.0\.1"):
        await fetcher(allow="").fetch(f"http://127.0.0.1:{source.port}/", tmp_path / "f")
    with pytest.raises(UrlNotAllowed, match=r"files\.test"):
        await fetcher(allow="").fetch(source.url("/"), tmp_path / "f")
    assert source.requests == []


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.test/latest/",
        "//[fd00:ec2::254]/latest/",
        "http://2852039166/latest/",
    ],
)
async def test_a_redirect_to_a_refused_address_is_not_followed(source, tmp_path, location):
    """Every hop is held against the policy, as a name, a number or an address."""
    source.routes["/f"] = leading_to(location)
    # Were it dialled, the test would hang until the connection timed out.
    with pytest.raises(UrlNotAllowed):
        await fetcher(connect_timeout_s=50).fetch(source.url("/f"), tmp_path / "f")
    assert len(source.requests) == 1


async def test_a_name_that_changes_its_address_is_caught(source, tmp_path):
    """The connection goes to the address that was checked; the next hop is checked anew."""
    source.routes["/f"] = leading_to("/g")
    source.routes["/g"] = giving(b"x")

    class Rebinding(Names):
        async def __call__(self, host, port):
            await super().__call__(host, port)
            return ["127.0.0.1"] if len(self.asked) == 1 else ["10.0.0.1"]

    names = Rebinding()
    with pytest.raises(UrlNotAllowed):
        await fetcher(names).fetch(source.url("/f"), tmp_path / "f")
    assert [request.path for request in source.requests] == ["/f"]
    assert names.asked == ["files.test"] * 2


async def test_one_request_asks_dns_once(source, tmp_path):
    """Nobody resolves the name a second time behind the policy's back."""
    source.routes["/f"] = giving(b"x")
    names = Names()
    await fetcher(names).fetch(source.url("/f"), tmp_path / "f")
    assert names.asked == ["files.test"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(source, tmp_path, status):
    """Relative and absolute ones; the name comes from the last URL."""
    source.routes["/f"] = leading_to("g", status)
    source.routes["/g"] = leading_to(source.url("/h.png", "other.test"), status)
    source.routes["/h.png"] = giving(b"x")

    fetched = await fetcher().fetch(source.url("/f"), tmp_path / "f")

    assert fetched.filename_hint == "h.png"
    assert (tmp_path / "f").read_bytes() == b"x"


async def test_a_ring_of_redirects_ends(source, tmp_path):
    """Twenty are followed, no more."""
    source.routes["/f"] = leading_to("/f")
    with pytest.raises(InputFailed, match="more than 20 redirects"):
        await fetcher().fetch(source.url("/f"), tmp_path / "f")
    assert len(source.requests) == 21


async def test_a_redirect_to_another_scheme_is_refused(source, tmp_path):
    """A file of this machine is no source."""
    source.routes["/f"] = leading_to("file:///etc/passwd")
    with pytest.raises(InputFailed):
        await fetcher().fetch(source.url("/f"), tmp_path / "f")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


async def test_credentials_in_the_url_become_a_header(source, tmp_path):
    """They stay for the same origin, relative redirects included."""
    source.routes["/f"] = leading_to("/g")
    source.routes["/g"] = giving(b"x")
    await fetcher().fetch(source.url("/f", user="me:p%40ss@"), tmp_path / "f")

    assert [request.headers["Authorization"] for request in source.requests] == [
        basic("me:p@ss")
    ] * 2


async def test_credentials_do_not_go_to_another_origin(source, tmp_path):
    """A redirect to another host drops them."""
    source.routes["/f"] = leading_to(source.url("/g", "other.test"))
    source.routes["/g"] = giving(b"x")
    await fetcher().fetch(source.url("/f", user="me:pass@"), tmp_path / "f")

    first, second = source.requests
    assert first.headers["Authorization"] == basic("me:pass")
    assert "Authorization" not in second.headers
    assert second.headers["Host"] == f"other.test:{source.port}"


async def test_credentials_that_a_redirect_brings_are_used(source, tmp_path):
    """They are the source's own, and meant for the place it names."""
    source.routes["/f"] = leading_to(source.url("/g", "other.test", user="x:y@"))
    source.routes["/g"] = giving(b"x")
    await fetcher().fetch(source.url("/f", user="me:pass@"), tmp_path / "f")
    assert source.requests[1].headers["Authorization"] == basic("x:y")


async def test_cookies_of_one_fetch_are_not_seen_by_the_next(source, tmp_path):
    """Callers share nothing."""
    source.routes["/f"] = giving(b"x", set_cookie="who=me; Path=/")
    shared = fetcher()
    for _ in range(2):
        await shared.fetch(source.url("/f"), tmp_path / "f")
    assert all("Cookie" not in request.headers for request in source.requests)


async def test_ipv6_addresses_are_dialled(tmp_path):
    """Written in brackets in the URL."""

    async def handle(request):
        return web.Response(body=b"six")

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    try:
        await web.TCPSite(runner, "::1", 0).start()
    except OSError:
        await runner.cleanup()
        pytest.skip("no IPv6 here")
    try:
        port = runner.addresses[0][1]
        await fetcher(allow="[::1]").fetch(f"http://[::1]:{port}/", tmp_path / "f")
    finally:
        await runner.cleanup()
    assert (tmp_path / "f").read_bytes() == b"six"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for files.test: (server's context, a client's that trusts it)."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "chain.pem"
    command = (
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        f"-subj /CN=files.test -addext subjectAltName=DNS:files.test -keyout {key} -out {chain}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key)
    return server, ssl.create_default_context(cafile=chain)


async def test_tls_verifies_the_name_though_an_address_is_dialled(certificate, tmp_path):
    """The server is told the name (SNI), and must prove that very name."""
    server, client = certificate
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with serving(Source(), server) as source:
        source.routes["/f"] = giving(b"secret")
        url = source.url("/f").replace("http://", "https://")
        await fetcher(verify=client).fetch(url, tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == b"secret"
        assert asked == ["files.test"]

        with pytest.raises(InputFailed, match=r"(?i)hostname mismatch") as caught:
            await fetcher(verify=client).fetch(url.replace("files", "other"), tmp_path / "g")
        assert (caught.value.blame, caught.value.retryable) == ("caller", False)

        with pytest.raises(InputFailed, match="self-signed"):
            await fetcher().fetch(url, tmp_path / "g")
        assert len(source.requests) == 1


async def test_a_redirect_from_https_to_http_is_refused(certificate, source, tmp_path):
    """What was asked for in secret is not fetched in the open."""
    server, client = certificate
    source.routes["/plain"] = giving(b"x")
    async with serving(Source(), server) as secret:
        secret.routes["/f"] = leading_to(source.url("/plain"))
        url = secret.url("/f").replace("http://", "https://")
        with pytest.raises(InputFailed, match="from https to http"):
            await fetcher(verify=client).fetch(url, tmp_path / "f")
    assert source.requests == []
