"""RunPod: a template and an endpoint, through our client, against a strict double of REST v2."""

from __future__ import annotations

import socket

import pytest
from platforms.api_double import Refused

from handler.manifest.schema import parse_manifest

HEAD = (
    "name: sdxl\nimage: ghcr.io/me/comfyfn:1-runtime\nmanifest: sdxl.yaml\nmanifest_baked: true\n"
)
TEXT = f"""{HEAD}gpu: [RTX 4090, L4]
env:
  LOG_LEVEL: info
  HF_TOKEN: {{secret: HF_TOKEN}}
registry: {{name: ghcr}}
runpod:
  workers: {{min: 0, max: 4, idle_s: 30}}
  min_cuda: "12.8"
  data_centers: [EU-RO-1]
"""


def deployed(deploy, runpod, text=TEXT):
    said = deploy("runpod", text, "--yes", double=runpod)
    assert said.status == 0, said.err
    runpod.seen.clear()
    return said


def test_what_is_not_there_is_created(deploy, runpod):
    """Template first, then the endpoint, with everything that the file says; then its address."""
    said = deploy("runpod", TEXT, "--yes", double=runpod)

    assert said.status == 0, said.err
    assert [(one.method, one.path) for one in runpod.writes] == [
        ("POST", "/templates"),
        ("POST", "/serverless"),
    ]
    assert runpod.writes[1].body == {
        "name": "sdxl",
        "type": "QUEUE",
        "image": "ghcr.io/me/comfyfn:1-runtime",
        "args": "",
        "disk": 27,
        "env": {
            "JOB_TIMEOUT_S": "590",
            "LOG_LEVEL": "info",
            "HF_TOKEN": "{{ RUNPOD_SECRET_HF_TOKEN }}",
        },
        "ports": [],
        "registry": "reg_1",
        "gpu": {
            "pools": ["ADA_24", "AMPERE_24"],
            "excludedTypes": ["NVIDIA RTX A5000"],
            "count": 1,
            "minCudaVersion": "12.8",
        },
        "workers": {"min": 0, "max": 4, "idleTimeout": 30},
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "timeout": 600_000,
        "flashboot": "FLASHBOOT",
        "networkVolumes": [],
        "dataCenterIds": ["EU-RO-1"],
    }
    assert runpod.writes[0].body["serverless"] is True
    assert "https://api.runpod.ai/v2/ep_1/runsync" in said.out


def test_a_second_run_changes_nothing(deploy, runpod):
    """And says so, without asking."""
    deployed(deploy, runpod)

    said = deploy("runpod", TEXT, double=runpod)
    assert said.status == 0
    assert "nothing is to be done" in said.out
    assert runpod.writes == []


def test_what_differs_is_updated_and_nothing_else(deploy, runpod):
    """Each key that differs is sent as a whole, since RunPod replaces it so."""
    deployed(deploy, runpod)
    changed = TEXT.replace("1-runtime", "2-runtime").replace("max: 4", "max: 8")
    changed = changed.replace("  LOG_LEVEL: info\n", "").replace('  min_cuda: "12.8"\n', "")

    said = deploy("runpod", changed, "--yes", double=runpod)
    template, endpoint = runpod.writes
    env = {"JOB_TIMEOUT_S": "590", "HF_TOKEN": "{{ RUNPOD_SECRET_HF_TOKEN }}"}
    assert said.status == 0, said.err
    assert (template.path, endpoint.path) == ("/templates/tpl_1", "/serverless/ep_1")
    assert template.body == {"image": "ghcr.io/me/comfyfn:2-runtime", "env": env}
    assert set(endpoint.body) == {"image", "env", "gpu", "workers"}
    assert endpoint.body["workers"] == {"min": 0, "max": 8, "idleTimeout": 30}
    assert endpoint.body["gpu"]["minCudaVersion"] == ""
    assert "env.LOG_LEVEL: (set) -> (none)" in said.out
    assert "workers.max: 4 -> 8" in said.out
    runpod.seen.clear()
    assert "nothing is to be done" in deploy("runpod", changed, double=runpod).out


@pytest.mark.parametrize("existing", [False, True])
def test_a_dry_run_prints_what_is_then_sent(deploy, runpod, existing):
    """Method, address and body are the same; before, nothing that writes is sent."""
    if existing:
        deployed(deploy, runpod, TEXT.replace("max: 4", "max: 9").replace("info", "debug"))

    told = deploy("runpod", TEXT, "--dry-run", double=runpod).requests()
    assert runpod.writes == []
    deploy("runpod", TEXT, "--yes", double=runpod)
    sent = [(w.method, runpod.url + w.path, w.content_type, w.body) for w in runpod.writes]
    assert told == sent
    assert len(told) == 2


