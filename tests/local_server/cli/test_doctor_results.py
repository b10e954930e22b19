"""The doctor on state, kept outputs, webhooks and uploads."""

from __future__ import annotations

import pytest

from handler.outbox.journal import Journal, new_id
from handler.outbox.records import Letter
from handler.settings import Settings
from local_server.cli.doctor_results import result_findings


def told(tmp_path, **env):
    """Give (topic, level, text) of each finding."""
    settings = Settings.from_env({"STATE_DIR": str(tmp_path / "state"), **env})
    return [(one.topic, one.level, one.text) for one in result_findings(settings)]


def of(findings, topic):
    """Give the levels and texts of a topic."""
    return [(level, text) for name, level, text in findings if name == topic]


def test_a_machine_as_it_comes_is_fine(tmp_path):
    """Unsigned webhooks are all that is warned of; nothing is made."""
    findings = told(tmp_path)
    assert [(topic, level) for topic, level, _ in findings] == [
        ("state", "ok"),
        ("outputs", "ok"),
        ("webhooks", "warn"),
        ("uploads", "ok"),
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "level"), [("STATE_DIR", "warn"), ("STATE_URL", "bad")])
def test_a_place_that_cannot_be_written_is_told(tmp_path, name, level):
    """With only STATE_DIR gone the server runs, and forgets; STATE_URL was asked for."""
    (tmp_path / "file").touch()
    found = of(told(tmp_path, **{name: str(tmp_path / "file" / "x")}), "state")
    assert found[-1][0] == level
    assert f"{name}={tmp_path}" in found[-1][1]


def test_a_bucket_is_named_and_not_asked(tmp_path):
    """The doctor changes nothing."""
    (first, _) = of(told(tmp_path, STATE_URL="s3://bucket/prefix"), "state")
    assert first == ("ok", "records and outputs are under s3://bucket/prefix, not asked now")


def test_outputs_that_are_not_kept_are_told(tmp_path):
    """Jobs that nobody waits for are refused then."""
    ((level, text),) = of(told(tmp_path, OUTPUT_RETENTION_S="0"), "outputs")
    assert level == "warn"
    assert "webhook" in text


def test_letters_that_wait_are_counted(tmp_path):
    """And the secret says that they are signed."""
    journal = Journal(tmp_path / "state" / "outbox", None)
    journal.open()
    letter = Letter(url="http://127.0.0.1/", body=b"{}", message_id="a", kind="x")
    posted = journal.write(letter, new_id(), 0.0)
    journal.write(letter, new_id(posted.id), 0.0)
    journal.bury(posted)
    found = of(told(tmp_path, WEBHOOK_SECRET="c2VjcmV0"), "webhooks")
    assert found == [
        ("ok", "signed by WEBHOOK_SECRET"),
        ("warn", "1 pending, 1 given up: `comfyfn outbox list`"),
    ]
    journal.close()


def test_targets_are_told_by_what_is_set(tmp_path):
    """A folder below a file cannot be written."""
    (tmp_path / "file").touch()
    env = {
        "AWS_REGION": "eu-west-1",
        "ALLOW_VOLUMES": str(tmp_path / "file" / "x"),
        "INLINE_MAX_MB": "10",
    }
    (first, *others) = of(told(tmp_path, **env), "uploads")
    assert first[1].startswith("set up: s3, volume, http_upload, presigned; not set up")
    assert [level for level, _ in others] == ["warn", "warn"]
    assert "ALLOW_VOLUMES" in others[0][1]
    assert "OUTPUT_STORAGE" in others[1][1]


def test_a_storage_that_cannot_be_read_would_stop_the_server(tmp_path):
    """It is named here before it does."""
    *_, (level, text) = of(told(tmp_path, OUTPUT_STORAGE='{"s4": {}}'), "uploads")
    assert (level, "s4" in text) == ("bad", True)
