"""The image on Modal: ComfyUI at its pin in an environment of its own, packs, and ourselves.

Layers go from what seldom changes to what often does; the last ones are built in seconds.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import modal

from adapters.modal_knobs import FOLDER, HOME, PYTHON
from handler.manifest.comfyui import REPOSITORY
from handler.manifest.records import ComfyUIPin
from handler.settings import SettingsError

if TYPE_CHECKING:
    from adapters.modal_knobs import Knobs
    from handler.manifest.records import Manifest

PACKAGES = ("handler", "adapters", "local_server")
EXTRAS = ("s3", "huggingface", "azure", "gcs")
VERSION, PYTHON_VERSION = "0.3.64", "3.12"
DEBIAN = ("git", "libgl1", "libglib2.0-0")
SOURCE = "/root"
"""Where Modal puts local Python sources."""


def build_image(knobs: Knobs) -> modal.Image:
    """Describe the image; it is built by `modal deploy`, and a step that was built is kept.

    Raises:
        SettingsError: a file that a knob names is not there, or the manifest has faults.
    """
    if not modal.is_local():  # in the container it is built already
        return modal.Image.debian_slim()
    files = knobs.files()
    for setting, (path, _) in files.items():
        if not path.exists():
            raise SettingsError(f"{setting}: {path} is not there")
    manifest = _manifest(files["MANIFEST"][0]) if "MANIFEST" in files else None
    image = _base(knobs).apt_install(*DEBIAN).uv_pip_install(*requirements())
    image = image.run_commands(*_environment(knobs), *_comfyui(_pin(knobs, manifest)))
    for name in PACKAGES:
        image = image.add_local_dir(
            str(Path(__file__).parent.parent / name),
            f"{SOURCE}/{name}",
            copy=True,
            ignore=["**/__pycache__", "**/*.pyc"],
        )
    for setting, (path, place) in files.items():
        if setting != "WORKFLOW_DIR":
            image = image.add_local_file(str(path), place, copy=True)
    lock = _lock(files["MANIFEST"][0]) if "MANIFEST" in files else None
    if lock is not None:
        image = image.add_local_file(str(lock), f"{FOLDER}/manifest.lock.yaml", copy=True)
    image = image.run_commands(*_packs(files, locked=lock is not None), env=_at_build(knobs))
    image = image.run_commands(_models(knobs.models_folder))
    if "WORKFLOW_DIR" in files:  # a mount: a new graph builds nothing
        path, place = files["WORKFLOW_DIR"]
        image = image.add_local_dir(str(path), place)
    return image


def _base(knobs: Knobs) -> modal.Image:
    if knobs.base_image:
        return modal.Image.from_registry(knobs.base_image, add_python=PYTHON_VERSION)
    return modal.Image.debian_slim(python_version=PYTHON_VERSION)


def requirements() -> list[str]:
    """List what our own code needs, as the project tells; of a clone, and of an installation."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    if project.is_file():
        told = tomllib.loads(project.read_text())["project"]
        extras = told["optional-dependencies"]
        found = [*told["dependencies"], *(one for extra in EXTRAS for one in extras[extra])]
    else:
        every = importlib.metadata.requires("comfyfn") or []
        found = [one for one in every if "extra ==" not in one or _of_extras(one)]
    from packaging.requirements import Requirement

    parsed = [Requirement(one) for one in found]
    here = {"platform_system": "Linux", "sys_platform": "linux", "python_version": PYTHON_VERSION}
    kept = {
        f"{one.name}{one.specifier}"
        for one in parsed
        if one.marker is None or any(one.marker.evaluate({**here, "extra": e}) for e in EXTRAS)
    }
    return sorted(kept)


def _of_extras(requirement: str) -> bool:
    return any(f'extra == "{extra}"' in requirement.replace("'", '"') for extra in EXTRAS)


def _manifest(path: Path) -> Manifest:
    from handler.manifest.faults import ManifestInvalid
    from handler.manifest.schema import read_manifest

    try:
        manifest = read_manifest(path)
    except ManifestInvalid as error:
        raise SettingsError(error.message) from error
    assert manifest is not None
    return manifest


def _lock(manifest: Path) -> Path | None:
    lock = manifest.with_name(f"{manifest.stem}.lock.yaml")
    return lock if lock.is_file() else None


def _pin(knobs: Knobs, manifest: Manifest | None) -> ComfyUIPin:
    """Tell which ComfyUI is wanted.

    Raises:
        SettingsError: the manifest wants another one than the knob.
    """
    wanted = manifest.comfyui if manifest is not None else None
    text = knobs.comfyui.removeprefix("v")
    if not text:
        return wanted or ComfyUIPin(version=VERSION)
    pin = ComfyUIPin(version=text) if "." in text else ComfyUIPin(commit=text)
    if wanted is not None and wanted != pin:
        raise SettingsError(
            f"COMFYFN_COMFYUI={knobs.comfyui}, and the manifest wants "
            f"{wanted.version or wanted.commit}: say it in one place"
        )
    return pin


def _environment(knobs: Knobs) -> list[str]:
    """Make ComfyUI's own environment: packs and our server never fight over packages."""
    venv = str(Path(PYTHON).parent.parent)
    index = shlex.quote(knobs.torch_index)
    return [
        f"uv venv {venv}",
        f"uv pip install --python {PYTHON} torch torchvision torchaudio --index-url {index}",
    ]


def _comfyui(pin: ComfyUIPin) -> list[str]:
    ref = shlex.quote(f"v{pin.version}" if pin.version is not None else str(pin.commit))
    return [
        f"git init -q {HOME} && git -C {HOME} remote add origin {REPOSITORY}",
        # A short commit can only be found in the whole history.
        f"git -C {HOME} fetch -q --depth 1 origin {ref} || git -C {HOME} fetch -q --tags origin",
        f"cd {HOME} && git checkout -q $(git rev-parse -q --verify {ref} || echo FETCH_HEAD)",
        f"uv pip install --python {PYTHON} -r {HOME}/requirements.txt",
    ]


def _packs(files: dict[str, tuple[Path, str]], *, locked: bool) -> list[str]:
    """Install what the manifest names, then see whether ComfyUI boots with it."""
    commands = []
    if "MANIFEST" in files:
        how = "--skip-models --locked" if locked else "--skip-models"
        place = files["MANIFEST"][1]
        commands.append(f"cd {SOURCE} && python -m local_server.cli manifest apply {place} {how}")
    return [*commands, f"cd {SOURCE} && python -m adapters.image_check"]


def _models(folder: str) -> str:
    """Have paths below ComfyUI's own `models` mean the Volume, and keep what packs put there."""
    return f"mkdir -p {FOLDER} && mv {HOME}/models {FOLDER}/models && ln -s {folder} {HOME}/models"


def _at_build(knobs: Knobs) -> dict[str, str | None]:
    """Give the settings that say where things are; no other one is a reason to build anew."""
    every = knobs.environment()
    names = ("COMFY_HOME", "COMFY_PYTHON", "MANIFEST")
    return {**{name: every[name] for name in names if name in every}, "LOG_FORMAT": "text"}
