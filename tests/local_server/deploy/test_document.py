"""A deploy.yaml is read with every fault at its line."""

from __future__ import annotations

import re

import pytest
from live import REPO

from local_server.deploy.document import parse_deploy, read_deploy
from local_server.deploy.faults import DocumentInvalid
from local_server.deploy.schema import SecretRef

WRONG = """name: SDXL
imge: x
env:
  A: 1.10
  B: {secret: X, more: y}
  9C: x
runpod:
  workers: {min: 5, max: 2}
  scaling: {}
  disk: 4
  volumes: [a, 7]
salad:
  probes: {startup: health}
  replicas: true
"""


def faults(text):
    with pytest.raises(DocumentInvalid) as caught:
        parse_deploy(text)
    return {(fault.line, fault.path): fault.message for fault in caught.value.faults}


def test_every_fault_is_told_at_once():
    """With its line, its place, and what is near."""
    found = faults(WRONG)
    assert set(found) == {
        (1, "name"),
        (2, "imge"),
        (5, "env.B"),
        (6, "env.9C"),
        (8, "runpod.workers"),
        (9, "runpod.scaling"),
        (10, "runpod.disk"),
        (11, "runpod.volumes[1]"),
        (13, "salad.probes.startup"),
        (14, "salad.replicas"),
    }
    assert found[2, "imge"] == "is no key here; did you mean image?"
    assert found[10, "runpod.disk"] == "is no key here; did you mean disk_gb?"
    assert found[8, "runpod.workers"] == "`min` is above `max`"


def test_a_value_is_never_repeated():
    """It may be a secret in the wrong place."""
    with pytest.raises(DocumentInvalid) as caught:
        parse_deploy("name: x1\nruncanary: 1\nsalad: {cpu: canary}\nimage: [canary]\n")
    assert "canary" not in caught.value.message.replace("runcanary", "")
    assert caught.value.__cause__ is None


def test_variables_are_texts_as_they_are_written():
    """`1.10` is no number here, `yes` no truth."""
    found = parse_deploy("name: sd\nenv: {A: 1.10, B: yes, C: {secret: X}}\ngpu: L4\n")
    assert found.env == {"A": "1.10", "B": "yes", "C": SecretRef(secret="X")}
    assert found.gpu == ["L4"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("name: sd\nsalad:\n  gateway: {}\n  queue: {}\n", (2, "salad")),
        ("name: sd\nrunpod: {min_cuda: '12.8', cuda: ['12.8']}\n", (2, "runpod")),
        (
            "name: sd\nrunpod: {type: load_balancer, scaling: {queue_delay_s: 4}}\n",
            (2, "runpod"),
        ),
        ("image: a:b\n", (1, "name")),
        ("- a\n", (1, "")),
        ("name: [\n", (2, "")),
    ],
)
def test_what_cannot_be_together_is_told(text, path):
    """And what is missing, or no mapping at all."""
    assert path in faults(text)


@pytest.mark.parametrize("key", ["queue", "gateway"])
def test_a_way_in_with_nothing_behind_it_is_no_guess(key):
    """`queue:` is not a group behind a gateway."""
    assert (2, f"salad.{key}") in faults(f"name: sdxl\nsalad: {{{key}: }}\n")


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    """Missing, binary, or too large."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"#" * (2 << 20))
    for name, told in (("none", "No such file"), ("binary", "decode"), ("large", "too large")):
        with pytest.raises(DocumentInvalid) as caught:
            read_deploy(tmp_path / name)
        assert told in caught.value.message


def test_the_example_is_right():
    """As it stands, and with what is commented out in place of what it excludes."""
    path = REPO / "docs" / "deploy.example.yaml"
    text = path.read_text()
    whole = re.sub(r"^( *)# (?=( *)[a-z_]+:)", r"\1", text, flags=re.MULTILINE)
    whole = re.sub(r"^  gateway:.*\n", "", whole, flags=re.MULTILINE)

    assert read_deploy(path).salad.gateway is not None
    read = parse_deploy(whole)
    assert read.salad.queue.autoscale.desired_queue_length == 2
    assert read.registry.password.secret == "REGISTRY_TOKEN"
    assert read.modal.knobs == {"COMFYFN_MAX_INPUTS": "4"}
    assert read.runpod.volumes == ["vol_abc"]
