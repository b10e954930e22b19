"""Validated -> Prepared: media are brought here, their names put into the graph."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import pytest
from aiohttp import web
from worker import GRAPH, parts_in, received

from handler.engine.memory import NODES, PIXEL
from handler.errors import InputFailed, UrlNotAllowed
from handler.pipeline.fetch_inputs import fetch_inputs
from handler.pipeline.media_files import FETCHES_AT_ONCE
from handler.pipeline.validate import validate
from handler.records import JOBS_FOLDER
from handler.settings import Settings

OWN = f"{JOBS_FOLDER}/uid"
DATA_URI = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
TAKES_PATHS = {
    "LoadFromPath": {
        "input": {"required": {"video": ["STRING", {"vhs_path_extensions": ["png"]}]}},
        "output": ["IMAGE"],
        "output_node": False,
        "python_module": "custom_nodes.x",
    },
    "LoadFolder": {
        "input": {"required": {"directory": ["STRING", {"vhs_path_extensions": []}]}},
        "output": ["IMAGE"],
        "output_node": False,
        "python_module": "custom_nodes.x",
    },
    "LoadListed": {
        "input": {"required": {"directory": [["a", "b"]]}},
        "output": ["IMAGE"],
        "output_node": False,
        "python_module": "custom_nodes.x",
    },
}


@contextlib.asynccontextmanager
async def files_server(answer):
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def picture(_request):
    return web.Response(body=PIXEL)


def loading(*values, class_type="LoadImage", name="image"):
    nodes = {
        str(number): {"class_type": class_type, "inputs": {name: value}, "_meta": {"title": "in"}}
        for number, value in enumerate(values, start=1)
    }
    return {**nodes, "save": {**GRAPH["2"], "inputs": {"images": ["1", 0], "filename_prefix": "x"}}}


async def prepared(home, graph, **engine):
    parts = parts_in(home, **engine)
    job = received(graph)
    return await fetch_inputs(await validate(job, parts), job.job, parts), parts


@pytest.mark.parametrize("value", [DATA_URI, DATA_URI.partition(",")[2]])
async def test_inline_media_become_files_of_the_job(tmp_path, value):
    """Data URI or bare base64; the name ends as the content is."""
    done, parts = await prepared(tmp_path, loading(value))

    name = done.graph["1"]["inputs"]["image"]
    assert name == f"{OWN}/000_1_image.png"
    assert (parts.engine.files.input_root / name).read_bytes() == PIXEL
    assert parts.metrics.bytes_in.values == {("inline",): len(PIXEL)}


async def test_a_large_inline_picture_is_decoded_off_the_loop(tmp_path):
    """Megabytes of base64 hold nobody up."""
    noise = PIXEL + bytes(range(256)) * 2000
    value = base64.b64encode(noise).decode()
    done, parts = await prepared(tmp_path, loading(value))

    name = done.graph["1"]["inputs"]["image"]
    assert (parts.engine.files.input_root / name).read_bytes() == noise


async def test_a_url_is_fetched(tmp_path):
    """The payload's graph is left as it was sent."""
    async with files_server(picture) as url:
        graph = loading(f"{url}/a")
        done, parts = await prepared(tmp_path, graph)

    assert done.graph["1"]["inputs"]["image"] == f"{OWN}/000_1_image.png"
    assert (parts.engine.files.inputs_of("uid") / "000_1_image.png").read_bytes() == PIXEL
    assert graph["1"]["inputs"]["image"] == f"{url}/a"
    assert parts.metrics.bytes_in.values == {("http",): len(PIXEL)}


async def test_one_url_is_fetched_once_for_all_nodes_and_lists(tmp_path):
    """Each input has a name of its own all the same."""
    asked = []

    async def answer(request):
        asked.append(request.path)
        return web.Response(body=PIXEL)

    async with files_server(answer) as url:
        graph = loading(f"{url}/a", f"{url}/a")
        listed = {"directory": [f"{url}/a", DATA_URI, f"{url}/a"]}
        graph["3"] = {"class_type": "LoadFolder", "inputs": listed}
        done, parts = await prepared(tmp_path, graph, nodes={**NODES, **TAKES_PATHS})

    own = parts.engine.files.inputs_of("uid")
    names = [done.graph[node_id]["inputs"]["image"] for node_id in "12"]
    assert names == [f"{OWN}/000_1_image.png", f"{OWN}/001_2_image.png"]
    frames = sorted(path.name for path in (own / "002_3_directory").iterdir())
    assert frames == ["00000.png", "00001.png", "00002.png"]
    assert all(path.read_bytes() == PIXEL for path in own.rglob("*.png"))
    assert asked == ["/a"]


