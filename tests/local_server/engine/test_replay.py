"""Replays what a real ComfyUI was asked, and expects what it answered and told."""

from __future__ import annotations

import json
import re
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from PIL import Image

RECORDINGS = Path(__file__).parents[2] / "recordings" / "engine"
SCENARIOS = sorted(path.stem for path in RECORDINGS.glob("*.json"))
DROPPED = ("timestamp", "traceback")
UNORDERED = ("executed", "current_outputs")
TEMP_NAME = re.compile(r"ComfyUI_temp_[a-z]{5}_")


def recording(name: str) -> dict[str, Any]:
    return json.loads((RECORDINGS / f"{name}.json").read_text())


def png(color: tuple[int, ...]) -> bytes:
    buffer = BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", (16, 16), color).save(buffer, "PNG")
    return buffer.getvalue()


CONTENTS = {
    "picture": png((200, 10, 10)),
    "other": png((10, 200, 10)),
    "mask": png((0, 0, 0, 120)),
    "text": b"this is no picture\n",
    "bytes": b"\0\1\2\3\4\5\6",
    "empty": b"",
}


class Replay:
    """One scenario against one engine."""

    def __init__(self, client: Any, scenario: dict[str, Any]) -> None:
        self.client = client
        self.scenario = scenario
        self.connections: dict[str, Any] = {}
        self.paths: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        self.base: int | None = None
        self.ends: Counter[tuple[str, str]] = Counter()
        self.temp_name = ""

    async def run(self) -> None:
        for step in self.scenario["steps"]:
            if "open" in step:
                name = step["open"]
                self.paths[name] = step["path"]
                self.connections[name] = await self.client.connect(path=step["path"])
            elif "send" in step:
                await self.connections[step["send"]].socket.send_str(step["text"])
            elif "remove" in step:
                folder, name = step["remove"].split("/")
                (self.client.engine.folders.of_type(folder) / name).unlink()
            else:
                await self.request(step)

    async def request(self, step: dict[str, Any]) -> None:
        options: dict[str, Any] = {"headers": step.get("headers")}
        if "json" in step:
            options["data"] = json.dumps(self.real(step["json"]))
        elif "text" in step:
            options["data"] = step["text"]
        elif "form" in step:
            options["data"] = form_of(step)
        path = self.real(step["path"])
        url = self.client.url(quote(path, safe="/?&=%;"))
        async with self.client.session.request(step["method"], url, **options) as answer:
            body = await answer.read()
            given = {"status": answer.status, "type": answer.headers.get("Content-Type")}
            disposition = answer.headers.get("Content-Disposition")
        wanted = step["answer"]
        if "disposition" in wanted:
            given["disposition"] = self.known(disposition)
        if "magic" in wanted:
            given["magic"] = body[:4].hex()
        if "length" in wanted:
            given["length"] = len(body)
        if "text" in wanted:
            given["text"] = body.decode()
        accepted = step["method"] == "POST" and step["path"] == "/prompt" and given["status"] == 200
        if accepted:
            self.note(step, json.loads(body))
        if "json" in wanted:
            given["json"] = self.known(json.loads(body))
        if "keys" in wanted:
            given["keys"] = list(json.loads(body))
        assert {**given, "json": plain(given.get("json"))} == {
            **wanted,
            "json": plain(wanted.get("json")),
        }, step
        if accepted:
            await self.end_of(step, json.loads(body)["prompt_id"])

    def note(self, step: dict[str, Any], answer: dict[str, Any]) -> None:
        """Remember which prompt this is, and which number was the first."""
        if "prompt_id" not in step.get("json", {}):
            self.ids[f"<prompt {len(self.ids) + 1}>"] = answer["prompt_id"]
        if self.base is None and isinstance(answer["number"], int):
            self.base = answer["number"]

    async def end_of(self, step: dict[str, Any], prompt_id: str) -> None:
        await self.client.idle()
        entry = await self.client.ended(prompt_id)
        found = TEMP_NAME.search(json.dumps(entry))
        self.temp_name = found[0] if found else self.temp_name
        body = step.get("json", {})
        client_id = body.get("client_id", body.get("extra_data", {}).get("client_id"))
        for name, connection in self.connections.items():
            if self.paths[name].endswith(f"={client_id}"):
                # An id may be used again: the end that counts is the newest prompt's.
                self.ends[name, prompt_id] += 1
                await connection.until_end(prompt_id, self.ends[name, prompt_id])

    def real(self, value: Any) -> Any:
        """Put this run's ids in the place of the recorded ones."""
        text = json.dumps(value)
        for known, real in self.ids.items():
            text = text.replace(known, real)
        text = text.replace("ComfyUI_temp_xxxxx_", self.temp_name or "ComfyUI_temp_xxxxx_")
        return json.loads(text)

    def known(self, value: Any) -> Any:
        """Put the recorded ids in the place of this run's, and count numbers from the first."""
        text = json.dumps(value)
        for known, real in self.ids.items():
            text = text.replace(real, known)
        return self.renumbered(json.loads(TEMP_NAME.sub("ComfyUI_temp_xxxxx_", text)))

    def renumbered(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.renumbered(item) for item in value]
        if not isinstance(value, dict):
            return value
        result = {key: self.renumbered(item) for key, item in value.items()}
        prompt = result.get("prompt")
        if isinstance(prompt, list) and isinstance(prompt[0], int):
            result["prompt"] = [prompt[0] - (self.base or 0), *prompt[1:]]
        if isinstance(result.get("number"), int):
            result["number"] -= self.base or 0
        return result

    def told(self, name: str) -> list[Any]:
        """Give what one connection got, in the form of the recordings."""
        messages = []
        for message in self.connections[name].messages:
            if "frame" in message:
                message = frame_facts(message["frame"])
            if message.get("type") == "settled":
                break
            data = message.get("data", {})
            if "sid" in data and data["sid"] not in self.paths[name]:
                message = {**message, "data": {**data, "sid": "<generated>"}}
            messages.append(plain(self.known(message)))
        return messages


