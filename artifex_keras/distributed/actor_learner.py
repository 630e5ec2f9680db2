"""Some devices sample, the others learn: the actor/learner split of learning from rewards."""

import math
import numbers
from collections.abc import Sequence

import keras

from artifex_keras.arguments import broken_rule, checked, integer, optional, sizes
from artifex_keras.backend import processes
from artifex_keras.distributed.data_parallel import DataParallel
from artifex_keras.distributed.layouts import MIN_BYTES, RULES
from artifex_keras.distributed.mesh import DeviceMesh, devices_here, mesh_axis_names
from artifex_keras.distributed.model_parallel import ModelParallel

__all__ = ["actor_learner"]


def _devices(name, value):
    """A number of devices, or the shape of a mesh of them."""
    if isinstance(value, list | tuple):
        return sizes(name, value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise broken_rule(name, value, "a number of devices, or the shape of a mesh of them")
    return integer(name, value, minimum=1)


@checked(RULES, actors=_devices, learners=optional(_devices))
def actor_learner(
    actors: int | Sequence[int],
    learners: int | Sequence[int] | None = None,
    *,
    min_bytes: int = MIN_BYTES,
) -> keras.distribution.DataParallel | keras.distribution.ModelParallel:
    """A distribution for `GRPO`, `PPO`, `REINFORCE` and `RLOO` in which some devices, the actors,
    sample completions while the others, the learners, update the policy.

    The actors get the policy's weights after each update. Meanwhile they have begun the next batch
    with those before it: each batch of an epoch but the first is sampled one update behind, as with
    `asynchronous_rewards`, and the numbers are the same. `GRPO`, `REINFORCE` and `RLOO` need an
    `importance_cap` for that; PPO's ratio does it itself. Evaluation samples on the actors too,
    with the weights of the moment. Python rewards run in a thread beside the next batch.

    Of two processes the first learns and the second samples. Both run the same `fit` on the same
    data; Python rewards run in the second one, and checkpoints are written by the first.

    Args:
        actors: how many devices sample, the last ones or those of the second process, by data
            parallelism; or the shape of a mesh as of `model_parallel`, such as (2, 4): rows over
            the first axis, tensor parallelism over the second. Actors shard no weights over the
            axis of the data.
        learners: how many of the first devices learn, by data parallelism, or the shape of a mesh,
            which shards weights as `model_parallel` does. None is all that aren't actors.
        min_bytes: see `auto_layout_map`.

    Returns:
        The learners' distribution, in a process that samples the actors'; its `actors` is the
        latter.

    Raises:
        ValueError: for more devices than there are, none left to learn, or three processes.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        def sevens(prompts, completions):
            return [completion.count(7) for completion in completions]

        policy = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        options = {"max_new_tokens": 3, "num_generations": 4, "importance_cap": 2.0}
        model = ak.GRPO(policy, sevens, **options)
        model.compile("adam")
        prompts = np.array([[1, 2], [3, 4]] * 8)
        if len(keras.distribution.list_devices()) > 1:
            with ak.distributed.actor_learner(actors=1).scope():
                model.fit(prompts, batch_size=4, verbose=0)
        ```
    """
    if processes.count() > 2:
        raise ValueError(
            "`actor_learner` is for one process, or for two of which the first learns and the "
            f"second samples. Received: {processes.count()} processes."
        )
    learning, sampling = _shared(actors, learners)
    learner = _over(learners or len(learning), learning, fsdp=True, min_bytes=min_bytes)
    actor = _over(actors, sampling, fsdp=False, min_bytes=min_bytes)
    distribution = learner
    if processes.count() == 2:
        distribution, role = ((learner, "learner"), (actor, "actor"))[processes.index()]
        distribution.role = role
    distribution.actors = actor
    return distribution


def _shared(actors, learners):
    """The devices that learn and those that sample, each of a process where there are two."""
    devices_here()  # there are some
    devices, wanted = processes.devices(), _count(actors)
    if len(devices) == 1:
        count = len(devices[0]) - wanted if learners is None else _count(learners)
        shared = devices[0][:count], devices[0][count : count + wanted]
    else:
        count = len(devices[0]) if learners is None else _count(learners)
        shared = devices[0][:count], devices[1][:wanted]
    if count < 1 or (len(shared[0]), len(shared[1])) != (count, wanted):
        raise ValueError(
            f"`actors` and `learners` must share the {' and '.join(str(len(d)) for d in devices)} "
            f"devices that there are, one or more each. Received: {wanted} actors, {max(count, 0)} "
            "learners. On a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=8 in the "
            "environment, before Python starts, shows it as eight devices."
        )
    return shared


def _count(part):
    return part if isinstance(part, int) else math.prod(part)


def _over(part, devices, **rules):
    """Data parallelism over so many devices, or model parallelism over a mesh of that shape."""
    if isinstance(part, int):
        mesh = DeviceMesh((part,), ("data",), devices)
        return DataParallel(device_mesh=mesh, auto_shard_dataset=False)
    return ModelParallel(DeviceMesh(part, mesh_axis_names(len(part)), devices), **rules)
