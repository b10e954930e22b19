"""`comfyfn manifest` on a real folder, with a real interpreter."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys

import pytest
from live import REPO
from sources.host import File, hosting, safetensors
from sources.hub import hub

from handler.manifest.packages import find_uv
from local_server.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A ComfyUI with an interpreter of its own, a pack's repository, and a model in its place."""
    comfy = tmp_path / "ComfyUI"
    (comfy / "models" / "vae").mkdir(parents=True)
    (comfy / "main.py").touch()
    (comfy / "models" / "vae" / "a.bin").write_bytes(b"weights")
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "code.py").touch()
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\tname = T\n\temail = t@example.org\n")
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": str(config)}
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"]):
        subprocess.run(["git", *words], cwd=pack, env=env, check=True, timeout=30)
    made = [str(find_uv()), "venv", "--quiet", "--python", sys.executable, str(comfy / ".venv")]
    subprocess.run(made, check=True, timeout=60)
    for name in ("MANIFEST", "MANIFEST_JSON", "COMFY_PYTHON", "MODEL_DIR", "MODEL_ROOTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMFY_HOME", str(comfy))
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        f"custom_nodes: [{pack}]\n"
        "models:\n  before_start:\n    - {url: https://e.org/a.bin, folder: vae}\n"
    )
    return tmp_path


def test_check_tells_what_is_in_it_and_what_is_loose(home, capsys):
    """A manifest that is fine is summed up."""
    assert main(["manifest", "check", str(home / "m.yaml"), "--allow-local"]) == 0

    said = capsys.readouterr().out
    assert "is fine: 1 node pack, 1 model before the start" in said
    assert "line 1: pack is not pinned" in said
    assert "line 4: a.bin has no sha256" in said


def test_check_and_apply_tell_of_a_folder_that_comfyui_does_not_have(home, capsys):
    """A file there would never be seen."""
    path = home / "m.yaml"
    path.write_text(path.read_text().replace("folder: vae", "folder: checkpoint"))
    said = "line 4: a.bin is for the folder checkpoint, which ComfyUI does not know"
    assert main(["manifest", "check", str(path), "--allow-local"]) == 0
    told = capsys.readouterr().out
    assert said in told
    assert "did you mean checkpoints?" in told
    assert main(["manifest", "apply", str(path), "--allow-local", "--skip-models"]) == 0
    assert said in capsys.readouterr().err


def test_check_tells_every_fault_with_its_line(home, capsys):
    """One that is not ends with status 1."""
    assert main(["manifest", "check", str(home / "m.yaml")]) == 1
    said = capsys.readouterr().err
    assert "line 1, custom_nodes[0]" in said
    assert "--allow-local" in said
    assert "MANIFEST_LOCAL_GIT=true" in said


def test_check_knows_the_roots_that_a_start_would_know(home, capsys, monkeypatch):
    """A `local_path` may be on a volume; what is nowhere is told for all of them at once."""
    entries = [f"{{url: https://e.org/{n}, local_path: {home}/volume/vae/{n}}}" for n in "ab"]
    path = home / "v.yaml"
    path.write_text("models:\n  before_start:\n" + "".join(f"    - {e}\n" for e in entries))
    assert main(["manifest", "check", str(path)]) == 1
    said = capsys.readouterr().err
    assert "line 3" in said
    assert "line 4" in said
    monkeypatch.setenv("MODEL_ROOTS", str(home / "volume"))
    assert main(["manifest", "check", str(path)]) == 0


def test_manifest_of_the_environment_is_taken(home, capsys, monkeypatch):
    """`MANIFEST_JSON` wins over `MANIFEST`; without both there is an error."""
    assert main(["manifest", "check"]) == 1
    assert "no manifest is named" in capsys.readouterr().err
    monkeypatch.setenv("MANIFEST", str(home / "missing.yaml"))
    monkeypatch.setenv("MANIFEST_JSON", '{"apt": ["x"]}')
    assert main(["manifest", "check"]) == 0
    assert "MANIFEST_JSON is fine: 1 Debian package" in capsys.readouterr().out


