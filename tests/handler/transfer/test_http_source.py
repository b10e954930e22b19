"""Files over HTTP: addresses, redirects, credentials, names."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import shutil
import socket
import ssl
import subprocess

import pytest
from aiohttp import web
from sources.host import hosting, safetensors, talking

from handler.credentials import (
    BasicAuth,
    BearerAuth,
    Credential,
    HeaderAuth,
    QueryAuth,
    S3Auth,
    auth_for,
)
from handler.errors import InputFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.transfer.base import AccessDenied, DiskFull
from handler.transfer.http_source import HttpSource
from handler.transfer.records import Wanted

BODY = safetensors(100_000)
SECRET = "canary-4711"
NAMES = {"files.test": ["127.0.0.1"], "other.test": ["127.0.0.1"], "gone.test": ["127.0.0.9"]}


@pytest.fixture
def fetch(make, threads, tmp_path):
    """Fetch a URL to a file, with names that are known here only."""

    def build(names=NAMES, **options):
        async def resolver(name, _port):
            found = names[name]
            return found.pop(0) if found and isinstance(found[0], list) else found

        source = HttpSource(
            AddressPolicy("127.0.0.1, 127.0.0.9, 127.0.0.2", resolver), threads, **options
        )
        downloader = make(source=source)

        async def fetch(url, auth=None, **wanted):
            return await downloader.download(Wanted(url, tmp_path / "m.bin", auth=auth, **wanted))

        return fetch

    return build


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (BearerAuth(token=SECRET), "authorization", f"Bearer {SECRET}"),
        (
            BasicAuth(username="me", password=SECRET),
            "authorization",
            "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode(),
        ),
        (HeaderAuth(header_name="X-Key", header_value=SECRET), "x-key", SECRET),
    ],
)
async def test_credentials_go_to_their_origin_and_not_on(fetch, host, auth, header, value):
    """A redirect to another origin gets none; one within it does."""
    host.put("/far.bin", BODY)
    host.redirects["/near"] = "/nearer"
    host.redirects["/nearer"] = host.url("/far.bin", "other.test")

    await fetch()(host.url("/near", "files.test"), auth)

    assert [request.headers.get(header) for request in host.requests] == [value, value, None]


async def test_a_query_parameter_goes_to_its_origin_and_not_on(fetch, host):
    """And it replaces one that the URL has."""
    host.put("/far.bin", BODY)
    host.redirects["/near"] = host.url("/far.bin", "other.test")
    auth = QueryAuth(query_param="token", query_value=SECRET)

    await fetch()(host.url("/near?a=b&token=x", "files.test"), auth)

    assert [request.query for request in host.requests] == [f"a=b&token={SECRET}", ""]


async def test_user_and_password_of_the_url_become_a_header(fetch, host):
    """Decoded; the caller's auth is preferred, the defaults come last."""
    url = host.put("/m.bin", BODY).replace("127.0.0.1", "a%40b:c%3Ad@files.test")
    known = Credential(url_pattern="**", auth=BearerAuth(token="default"))
    get = fetch(defaults=[known])

    await get(url)
    await get(url, BearerAuth(token="mine"))
    await get(host.url("/m.bin", "files.test"))

    assert [request.headers["authorization"] for request in host.requests] == [
        "Basic " + base64.b64encode(b"a@b:c:d").decode(),
        "Bearer mine",
        "Bearer default",
    ]


async def test_defaults_go_only_where_their_pattern_says(fetch, host):
    """The first that matches."""
    defaults = [
        Credential(url_pattern="http://files.test:*/a/*", auth=BearerAuth(token="one")),
        Credential(url_pattern="http://files.test:*/**", auth=BearerAuth(token="two")),
    ]
    for path in ("/a/x", "/a/x/y"):
        host.put(path, BODY)
    get = fetch(defaults=defaults)

    for name in ("files.test", "other.test"):
        for path in ("/a/x", "/a/x/y"):
            await get(host.url(path, name))

    sent = [request.headers.get("authorization") for request in host.requests]
    assert sent == ["Bearer one", "Bearer two", None, None]
    assert auth_for(defaults, "http://files.test:1/a/x") == defaults[0].auth


