"""/docs in a real browser: Swagger UI renders from the server's own files."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from live import LiveServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not on the PATH"),
]


def rendered(url: str, profile: Path) -> str:
    """Load a page, let its scripts run, and give the document that came of it."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, timeout=90, check=True)
    return done.stdout.decode()


@pytest.fixture(scope="module")
def page(strict_server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the rendered page."""
    return rendered(f"{strict_server.url}/docs", tmp_path_factory.mktemp("chromium"))


def text_of(page: str) -> str:
    """Give the text of a page without its tags and scripts."""
    bare = re.sub(r"(?s)<(script|style)\b.*?</\1>", "", page)
    # Swagger puts a break opportunity after every slash of a path.
    bare = re.sub("<[^>]*>|\u200b", "", bare)
    return html.unescape(bare)


def test_every_operation_is_shown(page: str, strict_server: LiveServer) -> None:
    """Each path of the document stands on the page with its method and its summary."""
    text = text_of(page)
    paths = strict_server.get("/openapi.json").json()["paths"]
    shown = page.count('class="opblock-summary-method"')

    assert shown == sum(len(methods) for methods in paths.values())
    for path, methods in paths.items():
        assert path in text
        for operation in methods.values():
            assert operation["summary"] in text


def test_the_page_has_no_error(page: str) -> None:
    """Swagger UI shows title and version, and none of its complaints."""
    text = text_of(page)

    assert "comfyfn" in text
    assert "OAS 3.1" in text
    for complaint in ("Failed to load", "Unable to render", "Resolver error", "Errors"):
        assert complaint not in text


def test_the_page_needs_no_other_host(page: str, strict_server: LiveServer) -> None:
    """Everything the page loads comes from the server itself."""
    loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"([^\"]+)\"", page)

    assert len(loaded) >= 2
    for address in loaded:
        assert "//" not in address or address.startswith(("data:", strict_server.url))
        if not address.startswith("data:"):
            assert strict_server.get(f"/{address}").status_code == 200
