"""Preference losses against closed forms in float64."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import value_and_grad
from artifex_keras.objectives import preference
from artifex_keras.objectives.preference import preference_loss

CHOSEN, REJECTED = np.array([-12.0, -30.5, -4.0]), np.array([-14.0, -21.0, -4.0])
REFERENCE = np.array([-13.0, -28.0, -4.0]), np.array([-13.5, -23.0, -4.0])
LENGTHS = {"chosen_length": np.array([6, 10, 2]), "rejected_length": np.array([4, 7, 2])}
PAIRS = (CHOSEN, REJECTED, *REFERENCE)
H = [1.5, -4.5, 0.0]  # (1 - -.5), (-2.5 - 2), 0


def numpy(x):
    return ops.convert_to_numpy(x)


def close(x, expected, **tolerance):
    np.testing.assert_allclose(numpy(x), expected, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def slopes(loss, *points):
    """The gradients of a scalar `loss(*points)`."""
    points = [keras.Variable(np.float32(x)) for x in points]
    _, _, gradients = value_and_grad(
        lambda: (loss(*map(ops.convert_to_tensor, points)), None), points
    )
    return [numpy(g) for g in gradients]


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def log_odds(p):
    return math.log(p / (1 - p))


# Values


def test_sigmoid():
    loss = preference_loss(*PAIRS, loss_type="sigmoid", beta=0.3)
    close(loss, [-log_sigmoid(0.3 * h) for h in H])
    free = preference_loss(CHOSEN, REJECTED, None, None, loss_type="sigmoid", beta=0.3)
    close(free, [-log_sigmoid(0.3 * h) for h in CHOSEN - REJECTED])


def test_smoothed_and_robust():
    def smoothed(h, sign):
        z = 0.3 * h
        return -0.8 * log_sigmoid(z) - sign * 0.2 * log_sigmoid(-z)

    conservative = preference_loss(*PAIRS, loss_type="sigmoid", beta=0.3, label_smoothing=0.2)
    close(conservative, [smoothed(h, 1) for h in H])
    robust = preference_loss(*PAIRS, loss_type="robust", beta=0.3, label_smoothing=0.2)
    close(robust, [smoothed(h, -1) / 0.6 for h in H])
    assert preference_loss(
        [20.0], [0.0], None, None, loss_type="robust", beta=1.0, label_smoothing=0.2
    ) < 0  # fmt: skip


def test_hinge():
    loss = preference_loss(*PAIRS, loss_type="hinge", beta=1.0)
    close(loss, [0, 5.5, 1])


def test_ipo_divides_each_log_ratio_by_its_own_length():
    loss = preference_loss(*PAIRS, loss_type="ipo", beta=0.5, **LENGTHS)
    margins = [1 / 6 - -0.5 / 4, -2.5 / 10 - 2 / 7, 0]
    close(loss, [(m - 1) ** 2 for m in margins])


def test_simpo_has_a_margin_and_no_reference():
    loss = preference_loss(*PAIRS, loss_type="simpo", beta=2.0, gamma=0.5, **LENGTHS)
    margins = [-12 / 6 - -14 / 4, -30.5 / 10 - -21 / 7, 0]
    close(loss, [-log_sigmoid(2 * m - 0.5) for m in margins])
    alone = preference_loss(
        CHOSEN, REJECTED, None, None, loss_type="simpo", beta=2.0, gamma=0.5, **LENGTHS
    )
    close(alone, numpy(loss))


def test_orpo_adds_a_ratio_of_odds_to_the_mean_nll():
    loss = preference_loss(*PAIRS, loss_type="orpo", beta=0.4, **LENGTHS)
    expected = []
    for w, n, r, k in zip(
        CHOSEN, LENGTHS["chosen_length"], REJECTED, LENGTHS["rejected_length"], strict=True
    ):
        ratio = log_odds(math.exp(w / n)) - log_odds(math.exp(r / k))
        expected.append(-w / n - 0.4 * log_sigmoid(ratio))
    close(loss, expected)


def test_orpo_stays_finite_at_certainty_and_at_impossibility():
    def loss(chosen, rejected):
        ones = np.ones(2)
        return ops.sum(
            preference_loss(
                chosen, rejected, None, None, loss_type="orpo", beta=0.1,
                chosen_length=ones, rejected_length=ones,
            )
        )  # fmt: skip

    points = [[0.0, -800.0], [-800.0, 0.0]]
    assert np.isfinite(float(loss(*points)))
    assert all(np.isfinite(g).all() for g in slopes(loss, *points))


def test_kto():
    r = np.array([1.0, -2.5, 0.0, 3.0])
    desirable = np.array([True, True, False, False])
    loss = preference.kto_loss(
        r - 5,
        np.full(4, -5.0),
        desirable,
        0.4,
        beta=0.5,
        desirable_weight=1.5,
        undesirable_weight=0.7,
    )
    good = [1.5 * (1 - sigmoid(0.5 * (x - 0.4))) for x in r[:2]]
    bad = [0.7 * (1 - sigmoid(0.5 * (0.4 - x))) for x in r[2:]]
    close(loss, good + bad)


def test_the_reference_point_of_kto_is_a_constant_and_not_negative():
    close(preference.kto_reference_point([-3.0, -4.0], [-4.0, -6.0]), 1.5)
    close(preference.kto_reference_point([-5.0, -4.0], [-4.0, -4.5]), 0)
    ref = np.full(2, -4.0, "float32")

    def loss(x):
        z = preference.kto_reference_point(x, ref)
        return ops.sum(preference.kto_loss(x, ref, [True, False], z, beta=1.0))

    (gradient,) = slopes(loss, [-3.0, -2.0])  # r = 1, 2; z = 1.5
    bell = sigmoid(0.5) * sigmoid(-0.5)
    close(gradient, [-bell, bell])


def test_implicit_rewards():
    close(preference.implicit_rewards(CHOSEN, REFERENCE[0], 0.1), [0.1, -0.25, 0])


def test_log1mexp_is_exact_at_both_ends():
    x = np.array([-1e-6, -0.1, -math.log(2), -1.0, -16.0, -60.0])
    expected = [*np.log(-np.expm1(x[:4])), *-np.exp(x[4:])]
    close(preference.log1mexp(x), expected, rtol=2e-6, atol=0)
    (gradient,) = slopes(lambda x: ops.sum(preference.log1mexp(x)), x)
    close(gradient, -np.exp(x) / -np.expm1(x), rtol=1e-5, atol=0)


@pytest.mark.seam
def test_bradley_terry():
    chosen, rejected = np.array([1.5, -4.0, 0.0]), np.array([0.5, 2.0, 0.0])
    h = chosen - rejected
    close(preference.bradley_terry(chosen, rejected), [-log_sigmoid(x) for x in h])
    margin = np.array([0.0, 1.0, 3.0])
    loss = preference.bradley_terry(chosen, rejected, margin, 0.01)
    expected = [-log_sigmoid(x - m) for x, m in zip(h, margin, strict=True)]
    close(loss, expected + 0.01 * (chosen + rejected) ** 2)


@pytest.mark.seam
def test_where_rewards_of_mixed_preferences_settle():
    """80 of 100 labels say one thing: ln 4 apart, at a loss of .5004, and about 0."""

    def loss(r):
        ones, others = r[:1], r[1:]
        wrong = preference.bradley_terry(others, ones, centering=0.01)
        return ops.sum(0.8 * preference.bradley_terry(ones, others, centering=0.01) + 0.2 * wrong)

    half = math.log(4) / 2
    close(loss(ops.convert_to_tensor(np.float32([half, -half]))), 0.5004, atol=1e-4)
    (gradient,) = slopes(loss, [half, -half])
    close(gradient, [0, 0])
    (gradient,) = slopes(loss, [half + 1, 1 - half])
    close(gradient, [0.04, 0.04])  # 2 c (r_w + r_l)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((np.ones((2, 1)), np.ones(2)), r"\(B,\). Received: shapes \(2, 1\) and \(2,\)"),
        ((np.ones(2), np.ones(3)), "Received: shapes"),
        ((np.ones(2), np.ones(2), np.ones(3)), "`margin` must be a number or one for each pair"),
        ((np.ones(2), np.ones(2), 0.0, -1.0), "`centering` must not be negative"),
    ],
)
def test_rewards_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        preference.bradley_terry(*arguments)


# Laws


def test_the_first_loss_is_ln_2_and_its_slope_half_beta():
    for loss_type in ("sigmoid", "robust"):
        loss = preference_loss(*REFERENCE, *REFERENCE, loss_type=loss_type, beta=0.1)
        close(loss, [math.log(2)] * 3)
    gradients = slopes(
        lambda c, r: ops.sum(preference_loss(c, r, *REFERENCE, loss_type="sigmoid", beta=0.1)),
        *REFERENCE,
    )
    close(gradients[0], [-0.05] * 3)
    close(gradients[1], [0.05] * 3)


def test_references_are_constants():
    gradients = slopes(
        lambda *pair: ops.sum(preference_loss(*pair, loss_type="sigmoid", beta=0.1)), *PAIRS
    )
    assert np.all(gradients[0] != 0) and np.all(gradients[2] == 0) and np.all(gradients[3] == 0)


def at(h, **options):
    """The loss and its slope in h of one pair with lengths of 1."""

    def loss(h):
        zero = ops.zeros((1,))
        one = np.ones(1)
        return ops.sum(
            preference_loss(h, zero, zero, zero, chosen_length=one, rejected_length=one, **options)
        )

    (gradient,) = slopes(loss, [h])
    return float(loss(np.float32([h]))), float(gradient[0])


def mixed(h, **options):
    """The mean over the labels of a pair that is preferred in 80 of 100 cases."""
    return 0.8 * np.array(at(h, **options)) + 0.2 * np.array(at(-h, **options)) * [1, -1]


def test_where_mixed_preferences_settle():
    logit = math.log(4)  # 1.386
    loss, gradient = mixed(logit / 0.1, loss_type="sigmoid", beta=0.1)
    assert abs(loss - 0.5004) < 1e-4 and abs(gradient) < 1e-6
    loss, gradient = mixed((2 * 0.8 - 1) / (2 * 0.1), loss_type="ipo", beta=0.1)
    assert abs(gradient) < 1e-5
    # Smoothing by ε does with clean labels what a share ε of wrong ones does.
    assert abs(at(logit / 0.1, loss_type="sigmoid", beta=0.1, label_smoothing=0.2)[1]) < 1e-6


def test_the_robust_loss_of_noisy_labels_is_the_loss_of_clean_ones():
    for h in (-3.0, 0.7, 12.0):
        noisy = mixed(h, loss_type="robust", beta=0.3, label_smoothing=0.2)
        np.testing.assert_allclose(noisy, at(h, loss_type="sigmoid", beta=0.3), atol=1e-5)


# Misuse


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("Did you mean 'sigmoid'", {"loss_type": "sigmoids"}),
        ("chosen_length", {"loss_type": "ipo", "rejected_length": np.ones(3)}),
        ("rejected_length", {"loss_type": "simpo", "chosen_length": np.ones(3)}),
        ("chosen_length", {"loss_type": "orpo"}),
        ("'hinge' has no `label_smoothing`", {"loss_type": "hinge", "label_smoothing": 0.1}),
        ("'ipo' has no `label_smoothing`", {"loss_type": "ipo", "label_smoothing": 0.1} | LENGTHS),
        ("'sigmoid' has no `gamma`", {"loss_type": "sigmoid", "gamma": 0.5}),
        ("below 0.5", {"loss_type": "robust", "label_smoothing": 0.5}),
        ("at most 0.5", {"loss_type": "sigmoid", "label_smoothing": 0.6}),
        ("not be negative", {"loss_type": "sigmoid", "label_smoothing": -0.1}),
        ("`beta` must be positive", {"loss_type": "sigmoid", "beta": 0.0}),
    ],
)
def test_bad_options_are_refused(message, options):
    with pytest.raises(ValueError, match=message):
        preference_loss(*PAIRS, **({"beta": 0.1} | options))


def test_bad_tensors_are_refused():
    with pytest.raises(ValueError, match="whole completions"):
        preference_loss(CHOSEN[:, None], REJECTED, *REFERENCE, loss_type="sigmoid", beta=0.1)
    with pytest.raises(ValueError, match="both answers or of neither"):
        preference_loss(CHOSEN, REJECTED, REFERENCE[0], None, loss_type="sigmoid", beta=0.1)


def test_every_row_of_the_table_is_a_loss_per_pair():
    for name in preference.PREFERENCE_LOSSES:
        loss = preference_loss(*PAIRS, loss_type=name, beta=0.5, **LENGTHS)
        assert loss.shape == (3,) and np.isfinite(numpy(loss)).all()


@pytest.mark.backends("jax")
@pytest.mark.parametrize("name", preference.PREFERENCE_LOSSES)
def test_losses_are_traced_with_a_traced_beta(name):
    import jax

    def loss(chosen, rejected, lengths, beta):
        return preference_loss(
            chosen, rejected, chosen, rejected, loss_type=name, beta=beta,
            chosen_length=lengths, rejected_length=lengths,
        )  # fmt: skip

    assert jax.eval_shape(loss, CHOSEN, REJECTED, LENGTHS["chosen_length"], 0.1).shape == (3,)
