"""git for real: commits by every kind of ref, with little history, and nothing on the way."""

from __future__ import annotations

import base64
import http.server
import threading

import pytest

from handler.manifest.faults import InstallFailed
from handler.manifest.git import Git
from handler.manifest.git_refs import Resolved, choose, parse


async def obtained(git, folder, source):
    folder.mkdir(exist_ok=True)
    wanted = choose(source, await git.advertised(source))
    assert wanted is not None
    return await git.obtain(folder, source, wanted)


async def test_depth_is_one(repository, git, tmp_path):
    """The history stays where it is."""
    made = repository("github.com/o/r")
    made.commit({"a": "1"})
    last = made.commit({"a": "2"})

    assert await obtained(git, tmp_path / "c", parse("https://github.com/o/r")) == last
    assert (tmp_path / "c" / ".git" / "shallow").exists()
    assert (tmp_path / "c" / "a").read_text() == "2"


async def test_a_shortened_commit_is_found_in_the_history(repository, git, tmp_path):
    """Seven digits suffice, at the price of the whole history."""
    made = repository("github.com/o/r")
    first = made.commit({"a": "1"})
    made.commit({"a": "2"})
    source = parse(f"https://github.com/o/r@{first[:8]}")

    assert await obtained(git, tmp_path / "c", source) == first
    with pytest.raises(InstallFailed, match="has no '0123456'"):
        await obtained(git, tmp_path / "d", parse("https://github.com/o/r@0123456"))


async def test_submodules_come_too(repository, git, tmp_path):
    """A pack that is made of others is whole."""
    inner = repository("github.com/o/inner")
    inner.commit({"deep.txt": "deep"})
    outer = repository("github.com/o/outer")
    outer.git("submodule", "--quiet", "add", "https://github.com/o/inner", "sub")
    outer.commit({"a": "1"})

    await obtained(git, tmp_path / "c", parse("https://github.com/o/outer"))
    assert (tmp_path / "c" / "sub" / "deep.txt").read_text() == "deep"


async def test_looking_tells_commit_origin_and_changes(repository, git, tmp_path):
    """What is in a folder is known without the network."""
    commit = repository("github.com/o/r").commit({"a": "1", "b c": "2"})
    folder = tmp_path / "c"
    await obtained(git, folder, parse("https://github.com/o/r"))
    (folder / "b c").write_text("3")
    (folder / "untracked").write_text("x")

    clone = await git.look(folder)
    assert (clone.commit, clone.origin) == (commit, "https://github.com/o/r")
    assert clone.changed == ("b c",)


async def test_a_folder_inside_of_a_clone_is_none(repository, git, tmp_path):
    """Only the top counts: custom_nodes lies inside of ComfyUI's own clone."""
    repository("github.com/o/r").commit({"sub/a": "1"})
    await obtained(git, tmp_path / "c", parse("https://github.com/o/r"))

    assert await git.look(tmp_path / "c" / "sub") is None
    assert await git.look(tmp_path / "missing") is None


async def test_a_repository_that_is_not_there_is_named(git):
    """The address is in the message."""
    with pytest.raises(InstallFailed, match=r"https://github\.com/o/missing"):
        await git.advertised(parse("https://github.com/o/missing"))


async def test_local_transport_needs_leave(repository, git_env, tmp_path):
    """Not even a rewritten address reaches this machine's folders."""
    repository("github.com/o/r").commit({"a": "1"})
    strict = Git(git_env, pauses_s=())
    with pytest.raises(InstallFailed, match="transport 'file' not allowed"):
        await strict.advertised(parse("https://github.com/o/r"))


class Asked(http.server.BaseHTTPRequestHandler):
    """Notes what is asked, and has nothing."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.seen, server.status = [], 404
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_secret_goes_to_its_host_and_nowhere_else(web, git_env, caplog, tmp_path):
    """It is sent as Basic, and stands in no log and no error."""
    caplog.set_level(0)
    source = parse(f"http://me:s3cret@127.0.0.1:{web.server_port}/o/r")
    with pytest.raises(InstallFailed) as caught:
        await Git(git_env, pauses_s=()).advertised(source)

    sent = base64.b64encode(b"me:s3cret").decode()
    assert web.seen[0] == ("/o/r/info/refs?service=git-upload-pack", f"Basic {sent}")
    told = caplog.text + str(caught.value) + str(caught.value.log_tail)
    assert "s3cret" not in told
    assert sent not in told


async def test_a_server_out_of_order_is_asked_again(web, git_env):
    """What the network spoiled is tried anew; what is not there is not."""
    source = parse(f"http://127.0.0.1:{web.server_port}/o/r")
    patient = Git(git_env, pauses_s=(0.01, 0.01))
    web.status = 503
    with pytest.raises(InstallFailed):
        await patient.advertised(source)
    assert len(web.seen) == 3


async def test_a_commit_that_no_ref_reaches_any_more_is_named(repository, git, tmp_path):
    """A pin to a commit that never was fails with its name."""
    repository("github.com/o/r").commit({"a": "1"})
    source = parse(f"https://github.com/o/r@{'a' * 40}")
    (tmp_path / "c").mkdir()
    with pytest.raises(InstallFailed, match="has no 'aaaa"):
        await git.obtain(
            tmp_path / "c", source, Resolved("a" * 40, "a" * 40, "a" * 40, moves=False)
        )
