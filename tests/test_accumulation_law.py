"""k batches that are accumulated are one batch of all their rows: Σ weight × gradient / Σ weight.

The batches are made of the same rows, most of which weigh 0: so each row has the same noise in all
of them, if the seeds are put back. k times the whole batch is then one large one.
"""

import keras
import numpy as np
import pytest
import quick
from algorithms import ALGORITHMS, bigrams
from families import FAMILIES, NAMES
from fresh import reset, variables
from keras import ops
from tables import END, OTHER, TABLE, close, log_probs, policy, rollout, taught

import artifex_keras as ak
from artifex_keras.backend import apply_gradients, assign_all
from artifex_keras.backend.keras_internals import all_layers, seed_generators
from artifex_keras.callbacks.checkpoint.arrays import restore, snapshot
from artifex_keras.gradient_accumulation import weighing
from artifex_keras.optimizers import OptimizerGroup, create_optimizer
from artifex_keras.rl import GRPO, PPO, REINFORCE
from artifex_keras.rl.grpo import LOSS_TYPES

ROWS = 8
CUTS = {2: (5,), 3: (3, 4), 4: (1, 2, 6)}
OPTIONS = {  # what would change from batch to batch
    "vae-everything": {"kl_annealing": "none"},
    "vae-gaussian": {"kl_annealing": "none"},
    "wgan-gp": {"d_steps": 1},
    "gan-conditional": {"r1_every": 1},
    "gan-relativistic": {"lecam_weight": 0.0},
    "energy-pcd": {"training_method": "cd"},
    "autoregressive": {"scheduled_sampling": "none"},
}

QUICK = (  # the others are slow
    "vae-categorical",
    "gan-relativistic",
    "energy-dsm",
    "flow-matching",
    "autoregressive",
)


def host(variables):
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


class Accumulating:
    """A model of a family with SGD, which begins anew with each update."""

    def __init__(self, family, steps):
        self.model, self.steps = family.make(**OPTIONS.get(family.name, {})), steps
        self.model.compile(keras.optimizers.SGD(0.3, gradient_accumulation_steps=steps))
        x, *y = family.arrays(ROWS)
        self.batch = x, y[0] if y else np.zeros((ROWS, 0), "float32")
        self.model.build_from_batch(lambda: family.arrays(ROWS))
        self.model.build_optimizer()
        start = host(variables(self.model))
        # What begins with the data has begun, a flow's statistics of all rows among it.
        self.model.fit(x, *y, batch_size=ROWS, verbose=0)
        optimizer = {id(v) for v in self.model.optimizer.variables}
        pairs = zip(variables(self.model), start, host(variables(self.model)), strict=True)
        self.start = [first if id(v) in optimizer else now for v, first, now in pairs]
        layers = all_layers(self.model)
        self.states = [seed.state for layer in layers for seed in seed_generators(layer)]
        self.seeds = host(self.states)

    def updated(self, weights, part):
        """The trained weights of a network after an update; the rows weigh so in each batch."""
        reset(self.model, self.start)
        for each in weights:
            assign_all(self.states, self.seeds)
            self.model.train_on_batch(*self.batch, sample_weight=each)
        assert int(self.model.optimizer.iterations) == 1
        return host((part or self.model).trainable_weights)


def batches_of(steps):
    """Each row's weight, and the same in `steps` batches, 0 where the row is in another one."""
    weights = np.random.default_rng(steps).uniform(0.1, 3, ROWS).astype("float32")
    edges = (0, *CUTS[steps], ROWS)
    places = np.arange(ROWS)
    parts = [(places >= a) & (places < b) for a, b in zip(edges, edges[1:], strict=False)]
    return weights, [weights * part for part in parts]


