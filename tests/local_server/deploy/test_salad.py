"""Salad: a queue and a container group; the double reads bodies by the real SDK's models."""

from __future__ import annotations

import socket

import pytest
from platforms.api_double import Refused
from platforms.salad_api_double import CLASSES, KEY, ORGANIZATION, PROJECT
from platforms.salad_sdk import (
    ContainerGroupCreationRequest,
    ContainerGroupPatch,
    QueuePrototype,
    SaladCloudSdk,
)

from handler.manifest.schema import parse_manifest

CONTAINERS = f"/organizations/{ORGANIZATION}/projects/{PROJECT}/containers"
QUEUES = f"/organizations/{ORGANIZATION}/projects/{PROJECT}/queues"
HEAD = "name: sdxl\nimage: ghcr.io/me/comfyfn:1-runtime\n"
TEXT = f"""{HEAD}manifest: sdxl.yaml
manifest_baked: true
gpu: [RTX 4090, RTX 3090]
env:
  LOG_LEVEL: info
  HF_TOKEN: {{secret: HF_TOKEN}}
registry: {{username: me, password: {{secret: REGISTRY_TOKEN}}}}
salad:
  organization: acme
  project: pictures
  priority: medium
  countries: [us, de]
"""
QUEUED = (
    TEXT.replace("sdxl.yaml", "video.yaml")
    + """  queue:
    name: videos
    autoscale: {min: 0, max: 10, desired_queue_length: 2}
"""
)


def deployed(deploy, salad, text=TEXT):
    said = deploy("salad", text, "--yes", double=salad)
    assert said.status == 0, said.err
    salad.seen.clear()
    return said


def test_a_group_behind_the_gateway_is_created(deploy, salad):
    """With the defaults of the guide, and probes that wait for the manifest's downloads."""
    said = deploy("salad", TEXT, "--yes", double=salad)

    assert said.status == 0, said.err
    (write,) = salad.writes
    body = write.body
    assert write.path == CONTAINERS
    assert body["container"] == {
        "image": "ghcr.io/me/comfyfn:1-runtime",
        "resources": {
            "cpu": 4,
            "memory": 24 * 1024,
            "gpu_classes": [CLASSES["RTX 4090 (24 GB)"], CLASSES["RTX 3090 (24 GB)"]],
            "storage_amount": 37 << 30,
        },
        "environment_variables": {"LOG_LEVEL": "info", "HF_TOKEN": "hf-canary-8847"},
        "image_caching": True,
        "priority": "medium",
        "registry_authentication": {
            "basic": {"username": "me", "password": "registry-canary-9921"}
        },
    }
    assert body["networking"] == {
        "protocol": "http",
        "port": 3000,
        "auth": True,
        "load_balancer": "least_number_of_connections",
        "single_connection_limit": False,
        "client_request_timeout": 100_000,
        "server_response_timeout": 100_000,
    }
    assert (body["replicas"], body["country_codes"]) == (3, ["us", "de"])
    assert "queue_connection" not in body
    startup, ready = body["startup_probe"], body["readiness_probe"]
    assert startup["http"] == {
        "path": "/health/startup",
        "port": 3000,
        "scheme": "http",
        "headers": [],
    }
    waits = startup["initial_delay_seconds"] + startup["period_seconds"] * 20
    assert waits >= 300 + 6e9 * 8 / 50e6 * 1.2
    assert ready["http"]["path"] == "/ready"
    assert "https://sdxl-pear.salad.cloud" in said.out
    assert "5 or more are advised for production" in said.out


def test_a_queue_and_a_group_without_gateway_are_created(deploy, salad):
    """The queue first; the group is connected to it at the server's own route."""
    said = deploy("salad", QUEUED, "--yes", double=salad)

    assert said.status == 0, said.err
    queue, group = salad.writes
    assert (queue.path, queue.body["name"]) == (QUEUES, "videos")
    assert "networking" not in group.body
    assert group.body["queue_connection"] == {
        "queue_name": "videos",
        "path": "/queue",
        "port": 3000,
    }
    assert group.body["queue_autoscaler"]["max_replicas"] == 10
    assert "comfyfn run --to salad:acme/pictures/videos" in said.out
    assert "SALAD_QUEUE_WORKER" in said.out


def test_a_video_behind_a_gateway_is_refused(deploy, salad):
    """With the reason; where nothing is said, a queue is taken."""
    plain = TEXT.replace("sdxl.yaml", "video.yaml")
    said = deploy("salad", f"{plain}  gateway: {{}}\n", "--yes", double=salad)
    assert said.status == 1
    assert "a job takes 60 to 300 s, and Salad's gateway ends every request after 100 s" in said.err
    assert "queue: {}" in said.err
    assert salad.writes == []

    deployed(deploy, salad, plain)
    assert "networking" not in salad.groups["sdxl"]
    assert list(salad.queues) == ["sdxl"]