def test_the_manifest_is_sent_where_the_image_has_none(deploy, runpod):
    """As JSON, never shown, and without the advice to make a secret of it."""
    text = TEXT.replace("manifest_baked: true\n", "")
    dry = deploy("runpod", text, "--dry-run", double=runpod)
    assert '"MANIFEST_JSON": "***"' in dry.out
    assert "example.com" not in dry.out
    assert "sdxl.yaml is sent as MANIFEST_JSON" in dry.out
    assert "is safer" not in dry.out

    deployed(deploy, runpod, text)
    for made in (*runpod.templates.values(), *runpod.endpoints.values()):
        sent = parse_manifest(made["env"]["MANIFEST_JSON"], is_json=True)
        assert sent.requires.vram_gb == 12
        assert [model.size for model in sent.models] == [6_000_000_000]
    assert "nothing is to be done" in deploy("runpod", text, double=runpod).out


def test_models_that_a_volume_lacks_are_told_of(deploy, runpod):
    """The disk of a worker with a volume has no room for them."""
    text = TEXT.replace("manifest_baked: true\n", "") + "  volumes: [vol_1]\n"
    hint = "MODEL_DIR=/runpod-volume/models"
    assert hint in deploy("runpod", text, "--dry-run", double=runpod).out
    told = text + "  env: {MODEL_DIR: /runpod-volume/m}\n"
    assert hint not in deploy("runpod", told, "--dry-run", double=runpod).out


def test_a_manifest_that_mentions_a_secret_is_masked_all_the_same(deploy, runpod):
    """Only what is nothing but a reference may be shown."""
    text = TEXT + "  env: {MANIFEST_JSON: 'hf-canary-8847 {{ RUNPOD_SECRET_X }}'}\n"
    assert '"MANIFEST_JSON": "***"' in deploy("runpod", text, "--dry-run", double=runpod).out


def test_our_limit_of_a_job_is_a_little_below_runpods(deploy, runpod):
    """So that its caller is told why it ended; what the file says wins."""
    deployed(deploy, runpod, TEXT + "  timeout_s: 60\n")
    assert runpod.endpoints["ep_1"]["env"]["JOB_TIMEOUT_S"] == "57"
    deployed(deploy, runpod, TEXT + "  timeout_s: 60\n  env: {JOB_TIMEOUT_S: 20}\n")
    assert runpod.endpoints["ep_1"]["env"]["JOB_TIMEOUT_S"] == "20"


