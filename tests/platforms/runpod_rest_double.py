"""RunPod's REST API v2 as far as a deployment needs it, by its published OpenAPI document.

Strict where RunPod is: unknown fields are refused by name, a patch changes what it names and
replaces it whole, the key is asked for. Errors are problem details.
"""

from __future__ import annotations

import copy
from typing import Any

from platforms.api_double import ApiDouble, Refused

KEY = "rp-key-canary4711"
GPUS = [
    {"id": "NVIDIA GeForce RTX 4090", "name": "RTX 4090", "pool": "ADA_24", "memory": 24},
    {"id": "NVIDIA L4", "name": "L4", "pool": "AMPERE_24", "memory": 24},
    {"id": "NVIDIA RTX A5000", "name": "RTX A5000", "pool": "AMPERE_24", "memory": 24},
    {"id": "NVIDIA RTX A4000", "name": "RTX A4000", "pool": "AMPERE_16", "memory": 16},
    {"id": "NVIDIA A100-SXM4-80GB", "name": "A100 SXM", "pool": "AMPERE_80", "memory": 80},
    {"id": "NVIDIA GeForce RTX 3070", "name": "RTX 3070", "pool": None, "memory": 8},
]
CONTAINER = {"image": str, "args": str, "disk": int, "env": dict, "ports": list, "registry": str}
TEMPLATE = {"name": str, "serverless": bool, "public": bool, "category": str, "startSsh": bool,
            "startJupyter": bool, "allowedCudaVersions": list, "mounts": dict,
            **CONTAINER}  # fmt: skip
ENDPOINT = {"name": str, "type": str, "gpu": dict, "workers": dict, "scaling": dict,
            "timeout": int, "flashboot": str, "networkVolumes": list, "dataCenterIds": list,
            "templateId": str, **CONTAINER}  # fmt: skip
GPU = {"pools": list, "excludedTypes": list, "count": int, "allowedCudaVersions": list,
       "minCudaVersion": str}  # fmt: skip


