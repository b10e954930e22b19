"""SaladCloud's REST API as far as a deployment needs it: GPU classes, queues, container groups.

Its answers have the fields that the real salad-cloud-sdk demands; what it is sent is read by the
SDK's own models. Updates are merge patches (RFC 7396), and only of what may be changed.
"""

from __future__ import annotations

import copy
from typing import Any

from platforms.api_double import ApiDouble, Refused
from platforms.salad_sdk import ContainerGroupCreationRequest, ContainerGroupPatch, QueuePrototype

KEY = "salad-key-canary4711"
ORGANIZATION, PROJECT = "acme", "pictures"
ROOT = ["organizations", ORGANIZATION, "projects", PROJECT]
TIME = "2026-11-22T00:00:00.0000000+00:00"
CLASSES = {
    "RTX 4090 (24 GB)": "ed563892-aacd-40f5-80b7-90c9be6c759b",
    "RTX 3090 (24 GB)": "a5db5c50-cbcb-4596-ae80-6a0c8090d80f",
    "RTX 4070 Ti Super (16 GB)": "de00dcd4-5bf2-46b0-a6f9-1e4a7a1b8a1e",
    "RTX 3060 Ti (8 GB)": "0d062939-7c01-4aae-a2b1-30e315124e51",
    "RTX 3080 (10 GB)": "8a1b0c3d-0000-4000-8000-000000000010",
    "RTX 3080 (12 GB)": "8a1b0c3d-0000-4000-8000-000000000012",
}
PATCHED = {"container", "country_codes", "display_name", "liveness_probe", "networking",
           "queue_autoscaler", "readiness_probe", "replicas", "startup_probe"}  # fmt: skip


class SaladApi(ApiDouble):
    """One organization with one project."""

    prefix = "/api/public"

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, Any]] = {}

    def problem(self, status: int, detail: str, errors: Any = None) -> dict[str, Any]:
        told = {"type": "https://salad.com/refused", "title": "Refused", "status": status,
                "detail": detail}  # fmt: skip
        return told if errors is None else {**told, "errors": errors}

    def handle(self, method: str, path: str, headers: Any, body: Any) -> tuple[int, Any]:
        if headers.get("Salad-Api-Key") != KEY:
            raise Refused(401, "Unauthorized")
        parts = path.strip("/").split("/")
        if (method, parts) == ("GET", ["organizations", ORGANIZATION, "gpu-classes"]):
            prices = [{"price": "0.18", "priority": "high"}]
            items = [{"id": key, "name": name, "prices": prices} for name, key in CLASSES.items()]
            return 200, {"items": items}
        if parts[:4] != ROOT:
            raise Refused(404, "no such organization or project")
        match method, parts[4:]:
            case "GET", ["queues", name] if name in self.queues:
                return 200, self.queues[name]
            case "POST", ["queues"]:
                return 201, self._new_queue(body)
            case "GET", ["containers", name] if name in self.groups:
                return 200, self.groups[name]
            case "POST", ["containers"]:
                return 201, self._new_group(body)
            case "PATCH", ["containers", name] if name in self.groups:
                if headers.get("Content-Type") != "application/merge-patch+json":
                    raise Refused(415, "must be a merge patch")
                return 200, self._patch(self.groups[name], body)
        raise Refused(404, f"not found: {path}")

    def _new_queue(self, body: dict[str, Any]) -> dict[str, Any]:
        self._read(QueuePrototype, body)
        if body["name"] in self.queues:
            raise Refused(409, "a queue of that name exists")
        made = {"container_groups": [], "create_time": TIME, "update_time": TIME,
                "display_name": body["name"], "id": f"q-{body['name']}", **body}  # fmt: skip
        self.queues[body["name"]] = made
        return made

    def _new_group(self, body: dict[str, Any]) -> dict[str, Any]:
        self._read(ContainerGroupCreationRequest, body)
        if body["name"] in self.groups:
            raise Refused(409, "a container group of that name exists")
        unknown = set(body["container"]["resources"]["gpu_classes"]) - set(CLASSES.values())
        if unknown:
            field = "container.resources.gpu_classes[0]"
            raise Refused(400, "validation", {field: [f"unknown {sorted(unknown)}"]})
        connection = body.get("queue_connection")
        if connection and connection["queue_name"] not in self.queues:
            raise Refused(400, "validation", {"queue_connection.queue_name": ["no such queue"]})
        if connection and "networking" in body:
            raise Refused(400, "networking and queue_connection exclude each other")
        container = copy.deepcopy(body["container"])
        container.pop("registry_authentication", None)  # never told
        priority = container.pop("priority", "high")
        counts = dict.fromkeys(("allocating_count", "creating_count", "running_count",
                                "stopping_count"), 0)  # fmt: skip
        state = {"status": "pending", "description": "", "start_time": TIME, "finish_time": TIME,
                 "instance_status_counts": counts}  # fmt: skip
        made = {"id": f"g-{body['name']}", "country_codes": [], "create_time": TIME,
                "update_time": TIME, "organization_name": ORGANIZATION, "project_name": PROJECT,
                "pending_change": False, "version": 1, "scaling-actions": [],
                "scheduled-scaling-enabled": False, "current_state": state,
                **copy.deepcopy(body), "container": {"command": [], **container},
                "priority": priority}  # fmt: skip
        if "networking" in made:
            made["networking"] |= {"dns": f"{body['name']}-pear.salad.cloud"}
        self.groups[body["name"]] = made
        return made

    def _patch(self, group: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        self._read(ContainerGroupPatch, body)
        fixed = set(body) - PATCHED
        fixed |= {f"networking.{key}" for key in body.get("networking") or {}} - {"networking.port"}
        if fixed:
            raise Refused(400, "validation", {key: ["cannot be changed"] for key in sorted(fixed)})
        body = copy.deepcopy(body)
        container = body.get("container") or {}
        container.pop("registry_authentication", None)
        if "priority" in container:
            group["priority"] = container.pop("priority")
        merge(group, body)
        group["version"] += 1
        return group

    def _read(self, model: Any, body: dict[str, Any]) -> None:
        """Let the SDK's own model read a body, and write it again: nothing may be lost."""
        try:
            again = model._unmap(copy.deepcopy(body))._map()
        except (TypeError, ValueError, KeyError) as error:
            raise Refused(400, f"validation: {error}") from error
        if again != body:
            raise Refused(400, f"validation: unknown fields beside {sorted(again)}")


def merge(there: dict[str, Any], patch: dict[str, Any]) -> None:
    """Apply a merge patch."""
    for key, value in patch.items():
        if value is None:
            there.pop(key, None)
        elif isinstance(value, dict) and isinstance(there.get(key), dict):
            merge(there[key], value)
        else:
            there[key] = value
