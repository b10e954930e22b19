"""Modal: the real CLI against the double of its servers, and a program that records its calls."""

from __future__ import annotations

import json
import shlex
import sys

import pytest
from live import REPO
from platforms.modal_apps_double import ModalApps

from handler.manifest.schema import parse_manifest
from local_server.deploy.document import parse_deploy
from local_server.deploy.faults import DeployFailed
from local_server.deploy.modal import APP, Cli, make_plan
from local_server.deploy.plan import Action, carry_out

TEXT = """name: sdxl
manifest: sdxl.yaml
gpu: [L40S, A100-80GB]
env:
  LOG_LEVEL: info
  HF_TOKEN: {secret: huggingface}
modal:
  max_containers: 2
  scaledown_s: 60
  snapshot: off
"""


@pytest.fixture
def modal(tmp_path):
    home = tmp_path / "modal-home"
    home.mkdir()
    with ModalApps(home) as double:
        double.secrets["huggingface"] = {"HF_TOKEN": "hf-canary-8847"}
        yield double


def here(modal):
    """The environment that Modal's own CLI reads."""
    return {**modal.env(), "PYTHONPATH": str(REPO), "COLUMNS": "200"}


def test_the_real_cli_creates_keeps_and_updates(deploy, modal):
    """What the client then asks Modal for is what the file says; a second run deploys nothing."""
    created = deploy("modal", TEXT, "--yes", **here(modal))
    assert created.status == 0, created.err
    assert "create  app sdxl" in created.out
    ranked = [
        one.function
        for asked in modal.asked("FunctionCreate")
        for one in asked.function_data.ranked_functions
        if one.function.function_name.startswith("Worker")
    ]
    assert [one.resources.gpu_config.gpu_type for one in ranked] == ["L40S", "A100-80GB"]
    assert ranked[0].autoscaler_settings.max_containers == 2
    assert ranked[0].resources.memory_mb == 24 * 1024
    assert "huggingface" in {one.deployment_name for one in modal.asked("SecretGetOrCreate")}
    (published,) = modal.asked("AppPublish")
    assert published.name == "sdxl"
    assert published.deployment_tag.startswith("comfyfn-")

    kept = deploy("modal", TEXT, "--yes", **here(modal))
    assert kept.status == 0, kept.err
    assert "nothing is to be done" in kept.out

    updated = deploy("modal", TEXT.replace("L40S, ", ""), "--yes", **here(modal))
    assert updated.status == 0, updated.err
    assert "update  app sdxl" in updated.out
    first, second = modal.asked("AppPublish")
    assert first.deployment_tag != second.deployment_tag
    assert modal.unknown == []


def test_the_real_cli_tells_a_secret_that_is_not_there(deploy, modal):
    """With the command that makes it; nothing is published."""
    modal.secrets.clear()
    said = deploy("modal", TEXT, "--yes", **here(modal))

    assert said.status == 1
    assert "huggingface" in said.err
    assert "modal secret create" in said.err
    assert modal.asked("AppPublish") == []


def test_the_real_cli_without_a_token_is_told(deploy, modal):
    """Nobody is logged in on this machine."""
    env = here(modal) | {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}
    said = deploy("modal", TEXT, "--yes", **env)
    assert said.status == 1
    assert "run `modal setup`" in said.err


def test_a_dry_run_deploys_nothing(deploy, modal):
    """It prints the command with its variables."""
    said = deploy("modal", TEXT, "--dry-run", **here(modal))
    assert said.status == 0, said.err
    assert "COMFYFN_GPU=L40S,A100-80GB" in said.out
    assert f"deploy {APP} --tag comfyfn-" in said.out
    assert modal.asked("AppCreate") == []


RECORDER = """
import json, os, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    given = {{n: v for n, v in os.environ.items() if n.startswith("COMFYFN_")}}
    log.write(json.dumps({{"words": words, "knobs": given}}) + "\\n")
plan = json.load(open({plan!r}))
answer = plan.get(" ".join(words[:2]), plan.get(words[0], {{}}))
print(answer.get("out", ""))
print(answer.get("err", ""), file=sys.stderr)
sys.exit(answer.get("status", 0))
"""


