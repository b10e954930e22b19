"""The pages say what is so: links lead somewhere, variables exist, examples can be read."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap

import pytest
from live import REPO

from adapters.modal_knobs import knobs_table
from handler.settings import settings_table
from local_server.deploy.document import parse_deploy

PAGES = sorted([*REPO.glob("*.md"), *(REPO / "docs").glob("*.md"), *REPO.glob(".runpod/*.md")])
PLATFORMS = (
    "client",
    "deploy",
    "docker",
    "hardware",
    "modal",
    "moving",
    "runpod",
    "salad",
    "video",
)
# Of platforms, Docker and tests: no settings of ours.
OTHERS = {
    *("ADA_24", "COMFYFN_X", "ENDPOINT_ID", "IN_QUEUE", "TIMED_OUT"),
    *("AWS_ACCESS_KEY_ID", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "SALAD_QUEUE_WORKER_BINARY"),
    *("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_ENDPOINT_ID", "RUNPOD_POD_ID", "MODAL_TASK_ID"),
    *("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "RUNPOD_SKIP_GPU_CHECK"),
    *("COMFYFN_TEST_APT", "COMFYFN_TEST_REGISTRY"),
}


def blocks(page, language):
    """Give a page's code of a language."""
    found = re.finditer(
        rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [textwrap.dedent(one[2]) for one in found]


def anchors(page):
    """Give the names that a page's headings can be linked by."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """To a file of the checkout, and to a heading of it."""
    broken = []
    for name, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if name.startswith(("http://", "https://")):
            continue
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{name}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("name", PLATFORMS)
def test_variables_are_known(name):
    """A page that tells of a variable that nothing reads helps nobody."""
    page = REPO / "docs" / f"{name}.md"
    docker = [*(REPO / "docker").glob("*ocker*"), *(REPO / "docker" / "steps").iterdir()]
    words = [settings_table(), knobs_table(), *(path.read_text() for path in docker)]
    known = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", "\n".join(words)))
    named = set(re.findall(r"\b[A-Z][A-Z0-9]+_[A-Z0-9_]*[A-Z0-9]\b", page.read_text()))
    beginnings = {
        "WEBSOCKET_RECONNECT",
        "COMFY_API_AVAILABLE",
    }  # of worker-comfyui; told not to be read
    assert named - known - OTHERS - beginnings == set()


def test_modals_page_has_every_knob():
    """As the table of the code gives them."""
    assert knobs_table() in (REPO / "docs" / "modal.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_can_be_read(page):
    """A deploy.yaml by `comfyfn deploy`, JSON line by line or whole, commands by a shell."""
    for text in blocks(page, "yaml"):
        if text.startswith("name:"):
            assert parse_deploy(text).name
    for text in blocks(page, "sh"):
        said = subprocess.run(
            ["bash", "-n"], input=text, capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, f"{text}\n{said.stderr}"
    for text in blocks(page, "json"):
        decoder, at = json.JSONDecoder(), 0
        while at < len(text):
            _, at = decoder.raw_decode(text, at)
            at = len(text) - len(text[at:].lstrip())
