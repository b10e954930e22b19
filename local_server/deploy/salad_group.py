"""What a container group of SaladCloud is made of: the body of its creation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from local_server.deploy import needs
from local_server.deploy.faults import DeployFailed
from local_server.deploy.handed import manifest_env
from local_server.deploy.schema import Gateway, SecretRef
from local_server.deploy.secret import Secret, advises, sounds_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from handler.manifest.records import Manifest
    from local_server.deploy.schema import Autoscale, Deploy, Queue

PRODUCTION_REPLICAS = 5
_MBPS = 50.0
_SPARE_GB = 30
_GIB = 1 << 30
_PORT, _PATH = 3000, "/queue"


def group_body(
    deploy: Deploy,
    manifest: Manifest | None,
    classes: list[str],
    queue: Queue | None,
    variable: Callable[[str], str | None],
) -> tuple[dict[str, Any], list[str]]:
    """Give the body, and hints.

    Args:
        classes: ids of GPU classes.
        queue: None for one behind a gateway.
        variable: gives a variable of this machine.

    Raises:
        DeployFailed: a secret or a login is missing, or the machine would be too small.
    """
    own = deploy.salad
    requires = manifest.requires if manifest is not None else None
    memory = own.memory_gb or (requires.ram_gb if requires else None) or 16
    needs.check_memory(requires, memory)
    gateway = own.gateway or Gateway()
    port = queue.port if queue else gateway.port
    env, hints = _env(deploy, variable)
    sent, told = manifest_env(deploy, manifest, env)
    hints += told
    env = {**{name: Secret(text) for name, text in sent.items()}, **_serving(port, queue), **env}
    if queue and "SALAD_QUEUE_WORKER" not in env:
        hints.append("the image must have Salad's queue worker, and SALAD_QUEUE_WORKER its path")
    if own.replicas < PRODUCTION_REPLICAS and not (queue and queue.autoscale):
        hints.append(
            f"{own.replicas} replicas: nodes leave without warning, {PRODUCTION_REPLICAS} or more "
            "are advised for production"
        )
    resources: dict[str, Any] = {
        "cpu": own.cpu,
        "memory": math.ceil(memory * 1024),
        "gpu_classes": classes,
        "storage_amount": (own.storage_gb or needs.disk_gb(manifest, _SPARE_GB)) * _GIB,
    }
    container = {
        "image": deploy.image,
        "resources": resources,
        "environment_variables": env,
        "image_caching": True,
    }
    if own.shm_mb is not None:
        resources["shm_size"] = own.shm_mb
    if own.priority is not None:
        container["priority"] = own.priority
    if deploy.registry is not None:
        container["registry_authentication"] = _login(deploy, variable)
        hints.append("a registry's login cannot be compared: it is sent along with other changes")
    probes, why = _probes(deploy, manifest, port, env)
    wanted = {
        "name": deploy.name,
        "display_name": deploy.name,
        "container": container,
        "autostart_policy": own.autostart,
        "restart_policy": "always",
        "replicas": own.replicas,
        "country_codes": own.countries,
        **probes,
        **(_connection(deploy.name, queue) if queue else {"networking": _networking(gateway)}),
    }
    return wanted, [*hints, why]


def _serving(port: int, queue: Queue | None) -> dict[str, str | Secret]:
    """Tell the server where it is asked for jobs, where that is not its default."""
    env: dict[str, str | Secret] = {} if port == _PORT else {"PORT": str(port)}
    if queue is not None and queue.path != _PATH:
        env["SALAD_QUEUE_PATH"] = queue.path
    return env


def _env(
    deploy: Deploy, variable: Callable[[str], str | None]
) -> tuple[dict[str, str | Secret], list[str]]:
    env: dict[str, str | Secret] = {}
    hints = []
    for name, value in {**deploy.env, **deploy.salad.env}.items():
        if isinstance(value, SecretRef):
            env[name] = _local(value, f"env.{name}", variable)
        elif sounds_secret(name):
            env[name] = Secret(value)
            if advises(name):
                hints.append(
                    f"{name} stands in deploy.yaml as it is: `{{secret: {name}}}` is safer"
                )
        else:
            env[name] = value
    return env, hints


def _local(ref: SecretRef, where: str, variable: Callable[[str], str | None]) -> Secret:
    text = variable(ref.secret)
    if not text:
        raise DeployFailed(
            f"{where} refers to the secret {ref.secret}, and that variable is not set here",
            hint=f"Salad keeps no secrets: set {ref.secret} in the shell that deploys",
        )
    return Secret(text)


def _login(deploy: Deploy, variable: Callable[[str], str | None]) -> dict[str, Any]:
    given = deploy.registry
    assert given is not None
    if given.username is None or given.password is None:
        raise DeployFailed(
            "`registry` needs `username` and `password` for Salad",
            hint="registry: {username: me, password: {secret: REGISTRY_TOKEN}}",
        )
    password = _local(given.password, "registry.password", variable)
    host = (deploy.image or "").partition("/")[0]
    server = given.server or (host if "." in host or ":" in host else "docker.io")
    if server in ("docker.io", "index.docker.io"):
        return {"docker_hub": {"username": given.username, "personal_access_token": password}}
    return {"basic": {"username": given.username, "password": password}}


def _networking(gateway: Gateway) -> dict[str, Any]:
    return {
        "protocol": "http",
        "port": gateway.port,
        "auth": gateway.auth,
        "load_balancer": gateway.load_balancer,
        "single_connection_limit": gateway.single_connection,
        "client_request_timeout": gateway.timeout_s * 1000,
        "server_response_timeout": gateway.timeout_s * 1000,
    }


def _connection(name: str, queue: Queue) -> dict[str, Any]:
    body: dict[str, Any] = {
        "queue_connection": {
            "queue_name": queue.name or name,
            "path": queue.path,
            "port": queue.port,
        }
    }
    if queue.autoscale is not None:
        body["queue_autoscaler"] = _autoscaler(queue.autoscale)
    return body


def _autoscaler(given: Autoscale) -> dict[str, Any]:
    body = {
        "min_replicas": given.min,
        "max_replicas": given.max,
        "desired_queue_length": given.desired_queue_length,
        "polling_period": given.polling_s,
        "max_upscale_per_minute": given.max_up_per_minute,
        "max_downscale_per_minute": given.max_down_per_minute,
    }
    return {key: value for key, value in body.items() if value is not None}


def _probes(
    deploy: Deploy, manifest: Manifest | None, port: int, env: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Lay out the three probes.

    The start is asked at /health/startup, not at /health as Salad's guide for comfyui-api has it:
    our /health is 200 from the first second on, and a node whose downloads never end would be kept.
    """
    given = deploy.salad.probes
    least = env.get("MIN_DOWNLOAD_MBPS")
    mbps = given.download_mbps or (_megabits(least) if isinstance(least, str) else None) or _MBPS
    start = needs.startup(manifest, mbps, given.startup_s)

    def probe(path: str, delay: int, period: int, timeout: int, failures: int) -> dict[str, Any]:
        return {
            "http": {"path": path, "port": port, "scheme": "http", "headers": []},
            "initial_delay_seconds": delay,
            "period_seconds": period,
            "timeout_seconds": timeout,
            "success_threshold": 1,
            "failure_threshold": failures,
        }

    probes = {
        "startup_probe": probe(given.startup, start.delay_s, start.period_s, 10, needs.FAILURES),
        "readiness_probe": probe(given.readiness, 0, 5, 5, 3),
        "liveness_probe": probe(given.liveness, 0, 30, 10, 3),
    }
    return probes, f"a start may take {start.total_s} s: {start.why}"


def _megabits(text: str) -> float | None:
    try:
        return max(float(text), 0.0) or None
    except ValueError:
        return None
