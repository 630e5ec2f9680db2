"""The connection of two processes, beside strangers that call at its door."""

import socket
import threading

import numpy as np
import pytest

from artifex_keras.backend import link, processes
from artifex_keras.backend.messages import unpack


@pytest.fixture
def both(monkeypatch):
    """Both ends, made in two threads, after callers of these kinds at the door; a function."""
    address, ready = [], threading.Event()

    def broadcast(data):
        if data:
            address[:] = [unpack(data), data]
            ready.set()
        ready.wait(10)
        return address[1]

    monkeypatch.setattr(processes, "broadcast", broadcast)
    monkeypatch.setattr(processes, "host", lambda: "127.0.0.1")
    monkeypatch.setattr(link, "LONGEST_SILENCE", 1)

    def connected(*strangers):
        found, calls = [], []
        learner = threading.Thread(target=lambda: found.append(link.Link(link._listen())))
        learner.start()
        assert ready.wait(10)
        for says in strangers:
            calls.append(socket.create_connection(tuple(address[0][:2])))
            calls[-1].sendall(says)
        actor = link.Link(link._connect())
        learner.join(20)
        for call in calls:
            call.close()
        return found[0], actor

    return connected


@pytest.mark.parametrize("strangers", [(), (b"",), (b"GET / HTTP/1.1\r\n\r\n", b"", b"\0" * 999)])
def test_strangers_are_refused_and_the_other_process_is_let_in(both, strangers):
    learner, actor = both(*strangers)
    value = {"weights": np.arange(6.0).reshape(2, 3), "step": 3}
    actor.send(value)
    found = learner.receive()
    np.testing.assert_array_equal(found["weights"], value["weights"])
    assert found["step"] == 3
    learner.close()
    with pytest.raises(RuntimeError, match="other process of `actor_learner` has ended"):
        actor.receive()
    actor.close()


def test_nobody_comes(monkeypatch):
    monkeypatch.setattr(processes, "broadcast", lambda data: data)
    monkeypatch.setattr(processes, "host", lambda: "127.0.0.1")
    monkeypatch.setattr(link, "PATIENCE", 0.1)
    with pytest.raises(TimeoutError, match=r"didn't connect to 127.0.0.1:\d+.*reach the first"):
        link._listen()
