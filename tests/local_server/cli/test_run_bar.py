"""The progress bar of `comfyfn run`."""

from __future__ import annotations

import asyncio

from handler.job import JobEvent
from handler.wire import Answer
from local_server.cli.run_bar import Bar, downloads_text


async def test_the_bar_follows_the_events():
    """It only goes forward, and gives the answer back."""
    answer = Answer("job", {}, [], {})
    with Bar() as bar:
        for pct in (10.0, 50.0, 40.0):
            event = JobEvent(1, "progress", {"title": None, "overall_pct": pct})
            assert bar.show(event) is None
        assert bar.show(JobEvent(2, "phase", {"phase": "delivering"})) is None
        assert bar.show(JobEvent(3, "output", {})) is None
        assert bar.show(answer) is answer


async def test_without_a_terminal_a_line_comes_now_and_then(capsys):
    """What is done, how far it is, and how long it took so far."""
    with Bar(said_every_s=0.01) as bar:
        bar.show(JobEvent(1, "progress", {"title": "the picture", "overall_pct": 40.0}))
        async with asyncio.timeout(5):
            while "the picture: 40 %, 0 s so far" not in capsys.readouterr().err:
                await asyncio.sleep(0.01)


async def test_a_download_is_told_on_the_line_until_the_next_phase(capsys):
    """Several are summed up."""

    def news(input_, done, total):
        data = {"node_id": "4", "input": input_, "done": done, "total": total}
        return JobEvent(1, "download", {**data, "bytes_per_s": 50_000_000})

    async def line(beginning):
        async with asyncio.timeout(5):
            while beginning not in capsys.readouterr().err:
                await asyncio.sleep(0.01)

    with Bar(said_every_s=0.01) as bar:
        bar.show(news("lora", 1_200_000_000, 2_130_000_000))
        await line("fetching lora: 1.20 GB of 2.13 GB, 50.0 MB/s, 0 s so far")
        bar.show(news("vae", 300_000_000, None))
        await line("fetching 2 files: 1.50 GB, 100 MB/s, 0 s so far")
        bar.show(JobEvent(2, "phase", {"phase": "running"}))
        await line("running: 0 %, 0 s so far")


def test_what_is_fetched_whole_has_no_speed():
    """And of nothing nothing is told."""
    whole = {"done": 5, "total": 5, "bytes_per_s": 1000}
    assert downloads_text([whole]) == "5 B of 5 B"
    assert downloads_text([]) == ""
