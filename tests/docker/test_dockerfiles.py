"""Every Dockerfile of the repository: lint, declared variables, and what the image is."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from dockerfiles import FOUND, IMAGE, STEPS, instructions, lint, read
from live import REPO

REGISTRIES = re.compile(r"pypi|pythonhosted|download\.pytorch|archive\.ubuntu")
SCRIPTS = sorted(STEPS.glob("*.sh"))


def named(path):
    return path.relative_to(REPO).as_posix()


@pytest.mark.parametrize("path", FOUND, ids=named)
def test_hadolint_finds_nothing(path):
    """Nothing at all, not even what it calls style."""
    said = lint(path)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in_the_steps(script, tmp_path):
    """By hadolint, which hands it what is in a RUN.

    Debian's archive drops old versions, so that pinned ones would break the build of next month;
    and no list is left in a layer, although in another way than the linter knows.
    """
    made = tmp_path / "Dockerfile"
    head = 'FROM debian:12\nSHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN <<\'END\'\n'
    made.write_text(f"{head}{script.read_text()}END\n")
    said = lint(made, "--ignore", "DL3008", "--ignore", "DL3009")
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("path", FOUND, ids=named)
def test_every_variable_that_is_used_is_declared(path):
    """One that is not is an empty text in the middle of a path."""
    assert read(path)[1] == []


@pytest.mark.parametrize("path", FOUND, ids=named)
def test_base_images_are_pinned_to_a_version(path):
    """No `latest`, and none that is left open."""
    stages, _ = read(path)
    own = {stage.name for stage in stages}
    bases = [stage.base for stage in stages if stage.base not in own]
    assert [base for base in bases if not re.search(r":[\w.-]*\d|@sha256:", base)] == []


@pytest.mark.parametrize("path", [*FOUND, *STEPS.iterdir()], ids=named)
def test_no_address_of_a_package_registry_is_written_down(path):
    """Whoever has one of their own sets it in the environment, as for pip, uv and apt."""
    if path.is_file():
        assert not REGISTRIES.search(path.read_text())


def test_the_image_runs_one_entry_point_under_tini_and_not_as_root():
    """tini passes signals on and reaps what node packs leave behind."""
    stages, _ = read(IMAGE)
    worker = next(stage for stage in stages if stage.name == "worker")

    assert worker.command("ENTRYPOINT") == ["tini", "--", "comfyfn", "start"]
    assert worker.last("USER") == "10001:0"
    assert worker.last("EXPOSE") == "3000 8188"
    assert worker.known["COMFY_HOME"] == "/opt/" + "ComfyUI"
    assert worker.known["WORKFLOW_DIR"] == "/workflows"
    assert worker.known["COMFY_PYTHON"].startswith(worker.known["COMFY_VENV"] + "/bin/")
    assert not worker.known["COMFY_VENV"].startswith("/opt/comfyfn")
    assert stages[-1].base == "worker", "what is built where no target is named"


def test_every_target_ends_as_the_same_user():
    """A manifest that was baked as root does not leave the image to root."""
    for stage in read(IMAGE)[0]:
        users = [text for word, text in stage.steps if word == "USER"]
        assert users == [] or users[-1] == "10001:0"


def test_the_image_may_run_as_root():
    """For volumes that are root's."""
    worker = next(stage for stage in read(IMAGE, RUN_AS="0")[0] if stage.name == "worker")
    assert worker.last("USER") == "0:0"


def test_what_changes_seldom_lies_below():
    """torch, then ComfyUI, then us."""
    worker = next(stage for stage in read(IMAGE)[0] if stage.name == "worker")
    order = [
        re.search(r"(torch\.sh|comfyui\.sh|from=comfyfn)", text)
        for word, text in worker.steps
        if word in {"RUN", "COPY"}
    ]
    assert [found[1] for found in order if found] == ["torch.sh", "comfyui.sh", "from=comfyfn"]


def test_every_step_is_a_script_that_is_there():
    """And every script is run by the Dockerfile, or by one that is."""
    words = {"RUN", "COPY", "HEALTHCHECK"}
    runs = " ".join(text for word, text in instructions(IMAGE) if word in words)
    others = " ".join(path.read_text() for path in STEPS.iterdir() if path.is_file())
    called = set(re.findall(r"steps/([\w.]+\.(?:sh|py))", runs))

    assert {name for name in called if not (STEPS / name).is_file()} == set()
    mine = {path.name for path in STEPS.iterdir() if path.is_file()}
    assert {name for name in mine - called if f"/{name}" not in others} == set()


def test_what_the_build_needs_is_not_left_out():
    """The list beside the Dockerfile names what it is given, the wheel's sources among it."""
    lines = (REPO / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    given = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert "**" in lines
    assert {*wheel["packages"], *wheel["force-include"]} <= given
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= given
    assert {"pyproject.toml", "docker/steps"} <= given
    assert [name for name in given if not (REPO / name).exists()] == []


def test_the_example_copies_what_lies_beside_it():
    """And what it sets is where it was copied to."""
    folder = REPO / "docker" / "examples"
    (stage,) = read(folder / "Dockerfile")[0]
    copied = dict(text.split() for word, text in stage.steps if word == "COPY")

    assert [name for name in copied if not (folder / name).exists()] == []
    for name in ("MANIFEST", "WARMUP_PROMPT_FILE"):
        assert stage.known[name] in copied.values()
    assert copied["workflows/"] == "/workflows/"
    assert stage.last("USER") == "10001:0"


def test_the_example_is_of_an_image_that_is_built():
    """Its base is a tag of the bake file."""
    from hcl import targets

    built = targets((REPO / "docker" / "docker-bake.hcl").read_text())
    (stage,) = read(REPO / "docker" / "examples" / "Dockerfile")[0]
    assert [stage.base] in [target["tags"] for target in built.values()]


def test_runpods_hub_takes_an_image_that_is_built():
    """The published one, by a tag of the bake file."""
    from hcl import targets

    built = targets((REPO / "docker" / "docker-bake.hcl").read_text())
    tags = {tag.rpartition(":")[2] for target in built.values() for tag in target["tags"]}
    (stage,) = read(REPO / ".runpod" / "Dockerfile")[0]
    assert stage.base.rpartition(":")[2] in tags


def test_the_examples_manifest_is_fine(tmp_path):
    """As `comfyfn manifest check` has it, but for what it does not pin."""
    from shell import comfyfn

    said = comfyfn("manifest", "check", REPO / "docker/examples/manifest.yaml", home=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "is fine: 1 node pack, 1 model before the start\n" in said.stdout
    assert "not pinned" not in said.stdout


def test_the_examples_graphs_load_the_model_of_its_manifest():
    """The warmup is small: it only loads."""
    folder = REPO / "docker" / "examples"
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    model = manifest["models"]["before_start"][0]["filename"]
    for path in (folder / "warmup.json", folder / "workflows" / "txt2img.json"):
        graph = yaml.safe_load(path.read_text())
        assert graph["1"]["inputs"]["ckpt_name"] == model
