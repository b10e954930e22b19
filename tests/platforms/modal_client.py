"""A user's program with the real client, as a process: a line of JSON asks, a line answers."""

from __future__ import annotations

import json
import sys

import modal


def main() -> None:
    worker = modal.Cls.from_name(sys.argv[1], "Worker")()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            found = answer(worker, asked)
        except BaseException as error:
            found = {"raised": type(error).__name__, "text": str(error)}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def answer(worker, asked):
    what, given = asked["what"], asked.get("given")
    if what == "remote":
        return {"result": worker.run.remote(given, **asked.get("options", {}))}
    if what == "spawn":
        return {"result": worker.run.spawn(given).object_id}
    if what == "get":
        call = modal.FunctionCall.from_id(given)
        try:
            return {"result": call.get(timeout=asked.get("timeout_s", 30))}
        except TimeoutError:
            return {"result": None}
    if what == "cancel":
        modal.FunctionCall.from_id(given).cancel()
        return {"result": None}
    if what == "stream":
        return {"result": list(worker.stream.remote_gen(given))}
    if what == "web_url":
        return {"result": worker.web.get_web_url()}
    raise ValueError(what)


if __name__ == "__main__":
    main()
