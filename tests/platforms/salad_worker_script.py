"""A program that does as Salad's queue worker does; it asks the queue over HTTP, not gRPC.

One job at a time, while the metadata service says ready. SIGTERM cancels the request under way,
tells the queue nothing of it, and ends with 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import aiohttp

IMDS = os.environ["SALAD_METADATA_URI"]
QUEUE = "http://" + os.environ["SALAD_SERVICE_ENDPOINT"]
SERVER = f"http://localhost:{os.environ['TEST_QUEUE_PORT']}/queue"
LEVELS = ("debug", "info", "warn", "error")


def say(level: str, text: str) -> None:
    sys.stderr.write(f'time=2026-01-01T00:00:00Z level={level} msg="{text}"\n')
    sys.stderr.flush()


async def ready(client: aiohttp.ClientSession) -> None:
    while True:
        async with client.get(f"{IMDS}/v1/status", headers={"Metadata": "true"}) as answer:
            if answer.status == 200 and (await answer.json())["ready"]:
                return
        await asyncio.sleep(0.1)


async def work(client: aiohttp.ClientSession) -> None:
    while True:
        await ready(client)
        async with client.post(f"{QUEUE}/accept", timeout=aiohttp.ClientTimeout()) as answer:
            job = await answer.json()
        headers = {"Salad-Job-Id": job["job_id"], "User-Agent": "Go-http-client/1.1"}
        verb, body = "reject", b""
        try:
            async with client.post(
                SERVER, json=job["input"], headers=headers, timeout=aiohttp.ClientTimeout()
            ) as answer:
                body = await answer.read()
                if answer.status not in (408, 429) and answer.status < 500:
                    verb = "complete"
        except aiohttp.ClientError as error:
            say("ERROR", f"cannot post: {error}")
        async with client.post(f"{QUEUE}/{verb}/{job['job_id']}", data=body):
            say("INFO", f"{verb} {job['job_id']}")


async def main() -> None:
    assert os.environ.get("SALAD_LOG_LEVEL", "error") in LEVELS
    say("INFO", "worker begins")
    async with aiohttp.ClientSession() as client:
        working = asyncio.create_task(work(client))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
        try:
            await working
        except asyncio.CancelledError:
            say("WARN", "worker ends")
            async with client.post(f"{QUEUE}/bye"):
                pass


asyncio.run(main())
