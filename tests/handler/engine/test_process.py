"""The engine's process, with real ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from live import alive

from handler.engine.process import LOG_KEPT_LINES, LOG_TAIL_LINES, EngineProcess, check_port_free
from handler.errors import BootFailed

REPO = Path(__file__).parents[3]


def wait_for(true, limit_s=10.0):
    """Wait for what another process does."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@pytest.fixture
def start():
    """Start shell scripts as engines; all are stopped at the end."""
    started = []

    def run(script, **options):
        process = EngineProcess(["/bin/sh", "-c", script], dict(os.environ), **options)
        started.append(process)
        return process

    yield run
    for process in started:
        process.stop(0)


def ended(process):
    wait_for(lambda: not process.alive)
    return process


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("exit 0", 0, "exited with code 0"),
        ("exit 3", 3, "exited with code 3"),
        ("kill -TERM $$", -15, "was killed by SIGTERM"),
        ("kill -KILL $$", -9, "was killed by SIGKILL (out of memory?)"),
        ("kill -40 $$", -40, "was killed by signal 40"),
    ],
)
def test_the_end_is_told_in_words(start, script, code, words):
    """A code, a signal by name, or by number where it has no name."""
    process = ended(start(script))

    assert process.returncode == code
    assert process.describe_exit() == words
    assert words in repr(process)


def test_a_process_that_runs_says_so(start):
    """Until its end there is none to describe."""
    process = start("exec sleep 60")

    assert process.alive
    assert process.returncode is None
    assert process.describe_exit() == "still running"
    assert repr(process) == f"<EngineProcess pid={process.pid} running>"


def test_the_last_lines_are_kept(start):
    """Both streams, in order, no empty ones, whatever bytes they hold."""
    process = ended(start("echo one; echo; echo two >&2; printf 'caf\\351\\n'; printf unfinished"))

    assert process.log_tail() == ["one", "two", "caf\ufffd", "unfinished"]


def test_what_is_secret_in_urls_is_not_kept(start, caplog):
    """ComfyUI prints the values of a graph that it refuses; neither tail nor log has them."""
    caplog.set_level("DEBUG")
    process = ended(start("echo \"not in list: 'http:/me:canary@x/?sig=canary' 100% a=b\""))

    assert process.log_tail() == ["not in list: 'http:/…@x/?sig=…' 100% a=b"]
    assert [r.message for r in caplog.records if r.name == "comfyfn.comfyui"] == process.log_tail()


def test_a_progress_bar_leaves_its_last_state(start):
    """Carriage returns overwrite, as on a terminal; the lines around them stay."""
    bar = "printf '\\r 0%%|'; printf '\\r50%%|##'; printf '\\r100%%|####\\n'"
    other = "printf '\\r10%%\\r20%%\\r\\n'"
    process = ended(start(f"echo before; {bar}; echo after; {other}; printf 'dos\\r\\n1%%\\r2%%'"))

    assert process.log_tail() == ["before", "100%|####", "after", "20%", "dos", "2%"]


def test_a_bar_is_read_while_it_grows(start):
    """Its states are there before its line ends."""
    process = start("printf '\\r10%%'; printf '\\r20%%\\r30%%'; exec sleep 60")
    wait_for(lambda: process.log_tail() == ["20%"])


def test_an_engine_that_cannot_be_watched_over_is_not_left_running(tmp_path):
    """Without a watchdog it would outlive a server that is killed."""
    program = (
        "import os, resource, sys\n"
        "from handler.engine.process import EngineProcess\n"
        "from handler.errors import BootFailed\n"
        "spare = [os.open('/dev/null', os.O_RDONLY) for _ in range(64)]\n"
        "limit = max(spare) + 1\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
        "seen = set()\n"
        "while spare:\n"
        "    os.close(spare.pop())\n"
        "    try:\n"
        "        EngineProcess(['sleep', '60'], dict(os.environ)).stop(0)\n"
        "        break\n"
        "    except BootFailed as error:\n"
        "        seen.add('watched' in error.message and error.retryable)\n"
        "print(seen == {False, True}, flush=True)\n"
        "os.execvp('ps', ['ps', '--ppid', str(os.getpid()), '-o', 'comm='])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=False
    )

    assert "True" in said.stdout.splitlines(), said.stderr
    assert "sleep" not in said.stdout


def test_the_tail_is_bounded(start):
    """An engine that talks for weeks fills no memory."""
    process = ended(start(f"seq 1 {LOG_TAIL_LINES * 20}"))

    tail = process.log_tail()
    assert len(tail) == LOG_TAIL_LINES
    assert tail[-1] == str(LOG_TAIL_LINES * 20)


