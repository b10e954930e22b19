"""A container group of SaladCloud, behind its gateway or at a job queue, by its REST API.

Over httpx and not by Salad's SDK: that sends a creation again after a 5xx, which may have been
done, drops what the service says about single fields, and retries hide the request that is shown.
Tests hold every body against the SDK's own models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from local_server.deploy import needs
from local_server.deploy.faults import DeployFailed
from local_server.deploy.plan import Action, Plan, Request, Step, creation, differences
from local_server.deploy.rest import Api
from local_server.deploy.salad_group import group_body
from local_server.deploy.schema import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from handler.manifest.records import Manifest
    from local_server.deploy.schema import Deploy

FIELDS: Final = {
    "name": "name", "display_name": "name", "replicas": "salad.replicas",
    "country_codes": "salad.countries", "autostart_policy": "salad.autostart",
    "container.image": "image", "container.environment_variables": "env",
    "container.priority": "salad.priority", "container.registry_authentication": "registry",
    "container.resources.cpu": "salad.cpu", "container.resources.memory": "salad.memory_gb",
    "container.resources.gpu_classes": "gpu", "container.resources.shm_size": "salad.shm_mb",
    "container.resources.storage_amount": "salad.storage_gb", "networking": "salad.gateway",
    "queue_connection": "salad.queue", "queue_autoscaler": "salad.queue.autoscale",
    "startup_probe": "salad.probes", "readiness_probe": "salad.probes",
    "liveness_probe": "salad.probes",
}  # fmt: skip
MERGE = "application/merge-patch+json"
FIXED = ("networking", "queue_connection", "autostart_policy", "restart_policy")


def api(key: str, base_url: str) -> Api:
    """Open Salad's API.

    Raises:
        DeployFailed: there is no key.
    """
    if not key:
        raise DeployFailed(
            "SALAD_API_KEY is not set", hint="make a key at portal.salad.com, API Access"
        )
    headers = {"Salad-Api-Key": key}
    return Api("Salad", base_url, headers, key_name="SALAD_API_KEY", fields=FIELDS)


def make_plan(
    deploy: Deploy,
    manifest: Manifest | None,
    api: Api,
    variable: Callable[[str], str | None],
) -> Plan:
    """Look at what is there, and lay out what is to be done.

    Args:
        variable: gives a variable of this machine, for secrets: Salad keeps none itself.

    Raises:
        DeployFailed: what is wanted does not fit, or Salad cannot be asked.
    """
    own = deploy.salad
    for key in ("organization", "project"):
        if getattr(own, key) is None:
            raise DeployFailed(f"`salad.{key}` is missing", hint="its name in the portal's address")
    if deploy.image is None:
        raise DeployFailed("`image` is missing: Salad runs an image", hint="name it with its tag")
    requires = manifest.requires if manifest is not None else None
    for_queue = requires is not None and requires.pattern == "queue"
    queue = own.queue or (Queue() if own.gateway is None and for_queue else None)
    hints = [] if queue else needs.check_gateway(requires)
    classes, sizes = _gpu_classes(api, own.organization or "", own.gpu or deploy.gpu)
    hints += needs.check_vram(requires, sizes) + needs.check_image(requires, deploy.image)
    wanted, told = group_body(deploy, manifest, classes, queue, variable)
    hints += told
    root = f"/organizations/{own.organization}/projects/{own.project}"
    steps = [] if queue is None else [_queue(wanted["queue_connection"]["queue_name"], root, api)]
    step, more = _group(deploy.name, wanted, root, api)
    return Plan(
        platform="Salad", steps=(*steps, step), hints=(*hints, *more), close=_closing(deploy, queue)
    )


def _gpu_classes(
    api: Api, organization: str, wanted: list[str]
) -> tuple[list[str], dict[str, float | None]]:
    """Find the ids of GPU classes by their names: `RTX 4090` means `RTX 4090 (24 GB)`."""
    if not wanted:
        raise DeployFailed("`gpu` is missing", hint="cards, as RTX 4090")
    known = api.items(f"/organizations/{organization}/gpu-classes", "items")
    ids: list[str] = []
    sizes: dict[str, float | None] = {}
    for name in wanted:
        same = [one for one in known if name.casefold() in (one["name"].casefold(), one["id"])]
        base = name.casefold()
        near = same or [one for one in known if one["name"].casefold().partition(" (")[0] == base]
        if len(near) != 1:
            all_names = ", ".join(sorted(one["name"] for one in near or known))
            what = "more than one GPU class" if near else "no GPU class"
            raise DeployFailed(
                f"Salad has {what} {name!r}",
                hint=f"under `gpu` or `salad.gpu`, one of: {all_names}",
            )
        if near[0]["id"] not in ids:
            ids.append(near[0]["id"])
        sizes[near[0]["name"]] = needs.size_in_name(near[0]["name"])
    return ids, sizes


def _queue(name: str, root: str, api: Api) -> Step:
    if api.get(f"{root}/queues/{name}", missing_ok=True) is not None:
        return Step(subject=f"queue {name}", action=Action.KEEP)
    body = {"name": name, "display_name": name}
    return Step(
        subject=f"queue {name}",
        action=Action.CREATE,
        changes=creation(body),
        operation=Request("POST", f"{api.base_url}{root}/queues", body),
    )


def _group(name: str, wanted: dict[str, Any], root: str, api: Api) -> tuple[Step, list[str]]:
    subject = f"container group {name}"
    found = api.get(f"{root}/containers/{name}", missing_ok=True)
    if found is None:
        body = dict(wanted)
        if not body["country_codes"]:
            del body["country_codes"]  # means everywhere; a list must name some
        request = Request("POST", f"{api.base_url}{root}/containers", body)
        step = Step(
            subject=subject, action=Action.CREATE, changes=creation(body), operation=request
        )
        return step, []
    _refuse_fixed(name, wanted, found)
    scaled = "queue_autoscaler" in wanted or bool(found.get("queue_autoscaler"))
    patch, changes = _patch(wanted, found, scaled=scaled)
    state = (found.get("current_state") or {}).get("status")
    hints = [f"the group is stopped: start it in the portal, {name}"] if state == "stopped" else []
    if scaled and "queue_autoscaler" not in wanted:
        hints.append(
            "the group has an autoscaler, which Salad cannot take away: it says how many replicas "
            "there are; set `salad.queue.autoscale`, or delete the group and deploy again"
        )
    if not changes:
        return Step(subject=subject, action=Action.KEEP), hints
    request = Request("PATCH", f"{api.base_url}{root}/containers/{name}", patch, MERGE)
    step = Step(subject=subject, action=Action.UPDATE, changes=tuple(changes), operation=request)
    return step, hints


def _refuse_fixed(name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse what Salad lets nobody change: only a gateway's port may be."""
    changes = []
    for key in FIXED:
        if (key in wanted) != bool(found.get(key)) and key in ("networking", "queue_connection"):
            changes.append(f"{key}: {'added' if key in wanted else 'removed'}")
            continue
        there = differences({key: wanted[key]}, found) if key in wanted else ()
        changes += [str(one) for one in there if one.path != "networking.port"]
    if changes:
        raise DeployFailed(
            f"Salad cannot change this of the container group {name}: {'; '.join(changes)}",
            hint="give another `name`, or delete the group in the portal and deploy again",
        )


