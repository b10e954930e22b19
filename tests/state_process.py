"""A worker as a process of its own: `state_process.py PLACE STATE_DIR WHAT ARGUMENT`.

PLACE is as STATE_URL. WHAT it does, and what it says:

    claim COUNT      sends COUNT jobs, each under its key, when a line comes in; says who runs what
    hold ID          takes the job ID in, marks it as running, says so, and lives until it is killed
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import boto3

from handler.settings import Settings
from handler.state.place import open_state
from handler.state.records import JobRecord


def settings(place: str, folder: Path, **more: str) -> Settings:
    return Settings.from_env({"STATE_URL": place, "STATE_DIR": str(folder), **more})


def client(endpoint: str):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
    )


def new_record(state, job_id: str, key: str | None) -> JobRecord:
    return JobRecord(
        id=job_id, uid=uuid.uuid4().hex, instance=state.instance.id, created=time.time(), key=key
    )


def say(what) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def claim(state, count: int) -> None:
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    entered = await asyncio.gather(
        *(
            state.admission.enter(new_record(state, str(uuid.uuid4()), f"key-{n}"))
            for n in range(count)
        )
    )
    say([[one.way.value, one.record.uid] for one in entered])


async def hold(state, job_id: str) -> None:
    record = new_record(state, job_id, None)
    await state.admission.enter(record)
    await state.store.update(job_id, record.uid, lambda one: replace(one, phase="running"))
    say(state.instance.id)
    await asyncio.Event().wait()


async def main(place: str, folder: Path, what: str, argument: str) -> None:
    endpoint = os.environ.get("TEST_ENDPOINT", "")
    state = await open_state(settings(place, folder), lambda: client(endpoint), time.time())
    await (claim(state, int(argument)) if what == "claim" else hold(state, argument))
    await state.close()


def start(place: str, folder: Path, what: str, argument: str, endpoint: str = ""):
    """Run it; its first line is still to be read."""
    here = Path(__file__).parent
    env = {
        **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
        "TEST_ENDPOINT": endpoint,
    }
    return subprocess.Popen(
        [sys.executable, __file__, place, str(folder), what, argument],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def heard(process):
    """Read what it says next."""
    return json.loads(process.stdout.readline())


def end(*processes) -> None:
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
