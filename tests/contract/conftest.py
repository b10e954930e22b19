"""What the contract's tests share: a source of files, and a server that trusts no host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract.file_server import FileServer, file_server
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
