"""The store with real downloads from a real host, real files and real links."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from sources.host import hosting, safetensors
from sources.shop import opened

from handler.credentials import BasicAuth, BearerAuth, HeaderAuth, QueryAuth
from handler.errors import InputFailed, NotFound, UrlNotAllowed
from handler.metrics import Metrics
from handler.models.names import published_name
from handler.models.publish import NameTaken
from handler.models.records import ModelSource
from handler.models.store import InUse
from handler.transfer.base import AccessDenied, DiskFull
from handler.transfer.verify import Corrupt

SMALL = safetensors(100_000)
OTHER = safetensors(100_000, seed=2)
CANARY = "c4n4ry-5ecret"


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


def sha(body):
    return hashlib.sha256(body).hexdigest()


def gets(host, path):
    return sum(request.path == path for request in host.requests)


async def test_a_model_is_fetched_once_and_found_again_after_a_restart(host, tmp_path):
    """The index is in the folder, not in the process."""
    source = ModelSource(url=host.put("/m.safetensors", SMALL))
    async with opened(tmp_path) as store:
        first = await store.get(source, "a")
        second = await store.get(source, "b")
    async with opened(tmp_path) as store:
        third = await store.get(source, "c")

    assert [one.fetched for one in (first, second, third)] == [True, False, False]
    assert first.path.read_bytes() == SMALL
    assert third.path == first.path
    assert (third.leaf, third.bytes, third.protected) == ("m.safetensors", len(SMALL), False)
    assert gets(host, "/m.safetensors") == 1


async def test_what_was_here_and_what_was_fetched_is_counted(host, tmp_path):
    """Each time that a model is asked for."""
    source, metrics = ModelSource(url=host.put("/m.safetensors", SMALL)), Metrics()
    async with opened(tmp_path, metrics=metrics) as store:
        for owner in ("a", "b", "c"):
            await store.get(source, owner)

    assert metrics.models.values == {("miss",): 1, ("hit",): 2}


async def test_a_hundred_callers_of_one_url_cost_one_request(host, tmp_path):
    """And all of them get the same file, and news of it."""
    started = asyncio.Event()

    async def pause(_):
        await started.wait()

    source = ModelSource(url=host.put("/m.safetensors", SMALL, pause=pause))
    news = [[] for _ in range(100)]
    async with opened(tmp_path) as store:
        tasks = [
            asyncio.create_task(store.get(source, f"job{n}", news[n].append)) for n in range(100)
        ]
        while not host.requests:
            await asyncio.sleep(0)
        started.set()
        got = await asyncio.gather(*tasks)

    assert len({one.path for one in got}) == 1
    assert len(host.requests) == 1
    assert all(one[-1].done == len(SMALL) for one in news)


async def test_a_caller_who_leaves_does_not_end_the_download_of_another(host, tmp_path):
    """The last one to leave does."""
    go = asyncio.Event()
    source = ModelSource(url=host.put("/m.safetensors", SMALL, pause=lambda _: go.wait()))
    async with opened(tmp_path) as store:
        first = asyncio.create_task(store.get(source, "a"))
        second = asyncio.create_task(store.get(source, "b"))
        while not host.requests:
            await asyncio.sleep(0)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        go.set()
        assert (await second).fetched
        go.clear()
        alone = ModelSource(url=host.put("/n.safetensors", OTHER, pause=lambda _: go.wait()))
        third = asyncio.create_task(store.get(alone, "c"))
        while gets(host, "/n.safetensors") == 0:
            await asyncio.sleep(0)
        third.cancel()
        await asyncio.wait({third})
        go.set()
        assert (await store.get(alone, "d")).path.read_bytes() == OTHER


async def test_a_fault_is_each_callers_own(host, tmp_path):
    """Each adds its own place to it."""
    source = ModelSource(url=host.url("/none.safetensors"))
    async with opened(tmp_path) as store:
        faults = await asyncio.gather(
            *(store.get(source, name) for name in "ab"), return_exceptions=True
        )

    assert all(isinstance(fault, InputFailed) for fault in faults)
    assert faults[0] is not faults[1]
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_what_is_used_is_not_evicted_and_links_go_with_what_is(host, tmp_path):
    """A budget of three files, five of them, two in use; the links of what goes go first."""
    bodies = [safetensors(1_000_000, seed=n) for n in range(5)]
    models = tmp_path / "models"
    async with opened(tmp_path / "cache", budget=3 * len(bodies[0])) as store:
        stored = []
        for number, body in enumerate(bodies):
            source = ModelSource(url=host.put(f"/{number}.safetensors", body))
            stored.append(await store.get(source, f"job{number}"))
            await store.publish(stored[-1], models / f"{number}.safetensors")
            if number >= 2:
                store.release(f"job{number}")
        left = sorted(path.name for path in models.iterdir())
        held = sum(entry.bytes for entry in store.entries())

        assert left == ["0.safetensors", "1.safetensors", "4.safetensors"]
        assert held == 3 * len(bodies[0])
        assert not any(path.is_symlink() for path in models.iterdir())
        assert sum(entry.pinned for entry in store.entries()) == 2
        assert not list((tmp_path / "cache" / "objects").glob(".gone*"))


async def test_room_is_made_before_the_download_and_counts_what_is_under_way(host, tmp_path):
    """Two files that come at once are both promised room."""
    body = safetensors(1_000_000)
    go = asyncio.Event()
    seen = []
    async with opened(tmp_path, budget=2 * len(body)) as store:
        for number in range(2):
            url = host.put(f"/{number}.safetensors", safetensors(1_000_000, seed=number))
            await store.get(ModelSource(url=url), "x")
        store.release("x")
        urls = [
            host.put(f"/n{n}.safetensors", safetensors(1_000_000, seed=10 + n), pause=hold(go))
            for n in range(2)
        ]
        tasks = [asyncio.create_task(store.get(ModelSource(url=url), "y")) for url in urls]
        async with asyncio.timeout(10):
            while len(store.entries()) > 0:
                await asyncio.sleep(0.01)
        seen = list(store.entries())
        go.set()
        await asyncio.gather(*tasks)

        assert seen == []
        assert len(store.entries()) == 2


def hold(go):
    async def pause(_):
        await go.wait()

    return pause


async def test_a_link_is_taken_back_where_it_still_is_the_models(host, tmp_path):
    """Another file by that name is somebody else's."""
    target, other = tmp_path / "m" / "a.safetensors", tmp_path / "m" / "b.safetensors"
    async with opened(tmp_path / "cache") as store:
        stored = await store.get(ModelSource(url=host.put("/a.safetensors", SMALL)), "job")
        assert await store.publish(stored, target)
        assert not await store.publish(stored, target)
        store.withdraw(stored, target)
        assert not target.exists()
        assert stored.path.read_bytes() == SMALL

        assert await store.publish(stored, other)
        other.unlink()
        other.write_bytes(OTHER)
        store.withdraw(stored, other)
        assert other.read_bytes() == OTHER


