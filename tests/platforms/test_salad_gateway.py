"""The Container Gateway's limit, told before it is reached; the double's is short."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from behaviour.graphs import fresh_color, picture
from platforms.salad_double import GatewayDouble, ImdsDouble, SaladServer
from platforms.test_salad import through, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT_S = 1.6
pytestmark = pytest.mark.skipif(
    not socket.has_dualstack_ipv6(), reason="no IPv6, which the gateway comes over"
)


def taking(seconds: float, **keys: Any) -> dict[str, Any]:
    """Give a payload that takes so long, and is nobody else's."""
    graph = through("TestSleep", seconds=seconds, steps=20)
    graph["1"]["inputs"] = {**graph["1"]["inputs"], "color": fresh_color()}
    return {"prompt": graph, **keys}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SaladServer]:
    """Give a worker that knows of the limit."""
    home = tmp_path_factory.mktemp("salad-gateway")
    imds = ImdsDouble()
    (home / "store").mkdir()
    running = SaladServer(
        home / "home",
        imds,
        GATEWAY_TIMEOUT_S=str(LIMIT_S),
        ENGINE_PREFETCH="1",
        ALLOW_VOLUMES=str(home / "store"),
    )
    try:
        running.start()
        warm(running)
        yield running
    finally:
        if running.process is not None:
            running.stop()
        imds.close()


def warm(server: SaladServer) -> None:
    """Have the first run after the boot behind us: it says nothing of others."""
    assert server.prompt(picture()).status_code == 200


@pytest.fixture
def gateway(server: SaladServer) -> Iterator[GatewayDouble]:
    """Give the gateway before it."""
    double = GatewayDouble(server.port, response_s=LIMIT_S)
    yield double
    double.close()


def post(gateway: GatewayDouble, body: Any, **headers: str) -> httpx.Response:
    """Send a prompt through the gateway."""
    url = f"{gateway.url}/prompt"
    return httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)


def test_a_picture_comes_through(gateway: GatewayDouble) -> None:
    """Over IPv6, with the proxy's headers."""
    answer = post(gateway, {"prompt": picture()})
    assert answer.status_code == 200
    assert len(answer.json()["images"]) == 1


def test_the_caller_hears_of_the_limit_before_it_is_reached(
    gateway: GatewayDouble, server: SaladServer
) -> None:
    """An error of ours in place of the gateway's 524; the next one is refused before it begins."""
    first = post(gateway, taking(30))
    assert (first.status_code, first.json()["code"]) == (504, "answer_too_late")
    assert "cancelled" in first.json()["error"]
    assert not first.json()["retryable"]
    until(lambda: server.get("/health").json()["jobs"] == {"waiting": 0, "running": 0})
    ran = server.get("/metrics").text
    again = post(gateway, taking(30))
    assert (again.status_code, again.json()["code"]) == (422, "too_long_to_answer")
    assert "webhook" in again.json()["hint"]
    assert "queue" in again.json()["hint"]
    assert ran.count("cancelled") == server.get("/metrics").text.count("cancelled")
    # Of another length, it is another kind.
    assert post(gateway, taking(0.2)).status_code == 200


def test_who_need_not_wait_is_not_refused(gateway: GatewayDouble, server: SaladServer) -> None:
    """With an upload it is 202, as with `Prefer: respond-async` and over the queue."""
    known = server.worker.send(taking(2.0))
    assert known.status == 200
    folder = server.home.parent / "store"
    answer = post(gateway, taking(2.0, volume={"path": str(folder)}))
    assert answer.status_code == 202
    until(lambda: any(path.is_file() for path in folder.rglob("*")))
    later = post(gateway, taking(2.0), Prefer="respond-async, wait=60")
    assert later.status_code == 202
    place = gateway.url + later.headers["Location"]
    until(lambda: httpx.get(place, trust_env=False).json()["status"] == "succeeded")
    assert post(gateway, taking(2.0)).status_code == 422


def test_a_job_with_a_key_goes_on_and_is_asked_for_again(gateway: GatewayDouble) -> None:
    """The second request joins the run; it is never begun twice."""
    body = taking(2.4)
    first = post(gateway, body, **{"Idempotency-Key": "mine"})
    assert (first.status_code, first.json()["code"]) == (504, "answer_too_late")
    assert first.json()["retryable"]
    second = post(gateway, body, **{"Idempotency-Key": "mine"})
    assert second.status_code == 200
    assert second.headers["Idempotent-Replayed"] == "true"


def test_work_before_it_counts(gateway: GatewayDouble, server: SaladServer) -> None:
    """A short run behind long ones would be cut off as well: another worker may have time."""
    assert server.worker.send(taking(1.3)).status == 200
    jobs = [server.worker.begin(taking(1.3)) for _ in range(3)]
    until(lambda: sum(server.get("/health").json()["jobs"].values()) == 3)
    time.sleep(0.1)  # until the last of them is in the line
    refused = post(gateway, {"prompt": picture()})
    assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
    assert int(refused.headers["Retry-After"]) >= 1
    for job in jobs:
        job.drop()
    until(lambda: server.get("/health").json()["jobs"] == {"waiting": 0, "running": 0})


def test_one_request_at_a_time_waits_in_the_gateway(server: SaladServer) -> None:
    """With `single_connection_limit`: nothing waits here, and its wait is not ours."""
    gateway = GatewayDouble(server.port, response_s=LIMIT_S, request_s=1.0, single=True)
    try:
        codes: list[int] = []
        threads = [
            threading.Thread(target=lambda: codes.append(post(gateway, taking(0.7)).status_code))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert gateway.most_at_once == 1
        assert sorted(codes) in ([200, 200, 504], [200, 504, 504])
    finally:
        gateway.close()


def test_a_worker_that_is_not_ready_gets_nothing(tmp_path: Path) -> None:
    """The gateway says 503 for a group without one."""
    imds = ImdsDouble()
    server = SaladServer(tmp_path, imds, COMFY_ARGS="--test-boot-seconds 3").start(ready=False)
    gateway = GatewayDouble(server.port)
    try:
        assert post(gateway, {"prompt": picture()}).status_code == 503
        health = httpx.get(f"http://[::1]:{server.port}/health/live", trust_env=False)
        assert health.status_code == 200
    finally:
        gateway.close()
        server.stop()
        imds.close()


def test_a_limit_that_nobody_told_us_is_the_gateways_own(server: SaladServer) -> None:
    """524, and the job ends with the connection: nobody could have its result."""
    gateway = GatewayDouble(server.port, response_s=0.5)
    try:
        assert post(gateway, taking(1.5)).status_code == 524
        until(lambda: server.get("/health").json()["jobs"] == {"waiting": 0, "running": 0})
    finally:
        gateway.close()
