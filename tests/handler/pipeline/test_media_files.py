"""Media that lie elsewhere: from every source, each URL once, with the caller's credentials."""

from __future__ import annotations

import asyncio
import base64

import pytest
from sources.host import hosting
from worker import parts_in

from handler.credentials import Credential
from handler.engine.memory import PIXEL
from handler.errors import InputFailed, UrlNotAllowed
from handler.pipeline.media_files import MediaFiles, is_url, named_by_content
from handler.settings import Settings
from handler.transfer.base import AccessDenied

SECRET = "canary4711"


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


@pytest.fixture
async def files(tmp_path):
    """Make the media of a job, with credentials by pattern."""
    made = []

    def build(credentials=(), settings=None):
        parts = parts_in(tmp_path / "home", settings)
        listed = [Credential(url_pattern=pattern, auth=auth) for pattern, auth in credentials]
        made.append((MediaFiles(parts, listed), parts))
        return made[-1][0]

    yield build
    for one, parts in made:
        await one.close()
        await parts.media.close()
        await parts.downloader.close()
        await parts.operator.close()


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("http://a/b", True),
        ("S3://bucket/key", True),
        ("ftp://a", True),
        ("/9j/4AAQSkZJRg", False),
        ("data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>", False),
        ("a b://c", False),
        ("x" * 50 + "://", False),
    ],
)
def test_a_url_is_told_from_its_beginning(text, yes):
    """Whatever comes after it."""
    assert is_url(text) is yes


def test_a_name_ends_as_the_content_is(tmp_path):
    """What is of no known type keeps its name."""
    picture, other = tmp_path / "a", tmp_path / "b"
    picture.write_bytes(PIXEL)
    other.write_bytes(bytes(range(4)))
    assert named_by_content(picture) == (tmp_path / "a.png", "image/png")
    assert named_by_content(tmp_path / "a.png") == (tmp_path / "a.png", "image/png")
    assert named_by_content(other) == (other, None)


BASIC = "Basic " + base64.b64encode(b"me:" + SECRET.encode()).decode()


@pytest.mark.parametrize(
    ("auth", "wants"),
    [
        ({"type": "bearer", "token": SECRET}, {"authorization": f"Bearer {SECRET}"}),
        ({"type": "basic", "username": "me", "password": SECRET}, {"authorization": BASIC}),
        ({"type": "header", "header_name": "X-Key", "header_value": SECRET}, {"x-key": SECRET}),
    ],
)
async def test_a_protected_file_is_had_with_the_callers_credentials(
    host, files, tmp_path, auth, wants
):
    """Without them, or with those of another URL, it is not."""
    url = host.put("/in/a.png", PIXEL, wants=wants)
    pattern = f"{host.url('/in')}/*"

    path = await files([(pattern, auth)]).fetch(url, tmp_path / "f")

    assert path == tmp_path / "f.png"
    assert path.read_bytes() == PIXEL
    for credentials in ([], [(host.url("/other/**"), auth)]):
        with pytest.raises(AccessDenied, match=r"^Failed to download http://127") as caught:
            await files(credentials).fetch(url, tmp_path / "g")
        assert (caught.value.status, caught.value.code) == (400, "access_denied")
        assert "127.0.0.1" in caught.value.hint


async def test_a_query_parameter_is_set_and_in_no_message(host, files, tmp_path):
    """The first credential whose pattern matches counts."""
    url = host.put("/a.png", PIXEL) + "?size=1"
    auth = {"type": "query", "query_param": "key", "query_value": SECRET}
    later = {"type": "bearer", "token": "later"}

    await files([(f"{host.url('')}/**", auth), ("**", later)]).fetch(url, tmp_path / "f")
    missing = host.url("/none.png") + f"?signature={SECRET}"
    with pytest.raises(InputFailed, match=r"none\.png\?signature=\.\.\.: 404") as caught:
        await files([("**", auth)]).fetch(missing, tmp_path / "g")

    assert host.requests[0].query == f"size=1&key={SECRET}"
    assert "authorization" not in host.requests[0].headers
    assert SECRET not in str(caught.value.envelope())


async def test_credentials_stay_with_their_origin(host, files, tmp_path):
    """A redirect to another host goes without them."""
    host.put("/a.png", PIXEL)
    host.redirects["/moved.png"] = host.url("/a.png", "localhost")
    settings = Settings(url_allow_hosts="127.0.0.1,localhost")
    auth = {"type": "header", "header_name": "X-Key", "header_value": SECRET}

    await files([("**", auth)], settings).fetch(host.url("/moved.png"), tmp_path / "f")

    assert [one.headers.get("x-key") for one in host.requests] == [SECRET, None]


async def test_user_and_password_of_the_url_are_sent(host, files, tmp_path):
    """As basic auth; the caller's credentials for it win."""
    url = host.put("/a.png", PIXEL, wants={"authorization": BASIC})
    url = url.replace("://", f"://me:{SECRET}@")
    assert await files().fetch(url, tmp_path / "f") == tmp_path / "f.png"
    with pytest.raises(AccessDenied) as caught:
        await files([("**", {"type": "bearer", "token": "no"})]).fetch(url, tmp_path / "g")
    assert SECRET not in str(caught.value.envelope())