async def test_a_fault_of_a_shared_url_names_one_node(tmp_path):
    """And is told as it is, not as a cancellation of those who waited with it."""

    async def gone(_request):
        return web.Response(status=404)

    async with files_server(gone) as url:
        graph = loading(f"{url}/a", f"{url}/a")
        graph["3"] = {"class_type": "LoadFolder", "inputs": {"directory": [f"{url}/a"] * 3}}
        with pytest.raises(InputFailed, match=r"^Failed to download .*/a: 404") as caught:
            await prepared(tmp_path, graph, nodes={**NODES, **TAKES_PATHS})
    assert caught.value.location == "prompt.1.inputs.image"


async def test_content_of_no_known_type_is_refused(tmp_path):
    """The node would fail on it, later and in other words."""

    async def answer(_request):
        return web.Response(body=bytes(range(4)))

    async with files_server(answer) as url:
        with pytest.raises(InputFailed, match="of no known type") as caught:
            await prepared(tmp_path, loading(f"{url}/a.png"))
    assert "login" in caught.value.hint


async def test_outputs_are_led_into_the_jobs_folder(tmp_path):
    """And the output nodes are named."""
    done, _ = await prepared(tmp_path, loading(DATA_URI))

    assert done.graph["save"]["inputs"]["filename_prefix"] == f"{OWN}/job_x"
    assert done.output_nodes == ["save"]


async def test_a_stored_name_is_left_as_it_is(tmp_path):
    """The file is there already."""
    parts_in(tmp_path)
    (tmp_path / "input" / "mine.png").write_bytes(PIXEL)
    done, _ = await prepared(tmp_path, loading("mine.png"))

    assert done.graph["1"]["inputs"]["image"] == "mine.png"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ftp://host/a.png", "ftp:// is no source"),
        ("nothing.png", "neither a URL"),
        (
            "data:image/png;base64," + base64.b64encode(b"<html>login</html>").decode(),
            "loads image",
        ),
        (
            "data:image/png;base64," + base64.b64encode(b"\x00\x01\x02\x03").decode(),
            "not recognised",
        ),
    ],
)
async def test_an_input_that_cannot_be_had_names_its_node(tmp_path, value, said):
    """Node, title, class and place in the request."""
    with pytest.raises(InputFailed, match=said) as caught:
        await prepared(tmp_path, loading(value))

    error = caught.value
    assert (error.location, error.node_id) == ("prompt.1.inputs.image", "1")
    assert (error.class_type, error.node_title) == ("LoadImage", "in")


async def test_a_graph_of_the_operators_may_name_any_address_and_path(tmp_path):
    """The warmup's picture may lie where no caller gets to."""
    picture_here = tmp_path / "elsewhere" / "a.png"
    picture_here.parent.mkdir()
    picture_here.write_bytes(PIXEL)
    parts = parts_in(tmp_path, Settings(url_allow_hosts="nobody.invalid"))
    async with files_server(picture) as url:
        job = received(loading(f"{url}/a", str(picture_here)))
        validated = await validate(job, parts)
        with pytest.raises(InputFailed):
            await fetch_inputs(validated, job.job, parts)
        await fetch_inputs(validated, job.job, parts, operator=True)

    files = sorted(parts.engine.files.inputs_of("uid").iterdir())
    assert [file.name for file in files] == ["000_1_image.png", "001_2_image.png"]
    assert [file.read_bytes() for file in files] == [PIXEL, PIXEL]


async def test_an_address_that_is_refused_names_its_node(tmp_path):
    """The policy's error carries the place, too."""
    with pytest.raises(UrlNotAllowed) as caught:
        await prepared(tmp_path, loading("http://169.254.169.254/latest/meta-data"))
    assert caught.value.location == "prompt.1.inputs.image"


async def test_the_first_failure_stops_the_other_fetches(tmp_path):
    """Nothing goes on behind an answered job."""
    gone, asked = asyncio.Event(), asyncio.Event()

    async def answer(request):
        if request.path == "/bad":
            await asked.wait()
            return web.Response(status=404)
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    async with files_server(answer) as url:
        with pytest.raises(InputFailed, match="404"):
            await prepared(tmp_path, loading(f"{url}/slow", f"{url}/bad"))


