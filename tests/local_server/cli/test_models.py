"""`comfyfn models`: list, add and remove without a running engine."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from contract.file_server import file_server
from live import REPO
from shell import comfyfn

CANARY = "canary4711"


@pytest.fixture
def source():
    with file_server() as files:
        yield files


@pytest.fixture
def models(tmp_path):
    """Run the verb on folders of its own."""
    (tmp_path / "models").mkdir()

    def run(*arguments, cwd=None, **env):
        env |= {"ENGINE": "embedded", "MODEL_DIR": str(tmp_path / "models")}
        env |= {"CACHE_DIR": str(tmp_path / "cache")}
        return comfyfn("models", *arguments, home=tmp_path, cwd=cwd, **env)

    return run


def listed(models):
    said = models("list", "--json")
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_a_file_is_added_listed_and_removed(models, source, tmp_path):
    """The cache's copy and the link go together, and the bytes are told."""
    url = source.put("/m.ckpt", b"w" * 2_000_000, "application/octet-stream")

    added = models("add", f"{url}?token={CANARY}", "loras", "--filename", "mine.ckpt")
    path = tmp_path / "models" / "loras" / "mine.ckpt"
    assert added.returncode == 0, added.stderr
    assert f"{path}: 2.00 MB, fetched" in added.stdout
    assert path.stat().st_size == 2_000_000

    report = listed(models)
    (file,) = report["folders"]["loras"]["files"]
    assert (file["name"], file["bytes"], file["dangling"]) == ("mine.ckpt", 2_000_000, False)
    assert file["store"]["url"] == f"{url}?token=..."
    assert report["total"] == {"files": 1, "bytes": 2_000_000}
    shown = models("list").stdout
    assert "mine.ckpt" in shown
    assert "loras: 1 file, 2.00 MB" in shown

    again = models("add", f"{url}?token={CANARY}", "loras", "--filename", "mine.ckpt")
    assert "here already" in again.stdout
    said = [added.stdout, added.stderr, again.stdout, again.stderr, str(report), shown]
    assert not [text for text in said if CANARY in text]

    removed = models("remove", "mine.ckpt")
    assert removed.returncode == 0, removed.stderr
    assert removed.stdout == f"removed {path}\nm.ckpt: 1 name removed, 2.00 MB freed\n"
    assert not path.exists()
    assert listed(models)["total"]["files"] == 0


def test_a_file_is_removed_by_its_key(models, source):
    """As the list tells it."""
    url = source.put("/m.ckpt", b"weights", "application/octet-stream")
    models("add", url, "loras")
    (file,) = listed(models)["folders"]["loras"]["files"]
    assert models("remove", file["store"]["key"]).returncode == 0
    assert listed(models)["store"]["files"] == 0