async def test_over_budget_is_told_when_everything_is_in_use(host, tmp_path, caplog):
    """A job is worth more than a budget."""
    async with opened(tmp_path, budget=150_000) as store:
        for name, body in (("a", SMALL), ("b", OTHER)):
            await store.get(ModelSource(url=host.put(f"/{name}.safetensors", body)), "job")
        third = ModelSource(url=host.put("/c.safetensors", safetensors(120_000)))
        await store.get(third, "job")

        assert len(store.entries()) == 3
    assert "all that is left is in use" in caplog.text


async def test_a_file_over_the_whole_budget_is_refused_and_costs_nobody_theirs(host, tmp_path):
    """Emptying the cache for it would not suffice."""
    async with opened(tmp_path, budget=150_000) as store:
        await store.get(ModelSource(url=host.put("/a.safetensors", SMALL)), "job")
        store.release("job")
        big = ModelSource(url=host.put("/big.safetensors", safetensors(200_000)))
        with pytest.raises(DiskFull, match="whole budget") as caught:
            await store.get(big, "job")

        assert "LRU_CACHE_SIZE_GB" in caught.value.hint
        assert [entry.leaf for entry in store.entries()] == ["a.safetensors"]


async def test_a_source_without_end_does_not_go_over_the_budget(host, tmp_path):
    """It tells no size that could be refused."""
    url = host.put("/m.pt", bytes(3_000_000), length=-1, ranges=False)
    small = host.put("/s.pt", bytes(1_000_000), length=-1, ranges=False)
    async with opened(tmp_path, budget=2_000_000) as store:
        with pytest.raises(InputFailed, match="larger than 2000000 bytes"):
            await store.get(ModelSource(url=url), "a")
        assert (await store.get(ModelSource(url=small), "a")).bytes == 1_000_000


