"""A template and an endpoint of RunPod, by its REST API v2.

Not by REST v1, which RunPod retires at the end of 2026, nor by the SDK's GraphQL calls, which take
the key in the address and cannot set time limits, CUDA versions or registries. Since v2 copies a
template into an endpoint once, the endpoint is sent its container's settings itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from local_server.deploy import needs
from local_server.deploy.faults import DeployFailed
from local_server.deploy.handed import job_limit_env, manifest_env
from local_server.deploy.plan import Action, Change, Plan, Request, Step, creation, differences
from local_server.deploy.rest import Api
from local_server.deploy.schema import SecretRef
from local_server.deploy.secret import Secret, advises, sounds_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.manifest.records import Manifest
    from local_server.deploy.schema import Deploy, RunPod

FIELDS: Final = {
    "name": "name", "image": "image", "env": "env", "registry": "registry.name",
    "args": "runpod.command", "disk": "runpod.disk_gb", "gpu": "gpu",
    "gpu.count": "runpod.gpu_count", "gpu.mincudaversion": "runpod.min_cuda",
    "gpu.allowedcudaversions": "runpod.cuda", "workers": "runpod.workers",
    "scaling": "runpod.scaling", "timeout": "runpod.timeout_s", "flashboot": "runpod.flashboot",
    "networkvolumes": "runpod.volumes", "datacenterids": "runpod.data_centers",
    "type": "runpod.type",
}  # fmt: skip
_SPARE_GB = 20
_PORT = "3000"
_REFERENCE = re.compile(r"\{\{ RUNPOD_SECRET_[^{}]+ \}\}")


def api(key: str, base_url: str) -> Api:
    """Open RunPod's API.

    Raises:
        DeployFailed: there is no key.
    """
    if not key:
        raise DeployFailed(
            "RUNPOD_API_KEY is not set",
            hint="make a key with write access at console.runpod.io, Settings, API Keys",
        )
    headers = {"Authorization": f"Bearer {key}"}
    return Api("RunPod", base_url, headers, key_name="RUNPOD_API_KEY", fields=FIELDS)


def make_plan(deploy: Deploy, manifest: Manifest | None, api: Api) -> Plan:
    """Look at what is there, and lay out what is to be done.

    Raises:
        DeployFailed: what is wanted does not fit, or RunPod cannot be asked.
    """
    if deploy.image is None:
        raise DeployFailed("`image` is missing: RunPod runs an image", hint="name it with its tag")
    requires = manifest.requires if manifest is not None else None
    own = deploy.runpod
    pools, excluded, sizes = _gpu(api, own.gpu or deploy.gpu)
    hints = needs.check_vram(requires, sizes) + needs.check_image(requires, deploy.image)
    sent, told = manifest_env(deploy, manifest, {**deploy.env, **own.env})
    hints += told
    if sent and own.volumes and "MODEL_DIR" not in {**deploy.env, **own.env}:
        hints.append(
            "models that the volume lacks are fetched to the container's disk, which is sized "
            "without them: MODEL_DIR=/runpod-volume/models keeps them on the volume"
        )
    container = _container(deploy, manifest, sent, api)
    hints += _plain_secrets(container["env"])
    if any(isinstance(value, SecretRef) for value in {**deploy.env, **own.env}.values()):
        hints.append("secrets are RunPod's own: console.runpod.io, Secrets, by the same names")
    template = _template(deploy.name, container, api)
    endpoint = _endpoint(deploy, container, _gpu_body(own, pools, excluded), api)
    return Plan(platform="RunPod", steps=(template, endpoint), hints=tuple(hints), close=_close)


def _gpu(api: Api, wanted: list[str]) -> tuple[list[str], list[str], dict[str, float | None]]:
    """Find pools, the types in them that are not wanted, and the memory of those that are."""
    if not wanted:
        raise DeployFailed("`gpu` is missing", hint="a pool (ADA_24) or cards (RTX 4090)")
    types = [one for one in api.items("/catalog/gpus", "gpus") if one.get("pool")]
    pools: list[str] = []
    chosen: dict[str, dict[str, Any]] = {}
    for name in wanted:
        whole = [one for one in types if one["pool"].casefold() == name.casefold()]
        cards = [
            one
            for one in types
            if name.casefold() in (one["id"].casefold(), one["name"].casefold())
        ]
        if not whole and not cards:
            known = ", ".join(sorted({f"{one['name']} ({one['pool']})" for one in types}))
            raise DeployFailed(
                f"RunPod has no serverless GPU {name!r}",
                hint=f"under `gpu` or `runpod.gpu`, one of: {known}",
            )
        pools += [one["pool"] for one in whole or cards if one["pool"] not in pools]
        chosen |= {one["id"]: one for one in whole or cards}
    excluded = sorted(
        one["id"] for one in types if one["pool"] in pools and one["id"] not in chosen
    )
    return pools, excluded, {one["name"]: one.get("memory") for one in chosen.values()}


def _gpu_body(own: RunPod, pools: list[str], excluded: list[str]) -> dict[str, Any]:
    return {
        "pools": pools,
        "excludedTypes": excluded,
        "count": own.gpu_count,
        "allowedCudaVersions": own.cuda,
        "minCudaVersion": own.min_cuda or "",
    }


def _container(
    deploy: Deploy, manifest: Manifest | None, sent: Mapping[str, str], api: Api
) -> dict[str, Any]:
    own = deploy.runpod
    models = None if own.volumes else manifest  # a volume has them
    given = {name: _value(value) for name, value in {**deploy.env, **own.env}.items()}
    # What a load balancer asks for may go on after the request: `timeout` is of a queue's jobs.
    limit = job_limit_env(own.timeout_s, given) if own.type == "queue" else {}
    env = {**sent, **limit, **given}
    body: dict[str, Any] = {
        "image": deploy.image,
        "args": own.command or "",
        "disk": own.disk_gb or needs.disk_gb(models, _SPARE_GB),
        "env": env,
        "ports": [],
        "registry": _registry(deploy, api),
    }
    if own.type == "load_balancer":
        serving = {"HOST": "0.0.0.0", "PORT": _PORT, "HEALTH_CHECK_PATH": "/ping"}  # noqa: S104
        env = {**serving, **env}
        body["env"] = {"PORT_HEALTH": env["PORT"], **env}
        body["ports"] = [f"{env['PORT']}/http"]
    return body


def _value(value: str | SecretRef) -> str:
    return f"{{{{ RUNPOD_SECRET_{value.secret} }}}}" if isinstance(value, SecretRef) else value


def _registry(deploy: Deploy, api: Api) -> str | None:
    """Find the id of a credential by its name, which RunPod keeps."""
    if deploy.registry is None:
        return None
    name = deploy.registry.name
    if name is None:
        raise DeployFailed(
            "`registry.name` is missing: RunPod keeps logins to registries by name",
            hint="make one at console.runpod.io, Settings, Container Registry Auth",
        )
    for one in api.items("/registries", "registries"):
        if name in (one["name"], one["id"]):
            return str(one["id"])
    raise DeployFailed(
        f"RunPod has no registry login {name!r}",
        hint="make it at console.runpod.io, Settings, Container Registry Auth",
    )


def _plain_secrets(env: Mapping[str, str]) -> list[str]:
    plain = [n for n, v in env.items() if advises(n) and not _REFERENCE.fullmatch(v)]
    return [
        f"{name} stands in deploy.yaml as it is: `{{secret: {name}}}` is safer" for name in plain
    ]


def _template(name: str, container: dict[str, Any], api: Api) -> Step:
    wanted = {"name": name, **container, "serverless": True}
    found = _only(api.items("/templates", "templates"), name, "template")
    subject = f"template {name}"
    if found is None:
        extra = {"startSsh": False, "startJupyter": False}
        body = _masked({key: value for key, value in wanted.items() if value is not None} | extra)
        request = Request("POST", f"{api.base_url}/templates", body)
        return Step(
            subject=subject, action=Action.CREATE, changes=creation(body), operation=request
        )
    if not found.get("serverless"):
        raise DeployFailed(
            f"the template {name} is one for pods", hint="give another `name`, or delete it"
        )
    return _updated(subject, wanted, found, _at(api, "templates", found))


def _endpoint(deploy: Deploy, container: dict[str, Any], gpu: dict[str, Any], api: Api) -> Step:
    own = deploy.runpod
    subject = f"endpoint {deploy.name}"
    wanted = {
        "name": deploy.name,
        "type": own.type.upper(),
        **container,
        "gpu": gpu,
        "workers": {"min": own.workers.min, "max": own.workers.max},
        "scaling": _scaling(own),
        "timeout": own.timeout_s * 1000,
        "flashboot": _flashboot(own),
        "networkVolumes": own.volumes,
        "dataCenterIds": own.data_centers,
    }
    if own.type == "load_balancer" or wanted["scaling"]["type"] == "QUEUE_DELAY":
        wanted["workers"]["idleTimeout"] = own.workers.idle_s  # else it is refused
    found = _only(api.items("/serverless", "endpoints"), deploy.name, "endpoint")
    if found is None:
        body = {key: value for key, value in wanted.items() if value is not None}
        body["gpu"] = {key: value for key, value in gpu.items() if value not in ("", [])}
        body = _masked(body)
        request = Request("POST", f"{api.base_url}/serverless", body)
        return Step(
            subject=subject, action=Action.CREATE, changes=creation(body), operation=request
        )
    if found.get("type", "QUEUE") != wanted.pop("type"):
        raise DeployFailed(
            f"the endpoint {deploy.name} is of type {found['type']}, which cannot be changed",
            hint="give another `name`, or delete the endpoint",
        )
    return _updated(subject, wanted, found, _at(api, "serverless", found))


def _scaling(own: RunPod) -> dict[str, Any]:
    given = own.scaling
    if given is not None and given.requests is not None:
        return {"type": "REQUEST_COUNT", "requestCount": given.requests}
    if own.type == "load_balancer":
        return {"type": "REQUEST_COUNT", "requestCount": 1}
    delay = given.queue_delay_s if given is not None else None
    return {"type": "QUEUE_DELAY", "queueDelay": delay or 4}


def _flashboot(own: RunPod) -> str:
    if own.flashboot == "priority":
        return "PRIORITY_FLASHBOOT"
    return "FLASHBOOT" if own.flashboot else "OFF"


def _at(api: Api, kind: str, found: Mapping[str, Any]) -> str:
    return f"{api.base_url}/{kind}/{quote(str(found['id']), safe='')}"


def _only(found: list[dict[str, Any]], name: str, what: str) -> dict[str, Any] | None:
    """Find a thing by its name; the console appends -fb to those of endpoints with FlashBoot."""
    same = [one for one in found if str(one.get("name", "")).removesuffix(" -fb") == name]
    if len(same) > 1:
        ids = ", ".join(str(one.get("id")) for one in same)
        raise DeployFailed(
            f"RunPod has {len(same)} of {what} {name}: {ids}", hint="rename or delete all but one"
        )
    return same[0] if same else None


def _updated(subject: str, wanted: dict[str, Any], found: dict[str, Any], url: str) -> Step:
    """Patch those keys that differ, each as a whole: RunPod replaces what it is sent."""
    wanted = _masked({key: value for key, value in wanted.items() if key != "name"})
    body: dict[str, Any] = {}
    changes: list[Change] = []
    for key, value in wanted.items():
        if differs := differences({key: value}, found):
            body[key] = value
            changes += differs
    if not body:
        return Step(subject=subject, action=Action.KEEP)
    return Step(
        subject=subject,
        action=Action.UPDATE,
        changes=tuple(changes),
        operation=Request("PATCH", url, body),
    )


def _masked(body: dict[str, Any]) -> dict[str, Any]:
    """Hide plain values whose names say that they are secrets; references are none."""
    env = {
        name: Secret(value) if sounds_secret(name) and not _REFERENCE.fullmatch(value) else value
        for name, value in body["env"].items()
    }
    return {**body, "env": env}


def _close(answers: Mapping[str, Any]) -> list[str]:
    for subject, answer in answers.items():
        if subject.startswith("endpoint ") and isinstance(answer, dict):
            urls = answer.get("requestUrls") or {}
            lines = [f"endpoint id: {answer.get('id')}"]
            return lines + [
                f"{name}: {urls[name]}" for name in ("runSync", "run", "base") if name in urls
            ]
    return []