def test_apply_lock_and_verify(home, capsys):
    """What was applied is locked, verified, and a change is found."""
    path, local = str(home / "m.yaml"), "--allow-local"
    assert main(["manifest", "apply", path, local]) == 0
    told = capsys.readouterr()
    assert "model a.bin" in told.out
    assert "pack pack: done: installed" in told.err

    assert main(["manifest", "lock", path, local]) == 0
    assert (home / "m.lock.yaml").is_file()
    assert main(["manifest", "verify", path, local]) == 0
    assert "as locked" in capsys.readouterr().out
    assert main(["manifest", "apply", path, local, "--locked"]) == 0

    (home / "ComfyUI" / "models" / "vae" / "a.bin").write_bytes(b"weighty")
    (home / "ComfyUI" / "custom_nodes" / "pack" / "code.py").write_text("evil")
    assert main(["manifest", "verify", path, local]) == 1
    said = capsys.readouterr().out
    assert "model models/vae/a.bin is 7 bytes" in said
    assert "node pack pack is changed by hand (code.py)" in said
    assert main(["manifest", "verify", path, local, "--quick"]) == 1


def test_a_pack_that_the_manifest_does_not_name_is_told(home, capsys):
    """It is locked with the others, and named."""
    path, local = str(home / "m.yaml"), "--allow-local"
    assert main(["manifest", "apply", path, local]) == 0
    (home / "ComfyUI" / "custom_nodes" / "badpack").mkdir()
    assert main(["manifest", "lock", path, local]) == 0
    assert "2 node packs (1 of them not in the manifest: badpack), " in capsys.readouterr().out
    assert "badpack" in (home / "m.lock.yaml").read_text()


def test_verify_tells_what_the_manifest_names_in_place_of_another(home, capsys):
    """The file that the lock has is there, and not called missing."""
    path, local = home / "m.yaml", "--allow-local"
    assert main(["manifest", "apply", str(path), local]) == 0
    assert main(["manifest", "lock", str(path), local]) == 0
    path.write_text(path.read_text().replace("a.bin", "b.bin"))
    assert main(["manifest", "verify", str(path), local]) == 1
    said = capsys.readouterr().out
    assert "now names model models/vae/b.bin in place of models/vae/a.bin" in said
    assert "missing" not in said


def test_apply_fails_with_what_is_missing(home, capsys):
    """A model that cannot be had is an error, unless models are left out."""
    (home / "ComfyUI" / "models" / "vae" / "a.bin").unlink()
    manifest = home / "m.yaml"
    manifest.write_text(manifest.read_text().replace("https://e.org", f"file://{home}/nowhere"))
    assert main(["manifest", "apply", str(manifest), "--allow-local"]) == 1
    assert "model a.bin: " in capsys.readouterr().err
    assert main(["manifest", "apply", str(manifest), "--allow-local", "--skip-models"]) == 0


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


@pytest.fixture
def models(tmp_path):
    """The folder of models of a machine without a ComfyUI."""
    return tmp_path / "models"


def named(folder, host, **more):
    """Write a manifest of two models; `more` is added to the first one."""
    first = {"url": host.url("/big.safetensors"), "folder": "checkpoints", **more}
    second = {"url": host.url("/small.bin"), "local_path": "models/loras/sub/renamed.bin"}
    path = folder / "m.json"
    path.write_text(json.dumps({"models": {"before_start": [first], "after_start": [second]}}))
    return path


async def begun(path, models, **env):
    """Start `apply` as a process."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local_server.cli", "manifest", "apply", str(path)),
        env={
            **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
            "PATH": os.environ["PATH"],
            "HOME": str(models.parent),
            "PYTHONPATH": str(REPO),
            "MODEL_DIR": str(models),
            **env,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def applied(path, models, **env):
    """Run `apply` to its end: status, stdout, stderr."""
    process = await begun(path, models, **env)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_apply_fetches_models_into_their_folders_once(host, models, tmp_path):
    """The second time nothing is asked for."""
    body, other = safetensors(3 << 20), b"weights" * 1000
    host.put("/big.safetensors", body)
    host.put("/small.bin", other)
    path = named(tmp_path, host, sha256=hashlib.sha256(body).hexdigest(), size=len(body))

    status, out, err = await applied(path, models)
    assert status == 0, err
    assert (models / "checkpoints" / "big.safetensors").read_bytes() == body
    assert (models / "loras" / "sub" / "renamed.bin").read_bytes() == other
    assert "model big.safetensors" in out
    assert "model big.safetensors: done: fetched 3.1 MB" in err

    host.requests.clear()
    status, _, err = await applied(path, models)
    assert status == 0
    assert "after start: renamed.bin: done: there" in err
    assert host.requests == []


async def test_apply_replaces_a_file_that_is_another_one(host, models, tmp_path):
    """The manifest's sha256 is what counts, not the name."""
    body = safetensors(1 << 20)
    host.put("/big.safetensors", body)
    host.put("/small.bin", b"x")
    path = named(tmp_path, host, sha256=hashlib.sha256(body).hexdigest())
    place = models / "checkpoints" / "big.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(safetensors(1 << 20, seed=2))

    assert (await applied(path, models))[0] == 0
    assert place.read_bytes() == body