async def test_a_smaller_budget_holds_from_the_start(host, tmp_path):
    """The oldest by their last use go when the store is opened."""
    async with opened(tmp_path) as store:
        for number in range(3):
            url = host.put(f"/{number}.safetensors", safetensors(100_000, seed=number))
            stored = await store.get(ModelSource(url=url), "x")
            os.utime(tmp_path / "objects" / f"{stored.key}.json", (number, number))
            if number == 0:
                first = stored
        await store.publish(first, tmp_path / "models" / "first.safetensors")

    async with opened(tmp_path, budget=2 * len(SMALL)) as store:
        left = [entry.leaf for entry in store.entries()]

    assert left == ["0.safetensors", "2.safetensors"]


async def test_use_keeps_a_published_file(host, tmp_path):
    """By a name in a graph, without its URL; other files are not the store's."""
    models = tmp_path / "models"
    async with opened(tmp_path / "cache", budget=2 * len(SMALL)) as store:
        stored = await store.get(ModelSource(url=host.put("/0.safetensors", SMALL)), "a")
        await store.publish(stored, models / "zero.safetensors")
        store.release("a")
        (models / "mine.safetensors").write_bytes(SMALL)

        assert store.use(models / "zero.safetensors", "job")
        assert not store.use(models / "mine.safetensors", "job")
        assert not store.use(models / "none.safetensors", "job")
        for number in (1, 2):
            url = host.put(f"/{number}.safetensors", safetensors(100_000, seed=9 + number))
            await store.get(ModelSource(url=url), f"b{number}")
            store.release(f"b{number}")

        assert (models / "zero.safetensors").is_file()
        assert {entry.leaf for entry in store.entries()} == {"0.safetensors", "2.safetensors"}


async def test_two_urls_with_one_basename_are_two_files(host, tmp_path):
    """Each under a name of its own; the same name for both is refused."""
    models = tmp_path / "models"
    async with opened(tmp_path / "cache") as store:
        one, two = [
            await store.get(ModelSource(url=host.put(f"/{name}/m.safetensors", body)), "job")
            for name, body in (("a", SMALL), ("b", OTHER))
        ]
        for stored in (one, two, one):
            await store.publish(stored, models / published_name(stored.leaf, stored.key))
        await store.publish(one, models / "m.safetensors")
        with pytest.raises(NameTaken, match=r"models/m\.safetensors is there already") as caught:
            await store.publish(two, models / "m.safetensors")

    assert caught.value.status == 409
    assert (models / "m.safetensors").read_bytes() == SMALL
    assert (models / published_name(two.leaf, two.key)).read_bytes() == OTHER
    assert len(list(models.iterdir())) == 3


async def test_one_name_for_the_same_bytes_of_two_urls_stays_while_either_is_in_use(host, tmp_path):
    """Whose link it is makes no difference to a job."""
    target = tmp_path / "models" / "m.safetensors"
    async with opened(tmp_path / "cache") as store:
        one, two = [
            await store.get(ModelSource(url=host.put(f"/{name}.safetensors", SMALL)), name)
            for name in "ab"
        ]
        await store.publish(one, target)
        await store.publish(two, target)
        store.release("a")
        with pytest.raises(InUse):
            await store.remove(one.key)
        store.release("b")
        await store.remove(one.key)

    assert two.key != one.key
    assert not target.exists()


