"""Models by URL, by a name of the catalogue, or by file name; over real transfers and files."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest
from models_here import FOLDERS, LOADERS, wants
from sources.host import hosting, safetensors
from worker import parts_in

from handler.credentials import BearerAuth, Credential
from handler.engine.base import EngineState
from handler.engine.memory import NODES
from handler.engine.model_folders import ModelFolders
from handler.errors import (
    HandlerError,
    InputFailed,
    InternalFault,
    InvalidPayload,
    UrlNotAllowed,
)
from handler.models.library import ModelLibrary
from handler.models.records import ModelSource, Named
from handler.models.store import NameTaken, Store
from handler.settings import Settings
from handler.transfer.records import Wanted
from handler.transfer.verify import Corrupt

CONTENT = safetensors(3000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


def parts_for(home, *named, **engine):
    catalogue = {name: one for one in named for name in one.names}
    nodes = {**NODES, **LOADERS}
    return parts_in(home, catalogue=catalogue, nodes=nodes, model_folders=FOLDERS, **engine)


def named(url, **more):
    facts = {"names": ("sdxl", "xl"), "urls": (url,), "folder": "checkpoints"}
    return Named(**{**facts, "filename": "sub/sd_xl.safetensors", **more})


async def resolved(parts, class_type, credentials=(), **inputs):
    (want,) = await wants(parts, class_type, **inputs)
    return await parts.models.resolve(want, credentials, "owner")


async def listed(parts, class_type, name):
    return (await parts.engine.object_info()).node(class_type).inputs[name].choices


def kept(parts):
    return [entry.leaf for entry in parts.models._store.entries() if entry.pinned]


async def test_a_url_becomes_a_name_that_the_node_lists(tmp_path, host):
    """The file lies where the engine looks, and is kept for the job until that lets go."""
    url = host.put("/dir/my%20model.safetensors", CONTENT)
    parts = parts_for(tmp_path)

    name = await resolved(parts, "CheckpointLoader", ckpt_name=f"{url}?download=true")

    assert name.endswith(".safetensors")
    assert (tmp_path / "models" / "checkpoints" / name).read_bytes() == CONTENT
    assert name in await listed(parts, "CheckpointLoader", "ckpt_name")
    assert len(kept(parts)) == 1
    parts.models.release("owner")
    assert kept(parts) == []


async def test_the_same_url_is_fetched_once(tmp_path, host):
    """At the same time, in two nodes of two kinds, and later."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path)

    names = await asyncio.gather(
        resolved(parts, "CheckpointLoader", ckpt_name=url),
        resolved(parts, "LoraLoader", lora_name=url),
        resolved(parts, "CheckpointLoader", ckpt_name=url),
    )
    names.append(await resolved(parts, "LoraLoader", lora_name=url))

    assert len(set(names)) == 1
    assert host.served == len(CONTENT)
    assert (tmp_path / "models" / "loras" / names[0]).is_file()


async def test_two_urls_of_one_name_do_not_meet(tmp_path, host):
    """Each node gets its own bytes."""
    other = safetensors(3000, seed=2)
    urls = [host.put("/a/m.safetensors", CONTENT), host.put("/b/m.safetensors", other)]
    parts = parts_for(tmp_path)

    names = [await resolved(parts, "LoraLoader", lora_name=url) for url in urls]

    root = tmp_path / "models" / "loras"
    assert [(root / name).read_bytes() for name in names] == [CONTENT, other]


async def test_the_folder_of_an_empty_list_is_found_out_once(tmp_path, host):
    """By an empty file that is gone again; two folders were possible by all that was told."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path)
    (want,) = await wants(parts, "OddLoader", thing=url)
    want = replace(want, folders=("loras", "odd_ones", "more_odd_ones"))

    name = await parts.models.resolve(want, (), "owner")

    left = [path for path in (tmp_path / "models").rglob("*") if path.is_file()]
    assert left == [tmp_path / "models" / "odd_ones" / name]
    assert parts.models._learnt == {("OddLoader", "thing"): "odd_ones"}
    assert await parts.models.resolve(want, (), "owner") == name
    assert await listed(parts, "OddLoader", "thing") == (name,)


async def test_an_input_that_lists_no_model_folder_is_told(tmp_path, host):
    """Nothing is fetched for it, and no empty file stays."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path)

    with pytest.raises(InputFailed, match="takes no model file") as caught:
        await resolved(parts, "Unrelated", thing=url)

    assert caught.value.location == "prompt.7.inputs.thing"
    assert host.requests == []
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