def _patch(
    wanted: Mapping[str, Any], found: Mapping[str, Any], *, scaled: bool
) -> tuple[dict[str, Any], list[Any]]:
    """Make the merge patch: what differs, and null for variables that are gone."""
    patch: dict[str, Any] = {}
    changes: list[Any] = []
    for key in ("display_name", "replicas", "country_codes", "queue_autoscaler", "networking",
                "startup_probe", "readiness_probe", "liveness_probe"):  # fmt: skip
        if key not in wanted or (key == "replicas" and scaled):  # else each deploy would undo it
            continue
        if differs := differences({key: wanted[key]}, found):
            patch[key] = {"port": wanted[key]["port"]} if key == "networking" else wanted[key]
            changes += differs
    there = found.get("container") or {}
    # The group tells its priority itself, and a login never.
    there = {**there, "priority": there.get("priority") or found.get("priority")}
    container: dict[str, Any] = {}
    for key, value in wanted["container"].items():
        if key == "registry_authentication":
            continue
        if differs := differences({key: value}, there, "container"):
            container[key] = value
            changes += differs
    if "environment_variables" in container:
        gone = set(there.get("environment_variables") or {}) - set(
            container["environment_variables"]
        )
        variables = {**container["environment_variables"], **dict.fromkeys(sorted(gone))}
        container["environment_variables"] = variables
    if changes and "registry_authentication" in wanted["container"]:
        container["registry_authentication"] = wanted["container"]["registry_authentication"]
    if container:
        patch["container"] = container
    return patch, changes


def _closing(deploy: Deploy, queue: Queue | None) -> Callable[[Mapping[str, Any]], list[str]]:
    own = deploy.salad

    def close(answers: Mapping[str, Any]) -> list[str]:
        if queue is not None:
            to = f"salad:{own.organization}/{own.project}/{queue.name or deploy.name}"
            return [f"send a job: comfyfn run --to {to} workflow.json"]
        group = answers.get(f"container group {deploy.name}")
        host = (group.get("networking") or {}).get("dns") if group else None
        return [f"gateway: https://{host}"] if host else []

    return close