async def test_the_same_content_is_stored_once(host, tmp_path):
    """Its SHA-256 tells, where somebody gave it; then not even the network is asked."""
    async with opened(tmp_path) as store:
        one = ModelSource(url=host.put("/a.safetensors", SMALL), sha256=sha(SMALL).upper())
        two = ModelSource(url=host.put("/b.safetensors", SMALL), sha256=f"sha256:{sha(SMALL)}")
        first, second = await store.get(one, "x"), await store.get(two, "x")

        assert first.key == second.key == f"sha256-{sha(SMALL)}"
        assert gets(host, "/b.safetensors") == 0


async def test_a_url_is_not_taken_for_content_that_it_never_gave(host, tmp_path):
    """Else a caller could put their own bytes under somebody's URL."""
    async with opened(tmp_path) as store:
        await store.get(
            ModelSource(url=host.put("/evil.safetensors", OTHER), sha256=sha(OTHER)), "x"
        )
        good = host.put("/good.safetensors", SMALL)
        await store.get(ModelSource(url=good, sha256=sha(OTHER)), "x")
        got = await store.get(ModelSource(url=good), "x")

    assert got.path.read_bytes() == SMALL


async def test_a_hash_that_is_asked_for_later_is_computed_from_what_is_here(host, tmp_path):
    """The file is not fetched for it; another hash fetches, and finds the source at fault."""
    url = host.put("/m.safetensors", SMALL)
    async with opened(tmp_path) as store:
        first = await store.get(ModelSource(url=url), "x")
        again = await store.get(ModelSource(url=url, sha256=sha(SMALL)), "x")
        with pytest.raises(Corrupt):
            await store.get(ModelSource(url=url, sha256=sha(OTHER)), "x")
        with pytest.raises(InputFailed, match="64 hexadecimal"):
            await store.get(ModelSource(url=url, sha256="../../etc/passwd"), "x")

    assert (again.key, again.fetched) == (first.key, False)
    assert gets(host, "/m.safetensors") == 2


async def test_a_url_that_gives_another_file_by_now_does_not_touch_the_first(host, tmp_path):
    """Where the caller tells its size; both may be in use."""
    url = host.put("/m.safetensors", SMALL)
    new = safetensors(120_000)
    async with opened(tmp_path) as store:
        first = await store.get(ModelSource(url=url), "x")
        host.put("/m.safetensors", new, etag='"v2"')
        second = await store.get(ModelSource(url=url, size=len(new)), "x")
        third = await store.get(ModelSource(url=url), "x")

    assert first.path.read_bytes() == SMALL
    assert second.path.read_bytes() == new
    assert third.path == second.path


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 1000)])
async def test_a_file_that_vanished_or_shrank_is_fetched_anew(host, tmp_path, damage):
    """What is in memory is held against the disk, and its link follows."""
    source = ModelSource(url=host.put("/m.safetensors", SMALL))
    target = tmp_path / "models" / "m.safetensors"
    async with opened(tmp_path / "cache") as store:
        stored = await store.get(source, "a")
        await store.publish(stored, target)
        damage(stored.path)
        again = await store.get(source, "b")
        await store.publish(again, target)

    assert again.fetched
    assert target.read_bytes() == SMALL
    assert target.stat().st_ino == again.path.stat().st_ino


AUTHS = {
    "bearer": (BearerAuth(token=CANARY), {"authorization": f"Bearer {CANARY}"}),
    "basic": (
        BasicAuth(username="u", password=CANARY),
        BasicAuth(username="u", password=CANARY).headers(),
    ),
    "header": (HeaderAuth(header_name="X-Key", header_value=CANARY), {"x-key": CANARY}),
}