async def test_a_model_in_an_undeclared_object_is_resolved(tmp_path, host):
    """It is enough that the folder lists it."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path)

    name = await resolved(parts, "PowerLoader", lora_1={"on": True, "lora": url})

    assert name in await parts.engine.models_in("loras")


async def test_credentials_go_to_the_urls_that_they_are_for(tmp_path, host):
    """Who has none is refused, also when the file is here."""
    url = host.put("/m.safetensors", CONTENT, wants={"authorization": "Bearer t0ken"})
    auth = Credential(url_pattern="http://127.0.0.1:*/**", auth=BearerAuth(token="t0ken"))
    parts = parts_for(tmp_path)

    assert await resolved(parts, "CheckpointLoader", [auth], ckpt_name=url)
    with pytest.raises(HandlerError) as caught:
        await resolved(parts, "CheckpointLoader", ckpt_name=url)

    assert caught.value.status < 500
    assert "t0ken" not in str(caught.value.envelope())


async def test_a_failure_names_node_and_input(tmp_path, host):
    """In comfyui-api's words."""
    parts = parts_for(tmp_path)

    with pytest.raises(HandlerError) as caught:
        await resolved(parts, "CheckpointLoader", ckpt_name=host.url("/nowhere"))

    fault = caught.value
    assert fault.message.startswith("Failed to process model for node 7: ")
    assert str(fault) == fault.message
    assert (fault.status, fault.location) == (400, "prompt.7.inputs.ckpt_name")
    assert (fault.node_id, fault.class_type, fault.node_title) == ("7", "CheckpointLoader", "mine")


async def test_a_name_of_the_catalogue_is_fetched_to_its_place(tmp_path, host):
    """By name, alias and file name; the second time it is there."""
    model = named(host.put("/x", CONTENT), sha256=SHA256, size=len(CONTENT))
    parts = parts_for(tmp_path, model)

    for name in ("xl", "sdxl", "sub/sd_xl.safetensors"):
        found = await resolved(parts, "CheckpointLoader", ckpt_name=name)
        assert found == "sub/sd_xl.safetensors"

    place = tmp_path / "models" / "checkpoints" / "sub" / "sd_xl.safetensors"
    assert place.read_bytes() == CONTENT
    assert host.served == len(CONTENT)
    assert len(kept(parts)) == 1


async def test_a_catalogue_file_that_is_there_is_used(tmp_path, host):
    """Whoever put it there; one of another size is not the one that is meant."""
    model = named(host.url("/x"), size=len(CONTENT))
    parts = parts_for(tmp_path, model)
    place = tmp_path / "models" / "checkpoints" / "sub" / "sd_xl.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)

    assert await resolved(parts, "CheckpointLoader", ckpt_name="xl") == "sub/sd_xl.safetensors"
    place.write_bytes(b"other")
    with pytest.raises(InputFailed, match="5 bytes") as caught:
        await resolved(parts, "CheckpointLoader", ckpt_name="xl")
    assert caught.value.blame == "image"


async def test_the_next_url_of_the_catalogue_is_tried(tmp_path, host):
    """The first fault is told where all fail."""
    good = host.put("/good", CONTENT)
    parts = parts_for(
        tmp_path,
        named("", urls=(host.url("/gone"), good), sha256=SHA256),
        named("", names=("bad",), filename="b.pt", urls=(host.url("/1"), host.url("/2"))),
    )

    assert await resolved(parts, "CheckpointLoader", ckpt_name="xl")
    with pytest.raises(InputFailed, match="/1"):
        await resolved(parts, "CheckpointLoader", ckpt_name="bad")


async def test_a_model_for_another_folder_is_refused(tmp_path, host):
    """With what the input takes."""
    parts = parts_for(tmp_path, named(host.url("/x")))

    with pytest.raises(InputFailed, match="model for checkpoints") as caught:
        await resolved(parts, "LoraLoader", lora_name="xl")
    assert "loras" in caught.value.hint


