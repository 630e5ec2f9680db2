"""Each bijection under the same laws, and what is particular to some."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import compiled, input_gradient
from artifex_keras.networks import bijections as b
from artifex_keras.networks.bijections.transforms import rational_quadratic_spline

ROWS = 4
IMAGE = (4, 4, 2)


def flat(width=6):
    return np.random.default_rng(1).normal(size=(ROWS, width)).astype("float32")


def unit(width=6):
    return np.random.default_rng(2).uniform(0.02, 0.98, (ROWS, width)).astype("float32")


def images():
    return np.random.default_rng(3).normal(size=(ROWS, *IMAGE)).astype("float32")


def vectors():
    return np.random.default_rng(4).normal(size=(ROWS, 3)).astype("float32")


def small_image_flow():
    inner = b.Chain([b.Squeeze(), b.ActNorm(), b.InvertibleLinear(seed=3)])
    return b.Chain([b.Squeeze(1), b.AffineCoupling((4,)), b.Split(inner), b.Reverse()])


def labels():
    return np.arange(ROWS) % 3


LAWS = {  # name: (bijection, data, context)
    "affine": (b.Affine, flat, None),
    "affine, image": (b.Affine, images, None),
    "actnorm": (b.ActNorm, flat, None),
    "actnorm, image": (b.ActNorm, images, None),
    "standardise": (lambda: b.Standardise(0.4, 2.5), flat, None),
    "standardise, vector": (lambda: b.Standardise([0.1] * 6, range(1, 7)), flat, None),
    "logit": (lambda: b.Logit(0.1), unit, None),
    "permutation": (lambda: b.Permutation([3, 1, 0, 2, 5, 4]), flat, None),
    "permutation, drawn": (lambda: b.Permutation(seed=5), images, None),
    "reverse": (b.Reverse, flat, None),
    "linear": (lambda: b.InvertibleLinear(seed=1), flat, None),
    "linear, image": (lambda: b.InvertibleLinear(seed=1), images, None),
    "additive coupling": (lambda: b.AdditiveCoupling((8, 8)), flat, None),
    "affine coupling": (lambda: b.AffineCoupling((8, 8)), flat, None),
    "affine coupling, odd": (lambda: b.AffineCoupling((8,)), lambda: flat(5), None),
    "affine coupling, image": (lambda: b.AffineCoupling((4,)), images, None),
    "affine coupling, conditional": (lambda: b.AffineCoupling((8,)), flat, vectors),
    "affine coupling, conditional image": (lambda: b.AffineCoupling((4,)), images, vectors),
    "spline coupling": (lambda: b.SplineCoupling((8, 8)), flat, None),
    "spline coupling, conditional": (lambda: b.SplineCoupling((8,), bins=4), flat, vectors),
    "autoregressive": (lambda: b.MaskedAutoregressive((12, 12)), flat, None),
    "autoregressive, spline": (
        lambda: b.MaskedAutoregressive((12,), transform="spline", transform_options={"bins": 5}),
        flat,
        None,
    ),
    "autoregressive, conditional": (lambda: b.MaskedAutoregressive((12,)), flat, vectors),
    "inverse": (lambda: b.Inverse(b.MaskedAutoregressive((12,))), flat, None),
    "inverse, conditional": (lambda: b.Inverse(b.AffineCoupling((8,))), flat, vectors),
    "flatten": (b.Flatten, images, None),
    "squeeze": (b.Squeeze, images, None),
    "split": (small_image_flow, images, None),
    "realnvp": (lambda: b.realnvp(6, 3, (8,)), flat, None),
    "realnvp, conditional": (lambda: b.realnvp((6,), 3, (8,), context_dim=3), flat, vectors),
    "realnvp, labels": (lambda: b.realnvp((6,), 3, (8,), num_classes=3), flat, labels),
    "spline flow": (lambda: b.spline_flow((6,), 2, (8,)), flat, None),
    "autoregressive flow": (lambda: b.masked_autoregressive_flow((6,), 2, (8,)), flat, None),
    "glow": (lambda: b.glow(IMAGE, 2, 1, (4,)), images, None),
    "glow, conditional": (lambda: b.glow(IMAGE, 1, 1, (4,), context_dim=3), images, vectors),
}
table = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def made(law, seed=0):
    """The bijection with weights drawn at random, an event of its kind, and the context."""
    make, data, context = law
    bijection, x, context = make(), data(), None if context is None else context()
    if not bijection.built:
        bijection.build(x.shape, None if context is None else context.shape)
    randomise(bijection, seed)
    return bijection, ops.convert_to_tensor(x), context


def randomise(bijection, seed=0):
    random = np.random.default_rng(seed)
    for weight in bijection.weights:
        if weight.name != "initialised":
            weight.assign(random.normal(0, 0.3, weight.shape))


def array(tensor):
    return ops.convert_to_numpy(tensor)


class Both:
    """A bijection there and back with its Jacobians, as one compiled program."""

    def __init__(self, bijection):
        self.bijection = bijection
        self.variables = bijection.variables
        self.compiled_methods = {}

    @compiled
    def __call__(self, x, context):
        there, back = self.bijection.forward_and_log_det, self.bijection.inverse_and_log_det
        z, log_det = there(x, context)
        again, other = back(z, context)
        return z, log_det, again, other, jacobian(there, x, context), jacobian(back, z, context)


def jacobian(function, x, context):
    """∂z/∂x of each row, (D, rows, D), by automatic differentiation of all z at once."""
    size = int(np.prod(x.shape[1:]))
    tiled = ops.tile(x, (size, *(1,) * (len(x.shape) - 1)))
    context = None if context is None else ops.concatenate([context] * size)
    chosen = ops.repeat(ops.eye(size), ROWS, axis=0)

    def outputs(x):
        return ops.sum(ops.reshape(function(x, context)[0], (-1, size)) * chosen, axis=1)

    return ops.reshape(input_gradient(outputs, tiled), (size, ROWS, size))


def log_det(jacobian):
    return np.linalg.slogdet(array(jacobian).transpose(1, 0, 2).astype("float64"))[1]


@table
def test_a_bijection_inverts_and_knows_its_jacobian(law):
    bijection, x, context = made(law)
    context = None if context is None else ops.convert_to_tensor(context)
    _, there, again, back, *jacobians = Both(bijection)(x, context)
    np.testing.assert_allclose(array(again), array(x), atol=1e-4)
    assert tuple(there.shape) == tuple(back.shape) == (ROWS,)
    np.testing.assert_allclose(array(back), -array(there), atol=1e-4)
    np.testing.assert_allclose(array(there), log_det(jacobians[0]), atol=1e-3)
    np.testing.assert_allclose(array(back), log_det(jacobians[1]), atol=1e-3)


@table
def test_a_bijection_is_saved_with_all_that_it_is(law):
    bijection, _, _ = made(law)
    config = keras.saving.serialize_keras_object(bijection)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.built
    assert keras.saving.serialize_keras_object(copy) == config
    assert [w.path for w in copy.weights] == [w.path for w in bijection.weights]
    copy.set_weights(bijection.get_weights())


@pytest.mark.parametrize(
    "law",
    [law for name, law in LAWS.items() if "coupling" in name or name.startswith("autoregressive")],
)
def test_what_a_network_parametrises_starts_as_the_identity(law):
    make, data, context = law
    bijection, x, context = make(), data(), None if context is None else context()
    if isinstance(bijection, b.Chain):
        pytest.skip("permutes too")
    z, log_det = bijection.forward_and_log_det(x, context)
    np.testing.assert_allclose(array(z), x, atol=1e-6)
    np.testing.assert_allclose(array(log_det), 0, atol=1e-5)


HIDDEN = {  # kernels and biases of hidden layers, and the inputs of each layer
    "dense": (lambda: b.AffineCoupling((64, 32)), (None, 6), [3, 64]),
    "convolutions": (lambda: b.AffineCoupling((16, 8)), (None, 4, 4, 2), [9, 144]),
    "spline": (lambda: b.SplineCoupling((64,), bins=4), (None, 5), [2]),
    "autoregressive": (lambda: b.MaskedAutoregressive((64, 32)), (None, 6), [6, 64]),
}


@pytest.mark.parametrize("row", HIDDEN.values(), ids=HIDDEN)
def test_hidden_layers_start_uniform_with_biases(row):
    """On ±√(6/inputs of the layer), of deviation √(2/inputs); what is behind them is 0."""
    make, shape, inputs = row
    bijection = make()
    bijection.build(shape)
    kernels = [array(w) for w in bijection.trainable_weights if "kernel" in w.name]
    biases = [array(w) for w in bijection.trainable_weights if "bias" in w.name]
    for kernel, bias, count in zip(kernels, biases, inputs, strict=False):
        for values in (kernel, bias):
            assert 0.7 < np.abs(values).max() / (6 / count) ** 0.5 <= 1
            assert values.std() == pytest.approx((2 / count) ** 0.5, rel=0.35)
    assert not kernels[len(inputs)].any() and not biases[len(inputs)].any()
    assert len({float(values.ravel()[0]) for values in kernels + biases}) > 2 * len(inputs)


@pytest.mark.parametrize("name", [name for name in LAWS if "conditional" in name or "lab" in name])
def test_the_context_matters(name):
    bijection, x, context = made(LAWS[name])
    other = context[::-1].copy()
    first, second = (
        array(bijection.forward_and_log_det(x, given)[0]) for given in (context, other)
    )
    assert np.abs(first - second).max() > 1e-3


# Splines


def spline_parameters(bins=6, scale=2.0):
    drawn = np.random.default_rng(0).normal(0, scale, (200, 3 * bins - 1))
    return ops.convert_to_tensor(drawn.astype("float32"))


def test_a_spline_passes_through_its_knots_with_their_slopes():
    """Against the definition in float64: cumulative softmax widths and heights, softplus slopes."""
    bins, bound = 6, 3.0
    parameters = array(spline_parameters(bins)).astype("float64")[:5]

    def lengths(raw):
        share = np.exp(raw) / np.exp(raw).sum(-1, keepdims=True)
        return 2 * bound * (1e-3 + (1 - bins * 1e-3) * share)

    xs, ys = (
        np.cumsum(lengths(raw), -1)[:, :-1] - bound
        for raw in (parameters[:, :bins], parameters[:, bins : 2 * bins])
    )
    slopes = 1e-3 + np.log1p(np.exp(parameters[:, 2 * bins :] + np.log(np.expm1(1 - 1e-3))))
    repeated = ops.convert_to_tensor(
        np.repeat(parameters[:, None], bins - 1, axis=1).astype("float32")
    )
    y, log_slope = rational_quadratic_spline(
        ops.convert_to_tensor(xs.astype("float32")), repeated, bound=bound
    )
    np.testing.assert_allclose(array(y), ys, atol=2e-5)
    np.testing.assert_allclose(np.exp(array(log_slope)), slopes, rtol=2e-3)


def test_a_spline_inside_a_bin_is_the_rational_quadratic():
    """Two bins of equal width and height with middle slope δ: y = ½ (ξ² + ξ(1-ξ))/(1 + ..)."""
    delta = 3.0
    raw = np.log(np.expm1(delta - 1e-3)) - np.log(np.expm1(1 - 1e-3))
    parameters = ops.convert_to_tensor([[0.0, 0.0, 0.0, 0.0, raw]])
    share = 0.3
    below = 1 + (1 + delta - 2) * share * (1 - share)
    expected = -1 + (share**2 + 1 * share * (1 - share)) / below
    x = ops.convert_to_tensor([-1 + share])
    y, log_slope = rational_quadratic_spline(x, parameters, bound=1.0)
    assert float(y[0]) == pytest.approx(expected, abs=1e-6)
    rise = delta * share**2 + 2 * share * (1 - share) + (1 - share) ** 2
    assert float(log_slope[0]) == pytest.approx(np.log(rise / below**2), abs=1e-6)


def test_a_spline_is_the_identity_outside_and_continuous_at_the_ends():
    parameters = spline_parameters()
    for value in (-50.0, -3.0001, 3.0001, 1e6):
        x = ops.full((200,), value)
        y, log_slope = rational_quadratic_spline(x, parameters, bound=3.0)
        np.testing.assert_array_equal(array(y), array(x))
        np.testing.assert_array_equal(array(log_slope), 0.0)
    for end in (-3.0, 3.0):
        y, _ = rational_quadratic_spline(ops.full((200,), end), parameters, bound=3.0)
        np.testing.assert_allclose(array(y), end, atol=1e-5)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_spline_of_extreme_parameters_has_finite_values_and_gradients(inverse):
    parameters = spline_parameters(scale=30.0)
    x = np.random.default_rng(1).normal(0, 4, 200).astype("float32")
    x[:4] = [-3.0, 3.0, 1e8, -1e8]

    def total(parameters):
        y, log_slope = rational_quadratic_spline(
            ops.convert_to_tensor(x), parameters, bound=3.0, inverse=inverse
        )
        return ops.clip(y, -10, 10) + log_slope

    assert np.all(np.isfinite(array(total(parameters))))
    assert np.all(np.isfinite(array(input_gradient(total, parameters))))


def test_a_spline_inverts_to_four_digits():
    parameters = spline_parameters()
    x = ops.convert_to_tensor(np.linspace(-3.2, 3.2, 200).astype("float32"))
    y, log_slope = rational_quadratic_spline(x, parameters, bound=3.0)
    back, other = rational_quadratic_spline(y, parameters, bound=3.0, inverse=True)
    steepest = np.exp(np.abs(array(log_slope)))  # of the way back, which magnifies rounding
    assert np.all(np.abs(array(back) - array(x)) < 1e-5 * np.maximum(steepest, 10))
    assert np.median(np.abs(array(back) - array(x))) < 1e-6
    np.testing.assert_allclose(array(other), -array(log_slope), atol=0.05)


# Particular ones


def test_masks_let_no_entry_see_itself_or_a_later_one():
    bijection, x, _ = made(LAWS["autoregressive"])
    parameters = bijection._arguments
    for i in range(6):
        slope = array(input_gradient(lambda x, i=i: parameters(x, None)[:, i, 0], x))
        assert np.all(slope[:, i:] == 0)
        assert i == 0 or np.all(np.any(slope[:, :i] != 0, axis=0)), i


def test_actnorm_takes_the_moments_of_its_first_rows_only():
    norm = b.ActNorm()
    x = np.random.default_rng(0).normal(5, [1.0, 3.0], (1152, 2)).astype("float32")
    norm.build((None, 2))
    for start in range(0, 1152, 128):
        assert float(norm.initialised) == min(start / 1024, 1)
        z = array(norm.initialise(ops.convert_to_tensor(x[start : start + 128])))
        if start == 896:
            before = norm.get_weights()
    np.testing.assert_allclose(array(norm.mean), x[:1024].mean(0), rtol=1e-4)
    np.testing.assert_allclose(np.exp(array(norm.log_std)), x[:1024].std(0), rtol=0.01)
    np.testing.assert_allclose(z.std(0), 1, atol=0.15)
    for old, new in zip(before, norm.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_actnorm_draws_the_variance_of_few_rows_to_the_typical_one():
    """ln σ² = (n ln v + 4 Σ ln v/C)/(n + 4), of an entry that doesn't vary Σ ln v/C itself."""
    norm, x = b.ActNorm(), flat(4) * np.array([1.0, 2.0, 0.5, 0.0], "float32") + 255
    norm.build(x.shape)
    norm.initialise(ops.convert_to_tensor(x))
    own = np.log(x[:, :3].astype("float64").var(0))
    expected = np.append((ROWS * own + 4 * own.mean()) / (ROWS + 4), own.mean())
    np.testing.assert_allclose(2 * array(norm.log_std), expected, atol=2e-3)
    alone = b.ActNorm()
    alone.build(x.shape)
    alone.initialise(ops.convert_to_tensor(x[:1]))  # one row: its entries' spread
    np.testing.assert_allclose(array(alone.mean), x[0], rtol=1e-6)
    np.testing.assert_allclose(np.exp(array(alone.log_std)), x[0].std(), rtol=1e-4)