@pytest.mark.parametrize("kind", AUTHS)
async def test_a_protected_file_is_for_those_whom_the_source_lets(host, tmp_path, kind):
    """Each caller is checked on a hit; the operator is not."""
    auth, headers = AUTHS[kind]
    wants = {name.lower(): value for name, value in headers.items()}
    url = host.put("/m.safetensors", SMALL, wants=wants)
    async with opened(tmp_path) as store:
        with pytest.raises(AccessDenied):
            await store.get(ModelSource(url=url), "x")
        mine = await store.get(ModelSource(url=url, auth=auth), "x")
        for other in (None, BearerAuth(token="wrong")):
            with pytest.raises(AccessDenied, match="is in the cache, but its source"):
                await store.get(ModelSource(url=url, auth=other), "y")
        again = await store.get(ModelSource(url=url, auth=auth), "z")
        operators = await store.get(ModelSource(url=url, operator=True), "o")

    assert mine.protected
    assert mine.fetched
    assert not again.fetched
    assert not operators.fetched
    assert host.served < 2 * len(SMALL)


async def test_a_query_credential_is_checked_as_well(host, tmp_path):
    """The right is in the request's URL, not in the one that names the file."""

    def guard(request):
        if f"key={CANARY}" not in request.query:
            host.files["/m.safetensors"].statuses.append((403, {}))

    url = host.put("/m.safetensors", SMALL, before=guard)
    auth = QueryAuth(query_param="key", query_value=CANARY)
    async with opened(tmp_path) as store:
        await store.get(ModelSource(url=url, auth=auth), "x")
        with pytest.raises(AccessDenied):
            await store.get(ModelSource(url=url), "y")
        assert not (await store.get(ModelSource(url=url, auth=auth), "z")).fetched


@pytest.mark.parametrize(
    "auth",
    [
        QueryAuth(query_param="file", query_value="other"),
        HeaderAuth(header_name="X-File", header_value="other"),
    ],
    ids=["query", "header"],
)
async def test_what_somebody_sends_along_does_not_decide_what_others_get(host, tmp_path, auth):
    """A parameter or a header may make a URL lead to another file: that is theirs alone."""
    bodies = {'"own"': SMALL, '"other"': OTHER}

    def before(request):
        theirs = "file=other" in request.query or request.headers.get("x-file") == "other"
        host.files["/dl"].etag = etag = '"other"' if theirs else '"own"'
        host.files["/dl"].body = bodies[etag]

    url = host.put("/dl", SMALL, before=before)
    async with opened(tmp_path) as store:
        theirs = await store.get(ModelSource(url=url, auth=auth), "a")
        mine = await store.get(ModelSource(url=url), "b")
        again = await store.get(ModelSource(url=url), "c")

        assert theirs.path.read_bytes() == OTHER
        assert mine.path.read_bytes() == again.path.read_bytes() == SMALL
        assert (mine.fetched, again.fetched) == (True, False)


async def test_two_who_get_different_files_by_one_url_do_not_take_them_from_each_other(
    host, tmp_path
):
    """Each finds theirs again, and what somebody uses stays where it is."""
    bodies = {"Bearer a": SMALL, "Bearer b": OTHER}

    def before(request):
        who = request.headers["authorization"]
        host.files["/my"].body, host.files["/my"].etag = bodies[who], f'"{who}"'

    url = host.put("/my", SMALL, before=before)
    async with opened(tmp_path) as store:
        for who, body in [*bodies.items(), *bodies.items(), *bodies.items()]:
            auth = BearerAuth(token=who.removeprefix("Bearer "))
            got = await store.get(ModelSource(url=url, auth=auth), who)
            assert got.path.read_bytes() == body
        assert {entry.bytes for entry in store.entries()} == {len(SMALL)}
        assert len(store.entries()) <= 3
        inodes = {entry.key for entry in store.entries()}
        await store.get(ModelSource(url=url, auth=BearerAuth(token="a")), "x")
        assert {entry.key for entry in store.entries()} == inodes