async def test_a_redirect_to_the_metadata_address_is_not_dialled(make, threads, host, tmp_path):
    """It is refused by the policy."""
    host.redirects["/m.bin"] = "http://169.254.169.254/latest/meta-data/"

    with pytest.raises(UrlNotAllowed):
        await make().download(Wanted(host.url("/m.bin"), tmp_path / "m.bin"))


async def test_a_private_address_is_not_dialled(host, make, tmp_path):
    """Without the operator's word, not even once."""
    with pytest.raises(UrlNotAllowed):
        await make(allow="").download(Wanted(host.put("/m.bin", BODY), tmp_path / "m.bin"))
    assert host.connections == 0


async def test_dns_that_answers_otherwise_the_next_time_gains_nothing(fetch, host):
    """The address that was checked is the one that is dialled, at every request."""
    host.put("/m.bin", safetensors(5 << 20))
    names = {"files.test": [["127.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]]}
    host.files["/m.bin"].drops = [1 << 20]

    with pytest.raises(UrlNotAllowed):
        await fetch(names)(host.url("/m.bin", "files.test"))

    assert host.connections == 1


async def test_the_next_address_is_tried(fetch, host):
    """Where the first takes no connection."""
    host.put("/m.bin", BODY)

    got = await fetch({"two.test": ["127.0.0.2", "127.0.0.1"]})(host.url("/m.bin", "two.test"))

    assert got.bytes == len(BODY)


async def test_a_passing_fault_of_dns_is_tried_again(make, threads, host, tmp_path):
    """Resolvers in fresh containers stumble; one that answers is asked once."""
    asked = []

    async def stumbling(name, _port):
        asked.append(name)
        if len(asked) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
        return ["127.0.0.1"]

    source = HttpSource(AddressPolicy("127.0.0.1", stumbling), threads)
    host.put("/m.bin", BODY)

    await make(source=source).download(Wanted(host.url("/m.bin", "files.test"), tmp_path / "m"))

    assert asked == ["files.test"] * 2


async def test_the_request_names_the_host_and_says_who_asks(fetch, host):
    """The connection goes to an address, the request to the name as DNS has it; no cookies."""
    host.put("/m.bin", BODY, headers={"Set-Cookie": "who=me; Path=/"})
    names = {"files.test": ["127.0.0.1"], "xn--mnchen-3ya.test": ["127.0.0.1"]}
    for name in ("files.test", "münchen.test", "files.test"):
        await fetch(names, user_agent="comfyfn/1")(host.url("/m.bin", name))

    heard = [request.headers for request in host.requests]
    assert [one["host"].partition(":")[0] for one in heard] == [
        *("files.test", "xn--mnchen-3ya.test", "files.test"),
    ]
    assert {one["user-agent"] for one in heard} == {"comfyfn/1"}
    assert not any("cookie" in one for one in heard)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(make, tmp_path, status):
    """Relative and absolute ones; the name comes from the last URL."""
    ways = {"/f": "g", "/g": "http://127.0.0.1:PORT/h.png"}

    async def answer(request):
        if to := ways.get(request.path):
            port = str(request.url.port)
            return web.Response(status=status, headers={"Location": to.replace("PORT", port)})
        return web.Response(body=b"x")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/f"
        got = await make().download(Wanted(url, tmp_path / "f"))
    finally:
        await runner.cleanup()

    assert (got.filename_hint, got.path.read_bytes()) == ("h.png", b"x")


async def test_ipv6_addresses_are_dialled(make, tmp_path):
    """Written in brackets in the URL."""

    async def answer(_request):
        return web.Response(body=b"six")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "::1", 0).start()
        url = f"http://[::1]:{runner.addresses[0][1]}/"
        got = await make(allow="[::1]").download(Wanted(url, tmp_path / "f"))
        assert got.path.read_bytes() == b"six"
    except OSError:
        pytest.skip("no IPv6 here")
    finally:
        await runner.cleanup()


async def test_a_refused_connection_is_tried_again_and_told_without_the_address(fetch):
    """The address would map the network for the caller."""
    with pytest.raises(
        InputFailed, match=r"cannot connect to gone\.test:\d+: Connection"
    ) as caught:
        await fetch()("http://gone.test:1/m.bin")

    assert caught.value.retryable
    assert "127.0.0.9" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("ftp://files.test/a", "redirected to ftp:"),
        *(("http://[::1", "malformed"), ("http://xn--/", "malformed"), ("/m", "20 redi")),
    ],
)
async def test_redirects_that_lead_nowhere_are_refused(fetch, host, location, told):
    """Other schemes, nonsense, circles."""
    host.redirects["/m"] = location

    with pytest.raises(InputFailed, match=told):
        await fetch()(host.url("/m", "files.test"))


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://files.test/a", "files.test/a", "http://", "http://a\x00b/"),
        *("http://a%00b/", "http://[::1", "http://xn--/", "http://xn--.test/a", "http://%6c%6f/"),
    ],
)
async def test_what_is_no_http_url_is_refused(fetch, url):
    """Before anything is asked."""
    with pytest.raises(InputFailed, match="not a"):
        await fetch()(url)