@pytest.mark.parametrize("text", [TEXT, QUEUED])
def test_a_second_run_changes_nothing(deploy, salad, text):
    """The login that Salad never tells and replicas of its autoscaler are no difference."""
    deployed(deploy, salad, text)
    if text is QUEUED:
        salad.groups["sdxl"]["replicas"] = 7

    said = deploy("salad", text, double=salad)
    assert "nothing is to be done" in said.out
    assert salad.writes == []


def test_what_differs_is_patched(deploy, salad):
    """A merge patch of what may be changed; a variable that is gone is null."""
    deployed(deploy, salad)
    changed = TEXT.replace("1-runtime", "2-runtime").replace("  LOG_LEVEL: info\n", "")
    changed = changed.replace("priority: medium", "priority: high\n  replicas: 6")

    said = deploy("salad", changed, "--yes", double=salad, HF_TOKEN="hf-canary-8847")
    (patch,) = salad.writes
    assert said.status == 0, said.err
    assert (patch.method, patch.content_type) == ("PATCH", "application/merge-patch+json")
    assert patch.body == {
        "replicas": 6,
        "container": {
            "image": "ghcr.io/me/comfyfn:2-runtime",
            "environment_variables": {"HF_TOKEN": "hf-canary-8847", "LOG_LEVEL": None},
            "priority": "high",
            "registry_authentication": {
                "basic": {"username": "me", "password": "registry-canary-9921"}
            },
        },
    }
    assert "container.priority: medium -> high" in said.out
    salad.seen.clear()
    assert "nothing is to be done" in deploy("salad", changed, double=salad).out


def test_an_autoscaler_that_is_no_longer_named_stays(deploy, salad):
    """Salad takes none away; replicas that it would undo are not sent."""
    deployed(deploy, salad, QUEUED)
    bare = QUEUED.replace("    autoscale: {min: 0, max: 10, desired_queue_length: 2}\n", "")
    said = deploy("salad", bare.replace("priority:", "replicas: 7\n  priority:"), double=salad)
    assert "nothing is to be done" in said.out
    assert "which Salad cannot take away" in said.out


def test_a_new_value_of_a_secret_is_a_change_that_is_not_shown(deploy, salad):
    """Neither the old one nor the new one."""
    deployed(deploy, salad)
    said = deploy("salad", TEXT, "--yes", double=salad, HF_TOKEN="hf-new-canary-1")

    assert "environment_variables.HF_TOKEN: (another value) -> ***" in said.out
    assert "hf-new-canary-1" not in said.out + said.err
    group = salad.groups["sdxl"]
    assert group["container"]["environment_variables"]["HF_TOKEN"] == "hf-new-canary-1"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("text", [TEXT, QUEUED])
def test_a_dry_run_prints_what_is_then_sent(deploy, salad, text, existing):
    """Secrets masked, and nothing that writes is sent before."""
    if existing:
        deployed(deploy, salad, text.replace("[us, de]", "[fr]").replace("info", "debug"))

    told = deploy("salad", text, "--dry-run", double=salad).requests()
    assert salad.writes == []
    deploy("salad", text, "--yes", double=salad)
    sent = [(w.method, salad.url + w.path, w.content_type, masked(w.body)) for w in salad.writes]
    assert told == sent
    assert told


def test_the_manifest_is_sent_where_the_image_has_none(deploy, salad):
    """As JSON, and no plan shows it."""
    text = TEXT.replace("manifest_baked: true\n", "")
    dry = deploy("salad", text, "--dry-run", double=salad)
    assert '"MANIFEST_JSON": "***"' in dry.out
    assert "example.com" not in dry.out
    assert "is safer" not in dry.out
    deployed(deploy, salad, text)
    (group,) = salad.groups.values()
    sent = group["container"]["environment_variables"]["MANIFEST_JSON"]
    assert [model.size for model in parse_manifest(sent, is_json=True).models] == [6_000_000_000]


def masked(body):
    if isinstance(body, dict):
        return {key: masked(value) for key, value in body.items()}
    return "***" if body in ("hf-canary-8847", "registry-canary-9921") else body


def test_what_salad_cannot_change_is_refused(deploy, salad):
    """A gateway's port may be changed, and nothing else of it."""
    deployed(deploy, salad)
    said = deploy("salad", f"{TEXT}  gateway: {{auth: false}}\n", "--yes", double=salad)
    assert "cannot change this of the container group sdxl: networking.auth" in said.err
    assert salad.writes == []

    moved = deploy("salad", f"{TEXT}  gateway: {{port: 3001}}\n", "--yes", double=salad)
    (patch,) = salad.writes
    assert moved.status == 0, moved.err
    assert patch.body["networking"] == {"port": 3001}
    assert patch.body["container"]["environment_variables"]["PORT"] == "3001"
    assert patch.body["startup_probe"]["http"]["port"] == 3001


def test_a_gateway_does_not_become_a_queue(deploy, salad):
    """Nor the other way round."""
    deployed(deploy, salad)
    said = deploy("salad", f"{TEXT}  queue: {{}}\n", "--yes", double=salad)
    assert "networking: removed" in said.err
    assert "queue_connection: added" in said.err
    assert salad.writes == []