class RunPodRest(ApiDouble):
    """One account."""

    def __init__(self) -> None:
        super().__init__()
        self.templates: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.registries = [{"id": "reg_1", "name": "ghcr"}]

    def problem(self, status: int, detail: str, errors: Any = None) -> dict[str, Any]:
        told = {"title": "Refused", "status": status, "detail": detail}
        return told if errors is None else {**told, "errors": errors}

    def handle(self, method: str, path: str, headers: Any, body: Any) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {KEY}":
            raise Refused(401, "missing bearer token")
        match method, path.strip("/").split("/"):
            case "GET", ["catalog", "gpus"]:
                return 200, {"gpus": GPUS}
            case "GET", ["registries"]:
                return 200, {"registries": self.registries}
            case "GET", ["templates"]:
                return 200, {"templates": list(self.templates.values())}
            case "GET", ["serverless"]:
                return 200, {"endpoints": list(self.endpoints.values())}
            case "POST", ["templates"]:
                return 201, self._new_template(body)
            case "PATCH", ["templates", key]:
                return 200, self._patch(self.templates, key, body, TEMPLATE)
            case "POST", ["serverless"]:
                return 201, self._new_endpoint(body)
            case "PATCH", ["serverless", key]:
                return 200, self._patch(self.endpoints, key, body, ENDPOINT)
        raise Refused(404, f"no route {method} {path}")

    def _new_template(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body, TEMPLATE, ("name", "image"))
        if body["name"] in {one["name"] for one in self.templates.values()}:
            raise Refused(409, "template name must be unique")
        key = f"tpl_{len(self.templates) + 1}"
        defaults = {"args": "", "disk": 20, "mounts": {}, "ports": [], "env": {}, "registry": None,
                    "serverless": False, "public": False, "category": "NVIDIA", "startSsh": True,
                    "startJupyter": True, "allowedCudaVersions": []}  # fmt: skip
        self.templates[key] = {"id": key, **defaults, **copy.deepcopy(body)}
        return self.templates[key]

    def _new_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body, ENDPOINT, ("name", "type", "scaling", "gpu", "image"))
        if "minCudaVersion" in body["gpu"] and not body["gpu"]["minCudaVersion"]:
            raise Refused(422, "invalid", ["$.gpu.minCudaVersion: does not match pattern"])
        key = f"ep_{len(self.endpoints) + 1}"
        made = {"id": key, "args": "", "disk": 20, "env": {}, "ports": [], "registry": None,
                "dataCenterIds": [], "networkVolumes": [], "timeout": 300000, "flashboot": "OFF",
                "createdAt": "2026-11-22T00:00:00Z", **copy.deepcopy(body)}  # fmt: skip
        base = f"https://api.runpod.ai/v2/{key}"
        made["requestUrls"] = {
            "run": f"{base}/run",
            "runSync": f"{base}/runsync",
            "status": f"{base}/status/{{job_id}}",
            "stream": f"{base}/stream/{{job_id}}",
            "cancel": f"{base}/cancel/{{job_id}}",
            "retry": f"{base}/retry/{{job_id}}",
            "purgeQueue": f"{base}/purge-queue",
            "health": f"{base}/health",
        }
        if body["type"] == "LOAD_BALANCER":
            base = f"https://{key}.api.runpod.ai"
            made["requestUrls"] = {"base": base, "health": f"{base}/ping"}
        made["gpu"] = self._gpu(body["gpu"])
        self.endpoints[key] = made
        return made

    def _gpu(self, given: dict[str, Any]) -> dict[str, Any]:
        floor = given.get("minCudaVersion") or None
        told = {"count": 1, "allowedCudaVersions": [], **given, "minCudaVersion": floor}
        if not told.get("excludedTypes"):
            told.pop("excludedTypes", None)
        return told

    def _patch(self, there: Any, key: str, body: dict[str, Any], fields: Any) -> dict[str, Any]:
        if key not in there:
            raise Refused(404, "does not exist")
        self._check(body, fields, ())
        if "type" in body and fields is ENDPOINT:
            raise Refused(422, "invalid", ["$: additional properties 'type' not allowed"])
        there[key] |= copy.deepcopy(body)
        if "gpu" in body:
            there[key]["gpu"] = self._gpu(body["gpu"])
        return there[key]

    def _check(self, body: Any, fields: dict[str, type], required: tuple[str, ...]) -> None:
        faults = [
            f"$: additional properties '{key}' not allowed" for key in body if key not in fields
        ]
        faults += [f"$: missing property '{key}'" for key in required if key not in body]
        for key, value in body.items():
            if key == "registry" and value is None:
                continue
            if key in fields and not isinstance(value, fields[key]):
                faults.append(f"$.{key}: wrong type")
        if isinstance(body.get("disk"), int) and body["disk"] > 2000:
            faults.append("$.disk: must be at most 2000")
        faults += [f"$.gpu: '{key}' not allowed" for key in body.get("gpu") or {} if key not in GPU]
        scaling, workers = body.get("scaling") or {}, body.get("workers") or {}
        counted = scaling.get("type") == "REQUEST_COUNT" and body.get("type") == "QUEUE"
        if counted and "idleTimeout" in workers:
            faults.append("$.workers.idleTimeout: not applicable")
        if any(not isinstance(text, str) for text in (body.get("env") or {}).values()):
            faults.append("$.env: values must be texts")
        if faults:
            raise Refused(422, "request validation failed", faults)
        gpu = body.get("gpu") or {}
        pools = {one["pool"] for one in GPUS}
        if unknown := [pool for pool in gpu.get("pools", []) if pool not in pools]:
            raise Refused(400, f"unknown pool {unknown}")
        inside = {one["id"] for one in GPUS if one["pool"] in gpu.get("pools", [])}
        if set(gpu.get("excludedTypes", [])) - inside:
            raise Refused(400, "excludedTypes: not in one of the pools")
