"""The route that Prometheus scrapes."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from worker import GRAPH, serving, worker

from adapters.asgi_metrics import metrics_routes
from handler.exposition import expose


class Told:
    """Gives the figures of a worker."""

    def __init__(self, handler):
        self._handler = handler

    async def exposition(self, accept=""):
        return await expose(self._handler._parts, self._handler.health(), accept=accept)


async def test_a_scrape_gets_the_figures_in_the_form_that_it_accepts(tmp_path):
    """Prometheus' text by default, OpenMetrics for who asks; never from a cache."""
    async with worker(tmp_path) as (handler, _):
        await (await handler.handle({"prompt": GRAPH})).close()
        async with serving(Starlette(routes=metrics_routes(Told(handler)))) as client:
            plain = await client.get("/metrics")
            accept = {"accept": "application/openmetrics-text; version=1.0.0"}
            newer = await client.get("/metrics", headers=accept)

    assert plain.status_code == 200
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert plain.headers["cache-control"] == "no-store"
    found = {family.name: family for family in text_string_to_metric_families(plain.text)}
    nodes = {s.labels["class_type"] for s in found["comfyfn_node_seconds"].samples}
    assert nodes == {node["class_type"] for node in GRAPH.values()}
    assert newer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert newer.text.endswith("# EOF\n")