async def test_a_check_of_rights_is_not_led_to_another_file(host, tmp_path):
    """Who may read one file of a host does not get another, by whatever they claim or send."""
    body = {"": b"", "secret": SMALL, "open": OTHER}

    def by_query(request):
        name = dict(pair.split("=") for pair in request.query.split("&") if "=" in pair)["file"]
        host.files["/dl"].body, host.files["/dl"].etag = body[name], f'"{name}"'
        host.files["/dl"].wants = {"authorization": f"Bearer {CANARY}"} if name == "secret" else {}

    url = host.put("/dl", SMALL, before=by_query) + "?file=secret"
    auth = QueryAuth(query_param="file", query_value="open")
    async with opened(tmp_path) as store:
        await store.get(ModelSource(url=url, auth=BearerAuth(token=CANARY)), "a")
        got = await store.get(ModelSource(url=url, auth=auth), "b")
        assert got.path.read_bytes() == OTHER
        with pytest.raises(InputFailed):
            await store.get(ModelSource(url=url, auth=auth, sha256=sha(SMALL)), "c")


async def test_user_and_password_in_a_url_protect_as_credentials_do(host, tmp_path):
    """They are no part of what names the file."""
    wants = {
        name.lower(): value
        for name, value in BasicAuth(username="u", password=CANARY).headers().items()
    }
    bare = host.put("/m.safetensors", SMALL, wants=wants)
    url = host.url("/m.safetensors", user=f"u:{CANARY}@")
    async with opened(tmp_path) as store:
        first = await store.get(ModelSource(url=url), "x")
        with pytest.raises(AccessDenied):
            await store.get(ModelSource(url=bare), "y")
        again = await store.get(ModelSource(url=url), "z")

    assert (first.protected, again.fetched, again.key) == (True, False, first.key)


async def test_a_hash_alone_gives_nobody_a_protected_file(host, tmp_path):
    """Hashes are published: a host of the caller's own must not open what another one guards."""
    wants = {"authorization": f"Bearer {CANARY}"}
    url = host.put("/gated.safetensors", SMALL, wants=wants)
    auth = BearerAuth(token=CANARY)
    async with opened(tmp_path) as store:
        await store.get(ModelSource(url=url, auth=auth, sha256=sha(SMALL)), "x")
        evil = host.put("/evil.safetensors", OTHER)
        with pytest.raises(Corrupt):
            await store.get(ModelSource(url=evil, sha256=sha(SMALL)), "y")
        mirror = host.put("/mirror.safetensors", SMALL)
        proven = await store.get(ModelSource(url=mirror, sha256=sha(SMALL)), "z")
        open_now = await store.get(ModelSource(url=evil, sha256=sha(SMALL)), "y")

    assert proven.fetched
    assert not proven.protected
    assert open_now.key == proven.key
    assert len(list((tmp_path / "objects").iterdir())) == 2


async def test_a_url_that_is_signed_anew_is_checked_not_fetched(host, tmp_path):
    """The same file of the same place; a bad signature is refused."""

    def guard(request):
        if "X-Amz-Signature=good" not in request.query:
            host.files["/m.safetensors"].statuses.append((403, {}))

    url = host.put("/m.safetensors", SMALL, before=guard)
    async with opened(tmp_path) as store:
        for number in range(3):
            signed = f"{url}?X-Amz-Signature=good{number}"
            got = await store.get(ModelSource(url=signed, sha256=sha(SMALL)), "x")
            assert (got.fetched, got.protected) == (number == 0, True)
        with pytest.raises(AccessDenied):
            await store.get(ModelSource(url=f"{url}?X-Amz-Signature=bad", sha256=sha(SMALL)), "x")
        before = len(host.requests)
        await store.get(ModelSource(url=f"{url}?X-Amz-Signature=good0"), "x")

    assert len(host.requests) == before
    assert len(list((tmp_path / "objects").iterdir())) == 2


async def test_a_caller_with_other_credentials_waits_and_is_then_checked(host, tmp_path):
    """They never share the first one's download."""
    go = asyncio.Event()
    wants = {"authorization": f"Bearer {CANARY}"}
    url = host.put("/m.safetensors", SMALL, wants=wants, pause=hold(go))
    async with opened(tmp_path) as store:
        mine = asyncio.create_task(
            store.get(ModelSource(url=url, auth=BearerAuth(token=CANARY)), "x")
        )
        while not host.requests:
            await asyncio.sleep(0)
        theirs = asyncio.create_task(store.get(ModelSource(url=url), "y"))
        await asyncio.sleep(0)
        go.set()
        assert (await mine).fetched
        with pytest.raises(AccessDenied, match="in the cache"):
            await theirs
        store.release("x")
        assert not any(entry.pinned for entry in store.entries())