async def test_a_listed_file_is_kept_while_it_is_used(tmp_path, host):
    """One of the store's, by its name alone; others need no keeping."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path)
    name = await resolved(parts, "LoraLoader", lora_name=url)
    parts.models.release("owner")
    (tmp_path / "models" / "loras" / "own.pt").touch()
    await parts.engine.refresh_class("LoraLoader")

    assert await resolved(parts, "LoraLoader", lora_name="own.pt") == "own.pt"
    assert kept(parts) == []
    assert await resolved(parts, "LoraLoader", lora_name=name) == name
    assert len(kept(parts)) == 1


async def test_a_path_into_a_model_folder_is_that_file(tmp_path):
    """It is there, and needs no right to read paths."""
    parts = parts_for(tmp_path)
    place = tmp_path / "models" / "loras" / "sub" / "own.pt"
    place.parent.mkdir(parents=True)
    place.touch()

    assert await resolved(parts, "LoraLoader", lora_name=str(place)) == "sub/own.pt"
    assert await resolved(parts, "LoraLoader", lora_name=f"file://{place}") == "sub/own.pt"
    with pytest.raises(InputFailed):
        await resolved(parts, "LoraLoader", lora_name=str(place.with_name("gone.pt")))
    with pytest.raises(InputFailed):
        await resolved(parts, "CheckpointLoader", ckpt_name="/etc/hostname")


async def test_whole_repositories_are_not_fetched(tmp_path):
    """The hint says what to do."""
    parts = parts_for(tmp_path)

    with pytest.raises(InputFailed, match="folders of many files") as caught:
        await resolved(parts, "DiffusersLoader", model_path="https://h.example/org/repo")
    assert "manifest" in caught.value.hint


async def test_an_engine_elsewhere_has_no_folders_to_fetch_to(tmp_path):
    """It says what to do."""
    parts = parts_for(tmp_path)
    (want,) = await wants(parts, "LoraLoader", lora_name="https://h.example/a")
    parts.engine._models.folders = ModelFolders(dict.fromkeys(FOLDERS, ()))

    with pytest.raises(InputFailed, match="not on this machine") as caught:
        await parts.models.resolve(want, (), "owner")
    assert caught.value.blame == "image"


async def test_a_file_that_the_engine_does_not_see_is_a_fault_of_ours(tmp_path, host):
    """With folder and path; the prompt is not queued in vain."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path)
    (want,) = await wants(parts, "CheckpointLoader", ckpt_name=url)

    with pytest.raises(InternalFault, match="model folder loras") as caught:
        await parts.models.resolve(replace(want, folders=("loras",)), (), "owner")
    assert str(tmp_path) in caught.value.message


async def test_a_file_that_no_folder_lists_is_the_callers_and_does_not_stay(tmp_path, host):
    """A name without a model's ending would lie there for nobody."""
    parts = parts_for(tmp_path)
    source = ModelSource(url=host.put("/m.safetensors", CONTENT))

    with pytest.raises(InputFailed, match='does not list "notes"') as caught:
        await parts.models.add(source, "loras", "notes", "owner")
    assert caught.value.blame == "caller"
    assert not [*(tmp_path / "models" / "loras").iterdir()]
    again = await parts.models.add(source, "loras", "m.safetensors", "owner")
    assert not again.fetched


async def test_what_is_called_safetensors_is_one(tmp_path, host):
    """The URL did not say so, hence nobody looked when it came."""
    parts = parts_for(tmp_path)
    source = ModelSource(url=host.put("/m.pt", b"pickled" * 100))

    with pytest.raises(Corrupt, match=r"mine\.safetensors"):
        await parts.models.add(source, "loras", "mine.safetensors", "owner")
    added = await parts.models.add(source, "loras", "mine.pt", "owner")
    assert added.filename == "mine.pt"


