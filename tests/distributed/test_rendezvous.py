"""Processes meet by a secret: strangers can neither join nor end nor hold up a group."""

import contextlib
import os
import socket
import threading
import time

import pytest

from artifex_keras.distributed import processes, rendezvous
from artifex_keras.distributed.launcher import launch
from artifex_keras.distributed.rendezvous import HELLO, MAGIC, PROOF, _Group, wait_for_all

pytestmark = pytest.mark.backends("jax")

SECRET = "a secret of these tests"


@pytest.fixture
def address():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{door.getsockname()[1]}"


class Member(threading.Thread):
    """`wait_for_all` of one process, in a thread."""

    def __init__(self, address, index, count=3, secret=SECRET, patience=20):
        super().__init__(daemon=True)
        self.arguments = address, count, index, patience, secret
        self.bound = self.error = None
        self.start()

    def run(self):
        try:
            self.bound = wait_for_all(*self.arguments)
        except Exception as error:
            self.error = error

    def ended(self, seconds=20):
        self.join(seconds)
        return not self.is_alive()


def port_of(address):
    return int(address.rpartition(":")[2])


def connection(address, seconds=10):
    """A connection to the first process, as soon as it listens."""
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port_of(address)), seconds)
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.01)


def said_by(caller, length):
    said = b""
    with contextlib.suppress(OSError):
        while len(said) < length and (more := caller.recv(length - len(said))):
            said += more
    return said


def test_all_are_let_go_together(address):
    others = [Member(address, index) for index in (2, 1)]
    time.sleep(0.2)
    assert all(member.is_alive() for member in others)
    first = Member(address, 0)
    assert all(member.ended() for member in (first, *others))
    assert first.bound == address
    assert [member.error for member in (first, *others)] == [None] * 3
    with socket.socket() as door:  # its port is free for JAX
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", port_of(address)))


# Strangers


def proof(hello, index, count=3, secret=SECRET):
    return _Group(secret, count).proof(hello[len(MAGIC) :], index)[1]


def garbage(caller):
    caller.sendall(b"\xff" * 10 * PROOF)


def nothing(caller):
    """It is silent, and stays."""


def half_a_message(caller):
    caller.sendall(proof(said_by(caller, HELLO), 1)[: PROOF // 2])


def an_old_greeting(caller):
    caller.sendall(b"artifex-keras xxxxxx")


def old_numbers(caller):
    for text in (b"artifex-keras 000777", b"artifex-keras -00001", b"artifex-keras 99"):
        caller.sendall(text)


def http(caller):
    caller.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def a_message_that_is_too_long(caller):
    caller.sendall(proof(said_by(caller, HELLO), 1) + b"\0" * 100)


def another_secret(caller):
    caller.sendall(proof(said_by(caller, HELLO), 1, secret="another secret"))


def no_secret(caller):
    caller.sendall(proof(said_by(caller, HELLO), 1, secret=""))


def another_index(caller):
    """A member's proof with the index of another."""
    true = bytearray(proof(said_by(caller, HELLO), 1))
    true[rendezvous.NONCE + rendezvous.NUMBER - 1] = 2
    caller.sendall(true)


def an_index_outside(caller):
    caller.sendall(proof(said_by(caller, HELLO), 777))


def the_first_one_again(caller):
    caller.sendall(proof(said_by(caller, HELLO), 0))


def its_own_words(caller):
    hello = said_by(caller, HELLO)
    caller.sendall((hello * 3)[:PROOF])


def gone_at_once(caller):
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    caller.close()


STRANGERS = (
    garbage,
    nothing,
    half_a_message,
    an_old_greeting,
    old_numbers,
    http,
    a_message_that_is_too_long,
    another_secret,
    no_secret,
    another_index,
    an_index_outside,
    the_first_one_again,
    its_own_words,
    gone_at_once,
)


def test_the_run_goes_on_among_all_strangers_at_once(address):
    """Each is there before a member, and none of them is let go."""
    first, callers = Member(address, 0), []
    for stranger in STRANGERS:
        for _ in range(2):
            callers.append(connection(address))
            with contextlib.suppress(OSError):
                stranger(callers[-1])
    assert not first.ended(0.3) and first.error is None
    others = [Member(address, index) for index in (1, 2)]
    assert all(member.ended(5) for member in (first, *others))
    assert [member.error for member in (first, *others)] == [None] * 3
    for caller in callers:
        assert len(said_by(caller, 1000)) <= HELLO + rendezvous.TAG  # a reason at most
        caller.close()


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.__name__)
def test_a_stranger_counts_as_nobody(address, stranger):
    first = Member(address, 0, count=2, patience=0.6)
    with connection(address) as caller:
        with contextlib.suppress(OSError):
            stranger(caller)
        assert first.ended(5)
    assert "1 of 2 processes came within 0.6 s: missing 1." in str(first.error)


def test_more_connections_than_are_kept_hold_up_nobody(address):
    first = Member(address, 0)
    with contextlib.ExitStack() as stack:
        for _ in range(rendezvous.CALLERS + 50):
            stack.enter_context(connection(address))
        others = [Member(address, index) for index in (1, 2)]
        assert all(member.ended(10) for member in (first, *others))
    assert first.error is None


def test_what_was_heard_once_is_of_no_use_again(address):
    """Somebody who listens to a member repeats what it said, in the same run and in another."""
    heard = []
    for _ in range(2):
        first = Member(address, 0, count=2, patience=5)
        for words in heard:
            with connection(address) as caller:
                caller.sendall(words)
                assert said_by(caller, HELLO + 1)[HELLO:] == b""
        with connection(address) as caller:
            heard.append(proof(said_by(caller, HELLO), 1, count=2))
            caller.sendall(heard[-1])
            assert len(said_by(caller, rendezvous.TAG)) == rendezvous.TAG
        assert first.ended() and first.error is None
    assert heard[0] != heard[1]


def test_who_speaks_slowly_is_dropped(address, monkeypatch):
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.3)
    first = Member(address, 0, count=2, patience=10)
    with connection(address) as caller:
        words = proof(said_by(caller, HELLO), 1, count=2)
        began = time.monotonic()
        with pytest.raises(OSError):
            for word in words:
                caller.sendall(bytes([word]))
                time.sleep(0.02)
        assert time.monotonic() - began < 1.5
    assert first.is_alive()
    assert Member(address, 1, count=2).ended() and first.ended() and first.error is None


