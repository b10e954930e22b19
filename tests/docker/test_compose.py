"""docker-compose.yml: its profiles, and who can reach what."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from dockerfiles import IMAGE, read
from live import REPO

from handler.settings import Settings

PATH = REPO / "docker" / "docker-compose.yml"
COMPOSE = yaml.safe_load(PATH.read_text())
SERVICES = COMPOSE["services"]
_GIVEN = re.compile(r"\$\{\w+:-([^}]*)\}")


def settings_of(name: str) -> Settings:
    """What the server of a service reads, where the shell has set nothing."""
    texts = {k: _GIVEN.sub(r"\1", v) for k, v in SERVICES[name]["environment"].items()}
    return Settings.from_env(texts)


def test_each_profile_is_one_service():
    """`--profile gpu|cpu|design`; without one nothing is started."""
    assert {name: service["profiles"] for name, service in SERVICES.items()} == {
        name: [name] for name in ("gpu", "cpu", "design")
    }


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_is_on_this_machine_alone(name):
    """Nobody is asked who they are: so nobody else can reach it."""
    ports = SERVICES[name]["ports"]
    assert ports[0] == "127.0.0.1:3000:3000"
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_comfyuis_page_is_for_design_alone():
    """Elsewhere its port is not even published, and within the container on loopback."""
    published = {name for name, s in SERVICES.items() if "127.0.0.1:8188:8188" in s["ports"]}
    assert published == {"design"}
    assert {name for name in SERVICES if settings_of(name).ui} == {"design"}
    assert settings_of("design").comfy_args == ("--listen", "0.0.0.0")
    assert settings_of("gpu").comfy_args == settings_of("cpu").comfy_args == ()


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_a_setting(name):
    """A mistyped one would be passed on for nothing; and all of them can be used."""
    from dataclasses import fields

    known = {spec.metadata["env"] for spec in fields(Settings)}
    assert set(SERVICES[name]["environment"]) <= known
    settings_of(name)


@pytest.mark.parametrize("name", SERVICES)
def test_the_build_is_of_the_dockerfile_with_arguments_it_has(name):
    """From the repository's root."""
    build = SERVICES[name]["build"]
    assert (PATH.parent / build["context"]).resolve() == REPO
    assert REPO / build["dockerfile"] == IMAGE
    declared = set(re.findall(r"^ARG (\w+)", IMAGE.read_text(), re.MULTILINE))
    assert set(build["args"]) <= declared


def test_only_the_service_without_a_gpu_does_without():
    """Its image is the small one, and ComfyUI may run on the CPU."""
    gpus = {name for name, service in SERVICES.items() if "deploy" in service}
    assert gpus == {"gpu", "design"}
    device = SERVICES["gpu"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert SERVICES["cpu"]["build"]["args"]["FLAVOUR"] == "cpu"
    assert settings_of("cpu").allow_cpu
    assert SERVICES["cpu"]["image"] != SERVICES["gpu"]["image"] == SERVICES["design"]["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_lie_where_the_image_has_folders(name):
    """Named ones are declared, and folders of the host are there."""
    worker = next(stage for stage in read(IMAGE)[0] if stage.name == "worker")
    places = (worker.known["COMFY_HOME"], worker.known["STATE_DIR"], "/workflows", "/manifests")
    for volume in SERVICES[name]["volumes"]:
        source, target = volume.split(":")[:2]
        assert target.startswith(places)
        if source.startswith("."):
            assert (PATH.parent / source).is_dir()
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_stop_lets_the_jobs_in_hand_end(name):
    """Docker waits longer than we do."""
    assert SERVICES[name]["stop_grace_period"] == "60s"
    assert settings_of(name).drain_timeout_s < 60


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_that_it_does_not_need(name):
    """No capabilities, and none to be gained."""
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


def test_the_project_is_not_named_twice():
    """The example's image and the compose file call it as pyproject.toml does."""
    name = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["name"]
    assert all(service["image"].startswith(f"{name}:") for service in SERVICES.values())
