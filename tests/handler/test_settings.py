"""Settings: one reading of the environment, all faults at once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from handler.settings import Settings, SettingsError, inherited_environment, settings_table


def test_an_empty_environment_gives_the_defaults():
    """Nothing has to be set."""
    assert Settings.from_env({}) == Settings()


def test_empty_texts_count_as_unset():
    """An image may declare a variable without a value."""
    assert Settings.from_env({"PORT": "", "HOST": "  ", "ALLOW_CPU": ""}) == Settings()


def test_the_process_environment_is_read_without_an_argument():
    """What is set for the process is what counts."""
    settings = Settings.from_env()
    assert settings.port == int(os.environ.get("PORT") or 3000)


def test_other_defaults_yield_to_the_environment():
    """A verb's own defaults are defaults still."""
    assert Settings.from_env({}, log_level="warning").log_level == "warning"
    assert Settings.from_env({"LOG_LEVEL": "error"}, log_level="warning").log_level == "error"


def test_what_a_command_line_gives_wins_and_is_checked_the_same():
    """One set of rules, whoever sets a value."""
    environ = {"PORT": "1", "HOST": "h"}
    settings = Settings.from_env(environ, overrides={"PORT": "2"}, port=3)
    assert (settings.port, settings.host) == (2, "h")
    with pytest.raises(SettingsError, match="PORT='99999' is not between"):
        Settings.from_env(environ, overrides={"PORT": "99999"})


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("HOST", " :: ", "host", "::"),
        ("PORT", "0", "port", 0),
        ("LOG_LEVEL", "WARN", "log_level", "warn"),
        ("MAX_BODY_SIZE_MB", "7", "max_body_mb", 7),
        ("ENGINE", "Embedded", "engine", "embedded"),
        ("COMFY_HOME", "/x/y", "comfy_home", Path("/x/y")),
        ("COMFY_HOME", "~/y", "comfy_home", Path.home() / "y"),
        ("WORK_DIR", "here", "work_dir", Path.cwd() / "here"),
        (
            "CMD",
            "python 'my main.py' --a=\"b c\"",
            "comfy_command",
            ("python", "my main.py", "--a=b c"),
        ),
        ("COMFY_ARGS", "--lowvram  --cache-none", "comfy_args", ("--lowvram", "--cache-none")),
        ("COMFY_URL", "http://host:8188/prefix", "comfy_url", "http://host:8188/prefix"),
        ("COMFY_URL", "https://[::1]:8188", "comfy_url", "https://[::1]:8188"),
        (
            "HTTP_TRUSTED_ORIGINS",
            "http://a:1/, https://[::1]",
            "trusted_origins",
            "http://a:1/, https://[::1]",
        ),
        ("ALLOW_CPU", "yes", "allow_cpu", True),
        ("ALLOW_CPU", "TRUE", "allow_cpu", True),
        ("ALLOW_CPU", "on", "allow_cpu", True),
        ("ALLOW_CPU", "1", "allow_cpu", True),
        ("PREPEND_FILENAMES", "no", "prepend_filenames", False),
        ("PREPEND_FILENAMES", "0", "prepend_filenames", False),
        ("PREPEND_FILENAMES", "off", "prepend_filenames", False),
        ("QUEUE_TIMEOUT_S", "1.5", "queue_timeout_s", 1.5),
        ("JOB_TIMEOUT_S", "0", "job_timeout_s", 0.0),
    ],
)
def test_a_value_is_parsed(name, text, field, value):
    """Each kind of value has its one way to be written."""
    assert getattr(Settings.from_env({name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("PORT", "http", "is no whole number"),
        ("PORT", "70000", "is not between 0 and 65535"),
        ("PORT", "-1", "is not between 0 and 65535"),
        ("COMFYUI_PORT_HOST", "0", "is not between 1 and 65535"),
        ("MAX_BODY_SIZE_MB", "0", "is not between 1 and"),
        ("QUEUE_TIMEOUT_S", "soon", "is no number"),
        ("QUEUE_TIMEOUT_S", "-1", "is not between 0 and inf"),
        ("QUEUE_TIMEOUT_S", "nan", "is not between 0 and inf"),
        ("ALLOW_CPU", "maybe", "is neither true nor false"),
        ("LOG_LEVEL", "loud", "is none of trace, debug"),
        ("CMD", "python 'main", "cannot be split into words"),
        ("COMFY_URL", "localhost:8188", "is no http:// or https:// URL"),
        ("COMFY_URL", "http://", "is no http:// or https:// URL"),
        ("COMFY_URL", "http://host:0", "is no http:// or https:// URL"),
        ("COMFY_URL", "http://[::1", "is no URL: Invalid IPv6 URL"),
        ("COMFY_URL", "http://host:99999", "is no URL: Port out of range"),
        ("COMFY_URL", "http://my host", "is no URL: there is a space in it"),
        ("HTTP_TRUSTED_ORIGINS", "127.0.0.1", "is no http:// or https:// URL"),
        ("HTTP_TRUSTED_ORIGINS", "https://a, https://a/b", "is no list of origins"),
        ("HTTP_TRUSTED_ORIGINS", "https://*.corp", "is no list of origins"),
        ("HTTP_TRUSTED_ORIGINS", "http://u:p@host", "is no list of origins"),
        ("WARMUP_PROMPT_FILE", "/nowhere/graph.json", "is no file"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_reason(name, text, why):
    """The operator is told which variable and why."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({name: text})

    assert name in str(caught.value)
    assert text in str(caught.value)
    assert why in str(caught.value)


def test_every_fault_is_told_at_once():
    """Three mistakes cost one start, not three."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {
                "PORT": "x",
                "ENGINE": "none",
                "ALLOW_CPU": "?",
                "COMFY_URL": "http://a",
                "CMD": "python main.py",
            }
        )

    text = str(caught.value)
    assert [name for name in ("PORT", "ENGINE", "ALLOW_CPU", "COMFY_URL") if name in text] == [
        "PORT",
        "ENGINE",
        "ALLOW_CPU",
        "COMFY_URL",
    ]


@pytest.mark.parametrize(
    "clash",
    [
        {"COMFY_URL": "http://127.0.0.1:1", "ENGINE": "embedded"},
        {"COMFY_URL": "http://127.0.0.1:1", "CMD": "python main.py"},
    ],
)
def test_settings_that_exclude_each_other_are_refused(clash):
    """Neither of two contradicting wishes is quietly dropped."""
    with pytest.raises(SettingsError, match="COMFY_URL"):
        Settings.from_env(clash)


def test_a_warmup_file_that_is_there_is_taken(tmp_path):
    """The file is looked for when the settings are read, not at the boot's end."""
    graph = tmp_path / "graph.json"
    graph.write_text("{}")
    assert Settings.from_env({"WARMUP_PROMPT_FILE": str(graph)}).warmup_file == graph


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 600.0),
        ({"BOOT_TIMEOUT_S": "30"}, 30.0),
        ({"STARTUP_CHECK_INTERVAL_S": "2"}, 40.0),
        ({"STARTUP_CHECK_MAX_TRIES": "5"}, 5.0),
        ({"STARTUP_CHECK_INTERVAL_S": "0.5", "STARTUP_CHECK_MAX_TRIES": "4"}, 2.0),
        ({"BOOT_TIMEOUT_S": "30", "STARTUP_CHECK_MAX_TRIES": "5"}, 5.0),
    ],
)
def test_interval_times_tries_wins_over_the_boot_timeout(environ, seconds):
    """comfyui-api's two variables keep their meaning."""
    assert Settings.from_env(environ).boot_limit_s == seconds