async def test_a_name_of_another_root_is_not_taken_from_it(tmp_path, host):
    """Every graph that names it would get other bytes from then on."""
    parts = parts_for(tmp_path)
    folders = await parts.engine.model_folders()
    other = tmp_path / "volume" / "loras"
    other.mkdir(parents=True)
    (other / "style.safetensors").write_bytes(safetensors(3000, seed=2))
    paths = {**folders.paths, "loras": (*folders.paths["loras"], other)}
    parts.engine._models.folders = ModelFolders(paths, folders.preferred)
    source = ModelSource(url=host.put("/m.safetensors", CONTENT))

    with pytest.raises(NameTaken, match=r"loras/style\.safetensors is there already"):
        await parts.models.add(source, "loras", "style.safetensors", "owner")
    (other / "style.safetensors").write_bytes(CONTENT)
    added = await parts.models.add(source, "loras", "style.safetensors", "owner")
    assert added.path == other / "style.safetensors"
    assert not (tmp_path / "models" / "loras" / "style.safetensors").exists()


async def test_a_url_of_the_operators_is_that_model(tmp_path, host):
    """It has its name and its place already, and is not had twice."""
    url = host.put("/xl.safetensors", CONTENT)
    parts = parts_for(tmp_path, named(url))

    names = [await resolved(parts, "CheckpointLoader", ckpt_name=name) for name in ("xl", url)]

    assert names == ["sub/sd_xl.safetensors"] * 2
    assert host.served == len(CONTENT)
    elsewhere = await resolved(parts, "LoraLoader", lora_name=url)
    assert elsewhere not in names


async def test_what_the_manifest_is_bringing_is_waited_for(tmp_path, host):
    """By name and by URL: the bytes come once, to the manifest's own place."""
    url = host.put("/late.safetensors", CONTENT)
    place = tmp_path / "models" / "checkpoints" / "late.safetensors"
    brought = named(url, names=("late",), filename="late.safetensors", path=place)
    parts = parts_for(tmp_path, brought)
    step = asyncio.create_task(parts.operator.download(Wanted(url, place)))
    await asyncio.sleep(0)

    names = await asyncio.gather(
        resolved(parts, "CheckpointLoader", ckpt_name="late"),
        resolved(parts, "CheckpointLoader", ckpt_name=url),
    )

    assert names == ["late.safetensors"] * 2
    assert (await step).path.read_bytes() == CONTENT
    assert host.served == len(CONTENT)


async def test_a_model_of_the_operators_that_is_not_to_be_had_is_the_images_fault(tmp_path, host):
    """The caller did not choose its URL, and has no token for it."""
    url = host.put("/xl.safetensors", CONTENT).replace("/xl", "/gone")
    parts = parts_for(tmp_path, named(url))

    with pytest.raises(HandlerError, match="sdxl, a model of the manifest, cannot be had") as told:
        await resolved(parts, "CheckpointLoader", ckpt_name="xl")
    assert told.value.blame == "image"
    assert "manifest" in told.value.hint


