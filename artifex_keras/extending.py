"""Names of your own beside ours: losses, samplers, schedules and baselines, from your own file."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from artifex_keras.arguments import broken_rule, checked, lookup, text
from artifex_keras.models.vae.reconstructions import RECONSTRUCTIONS, Reconstruction
from artifex_keras.objectives import adversarial, diffusion, flow, preference
from artifex_keras.rl.reinforce import BASELINES
from artifex_keras.samplers import noise_schedules, ode
from artifex_keras.samplers.diffusion import SAMPLERS, Sampler

__all__ = ["register"]


class Kind(NamedTuple):
    """A table that may get rows from outside.

    `calls` has a text for each function that a row is made of, such as ``critic(real, fake)``: how
    that function is called; `offered` is an argument that it is given besides if it has one of
    that name. `row` makes the row of the functions.
    """

    table: dict
    calls: tuple
    row: Callable = lambda function: function
    offered: str = ""


def _parameters(function):
    return inspect.signature(function).parameters


def _adversarial(critic, generator):
    if compares := "real_logits" in _parameters(generator):

        def per_example(fake_logits, real_logits):
            return generator(fake_logits, real_logits=real_logits)
    else:

        def per_example(fake_logits, real_logits=None):
            return generator(fake_logits)

    return adversarial.AdversarialLoss(
        adversarial.BatchMean(critic), adversarial.BatchMean(per_example, compares=compares)
    )


def _reconstruction(nll):
    def per_example(x, output):
        values = nll(x, output)
        shape = getattr(values, "shape", None)
        if shape is None or len(shape) != 1:
            given = type(values).__name__ if shape is None else f"shape {tuple(shape)}"
            raise ValueError(
                "`nll` must give one number per example, (B,): sum over all other axes. "
                f"Received: {given} for data of shape {tuple(x.shape)}."
            )
        return values

    return Reconstruction(per_example)


def _sampler(function):
    noise = _parameters(function).get("noise")
    return Sampler(function, noise is not None and noise.default is inspect.Parameter.empty)


def _solver(tableau):
    """The `Tableau`, if it is consistent: a constant field is then integrated exactly."""
    if not isinstance(tableau, ode.Tableau):
        raise broken_rule("tableau", tableau, "a `samplers.ode.Tableau`(a, b, c)")
    a, b, c, _ = tableau
    explicit = len(a) == len(b) == len(c) and all(len(line) == i for i, line in enumerate(a))
    sums = explicit and np.allclose([*map(sum, a), sum(b)], [*c, 1.0], rtol=0, atol=1e-9)
    if not sums:
        rule = "one whose line i of `a` has i numbers that sum to c[i], and whose `b` sums to 1"
        raise broken_rule("tableau", tableau, rule)
    return tableau


KINDS = {
    "reconstruction": Kind(RECONSTRUCTIONS, ("nll(x, output)",), _reconstruction),
    "gan_loss": Kind(
        adversarial.GAN_LOSSES,
        ("critic(real_logits, fake_logits)", "generator(fake_logits)"),
        _adversarial,
        "real_logits",
    ),
    "preference_loss": Kind(
        preference.PREFERENCE_LOSSES,
        ("loss(chosen, rejected, beta)",),
        preference.PreferenceLoss,
    ),
    "loss_weighting": Kind(diffusion.LOSS_WEIGHTINGS, ("weight(snr, gamma, sigma_data)",)),
    "timestep_sampling": Kind(diffusion.TIMESTEP_SAMPLINGS, ("times(u)",)),
    "time_sampling": Kind(flow.TIME_SAMPLINGS, ("times(u)",)),
    "noise_schedule": Kind(noise_schedules.NOISE_SCHEDULES, ("alphas_cumprod(num_timesteps)",)),
    "sampler": Kind(
        SAMPLERS, ("sampler(denoise, x, schedule, timesteps, clip=None)",), _sampler, "noise"
    ),
    "solver": Kind(ode.SOLVERS, ("tableau",), _solver),
    "baseline": Kind(BASELINES, ("advantages(model, rewards, rollout)",)),
}
_REGISTERED = set()  # (kind, name) of the rows that came from outside


@checked(name=text)
def register(kind, name, *row):
    """Gives functions of yours a name, which models, configs and the shell then take as one of ours.

    Do it before the model is made, and before `keras.models.load_model` of a file that has the
    name: a file holds the name alone. The same name again, as in a notebook's cell that runs
    twice, replaces your earlier row; a model that exists may have compiled the earlier one.

    | kind | functions | used in |
    |---|---|---|
    | "reconstruction" | `nll(x, output)`: -ln p(x&#124;z) per example, (B,) | `VAE(reconstruction=...)` |
    | "gan_loss" | `critic(real_logits, fake_logits)` and `generator(fake_logits)`, which may take `real_logits` too: (B,) each, to be minimised | `GAN(loss_type=...)` |
    | "preference_loss" | `loss(chosen, rejected, beta)`, of log-probabilities relative to the reference: (B,) | `DPO(loss_type=...)` |
    | "loss_weighting" | `weight(snr, gamma, sigma_data)`: of the error of x̂_0 | `Diffusion(loss_weighting=...)` |
    | "timestep_sampling" | `times(u)` of uniform u: times in [0, 1] | `Diffusion(timestep_sampling=...)` |
    | "time_sampling" | the same | `FlowMatching(time_sampling=...)` |
    | "noise_schedule" | `alphas_cumprod(num_timesteps)`: a falling array in (0, 1) | `Diffusion(noise_schedule=...)` |
    | "sampler" | `sampler(denoise, x, schedule, timesteps, clip=None)`; one with an argument `noise` that has no default is given normal draws (S, B, ...) | `Diffusion.sample(sampler=...)` |
    | "solver" | no function, a `samplers.ode.Tableau` | `FlowMatching.sample(solver=...)` |
    | "baseline" | `advantages(model, rewards, rollout)`: (N,) | `REINFORCE(baseline=...)` |

    Args:
        kind: the first column.
        name: a name that none of ours has.
        row: the functions of the second column, written in `keras.ops`.

    Raises:
        ValueError: for an unknown kind, a name of ours, functions that are too many, too few or
            can't be called so, a tableau whose sums are wrong.

    Example:

    ```python
    import numpy as np
    from keras import ops
    import artifex_keras as ak

    def log_cosh(x, output):
        return ops.sum(ops.log(ops.cosh(output - x)), axis=-1)

    ak.register("reconstruction", "log_cosh", log_cosh)
    encoder, decoder = ak.networks.mlp_encoder(4, 2, (8,)), ak.networks.mlp_decoder(2, 4, (8,))
    vae = ak.VAE(encoder, decoder, reconstruction="log_cosh")
    ```
    """  # noqa: E501
    found = lookup(KINDS, kind, "kind of row")
    if not name.isprintable() or name != name.strip():
        raise broken_rule("name", name, "a text in one line, without spaces at its ends")
    if name in found.table and (kind, name) not in _REGISTERED:
        raise broken_rule("name", name, f"a name that no {kind} of ours has")
    if len(row) != len(found.calls):
        calls, plural = " and ".join(found.calls), "s" * (len(row) != 1)
        raise ValueError(f"A {kind} is made of {calls}. Received: {len(row)} argument{plural}.")
    for call, function in zip(found.calls, row, strict=True):
        if "(" in call:
            _check_call(call, function, found.offered)
    found.table[name] = found.row(*row)
    _REGISTERED.add((kind, name))


def _check_call(call, function, offered):
    """Raises a ValueError if `function` can't be called as `call` says."""
    name, _, arguments = call.rstrip(")").partition("(")
    if not callable(function):
        raise broken_rule(name, function, f"a function, called as {call}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some that are written in C
        raise broken_rule(name, function, f"a function of Python, called as {call}") from None
    places = [each for each in arguments.split(", ") if "=" not in each]
    named = [each.partition("=")[0] for each in arguments.split(", ") if "=" in each]
    named += [offered] if offered in signature.parameters and offered not in places else []
    try:
        signature.bind(*places, **dict.fromkeys(named))
    except TypeError as error:
        raise ValueError(
            f"`{name}` is called as {call}. Received: a function of {signature} ({error})."
        ) from None
