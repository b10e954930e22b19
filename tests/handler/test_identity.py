"""Who answers."""

from __future__ import annotations

import socket

from handler.identity import Identity


def test_a_worker_is_known_by_its_hosts_name_unless_it_has_another():
    """Answers can be told apart where nothing is set."""
    assert Identity() == Identity(socket.gethostname(), "http")
    assert Identity("worker-7").instance == "worker-7"


def test_a_copy_of_a_worker_gets_another_name():
    """The environment's, or that of the host it is on now."""
    identity = Identity("worker-7")
    identity.renew("worker-8")
    assert identity.instance == "worker-8"
    identity.renew()
    assert identity.instance == socket.gethostname()