def test_settings_are_frozen():
    """Nothing changes them after the start."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1


def test_secrets_are_kept_from_children(monkeypatch):
    """A node pack inside ComfyUI cannot read our keys."""
    added = {
        "WEBHOOK_SECRET": "s",
        "AWS_ACCESS_KEY_ID": "s",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AZURE_STORAGE_KEY": "s",
        "AZURE_STORAGE_CONNECTION_STRING": "s",
        "AZURE_CLIENT_SECRET": "s",
        "HTTP_AUTH_HEADER_VALUE": "s",
        "OTEL_EXPORTER_OTLP_HEADERS": "s",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "s",
        "MANIFEST_JSON": "s",
        "WARMUP_PROMPT_URL": "s",
        "BUCKET_ACCESS_KEY_ID": "s",
        "RUNPOD_API_KEY": "s",
        "COMFYFN_HARMLESS": "x",
    }
    for name, value in added.items():
        monkeypatch.setenv(name, value)

    child = inherited_environment()

    assert [name for name in added if name in child] == ["COMFYFN_HARMLESS"]
    assert child["PATH"] == os.environ["PATH"]


def test_each_setting_is_a_row_of_the_table():
    """The page of settings cannot forget one."""
    rows = settings_table().splitlines()

    names = [row.split("|")[1].strip().strip("`") for row in rows[2:]]
    assert names == [spec.metadata["env"] for spec in dataclasses.fields(Settings)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("PORT", "`3000`"),
        ("ALLOW_CPU", "`false`"),
        ("PREPEND_FILENAMES", "`true`"),
        ("COMFY_URL", ""),
        ("COMFY_HOME", ""),
        ("CMD", ""),
        ("BOOT_TIMEOUT_S", "`600`"),
        ("QUEUE_TIMEOUT_S", "`0`"),
    ],
)
def test_defaults_are_written_as_the_operator_would(name, default):
    """A default from the table can be pasted into an environment."""
    rows = {
        row.split("|")[1].strip(): row.split("|")[2].strip()
        for row in settings_table().splitlines()
    }

    assert rows[f"`{name}`"] == default


def test_half_of_a_header_is_refused_without_its_value():
    """Name and value go together; the value is a secret."""
    with pytest.raises(SettingsError, match="HTTP_AUTH_HEADER_NAME") as caught:
        Settings.from_env({"HTTP_AUTH_HEADER_VALUE": "canary4711"})
    assert "canary4711" not in str(caught.value)


def test_no_text_of_the_settings_has_a_secret():
    """Whoever logs them."""
    names = ("HF_TOKEN", "CIVITAI_API_TOKEN", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN")
    names += ("AZURE_STORAGE_CONNECTION_STRING",)
    assert "canary4711" not in repr(Settings.from_env(dict.fromkeys(names, "canary4711")))


@pytest.mark.parametrize("entry", ["http://x/y", "@@", "a b", "ftp://h", "300.0.0.0/8", "h:port"])
def test_hosts_that_cannot_be_are_told(entry):
    """An entry that matches nothing would be a silent refusal of every URL."""
    with pytest.raises(SettingsError, match=r"URL_ALLOW_HOSTS=.*is no list of host globs"):
        Settings.from_env({"URL_ALLOW_HOSTS": f"127.0.0.1,{entry}"})


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "*.corp.example",
        "nas_1:8080",
        "10.0.0.0/8",
        "10.0.0.0/8:81",
        "::1",
        "fd00::/8",
        "[::1]:80",
        "[fd00::]/8",
        "https://h",
        "https://h:444/",
        "h[12].corp",
        "a, b ,",
    ],
)
def test_hosts_of_every_form_are_taken(entry):
    """Globs, addresses, ranges and origins, with a port or not."""
    assert Settings.from_env({"URL_ALLOW_HOSTS": entry}).url_allow_hosts


def test_state_has_a_place_by_default():
    """In the user's home; STATE_DIR wins."""
    assert Settings().state_folder == Path.home() / ".local/state/comfyfn"
    assert Settings.from_env({"STATE_DIR": "/s"}).state_folder == Path("/s")


