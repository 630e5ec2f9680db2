"""Who a process is among those of a cluster, by the variables that its scheduler sets.

Where JAX finds out by itself it does: on TPU hosts, by Open MPI, and on Slurm with several tasks a
host. Here stands what it lacks: on Slurm with one task a host it would take the first GPU alone,
SkyPilot it doesn't know, and for Kubernetes it needs a package and leave to ask the API server.
"""

import re
from typing import NamedTuple

__all__ = ["COMPLETION_INDEX", "Member", "has_others", "member_of"]

COMPLETION_INDEX = "JOB_COMPLETION_INDEX"  # of a pod of an indexed Job of Kubernetes
PORT = "JAX_COORDINATOR_PORT"
DEFAULT_PORT = "8476"
SLURM = ("JOB_ID", "NTASKS", "PROCID", "STEP_NODELIST", "STEP_NUM_NODES")
SKYPILOT = ("NODE_IPS", "NUM_NODES", "NODE_RANK")


class Member(NamedTuple):
    """The address of the first process, how many there are, and which of them this one is."""

    coordinator: str
    count: int
    index: int


def member_of(environment):
    """The `Member` that the variables in `environment` describe, or None.

    Raises:
        ValueError: for a variable that holds no number.
    """
    return _of_slurm(environment) or _of_skypilot(environment)


def has_others(environment):
    """Whether a scheduler has started this process as one of several."""
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    slices = _number(environment, "MEGASCALE_NUM_SLICES") or 1
    return member_of(environment) is not None or "," in hosts or slices > 1


def _of_slurm(environment):
    names = {name: f"SLURM_{name}" for name in SLURM}
    if not all(name in environment for name in names.values()):
        return None
    count = _number(environment, names["NTASKS"])
    if count == 1 or count != _number(environment, names["STEP_NUM_NODES"]):
        return None
    # As JAX chooses it: jobs on one host have different ports.
    port = str(61440 + _number(environment, names["JOB_ID"]) % 4096)
    host = _first_host(environment[names["STEP_NODELIST"]])
    index = _number(environment, names["PROCID"])
    return Member(f"{host}:{environment.get(PORT, port)}", count, index)


def _of_skypilot(environment):
    names = {name: f"SKYPILOT_{name}" for name in SKYPILOT}
    if not all(name in environment for name in names.values()):
        return None
    count = _number(environment, names["NUM_NODES"])
    if count == 1:
        return None
    host = environment[names["NODE_IPS"]].split()[0]
    index = _number(environment, names["NODE_RANK"])
    return Member(f"{host}:{environment.get(PORT, DEFAULT_PORT)}", count, index)


def _first_host(hosts):
    """The first of "node[001-015],host2", node001."""
    first = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,\[]*))?", hosts)
    return "".join(part or "" for part in first.groups())


def _number(environment, name):
    text = environment.get(name)
    if text is not None and not (text.isascii() and text.isdigit()):
        raise ValueError(f"The variable {name} must hold a number. Received: {name}={text!r}.")
    return None if text is None else int(text)