async def test_keys_of_a_bucket_are_no_http_credentials(fetch, host):
    """It is told which types are."""
    auth = S3Auth(access_key_id="a", secret_access_key=SECRET)

    with pytest.raises(InputFailed, match="s3://") as caught:
        await fetch()(host.url("/m.bin"), auth)
    assert SECRET not in str(caught.value.envelope())


@pytest.mark.parametrize(("site", "token"), [("civitai.com", "CIVITAI_API_TOKEN"), ("x.test", "")])
async def test_who_wants_which_token_is_told(fetch, host, site, token):
    """By the host's name."""
    host.put("/m.bin", BODY, wants={"authorization": "Bearer x"})
    get = fetch({site: ["127.0.0.1"]})

    with pytest.raises(AccessDenied, match="401") as caught:
        await get(f"http://{site}:{host.port}/m.bin?token={SECRET}")

    assert token in caught.value.hint
    assert site in caught.value.hint
    assert SECRET not in str(caught.value.envelope())


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="dream shaper.safetensors"', "dream shaper.safetensors"),
        ("attachment; filename*=UTF-8''na%C3%AFve.ckpt", "naïve.ckpt"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\evil.pt"', "evil.pt"),
        ('attachment; filename=".."', ""),
        ("attachment", "m.bin"),
    ],
)
async def test_the_name_is_the_one_the_source_gives(fetch, host, disposition, name):
    """Civitai names its files so; never with a folder in it."""
    url = host.put("/m.bin", BODY, headers={"Content-Disposition": disposition})

    assert (await fetch()(url)).filename_hint == name


async def test_a_link_that_expires_is_asked_for_again(fetch, host):
    """The signed address of a redirect is good for a while only."""
    host.put("/signed1", safetensors(5 << 20), drops=[1 << 20])
    host.put("/signed2", host.files["/signed1"].body)
    host.redirects["/m"] = "/signed1"

    def expire(request):
        if request.span != (0, (16 << 20) - 1):
            host.redirects["/m"] = "/signed2"
            host.files["/signed1"].statuses = [(403, {})] * 9

    host.files["/signed1"].before = expire

    assert (await fetch()(host.url("/m"))).bytes == len(host.files["/signed2"].body)


