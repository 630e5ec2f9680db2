"""Each optimizer's path, against its paper in NumPy float64 and against Optax's and torch's own.

The problem is twelve fixed gradients on a matrix, a stack of matrices, a vector and a scalar, at a
constant rate and at a scheduled one. Where the peers differ in more than rounding, the row says so.
"""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.optimizers import OPTIMIZERS, create_optimizer
from artifex_keras.schedulers import create_scheduler

STEPS, RATE, DECAY = 12, 0.02, 0.1
SHAPES = {"kernel": (4, 3), "stack": (2, 3, 4), "bias": (3,), "temperature": ()}
DECAYED = {"kernel", "stack"}

rng = np.random.default_rng(7)
START = {name: rng.normal(size=shape).astype("float32") for name, shape in SHAPES.items()}
GRADIENTS = [
    {name: rng.normal(size=shape).astype("float32") for name, shape in SHAPES.items()}
    for _ in range(STEPS)
]


def constant():
    return RATE


def scheduled():
    return create_scheduler("cosine", RATE, warmup_steps=3, total_steps=STEPS + 2)


RATES = {"constant": constant, "scheduled": scheduled}


def rates(learning_rate):
    if not callable(learning_rate):
        return [learning_rate] * STEPS
    return [float(ops.convert_to_numpy(learning_rate(k))) for k in range(STEPS)]


def path(optimizer):
    """The values after the last update of a Keras optimizer."""
    variables = [keras.Variable(value, name=name) for name, value in START.items()]
    optimizer.build(variables)
    for gradients in GRADIENTS:
        optimizer.apply([ops.convert_to_tensor(gradients[v.name]) for v in variables], variables)
    return {v.name: ops.convert_to_numpy(v) for v in variables}


# The papers. Each function gives what is subtracted from w, the decoupled decay apart; `s` is the
# state of one variable, `t` = 1, 2, ... the update.


def adam(w, g, s, t, lr, b1=0.9, b2=0.999, eps=1e-3):
    """1412.6980, the ordering at the end of section 2: eps is ε̂."""
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    return lr * np.sqrt(1 - b2**t) / (1 - b1**t) * s["m"] / (np.sqrt(s["v"]) + eps)


def nadam(w, g, s, t, lr, b1=0.9, b2=0.999, eps=1e-3, psi=0.004):
    """Dozat 2016, with the momentum schedule."""
    now, ahead = (b1 * (1 - 0.5 * 0.96 ** (psi * i)) for i in (t, t + 1))
    s["product"] = s.get("product", 1) * now
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    m = ahead * s["m"] / (1 - s["product"] * ahead) + (1 - now) * g / (1 - s["product"])
    return lr * m / (np.sqrt(s["v"] / (1 - b2**t)) + eps)


def lion(w, g, s, t, lr, b1=0.9, b2=0.99):
    """2302.06675, algorithm 2."""
    direction = np.sign(b1 * s.get("m", 0) + (1 - b1) * g)
    s["m"] = b2 * s.get("m", 0) + (1 - b2) * g
    return lr * direction


def sgd(w, g, s, t, lr, momentum=0.0, nesterov=False):
    """Sutskever et al. 2013, eq. 1 to 4: the rate is inside the momentum."""
    s["m"] = momentum * s.get("m", 0) + lr * g
    return momentum * s["m"] + lr * g if nesterov else s["m"]


def rmsprop(w, g, s, t, lr, rho=0.9, eps=1e-3, momentum=0.0, centered=False):
    s["v"] = rho * s.get("v", 0) + (1 - rho) * g**2
    s["mean"] = rho * s.get("mean", 0) + (1 - rho) * g
    variance = s["v"] - s["mean"] ** 2 if centered else s["v"]
    s["m"] = momentum * s.get("m", 0) + lr * g / np.sqrt(variance + eps)
    return s["m"]


def adagrad(w, g, s, t, lr, initial=0.1, eps=1e-3):
    s["v"] = s.get("v", initial) + g**2
    return lr * g / np.sqrt(s["v"] + eps)


def rms(x):
    return np.sqrt(np.mean(x**2))


def adafactor(w, g, s, t, lr, scale=True):
    """1804.04235, algorithms 4 and 5 (without the clipped relative step, which is lr here)."""
    beta = 1 - t**-0.8
    square = g**2 + 1e-30
    if w.ndim >= 2:
        s["r"] = beta * s.get("r", 0) + (1 - beta) * square.sum(-1)
        s["c"] = beta * s.get("c", 0) + (1 - beta) * square.sum(-2)
        v = s["r"][..., :, None] * s["c"][..., None, :] / s["r"].sum(-1)[..., None, None]
    else:
        v = s["v"] = beta * s.get("v", 0) + (1 - beta) * square
    u = g / np.sqrt(v)
    return lr * (max(1e-3, rms(w)) if scale else 1) * u / max(1, rms(u))


