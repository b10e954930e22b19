"""Errors of deploying, as the command line tells them."""

from __future__ import annotations

from handler.manifest.faults import Fault
from local_server.deploy.faults import DeployFailed, DocumentInvalid


def test_faults_are_told_by_their_lines():
    """In the order of the file."""
    error = DocumentInvalid("d.yaml", [Fault(7, "b", "is wrong"), Fault(2, "a", "is missing")])
    assert error.message == "d.yaml has 2 faults:\n  line 2, a: is missing\n  line 7, b: is wrong"


def test_an_error_has_the_envelope_of_all():
    """Its blame is whoever deploys."""
    told = DeployFailed("no", hint="do").envelope()
    assert (told["code"], told["blame"], told["hint"]) == ("deploy_failed", "caller", "do")