async def test_a_body_in_chunks_and_one_without_a_length_come_whole(fetch, tmp_path):
    """A dynamic source does not tell how much there is."""

    async def chunks(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(50):
            writer.write(b"4\r\nabcd\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(3600)

    async def till_the_end(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"abcd" * 50)
        await writer.drain()
        writer.write_eof()

    for converse in (chunks, till_the_end):
        async with talking(converse) as port:
            got = await fetch()(f"http://files.test:{port}/m.bin")
        assert got.bytes == 200
        assert (tmp_path / "m.bin").read_bytes() == b"abcd" * 50


async def test_chunks_that_break_off_are_no_file(fetch):
    """The end is told, and it did not come."""

    async def broken(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab")
        await writer.drain()
        writer.write_eof()

    async with talking(broken) as port:
        with pytest.raises(InputFailed, match="connection was lost"):
            await fetch()(f"http://files.test:{port}/m.bin")


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99999]
)
async def test_what_does_not_speak_http_is_a_passing_fault(fetch, answer):
    """It may be a proxy that is just starting."""

    async def nonsense(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with talking(nonsense) as port:
        with pytest.raises(InputFailed, match="broke off") as caught:
            await fetch()(f"http://files.test:{port}/m.bin")
    assert caught.value.retryable


async def test_an_answer_of_another_place_is_not_taken(fetch):
    """A part must be the one that was asked for."""

    async def elsewhere(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 206 Part\r\nContent-Length: 4\r\n\r\nabcd")
        await writer.drain()

    async with talking(elsewhere) as port:
        with pytest.raises(InputFailed, match="unknown place"):
            await fetch()(f"http://files.test:{port}/m.bin")


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the PATH")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=files.test",
         "-addext", "subjectAltName=DNS:files.test"],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


async def test_tls_is_held_against_the_name_and_comes_in_parts(fetch, certificate, tmp_path):
    """The address is pinned, the certificate is the name's; never from https to http."""
    key, cert = certificate
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(cert, key)
    body = safetensors(6 << 20)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "m.safetensors").write_bytes(body)
    app = web.Application()
    app.router.add_static("/files", tmp_path / "www")

    async def down(_request):
        raise web.HTTPFound("http://files.test/")

    app.router.add_get("/down", down)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=serving).start()
    port = runner.addresses[0][1]
    get = fetch(trust=ssl.create_default_context(cafile=cert))

    got = await get(f"https://files.test:{port}/files/m.safetensors")
    assert (tmp_path / "m.bin").read_bytes() == body
    assert got.bytes == len(body)
    with pytest.raises(InputFailed, match=r"[Hh]ostname mismatch"):
        await get(f"https://other.test:{port}/files/m.safetensors")
    with pytest.raises(InputFailed, match="from https to http"):
        await get(f"https://files.test:{port}/down")
    with pytest.raises(InputFailed, match=r"self.signed"):
        await fetch()(f"https://files.test:{port}/files/m.safetensors")
    await runner.cleanup()


async def test_two_hosts_of_one_address_share_no_connection(fetch):
    """Each file's transfer has its own."""
    async with hosting() as one:
        one.put("/a.bin", BODY)
        get = fetch()
        await get(one.url("/a.bin", "files.test"))
        await get(one.url("/a.bin", "other.test"))
        assert one.connections == 2
        assert [request.headers["host"].split(":")[0] for request in one.requests] == [
            "files.test",
            "other.test",
        ]


async def test_what_a_host_keeps_packed_is_unpacked(fetch, host, tmp_path):
    """Whether or not it would give parts; the limits are those of the file itself."""
    packed = gzip.compress(bytes(3 << 20) + BODY)
    for ranges in (True, False):
        url = host.put("/m", packed, ranges=ranges, headers={"Content-Encoding": "gzip"})
        await fetch()(url)
        assert (tmp_path / "m.bin").read_bytes() == bytes(3 << 20) + BODY
    with pytest.raises(InputFailed, match="larger than 1000000 bytes"):
        await fetch()(url, max_bytes=1_000_000)


@pytest.mark.parametrize(
    ("body", "told"), [(b"plain", "does not unpack"), (gzip.compress(BODY)[:-9], "was lost")]
)
async def test_what_does_not_unpack_is_refused(fetch, host, body, told):
    """It claims to be packed and is not, or breaks off."""
    url = host.put("/m", body, headers={"Content-Encoding": "gzip"})

    with pytest.raises(InputFailed, match=told):
        await fetch()(url)