def lamb(w, g, s, t, lr, decay=0.0, b1=0.9, b2=0.999, eps=1e-3):
    """1904.00962, algorithm 2, φ the identity."""
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    r = s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + eps) + decay * w
    return lr * np.linalg.norm(w) / np.linalg.norm(r) * r


def muon(w, g, s, t, lr, momentum=0.95, nesterov=True):
    """2502.16982, section 2.2, with AdamW for what isn't a matrix."""
    if w.ndim != 2:
        return adam(w, g, s, t, lr)
    s["m"] = momentum * s.get("m", 0) + g
    x = g + momentum * s["m"] if nesterov else s["m"]
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return lr * 0.2 * np.sqrt(max(w.shape)) * x


def schedule_free(w, g, s, t, lr, decay=0.0, b1=0.9, b2=0.999, eps=1e-3):
    """2405.15682, algorithm 1; `w` is y."""
    z, x = s.get("z", w), s.get("x", w)
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    s["top"] = max(s.get("top", 0), lr)
    s["weight"] = s.get("weight", 0) + s["top"] ** 2
    z = z - lr * (g / (np.sqrt(s["v"] / (1 - b2**t)) + eps) + decay * w)
    share = s["top"] ** 2 / s["weight"]
    s["x"] = (1 - share) * x + share * z
    s["z"] = z
    return w - ((1 - b1) * z + b1 * s["x"])


def paper_path(update, learning_rate, decay=0.0, decay_inside=False, **arguments):
    w = {name: value.astype("float64") for name, value in START.items()}
    states = {name: {} for name in w}
    for t, (gradients, lr) in enumerate(zip(GRADIENTS, rates(learning_rate), strict=True), 1):
        for name in w:
            rate_of_decay = decay if name in DECAYED else 0.0
            inside = dict(arguments, decay=rate_of_decay) if decay_inside else arguments
            g = gradients[name].astype("float64")
            step = update(w[name], g, states[name], t, lr, **inside)
            w[name] = w[name] - step - (0 if decay_inside else lr * rate_of_decay * w[name])
    return w


# (name, arguments of create_optimizer, the paper's update, its arguments)
EPS = {"epsilon": 1e-3}
PAPERS = [
    ("adam", EPS, adam, {}),
    ("adam", {**EPS, "weight_decay": DECAY}, adam, {"decay": DECAY}),
    (
        "adamw",
        {**EPS, "weight_decay": DECAY, "beta1": 0.8, "beta2": 0.9},
        adam,
        {"decay": DECAY, "b1": 0.8, "b2": 0.9},
    ),
    ("nadam", {**EPS, "weight_decay": DECAY}, nadam, {"decay": DECAY}),
    ("lion", {"weight_decay": DECAY}, lion, {"decay": DECAY}),
    ("sgd", {"weight_decay": DECAY}, sgd, {"decay": DECAY}),
    ("sgd", {"momentum": 0.9}, sgd, {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}, sgd, {"momentum": 0.9, "nesterov": True}),
    ("rmsprop", {**EPS, "weight_decay": DECAY}, rmsprop, {"decay": DECAY}),
    (
        "rmsprop",
        {**EPS, "momentum": 0.9, "centered": True},
        rmsprop,
        {"momentum": 0.9, "centered": True},
    ),
    ("adagrad", {**EPS, "weight_decay": DECAY}, adagrad, {"decay": DECAY}),
    ("adafactor", {"weight_decay": DECAY}, adafactor, {"decay": DECAY}),
    ("adafactor", {"scale_parameter": False}, adafactor, {"scale": False}),
    ("lamb", {**EPS, "weight_decay": DECAY}, lamb, {"decay": DECAY, "decay_inside": True}),
    ("muon", {**EPS, "weight_decay": DECAY}, muon, {"decay": DECAY}),
    ("muon", {**EPS, "weight_decay": 0.0, "nesterov": False}, muon, {"nesterov": False}),
    (
        "schedule_free_adamw",
        {**EPS, "weight_decay": DECAY},
        schedule_free,
        {"decay": DECAY, "decay_inside": True},
    ),
]


def close(ours, theirs, atol=2e-6):
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=2e-5, atol=atol, err_msg=name)
    assert np.abs(ours["kernel"] - START["kernel"]).max() > 1e-2, "the path went nowhere"


def test_every_optimizer_is_on_the_list():
    assert {name for name, *_ in PAPERS} == {name for name, *_ in PEERS} == set(OPTIMIZERS)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("name", "arguments", "update", "terms"), PAPERS)
def test_as_in_the_paper(name, arguments, update, terms, rate):
    ours = path(create_optimizer(name, RATES[rate](), **arguments))
    close(ours, paper_path(update, RATES[rate](), **terms))


