"""Can ComfyUI run on this GPU?"""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path

import pytest

from handler.engine.preflight import judge, model_folders, preflight
from handler.errors import BootFailed

H200 = {"name": "NVIDIA H200", "vram_bytes": 150 << 30}


def torch(cuda="12.4", hip=None):
    return {"__version__": "2.6.0", "cuda": cuda, "hip": hip}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"torch": None, "gpu": {}}, "torch is not installed"),
        ({"torch": torch(cuda=None), "gpu": {}}, "a build without CUDA"),
        ({"torch": torch(), "gpu": {"error": "no driver"}}, "no driver"),
        ({"torch": torch(), "gpu": {"driver_cuda": [12, 4], "devices": []}}, "shows no GPU"),
        ({"torch": torch("13.0"), "gpu": {"driver_cuda": [12, 8], "devices": [H200]}},
         "supports CUDA 12.8, torch 2.6.0 needs CUDA 13"),
        ({"torch": torch(), "gpu": None}, "shows no GPU"),
    ],
)  # fmt: skip
def test_what_is_missing_is_the_reason(found, reason):
    """One sentence says why not."""
    judged = judge(found)

    assert judged.usable is False
    assert reason in judged.reason


@pytest.mark.parametrize(
    ("cuda", "driver"), [("12.4", [12, 4]), ("12.8", [12, 2]), ("11.8", [13, 0])]
)
def test_a_driver_of_the_same_major_or_newer_will_do(cuda, driver):
    """Within one major version CUDA is compatible, and newer drivers run older builds."""
    judged = judge({"torch": torch(cuda), "gpu": {"driver_cuda": driver, "devices": [H200]}})

    assert (judged.usable, judged.reason) == (True, "")
    assert (judged.torch, judged.gpu, judged.vram_mb) == ("2.6.0", "NVIDIA H200", 150 << 10)


def test_a_build_for_amd_is_taken_at_its_word():
    """There is no libcuda to ask."""
    judged = judge({"torch": torch(cuda=None, hip="6.2"), "gpu": {"error": "no libcuda"}})
    assert (judged.usable, judged.torch) == (True, "2.6.0")


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_interpreter_is_asked(tmp_path):
    """The answer of the probe, run by the interpreter, is judged."""
    found = json.dumps({"torch": torch(), "gpu": {"driver_cuda": [12, 4], "devices": [H200]}})
    python = script(tmp_path / "python", f"#!/bin/sh\necho '{found}'\n")

    assert preflight(python).gpu == "NVIDIA H200"


def test_our_own_interpreter_can_run_the_probe():
    """Whatever this machine has, the answer is a judgement and no fault."""
    judged = preflight(Path(sys.executable))
    assert judged.usable or judged.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\necho broken libc >&2\nexit 3\n", "exit status 3"),
        ("#!/bin/sh\necho no json\n", "Expecting value"),
    ],
)
def test_an_interpreter_that_does_not_answer_is_an_error_with_its_words(tmp_path, text, said):
    """The operator sees which interpreter it was and what it said."""
    python = script(tmp_path / "python", text)
    with pytest.raises(BootFailed, match=said) as caught:
        preflight(python, timeout_s=0.5)

    assert str(python) in caught.value.message
    assert "COMFY_PYTHON" in caught.value.hint
    assert caught.value.log_tail == (["broken libc"] if "broken" in text else None)


def test_a_driver_that_hangs_is_the_machines_fault(tmp_path):
    """Another host may do; no setting of the image would."""
    python = script(tmp_path / "python", "#!/bin/sh\necho probing >&2\nexec sleep 60\n")
    begun = time.monotonic()
    with pytest.raises(BootFailed, match=r"within 0\.2 s: the driver hangs") as caught:
        preflight(python, timeout_s=0.2)

    assert time.monotonic() - begun < 5
    assert (caught.value.blame, caught.value.log_tail) == ("platform", ["probing"])
    assert "another host" in caught.value.hint
    assert caught.value.details == {"interpreter": str(python), "cause": "gpu_fault"}


def test_an_interpreter_that_is_not_there_is_an_error(tmp_path):
    """A mistyped COMFY_PYTHON is the operator's fault, told as such."""
    with pytest.raises(BootFailed) as caught:
        preflight(tmp_path / "python")
    assert caught.value.blame == "image"


def test_comfyuis_registry_is_the_probes_last_line(tmp_path):
    """Whatever a registry prints before."""
    found = {"models_dir": "/c/models", "folders": {"vae": [["/c/models/vae"], []]}}
    python = script(tmp_path / "python", f"#!/bin/sh\necho hello\necho '{json.dumps(found)}'\n")

    assert model_folders(python, tmp_path) == found


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\necho no module folder_paths >&2\nexit 1\n",
        "#!/bin/sh\n",
        "#!/bin/sh\necho no json\n",
        "#!/bin/sh\necho '[]'\n",
        "#!/bin/sh\necho '{}'\n",
        "#!/bin/sh\nexec sleep 60\n",
        "no program",
    ],
)
def test_a_registry_that_cannot_be_had_is_no_reason_not_to_start(tmp_path, caplog, text):
    """It is told, with what the probe said."""
    python = script(tmp_path / "python", text)

    assert model_folders(python, tmp_path, timeout_s=0.3) is None
    assert "the usual ones are taken" in caplog.text
    assert ("no module folder_paths" in caplog.text) is ("folder_paths" in text)
