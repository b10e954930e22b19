"""The table of what `modal deploy` may be told."""

from __future__ import annotations

import dataclasses

import pytest

from adapters.modal_knobs import Knobs, image_id, knobs_table
from handler.settings import Settings, SettingsError


def test_what_is_set_wins_over_the_default():
    """Each knob by its variable; unset and empty ones are the default."""
    knobs = Knobs.read({"COMFYFN_GPU": "H100, A100-80GB", "COMFYFN_CPU": " ", "OTHER": "x"})
    assert (knobs.gpu, knobs.cpu) == (("H100", "A100-80GB"), 4.0)
    assert Knobs.read({"COMFYFN_GPU": "none"}).gpu == ()


def test_all_faults_are_told_at_once():
    """With the variable, its value, and why."""
    environ = {"COMFYFN_GPU": "big!", "COMFYFN_MEMORY": "lots", "COMFYFN_SECRETS": "a b"}
    with pytest.raises(SettingsError) as told:
        Knobs.read(environ)
    assert str(told.value).count("COMFYFN_") == 3


@pytest.mark.parametrize(
    "environ",
    [
        {"COMFYFN_TIMEOUT": "1800"},
        {"COMFYFN_MIN_CONTAINERS": "5"},
        {"COMFYFN_TARGET_INPUTS": "9"},
        {"COMFYFN_SNAPSHOT": "gpu", "COMFYFN_GPU": "none"},
        {"COMFYFN_ENV": "lower"},
        {"COMFYFN_ENV": "A='"},
        {"COMFYFN_CPU": "many"},
        {"COMFYFN_CPU": "0"},
        {"COMFYFN_MAX_CONTAINERS": "0"},
        {"COMFYFN_PROXY_AUTH": "maybe"},
        {"COMFYFN_VOLUMES": "vol"},
    ],
)
def test_what_does_not_go_together_is_refused(environ):
    """Before anything is asked of Modal."""
    with pytest.raises(SettingsError, match=next(iter(environ))):
        Knobs.read(environ)


def test_limits_of_the_platform_are_longer_than_ours():
    """So that a job ends with its own reason."""
    knobs = Knobs.read({"COMFYFN_JOB_TIMEOUT": "100"})
    assert knobs.call_limit_s > 100
    told = knobs.environment()
    assert int(told["BOOT_TIMEOUT_S"]) < knobs.startup_timeout
    assert int(told["DRAIN_TIMEOUT_S"]) < 30


def test_the_container_reads_the_same_table():
    """What differs from the defaults is handed on, in the form in which it is read."""
    environ = {
        "COMFYFN_GPU": "none",
        "COMFYFN_PROXY_AUTH": "no",
        "COMFYFN_REGION": "us,eu",
        "COMFYFN_ENV": "A='b c' D=e=f",
        "COMFYFN_CPU": "2.5",
        "COMFYFN_SNAPSHOT": "OFF",
        "COMFYFN_MANIFEST": "/x/m.json",
    }
    knobs = Knobs.read(environ)
    told = {name: text for name, text in knobs.environment().items() if text is not None}
    assert Knobs.read(told) == knobs
    assert told["A"] == "b c"
    assert told["D"] == "e=f"


def test_the_settings_of_a_container_can_be_read():
    """They are ours, by their names; an operator's own win."""
    told = Knobs.read({"COMFYFN_GPU": "none", "COMFYFN_ENV": "LOG_FORMAT=text"}).environment()
    settings = Settings.from_env({name: text or "" for name, text in told.items()})
    assert (settings.log_format, settings.allow_cpu) == ("text", True)
    assert str(settings.model_dir) == "/vol/models"
    assert settings.host == "0.0.0.0"


def test_files_have_places_in_the_image(tmp_path):
    """The manifest keeps the ending by which its form is known."""
    knobs = Knobs.read({"COMFYFN_MANIFEST": str(tmp_path / "a.yml")})
    assert knobs.files() == {"MANIFEST": (tmp_path / "a.yml", "/opt/comfyfn/manifest.yml")}
    assert knobs.environment()["MANIFEST"] == "/opt/comfyfn/manifest.yml"


def test_every_knob_is_in_the_table():
    """With its variable."""
    table = knobs_table()
    assert all(spec.metadata["env"] in table for spec in dataclasses.fields(Knobs))
    assert "| `COMFYFN_PROXY_AUTH` | `true` |" in table
    assert "| `COMFYFN_MIN_CONTAINERS` | `0` |" in table
    assert "| `COMFYFN_LABEL` | |" in table


def test_the_image_is_named_by_modal(monkeypatch):
    """Its container is told; elsewhere there is none."""
    monkeypatch.delenv("MODAL_IMAGE_ID", raising=False)
    assert image_id() == ""
    monkeypatch.setenv("MODAL_IMAGE_ID", "im-1")
    assert image_id() == "im-1"
