"""What rules the choice of a token against tables by hand, and the loops against plain ones."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.samplers import tokens as t

P = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
LOGITS = np.log(P)[None].astype("float32")


def numpy(x):
    return ops.convert_to_numpy(x)


def kept(logits):
    return np.isfinite(numpy(logits))[0].tolist()


# What may follow


def test_top_k_keeps_the_k_largest():
    shuffled = LOGITS[:, [3, 0, 4, 1, 2]]
    assert kept(t.top_k(shuffled, 2)) == [False, True, False, True, False]
    assert kept(t.top_k(shuffled, 9)) == [True] * 5


@pytest.mark.parametrize(
    "p, count",
    [(0.3, 1), (0.5, 1), (0.51, 2), (0.69, 2), (0.71, 3), (0.86, 4), (0.96, 5), (1.0, 5)],
)
def test_top_p_keeps_the_token_that_crosses(p, count):
    """.5 + .2 passes .51: both stay, and nothing after them."""
    order = [3, 0, 4, 1, 2]
    expected = np.arange(5) < count
    assert kept(t.top_p(LOGITS[:, order], p)) == expected[order].tolist()


def test_min_p_is_a_share_of_the_likeliest():
    assert kept(t.min_p(LOGITS, 0.25)) == [True, True, True, False, False]
    assert kept(t.min_p(LOGITS, 1.0)) == [True, False, False, False, False]


def test_limits_leave_the_other_logits_alone_and_compose():
    limited = numpy(t.min_p(t.top_p(t.top_k(LOGITS, 4), 0.9), 0.25))[0]
    np.testing.assert_array_equal(limited[:3], LOGITS[0, :3])
    assert np.all(limited[3:] == -np.inf)


def test_a_penalty_divides_positive_and_multiplies_negative_logits():
    logits = np.float32([[2.0, -2.0, 2.0, -2.0]])
    seen = t.seen_tokens(np.array([[0, 1, 1, 3]]), np.array([[1, 1, 1, 0]]), 4)
    np.testing.assert_array_equal(numpy(seen), [[1, 1, 0, 0]])
    np.testing.assert_allclose(numpy(t.repetition_penalty(logits, seen, 1.5)),
                               [[2 / 1.5, -3.0, 2.0, -2.0]], rtol=1e-6)  # fmt: skip


# What follows


def test_choice_inverts_the_cumulated_probabilities():
    u = np.float32([0.0, 0.49, 0.51, 0.69, 0.71, 0.84, 0.86, 0.94, 0.96, 1 - 2**-24])
    drawn = numpy(t.choice(np.repeat(LOGITS, 10, 0), u))
    np.testing.assert_array_equal(drawn, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])


def test_what_is_ruled_out_is_never_chosen():
    logits = np.float32([[-np.inf, 0.0, -np.inf, 0.0, -np.inf]])
    for u in (0.0, 0.4999, 0.5001, 1 - 2**-24, 1.0):
        assert int(numpy(t.choice(logits, np.float32([u])))[0]) in (1, 3)


def test_frequencies_are_the_tempered_limited_probabilities():
    """100,000 stratified uniforms: frequencies are exact to 1e-5, not to a standard error."""
    n = 100_000
    u = ((np.arange(n) + 0.5) / n).astype("float32")
    rule = t.Rule(temperature=0.5, top_k=4, top_p=0.95)
    drawn, scores = rule(np.repeat(LOGITS, n, 0), None, ops.convert_to_tensor(u))
    sharp = P**2 / np.sum(P**2)
    limited = np.where(np.arange(5) < 3, P**2, 0)  # .25, .04, .0225 of .3225 pass .95
    counts = np.bincount(numpy(drawn), minlength=5) / n
    np.testing.assert_allclose(counts, limited / limited.sum(), atol=3e-5)
    np.testing.assert_allclose(numpy(scores), np.log(sharp)[numpy(drawn)], rtol=1e-5)


def test_a_greedy_rule_scores_at_temperature_one():
    tokens, scores = t.Rule(greedy=True)(LOGITS, None, None)
    assert int(numpy(tokens)[0]) == 0
    np.testing.assert_allclose(numpy(scores), [np.log(0.5)], rtol=1e-6)


# The loops, on a chain: the next token depends on the last alone


class Chain:
    """A decoder without a cache but a count of its calls."""

    def __init__(self, size, seed=0):
        table = np.random.default_rng(seed).dirichlet(np.ones(size), size)
        self.table = np.log(table).astype("float32")

    def __call__(self, tokens, index, cache):
        return ops.take(ops.convert_to_tensor(self.table), tokens, axis=0), cache + 1


def generated(chain, first, uniforms, rule=None, **row_end):
    rule = t.Rule() if rule is None else rule
    rows, count = uniforms.shape
    u = ops.convert_to_tensor(uniforms)
    logits = ops.convert_to_tensor(chain.table[first])
    seen = ops.zeros((rows, chain.table.shape[1])) if rule.repetition_penalty else None
    state = t.start_decode(logits, rule, u, seen, ops.zeros((rows,), "int32"), **row_end)
    return t.continue_decode(state, chain, rule, u, **row_end), state


def test_a_loop_draws_what_a_plain_one_draws():
    chain, u = Chain(6), np.random.default_rng(1).uniform(size=(4, 9)).astype("float32")
    state, _ = generated(chain, [0, 1, 2, 3], u)
    for row in range(4):
        token, cumulated = row, np.cumsum(np.exp(np.float64(chain.table)), axis=1)
        for index in range(9):
            scores = chain.table[token]
            token = int(np.searchsorted(cumulated[token], u[row, index], side="right"))
            assert numpy(state["tokens"])[row, index] == token
            assert numpy(state["log_probs"])[row, index] == pytest.approx(scores[token], abs=1e-5)


def test_rows_end_by_themselves_and_the_loop_with_the_last():
    chain, u = Chain(6), np.random.default_rng(1).uniform(size=(4, 40)).astype("float32")
    free = numpy(generated(chain, [0, 1, 2, 3], u)[0]["tokens"])
    ends = ops.convert_to_tensor(np.array([2, 4], "int32"))
    state, _ = generated(chain, [0, 1, 2, 3], u, ends=ends, pad=5)
    tokens, scores = numpy(state["tokens"]), numpy(state["log_probs"])
    last = [int(np.flatnonzero(np.isin(row, (2, 4)))[0]) for row in free]
    for row, end in enumerate(last):
        np.testing.assert_array_equal(tokens[row, : end + 1], free[row, : end + 1])
        assert np.all(tokens[row, end + 1 :] == 5) and np.all(scores[row, end + 1 :] == 0)
    assert int(state["index"]) == max(last) + 1
    # One call of the decoder for each token after the first, and none beyond the last.
    assert numpy(state["cache"])[0] == max(last)


def test_a_loop_in_pieces_is_the_loop():
    chain, u = Chain(6), np.random.default_rng(1).uniform(size=(3, 11)).astype("float32")
    whole, state = generated(chain, [0, 1, 2], u)
    for until in (4, 5, 11):
        state = t.continue_decode(state, chain, t.Rule(), ops.convert_to_tensor(u), until=until)
        assert int(state["index"]) == until
    np.testing.assert_array_equal(numpy(state["tokens"]), numpy(whole["tokens"]))


def test_an_endless_penalty_leaves_each_token_once():
    chain = Chain(6)
    chain.table[...] += 20.0  # positive logits, which a large penalty brings to nothing
    u = np.random.default_rng(1).uniform(size=(3, 6)).astype("float32")
    rule = t.Rule(repetition_penalty=1e6)
    tokens = numpy(generated(chain, [0, 1, 2], u, rule)[0]["tokens"])
    assert all(sorted(row) == list(range(6)) for row in tokens)


def exhaustive(chain, first, length, ends, penalty):
    """The best sequence of all, each cut at its end, and its score."""
    best = None
    size = chain.table.shape[1]
    for sequence in itertools.product(range(size), repeat=length):
        cut = next((i + 1 for i, token in enumerate(sequence) if token in ends), length)
        path = (first, *sequence[:cut])
        score = sum(np.float64(chain.table[a, b]) for a, b in itertools.pairwise(path))
        score /= cut**penalty
        if best is None or score > best[0] + 1e-9:
            best = (score, path[1:])
    return best


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("ends", [(), (3,)])
def test_enough_beams_find_the_best_sequence_of_all(ends, penalty):
    chain = Chain(4, seed=3)
    ids = ops.convert_to_tensor(np.array(ends, "int32")) if ends else None
    logits = ops.convert_to_tensor(chain.table[[0, 1, 2]])
    tokens, scores = t.beam_search(
        logits,
        chain,
        ops.zeros((3,), "int32"),
        num_beams=64,
        num_tokens=4,
        length_penalty=penalty,
        ends=ids,
        pad=0,
    )
    for row in range(3):
        score, path = exhaustive(chain, row, 4, ends, penalty)
        found = numpy(tokens)[row]
        np.testing.assert_array_equal(found[: len(path)], path)
        assert np.all(found[len(path) :] == 0)
        total = numpy(scores)[row].sum() / len(path) ** penalty
        assert total == pytest.approx(score, abs=1e-5)


def test_one_beam_is_the_greedy_loop():
    chain = Chain(5, seed=1)
    logits = ops.convert_to_tensor(chain.table[[0, 1]])
    beam, _ = t.beam_search(logits, chain, ops.zeros((2,), "int32"), num_beams=1, num_tokens=7)
    greedy, _ = generated(chain, [0, 1], np.zeros((2, 7), "float32"), t.Rule(greedy=True))
    np.testing.assert_array_equal(numpy(beam), numpy(greedy["tokens"]))


def test_a_cache_follows_its_beam():
    """A decoder that knows the last token only from its cache finds the same sequences."""
    chain = Chain(4, seed=3)

    class Remembering:
        def __call__(self, tokens, index, cache):
            here = ops.concatenate([cache["row"][:, 1:], tokens[:, None]], axis=1)
            return ops.take(ops.convert_to_tensor(chain.table), here[:, -1], axis=0), {"row": here}

    logits = ops.convert_to_tensor(chain.table[[0, 1]])
    options = {"num_beams": 3, "num_tokens": 5}
    cache = {"row": ops.zeros((2, 4), "int32")}
    first = t.beam_search(logits, Remembering(), cache, **options)
    second = t.beam_search(logits, chain, ops.zeros((2,), "int32"), **options)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


def test_a_full_decoder_calls_the_network_on_whole_rows():
    widths = []

    class Net(keras.layers.Layer):
        def call(self, ids, training=False):
            widths.append(tuple(ids.shape))
            return ops.one_hot(ops.cumsum(ids, axis=1) % 7, 7)

    decoder = t.FullDecoder(Net(), 5, 3)
    prompt = ops.convert_to_tensor(np.array([[1, 2, 0, 0, 0], [1, 2, 3, 0, 0]], "int32"))
    logits, cache = decoder.start(prompt, ops.convert_to_tensor(np.array([2, 3], "int32")))
    np.testing.assert_array_equal(numpy(ops.argmax(logits, -1)), [3, 6])
    logits, cache = decoder(ops.convert_to_tensor(np.array([4, 5], "int32")), 0, cache)
    np.testing.assert_array_equal(numpy(ops.argmax(logits, -1)), [0, 4])
    assert set(widths) == {(2, 7)}


# Sums that round


EDGES = np.float32([0.0, 1e-38, 1e-7, 0.27225962, 0.5, 1 - 2**-24])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("size", "k"), [(32_000, 50), (128_000, 3), (128_000, 1)])
def test_a_large_vocabularys_ruled_out_tokens_are_never_drawn(size, k, dtype):
    """The cumulated sum of 32,000 numbers isn't monotone: it fell where tokens were ruled out."""
    logits = np.full((16, size), -np.inf, "float32")
    places = np.random.default_rng(0).permuted(np.tile(np.arange(size), (16, 1)), axis=1)[:, :k]
    values = np.random.default_rng(1).normal(0, 3, (16, k))
    np.put_along_axis(logits, places, values.astype("float32"), axis=1)
    uniforms = np.concatenate([EDGES, np.random.default_rng(2).random(10, "float32")])
    drawn = numpy(t.choice(ops.cast(logits, dtype), uniforms))
    assert all(token in row for token, row in zip(drawn, places, strict=True))


