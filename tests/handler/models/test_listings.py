"""Lists of model files, kept and read anew."""

from __future__ import annotations

import asyncio

from models_here import FOLDERS
from worker import parts_in

from handler.models.listings import Listings


def engine_in(home):
    return parts_in(home, model_folders=FOLDERS).engine


async def test_lists_are_kept_until_they_are_wanted_fresh(tmp_path):
    """Reading them is a request for each folder."""
    lists = Listings(engine_in(tmp_path))
    assert (await lists.get())["loras"] == []
    (tmp_path / "models" / "loras").mkdir(parents=True, exist_ok=True)
    (tmp_path / "models" / "loras" / "a.pt").write_bytes(b"a")
    assert (await lists.get())["loras"] == []
    assert (await lists.get(fresh=True))["loras"] == ["a.pt"]


async def test_what_was_put_there_is_known_at_once(tmp_path):
    """Once, however often it is told."""
    lists = Listings(engine_in(tmp_path))
    await lists.get()
    for _ in range(2):
        lists.note("loras", "b.pt")
    assert (await lists.get())["loras"] == ["b.pt"]


class Asked:
    """An engine that counts what it is asked for."""

    def __init__(self, engine):
        self._engine, self.count = engine, 0

    async def model_folders(self):
        return await self._engine.model_folders()

    async def models_in(self, folder):
        self.count += 1
        await asyncio.sleep(0)
        return await self._engine.models_in(folder)


async def test_those_who_ask_at_once_share_a_reading(tmp_path):
    """Hundreds of jobs would ask the engine thousands of times."""
    engine = Asked(engine_in(tmp_path))
    lists = Listings(engine)
    await asyncio.gather(*(lists.get(fresh=True) for _ in range(50)))
    assert engine.count <= 2 * len((await engine.model_folders()).names)