async def test_fetches_of_one_job_are_bounded(tmp_path):
    """Hundreds of frames open no hundreds of connections."""
    now, most = 0, 0

    async def answer(_request):
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.01)
        now -= 1
        return web.Response(body=PIXEL)

    async with files_server(answer) as url:
        await prepared(tmp_path, loading(*[f"{url}/{n}" for n in range(FETCHES_AT_ONCE * 3)]))
    assert 1 < most <= FETCHES_AT_ONCE


async def test_a_node_that_opens_paths_gets_a_path(tmp_path):
    """Not a name below the input folder."""
    graph = loading(DATA_URI, class_type="LoadFromPath", name="video")
    done, parts = await prepared(tmp_path, graph, nodes={**NODES, **TAKES_PATHS})

    path = done.graph["1"]["inputs"]["video"]
    assert path == str(parts.engine.files.inputs_of("uid") / "000_1_video.png")


async def test_a_list_of_files_becomes_a_folder_in_their_order(tmp_path):
    """Named so that the node sorts them as given."""
    graph = loading([DATA_URI] * 11, class_type="LoadFolder", name="directory")
    done, parts = await prepared(tmp_path, graph, nodes={**NODES, **TAKES_PATHS})

    folder = parts.engine.files.inputs_of("uid") / "000_1_directory"
    assert done.graph["1"]["inputs"]["directory"] == str(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert (names[0], names[-1], len(names)) == ("00000.png", "00010.png", 11)


async def test_a_folder_for_a_list_of_choices_is_a_name(tmp_path):
    """Below the input folder."""
    graph = loading([DATA_URI], class_type="LoadListed", name="directory")
    done, _ = await prepared(tmp_path, graph, nodes={**NODES, **TAKES_PATHS})

    assert done.graph["1"]["inputs"]["directory"] == f"{OWN}/000_1_directory"


async def test_a_list_takes_no_stored_names(tmp_path):
    """They lie elsewhere: the folder would not have them."""
    parts_in(tmp_path)
    (tmp_path / "input" / "mine.png").write_bytes(PIXEL)
    graph = loading([DATA_URI, "mine.png"], class_type="LoadFolder", name="directory")
    with pytest.raises(InputFailed, match="no stored names"):
        await prepared(tmp_path, graph, nodes={**NODES, **TAKES_PATHS})


async def test_ids_that_are_alike_do_not_share_a_file(tmp_path):
    """`5:8` and `5_8` have one safe name: each node still gets what was sent to it."""
    pictures = [PIXEL, PIXEL + b"other", PIXEL + b"third"]
    uris = ["data:image/png;base64," + base64.b64encode(data).decode() for data in pictures]
    load = {"class_type": "LoadImage", "inputs": {}}
    graph = {
        node_id: {**load, "inputs": {"image": uri}}
        for node_id, uri in zip(["5:8", "5_8", "5/8"], uris, strict=True)
    }
    graph["save"] = {**GRAPH["2"], "inputs": {"images": ["5:8", 0], "filename_prefix": "x"}}
    done, parts = await prepared(tmp_path, graph)

    names = [done.graph[node_id]["inputs"]["image"] for node_id in ("5:8", "5_8", "5/8")]
    assert [(parts.engine.files.input_root / name).read_bytes() for name in names] == pictures


async def test_an_endless_node_id_makes_a_name_that_a_disk_takes(tmp_path):
    """Ids are the caller's."""
    graph = {"n" * 1000: {"class_type": "LoadImage", "inputs": {"image": DATA_URI}}}
    graph["save"] = {**GRAPH["2"], "inputs": {"images": ["n" * 1000, 0]}}
    graph["save"]["inputs"]["filename_prefix"] = "x"
    done, parts = await prepared(tmp_path, graph)

    assert (parts.engine.files.input_root / done.graph["n" * 1000]["inputs"]["image"]).is_file()


async def test_a_linked_prefix_stays_in_the_jobs_folder(tmp_path):
    """Its text is known at run time only."""
    graph = loading(DATA_URI)
    graph["save"] = {**GRAPH["2"], "inputs": {"images": ["1", 0], "filename_prefix": ["1", 1]}}
    nodes = {**NODES, "SaveImage": {**NODES["SaveImage"]}}
    nodes["SaveImage"]["input"] = {"required": {"images": ["IMAGE"], "filename_prefix": ["*"]}}
    done, _ = await prepared(tmp_path, graph, nodes=nodes)

    assert done.graph["save"]["inputs"]["filename_prefix"] == f"{OWN}/job_ComfyUI"