def test_a_load_balancer_is_told_its_port_and_path(deploy, runpod):
    """The server must listen beyond loopback, and be asked /ping."""
    deployed(deploy, runpod, f"{HEAD}gpu: ADA_24\nrunpod: {{type: load_balancer}}\n")

    (endpoint,) = runpod.endpoints.values()
    assert endpoint["type"] == "LOAD_BALANCER"
    assert endpoint["ports"] == ["3000/http"]
    assert endpoint["env"] == {
        "HOST": "0.0.0.0",
        "PORT": "3000",
        "PORT_HEALTH": "3000",
        "HEALTH_CHECK_PATH": "/ping",
    }
    assert endpoint["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 1}


def test_a_card_that_is_too_small_is_refused(deploy, runpod):
    """By the catalogue's own figures, also where a pool has one small card."""
    video = HEAD.replace("sdxl.yaml", "video.yaml")
    said = deploy("runpod", f"{video}gpu: [RTX 4090, RTX A4000]\n", "--yes", double=runpod)

    assert said.status == 1
    assert "requires 24 GB of VRAM: RTX A4000 has 16 GB" in said.err
    assert runpod.writes == []


def test_an_unknown_card_is_told_with_those_that_there_are(deploy, runpod):
    """Cards that no serverless pool has are none."""
    said = deploy("runpod", f"{HEAD}gpu: RTX 3070\n", double=runpod)
    assert "RunPod has no serverless GPU 'RTX 3070'" in said.err
    assert "RTX 4090 (ADA_24)" in said.err


def test_an_endpoint_of_another_type_is_not_touched(deploy, runpod):
    """RunPod cannot change the type."""
    deployed(deploy, runpod)
    text = TEXT.replace("runpod:\n", "runpod:\n  type: load_balancer\n")

    said = deploy("runpod", text, "--yes", double=runpod)
    assert said.status == 1
    assert "is of type QUEUE, which cannot be changed" in said.err
    assert runpod.writes == []


def test_two_of_a_name_are_left_alone(deploy, runpod):
    """Which one is meant, nobody knows; a console's `-fb` is no other name."""
    deployed(deploy, runpod)
    runpod.endpoints["ep_1"]["name"] = "sdxl -fb"
    assert "nothing is to be done" in deploy("runpod", TEXT, double=runpod).out
    runpod.endpoints["ep_2"] = {**runpod.endpoints["ep_1"], "id": "ep_2"}

    said = deploy("runpod", TEXT, "--yes", double=runpod)
    assert "RunPod has 2 of endpoint sdxl: ep_1, ep_2" in said.err


def test_a_registry_login_that_is_not_there_is_told(deploy, runpod):
    """RunPod keeps them by name."""
    said = deploy("runpod", TEXT.replace("ghcr}", "quay}"), double=runpod)
    assert "RunPod has no registry login 'quay'" in said.err


def test_a_secret_in_the_file_is_sent_and_not_shown(deploy, runpod):
    """With the advice to refer to it."""
    text = TEXT.replace("{secret: HF_TOKEN}", "hf-canary-8847")
    dry = deploy("runpod", text, "--dry-run", double=runpod)
    assert '"HF_TOKEN": "***"' in dry.out
    assert "`{secret: HF_TOKEN}` is safer" in dry.out

    deployed(deploy, runpod, text)
    assert runpod.endpoints["ep_1"]["env"]["HF_TOKEN"] == "hf-canary-8847"


FAULTS = {
    401: ("missing bearer token", "RUNPOD_API_KEY is not accepted"),
    403: ("access denied", "may not do this"),
    404: ("template does not exist", "exact"),
    409: ("template name must be unique", "run again"),
    429: ("slow down", "too many requests"),
    500: ("oops", "a fault of the platform"),
}


@pytest.mark.parametrize("status", FAULTS)
def test_a_refusal_is_told_with_what_to_do(deploy, runpod, status):
    """Before anything was done."""
    detail, hint = FAULTS[status]
    runpod.fail("POST", "/templates", Refused(status, detail))

    said = deploy("runpod", TEXT, "--yes", double=runpod)
    assert said.status == 1
    assert f"with {status}: Refused; {detail}" in said.err
    assert hint in said.err
    assert "nothing was done before it" in said.err
    assert len(runpod.writes) == 1


def test_a_wrong_field_is_told_by_its_place_in_the_file(deploy, runpod):
    """422 names RunPod's field; the hint names ours."""
    said = deploy("runpod", TEXT + "  disk_gb: 9000\n", "--yes", double=runpod)
    assert "$.disk: must be at most 2000" in said.err
    assert "in deploy.yaml that is runpod.disk_gb" in said.err


@pytest.mark.parametrize("fault", ["hang up", (502, "<html>bad gateway</html>"), (200, "<html>")])
def test_half_done_is_told_and_can_be_run_again(deploy, runpod, fault):
    """The second run finds the template and goes on with the endpoint."""
    runpod.fail("POST", "/serverless", fault)
    said = deploy("runpod", TEXT, "--yes", double=runpod)
    assert said.status == 1
    assert "done before: template sdxl (created)" in said.err
    assert "failed: endpoint sdxl (create)" in said.err
    assert "can be run again" in said.err

    runpod.heal()
    runpod.seen.clear()
    again = deploy("runpod", TEXT, "--yes", double=runpod)
    assert again.status == 0
    assert "no change  template sdxl" in again.out
    assert [one.path for one in runpod.writes] == ["/serverless"]


def test_nobody_there_is_one_line(deploy):
    """With the address that was tried."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    said = deploy("runpod", TEXT, "--yes", RUNPOD_REST_URL=url)
    assert said.status == 1
    assert f"RunPod cannot be reached at {url}" in said.err


def test_without_a_key_nothing_is_asked(deploy, runpod):
    """The error tells where to make one."""
    said = deploy("runpod", TEXT, double=runpod, RUNPOD_API_KEY="")
    assert "RUNPOD_API_KEY is not set" in said.err
    assert runpod.seen == []


def test_a_key_that_a_platform_repeats_is_blotted_out(deploy, runpod):
    """Some services quote what they were sent."""
    runpod.fail("GET", "/catalog/gpus", Refused(401, "bad key rp-key-canary4711"))
    said = deploy("runpod", TEXT, double=runpod)
    assert "bad key ***" in said.err
