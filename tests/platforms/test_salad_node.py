"""Another node where this one cannot do the work; the metadata service as Salad's SDK sees it."""

from __future__ import annotations

import json
import random
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from behaviour.graphs import picture
from behaviour.range_server import range_server
from platforms.salad_double import ImdsDouble, SaladServer
from platforms.test_salad import through, until
from salad_cloud_imds_sdk import SaladCloudImdsSdk
from salad_cloud_imds_sdk.models import DeletionCost, ReallocatePrototype
from salad_cloud_imds_sdk.net.transport.api_error import ApiError

from adapters.salad_imds import Imds, ImdsFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def imds() -> Iterator[ImdsDouble]:
    """Give a metadata service."""
    double = ImdsDouble()
    yield double
    double.close()


def test_salads_own_sdk_takes_the_double_for_the_service(imds: ImdsDouble) -> None:
    """Every call and every shape that we use, and those of the queue worker."""
    service = SaladCloudImdsSdk(base_url=imds.url, timeout=5000).metadata
    status = service.get_status(metadata="true")
    assert (status.ready, status.started) == (True, True)
    assert service.get_token(metadata="true").jwt.count(".") == 2
    service.replace_deletion_cost(request_body=DeletionCost(3), metadata="true")
    assert service.get_deletion_cost(metadata="true").deletion_cost == 3
    service.reallocate(request_body=ReallocatePrototype("slow"), metadata="true")
    service.restart(metadata="true")
    service.recreate(metadata="true")
    assert (imds.costs, imds.reasons) == ([3], ["slow"])
    imds.gone = True
    with pytest.raises(ApiError):
        service.get_status(metadata="true")


async def test_our_client_makes_the_same_calls(imds: ImdsDouble) -> None:
    """With the header, without proxies' headers; a refusal is an error of ours."""
    async with Imds(imds.url) as ours:
        await ours.set_deletion_cost(2)
        await ours.reallocate("x" * 3000)
        assert imds.costs == [2]
        assert imds.reasons == ["x" * 1000]
        imds.refusing = True
        with pytest.raises(ImdsFailed, match="500"):
            await ours.set_deletion_cost(1)


def test_what_a_proxy_sends_is_refused(imds: ImdsDouble) -> None:
    """As the service does."""
    url = f"{imds.url}/v1/status"
    given: list[dict[str, str]] = [{}, {"Metadata": "true", "X-Forwarded-For": "192.0.2.1"}]
    for headers in given:
        assert httpx.get(url, headers=headers, trust_env=False).status_code == 403


def test_a_gpu_that_fails_run_after_run_is_left(imds: ImdsDouble, tmp_path: Path) -> None:
    """The engine is started anew after the first; after the second the node is to blame."""
    server = SaladServer(tmp_path, imds).start()
    broken = {"prompt": through("TestRaise", message="CUDA error: unspecified launch failure")}
    try:
        engine = server.engine_pid()
        told = server.worker.send(broken)
        assert (told.outcome, told.status) == ("rejected", 500)
        assert server.worker.send({"prompt": picture()}).status == 200
        assert server.engine_pid() != engine
        assert imds.reasons == []
        for _ in range(2):
            assert server.worker.send(broken).outcome == "rejected"
        until(lambda: imds.reasons)
        assert imds.reasons[0].startswith("broken GPU: it failed 2 engines in a row: node 2")
        assert "unspecified launch failure" in imds.reasons[0]
        server.wait_for("/ready", status=503)
        assert len(imds.reasons) == 1
    finally:
        server.stop()


def test_a_gpu_that_cannot_be_used_is_left_before_the_first_job(
    imds: ImdsDouble, tmp_path: Path
) -> None:
    """The check before the boot tells; the engine is not even started."""
    home, python = tmp_path / "ComfyUI", tmp_path / "python"
    home.mkdir()
    (home / "main.py").touch()
    found = {
        "torch": {"__version__": "2.8.0", "cuda": "12.8", "hip": None},
        "gpu": {"error": "the driver cannot be initialised (999)"},
    }
    python.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps(found))})\n")
    python.chmod(0o755)
    server = SaladServer(
        tmp_path / "home",
        imds,
        ENGINE="comfyui",
        COMFY_HOME=str(home),
        COMFY_PYTHON=str(python),
        COMFYFN_TEST_FAULTS="false",
    ).start(ready=False)
    try:
        until(lambda: imds.reasons)
        assert imds.reasons == [
            "broken GPU: the GPU cannot be used: the driver cannot be initialised (999)"
        ]
        assert server.get("/health/live").status_code == 503
        assert server.get("/ready").status_code == 503
    finally:
        server.stop()


def test_too_little_memory_for_the_manifest_is_a_reason(imds: ImdsDouble, tmp_path: Path) -> None:
    """What it requires against what there is."""
    manifest = json.dumps({"requires": {"ram_gb": 100_000}})
    server = SaladServer(tmp_path, imds, MANIFEST_JSON=manifest).start(ready=False)
    try:
        until(lambda: imds.reasons)
        assert imds.reasons[0].startswith("too small: 100000 GB of RAM are wanted")
    finally:
        server.stop()


def test_no_reallocation_where_none_is_wanted(imds: ImdsDouble, tmp_path: Path) -> None:
    """SALAD_REALLOCATIONS=0: it is told to the log alone, and the worker works."""
    manifest = json.dumps({"requires": {"ram_gb": 100_000}})
    server = SaladServer(tmp_path, imds, MANIFEST_JSON=manifest, SALAD_REALLOCATIONS="0").start()
    try:
        until(lambda: "this node is unfit" in server.log.read_text())
        assert server.worker.send({"prompt": picture()}).status == 200
        assert imds.reasons == []
    finally:
        server.stop()


@pytest.mark.parametrize(("least", "left"), [("1000", True), ("0.1", False)])
def test_a_slow_line_is_left_while_models_come(
    imds: ImdsDouble, tmp_path: Path, least: str, left: bool
) -> None:
    """Measured over the window, on the models that the worker waits for."""
    with range_server(250_000) as host:
        url = host.put("/a.bin", random.Random(1).randbytes(2_000_000))
        entry = {"url": url, "folder": "vae"}
        server = SaladServer(
            tmp_path,
            imds,
            MANIFEST_JSON=json.dumps({"models": {"before_start": [entry]}}),
            MODEL_DIR=str(tmp_path / "models"),
            MIN_DOWNLOAD_MBPS=least,
            MIN_DOWNLOAD_WINDOW_S="1",
        ).start(ready=False)
        try:
            if left:
                until(lambda: imds.reasons)
                assert imds.reasons[0].startswith("slow downloads: ")
                assert "at least 1000 are wanted" in imds.reasons[0]
            else:
                host.bytes_per_s = 1e6
                server.wait_for("/ready")
                assert imds.reasons == []
        finally:
            server.stop()


def test_a_service_that_does_not_answer_hinders_nobody(imds: ImdsDouble, tmp_path: Path) -> None:
    """Costs and wishes that cannot be told are lines of the log."""
    imds.refusing = True
    server = SaladServer(tmp_path, imds).start()
    try:
        until(lambda: "the deletion cost 0 was not told" in server.log.read_text())
        assert server.worker.send({"prompt": picture()}).status == 200
    finally:
        assert server.stop() == 0