def test_classes_are_found_by_name(deploy, salad):
    """A name that two classes have is told with both; one that is too small is refused."""
    two = deploy("salad", TEXT.replace("RTX 3090", "RTX 3080"), double=salad)
    assert "more than one GPU class 'RTX 3080'" in two.err
    assert "RTX 3080 (10 GB), RTX 3080 (12 GB)" in two.err

    none = deploy("salad", TEXT.replace("RTX 3090", "RTX 9999"), double=salad)
    assert "no GPU class 'RTX 9999'" in none.err

    small = deploy("salad", TEXT.replace("RTX 3090", "RTX 3060 Ti"), double=salad)
    assert "RTX 3060 Ti (8 GB) has 8 GB" in small.err


def test_a_secret_that_is_not_set_here_is_told(deploy, salad):
    """Salad keeps none, so that it must be at hand."""
    said = deploy("salad", TEXT, "--yes", double=salad, HF_TOKEN="")
    assert "env.HF_TOKEN refers to the secret HF_TOKEN, and that variable is not set" in said.err
    assert salad.writes == []


def test_too_little_memory_is_refused(deploy, salad):
    """The manifest says how much it needs."""
    said = deploy("salad", f"{TEXT}  memory_gb: 8\n", "--yes", double=salad)
    assert "requires 24 GB of RAM, and 8 are asked for" in said.err


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "SALAD_API_KEY is not accepted"),
        (403, "a quota is used up"),
        (404, "names of organizations, projects"),
        (409, "run again"),
        (422, "mend it there"),
        (500, "a fault of the platform"),
    ],
)
def test_a_refusal_is_told_with_what_to_do(deploy, salad, status, hint):
    """Once: a creation is not sent again by itself."""
    salad.fail("POST", "/containers", Refused(status, "said so"))
    said = deploy("salad", TEXT, "--yes", double=salad)

    assert said.status == 1
    assert f"with {status}: Refused; said so" in said.err
    assert hint in said.err
    assert len(salad.writes) == 1


def test_a_wrong_field_is_told_by_its_place_in_the_file(deploy, salad):
    """Salad's problem details name fields by their paths."""
    errors = {"container.resources.memory": ["must be at most 61440"]}
    salad.fail("POST", "/containers", Refused(400, "validation", errors))
    said = deploy("salad", TEXT, "--yes", double=salad)
    assert "container.resources.memory: must be at most 61440" in said.err
    assert "in deploy.yaml that is salad.memory_gb" in said.err


def test_half_done_is_told_and_can_be_run_again(deploy, salad):
    """The queue stays, and is found by the next run."""
    salad.fail("POST", "/containers", "hang up")
    said = deploy("salad", QUEUED, "--yes", double=salad)
    assert "done before: queue videos (created)" in said.err
    assert "failed: container group sdxl (create)" in said.err
    assert "it may have been done all the same" in said.err

    salad.heal()
    salad.seen.clear()
    assert deploy("salad", QUEUED, "--yes", double=salad).status == 0
    assert [one.path for one in salad.writes] == [CONTAINERS]


def test_a_misspelt_project_is_no_missing_group(deploy, salad):
    """A 404 of the creation tells it."""
    said = deploy("salad", TEXT.replace("pictures", "pixtures"), "--yes", double=salad)
    assert "no such organization or project" in said.err


def test_nobody_there_is_one_line(deploy):
    """With the address that was tried."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    said = deploy("salad", TEXT, "--yes", SALAD_API_URL=url)
    assert f"Salad cannot be reached at {url}" in said.err


def test_the_real_sdk_sends_the_same_and_reads_the_answers(deploy, salad):
    """Salad's own client, given our bodies, puts the same on the wire, and the double suits it."""
    deployed(deploy, salad)
    deploy("salad", TEXT.replace("[us, de]", "[fr]"), "--yes", double=salad)
    (patch,) = salad.writes
    salad.groups.clear()
    salad.seen.clear()
    deploy("salad", QUEUED, "--yes", double=salad)
    queue, group = salad.writes
    salad.groups.clear()
    salad.queues.clear()
    salad.seen.clear()
    sdk = SaladCloudSdk(api_key=KEY, base_url=salad.url)
    where = {"organization_name": ORGANIZATION, "project_name": PROJECT}

    sdk.queues.create_queue(request_body=QueuePrototype._unmap(queue.body), **where)
    wanted = ContainerGroupCreationRequest._unmap(group.body)
    made = sdk.container_groups.create_container_group(request_body=wanted, **where)
    update = ContainerGroupPatch._unmap(patch.body)
    changed = sdk.container_groups.update_container_group(
        request_body=update, container_group_name="sdxl", **where
    )
    read = sdk.container_groups.get_container_group(container_group_name="sdxl", **where)
    classes = sdk.organization_data.list_gpu_classes(ORGANIZATION)

    assert salad.writes == [queue, group, patch]
    assert made.queue_connection.path == "/queue"
    assert changed.version == read.version == 2
    assert {one.name for one in classes.items} == set(CLASSES)
