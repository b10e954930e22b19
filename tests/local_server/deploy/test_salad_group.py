"""The body of a container group, in the points that no whole deployment shows."""

from __future__ import annotations

import pytest

from local_server.deploy.document import parse_deploy
from local_server.deploy.faults import DeployFailed
from local_server.deploy.salad_group import group_body
from local_server.deploy.schema import Queue

TEXT = "name: sd\nimage: me/comfyfn:1\nsalad: {organization: acme, project: pictures}\n"


def body(text, queue=None, **variables):
    return group_body(parse_deploy(text), None, ["id"], queue, variables.get)[0]


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("me/comfyfn:1", "docker_hub"),
        ("docker.io/me/comfyfn:1", "docker_hub"),
        ("ghcr.io/me/comfyfn:1", "basic"),
        ("localhost:5000/comfyfn", "basic"),
    ],
)
def test_a_login_is_for_the_images_registry(image, kind):
    """Docker Hub has one of its own at Salad."""
    login = "registry: {username: me, password: {secret: PW}}\n"
    made = body(TEXT.replace("me/comfyfn:1", image) + login, PW="canary")
    assert list(made["container"]["registry_authentication"]) == [kind]
    with pytest.raises(DeployFailed, match=r"registry\.password refers to the secret PW"):
        body(TEXT + login)
    with pytest.raises(DeployFailed, match="needs `username` and `password`"):
        body(TEXT + "registry: {name: ghcr}\n")


def test_the_server_is_told_where_it_is_asked():
    """Only where that is not its default."""
    plain = body(TEXT, Queue())
    moved = body(TEXT, Queue(path="/work", port=3001))
    assert plain["container"]["environment_variables"] == {}
    env = moved["container"]["environment_variables"]
    assert env == {"PORT": "3001", "SALAD_QUEUE_PATH": "/work"}
    assert moved["readiness_probe"]["http"]["port"] == 3001


def test_the_estimate_takes_the_least_speed_that_is_asked_for():
    """MIN_DOWNLOAD_MBPS of the group's own environment."""
    told = group_body(
        parse_deploy(TEXT + "env: {MIN_DOWNLOAD_MBPS: 200}\n"), None, ["id"], None, {}.get
    )[1]
    assert "at 200 MBit/s" in told[-1]
