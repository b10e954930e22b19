"""What the contract's tests share: a source of files, and a server that trusts no host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract.file_server import FileServer, file_server
from contract.storages import Storages, storages_in
from live import LiveServer, live_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def source() -> Iterator[FileServer]:
    """Give a file server that the server under test may fetch from."""
    with file_server() as files:
        yield files


@pytest.fixture(scope="session")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Give a server whose URL policy allows nothing but the open internet."""
    with live_server(tmp_path_factory.mktemp("strict")) as running:
        yield running


@pytest.fixture(scope="session")
def unprefixed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Give a server that names files by the id alone."""
    home = tmp_path_factory.mktemp("unprefixed")
    with live_server(home, PREPEND_FILENAMES="false") as running:
        yield running


@pytest.fixture(scope="session")
def storages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storages]:
    """Run every kind of storage."""
    with storages_in(tmp_path_factory.mktemp("storages")) as running:
        yield running


@pytest.fixture(
    scope="session",
    params=["embedded", pytest.param("comfyui", marks=pytest.mark.comfyui)],
)
def uploading(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, storages: Storages
) -> Iterator[LiveServer]:
    """Give a server that is set up for all of them; once per engine."""
    home = tmp_path_factory.mktemp(f"uploading-{request.param}")
    env = {**storages.env, "STATE_DIR": str(home / "state")}
    with live_server(home, request.param, **env) as running:
        yield running
