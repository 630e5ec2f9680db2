"""Processes that wait for each other before they start together, and say who didn't come.

JAX waits too, but ends a process that has waited in vain, without a word on who is missing, and
takes anybody's word. Here both sides prove that they know the secret of the group, which itself is
never sent: the first process sends a random number, the other answers with one of its own, its
index and an HMAC of all that, and gets an HMAC back when all are there. Nothing said once is of use
a second time. A stranger is refused, or dropped when it says nothing, while the others go on.
"""

import contextlib
import errno
import hmac
import ipaddress
import secrets
import selectors
import socket
import time

__all__ = ["is_loopback", "wait_for_all"]

MAGIC = b"artifex-keras 2\n"
NONCE, TAG, NUMBER = 32, 32, 8  # bytes
HELLO = len(MAGIC) + NONCE  # of the first process
PROOF = NONCE + 2 * NUMBER + TAG  # of the others: a nonce, their index and count, an HMAC
PATIENCE = 10.0  # seconds that a caller may take to prove itself
CALLERS = 128  # that may be in the middle of it at once; of more the oldest goes
LAST_MOMENT = 1.0  # seconds
PAUSE = 0.1  # seconds between two attempts to reach the first process


def wait_for_all(coordinator, count, index, patience, secret=""):
    """Returns in each of `count` processes when all of them are there.

    Args:
        coordinator: "host:port" of the first process, whose port is free again afterwards. It
            listens on that address alone.
        count: how many processes.
        index: which of them this one is.
        patience: seconds to wait.
        secret: a text that only the processes of the group have.

    Returns:
        "host:port" on which the first process has listened; None in the others.

    Raises:
        ValueError: for an address that isn't one or isn't this host's, a port in use, and another
            `count` than that of the first process.
        TimeoutError: when some haven't come in time, with how many and which.
    """
    host, port = _address(coordinator)
    deadline = time.monotonic() + patience
    group = _Group(secret, count)
    if index:
        _arrive(host, port, group, index, deadline, patience)
        return None
    with contextlib.closing(_open_door(host, port)) as door:
        bound = door.getsockname()[0]
        with _Gate(door, group) as gate:
            if not gate.wait(deadline):
                raise TimeoutError(gate.report(f"{host}:{port}", patience))
            gate.let_go()
    return f"[{bound}]:{port}" if ":" in bound else f"{bound}:{port}"


def is_loopback(coordinator):
    """Whether that "host:port" can be reached from its own host only."""
    host, _ = _address(coordinator)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _address(coordinator):
    host, _, port = str(coordinator).rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 1 << 16:
        raise ValueError(
            "`coordinator` must be the address of the first process, as in "
            f'"10.0.0.1:8476". Received: coordinator={coordinator!r}.'
        )
    return host.strip("[]"), int(port)


class _Group:
    """The secret and the number of processes: what each of them must know."""

    def __init__(self, secret, count):
        self._key = hmac.digest(MAGIC, secret.encode(), "sha256")
        self.count = count

    def tag(self, purpose, *parts):
        """The HMAC of a message; all parts have fixed lengths."""
        return hmac.digest(self._key, purpose + b"".join(parts), "sha256")

    def proof(self, theirs, index):
        """`(nonce, message)` with which process `index` answers the nonce of the first one."""
        nonce = secrets.token_bytes(NONCE)
        numbers = index.to_bytes(NUMBER) + self.count.to_bytes(NUMBER)
        return nonce, nonce + numbers + self.tag(b"member", theirs, nonce, numbers)

    def read_proof(self, ours, message):
        """`(nonce, index, count)` of a message that proves the secret, else None."""
        nonce, numbers, tag = message[:NONCE], message[NONCE:-TAG], message[-TAG:]
        if not hmac.compare_digest(tag, self.tag(b"member", ours, nonce, numbers)):
            return None
        return nonce, int.from_bytes(numbers[:NUMBER]), int.from_bytes(numbers[NUMBER:])


# The first process


