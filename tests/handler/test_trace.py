"""The `traceparent` header, by the W3C's recommendation."""

from __future__ import annotations

import re

import pytest
from opentelemetry import trace as otel
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from handler.trace import Trace, begin_trace, parse_traceparent

ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{ID}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (HEADER, True),
        (f" {HEADER}\t", True),
        (f"00-{ID}-{SPAN}-00", False),
        (f"00-{ID}-{SPAN}-02", False),
        (f"00-{ID}-{SPAN}-ff", True),
        (f"cc-{ID}-{SPAN}-01", True),
        (f"cc-{ID}-{SPAN}-01-what-comes-one-day", True),
    ],
)
def test_a_header_is_read(text, sampled):
    """Of later versions, what version 00 has."""
    assert parse_traceparent(text) == Trace(ID, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        ID,
        HEADER.upper(),
        HEADER + "-more",
        HEADER + "\n",
        HEADER + "," + HEADER,
        f"ff-{ID}-{SPAN}-01",
        f"0-{ID}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID[:-1]}-{SPAN}-01",
        f"00-{ID}-{SPAN}0-01",
        f"00-{ID}-{SPAN}-1",
        f"00-{ID}-{SPAN}-0g",
        f"00-{ID}-{SPAN}-\u0661\u0661",
        f"cc-{ID}-{SPAN}-01." + "x" * 9,
        f"cc-{ID}-{SPAN}-01-" + "x" * 9_999,
    ],
)
def test_a_header_that_is_not_one_begins_a_trace_of_our_own(text):
    """It is no fault of the job's."""
    assert parse_traceparent(text) is None
    ours = begin_trace(text)
    assert (ours.trace_id != ID, ours.parent_id, ours.sampled) == (True, "", True)
    assert re.fullmatch(r"00-[\da-f]{32}-[\da-f]{16}-01", ours.header)


def test_a_callers_trace_goes_on():
    """Its id and its flag stay; the span is ours, below the caller's."""
    ours = begin_trace(f"00-{ID}-{SPAN}-00")
    assert (ours.trace_id, ours.parent_id, ours.sampled) == (ID, SPAN, False)
    below = ours.child()
    assert (below.trace_id, below.parent_id) == (ID, ours.span_id)
    assert len({SPAN, ours.span_id, below.span_id}) == 3
    assert begin_trace(sampled=False).header.endswith("-00")


def test_opentelemetry_reads_what_we_pass_on():
    """As any receiver of the header would."""
    ours = begin_trace(HEADER)
    context = TraceContextTextMapPropagator().extract({"traceparent": ours.header})
    told = otel.get_current_span(context).get_span_context()
    assert (told.trace_id, told.span_id) == (int(ID, 16), int(ours.span_id, 16))
    assert told.trace_flags.sampled
