"""What a reply means for a letter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handler.outbox.records import Posted, Terms
from handler.outbox.verdict import Reply, judge, retry_after_s

NOW = 1_000_000.0
LETTER = Posted(
    id="1",
    message_id="a",
    kind="prompt.complete",
    order_key="",
    to="https://e.org",
    signed=True,
    bytes=2,
    created=NOW,
    since=NOW,
)
TERMS = Terms()


def judged(status, letter=LETTER, terms=TERMS, now=NOW, dice=0.5, **reply):
    return judge(letter, Reply(status, "x", **reply), terms, now, dice)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(status):
    """Whatever it is."""
    assert judged(status).outcome == "delivered"


@pytest.mark.parametrize("status", [None, 408, 425, 429, 500, 502, 503, 504, 100])
def test_what_passes_is_tried_again_until_it_is_too_old(status):
    """However often it was tried."""
    often = replace(LETTER, tries=500)

    assert judged(status, often).outcome == "again"
    assert judged(status, often, now=NOW + TERMS.max_age_s - 1).outcome == "again"
    assert judged(status, often, now=NOW + TERMS.max_age_s).outcome == "dead"


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 405, 413, 415, 422, 499])
def test_what_is_refused_is_tried_once_more(status):
    """A deployment may be under way; a redirect is not followed."""
    first = judged(status)
    assert (first.outcome, first.wait_s) == ("again", TERMS.refusal_wait_s)

    second = judged(status, first.letter)
    assert (second.outcome, second.letter.dead, second.final) == ("dead", True, False)


def test_gone_is_final_at_once():
    """410: the receiver wants no more."""
    verdict = judged(410)
    assert (verdict.outcome, verdict.final) == ("dead", True)


def test_hopeless_is_final_at_once():
    """The address policy, or a secret that is not there any more."""
    verdict = judged(None, hopeless=True)
    assert (verdict.outcome, verdict.final) == ("dead", True)


def test_waits_are_doubled_up_to_a_limit_and_spread():
    """By a quarter to both sides."""
    waits = [judged(500, replace(LETTER, tries=n)).wait_s for n in (0, 1, 2, 3, 20, 5000)]

    assert waits == [1, 2, 4, 8, 300, 300]
    assert judged(500, dice=0).wait_s == 0.75
    assert judged(500, dice=1).wait_s == 1.25


def test_retry_after_is_heeded_within_limits():
    """Never sooner than asked for, unless it is asked for too much."""
    assert judged(429, retry_after="7", dice=0).wait_s == 7
    assert 7 <= judged(503, retry_after="7", dice=1).wait_s <= 7.8
    assert judged(503, retry_after="7").asked
    assert not judged(503).asked
    assert judged(429, retry_after="0", dice=0.5).wait_s == 1
    assert judged(429, retry_after="9999999999", dice=0).wait_s == TERMS.longest_retry_after_s


def test_the_last_try_is_at_the_end_of_its_time():
    """A long wait is cut."""
    assert judged(429, retry_after="100", now=NOW + TERMS.max_age_s - 5).wait_s == 5


def test_retry_after_is_read_as_number_and_as_date():
    """What is neither says nothing."""
    date = "Thu, 01 Jan 1970 00:01:40 GMT"

    assert retry_after_s(date, 40.0) == 60
    assert retry_after_s(date, 400.0) == 0
    assert retry_after_s("Thu, 01 Jan 1970 00:01:40 -0000", 40.0) == 60
    assert retry_after_s(" 5 ", 0.0) == 5
    assert [retry_after_s(text, 0.0) for text in ("", "soon", "-1", "٣", "1.5")] == [None] * 5


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (3, 4)])
def test_number_of_retries_is_kept(retries, tries):
    """They come after the first try; none of them still leaves that."""
    terms, letter = Terms(retries=retries), LETTER
    for _ in range(tries - 1):
        verdict = judged(500, letter, terms)
        assert verdict.outcome == "again"
        letter = verdict.letter

    verdict = judged(500, letter, terms)
    assert (verdict.outcome, verdict.letter.tries) == ("dead", tries)