def _open_door(host, port):
    """A socket that listens on the address of that host, where it has several no loopback."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.sort(key=lambda row: is_loopback(f"{row[4][0]}:{port}"))
        family, *_, address = found[0]
        door = socket.socket(family)
    except OSError as error:
        raise _cannot_open(error, host, port) from error
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen(CALLERS)
        door.setblocking(False)
    except OSError as error:
        door.close()
        raise _cannot_open(error, host, port) from error
    return door


def _cannot_open(error, host, port):
    way_out = "End the run that uses it, or choose another."
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        way_out = "It must be an address of the host of the first process."
    return ValueError(
        f"The port of `coordinator` can't be opened: {error.strerror}. {way_out} "
        f"Received: coordinator='{host}:{port}'."
    )


class _Caller:
    """A connection to the first process, and what has come through it."""

    def __init__(self, connection):
        self.connection = connection
        self.nonce = secrets.token_bytes(NONCE)
        self.said = b""
        self.deadline = time.monotonic() + PATIENCE
        self.index = self.theirs = None  # once it has proved itself


class _Gate:
    """Where the first process receives the others: a context that closes all connections.

    One thread hears all callers as they speak, so nobody who is slow or silent is waited for.
    """

    def __init__(self, door, group):
        self.door, self.group = door, group
        self.members = {}  # callers by their index
        self.strangers = {}  # callers that haven't proved themselves, the oldest first
        self.lost = {}  # when by index
        self.refused, self.remarks = 0, []
        self._selector = selectors.DefaultSelector()
        self._selector.register(door, selectors.EVENT_READ)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for caller in [*self.members.values(), *self.strangers]:
            self._close(caller)
        self._selector.close()

    def wait(self, deadline):
        """Hears callers until all members are there; False if they aren't at the deadline."""
        while len(self.members) < self.group.count - 1:
            now = time.monotonic()
            if now >= deadline:
                return False
            for caller in [each for each in self.strangers if each.deadline <= now]:
                self._reject(caller)
            next_end = min((each.deadline for each in self.strangers), default=deadline)
            for key, _ in self._selector.select(max(min(deadline, next_end) - now, 0)):
                self._accept() if key.data is None else self._hear(key.data)
        return True

    def let_go(self):
        """Sends all members on their way."""
        for caller in self.members.values():
            caller.connection.settimeout(PATIENCE)
            with contextlib.suppress(OSError):  # JAX, which comes next, misses it too
                self._answer(caller, b"go")

    def report(self, address, patience):
        """Who hasn't come, and what may be the reason."""
        # One that gave up a moment ago, at the same deadline, did come.
        moment = time.monotonic() - LAST_MOMENT
        came = {*self.members, *(i for i, when in self.lost.items() if when > moment)}
        missing = (str(i) for i in range(1, self.group.count) if i not in came)
        refused = f" {self.refused} callers were refused." if self.refused else ""
        remarks = "".join(f" {remark}" for remark in dict.fromkeys(self.remarks))
        return (
            f"{1 + len(came)} of {self.group.count} processes came within {patience:g} s: "
            f"missing {', '.join(missing)}.{refused}{remarks} Start them with the same "
            f"`coordinator` ({address}) and the same secret, or wait longer with "
            "`initialization_timeout`."
        )

    def _accept(self):
        try:
            connection, _ = self.door.accept()
        except OSError:  # it is gone again, or there are too many open files
            self._make_room()
            time.sleep(PAUSE / 10)
            return
        if len(self.strangers) >= CALLERS:
            self._make_room()
        caller = _Caller(connection)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, caller)
        self.strangers[caller] = None
        try:
            connection.send(MAGIC + caller.nonce)
        except OSError:
            self._reject(caller)

    def _make_room(self):
        for caller in list(self.strangers)[:1]:
            self._reject(caller)

    def _hear(self, caller):
        try:
            said = caller.connection.recv(PROOF + 1 - len(caller.said))
        except BlockingIOError:
            return
        except OSError:
            said = b""
        caller.said += said
        if caller.index is not None:
            self._lose(caller)  # a member has nothing to say: it is gone
        elif not said or len(caller.said) > PROOF:
            self._reject(caller)
        elif len(caller.said) == PROOF:
            self._check_proof(caller)

    def _check_proof(self, caller):
        proof = self.group.read_proof(caller.nonce, caller.said)
        if proof is None:
            self._reject(caller)
            return
        caller.theirs, index, count = proof
        if count != self.group.count:
            self.remarks.append(f"Process {index} was started as one of {count}.")
            self._dismiss(caller, b"count")
        elif not 0 < index < count or index in self.members:
            self.remarks.append(f"Process {index} came twice.")
            self._dismiss(caller, b"twice")
        else:
            caller.index = index
            self.members[index] = caller
            del self.strangers[caller]

    def _dismiss(self, caller, answer):
        """Refuses one of the group, with the reason."""
        with contextlib.suppress(OSError):
            self._answer(caller, answer)
        self._reject(caller)

    def _answer(self, caller, answer):
        tag = self.group.tag(answer, caller.theirs, caller.nonce)
        caller.connection.sendall(tag)

    def _reject(self, caller):
        del self.strangers[caller]
        self.refused += 1
        self._close(caller)

    def _lose(self, caller):
        del self.members[caller.index]
        self.lost[caller.index] = time.monotonic()
        self._close(caller)

    def _close(self, caller):
        self._selector.unregister(caller.connection)
        caller.connection.close()


# The others


def _arrive(host, port, group, index, deadline, patience):
    """Reports to the first process and waits until it lets go."""
    me, there = f"Process {index} of {group.count}", f"{host}:{port}"
    late = f"found nobody at {there} within {patience:g} s: is the first process running, and is"
    late += " that its address?"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), min(left, PATIENCE)) as door:
                answer = _ask(door, group, index, deadline)
        except OSError:
            answer = None
        if answer == "go":
            return
        if answer == "count":
            raise ValueError(
                "`num_processes` must be the same in all processes. Received: "
                f"num_processes={group.count} in process {index}, another in the first one."
            )
        late = answer or late
        time.sleep(PAUSE)
    late = late.format(there=there, patience=f"{patience:g}")
    raise TimeoutError(f"{me} {late}")


def _ask(door, group, index, deadline):
    """ "go", "count", or why this process wasn't let go."""
    hello = _read(door, HELLO, min(deadline, time.monotonic() + PATIENCE))
    if len(hello) < HELLO or not hello.startswith(MAGIC):
        return "found something else at {there}: is that the address of the first process?"
    theirs = hello[len(MAGIC) :]
    nonce, proof = group.proof(theirs, index)
    door.sendall(proof)
    began = time.monotonic()
    answer = _read(door, TAG, deadline)
    for known in ("go", "count", "twice"):
        if hmac.compare_digest(answer, group.tag(known.encode(), nonce, theirs)):
            return known if known != "twice" else "came to {there}, and is there already."
    if not answer and time.monotonic() - began < PATIENCE / 10:
        return "was refused at {there}: it needs the secret of the first process."
    return (
        "came to {there}, but not all others did within {patience} s; the first process says which."
    )


def _read(connection, length, deadline):
    """Up to `length` bytes: fewer at the end of the connection or at the deadline."""
    said = b""
    while len(said) < length and (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            more = connection.recv(length - len(said))
        except TimeoutError:
            break
        if not more:
            break
        said += more
    return said