async def test_what_the_operator_fetched_is_held_to_the_policy_for_callers(host, tmp_path):
    """A URL that callers may not name stays one when its file is here."""
    url = host.put("/m.safetensors", SMALL)
    async with opened(tmp_path, allow="") as store:
        await store.get(ModelSource(url=url, operator=True), "o")
        with pytest.raises(UrlNotAllowed):
            await store.get(ModelSource(url=url), "x")
    async with opened(tmp_path) as store:
        for _ in range(2):
            assert not (await store.get(ModelSource(url=url), "x")).fetched

    assert len(host.requests) == 2


async def test_no_secret_is_in_any_name_or_note(host, tmp_path):
    """Whichever way it came in, while the file comes and after."""
    wants = {"authorization": f"Bearer {CANARY}"}
    url = host.put("/m.safetensors", SMALL, wants=wants)
    plain = host.put("/n.safetensors", OTHER)
    user = host.url("/n.safetensors", user=f"u:{CANARY}@")
    async with opened(tmp_path) as store:
        await store.get(ModelSource(url=url, auth=BearerAuth(token=CANARY)), "x")
        await store.get(ModelSource(url=f"{plain}?sig={CANARY}#{CANARY}"), "x")
        await store.get(ModelSource(url=user), "x")
        host.put("/o.safetensors", safetensors(300_000), drops=[200_000] * 9, ranges=False)
        with pytest.raises(InputFailed) as caught:
            await store.get(ModelSource(url=f"{host.url('/o.safetensors')}?key={CANARY}"), "x")
        told = repr(store.entries()) + repr(caught.value.envelope())

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    told += "".join(str(path) for path in files)
    told += "".join(path.read_bytes().decode("latin-1") for path in files)
    assert CANARY not in told
    notes = list((tmp_path / "objects").glob("*.json"))
    assert {path.stat().st_mode & 0o777 for path in notes} == {0o600}


async def test_what_a_crash_left_is_taken_up_or_removed(host, tmp_path):
    """The beginning of a file goes on; objects without notes, and notes without objects, go."""
    body = safetensors(3_000_000)
    url = host.put("/m.safetensors", body, drops=[1_000_000, 0, 0, 0, 0, 0])
    async with opened(tmp_path) as store:
        with pytest.raises(InputFailed):
            await store.get(ModelSource(url=url), "x")
    host.put("/m.safetensors", body)
    objects = tmp_path / "objects"
    lonely, note = objects / "url-lonely.safetensors", objects / "url-noted.json"
    lonely.write_bytes(SMALL)
    note.write_text(json.dumps({"key": "url-noted"}))
    (objects / ".gone-1").write_bytes(SMALL)
    for path in objects.iterdir():
        os.utime(path, (1, 1))
    served = host.served
    async with opened(tmp_path) as store:
        got = await store.get(ModelSource(url=url), "x")

    assert got.path.read_bytes() == body
    assert host.served - served <= len(body) - 900_000
    assert sorted(path.name for path in objects.iterdir()) == sorted(
        (got.path.name, f"{got.key}.json", "url-noted.json")
    )


async def test_leftovers_count_and_go_first(host, tmp_path):
    """Nobody is fetching them: they are cheaper to lose than a whole file."""
    left = tmp_path / "incoming" / ("x" * 32)
    left.mkdir(parents=True)
    (left / ".model.part").write_bytes(SMALL)
    async with opened(tmp_path, budget=2 * len(SMALL)) as store:
        for name, body in (("a", SMALL), ("b", OTHER)):
            await store.get(ModelSource(url=host.put(f"/{name}.safetensors", body)), "x")
            store.release("x")

        assert len(store.entries()) == 2
        assert not left.exists()


