"""Jobs that have ended, and a collector of traces: OTLP over HTTP, read by its own types."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from handler.errors import ExecutionFailed
from handler.job import Job, Phase
from handler.pipeline.stages import Ran

BEGAN = 1_700_000_000.0
GRAPH = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "secret.safetensors"}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 4711}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "secret"}},
}


def make_job(error=None, last=Phase.SUCCEEDED, **stages):
    """A job with seconds in its phases, through the same calls as a real one."""
    job = Job(uid="unguessable", id="a-job", created_at=BEGAN)
    stages = stages or {"received": 0.5, "fetching": 1, "queued": 2, "running": 4, "delivering": 8}
    if error is not None:
        job.fail(error)
    else:
        job.enter(last)
    job.finished_at = BEGAN + sum(stages.values())
    job.stage_s = dict(stages)
    return job


def make_ran(**node_s):
    """A run whose nodes began so many seconds after the job, by node id with an `n` before it."""
    began = {name[1:]: int((BEGAN + seconds) * 1000) for name, seconds in node_s.items()}
    return Ran(GRAPH, ["9"], node_ms=began, cached=("4",))


def fault():
    return ExecutionFailed("secret: out of memory", node_id="9", class_type="SaveImage")


class Collector:
    """A real server on loopback; answers with `status`, or not before `gate` is set."""

    def __init__(self):
        self.requests, self.status = [], 200
        self.headers = []
        self.came, self.gate = threading.Semaphore(0), threading.Event()
        self.gate.set()
        collector = self

        class Taking(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): text for name, text in self.headers.items()}
                collector.headers.append((self.path, headers))
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                collector.came.release()
                collector.gate.wait(30)
                said = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def groups(self):
        return [group for request in self.requests for group in request.resource_spans]

    @property
    def spans(self):
        return [s for group in self.groups for scope in group.scope_spans for s in scope.spans]

    def wait(self, limit_s=20):
        assert self.came.acquire(timeout=limit_s), "nothing came"

    def close(self):
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
