"""The steps of the Dockerfile, each run for real in a fresh folder or environment."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from live import REPO, live_server
from threaded_files import serve_files

ROOT_NEEDED = pytest.mark.skipif(os.getuid() != 0, reason="makes a user: needs root")
REGISTRY_NEEDED = pytest.mark.skipif(
    not os.environ.get("COMFYFN_TEST_REGISTRY"),
    reason="installs from a package registry: COMFYFN_TEST_REGISTRY is not set",
)

SIMULATED = """\
#!/bin/sh
case "$*" in
  *update) exec /usr/bin/apt-get "$@" ;;
  *) exec /usr/bin/apt-get -s "$@" ;;
esac
"""


def commit_of(repository: Path, tag: str) -> str:
    return subprocess.run(
        ["git", "-C", str(repository), "rev-parse", tag],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.fixture
def with_torch(build):
    """An environment with torch in it."""
    said = build.step("torch.sh")
    assert said.returncode == 0, said.stderr
    return build


def test_torch_is_installed_for_the_cuda_of_the_image(with_torch):
    """In ComfyUI's own environment, in the three exact versions, with a pip for install.py."""
    assert with_torch.installed() >= {
        *("torch==2.8.0+cu128", "torchvision==0.23.0", "torchaudio==2.8.0", "pip==26.0")
    }


@pytest.mark.parametrize(
    ("given", "backend"),
    [({}, "cu128"), ({"CUDA": "12.6"}, "cu126"), ({"FLAVOUR": "cpu"}, "cpu")],
)
def test_the_build_of_torch_is_that_of_the_cuda_version(build, tmp_path, given, backend):
    """uv is asked for it by its name, so that no index is written down."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text('#!/bin/sh\nmkdir -p "$COMFY_VENV"\necho "uv $*"\n')
    (tools / "uv").chmod(0o755)
    said = build.step("torch.sh", PATH=f"{tools}:{build.env['PATH']}", **given)
    assert said.returncode == 0, said.stderr
    assert f"--torch-backend {backend} pip torch==2.8.0 torchvision==0.23.0" in said.stdout


def test_without_torch_there_is_no_comfyui(build):
    """An image for the embedded engine alone."""
    for step in ("torch.sh", "comfyui.sh"):
        assert build.step(step, TORCH="").returncode == 0
    assert not build.venv.exists()
    assert list(build.home.iterdir()) == []


def test_comfyui_is_cloned_at_its_version_with_its_packages(with_torch, comfyui):
    """torch stays as it is, although a newer one is to be had; then ComfyUI is seen to start."""
    said = with_torch.step("comfyui.sh", COMFYUI="0.3.64", COMFYUI_REPOSITORY=comfyui.as_uri())
    assert said.returncode == 0, said.stderr

    assert '"0.3.64"' in (with_torch.home / "comfyui_version.py").read_text()
    assert with_torch.installed() >= {"torch==2.8.0+cu128", "kornia==0.8.0", "leaf==1.0"}
    assert "ComfyUI 2.8.0+cu128 --cpu --quick-test-for-ci" in said.stdout
    assert list((with_torch.home / "__pycache__").glob("main.*.pyc"))
    for name in ("custom_nodes", "input", "models", "output", "user"):
        assert (with_torch.home / name).is_dir(), "a named volume would be root's"


def test_a_manifest_can_move_the_comfyui_of_the_image(with_torch, comfyui):
    """It is a clone with its origin, so another version is a fetch away."""
    repository = comfyui.as_uri()
    with_torch.step("comfyui.sh", COMFYUI="0.3.64", COMFYUI_REPOSITORY=repository)
    git = ["git", "-C", str(with_torch.home)]
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=True
    )
    origin = subprocess.run(
        [*git, "remote", "get-url", "origin"], capture_output=True, text=True, check=True
    )
    assert changed.stdout == b""
    assert origin.stdout.strip() == repository


def test_a_tag_that_was_moved_fails_the_build(with_torch, comfyui):
    """COMFYUI_COMMIT says what it must stand for."""
    given = {"COMFYUI": "0.3.64", "COMFYUI_REPOSITORY": comfyui.as_uri()}
    other = commit_of(comfyui, "v0.3.65")
    said = with_torch.step("comfyui.sh", **given, COMFYUI_COMMIT=other)
    assert said.returncode == 1
    assert said.stderr.endswith(f", and not {other}: the tag was moved\n")


def test_the_commit_of_a_tag_that_was_not_moved_is_fine(with_torch, comfyui):
    """As it is built every day."""
    given = {"COMFYUI": "0.3.64", "COMFYUI_REPOSITORY": comfyui.as_uri()}
    said = with_torch.step("comfyui.sh", **given, COMFYUI_COMMIT=commit_of(comfyui, "v0.3.64"))
    assert said.returncode == 0, said.stderr


def test_a_comfyui_that_does_not_start_fails_the_build(with_torch, comfyui):
    """As after a package that breaks it."""
    (comfyui / "main.py").write_text("import nothing_of_that_name\n")
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    for words in (["commit", "-qam", "broken"], ["tag", "v0.3.66"]):
        subprocess.run(["git", *identity, *words], cwd=comfyui, check=True)
    said = with_torch.step("comfyui.sh", COMFYUI="0.3.66", COMFYUI_REPOSITORY=comfyui.as_uri())
    assert said.returncode != 0
    assert "nothing_of_that_name" in said.stderr


def test_packages_of_another_day_are_left_out(with_torch, comfyui):
    """PACKAGES_UNTIL reaches uv, which refuses a day that it cannot read."""
    given = {"COMFYUI": "0.3.64", "COMFYUI_REPOSITORY": comfyui.as_uri()}
    said = with_torch.step("comfyui.sh", **given, PACKAGES_UNTIL="no-day")
    assert said.returncode == 2
    assert "--exclude-newer" in said.stderr


@ROOT_NEEDED
def test_the_user_and_its_folders(build, tmp_path):
    """Its own and root's group may write them; not where our packages go."""
    root = tmp_path / "slash"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    said = build.step("layout.sh", ROOT=str(root), RUN_AS="10001")
    assert said.returncode == 0, said.stderr

    line = (root / "etc" / "passwd").read_text().splitlines()[-1]
    assert line == "comfyfn:!:10001:0::/home/comfyfn:/bin/bash"
    for name in ("home/comfyfn", "opt/ComfyUI", "workflows", "var/lib/comfyfn", "opt/manifest"):
        found = (root / name).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (10001, 0, 0o775)
    assert (root / "usr/local/bin").stat().st_uid == 0
    assert (root / "usr/local/bin/comfyfn").readlink() == Path("/opt/comfyfn/bin/comfyfn")
    assert (root / "usr/local/bin/comfyfn-bake").readlink() == Path("../lib/comfyfn/bake.sh")