def test_what_was_not_fetched_is_not_removed(models, tmp_path):
    """The operator's own files are the operator's."""
    own = tmp_path / "models" / "loras" / "own.ckpt"
    own.parent.mkdir()
    own.write_bytes(b"x")
    said = models("remove", "own.ckpt")
    assert said.returncode == 1
    assert "no file that was fetched is called so" in said.stderr
    assert own.exists()
    assert models("list", "loras").stdout.count("own.ckpt") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "{url}", "lora"), "did you mean loras?"),
        (("add", "{url}", "loras", "--filename", "../x"), "no usable file name"),
        (("add", "{url}", "loras", "--sha256", "0" * 64), "SHA-256"),
        (("add", "{url}-missing", "loras"), "404"),
        (("list", "nowhere"), "no model folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(models, source, tmp_path, arguments, told):
    """And nothing appears."""
    url = source.put("/m.ckpt", b"weights", "application/octet-stream")
    said = models(*(text.format(url=url) for text in arguments))
    assert said.returncode == 1
    assert told in said.stderr
    assert said.stderr.startswith("comfyfn: ")
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


def test_a_name_that_another_root_has_is_refused_unless_it_is_the_same_file(
    models, source, tmp_path
):
    """The second would stand before the first, and be loaded in its place."""
    theirs = tmp_path / "vol" / "loras" / "mine.ckpt"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    add = ("add", source.put("/m.ckpt", b"ours, ", "application/octet-stream"), "loras")

    refused = models(*add, "--filename", "mine.ckpt", MODEL_ROOTS=str(tmp_path / "vol"))
    assert refused.returncode == 1
    assert refused.stderr == (
        f"comfyfn: {theirs} is there already, with other content (give another --filename)\n"
    )
    assert not (tmp_path / "models" / "loras" / "mine.ckpt").exists()

    theirs.write_bytes(b"ours, ")
    same = models(*add, "--filename", "mine.ckpt", MODEL_ROOTS=str(tmp_path / "vol"))
    assert same.returncode == 0, same.stderr
    assert same.stdout.startswith(f"{theirs}: 6 B, here already, ")
    assert not (tmp_path / "models" / "loras" / "mine.ckpt").exists()


def test_a_name_that_is_taken_is_refused_before_anything_is_fetched(models, source, tmp_path):
    """Where the source tells another size."""
    own = tmp_path / "models" / "loras" / "own.ckpt"
    own.parent.mkdir()
    own.write_bytes(b"x")
    url = source.put("/m.ckpt", b"weights", "application/octet-stream")
    said = models("add", url, "loras", "--filename", "own.ckpt")
    assert said.returncode == 1
    assert f"{own} is there already, with other content" in said.stderr
    assert list((tmp_path / "cache" / "objects").iterdir()) == []


def test_a_path_is_taken_from_where_one_is(models, tmp_path):
    """A relative one, too; one that leads nowhere is told in full."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x.ckpt").write_bytes(b"weights")
    said = models("add", "files/x.ckpt", "loras", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "models" / "loras" / "x.ckpt").read_bytes() == b"weights"
    lost = models("add", "files/y.ckpt", "loras", cwd=tmp_path)
    assert lost.returncode == 1
    assert f"no such file: {tmp_path}/files/y.ckpt" in lost.stderr


def test_what_calls_itself_safetensors_has_to_be_it(models, source):
    """Its URL may tell nothing of it."""
    url = source.put("/m", b"weights", "application/octet-stream")
    said = models("add", url, "loras", "--filename", "x.safetensors")
    assert said.returncode == 1
    assert "safetensors" in said.stderr


def test_a_source_that_is_not_there_is_told_with_its_port(models):
    """The port may be what is wrong."""
    said = models("add", "http://127.0.0.1:9/m.ckpt", "loras")
    assert said.returncode == 1
    assert "127.0.0.1:9: Connection refused" in said.stderr


def test_every_name_that_goes_is_told(models, source, tmp_path):
    """One content may have several."""
    url = source.put("/m.ckpt", b"weights", "application/octet-stream")
    for name in ("one.ckpt", "two.ckpt"):
        assert models("add", url, "loras", "--filename", name).returncode == 0
    loras = tmp_path / "models" / "loras"
    assert models("remove", "two.ckpt").stdout == (
        f"removed {loras}/one.ckpt\nremoved {loras}/two.ckpt\nm.ckpt: 2 names removed, 7 B freed\n"
    )


def test_unfinished_downloads_are_told_and_removed(models, tmp_path):
    """What nobody goes on with takes space."""
    part = tmp_path / "cache" / "incoming" / "some-url" / "model.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 8192)
    assert "unfinished downloads: 8.19 kB" in models("list").stdout
    assert models("remove", "--unfinished").stdout == "unfinished downloads: 8.19 kB freed\n"
    assert not part.exists()
    assert "unfinished downloads" not in models("list").stdout


@pytest.mark.parametrize("arguments", [(), ("--unfinished", "x")])
def test_what_is_to_be_removed_is_to_be_said(models, arguments):
    """Wrong usage is status 2."""
    said = models("remove", *arguments)
    assert (said.returncode, said.stderr) == (
        2,
        "comfyfn: give either a file's NAME or --unfinished\n",
    )


@contextlib.contextmanager
def halting(seen, body=b"w" * 3_000_000):
    """Serve a file of which the second half comes when something was seen; give its URL."""

    class Halves(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            seen.wait(20)
            self.wfile.write(body[len(body) // 2 :])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Halves) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/m.ckpt"
        finally:
            server.shutdown()
            thread.join()


def test_on_a_terminal_a_bar_has_the_name(tmp_path):
    """And nothing fails behind it."""
    (tmp_path / "models").mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(REPO)}
    env |= {"ENGINE": "embedded", "MODEL_DIR": str(tmp_path / "models")}
    env |= {"CACHE_DIR": str(tmp_path / "cache")}
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    said, seen = bytearray(), threading.Event()

    def listen():
        with contextlib.suppress(OSError):  # the other end is closed
            while got := os.read(ours, 4096):
                said.extend(got)
                if b"m.ckpt: " in said:
                    seen.set()

    listener = threading.Thread(target=listen)
    listener.start()
    with halting(seen) as url:
        command = [sys.executable, "-m", "local_server.cli", "models", "add", url, "loras"]
        done = subprocess.run(
            command, cwd=REPO, env=env, stderr=theirs, stdout=subprocess.DEVNULL, check=False
        )
    os.close(theirs)
    listener.join()
    os.close(ours)
    assert done.returncode == 0, said.decode()
    assert seen.is_set(), said.decode()
    assert b"failed" not in said