async def test_no_connection_stays_open_after_a_refusal(fetch):
    """Not even one that was announced to be the last; the collector would tell of it."""

    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 404 No\r\nContent-Length: 3\r\n\r\nno!")
        await writer.drain()
        writer.write_eof()

    async with talking(refuse) as port:
        with pytest.raises(InputFailed, match="404"):
            await fetch()(f"http://files.test:{port}/m.bin")
    gc.collect()


async def test_a_slow_body_in_chunks_is_not_taken_for_silence(make, tmp_path):
    """It comes in crumbs, but steadily."""

    async def crumbs(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            writer.write(b"4\r\nabcd\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with talking(crumbs) as port:
        downloader = make(idle_s=0.4, min_rate=10, tries=1)
        got = await downloader.download(Wanted(f"http://127.0.0.1:{port}/m", tmp_path / "m"))
    assert got.bytes == 160


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, br"])
async def test_what_is_packed_in_ways_we_have_not_is_refused(fetch, host, packing):
    """It would be stored as it came, and be no model."""
    url = host.put("/m", b"packed", headers={"Content-Encoding": packing})

    with pytest.raises(InputFailed, match="packs the file"):
        await fetch()(url)


async def test_stores_that_misuse_the_header_are_read_all_the_same(fetch, host, tmp_path):
    """Some keep the encoding of the upload and send the file as it is."""
    url = host.put("/m", BODY, headers={"Content-Encoding": "aws-chunked"})

    await fetch()(url)

    assert (tmp_path / "m.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    "disposition",
    ["attachment; filename*" + "9" * 5000 + "=x", "attachment; filename*=idna''" + "a" * 5000],
)
async def test_a_hostile_name_is_no_fault_of_ours(fetch, host, disposition):
    """The URL's own is taken."""
    url = host.put("/m.bin", BODY, headers={"Content-Disposition": disposition})

    assert (await fetch()(url)).filename_hint == "m.bin"


@pytest.mark.parametrize(
    "place", ["bytes 0-3/" + "9" * 5000, "bytes 3-1/4", "bytes 0-3/4, bytes 0-3/4", "bytes -4-3/4"]
)
async def test_a_hostile_place_is_a_fault_of_the_source(fetch, place):
    """Never one of ours, and never a file of another length."""

    async def elsewhere(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 206 Part\r\nContent-Length: 4\r\nContent-Range: {place}\r\n\r\n"
        writer.write(head.encode() + b"abcd")
        await writer.drain()

    async with talking(elsewhere) as port:
        with pytest.raises(InputFailed):
            await fetch()(f"http://files.test:{port}/m.bin", tries=2)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
    ],
    ids=["headers", "informational"],
)
async def test_a_flood_of_heads_is_left(make, tmp_path, head):
    """After as much time as a silent source gets."""

    async def flood(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(head)
            await writer.drain()

    async with talking(flood) as port:
        with pytest.raises(InputFailed, match=r"broke off|fell silent"):
            await make(idle_s=0.3, tries=1).download(
                Wanted(f"http://127.0.0.1:{port}/m.bin", tmp_path / "m.bin")
            )


async def test_a_bomb_is_left_when_the_disk_has_no_more_to_spare(fetch, host, tmp_path, make):
    """A megabyte that unpacks to a gigabyte: nobody tells the size beforehand."""
    bomb = gzip.compress(bytes(256 << 20), 1)
    url = host.put("/m", bomb, headers={"Content-Encoding": "gzip"})

    with pytest.raises(DiskFull, match="does not fit") as caught:
        await make(spare_disk=1 << 60).download(Wanted(url, tmp_path / "m.bin"))

    assert caught.value.details["needed"] <= 2 << 20
    assert list(tmp_path.iterdir()) == []


async def test_a_url_is_admitted_by_its_host_and_nothing_is_dialled(host, make, threads):
    """What the policy refuses is refused before anything is asked of it."""
    allowed, strict = make(), make(allow="")
    await allowed.admit(host.url("/m.safetensors"))
    with pytest.raises(UrlNotAllowed):
        await strict.admit(host.url("/m.safetensors"))
    with pytest.raises(InputFailed, match="not an http"):
        await allowed.admit("http:///x")
    assert host.requests == []
    assert host.connections == 0