def test_each_step_of_the_sum_hits_a_possible_token():
    """Numbers just at, below and above each step of the cumulated probabilities."""
    random = np.random.default_rng(3)
    logits = np.full((1, 4096), -np.inf, "float32")
    places = np.sort(random.choice(4096, 50, replace=False))
    logits[0, places] = random.normal(0, 3, 50)
    p = np.exp(logits[0, places].astype("float64"))
    steps = (np.cumsum(p) / p.sum()).astype("float32")
    uniforms = np.concatenate([np.nextafter(steps, np.float32(s)) for s in (0, 2)] + [steps])
    uniforms = np.minimum(uniforms, np.float32(1 - 2**-24))
    drawn = numpy(t.choice(np.repeat(logits, len(uniforms), 0), uniforms))
    expected = np.minimum(np.searchsorted(places, drawn), 49)
    np.testing.assert_array_equal(places[expected], drawn)
    lag = np.abs(expected - np.tile(np.arange(50), 3))
    assert lag.max() <= 2  # a token on from the step, or one that float32 can't tell from it


def test_extreme_settings_stay_finite():
    logits = np.float32([[30.0, -2.0, 30.5, -np.inf]])
    seen = np.float32([[0.0, 1.0, 1.0, 1.0]])
    for penalty in (1e-30, 1e30):
        out = numpy(t.repetition_penalty(logits, seen, np.float32(penalty)))
        assert np.isfinite(out[0, :3]).all() and out[0, 3] == -np.inf
    for temperature in (1e-30, 1e30):
        rule = t.Rule(temperature=np.float32(temperature), repetition_penalty=np.float32(1e-30))
        tokens, scores = rule(logits, seen, np.float32([0.3]))
        assert int(numpy(tokens)[0]) in (0, 1, 2) and not np.isnan(numpy(scores)).any()
    # Almost no temperature is the likeliest token, with certainty.
    tokens, scores = t.Rule(temperature=np.float32(1e-30))(logits, None, np.float32([0.9]))
    assert int(numpy(tokens)[0]) == 2 and float(numpy(scores)[0]) == 0.0