@ROOT_NEEDED
def test_an_image_of_roots_has_no_other_user(build, tmp_path):
    """RUN_AS=0."""
    root = tmp_path / "slash"
    assert build.step("layout.sh", ROOT=str(root), RUN_AS="0").returncode == 0
    assert not (root / "etc").exists()
    assert (root / "opt/ComfyUI").stat().st_uid == 0


@ROOT_NEEDED
def test_only_what_is_anothers_is_given_to_the_user(build, tmp_path):
    """The time of the last change tells: a file that is right is not touched, so not copied."""
    folder = tmp_path / "venv"
    folder.mkdir()
    for name in ("right", "roots", "closed"):
        (folder / name).write_text("")
    os.chown(folder / "right", 10001, 0)
    (folder / "right").chmod(0o664)
    os.chown(folder / "closed", 10001, 0)
    (folder / "closed").chmod(0o644)
    (folder / "link").symlink_to(sys.executable)
    before = (folder / "right").stat().st_ctime_ns
    interpreter = os.stat(sys.executable)

    assert build.step("own.sh", folder, RUN_AS="10001").returncode == 0
    assert (folder / "right").stat().st_ctime_ns == before
    assert os.stat(sys.executable).st_ctime_ns == interpreter.st_ctime_ns
    for path in (folder, *folder.iterdir()):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (10001, 0)
        assert path.is_symlink() or found.st_mode & 0o060 == 0o060


