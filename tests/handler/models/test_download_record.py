"""What is told of a download."""

from __future__ import annotations

from handler.errors import InputFailed
from handler.models.download_record import Download
from handler.models.download_request import parse_download
from handler.transfer.records import Progress

CANARY = "canary4711"
RAW = {
    "url": f"https://u:{CANARY}@h/m.ckpt?token={CANARY}&fp=fp16",
    "model_type": "loras",
    "auth": {"type": "bearer", "token": CANARY},
}


def download(**keys):
    return Download("id1", parse_download(RAW), "m.ckpt", **keys)


def test_a_started_one_has_the_contracts_keys_and_no_size():
    """comfyui-api's, and the id."""
    assert download().answer() == {
        "id": "id1",
        "url": "https://h/m.ckpt?token=...&fp=fp16",
        "model_type": "loras",
        "filename": "m.ckpt",
        "status": "started",
    }


def test_a_completed_one_has_size_and_duration():
    """Bytes, and seconds as a fraction."""
    answer = download(status="completed", size=5, seconds=0.25).answer()
    assert (answer["size"], answer["duration"]) == (5, 0.25)


def test_the_record_tells_how_far_it_is_and_why_it_failed():
    """The error is the envelope of all errors."""
    one = download()
    one.tell(Progress(5, 10, 2.6))
    one.error = InputFailed("it is gone", location="url")
    record = one.public()
    assert (record["done"], record["total"], record["bytes_per_s"]) == (5, 10, 3)
    assert (record["error"]["code"], record["error"]["location"]) == ("input_failed", "url")


def test_nothing_told_has_a_secret():
    """Neither answer, record nor text."""
    one = download()
    assert CANARY not in f"{one.answer()} {one.public()} {one!r}"
