"""A connection between the two processes of which one samples and one learns.

It goes by the hosts alone, beside the exchanges of the group: those are programs of the devices,
and would wait until a batch that is being sampled is done.
"""

import os
import socket
import struct
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

from artifex_keras.backend import processes
from artifex_keras.backend.messages import pack, unpack

__all__ = ["Link", "current_link"]

PATIENCE = 60.0  # seconds in which the other process connects
LONGEST_SILENCE = 5  # seconds of a caller that hasn't proved yet that it knows the key
_open = []  # the link of this process, if there is one


class Link:
    """What is sent here is received in the other process, in that order.

    Args:
        connection: a `multiprocessing.connection.Connection`, of which only bytes are asked.
    """

    def __init__(self, connection):
        self.connection = connection

    def send(self, value):
        """Sends what `messages.pack` takes."""
        with _lost():
            self.connection.send_bytes(pack(value))

    def receive(self):
        """The next value that the other process sends; waits for it."""
        with _lost():
            data = self.connection.recv_bytes()
        return unpack(data)

    def close(self):
        """Ends the connection: the other process gets an error where it waits for more."""
        self.connection.close()
        _open.clear()


class _lost:
    """Inside, a connection that has ended is a RuntimeError."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, EOFError | OSError):
            raise RuntimeError(
                "The other process of `actor_learner` has ended: its own error says why."
            ) from error


def current_link():
    """The `Link` between both processes, connected now if it isn't; then both must call it."""
    if not _open:
        _open.append(Link(_listen() if processes.index() == 0 else _connect()))
    return _open[0]


def _listen():
    key, host = os.urandom(32), processes.host()
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    with socket.create_server((host, 0), family=family) as door:
        processes.broadcast(pack([host, door.getsockname()[1], key]))
        deadline = time.monotonic() + PATIENCE
        while True:
            door.settimeout(max(0.01, deadline - time.monotonic()))
            caller = _next_caller(door)
            caller.setblocking(True)
            connection = Connection(os.dup(caller.fileno()))
            try:
                _allow_silence(caller, LONGEST_SILENCE)
                deliver_challenge(connection, key)
                answer_challenge(connection, key)
                _allow_silence(caller, 0)  # for ever
                return connection
            except (AuthenticationError, EOFError, OSError):  # a stranger
                connection.close()
            finally:
                caller.close()


def _next_caller(door):
    try:
        return door.accept()[0]
    except TimeoutError as error:
        host, port = door.getsockname()[:2]
        raise TimeoutError(
            f"The second process of `actor_learner` didn't connect to {host}:{port} in "
            f"{PATIENCE:.0f} seconds. Both must be able to reach the first one's address, which is "
            "that of `initialize(coordinator)`."
        ) from error


def _allow_silence(caller, seconds):
    """Lets reading from a socket raise an OSError after so many seconds; 0 is never."""
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def _connect():
    host, port, key = unpack(processes.broadcast(b""))
    door = socket.create_connection((host, port), PATIENCE)
    door.setblocking(True)
    connection = Connection(door.detach())
    answer_challenge(connection, key)
    deliver_challenge(connection, key)
    return connection
