"""The registry over HTTP, against a server of ours."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import zipfile

import pytest

from handler.manifest.faults import InstallFailed
from handler.manifest.registry import Archive, HttpRegistry, Mark, read_mark, unpack, write_mark


class Shelf(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        base = f"http://127.0.0.1:{self.server.server_port}"
        answers = {
            "/nodes/nice/install": {"id": "x", "version": "1.1.0", "downloadUrl": f"{base}/a.zip"},
            "/nodes/nice/install?version=1.0.0": {
                "id": "y",
                "version": "1.0.0",
                "downloadUrl": f"{base}/b.zip",
            },
            "/nodes/odd/install": {"what": "else"},
            "/nodes/nice": {"id": "nice", "repository": "https://github.com/o/nice"},
            "/nodes/odd": ["what"],
        }
        body = b"zip" if self.path.endswith(".zip") else json.dumps(answers.get(self.path)).encode()
        status = 200 if body != b"null" else 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def registry():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield HttpRegistry(f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    server.server_close()
    thread.join()


async def test_newest_and_exact_versions_are_found(registry, tmp_path):
    """And their archives fetched, with the hash of what came."""
    assert (await registry.find("nice", None)).version == "1.1.0"
    archive = await registry.find("nice", "1.0.0")
    assert (archive.id, archive.version) == ("nice", "1.0.0")

    assert await registry.fetch(archive, tmp_path / "x") == hashlib.sha256(b"zip").hexdigest()


async def test_the_repository_of_a_pack_is_told(registry):
    """A pack that tells none is an error of ours."""
    assert await registry.repository("nice") == "https://github.com/o/nice"
    with pytest.raises(InstallFailed, match="gives no answer for 'odd'"):
        await registry.repository("odd")
    with pytest.raises(InstallFailed, match="no pack 'none'"):
        await registry.repository("none")


async def test_an_unknown_pack_and_an_odd_answer_are_told(registry, tmp_path):
    """The pack is named, and nothing foreign is raised."""
    with pytest.raises(InstallFailed, match="no pack 'none'"):
        await registry.find("none", None)
    with pytest.raises(InstallFailed, match="gives no answer for 'odd'"):
        await registry.find("odd", None)
    with pytest.raises(InstallFailed, match="cannot be fetched"):
        await registry.fetch(Archive("x", "1", "http://127.0.0.1:1/x.zip"), tmp_path / "x")


@pytest.mark.parametrize("name", ["../x", "/abs", "a/../../x", "a\\b"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    """Nothing gets out of the folder."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(name, "x")
    with pytest.raises(InstallFailed, match="leads out"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_links_are_refused(tmp_path):
    """A symbolic link in an archive could point anywhere."""
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(InstallFailed, match="leads out"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_what_is_no_archive_is_told(tmp_path):
    """A page instead of an archive is an error of ours."""
    (tmp_path / "a.zip").write_text("<html>")
    with pytest.raises(InstallFailed, match="cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_marks_are_read_back(tmp_path):
    """A broken note counts as none."""
    assert read_mark(tmp_path) is None
    write_mark(tmp_path, Mark("nice", "1.0", "ab"))
    assert read_mark(tmp_path) == Mark("nice", "1.0", "ab")
    (tmp_path / ".comfyfn-pack.json").write_text("{")
    assert read_mark(tmp_path) is None
