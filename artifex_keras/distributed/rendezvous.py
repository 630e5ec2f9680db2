"""Processes that wait for each other before they start together, and say who didn't come.

JAX waits too, but ends a process that has waited in vain, without a word on who is missing.
"""

import contextlib
import socket
import time

__all__ = ["wait_for_all"]

GREETING = b"artifex-keras %06d"  # of a process, with its number
GO = b"go"
PAUSE = 0.1  # seconds between two attempts to reach the first process


def wait_for_all(coordinator, count, index, patience):
    """Returns in each of `count` processes when all of them are there.

    Args:
        coordinator: "host:port" of the first process, whose port is free again afterwards.
        count: how many processes.
        index: which of them this one is.
        patience: seconds to wait.

    Raises:
        ValueError: for an address that isn't one, and for a port in use.
        TimeoutError: when some haven't come in time, with how many and which.
    """
    host, port = _address(coordinator)
    deadline = time.monotonic() + patience
    if index == 0:
        _receive(host, port, count, deadline, patience)
    else:
        _arrive(host, port, count, index, deadline, patience)


def _address(coordinator):
    host, _, port = str(coordinator).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(
            "`coordinator` must be the address of the first process, as in "
            f'"10.0.0.1:8476". Received: coordinator={coordinator!r}.'
        )
    return host.strip("[]"), int(port)


def _receive(host, port, count, deadline, patience):
    """Waits for the others as the first process, then lets all go."""
    came = {}
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(_open_door(host, port))
        while len(came) < count - 1:
            found = _next_caller(door, deadline)
            if found is None:
                missing = ", ".join(str(i) for i in range(1, count) if i not in came)
                raise TimeoutError(
                    f"{1 + len(came)} of {count} processes came within {patience:g} s: missing "
                    f"{missing}. Start them with the same `coordinator` ({host}:{port}), or wait "
                    "longer with `initialization_timeout`."
                )
            number, caller = found
            came[number] = stack.enter_context(caller)
        for caller in came.values():
            caller.sendall(GO)


def _open_door(host, port):
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("", port))
        door.listen()
    except OSError as error:
        door.close()
        raise ValueError(
            f"The port of `coordinator` can't be opened: {error.strerror}. End the run that uses "
            f"it, or choose another. Received: coordinator='{host}:{port}'."
        ) from error
    return door


def _next_caller(door, deadline):
    """`(its number, a connection)` of the next process that comes; None at the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        door.settimeout(left)
        try:
            caller, _ = door.accept()
            caller.settimeout(max(deadline - time.monotonic(), PAUSE))
            said = _read(caller, len(GREETING % 0))
        except OSError:
            continue
        if said.startswith(GREETING[:13]):
            return int(said[13:]), caller
        caller.close()  # somebody else
    return None


def _arrive(host, port, count, index, deadline, patience):
    """Reports to the first process and waits until it lets go."""
    late = TimeoutError(
        f"Process {index} of {count} found nobody at {host}:{port} within {patience:g} s: is the "
        "first process running, and is that its address?"
    )
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as door:
                door.sendall(GREETING % index)
                if _read(door, len(GO)) == GO:
                    return
                late = TimeoutError(
                    f"Process {index} of {count} came to {host}:{port}, but not all others did "
                    f"within {patience:g} s; the first process says which."
                )
        except OSError:
            pass
        time.sleep(PAUSE)
    raise late


def _read(connection, length):
    said = b""
    while len(said) < length and (more := connection.recv(length - len(said))):
        said += more
    return said