def test_a_boots_lines_are_kept_until_they_are_looked_at(start):
    """Many node packs, each with a traceback, say more than a tail holds."""
    process = ended(start(f"seq 1 {LOG_KEPT_LINES * 3}"))
    wait_for(lambda: len(process.log_lines()) == LOG_KEPT_LINES * 3)

    process.booted()
    assert process.log_lines()[0] == str(LOG_KEPT_LINES * 2 + 1)
    assert len(process.log_lines()) == LOG_KEPT_LINES


def test_environment_and_folder_are_the_given_ones(tmp_path):
    """Nothing is inherited that was not handed over."""
    process = EngineProcess(["/bin/sh", "-c", "pwd; echo $HOME:$X"], {"X": "1"}, tmp_path)
    ended(process).stop()

    assert process.log_tail() == [str(tmp_path), ":1"]


def test_a_command_that_cannot_be_run_is_an_error():
    """A mistyped CMD is told as what it is."""
    with pytest.raises(BootFailed, match="/nowhere/python") as caught:
        EngineProcess(["/nowhere/python", "main.py"], {})

    assert caught.value.blame == "image"
    assert not caught.value.retryable


def test_the_watcher_is_called_once_from_its_end(start):
    """With the exit code, when the process is over."""
    codes, over = [], threading.Event()
    process = start("exec sleep 60")
    process.watch(lambda code: (codes.append(code), over.set()))
    assert codes == []
    process.kill()

    assert over.wait(10)
    process.stop()
    assert codes == [-9]
    assert not process.alive


def test_who_watches_too_late_is_told_at_once(start):
    """No end is missed."""
    process, codes = ended(start("exit 5")), []
    process.watch(codes.append)

    assert codes == [5]


def test_stop_is_gentle_first(start):
    """SIGTERM gives the engine the time to end by itself."""
    process = start("trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.01; done")
    wait_for(lambda: process.log_tail() == ["up"])
    process.stop(10)

    assert process.returncode == 4
    assert process.log_tail()[-1] == "bye"


def test_stop_kills_what_does_not_heed(start):
    """After the grace it is SIGKILL."""
    process = start("trap '' TERM; echo up; while :; do sleep 0.01; done")
    wait_for(lambda: process.log_tail() == ["up"])
    process.stop(0.05)

    assert process.returncode == -9


def test_stop_ends_the_grandchildren_too(start):
    """Node packs start processes of their own."""
    process = start("sleep 60 & echo $!; trap 'exit 0' TERM; wait")
    wait_for(process.log_tail)
    grandchild = int(process.log_tail()[0])
    assert alive(grandchild)
    process.stop(5)

    wait_for(lambda: not alive(grandchild))


def test_stop_ends_grandchildren_that_ignore_the_gentle_way(start):
    """Also when the engine's own process is gone already."""
    process = ended(start("(trap '' TERM; while :; do sleep 0.01; done) & echo $!"))
    grandchild = int(process.log_tail()[0])
    assert alive(grandchild)
    process.stop(0.05)

    wait_for(lambda: not alive(grandchild))


def test_an_end_is_seen_while_a_grandchild_holds_the_log(start):
    """The pipe is still open then: that is no reason to wait."""
    process = start("sleep 60 & exit 7")
    begun = time.monotonic()
    ended(process)

    assert process.returncode == 7
    assert time.monotonic() - begun < 5


def test_stop_twice_is_fine(start):
    """Shutdown paths may meet."""
    process = start("exec sleep 60")
    process.stop()
    process.stop()

    assert process.returncode == -15


def test_the_watchdog_ends_the_group_when_the_server_is_killed(tmp_path):
    """Even by kill -9 of the server nothing is left on the GPU."""
    program = (
        "import os, time\n"
        "from handler.engine.process import EngineProcess\n"
        "p = EngineProcess(['/bin/sh', '-c', 'sleep 60 & echo $!; wait'], dict(os.environ))\n"
        "while not p.log_tail(): time.sleep(0.005)\n"
        "print(p.pid, p.log_tail()[0], flush=True)\n"
        "time.sleep(60)\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    with server:
        engine, grandchild = map(int, server.stdout.readline().split())
        assert alive(engine)
        assert alive(grandchild)
        server.send_signal(signal.SIGKILL)

    wait_for(lambda: not alive(engine) and not alive(grandchild))


def test_the_watchdog_goes_with_the_engine(start):
    """No shell is left for each restart."""
    process = start("exec sleep 60")
    watchdogs = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_watchdog_of(entry, process.pid)
    ]
    process.stop()

    assert len(watchdogs) == 1
    assert not alive(watchdogs[0])


def _is_watchdog_of(entry, pid):
    try:
        words = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"comfyfn-watchdog" in words and str(pid).encode() in words


def test_a_free_port_passes_and_a_taken_one_is_named():
    """Another program's port is never taken for our engine's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BootFailed, match=f"port {port} of 127.0.0.1 is already taken"):
            check_port_free(port)
    check_port_free(port)