async def test_one_url_is_fetched_once(host, files, tmp_path):
    """By any number of nodes, at the same time and later; each has a name of its own."""
    url = host.put("/a.png", PIXEL)
    media = files()

    first = await asyncio.gather(*(media.fetch(url, tmp_path / f"f{n}") for n in range(5)))
    later = await media.fetch(url, tmp_path / "folder" / "00000")

    assert [path.name for path in first] == [f"f{n}.png" for n in range(5)]
    assert {path.read_bytes() for path in [*first, later]} == {PIXEL}
    assert len(host.requests) == 1


async def test_each_who_waits_gets_a_fault_of_their_own(host, files, tmp_path):
    """It names its own place in the request."""
    media, url = files(), host.url("/none.png")

    faults = await asyncio.gather(
        *(media.fetch(url, tmp_path / f"f{n}") for n in range(2)), return_exceptions=True
    )

    places = [
        fault.at(f"prompt.{n}", str(n), "LoadImage").location for n, fault in enumerate(faults)
    ]
    assert places == ["prompt.0", "prompt.1"]


async def test_a_source_out_of_order_is_tried_three_times(host, files, tmp_path):
    """A caller waits."""
    url = host.put("/a.png", PIXEL, statuses=[(503, {})] * 9)
    with pytest.raises(InputFailed, match=r"Failed to download .*: 503") as caught:
        await files().fetch(url, tmp_path / "f")
    assert (caught.value.blame, caught.value.retryable) == ("platform", True)
    assert len(host.requests) == 3


async def test_limits_of_media_are_theirs(host, files, tmp_path):
    """Not those of models."""

    async def stop(_sent):
        await asyncio.sleep(3600)

    small = Settings(max_input_mb=1, max_model_gb=9.0)
    with pytest.raises(InputFailed, match="larger than 1048576 bytes"):
        await files(settings=small).fetch(host.put("/b.png", bytes(2 << 20)), tmp_path / "f")
    quick = Settings(fetch_timeout_s=0.2, download_timeout_s=3600)
    with pytest.raises(InputFailed, match=r"not done within 0\.2 s"):
        await files(settings=quick).fetch(host.put("/s.png", PIXEL, pause=stop), tmp_path / "f")


async def test_the_end_of_a_job_ends_its_fetches(host, files, tmp_path):
    """Nothing goes on behind an answered job."""
    begun = asyncio.Event()

    async def stop(_sent):
        begun.set()
        await asyncio.sleep(3600)

    media = files()
    task = asyncio.create_task(media.fetch(host.put("/a.png", PIXEL, pause=stop), tmp_path / "f"))
    await begun.wait()
    await media.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_file_below_an_allowed_folder_is_taken_and_no_other(files, tmp_path):
    """By its path, as it is written or with links followed, or by a file URL."""
    shared, away = tmp_path / "shared", tmp_path / "away"
    shared.mkdir()
    (shared / "a b.png").write_bytes(PIXEL)
    (tmp_path / "secret.png").write_bytes(PIXEL)
    (shared / "link.png").symlink_to(tmp_path / "secret.png")
    away.symlink_to(shared)
    media = files(settings=Settings(allow_paths=(shared,)))

    for n, value in enumerate([str(shared / "a b.png"), (shared / "a b.png").as_uri()]):
        assert media.lies_elsewhere(value)
        path = await media.fetch(value, tmp_path / "home" / f"f{n}")
        assert path.read_bytes() == PIXEL
    assert media.lies_elsewhere(str(away / "a b.png"))
    assert not media.lies_elsewhere(str(tmp_path / "secret.png"))
    assert not media.lies_elsewhere(str(shared / ".." / "secret.png"))
    assert not media.lies_elsewhere(f"{shared}/a\0.png")
    assert not files().lies_elsewhere(str(shared / "a b.png"))
    for value in (str(shared / "link.png"), (tmp_path / "secret.png").as_uri()):
        with pytest.raises(InputFailed, match="outside the folders"):
            await media.fetch(value, tmp_path / "home" / "no")
    assert (shared / "a b.png").read_bytes() == PIXEL


def test_a_url_that_no_source_takes_is_told(files):
    """Without what comes after the scheme: it may be secret."""
    with pytest.raises(InputFailed, match=r"^ftp:// is no source") as caught:
        files().lies_elsewhere(f"ftp://me:{SECRET}@host/a.png")
    assert SECRET not in str(caught.value.envelope())


async def test_what_is_not_set_up_is_told_with_its_remedy(files, tmp_path):
    """It is the image's fault."""
    with pytest.raises(InputFailed, match="not set up for S3") as caught:
        await files().fetch("s3://bucket/a.png", tmp_path / "f")
    assert (caught.value.blame, caught.value.status) == ("image", 400)
    assert "AWS_REGION" in caught.value.hint


async def test_an_endpoint_of_the_callers_is_held_to_the_policy(files, tmp_path):
    """Else their keys would lead to the metadata of the machine."""
    auth = {
        "type": "s3",
        "access_key_id": "a",
        "secret_access_key": SECRET,
        "endpoint": "http://169.254.169.254",
    }
    with pytest.raises(UrlNotAllowed) as caught:
        await files([("s3://**", auth)]).fetch("s3://latest/meta-data", tmp_path / "f")
    assert caught.value.details == {"host": "169.254.169.254"}
    assert SECRET not in str(caught.value.envelope())


def test_nothing_tells_the_credentials(files):
    """No text is made of them."""
    media = files([("**", {"type": "bearer", "token": SECRET})])
    assert SECRET not in f"{media!r} {vars(media)!r}"