def test_actnorm_keeps_a_rare_value_near():
    x = np.zeros((1024, 2), "float32")
    x[5] = 1, -8
    norm = b.ActNorm()
    norm.build(x.shape)
    z = array(norm.initialise(ops.convert_to_tensor(x)))
    assert 3.9 < np.abs(z).max() < 4.1


def test_actnorm_sees_rows_by_their_weight():
    x = flat()
    poisoned = np.concatenate([x, np.full((2, 6), np.nan, "float32")])
    plain, weighted = b.ActNorm(), b.ActNorm()
    for norm, data, weight in (
        (plain, x, np.ones(ROWS)),
        (weighted, poisoned, np.array([1] * ROWS + [0, 0])),
    ):
        norm.build(x.shape)
        norm.initialise(ops.convert_to_tensor(data), None, ops.convert_to_tensor(weight, "float32"))
    for mine, other in zip(plain.get_weights(), weighted.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_a_chain_initialises_each_norm_on_what_it_gets():
    chain = b.Chain([b.Affine(), b.ActNorm(), b.Split(b.ActNorm())])
    chain.build((None, 6))
    chain.bijections[0].shift.assign(np.full(6, 7.0))
    z = chain.initialise(ops.convert_to_tensor(flat()))
    assert float(chain.initialised) == ROWS / 1024
    np.testing.assert_allclose(array(chain.bijections[1].mean), flat().mean(0) + 7, atol=1e-5)
    assert 0.8 < array(z).std(0).mean() < 1.2


def test_standardise_adapts_to_data():
    x = 3 * flat() + 5
    step = b.Standardise().adapt(x)
    z, log_det = step.forward_and_log_det(x)
    np.testing.assert_allclose(array(z).mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(array(log_det), -np.log(x.std(0)).sum(), atol=1e-5)


def test_squeeze_gathers_squares_of_pixels():
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    z = array(b.Squeeze().forward_and_log_det(image)[0])
    assert z.shape == (1, 2, 2, 4)
    np.testing.assert_array_equal(z[0, 0, 0], [0, 1, 4, 5])
    np.testing.assert_array_equal(z[0, 1, 1], [10, 11, 14, 15])


def test_an_own_network_gives_the_features():
    part, context = keras.Input((3,)), keras.Input((2,))
    joined = keras.layers.Concatenate()([part, context])
    network = keras.Model([part, context], keras.layers.Dense(5, activation="tanh")(joined))
    coupling = b.AffineCoupling(network=network)
    context = np.ones((ROWS, 2), "float32")
    z, _ = coupling.forward_and_log_det(flat(), context)
    np.testing.assert_allclose(array(z), flat(), atol=1e-6)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(coupling))
    copy.set_weights(coupling.get_weights())
    np.testing.assert_array_equal(array(copy.forward_and_log_det(flat(), context)[0]), array(z))


def test_a_bijection_serves_as_a_layer():
    layer = b.Affine()
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layer(inputs))
    layer.shift.assign(np.full(6, 2.0))
    np.testing.assert_allclose(model.predict(flat(), verbose=0), flat() + 2, atol=1e-6)


