"""The way to the engine's folders, shared or over HTTP."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from handler.engine.client import ComfyClient
from handler.engine.command import Folders
from handler.engine.files import EngineFiles
from handler.errors import EngineRefused
from handler.records import JOBS_FOLDER

if TYPE_CHECKING:
    from pathlib import Path


def shared_files(home: Path) -> EngineFiles:
    where = Folders(home / "in", home / "out", home / "temp", None)
    for folder in (where.input, where.output, where.temp):
        folder.mkdir(parents=True)
    return EngineFiles(where, ComfyClient("http://127.0.0.1:1", client_id="x"))


def written(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@contextlib.asynccontextmanager
async def attached_files(home: Path, stored_as=None):
    """Files of an engine that is reached by HTTP only; it keeps what it gets in a dict."""
    stored: dict[tuple[str, str], bytes] = {}

    async def upload(request):
        form = await request.post()
        name = stored_as or form["image"].filename
        stored[(form["subfolder"], name)] = form["image"].file.read()
        return web.json_response({"name": name, "subfolder": form["subfolder"], "type": "input"})

    async def view(request):
        return web.Response(body="/".join(sorted(request.query.values())).encode())

    app = web.Application()
    app.router.add_post("/upload/image", upload)
    app.router.add_get("/view", view)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = ComfyClient(f"http://127.0.0.1:{runner.addresses[0][1]}", client_id="x")
    where = Folders(home / "in", home / "out", home / "temp", None, shared=False)
    try:
        yield EngineFiles(where, client), stored
    finally:
        await client.close()
        await runner.cleanup()


async def test_a_shared_file_is_known_by_its_path_below_the_input_folder(tmp_path):
    """Nothing is copied."""
    files = shared_files(tmp_path)

    assert (
        await files.publish(written(files.inputs_of("uid") / "a.png")) == f"{JOBS_FOLDER}/uid/a.png"
    )
    assert files.shared
    assert files.input_root == tmp_path / "in"
    assert files.outputs_of("uid") == tmp_path / "out" / JOBS_FOLDER / "uid"


async def test_an_attached_engine_gets_an_upload(tmp_path):
    """Into a folder of the job's own; the name is what the engine gives back."""
    async with attached_files(tmp_path) as (files, stored):
        name = await files.publish(written(files.inputs_of("uid") / "a.png", b"bytes"))

    assert name == f"{JOBS_FOLDER}/uid/a.png"
    assert stored == {(f"{JOBS_FOLDER}/uid", "a.png"): b"bytes"}
    assert (files.shared, files.outputs_of("uid")) == (False, None)


async def test_the_name_that_an_attached_engine_chose_is_taken(tmp_path):
    """It may store under another one."""
    async with attached_files(tmp_path, stored_as="a (1).png") as (files, _):
        name = await files.publish(written(files.inputs_of("u") / "a.png"))
        assert name == f"{JOBS_FOLDER}/u/a (1).png"


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        (f"in/{JOBS_FOLDER}/u/a.png", True),
        (f"out/{JOBS_FOLDER}/u/a.png", True),
        (f"in/{JOBS_FOLDER}", True),
        (f"in/{JOBS_FOLDER}-2/a.png", False),
        ("in/a.png", False),
        (f"temp/{JOBS_FOLDER}/a.png", False),
    ],
)
def test_the_files_of_jobs_are_told_from_others(tmp_path, path, is_one):
    """By their place, in the input and in the output folder, whether or not they are there."""
    assert shared_files(tmp_path).is_of_a_job(tmp_path / path) is is_one


@pytest.mark.parametrize(
    ("kind", "folder"), [("output", "out"), ("temp", "temp"), ("input", "in"), (None, "out")]
)
async def test_an_announced_file_is_found_in_its_folder(tmp_path, kind, folder):
    """By type, subfolder and name; without a type it is an output."""
    files = shared_files(tmp_path)
    path = written(tmp_path / folder / "sub" / "a.png")
    item = {"filename": "a.png", "subfolder": "sub", "type": kind}

    assert await files.open(item, tmp_path / "into") == path
    assert files.locate(item) == path


async def test_an_announced_file_that_is_not_there_is_an_error(tmp_path):
    """Never a success with less."""
    files = shared_files(tmp_path)
    with pytest.raises(EngineRefused, match=r"sub/a\.png") as caught:
        await files.open({"filename": "a.png", "subfolder": "sub", "type": "output"}, tmp_path)
    assert "OUTPUT_DIR" in caught.value.hint


@pytest.mark.parametrize(
    "item",
    [
        {"filename": "../secret"},
        {"filename": "secret", "subfolder": ".."},
        {"filename": "/etc/passwd"},
        {"filename": "secret", "subfolder": "/etc"},
        {"filename": "link/secret"},
    ],
)
async def test_nothing_outside_of_the_engines_folders_is_opened(tmp_path, item):
    """A node pack may announce any name."""
    files = shared_files(tmp_path)
    written(tmp_path / "secret")
    (tmp_path / "out" / "link").symlink_to(tmp_path)

    assert files.locate(item) is None
    with pytest.raises(EngineRefused):
        await files.open(item, tmp_path / "into")


async def test_an_attached_file_is_fetched(tmp_path):
    """Through the engine's own route, to where the caller says."""
    async with attached_files(tmp_path) as (files, _):
        item = {"filename": "a.png", "subfolder": "sub", "type": "output"}
        path = await files.open(item, tmp_path / "into")

    assert path == tmp_path / "into" / "output" / "sub" / "a.png"
    assert path.read_bytes() == b"a.png/output/sub"


async def test_a_fetched_file_stays_below_its_place(tmp_path):
    """Whatever the engine calls it."""
    async with attached_files(tmp_path) as (files, _):
        with pytest.raises(EngineRefused, match="outside"):
            await files.open({"filename": "a", "subfolder": "../../.."}, tmp_path / "into")
        path = await files.open({"filename": "../../a"}, tmp_path / "into")

    assert path == tmp_path / "into" / "output" / "a"


def test_forgetting_removes_both_folders_of_the_job_alone(tmp_path):
    """More than once is fine."""
    files = shared_files(tmp_path)
    written(files.inputs_of("uid") / "a")
    written(files.outputs_of("uid") / "a")
    other = written(files.outputs_of("other") / "a")
    files.forget("uid")
    files.forget("uid")

    assert not files.inputs_of("uid").exists()
    assert not files.outputs_of("uid").exists()
    assert other.exists()