class Recorder:
    """A program in the place of Modal's CLI."""

    def __init__(self, folder):
        self.log, self.answers = folder / "calls", folder / "answers.json"
        self.program = folder / "modal.py"
        self.program.write_text(RECORDER.format(log=str(self.log), plan=str(self.answers)))
        self.cli = Cli({"COMFYFN_LABEL": "of-the-shell"}, [sys.executable, str(self.program)])
        self.answer()

    def answer(self, **answers):
        listed = {"app list": {"out": "[]"}, "app history": {"out": "[]"}}
        self.answers.write_text(json.dumps(listed | answers))

    def calls(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def plan(self, text, manifest=None):
        return make_plan(parse_deploy(text), manifest, self.log.parent, self.cli)


@pytest.fixture
def recorder(tmp_path):
    (tmp_path / "sdxl.yaml").write_text("requires: {vram_gb: 12}\n")
    return Recorder(tmp_path)


def test_what_is_shown_is_what_is_run(recorder):
    """Words and variables; knobs of the shell that the plan does not have are left out."""
    plan = recorder.plan(TEXT)
    (step,) = plan.pending
    carry_out(plan, recorder.cli.send, lambda _line: None)

    words = shlex.split(step.operation.shown().replace("\\\n", " "))
    knobs = dict(word.split("=", 1) for word in words if word.startswith("COMFYFN_"))
    ran = recorder.calls()[-1]
    assert ran["knobs"] == knobs
    assert [sys.executable, str(recorder.program), *ran["words"]] == words[len(knobs) :]
    assert knobs["COMFYFN_SECRETS"] == "huggingface"
    assert knobs["COMFYFN_ENV"] == "LOG_LEVEL=info"


def test_a_secret_in_the_file_is_masked(recorder):
    """It is sent all the same, with a hint."""
    plan = recorder.plan(TEXT.replace("{secret: huggingface}", "hf-canary-8847"))
    told = plan.table() + plan.pending[0].operation.shown()
    assert "hf-canary-8847" not in told
    assert "`{secret: NAME}` is safer" in told

    carry_out(plan, recorder.cli.send, lambda _line: None)
    assert "hf-canary-8847" in recorder.calls()[-1]["knobs"]["COMFYFN_ENV"]


def test_a_graph_in_the_file_is_masked_without_advice(recorder):
    """As a rule it is no secret."""
    text = TEXT.replace("{secret: huggingface}", "x").replace("HF_TOKEN", "WARMUP_PROMPT_JSON")
    plan = recorder.plan(text)
    assert "is safer" not in plan.table()
    assert "COMFYFN_ENV: ***" in plan.table()


def test_a_secret_with_quotes_is_masked(recorder):
    """What is quoted for a shell, and in that once more, is another text."""
    plan = recorder.plan(TEXT.replace("{secret: huggingface}", '"it\'s a canary"'))
    told = plan.table() + plan.pending[0].operation.shown()
    assert "canary" not in told
    carry_out(plan, recorder.cli.send, lambda _line: None)
    sent = recorder.calls()[-1]["knobs"]["COMFYFN_ENV"]
    assert "HF_TOKEN=it's a canary" in shlex.split(sent)


def test_a_changed_file_of_the_manifest_is_an_update(recorder, tmp_path):
    """The tag is a digest of what goes into the image, not of names alone."""
    app = {"app_id": "ap-1", "description": "sdxl", "state": "deployed"}
    tag = recorder.plan(TEXT).pending[0].operation.words[4 + 1]
    history = [{"version": "v2", "tag": tag}, {"version": "v1", "tag": "comfyfn-0"}]
    answers = {"app list": {"out": json.dumps([app])}, "app history": {"out": json.dumps(history)}}
    recorder.answer(**answers)
    assert recorder.plan(TEXT).steps[0].action is Action.KEEP

    (tmp_path / "sdxl.yaml").write_text("requires: {vram_gb: 16}\n")
    assert recorder.plan(TEXT).steps[0].action is Action.UPDATE


FAULTS = {
    "401": ("Token missing. Could not authenticate client.", "modal setup"),
    "404": ("Secret 'HF_TOKEN' not found in environment 'main'", "modal secret create"),
    "409": ("App name is taken by another deployment", "Modal's own words"),
    "422": ("InvalidError: memory must be below 344064", "Modal's own words"),
    "500": ("InternalError: something went wrong", "still served"),
    "refused": ("Could not connect to the Modal server.", "status.modal.com"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_deployment_is_told_with_what_to_do(recorder, fault):
    """In Modal's words, with ours behind."""
    said, hint = FAULTS[fault]
    recorder.answer(deploy={"status": 1, "err": f"│ {said} │"})
    plan = recorder.plan(TEXT)

    with pytest.raises(DeployFailed) as caught:
        carry_out(plan, recorder.cli.send, lambda _line: None)
    assert said in caught.value.message
    assert "failed: app sdxl (create)" in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("  knobs: {COMFYFN_GPUS: T4}\n", "no knobs: COMFYFN_GPUS"),
        ("  knobs: {COMFYFN_APP: other}\n", "COMFYFN_APP: the plan would not tell it"),
        ("  knobs: {COMFYFN_ENV: HF_TOKEN=x}\n", "COMFYFN_ENV: the plan would not tell it"),
        ("  startup_timeout_s: 5\n", "COMFYFN_STARTUP_TIMEOUT='5' is not between"),
        ("  gpu: T4\n", "requires 24 GB of VRAM: T4 has 16 GB"),
    ],
)
def test_what_cannot_be_is_told_before_modal_is_asked(recorder, more, told):
    """The knobs' own table checks them."""
    manifest = parse_manifest("requires: {vram_gb: 24}")
    with pytest.raises(DeployFailed) as caught:
        recorder.plan(TEXT.replace("[L40S, A100-80GB]", "L40S") + more, manifest)
    assert told in caught.value.message
    assert not recorder.log.exists()


def test_an_answer_that_is_no_json_is_told(recorder):
    """Where Modal's CLI does not give JSON, nothing is deployed."""
    recorder.answer(**{"app list": {"out": "Traceback"}})
    with pytest.raises(DeployFailed) as caught:
        recorder.plan(TEXT)
    assert "gave no JSON" in caught.value.message
