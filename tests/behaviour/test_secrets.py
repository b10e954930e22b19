"""A partner key that a caller sends is seen by the engine and by nobody else."""

from __future__ import annotations

import base64

import httpx
import pytest
from behaviour.driving import assert_error, begin, wait_phase
from behaviour.graphs import fault, picture, slow

CANARY = "canary-5f1c9d07"
SECRET = {"api_key_comfy_org": CANARY, "auth_token_comfy_org": CANARY + "-token"}


def found_in(place: str, data: bytes | str) -> list[str]:
    """Name the place if the canary is in it."""
    raw = data.encode() if isinstance(data, str) else data
    return [place] if CANARY.encode() in raw or CANARY[::-1].encode() in raw else []


@pytest.mark.timeout(240)
def test_partner_keys_are_told_to_nobody(start_server, engine: str) -> None:
    """Not in answers, errors, events, job records, health, logs or files, whatever happens."""
    server = start_server(engine, LOG_LEVEL="trace")
    found: list[str] = []
    graphs = {"good": picture(), "bad": {"1": {"class_type": "Nope", "inputs": {}}}}
    if engine == "embedded":
        graphs |= {"raises": fault("TestRaise", message="x"), "dies": fault("TestExit", code=3)}
    for name, graph in graphs.items():
        answer = server.prompt(graph, id=name, extra_data=SECRET)
        found += found_in(f"answer {name}", answer.content)
        if answer.status_code == 200:
            found += found_in("picture", base64.b64decode(answer.json()["images"][0]))
        found += found_in(f"job {name}", server.get(f"/jobs/{name}").content)
        found += found_in(f"events {name}", server.get(f"/jobs/{name}/events").content)
        server.wait_for("/ready", 60)
    job = begin(server, "held", slow(engine, 20), extra_data=SECRET)
    wait_phase(server, "held", "running")
    found += found_in("running job", server.get("/jobs/held").content)
    files = [p for p in server.home.rglob("*") if p.is_file()]
    found += [str(p) for p in files if found_in("", p.read_bytes())]
    server.post("/interrupt", {"id": "held"})
    found += found_in("cancelled", job.result(30).content)
    for path in ("/health", "/ready", "/docs/json", "/models"):
        found += found_in(path, server.get(path).content)
    body = assert_error(
        server.post("/prompt", {"prompt": {}, "extra_data": CANARY}), 400, "invalid_payload"
    )
    found += found_in("refused payload", str(body))
    raw = b'{"prompt": {}, "extra_data": {"api_key_comfy_org": "' + CANARY.encode() + b'"'
    headers = {"Content-Type": "application/json"}
    broken = httpx.post(f"{server.url}/prompt", content=raw, headers=headers, trust_env=False)
    found += found_in("broken JSON", broken.content)
    server.stop()
    found += found_in("log", server.log.read_bytes())
    found += [
        str(p) for p in server.home.rglob("*") if p.is_file() and found_in("", p.read_bytes())
    ]
    assert found == []
