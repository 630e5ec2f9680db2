"""A group of processes on this host: started together, watched, and started again if one dies."""

import contextlib
import math
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from artifex_keras.arguments import integer
from artifex_keras.atomic import write_text
from artifex_keras.distributed.processes import ADDRESSES, COUNT, INDEX, LAUNCHER, SECRET

__all__ = ["launch", "note_run"]

RUN_FILE = "ARTIFEX_KERAS_RUN_FILE"  # the variable with the file where a run notes its folder
DEVICES = re.compile(r"--xla_force_host_platform_device_count=\d+")
# Without it a CPU's devices may exchange in different orders, and wait for each other for ever.
ONE_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
LOOK = 0.05  # seconds between two looks at the processes
WRONG_USE = 2  # the exit code of a command with wrong arguments: a restart would not help
STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM}  # exit codes of a run that a signal ended
END = 5.0  # seconds from SIGTERM to SIGKILL for those that are left when one has died


def launch(
    command: Sequence[str],
    num_processes: int,
    *,
    devices_per_process: int | None = None,
    max_restarts: int = 3,
    grace: float = 60.0,
    say: Callable[[str], Any] = print,
):
    """Runs a command in `num_processes` processes that train one model. Gives the exit code.

    The command is that of one process. Keras's environment variables say which process each is and
    where the first one is, so that `processes.initialize()` finds the others, and a secret that is
    new each time says that they belong together. The output of each has its number in front.

    When a process dies, the others, which can't continue without it, are ended, and all are
    started again. `artifex-keras train` then resumes from its newest checkpoint, to the bit; a
    script does so if its `CheckpointCallback` has resume="auto". SIGTERM and Ctrl-C are passed on:
    training ends in all processes after the same step, with a checkpoint. A second one kills them.

    Args:
        command: the arguments of Python: ["script.py", ...], or those of `artifex-keras`.
        num_processes: how many.
        devices_per_process: that many virtual devices on the CPU in each; None leaves each the
            devices it finds.
        max_restarts: how often a group may be started again.
        grace: seconds between the signal to stop and the kill.
        say: is called with each line that the launcher or a process prints.

    Raises:
        ValueError: for settings outside their range, and an empty command.
    """
    integer("num_processes", num_processes, minimum=1)
    integer("devices_per_process", devices_per_process, minimum=1, optional=True)
    integer("max_restarts", max_restarts)
    if not command:
        raise ValueError("There is nothing to launch: give a command, as in `train vae`.")
    secret = secrets.token_hex(32)  # by which the processes know each other
    with tempfile.TemporaryDirectory() as folder, _Requests() as requests:
        noted = Path(folder, "run")
        for restart in range(max_restarts + 1):
            port = _free_port()
            environments = [
                _environment(index, num_processes, port, devices_per_process, noted)
                | {SECRET: secret}
                for index in range(num_processes)
            ]
            group = _Group(_arguments(command, noted), environments, say)
            say(f"Started {num_processes} processes, as {group}.")
            code, why = group.watch(requests, grace)
            if code in (0, WRONG_USE) or requests.received:
                return _code(code, requests)
            say(f"{why}; the group was ended.")
            if code in STOPPED:
                return code
            if restart < max_restarts:
                say(f"Starting all {num_processes} processes again ({restart + 1}/{max_restarts}).")
    say(f"Given up after {max_restarts} restarts.")
    return code if code > 0 else 128 - code


def note_run(folder):
    """Notes the folder to resume from, for the launcher of this process if it has one."""
    if RUN_FILE in os.environ:
        write_text(os.environ[RUN_FILE], str(Path(folder).absolute()))


def _code(code, requests):
    """The exit code of a group, as shells count after a signal."""
    return 128 + requests.received if requests.received and code else code


def _arguments(command, noted):
    """The arguments of Python: the command, or once a run has noted its folder, its resumption."""
    if command[0].endswith(".py"):
        return command
    if noted.exists():
        # The config in that folder is what the first start wrote, after it was allowed to run.
        command = ["train", "--trust", "--resume", noted.read_text(encoding="utf-8")]
    return ["-m", "artifex_keras", *command]


