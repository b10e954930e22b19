"""`comfyfn deploy` against doubles of the platforms."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest
from platforms import runpod_rest_double, salad_api_double

from local_server.cli import main

HF = "hf-canary-8847"
PASSWORD = "registry-canary-9921"
SECRETS = (HF, PASSWORD, runpod_rest_double.KEY, salad_api_double.KEY)
MANIFEST = """
requires: {vram_gb: 12, ram_gb: 24, typical_s: [5, 15], pattern: gateway, image: runtime}
models:
  before_start:
    - url: https://example.com/a.safetensors
      local_path: models/checkpoints/a.safetensors
      size: 6000000000
"""
VIDEO = """
requires: {vram_gb: 24, ram_gb: 30, typical_s: [60, 300], pattern: queue, image: devel}
models:
  before_start:
    - {url: "https://example.com/v.safetensors", local_path: models/checkpoints/v.safetensors}
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a run of the verb came to."""

    status: int
    out: str
    err: str

    def requests(self):
        """The requests that a dry run printed: method, URL, content type, body."""
        found = re.findall(
            r"^(POST|PATCH) (\S+)\nContent-Type: (\S+)\n\n(\{.*?^\})",
            self.out,
            re.MULTILINE | re.DOTALL,
        )
        return [(method, url, kind, json.loads(body)) for method, url, kind, body in found]


@pytest.fixture
def runpod():
    with runpod_rest_double.RunPodRest() as double:
        yield double


@pytest.fixture
def salad():
    with salad_api_double.SaladApi() as double:
        yield double


@pytest.fixture
def deploy(tmp_path, monkeypatch, capsys):
    """Run the verb on a text; whatever it says, no secret is in it."""
    (tmp_path / "sdxl.yaml").write_text(MANIFEST)
    (tmp_path / "video.yaml").write_text(VIDEO)

    def run(platform, text, *arguments, double=None, **env):
        path = tmp_path / "deploy.yaml"
        path.write_text(text)
        given = {"HF_TOKEN": HF, "REGISTRY_TOKEN": PASSWORD, "NO_PROXY": "127.0.0.1"}
        given |= {"RUNPOD_API_KEY": runpod_rest_double.KEY, "SALAD_API_KEY": salad_api_double.KEY}
        if double is not None:
            given |= {"RUNPOD_REST_URL": double.url, "SALAD_API_URL": double.url}
        with monkeypatch.context() as patch:
            for name, value in (given | env).items():
                patch.setenv(name, value)
            status = main(["deploy", platform, str(path), *arguments])
        said = Said(status, *capsys.readouterr())
        assert [one for one in SECRETS if one in said.out + said.err] == []
        return said

    return run