async def test_a_store_shared_by_workers_fetches_once(host, tmp_path):
    """The second one waits for the first, and finds what it brought."""
    go = asyncio.Event()
    source = ModelSource(url=host.put("/m.safetensors", SMALL, pause=hold(go)))
    async with opened(tmp_path) as one, opened(tmp_path) as two:
        tasks = [asyncio.create_task(store.get(source, "x")) for store in (one, two)]
        while not host.requests:
            await asyncio.sleep(0)
        go.set()
        got = await asyncio.gather(*tasks)

        assert sorted(stored.fetched for stored in got) == [False, True]
        assert len(host.requests) == 1
        with pytest.raises(InUse):
            await one.remove(got[0].key)
        one.release("x")
        with pytest.raises(InUse):
            await one.remove(got[0].key)
        two.release("x")
        assert await one.remove(got[0].key) == len(SMALL)
        assert (await two.get(source, "y")).fetched


async def test_removing_takes_the_links_along(host, tmp_path):
    """Others' files by the same name stay."""
    models = tmp_path / "models"
    async with opened(tmp_path / "cache") as store:
        stored = await store.get(ModelSource(url=host.put("/m.safetensors", SMALL)), "x")
        for name in "abc":
            await store.publish(stored, models / f"{name}.safetensors")
        (models / "b.safetensors").unlink()
        (models / "b.safetensors").write_bytes(OTHER)
        (entry,) = store.entries()
        with pytest.raises(InUse):
            await store.remove(entry.key)
        store.release("x")
        freed = await store.remove(entry.key)
        with pytest.raises(NotFound):
            await store.remove(entry.key)

    assert freed == len(SMALL)
    assert [path.name for path in models.iterdir()] == ["b.safetensors"]
    assert list((tmp_path / "cache" / "objects").iterdir()) == []
    assert (entry.url, entry.leaf) == (host.url("/m.safetensors"), "m.safetensors")
    assert abs(entry.last_use - time.time()) < 60
    assert len(entry.links) == 3


async def test_a_model_without_a_suffix_gets_that_of_its_bytes(host, tmp_path):
    """And is checked as such, though its URL told nothing."""
    cut = host.put("/api/2", safetensors(100_000)[:-10])
    url = host.put("/api/1", SMALL)
    async with opened(tmp_path) as store:
        got = await store.get(ModelSource(url=url), "x")
        with pytest.raises(Corrupt):
            await store.get(ModelSource(url=cut), "x")

    assert (got.leaf, got.path.suffix) == ("1.safetensors", ".safetensors")
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_file_that_is_found_costs_no_request(host, tmp_path):
    """`find` never asks the network."""
    source = ModelSource(url=host.put("/m.safetensors", SMALL), operator=True)
    async with opened(tmp_path) as store:
        assert await store.find(source) is None
        got = await store.get(source, "x")
        store.release("x")
        found = await store.find(source)

        assert found is not None
        assert found.path == got.path
        assert not any(entry.pinned for entry in store.entries())
    assert len(host.requests) == 1


async def test_a_local_file_is_linked_not_copied(tmp_path):
    """On the same disk it takes no room of its own."""
    mine = tmp_path / "mine" / "m.safetensors"
    mine.parent.mkdir()
    mine.write_bytes(SMALL)
    async with opened(tmp_path / "cache", take=(mine.parent,)) as store:
        got = await store.get(ModelSource(url=str(mine)), "x")

    assert got.path.stat().st_ino == mine.stat().st_ino


async def test_what_comes_and_goes_is_told(host, tmp_path):
    """A model that came by where it stays, once; one that was evicted; none that was here."""
    first = ModelSource(url=host.put("/a.safetensors", SMALL))
    second = ModelSource(url=host.put("/b.safetensors", OTHER))
    came, went = [], []
    listeners = {
        "on_done": lambda *news: came.append(news[:3]),
        "on_removed": lambda *news: went.append(news),
    }
    async with opened(tmp_path, budget=len(SMALL) + 10, **listeners) as store:
        a = await store.get(first, "job")
        await store.get(first, "job")
        store.release("job")
        b = await store.get(second, "job")

    assert came == [(first.url, a.path, a.bytes), (second.url, b.path, b.bytes)]
    assert went == [(first.url, a.path, a.bytes)]