def _free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def _environment(index, count, port, devices, noted):
    """The variables that one process of a group gets beside those of this one."""
    variables = {
        ADDRESSES: f"127.0.0.1:{port}",
        COUNT: str(count),
        INDEX: str(index),
        LAUNCHER: str(os.getpid()),
        RUN_FILE: str(noted),
        "KERAS_BACKEND": "jax",
        "PYTHONUNBUFFERED": "1",
    }
    if devices is not None:
        flags = DEVICES.sub("", os.environ.get("XLA_FLAGS", ""))
        flags = f"{flags} --xla_force_host_platform_device_count={devices} {ONE_ORDER}".strip()
        # XLA has as many threads as it finds cores, and devices without one of their own may wait
        # for each other for ever.
        threads = max(4 * devices, int(os.environ.get("NPROC") or os.cpu_count() or 1))
        variables |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": str(threads)}
    return variables


class _Requests:
    """SIGINT and SIGTERM to the launcher: how often, and which came first."""

    def __enter__(self):
        self.received, self.times = None, 0
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
            if threading.current_thread() is threading.main_thread()
        }
        return self

    def __exit__(self, *failure):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        self.received = self.received or number
        self.times += 1


class _Group:
    """Processes that live and die together."""

    def __init__(self, arguments, environments, say):
        self._fallen = None
        self.members = [
            _Member(index, arguments, variables, say)
            for index, variables in enumerate(environments)
        ]

    def __str__(self):
        return ", ".join(f"{member.index}: {member.pid}" for member in self.members)

    def watch(self, requests, grace):
        """Waits until all have ended. Gives the exit code, and who died of what."""
        try:
            self._wait(requests, grace)
        finally:
            self._end()
        fallen = self._found_fallen()
        return (0, None) if fallen is None else (fallen.code(), fallen.fate())

    def _wait(self, requests, grace):
        """Waits for the end of all, or where something happens, as long as the rest may take."""
        patience = deadline = math.inf
        while any(member.code() is None for member in self.members):
            allowed = self._patience(requests, grace)
            if allowed < patience:
                patience, deadline = allowed, time.monotonic() + allowed
                self._send(signal.SIGTERM)
            if time.monotonic() >= deadline:
                return
            time.sleep(LOOK)

    def _patience(self, requests, grace):
        """How many seconds those that are left may take to end."""
        fallen = self._found_fallen()
        if requests.times > 1:
            return 0.0
        if fallen is not None and fallen.code() not in STOPPED:
            return min(END, grace)
        return grace if requests.times or fallen is not None else math.inf

    def _found_fallen(self):
        """The process that died first: of several found at once that which was killed; or None."""
        if self._fallen is None:
            fallen = [member for member in self.members if member.code()]
            self._fallen = min(fallen, key=lambda member: member.code(), default=None)
        return self._fallen

    def _send(self, number):
        for member in self.members:
            member.send(number)

    def _end(self):
        """Kills those that are left."""
        self._send(signal.SIGKILL)
        for member in self.members:
            member.join()


class _Member:
    """One process of a group, in a session of its own, so that Ctrl-C reaches the launcher alone.

    The lines it prints get its number in front.
    """

    def __init__(self, index, arguments, variables, say):
        self.index = index
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._report, args=(say,), daemon=True)
        self._reader.start()

    def _report(self, say):
        for line in self._process.stdout:
            say(f"[{self.index}] {line.decode(errors='replace').rstrip()}")

    def code(self):
        """Its exit code, negative after a signal; None while it runs."""
        return self._process.poll()

    def fate(self):
        """What it ended with, in words."""
        code = self.code()
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"Process {self.index} {how}"

    def send(self, number):
        """Sends a signal to it and what it has started."""
        if self.code() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def join(self):
        """Waits for its end and the rest of what it has printed."""
        self._process.wait()
        self._reader.join(END)
        self._process.stdout.close()
