"""Several processes, on one host or many, that train one model together."""

import os
import signal
import sys
import threading
import time

import keras

from artifex_keras.arguments import integer
from artifex_keras.backend import keras_internals, processes
from artifex_keras.distributed.clusters import COMPLETION_INDEX, member_of
from artifex_keras.distributed.rendezvous import is_loopback, wait_for_all

__all__ = ["initialize", "process_count", "process_index"]

ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
INDEX = "KERAS_DISTRIBUTION_PROCESS_ID"
SECRET = "ARTIFEX_KERAS_SECRET"
SHORTEST_SECRET = 16  # characters
LAUNCHER = "ARTIFEX_KERAS_LAUNCHER"  # the number of the process that has started this one
ORPHANED = 60.0  # seconds that a process may go on after the end of its launcher


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    secret: str | None = None,
    heartbeat_timeout: int = 10,
    initialization_timeout: int = 300,
):
    """Makes this process one of a group that trains together: call it before anything else.

    What isn't given is read from Keras's environment variables KERAS_DISTRIBUTION_JOB_ADDRESSES,
    KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID, the last in a pod of an
    indexed Job of Kubernetes also from JOB_COMPLETION_INDEX. Where none of them says anything, the
    variables of Slurm (one task a host) and SkyPilot do, or JAX finds out: from a TPU pod or slices
    of GKE, Open MPI, or Slurm with several tasks a host.

    The processes meet at the address of the first one, which listens there and nowhere else, and
    prove to each other that they know the group's secret. A launcher gives them one. On one host
    (`coordinator` is "127.0.0.1:...") it may be left out; on several all need the same: a long
    random text, as `python -c "import secrets; print(secrets.token_hex(32))"` prints one, in the
    environment variable ARTIFEX_KERAS_SECRET or as `secret`. It decides who may join. What JAX
    sends afterwards is neither encrypted nor signed, so train in a network that you trust.

    Afterwards all devices of all processes are one list. Set a distribution over them, that of
    `data_parallel()` say, and do the same in every process, with the same data: of each batch it
    takes its own rows (`shares` is for data of which each reads a part). What `fit`, `evaluate` and
    `predict` give is of all rows, in each process. Checkpoints, logs, pictures and trackers are the
    first one's business.

    The processes' random numbers start at the same seed: the one that all have set, or one that is
    drawn. A process that raises an error ends at once; when one dies, the others end within
    seconds, and a launcher starts all again (see `launcher.launch`). SIGTERM to one of them ends
    training in all, after the same step.

    Args:
        coordinator: "host:port" of the first process; of a comma-separated list the first.
        num_processes: how many processes.
        process_id: which of them this one is, from 0.
        secret: the same text in all processes, of at least 16 characters, that nobody else knows.
        heartbeat_timeout: seconds without a word after which a process counts as dead.
        initialization_timeout: seconds to wait until all are there.

    Raises:
        ValueError: for arguments outside their range, a port in use, another number of processes
            than the first one has, different seeds, or several hosts without a secret.
        TimeoutError: when not all come in time, with how many did and which are missing.
        RuntimeError: when JAX has computed something before.
    """
    coordinator = coordinator or os.environ.get(ADDRESSES) or None
    coordinator = coordinator and coordinator.split(",")[0].strip()
    count = _number("num_processes", num_processes, COUNT, 1)
    index = _number("process_id", process_id, INDEX, 0)
    if index is None and None not in (coordinator, count):
        index = _number("process_id", None, COMPLETION_INDEX, 0)
    if coordinator is None and count is None and index is None and member_of(os.environ):
        coordinator, count, index = member_of(os.environ)
    integer("heartbeat_timeout", heartbeat_timeout, minimum=1)
    integer("initialization_timeout", initialization_timeout, minimum=1)
    if None not in (count, index) and index >= count:
        raise ValueError(
            f"`process_id` must be below `num_processes`. Received: process_id={index}, "
            f"num_processes={count}."
        )
    bound = None
    if None not in (coordinator, count, index):
        secret = _secret(secret, coordinator)
        bound = wait_for_all(coordinator, count, index, initialization_timeout, secret)
    processes.connect(coordinator, count, index, heartbeat_timeout, initialization_timeout, bound)
    _end_at_once_after_errors()
    if os.environ.get(LAUNCHER) == str(os.getppid()):
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _agree_on_a_seed()


def process_count():
    """How many processes train together."""
    return processes.count()


def process_index():
    """Which of the processes this one is, from 0."""
    return processes.index()


def _number(name, value, variable, minimum):
    if value is None and variable in os.environ:
        text = os.environ[variable]
        name, value = variable, int(text) if text.isdigit() else text
    return integer(name, value, minimum=minimum, optional=True)


def _secret(given, coordinator):
    """The secret of the group, "" for none on a host of its own; an error never shows it."""
    secret = os.environ.get(SECRET) if given is None else given
    if not secret and is_loopback(coordinator):
        return ""
    if not isinstance(secret, str) or len(secret) < SHORTEST_SECRET:
        raise ValueError(
            f"Processes on several hosts need a secret of at least {SHORTEST_SECRET} characters, "
            f"the same for all: set {SECRET} in their environment, or pass `secret`. "
            f'`python -c "import secrets; print(secrets.token_hex(32))"` prints one. '
            f"Received: {'none' if not secret else 'one that is too short or no text'}."
        )
    return secret


def _end_at_once_after_errors():
    before = sys.excepthook

    def end(kind, error, traceback):
        before(kind, error, traceback)
        processes.leave(1)

    sys.excepthook = end


def _end_with(launcher):
    """Ends this process, gently at first, once that which has started it is gone."""
    while os.getppid() == launcher:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHANED)
    processes.leave(128 + signal.SIGTERM)


def _agree_on_a_seed():
    """Gives all processes the seed that they have set, or one from what each draws."""
    ours = keras_internals.random_seed()
    seeds = processes.gather((ours, int.from_bytes(os.urandom(4), "little")))
    given = {seed for seed, _ in seeds}
    if given == {None}:
        keras.utils.set_random_seed(sum(number for _, number in seeds) % 2**32)
    elif len(given) > 1:
        raise ValueError(
            "All processes must set the same seed, or none. "
            f"Received: seeds {[seed for seed, _ in seeds]}, by process."
        )