async def test_apply_names_the_model_whose_hash_is_wrong(host, models, tmp_path):
    """Nothing is left of it; the other model came."""
    host.put("/big.safetensors", safetensors(1 << 20))
    host.put("/small.bin", b"x")

    status, _, err = await applied(named(tmp_path, host, sha256="0" * 64), models)

    assert status == 1
    assert "comfyfn: model big.safetensors: " in err
    assert "SHA-256" in err
    assert list((models / "checkpoints").iterdir()) == []
    assert (models / "loras" / "sub" / "renamed.bin").is_file()


async def test_apply_that_was_killed_goes_on_where_it_was(host, models, tmp_path):
    """The next one fetches the rest alone, and the bytes are right."""
    body = safetensors(40 << 20)

    async def stop(sent):
        if sent >= 6 << 20:
            await asyncio.Event().wait()

    host.files["/big.safetensors"] = File(body, pause=stop)
    host.put("/small.bin", b"x")
    path = named(tmp_path, host)
    first = await begun(path, models)
    there = 0
    while there < 8 << 20:
        await asyncio.sleep(0.01)
        there = noted(models)
    first.kill()
    await first.communicate()
    there = noted(models)
    host.files["/big.safetensors"], host.served = File(body), 0

    status, _, err = await applied(path, models)

    assert status == 0, err
    assert f"{there / 1e6:,.1f} MB were there" in err
    assert host.served == len(body) - there + len(b"x")
    folder = models / "checkpoints"
    assert [file.name for file in folder.iterdir()] == ["big.safetensors"]
    assert (folder / "big.safetensors").read_bytes() == body


def noted(models):
    """Count the bytes that are on disk for good."""
    for note in models.glob("*/.*.note"):
        with contextlib.suppress(ValueError, OSError):
            return sum(end - start for start, end in json.loads(note.read_text())["done"])
    return 0


async def test_apply_sends_what_the_operator_set_and_shows_none_of_it(host, models, tmp_path):
    """The header of the environment opens the host, and is in no output."""
    host.put("/big.safetensors", safetensors(1 << 20), wants={"x-key": "canary4711"})
    host.put("/small.bin", b"x")
    path = named(tmp_path, host)

    status, out, err = await applied(path, models)
    assert status == 1
    assert "model big.safetensors: " in err

    header = {"HTTP_AUTH_HEADER_NAME": "X-Key", "HTTP_AUTH_HEADER_VALUE": "canary4711"}
    status, out, err = await applied(path, models, **header)
    assert status == 0, err
    assert "canary4711" not in out + err


async def test_apply_fetches_links_of_the_hub_with_the_operators_token(models, tmp_path):
    """As the ready-made manifests have them."""
    body = safetensors(1 << 20)
    async with hub() as running:
        url = running.put("owner/name", "m.safetensors", body)
        running.secrets["owner/name"] = "canary4711"
        path = tmp_path / "m.json"
        model = {"url": url, "folder": "vae", "sha256": hashlib.sha256(body).hexdigest()}
        path.write_text(json.dumps({"models": {"before_start": [model]}}))

        env = {"HF_ENDPOINT": running.endpoint, "HF_TOKEN": "canary4711"}
        status, out, err = await applied(path, models, **env)

    assert status == 0, err
    assert (models / "vae" / "m.safetensors").read_bytes() == body
    assert "canary4711" not in out + err