# Errors


def test_a_misfit_names_the_link():
    chain = b.Chain([b.Reverse(), b.Permutation([1, 0], name="swap"), b.Affine()])
    with pytest.raises(ValueError, match=r"Link 1 of the chain, Permutation 'swap'.*\(6,\)"):
        chain.build((None, 6))
    grown = b.Affine(name="grown")
    grown.build((None, 4))
    with pytest.raises(ValueError, match=r"Link 0 .* 'grown', doesn't fit .*\(6,\)"):
        b.Chain([grown]).build((None, 6))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: b.Permutation([0, 2]), "once"),
        (lambda: b.Standardise(0.0, [1.0, 0.0]), "positive"),
        (lambda: b.Logit(1.0), "alpha"),
        (lambda: b.AffineCoupling(bound=0), "greater than 0"),
        (lambda: b.SplineCoupling(bins=1), "bins"),
        (lambda: b.MaskedAutoregressive(transform="splin"), "Did you mean 'spline'"),
        (lambda: b.Chain([keras.layers.Dense(2)]), "link 0"),
        (lambda: b.Standardise([1.0, 2.0]).build((None, 3)), "broadcast"),
        (lambda: b.AffineCoupling().build((None, 1)), "two entries"),
        (lambda: b.AffineCoupling().build((None, None, 3)), "known shape"),
        (lambda: b.Squeeze().build((None, 5, 4, 1)), "divides"),
        (lambda: b.MaskedAutoregressive().build((None, 4, 4, 1)), "Flatten"),
        (lambda: b.Inverse(b.Squeeze()).build((None, 4, 4, 1)), "keeps the shape"),
        (lambda: b.Reverse().inverse_and_log_det(flat()), "build"),
        (lambda: b.realnvp(4, context_dim=2, num_classes=3), "exclude"),
        (lambda: b.realnvp(4, 1, (4,)).forward_and_log_det(flat(6)), r"shape \(4,\)"),
        (lambda: b.realnvp(6, 1, (4,), context_dim=3).forward_and_log_det(flat()), "context"),
        (lambda: b.realnvp(6, 1, (4,)).forward_and_log_det(flat(), vectors()), "context"),
    ],
)
def test_errors_say_what_is_wrong(make, text):
    with pytest.raises(ValueError, match=text):
        make()