# Optax. The decay is masked in the same way; where Optax's alias puts the rate elsewhere, the chain
# is spelled out.

MASK = {name: name in DECAYED for name in SHAPES}


def decayed(optax, scaling, lr):
    return optax.chain(
        scaling, optax.add_decayed_weights(DECAY, mask=MASK), optax.scale_by_learning_rate(lr)
    )


def optax_adafactor(optax, lr):
    """The alias adds the decay after the rate; ours is decoupled like the others', times the rate.
    It also leaves small matrices whole by default."""
    update = optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.8, min_dim_size_to_factor=1),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    return decayed(optax, update, lr)


def optax_schedule_free(optax, lr):
    """The alias reads the rate of its weights one update late, which a schedule shows."""
    shifted = (lambda count: lr(count - 1)) if callable(lr) else lr
    base = decayed(
        optax, optax.scale_by_rms(0.999, 1e-8, eps_in_sqrt=False, bias_correction=True), lr
    )
    return optax.contrib.schedule_free(base, shifted, b1=0.9)


# Epsilons so small that their place doesn't show: Keras's Adam adds it to √v, Optax's to √v̂.
SMALL = {"epsilon": 1e-12}
PEERS = [
    ("adam", SMALL, lambda optax, lr: optax.adam(lr, eps=1e-12)),
    (
        "adamw",
        {**SMALL, "weight_decay": DECAY},
        lambda optax, lr: optax.adamw(lr, eps=1e-12, weight_decay=DECAY, mask=MASK),
    ),
    # Optax has no momentum schedule.
    ("nadam", {**SMALL, "momentum_decay": None}, lambda optax, lr: optax.nadam(lr, eps=1e-12)),
    (
        "lion",
        {"weight_decay": DECAY},
        lambda optax, lr: optax.lion(lr, weight_decay=DECAY, mask=MASK),
    ),
    ("sgd", {"weight_decay": DECAY}, lambda optax, lr: decayed(optax, optax.identity(), lr)),
    # Optax's alias multiplies by the rate after the momentum.
    (
        "sgd",
        {"momentum": 0.9, "nesterov": True},
        lambda optax, lr: optax.chain(
            optax.scale_by_learning_rate(lr), optax.trace(0.9, nesterov=True)
        ),
    ),
    (
        "rmsprop",
        {"epsilon": 1e-3, "momentum": 0.9},
        lambda optax, lr: optax.rmsprop(lr, decay=0.9, eps=1e-3, momentum=0.9),
    ),
    (
        "rmsprop",
        {"epsilon": 1e-3, "centered": True},
        lambda optax, lr: optax.rmsprop(lr, decay=0.9, eps=1e-3, centered=True),
    ),
    ("adagrad", {"epsilon": 1e-3}, lambda optax, lr: optax.adagrad(lr, eps=1e-3)),
    ("adafactor", {"weight_decay": DECAY}, optax_adafactor),
    (
        "lamb",
        {"epsilon": 1e-6, "weight_decay": DECAY},
        lambda optax, lr: optax.lamb(lr, eps=1e-6, weight_decay=DECAY, mask=MASK),
    ),
    # Optax corrects the bias of the two terms of Nesterov's momentum separately, which turns it,
    # and its mask spares no bias.
    (
        "muon",
        {**SMALL, "weight_decay": 0.0, "nesterov": False},
        lambda optax, lr: optax.contrib.muon(lr, nesterov=False, consistent_rms=0.2),
    ),
    ("schedule_free_adamw", {"epsilon": 1e-8, "weight_decay": DECAY}, optax_schedule_free),
]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("name", "arguments", "peer"), PEERS)
def test_as_in_optax(name, arguments, peer, rate):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    values = jax.numpy.asarray(rates(RATES[rate]()))
    transformation = peer(optax, RATE if rate == "constant" else lambda count: values[count])
    update = jax.jit(transformation.update)
    w = {name: np.asarray(value) for name, value in START.items()}
    state = transformation.init(w)
    for gradients in GRADIENTS:
        updates, state = update(gradients, state, w)
        w = optax.apply_updates(w, updates)
    close(path(create_optimizer(name, RATES[rate](), **arguments)), w)


def test_nadam_as_in_torch():
    torch = pytest.importorskip("torch")
    w = {name: torch.tensor(value, requires_grad=True) for name, value in START.items()}
    peer = torch.optim.NAdam(w.values(), lr=RATE, eps=1e-8, momentum_decay=0.004)
    for gradients in GRADIENTS:
        for name, value in w.items():
            value.grad = torch.tensor(gradients[name])
        peer.step()
    ours = path(create_optimizer("nadam", RATE))
    close(ours, {name: value.detach().numpy() for name, value in w.items()})