async def test_a_file_is_added_to_a_folder(tmp_path, host):
    """Under the name that was asked for, or the source's; the folder is made."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path)
    source = ModelSource(url=url)

    added = await parts.models.add(source, "loras", "mine.safetensors", "owner")
    again = await parts.models.add(source, "odd_ones", None, "owner")

    assert (added.folder, added.filename, added.fetched) == ("loras", "mine.safetensors", True)
    assert (again.filename, again.fetched, again.bytes) == ("m.safetensors", False, len(CONTENT))
    assert added.path.read_bytes() == again.path.read_bytes() == CONTENT
    assert added.seconds > 0
    other = ModelSource(url=host.put("/o.safetensors", safetensors(5)))
    with pytest.raises(NameTaken):
        await parts.models.add(other, "loras", "mine.safetensors", "owner")


async def test_a_name_of_the_catalogue_is_for_the_catalogues_model(tmp_path, host):
    """A caller's other file would be taken for it by everybody's graphs."""
    url, other = host.put("/x", CONTENT), host.put("/o", safetensors(3000, seed=2))
    model = named(url, filename="m.safetensors", names=("xl.safetensors",), sha256=SHA256)
    parts = parts_for(tmp_path, model)
    add = parts.models.add

    for name in ("m.safetensors", "xl.safetensors"):
        with pytest.raises(NameTaken, match="of the manifest"):
            await add(ModelSource(url=other), "checkpoints", name, "owner")
        auth = BearerAuth(token="t")
        with pytest.raises(NameTaken):
            await add(ModelSource(url=url, auth=auth), "checkpoints", name, "owner")
        await add(ModelSource(url=other), "loras", name, "owner")
    await add(ModelSource(url=other, sha256=None, operator=True), "checkpoints", "mine.pt", "owner")

    for source in (ModelSource(url=url), ModelSource(url=url, auth=auth, sha256=SHA256)):
        added = await add(source, "checkpoints", "m.safetensors", "owner")
        assert added.path.read_bytes() == CONTENT
    with pytest.raises(NameTaken, match="other content"):
        await add(ModelSource(url=other), "checkpoints", "m.safetensors", "owner")


@pytest.mark.parametrize("folder", ["nope", "custom_nodes", "../loras", ""])
async def test_no_file_is_added_elsewhere(tmp_path, folder):
    """The answer lists the folders that there are."""
    parts = parts_for(tmp_path)

    with pytest.raises(InvalidPayload, match="no model folder") as caught:
        await parts.models.add(ModelSource(url="https://h.example/a"), folder, None, "owner")
    assert "checkpoints, diffusers, loras" in caught.value.hint


@pytest.mark.parametrize("filename", ["../x.pt", "a/b.pt", ".hidden", "con.pt"])
async def test_names_that_lead_elsewhere_are_refused(tmp_path, filename):
    """Before anything is fetched."""
    parts = parts_for(tmp_path)

    with pytest.raises(InvalidPayload):
        await parts.models.add(ModelSource(url="https://h.example/a"), "loras", filename, "owner")


async def test_lists_are_kept_until_the_engine_boots_again(tmp_path):
    """And read anew when asked for."""
    parts = parts_for(tmp_path)
    assert (await parts.models.listings())["loras"] == []
    (tmp_path / "models" / "loras").mkdir(parents=True)
    (tmp_path / "models" / "loras" / "a.pt").touch()

    assert (await parts.models.listings())["loras"] == []
    assert (await parts.models.listings(fresh=True))["loras"] == ["a.pt"]


class Asked:
    """An engine whose lists take a moment, and which knows what it was asked for."""

    def __init__(self, engine):
        self._engine = engine
        self.folders = []

    async def model_folders(self):
        return await self._engine.model_folders()

    async def models_in(self, folder):
        self.folders.append(folder)
        await asyncio.sleep(0)
        return await self._engine.models_in(folder)


async def test_jobs_that_come_at_once_share_a_reading_of_the_lists(tmp_path):
    """One that has begun before is too old for who comes later; a second one serves them all."""
    engine = Asked(parts_for(tmp_path).engine)
    library = ModelLibrary(Store(tmp_path / "store"), engine)

    first = asyncio.create_task(library.listings(fresh=True))
    while not engine.folders:
        await asyncio.sleep(0)
    found = await asyncio.gather(*(library.listings(fresh=True) for _ in range(50)))

    assert all(one == found[0] for one in [*found, await first])
    assert engine.folders.count("loras") == 2


async def test_an_engine_that_is_down_meanwhile_keeps_no_model_away(tmp_path, host):
    """It lists all files anew when it is back; until then what was last known counts."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path)
    (want,) = await wants(parts, "LoraLoader", lora_name=url)
    parts.engine.enter(EngineState.RESTARTING, "a test")

    name = await parts.models.resolve(want, (), "owner")

    assert (tmp_path / "models" / "loras" / name).read_bytes() == CONTENT
    assert set(await parts.models.listings(fresh=True)) == set(FOLDERS)


async def test_the_operators_urls_may_lead_anywhere(tmp_path, host):
    """Those of callers are held to the policy."""
    url = host.put("/m.safetensors", CONTENT)
    parts = parts_for(tmp_path, settings=Settings(url_allow_hosts="h.example"))
    (want,) = await wants(parts, "LoraLoader", lora_name=url)

    with pytest.raises(UrlNotAllowed, match="model for node 7"):
        await parts.models.resolve(want, (), "owner")
    assert await parts.models.resolve(want, (), "owner", operator=True)