# Members


def test_another_secret_is_named_as_the_reason(address):
    first = Member(address, 0, count=2, patience=2)
    other = Member(address, 1, count=2, secret="another secret", patience=1)
    assert first.ended() and other.ended()
    assert "was refused" in str(other.error) and "needs the secret" in str(other.error)
    assert "callers were refused" in str(first.error) and "same secret" in str(first.error)
    for error in (first.error, other.error):
        assert isinstance(error, TimeoutError) and "another secret" not in str(error)


def test_another_number_of_processes_is_an_error_at_once(address):
    first, other = Member(address, 0, patience=1.5), Member(address, 1, count=4)
    assert other.ended(5) and first.ended(5)
    assert isinstance(other.error, ValueError) and "num_processes=4 in process 1" in str(
        other.error
    )
    assert "Process 1 was started as one of 4." in str(first.error)


def test_one_that_comes_twice_does_not_replace_the_other(address):
    first, one = Member(address, 0, patience=3), Member(address, 1)
    time.sleep(0.3)
    again = Member(address, 1, patience=0.6)
    assert again.ended() and "is there already" in str(again.error)
    assert Member(address, 2).ended() and first.ended() and one.ended()
    assert first.error is None and one.error is None


def test_one_that_died_while_it_waited_may_come_again(address):
    first = Member(address, 0, count=3)
    with connection(address) as caller:
        caller.sendall(proof(said_by(caller, HELLO), 1))
        time.sleep(0.2)
    others = [Member(address, index) for index in (1, 2)]
    assert first.ended() and all(member.ended() for member in others)
    assert [member.error for member in (first, *others)] == [None] * 3


class Impostor:
    """Listens where the first process should, and says what it likes."""

    def __init__(self, address, words):
        self.door = socket.create_server(("127.0.0.1", port_of(address)))
        self.words = words
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self.door.accept()
                caller.sendall(self.words)
                said_by(caller, PROOF)
                caller.sendall(b"\0" * rendezvous.TAG)


@pytest.mark.parametrize("words", [b"", b"go", MAGIC + b"\0" * 32, b"\0" * 1000])
def test_a_member_follows_no_impostor(address, words, monkeypatch):
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.3)
    impostor = Impostor(address, words)
    member = Member(address, 1, patience=0.8)
    assert member.ended(5) and isinstance(member.error, TimeoutError)
    assert "Process 1 of 3" in str(member.error)
    impostor.door.close()


# Addresses and secrets


def test_the_first_process_listens_on_the_address_given_alone(address):
    first = Member(address, 0, patience=1)
    connection(address).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port_of(address)), 1)
    assert first.ended()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_host_is_said(host):
    with pytest.raises(ValueError, match="must be an address of the host of the first process"):
        wait_for_all(f"{host}:8476", 2, 0, 1, SECRET)


@pytest.mark.parametrize("text", ["127.0.0.1:٣", "127.0.0.1:99999", "127.0.0.1:", ":1", "a", None])
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="`coordinator` must be the address"):
        wait_for_all(text, 2, 0, 1)


@pytest.mark.parametrize("secret", [None, "", "short", b"b" * 32, 10**30])
def test_several_hosts_need_a_secret(secret, monkeypatch):
    monkeypatch.delenv(processes.SECRET, raising=False)
    with pytest.raises(ValueError, match="need a secret of at least 16") as raised:
        processes.initialize("192.0.2.1:8476", 2, 0, secret=secret)
    assert processes.SECRET in str(raised.value) and "short'" not in str(raised.value)


@pytest.mark.parametrize(
    ("coordinator", "alone"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("[2001:db8::1]:1", False),
    ],
)
def test_one_host_may_leave_it_out(coordinator, alone):
    assert rendezvous.is_loopback(coordinator) is alone


def test_a_launcher_gives_a_new_secret_by_the_environment(tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import os\n"
        f"secret = os.environ[{processes.SECRET!r}]\n"
        "command = open('/proc/self/cmdline').read()\n"
        "print(len(secret), secret, secret in command)\n"
    )
    lines = []
    for _ in range(2):
        assert launch([str(script)], 2, say=lines.append) == 0
    found = [line.split()[1:] for line in lines if line.startswith("[")]
    assert [row[0] for row in found] == ["64"] * 4 and [row[2] for row in found] == ["False"] * 4
    assert len({row[1] for row in found}) == 2  # one for each group
    assert not any(secret in line for line in lines if line[0] != "[" for secret in (found[0][1],))
    assert processes.SECRET not in os.environ