@pytest.mark.parametrize("secret", ["whsec_", "!", "whsec_A", "==="])
def test_webhook_secret_without_a_key_is_refused(secret):
    """Signatures by an empty key would only look like some; the value is not shown."""
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET has no key in it") as caught:
        Settings.from_env({"WEBHOOK_SECRET": secret})
    assert f"={secret}" not in str(caught.value)
    assert Settings.from_env({"WEBHOOK_SECRET": "whsec_ab"}).webhook_secret == "whsec_ab"


def test_system_events_are_chosen_by_name():
    """Or all of them; a name that there is not stops the start."""
    url = {"SYSTEM_WEBHOOK_URL": "https://e.org/x"}
    some = Settings.from_env({**url, "SYSTEM_WEBHOOK_EVENTS": "status, executed"})
    every = Settings.from_env({**url, "SYSTEM_WEBHOOK_EVENTS": "all"})

    assert some.system_webhook_events == ("status", "executed")
    assert len(every.system_webhook_events) == 13
    for wrong in ("all,status", "nonsense", ","):
        with pytest.raises(SettingsError, match="is neither `all` nor"):
            Settings.from_env({**url, "SYSTEM_WEBHOOK_EVENTS": wrong})
    with pytest.raises(SettingsError, match="needs SYSTEM_WEBHOOK_EVENTS"):
        Settings.from_env(url)
    with pytest.raises(SettingsError, match="SYSTEM_WEBHOOK_URL"):
        Settings.from_env({"SYSTEM_WEBHOOK_URL": "ftp://e.org", "SYSTEM_WEBHOOK_EVENTS": "all"})


def test_metadata_of_events_is_gathered():
    """Whatever follows the prefix, its case kept, and where on Salad this is."""
    settings = Settings.from_env(
        {"SYSTEM_META_Region": "eu", "SALAD_MACHINE_ID": "m", "SALAD_PROJECT_ID": "", "X": "y"}
    )
    assert dict(settings.system_metadata) == {"Region": "eu", "salad_machine_id": "m"}
