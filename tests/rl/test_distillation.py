"""Distillation: the divergence in float64, whose completions are learned from, and who teaches."""

import keras
import numpy as np
import pytest
from algorithms import network
from keras import ops
from tables import OTHER, SIZE, TABLE, policy, table_of

from artifex_keras import Diffusion, networks
from artifex_keras.objectives.distillation import generalized_jsd, top_k_and_rest
from artifex_keras.rl import Distillation

pytestmark = pytest.mark.backends("jax")

ROWS = [
    {"prompt": [2, 3], "completion": [4, 2, 1]},
    {"prompt": [4], "completion": [3, 3]},
    {"prompt": [3, 3, 2], "completion": [2, 4, 4, 1]},
]
# The ids before and the number of tokens in the completions.
BEFORE = [3, 4, 2, 4, 3, 2, 2, 4, 4]


def model_of(student=None, teacher=None, **options):
    student = policy(TABLE) if student is None else student
    teacher = policy(OTHER, "teacher") if teacher is None else teacher
    model = Distillation(student, teacher, **{"on_policy": 0.0, "seed": 0, **options})
    model.compile(keras.optimizers.SGD(1.0))
    return model


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def divergence(teacher, student, beta):
    """By the letter, in float64."""

    def kl(a, b):
        return (a * np.log(a / b)).sum(-1)

    if beta in (0, 1):
        return kl(teacher, student) if beta == 0 else kl(student, teacher)
    mixture = beta * teacher + (1 - beta) * student
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def loss_of(table, beta, temperature=1.0, before=BEFORE):
    teacher, student = softmax(OTHER / temperature), softmax(table / temperature)
    return divergence(teacher, student, beta)[np.array(before)].mean()


@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.1, 1.0), (0.5, 0.7), (1.0, 2.0)])
def test_the_loss_is_the_mean_over_the_tokens_of_all_completions(beta, temperature):
    model = model_of(beta=beta, temperature=temperature)
    loss = model.evaluate(model.prepared_data(ROWS), batch_size=2, verbose=0, return_dict=True)
    assert loss["loss"] == pytest.approx(loss_of(TABLE, beta, temperature), rel=1e-4)
    assert loss["completion_length"] == pytest.approx(3.0)
    alike = TABLE.argmax(1) == OTHER.argmax(1)
    assert loss["agreement"] == pytest.approx(alike[BEFORE].mean())