def frame_facts(frame: bytes) -> dict[str, Any]:
    event = int.from_bytes(frame[:4], "big")
    second = int.from_bytes(frame[4:8], "big")
    if event == 4:
        metadata = json.loads(frame[8 : 8 + second])
        magic = frame[8 + second :][:4].hex()
        return {"binary": event, "metadata": metadata, "magic": magic}
    return {"binary": event, "image_type": second, "magic": frame[8:12].hex()}


def form_of(step: dict[str, Any]) -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=step.get("percent_encoded", False))
    for name, value in step["form"].items():
        if isinstance(value, str):
            form.add_field(name, value)
        else:
            content = CONTENTS[value["content"]]
            form.add_field(
                name, content, filename=value["filename"], content_type="application/octet-stream"
            )
    return form


def plain(value: Any) -> Any:
    """Drop what differs from run to run, and the order of what has none."""
    if isinstance(value, list):
        if value and all(isinstance(item, dict) and "details" in item for item in value):
            return sorted((plain(item) for item in value), key=str)
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {
        key: sorted(item) if key in UNORDERED else plain(item)
        for key, item in value.items()
        if key not in DROPPED
    }
    if isinstance(result.get("prompt"), list):
        # The outputs to run are a set.
        result["prompt"] = [*result["prompt"][:4], sorted(result["prompt"][4])]
    return result


def unordered(messages: list[Any]) -> list[str]:
    """Drop the order of messages, and the progress that depends on it."""
    return sorted(
        json.dumps(message, sort_keys=True)
        for message in messages
        if message.get("type") != "progress_state"
    )


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_engine_answers_and_tells_what_comfyui_did(name: str, client: Any) -> None:
    """Answers and messages are the recorded ones, in their order, but for ids and times."""
    broken = png((1, 2, 3))[:40]
    (client.engine.folders.input / "corrupt.png").write_bytes(broken)
    (client.engine.folders.input / "example.png").write_bytes(CONTENTS["picture"])
    scenario = recording(name)
    if "after" in scenario:
        await Replay(client, recording(scenario["after"])).run()
        for connection in client.connections:
            await connection.close()
        client.connections.clear()
    replay = Replay(client, scenario)
    await replay.run()
    await client.settle()

    for connection, wanted in scenario["messages"].items():
        told = replay.told(connection)
        if scenario.get("outputs_in_any_order"):
            assert unordered(told) == unordered(plain(wanted))
        else:
            assert told == plain(wanted)
