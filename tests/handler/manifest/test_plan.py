"""Which step waits for which."""

from __future__ import annotations

from handler.manifest.plan import make_plan
from handler.manifest.schema import parse_manifest


def planned(text):
    return {task.name: task for task in make_plan(parse_manifest(text))}


ALL = """\
comfyui: 0.3.64
apt: [ffmpeg]
pip: [x]
custom_nodes:
  - https://github.com/o/one
  - {url: https://github.com/o/two, optional: true}
models:
  before_start:
    - {url: https://e.org/a.bin, folder: vae}
    - {url: https://e.org/b/a.bin, folder: loras}
  after_start:
    - {url: https://e.org/c.bin, folder: vae}
"""


def test_only_what_depends_waits():
    """Packs wait for ComfyUI, pip for apt and the packs, scripts for pip and each other."""
    plan = planned(ALL)

    assert plan["apt"].needs == plan["comfyui"].needs == ()
    assert plan["pack one"].needs == ("comfyui",)
    assert plan["pip"].needs == ("apt", "comfyui", "pack one")
    assert plan["pip"].follows == ("pack two",)
    assert plan["install.py one"].needs == ("pip", "pack one")
    assert plan["install.py two"].follows == ("install.py one",)
    assert plan["model a.bin"].needs == plan["model a.bin (2)"].needs == ()
    assert plan["after start: c.bin"].follows == ("model a.bin", "model a.bin (2)")


def test_gates_are_what_must_precede():
    """Installations precede ComfyUI, models only the warmup, the rest nothing."""
    gates = {name: task.gate for name, task in planned(ALL).items()}

    assert {name for name, gate in gates.items() if gate == "warmup"} == {
        "model a.bin",
        "model a.bin (2)",
    }
    assert [name for name, gate in gates.items() if gate == "none"] == ["after start: c.bin"]


def test_git_from_apt_comes_before_the_packs():
    """A pack cannot be cloned by a git that is still to be installed."""
    plan = planned("apt: [git=1:2]\ncustom_nodes: [https://github.com/o/one]")
    assert plan["pack one"].needs == ("apt",)


def test_an_empty_manifest_is_an_empty_plan():
    """Nothing is done for nothing."""
    assert planned("") == {}