@pytest.mark.apt
@pytest.mark.skipif(
    not os.environ.get("COMFYFN_TEST_APT"), reason="asks Debian's archive: COMFYFN_TEST_APT"
)
@pytest.mark.parametrize("flavour", ["runtime", "devel"])
def test_every_debian_package_is_to_be_had(build, tmp_path, flavour):
    """apt-get for real, but told to install nothing."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apt-get").write_text(SIMULATED)
    (tools / "apt-get").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    said = build.step("apt.sh", FLAVOUR=flavour, APT_PACKAGES="jq less", PATH=path)
    assert said.returncode == 0, said.stderr
    assert "\nInst tini " in said.stdout
    assert ("ninja-build" in said.stdout) == (flavour == "devel")


def test_more_debian_packages_are_installed_with_the_others(build, tmp_path):
    """APT_PACKAGES; what is for devel is left out of runtime; no list stays behind."""
    tools, temp = tmp_path / "tools", tmp_path / "temp"
    temp.mkdir()
    tools.mkdir()
    (tools / "apt-get").write_text('#!/bin/sh\necho "$*"\n')
    (tools / "apt-get").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    said = build.step("apt.sh", APT_PACKAGES="ffmpeg=7:5 jq", PATH=path, TMPDIR=str(temp))
    update, install = said.stdout.splitlines()
    assert update.endswith(" update")
    assert install.endswith("python3-venv tini ffmpeg=7:5 jq")
    assert "build-essential" not in install
    assert "build-essential" in build.step("apt.sh", FLAVOUR="devel", PATH=path).stdout
    assert list(temp.iterdir()) == []


def archive_of(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


class TestQueueWorker:
    """SaladCloud's queue worker in the image."""

    NAME = "salad-http-job-queue-worker"

    def test_without_an_address_there_is_none(self, build, tmp_path):
        """The folder that is copied is there, and empty."""
        assert build.step("salad_worker.py", "", "", tmp_path / "out").returncode == 0
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_release_is_fetched_checked_and_unpacked(self, build, tmp_path):
        """Wherever the program lies in the archive."""
        content = archive_of(f"./bin/{self.NAME}", b"#!/bin/sh\necho worker\n")
        digest = hashlib.sha256(content).hexdigest()
        with serve_files({"/w.tar.gz": content}) as url:
            said = build.step("salad_worker.py", f"{url}/w.tar.gz", digest, tmp_path / "out")
        assert said.returncode == 0, said.stderr
        program = tmp_path / "out" / self.NAME
        assert subprocess.run([program], capture_output=True, check=True).stdout == b"worker\n"

    @pytest.mark.parametrize("digest", ["", "0" * 64])
    def test_another_content_fails_the_build(self, build, tmp_path, digest):
        """Also where no sha256 is given: it is told, to be looked at and written down."""
        content = archive_of(self.NAME, b"x")
        with serve_files({"/w.tar.gz": content}) as url:
            said = build.step("salad_worker.py", f"{url}/w.tar.gz", digest, tmp_path / "out")
        assert said.returncode == 1
        assert hashlib.sha256(content).hexdigest() in said.stderr
        assert list((tmp_path / "out").iterdir()) == []

    def test_an_archive_without_it_fails_the_build(self, build, tmp_path):
        """The wrong release, say."""
        content = archive_of("README", b"x")
        digest = hashlib.sha256(content).hexdigest()
        with serve_files({"/w.tar.gz": content}) as url:
            said = build.step("salad_worker.py", f"{url}/w.tar.gz", digest, tmp_path / "out")
        assert said.returncode == 1
        assert f"there is no {self.NAME} in the archive" in said.stderr

    def test_it_comes_over_https(self, build, tmp_path):
        """A checksum is no reason for less."""
        said = build.step("salad_worker.py", "http://192.0.2.1/w", "0" * 64, tmp_path / "out")
        assert said.returncode == 1
        assert "not over https" in said.stderr


class TestHealthcheck:
    """What Docker asks."""

    def test_a_server_that_works_is_healthy(self, build, tmp_path):
        """On the port that it listens on."""
        with live_server(tmp_path / "server") as server:
            said = build.step("health.py", PORT=str(server.port), HOST="0.0.0.0")
        assert (said.returncode, said.stderr) == (0, "/health answers with 200\n")

    def test_a_port_without_an_answer_is_not(self, build):
        """Nobody listens there."""
        from live import free_port

        said = build.step("health.py", PORT=str(free_port()))
        assert said.returncode == 1
        assert "does not answer" in said.stderr

    def test_a_worker_that_is_unhealthy_is_not(self, build):
        """/health answers with 500."""
        with serve_files({}, missing=500) as url:
            said = build.step("health.py", PORT=url.rpartition(":")[2])
        assert (said.returncode, said.stderr) == (1, "/health answers with 500\n")

    @pytest.mark.parametrize("given", [{"ADAPTER": "runpod"}, {"RUNPOD_WEBHOOK_GET_JOB": "x"}])
    def test_a_worker_without_a_port_is_not_asked(self, build, given):
        """RunPod's queue workers tell their platform themselves."""
        assert build.step("health.py", **given).returncode == 0


@pytest.mark.registry
@REGISTRY_NEEDED
@pytest.mark.timeout(300)
def test_comfyfn_is_built_and_installed_by_itself(build, tmp_path):
    """From its source alone, in an environment of its own; its command chooses an adapter."""
    import shutil

    source, venv = tmp_path / "source", tmp_path / "comfyfn"
    for line in (REPO / "docker" / "Dockerfile.dockerignore").read_text().splitlines():
        if line.startswith("!"):
            given = REPO / line[1:]
            if given.is_dir():
                shutil.copytree(given, source / line[1:])
            else:
                source.mkdir(exist_ok=True)
                shutil.copy(given, source)
    env = {k: v for k, v in build.env.items() if k != "UV_CONFIG_FILE"}
    env |= {"SOURCE": str(source), "FN_VENV": str(venv), "EXTRAS": "all,runpod"}
    said = subprocess.run(
        ["bash", str(source / "docker/steps/comfyfn.sh")],
        env={**os.environ, **env},  # how a registry is reached is this machine's
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert said.returncode == 0, said.stderr
    started = subprocess.run(
        [str(venv / "bin" / "comfyfn"), "start", "--print"],
        env={"PATH": os.environ["PATH"], "SALAD_MACHINE_ID": "m"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert started.stdout.startswith("salad: SALAD_MACHINE_ID is set")
    imported = [str(venv / "bin" / "python"), "-c", "import boto3, runpod, adapters.runpod_worker"]
    subprocess.run(imported, cwd=tmp_path, check=True, timeout=60)