@pytest.mark.seam
@pytest.mark.backends("jax", "tensorflow", "torch")
def test_a_step_on_each_backend():
    """On the data's completions, then on the student's own, which is certain of them."""
    model = model_of(beta=0.5)
    loss = model.fit(ROWS, batch_size=3, verbose=0).history["loss"][0]
    assert loss == pytest.approx(loss_of(TABLE, 0.5), rel=1e-4)
    assert np.abs(table_of(model.student) - TABLE).max() > 1e-3
    table = certain([2, 3, 4])
    model = model_of(policy(table), on_policy=1.0, max_new_tokens=3, beta=0.0)
    x = {"prompt": np.array([[3], [4]])}
    loss = model.fit(x, batch_size=2, shuffle=False, verbose=0).history["loss"][0]
    wanted = divergence(softmax(OTHER), softmax(table), 0)[[3, 4, 2, 4, 2, 3]].mean()
    assert loss == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_step_goes_down_the_gradient_in_float64(beta):
    model = model_of(beta=beta)
    model.fit(ROWS, batch_size=3, verbose=0)
    step = 1e-5
    wanted = np.zeros_like(TABLE)
    for place in np.ndindex(*TABLE.shape):
        moved = [TABLE.copy(), TABLE.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        wanted[place] = (loss_of(moved[0], beta) - loss_of(moved[1], beta)) / (2 * step)
    np.testing.assert_allclose(TABLE - table_of(model.student), wanted, atol=2e-6)
    np.testing.assert_array_equal(np.float32(OTHER), model.teacher.get_weights()[0])


def certain(order):
    """A table that goes from each id to the next of `order`, and round."""
    table = np.full((SIZE, SIZE), -30.0)
    for id, after in zip(order, [*order[1:], order[0]], strict=True):
        table[id, after] = 0.0
    return table


def test_the_students_own_completions_are_learned_from():
    """A student that writes 2 3 4 2 ..., whatever the data say."""
    table = certain([2, 3, 4])
    table[[0, 1]] = 0.0
    model = model_of(policy(table), on_policy=1.0, max_new_tokens=3, beta=0.0)
    logs = model.test_on_batch({"prompt": np.array([[3], [4]])}, return_dict=True)
    teacher = softmax(OTHER)
    wanted = divergence(teacher, softmax(table), 0)[[3, 4, 2, 4, 2, 3]].mean()
    assert float(logs["loss"]) == pytest.approx(wanted, rel=1e-5)


def test_a_share_of_the_rows_are_the_students_own():
    """Those of the data have 1 token here, the student's 3."""
    table = certain([2, 3, 4])
    table[[0, 1]] = 0.0
    model = model_of(policy(table), on_policy=0.25, max_new_tokens=3)
    rows = {
        "prompt": np.full((2000, 1), 2),
        "completion": np.full((2000, 1), 4),
        "completion_mask": np.ones((2000, 1)),
    }
    logs = model.test_on_batch(rows, return_dict=True)
    assert float(logs["completion_length"]) == pytest.approx(1 + 2 * 0.25, abs=0.1)


def test_a_student_becomes_its_teacher():
    student = policy(0 * TABLE)
    model = model_of(student, policy(3 * OTHER, "teacher"), on_policy=1.0, max_new_tokens=4)
    model.compile(keras.optimizers.Adam(0.1))
    x = {"prompt": np.arange(20)[:, None] % SIZE}
    history = model.fit(x, batch_size=20, epochs=60, verbose=0).history
    assert history["loss"][0] > 0.1 and history["loss"][-1] < 0.002
    assert history["agreement"][-1] == 1.0


def test_the_likeliest_tokens_and_the_rest_bound_the_divergence():
    teacher, student = (np.log(softmax(table)) for table in (OTHER, TABLE))
    for beta in (0.0, 0.3, 1.0):
        whole = ops.convert_to_numpy(generalized_jsd(teacher, student, beta))
        parts = [
            ops.convert_to_numpy(generalized_jsd(*top_k_and_rest(teacher, student, k), beta))
            for k in range(1, SIZE)
        ]
        np.testing.assert_allclose(parts[-1], whole, rtol=1e-4)
        assert all((a <= b + 1e-6).all() for a, b in zip(parts, parts[1:], strict=False))
    best = OTHER.argmax(1)
    mass = [softmax(table)[np.arange(SIZE), best] for table in (OTHER, TABLE)]
    two = [np.stack([m, 1 - m], axis=-1) for m in mass]
    logs = model_of(top_k=1, beta=0.0)
    found = logs.evaluate(logs.prepared_data(ROWS), verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(divergence(*two, 0)[BEFORE].mean(), rel=1e-5)


def test_a_denoising_student_learns_on_its_own_states():
    """A student whose network gives the teacher's noise plus a constant c, everywhere."""

    def model(shift):
        x, t = keras.Input((2,)), keras.Input(())
        layer = keras.layers.Dense(2, kernel_initializer="zeros", name="shift")
        out = layer(x)
        layer.set_weights([np.zeros((2, 2)), np.full(2, shift)])
        return Diffusion(keras.Model([x, t], out), num_timesteps=20, input_shape=(2,), seed=0)

    for shift, wanted in ((0.0, 0.0), (0.1, None)):
        student = Distillation(model(shift), model(0.0), sampling={"num_steps": 5}, seed=0)
        student.compile(keras.optimizers.Adam(0.03))
        x = np.zeros((16, 0), "float32")
        history = student.fit(x, epochs=1 if wanted == 0 else 40, verbose=0).history["loss"]
        if wanted == 0:
            assert history[0] == pytest.approx(0.0, abs=1e-9)
        else:
            assert history[0] > 1e-3 and history[-1] < history[0] / 10


def test_a_saved_model_goes_on(tmp_path):
    model = model_of(network(0), network(1), on_policy=1.0, max_new_tokens=2)
    x = {"prompt": np.arange(3, 7)[:, None]}
    model.fit(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    first, second = (m.fit(x, shuffle=False, verbose=0).history["loss"] for m in (model, loaded))
    assert first == second and not loaded.teacher.trainable_variables


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="a teacher of 13 tokens, a student of 5"):
        Distillation(policy(), network(), max_new_tokens=2)
    same = policy()
    with pytest.raises(ValueError, match="must not share weights with the student"):
        Distillation(same, same, max_new_tokens=2)
    with pytest.raises(ValueError, match="`max_new_tokens` must say"):
        Distillation(policy(), policy(name="teacher"))
    with pytest.raises(ValueError, match="`top_k` must be below the vocabulary of 5"):
        model_of(top_k=5)
    with pytest.raises(ValueError, match="'completion'"):
        model_of().fit([{"prompt": [2]}], verbose=0)
    with pytest.raises(ValueError, match="a teacher Diffusion for a student Functional"):
        diffusion = Diffusion(networks.timed_mlp((2,), (4,)), num_timesteps=8, input_shape=(2,))
        Distillation(policy(), diffusion, max_new_tokens=2)
    ids = np.full((2, 13), 3)
    long = {"prompt": ids, "completion": ids, "completion_mask": np.ones_like(ids)}
    with pytest.raises(ValueError, match="26 tokens at most, for a context of 24"):
        model_of(network(), network(1)).fit(long, verbose=0)
    short = model_of(
        network(), networks.CausalTransformer(13, 4, num_layers=1, num_heads=2, width=8),
        on_policy=1.0, max_new_tokens=4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="context of 4 tokens"):
        short.fit([[3, 4, 5]], verbose=0)


@pytest.mark.backends("jax")
@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_likeliest_of_shards_are_the_likeliest_of_all(k):
    """Also of equal tokens the first, and of more than a shard has."""
    rng = np.random.default_rng(0)
    teacher = np.round(rng.normal(size=(5, 6, 24)), 1).astype("float32") - 4
    student = rng.normal(size=(5, 6, 24)).astype("float32") - 4
    expected = top_k_and_rest(teacher, student, k)
    for num_shards in (4, 5, 8):  # of which 5 don't divide 24
        found = top_k_and_rest(teacher, student, k, num_shards)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, other)))