@pytest.mark.parametrize("name", quick.rows(NAMES, QUICK))
def test_small_batches_are_one_large_one_in_each_family(name):
    steps = 2 + NAMES.index(name) % 3
    run = Accumulating(FAMILIES[NAMES.index(name)], steps)
    weights, parts = batches_of(steps)
    for part in networks(run):
        large, small = run.updated([weights] * steps, part), run.updated(parts, part)
        for a, b in zip(small, large, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def networks(run):
    """What to compare; of a GAN the generator, too, with a discriminator that stays as it is."""
    if not hasattr(run.model, "discriminator"):
        yield None
        return
    yield run.model.discriminator
    rate = run.model.discriminator_optimizer.learning_rate
    places = [id(v) for v in variables(run.model)]
    run.start[places.index(id(rate))] = np.float32(0)
    yield run.model.generator


# Batches that are really small


def one_update(model, batches):
    for batch in batches:
        model.train_on_batch(*batch[:2], sample_weight=batch[2])
    assert int(model.optimizer.iterations) == 1
    return host(model.trainable_weights)


def counted(model, steps):
    optimizer = create_optimizer("sgd", 0.5, gradient_accumulation_steps=steps)
    model.compile(optimizer if steps else keras.optimizers.SGD(0.5))
    return model


def test_rows_count_by_their_tokens():
    """8, 1, 7 and 2 tokens: batches of one row, of which each would count a quarter."""
    rows = np.zeros((4, 9), "int32")
    for row, tokens in zip(rows, (8, 1, 7, 2), strict=True):
        row[: tokens + 1] = 1 + np.arange(tokens + 1) % 6

    def model(steps):
        keras.utils.set_random_seed(0)
        network = keras.Sequential([keras.layers.Embedding(7, 4), keras.layers.Dense(7)])
        return counted(ak.Autoregressive(network, pad_token_id=0), steps)

    nothing = np.zeros((4, 0), "float32")
    batches = [(rows[i : i + 1], nothing[:1], np.ones(1, "float32")) for i in range(4)]
    large = one_update(model(None), [(rows, nothing, np.ones(4, "float32"))])
    for a, b in zip(one_update(model(4), batches), large, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@keras.saving.register_keras_serializable("tests")
class Line(ak.GenerativeModel):
    """½(a - x)², and what a regulariser adds: its slope in a is the weighted mean of a - x."""

    def __init__(self, penalty=0.0, **options):
        super().__init__(**options)
        self.penalty = penalty

    def build(self, input_shape, condition=None):
        self.a = self.add_weight(
            name="a",
            shape=(1,),
            initializer="zeros",
            regularizer=lambda a: self.penalty * ops.sum(a),
        )
        self.finish_build(input_shape)

    def objective(self, batch, training):
        return {"loss": 0.5 * ops.sum(ops.square(self.a - batch.x), axis=-1)}

    def call(self, inputs, training=False):
        return inputs - self.a


def fitted(x, weights, batch_size, steps, penalty=0.0, epochs=1, **options):
    model = Line(penalty)
    model.compile(create_optimizer("sgd", 1.0, gradient_accumulation_steps=steps, **options))
    x = np.array(x, "float32")[:, None]
    weights = np.array(weights, "float32")
    model.fit(
        x, sample_weight=weights, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0
    )
    return model


def a_of(model):
    return float(ops.convert_to_numpy(model.a)[0])


@pytest.mark.seam
def test_weights_uneven_batches_regularisers_and_clipping():
    x = [1.0, -2.0, 30.0, 4.0, 5.0]
    weights = [1.0, 1.0, 0.1, 0.1, 2.0]
    mean = float(np.average(x, weights=weights))
    assert a_of(fitted(x, weights, 1, 5)) == pytest.approx(mean, rel=1e-5)
    assert a_of(fitted(x, weights, 2, 3)) == pytest.approx(mean, rel=1e-5)  # 2 + 2 + 1 rows
    assert a_of(fitted(x, weights, 2, 3, penalty=0.25)) == pytest.approx(mean - 0.25, rel=1e-5)
    # One row of 30 is clipped only as a part of the mean, which is above the bound itself.
    assert a_of(fitted(x, weights, 2, 3, gradient_clip_norm=1.5)) == pytest.approx(1.5, rel=1e-5)


def test_batches_in_which_nothing_counts():
    assert a_of(fitted([7.0, 9.0], [0.0, 2.0], 1, 2)) == pytest.approx(9.0)
    assert a_of(fitted([7.0, 9.0], [2.0, 0.0], 1, 2)) == pytest.approx(7.0)


def test_what_an_epoch_leaves_counts_in_the_next():
    """3 batches of unequal weight in an epoch, 2 in an update: (x1, x2), (x3, x1), (x2, x3)."""
    x, w = [1.0, -2.0, 6.0], [1.0, 3.0, 0.5]
    a = 0.0
    for i, j in ((0, 1), (2, 0), (1, 2)):
        a -= (w[i] * (a - x[i]) + w[j] * (a - x[j])) / (w[i] + w[j])
    assert a_of(fitted(x, w, 1, 2, epochs=2)) == pytest.approx(a, rel=1e-5)


@pytest.mark.seam
def test_a_loss_scale_around_it_weighs_too():
    w = keras.Variable(0.0, name="w")
    optimizer = keras.optimizers.LossScaleOptimizer(
        ak.GradientAccumulation(keras.optimizers.SGD(1.0), 2), initial_scale=4.0
    )
    optimizer.build([w])
    for gradient, weight in ((4.0, 3.0), (np.inf, 5.0), (2.0, 1.0)):  # at the scales 4, 4 and 2
        with weighing(optimizer, weight):
            apply_gradients(optimizer, [ops.convert_to_tensor(gradient, "float32")], [w])
    assert float(ops.convert_to_numpy(w)) == -(3 * 1 + 1 * 1) / 4


@pytest.mark.seam
@pytest.mark.parametrize("how", ["file", "checkpoint"])
def test_states_of_earlier_versions_which_counted_batches_alone(how, tmp_path):
    """They have the sum of the gradients so far: each batch weighs as the next one does."""
    model = fitted([1.0, -2.0], [3.0, 3.0], 1, 3)
    optimizer = model.optimizer
    store = {}
    optimizer.save_own_variables(store)
    place = [v.name for v in optimizer.variables].index("gradient_weight")
    kept = [store[str(i)] for i in range(len(store)) if i != place]
    kept[1] = 2 * kept[1]  # the sum of two gradients, not their mean
    if how == "file":
        optimizer.load_own_variables({str(i): value for i, value in enumerate(kept)})
    else:
        arrays = [a for a in snapshot(model) if not a.name.endswith("gradient_weight")]
        arrays = [a._replace(value=2 * a.value) if "gradient_sum" in a.name else a for a in arrays]
        restore(model, arrays)
    model.train_on_batch(np.array([[7.0]]), np.zeros((1, 0)), sample_weight=np.array([3.0]))
    assert a_of(model) == pytest.approx(2.0, rel=1e-5)  # the mean of 1, -2 and 7


def test_a_gan_of_an_earlier_version_loads():
    group = OptimizerGroup(
        {n: ak.GradientAccumulation(keras.optimizers.SGD(1.0), 2) for n in ("a", "b")}
    )
    group.build_parts({n: [keras.Variable(float(i), name=n)] for i, n in enumerate("ab")})
    store = {}
    group.save_own_variables(store)
    names = [v.name for v in group.variables]
    kept = [store[str(i)] for i, name in enumerate(names) if name != "gradient_weight"]
    group.load_own_variables({str(i): 5 * np.ones_like(v) for i, v in enumerate(kept)})
    found = dict(zip(enumerate(names), map(float, host(group.variables)), strict=True))
    assert all(v == (-1 if name == "gradient_weight" else 5) for (_, name), v in found.items())


# Learning from rewards

REWARDS = np.array([1.0, 0.0, 0.5, 0.25, 2.0, 0.0])


def learner(kind, steps=None, **options):
    common = {"num_generations": 3, "max_new_tokens": 3, "end_token_id": END, "seed": 0}
    model = kind(policy(), None, **{**common, **options})
    model.compile(create_optimizer("sgd", 1.0, gradient_accumulation_steps=steps))
    model.build_optimizer()
    return model


@pytest.mark.seam
@pytest.mark.parametrize("kind", [PPO, GRPO])
def test_minibatches_of_a_rollout_are_one_large_one(kind):
    """3 minibatches of 2 completions each, 1 to 3 tokens long, in a random order."""

    def options():
        if kind is PPO:
            return {"num_epochs": 1, "kl_coeff": 0.0, "value": policy(np.ones((5, 1)), "value")}
        return {"loss_type": "dapo"}

    made = rollout(log_probs(TABLE) + 0.1)
    # An update that is a whole batch's only one has ratios of 1 in GRPO: the same one twice hasn't.
    twice = {"steps": 2, "num_iterations": 2} if kind is GRPO else {}
    large, _ = taught(learner(kind, **options(), **twice), made, REWARDS)
    small, _ = taught(learner(kind, 3, num_minibatches=3, **options()), made, REWARDS)
    assert np.abs(small - TABLE).max() > 0.05
    close(small, large)


REDUCED = [(kind, 0.0) for kind in LOSS_TYPES] + [("grpo", 0.3)]


@pytest.mark.parametrize(
    ("loss_type", "beta"),
    [
        pytest.param(*case, marks=() if case == ("grpo", 0.3) else pytest.mark.slow)
        for case in REDUCED
    ],
)
def test_uneven_batches_of_prompts_are_one_large_one_in_each_reduction(loss_type, beta):
    """Two prompts and one, whose completions have 1 to 3 tokens."""
    made, options = rollout(), {"loss_type": loss_type, "num_generations": 2, "beta": beta}
    options |= {"reference": policy(OTHER, "reference")} if beta else {}
    large, _ = taught(learner(GRPO, **options), made, REWARDS)
    model = learner(GRPO, 2, **options)
    for rows in (slice(0, 4), slice(4, 6)):
        small, _ = taught(model, part_of(made, rows), REWARDS[rows])
    assert np.abs(small - TABLE).max() > 0.05
    close(small, large)


def part_of(made, rows):
    return made._replace(**{n: v[rows] for n, v in made._asdict().items() if v is not None})


@pytest.mark.parametrize("baseline", [None, "loo"])
def test_batches_of_prompts_are_one_large_one(baseline):
    made = rollout()
    large, _ = taught(learner(REINFORCE, baseline=baseline), made, REWARDS)
    model = learner(REINFORCE, 2, baseline=baseline)
    for rows in (slice(0, 3), slice(3, 6)):
        small, _ = taught(model, part_of(made, rows), REWARDS[rows])
    assert np.abs(small - TABLE).max() > 0.05
    close(small, large)


@pytest.mark.parametrize("row", [a for a in ALGORITHMS if not a.samples], ids=lambda a: a.name)
def test_answers_count_by_their_weights(row):
    """DPO's pairs in batches of 1 and 3; KTO's z is of its batch, so there the rows weigh 0.

    A student's own completions would be other ones in each batch: here it learns from the data's.
    """
    options = {"on_policy": 0.0} if row.name == "distillation" else {}
    x = row.data(4)
    weights = np.array([0.5, 2.0, 1.0, 0.25], "float32")
    masks = [np.arange(4) < 1, np.arange(4) >= 1]

    def updated(batches, steps):
        model = row.make(policy=bigrams(), **options)
        model.compile(create_optimizer("sgd", 1.0, gradient_accumulation_steps=steps))
        for own in batches:
            if row.name in ("dpo", "distillation", "sft"):
                batch, each = {name: v[own] for name, v in x.items()}, weights[own]
            else:
                batch, each = x, weights * own
            model.train_on_batch(batch, sample_weight=each)
        return host(model.trainable_weights)

    for a, b in zip(updated(masks, 2), updated([np.ones(4, bool)], None), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
