"""The autoregressive family against chains whose every probability is known."""

import logging

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.models import Autoregressive
from artifex_keras.networks import CausalTransformer


def numpy(x):
    return ops.convert_to_numpy(x)


def table_model(size=5, seed=0, **options):
    """A model whose next token depends on the last alone, by a table that is its only weight; it
    has no cache. Gives it and the table's logarithms."""
    table = np.random.default_rng(seed).dirichlet(np.ones(size), size)
    ids = keras.Input((None,), dtype="int32")
    rows = keras.layers.Embedding(size, size, name="table")
    network = keras.Model(ids, rows(ids), name="chain")
    rows.embeddings.assign(np.log(table))
    model = Autoregressive(network, **{"seed": 0, **options})
    model.build((None, 8))
    return model, np.log(table)


def transformer_model(size=11, length=32, positions="rotary", **options):
    keras.utils.set_random_seed(0)
    network = CausalTransformer(
        size, length, num_layers=1, num_heads=2, width=16, positions=positions
    )
    for weight in network.trainable_weights:
        weight.assign(np.random.default_rng(2).normal(0, 0.5, weight.shape))
    return Autoregressive(network, **{"seed": 0, **options})


def path_nats(log_table, row):
    return -np.array([log_table[a, b] for a, b in zip(row[:-1], row[1:], strict=True)])


# What is learned


@pytest.mark.parametrize("batch_size", [2, 5])
def test_loss_and_perplexity_are_over_tokens_not_over_batches(batch_size, random):
    """Rows of 2 to 8 real tokens in uneven batches: the sums over all tokens, whatever they are."""
    model, log_table = table_model(pad_token_id=4, label_smoothing=0.2)
    x = random.integers(0, 4, (5, 8)).astype("int32")
    lengths = [8, 2, 3, 7, 4]
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 4
    nats = np.concatenate(
        [path_nats(log_table, row[:n]) for row, n in zip(x, lengths, strict=True)]
    )
    model.compile("sgd")
    logs = model.evaluate(x, batch_size=batch_size, verbose=0, return_dict=True)
    assert logs["perplexity"] == pytest.approx(np.exp(nats.mean()), rel=1e-5)
    assert model.perplexity(x, batch_size=batch_size) == pytest.approx(np.exp(nats.mean()))
    inputs = np.concatenate([row[: n - 1] for row, n in zip(x, lengths, strict=True)])
    smoothed = 0.8 * nats - 0.2 * log_table[inputs].mean(1)
    assert logs["loss"] == pytest.approx(smoothed.mean(), rel=1e-5)
    targets = np.concatenate([row[1:n] for row, n in zip(x, lengths, strict=True)])
    right = np.mean(log_table[inputs].argmax(1) == targets)
    assert logs["accuracy"] == pytest.approx(right, abs=1e-6)


def test_labels_masks_and_weights_say_alike_what_counts(random):
    model, log_table = table_model()
    x = random.integers(0, 5, (4, 8)).astype("int32")
    mask = random.uniform(size=(4, 8)) < 0.5
    mask[:, 1] = True
    labels = np.where(mask, x, -100)
    expected = np.exp(np.concatenate(
        [path_nats(log_table, row)[m[1:]] for row, m in zip(x, mask, strict=True)]
    ).mean())  # fmt: skip
    weight = mask.astype("float32")
    assert model.perplexity(x, mask) == pytest.approx(expected, rel=1e-5)
    assert model.perplexity(x, labels.astype("int32")) == pytest.approx(expected, rel=1e-5)
    assert model.perplexity(x, sample_weight=weight) == pytest.approx(expected, rel=1e-5)
    model.compile("sgd")
    for arguments in ({"y": mask}, {"y": labels}, {"sample_weight": weight}):
        logs = model.evaluate(x, batch_size=3, verbose=0, return_dict=True, **arguments)
        assert logs["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_weights_of_rows_multiply_their_tokens(random):
    model, log_table = table_model()
    x = random.integers(0, 5, (3, 8)).astype("int32")
    weight = np.float32([1.0, 0.0, 3.0])
    nats = np.array([path_nats(log_table, row).sum() for row in x])
    expected = np.exp((weight * nats).sum() / (7 * weight.sum()))
    assert model.perplexity(x, sample_weight=weight) == pytest.approx(expected, rel=1e-5)


def test_log_prob_is_of_each_token_and_of_the_first_with_a_start(random):
    model, log_table = table_model()
    x = random.integers(0, 5, (3, 8)).astype("int32")
    expected = -np.stack([path_nats(log_table, row) for row in x])
    np.testing.assert_allclose(numpy(model.log_prob(x)), expected, rtol=1e-5)
    model, log_table = table_model(start_token_id=2)
    scores = numpy(model.log_prob(x))
    np.testing.assert_allclose(scores[:, 0], log_table[2, x[:, 0]], rtol=1e-5)
    np.testing.assert_allclose(scores[:, 1:], expected, rtol=1e-5)


def test_tokens_that_do_not_count_change_nothing(random):
    """A response mask: the gradient is that of the response alone, junk labels included."""
    x = random.integers(0, 5, (6, 8)).astype("int32")
    mask = np.broadcast_to(np.arange(8) >= 5, (6, 8))
    labels = np.where(mask, x, -100).astype("int32")
    weights = []
    for y in (mask, labels):
        model, _ = table_model()
        model.compile(keras.optimizers.SGD(1.0))
        model.train_on_batch(x, y)
        weights.append(numpy(model.network.trainable_weights[0]))
    np.testing.assert_array_equal(*weights)
    untouched = sorted(set(range(5)) - set(x[:, 4:-1].ravel()))
    _, log_table = table_model()
    np.testing.assert_allclose(weights[0][untouched], log_table[untouched], rtol=1e-6)
    assert np.any(np.abs(weights[0] - log_table) > 1e-3)


def test_scheduled_sampling_replaces_an_input_by_what_was_said_before_it():
    """A chain that always goes one up: an own token is the true predecessor plus one."""
    model, _ = table_model(scheduled_sampling="linear", scheduled_sampling_steps=4)
    up = np.where(np.roll(np.eye(5), 1, axis=1) > 0, 0.0, -50.0)
    model.network.trainable_weights[0].assign(up)
    inputs = np.array([[0, 3, 1, 1]], "int32")
    draws = {"coin": 0.0}
    model.uniform = lambda shape, rows=0: ops.full(shape, draws["coin"])
    model.step.assign(2)  # half of the inputs are true
    for coin, expected in ((0.4, [0, 3, 1, 1]), (0.6, [0, 1, 4, 2])):
        draws["coin"] = coin
        np.testing.assert_array_equal(numpy(model._partly_own(ops.convert_to_tensor(inputs))),
                                      [expected])  # fmt: skip


@pytest.mark.backends("jax")
def test_a_chain_is_learned_to_its_entropy():
    """A1: the gap to the true model on the same test tokens is at most .002 nats."""
    table = np.random.default_rng(0).dirichlet(0.5 * np.ones(8), 8)
    random = np.random.default_rng(1)

    def chains(rows, length):
        x = np.zeros((rows, length), "int32")
        x[:, 0] = random.integers(0, 8, rows)
        for t in range(1, length):
            cumulated = table[x[:, t - 1]].cumsum(1)
            x[:, t] = (cumulated < random.uniform(size=(rows, 1))).sum(1).clip(0, 7)
        return x

    train, test = chains(4096, 65), chains(1024, 65)
    model, _ = table_model(size=8)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.3, 320)))
    model.fit(train, batch_size=256, epochs=20, verbose=0)
    true = -np.log(table[test[:, :-1], test[:, 1:]]).mean()
    assert true == pytest.approx(1.49987, abs=0.02)  # the entropy rate
    gap = np.log(model.perplexity(test, batch_size=1024)) - true
    assert 0 <= gap <= 0.002


# What is generated


def test_the_cache_changes_nothing_and_padding_neither():
    model = transformer_model(pad_token_id=0)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    tokens, scores = model.generate(prompts, 9, return_log_probs=True, seed=3)
    assert tokens.shape == (3, 9)
    right, left = np.zeros((3, 6), "int32"), np.zeros((3, 6), "int32")
    for a, b, row in zip(right, left, prompts, strict=True):
        a[: len(row)], b[-len(row) :] = row, row
    lengths = [len(row) for row in prompts]
    for prompt, option in (
        (right, {"prompt_lengths": lengths}),
        (right, {"prompt_mask": right > 0}),
        (left, {"prompt_mask": left > 0}),
        (left, {}),  # the padding's id tells
    ):
        again = model.generate(prompt, 9, seed=3, **option)
        np.testing.assert_array_equal(numpy(again), numpy(tokens))
    alone = model.generate([4, 5, 6, 7, 8], 9, 0)
    together = model.generate(prompts, 9, 0)
    np.testing.assert_array_equal(numpy(alone)[0], numpy(together)[1])
    # Log-probabilities are those of a pass over the whole rows.
    for row, made, score in zip(prompts, numpy(tokens), numpy(scores), strict=True):
        full = numpy(model.log_prob(np.array([[*row, *made]], "int32")))[0, -9:]
        np.testing.assert_allclose(score, full, atol=1e-5)


def test_without_a_cache_it_is_the_same_and_said_once(caplog):
    model = transformer_model()
    ids = keras.Input((None,), dtype="int32")
    plain = Autoregressive(keras.Model(ids, model.network(ids)), seed=0)
    plain.build((None, 32))
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    with caplog.at_level(logging.WARNING, logger="artifex_keras"):
        for seed in (1, 2):
            made = plain.generate(prompts, 7, 0.8, seed=seed)
            np.testing.assert_array_equal(
                numpy(made), numpy(model.generate(prompts, 7, 0.8, seed=seed))
            )
    assert sum("no key-value cache" in record.message for record in caplog.records) == 1


def test_a_network_of_one_width_generates_up_to_it():
    ids = keras.Input((6,), dtype="int32")
    table = keras.layers.Embedding(5, 5)
    model = Autoregressive(keras.Model(ids, table(ids)), seed=0)
    assert model.max_length == 6 and model.sample(2).shape == (2, 7)
    assert model.generate([[1, 2, 3]], 4).shape == (1, 4)
    with pytest.raises(ValueError, match="context of 6"):
        model.generate([[1, 2, 3]], 5)


def test_a_context_shorter_than_the_prompts_padding_is_used_to_its_end():
    """Prompts are padded to 16 places; learned ones end at 7."""
    model = transformer_model(length=7, positions="learned")
    tokens, scores = model.generate([[1, 2, 3], [4]], 5, return_log_probs=True, seed=0)
    row = np.concatenate([[1, 2, 3], numpy(tokens)[0]])[None]
    np.testing.assert_allclose(numpy(model.log_prob(row))[0, -5:], numpy(scores)[0], atol=1e-5)


def test_padding_stays_inside_the_length_that_was_trained():
    """Of a network that doesn't tell its context: beyond it its places may be no numbers."""
    widths = []

    class Net(keras.layers.Layer):
        def call(self, ids, training=False):
            widths.append(ids.shape[1])
            return ops.one_hot(ids, 5)

    model = Autoregressive(Net(), seed=0)
    model.build((None, 9))
    model.generate([[1, 2, 3]], 4)
    assert max(widths) == 8


def test_draws_follow_the_chain():
    model, log_table = table_model()
    pairs = numpy(model.generate(np.repeat(np.arange(5), 4000)[:, None], 1, seed=0))[:, 0]
    for token in range(5):
        share = np.bincount(pairs[4000 * token : 4000 * (token + 1)], minlength=5) / 4000
        np.testing.assert_allclose(share, np.exp(log_table[token]), atol=0.035)


def test_a_temperature_of_zero_takes_the_likeliest():
    model, log_table = table_model()
    made = numpy(model.generate([[0], [3]], 6, temperature=0))
    for row, token in zip(made, (0, 3), strict=True):
        for t in row:
            assert t == log_table[token].argmax()
            token = t
    one = numpy(model.generate([[0], [3]], 6, top_k=1))
    np.testing.assert_array_equal(one, made)


def test_rows_end_with_any_of_the_end_tokens():
    model, _ = table_model(pad_token_id=4)
    prompts = np.arange(4)[:, None]
    free = numpy(model.generate(prompts, 30, seed=1))
    made, scores = model.generate(prompts, 30, end_token_id=[1, 2], return_log_probs=True, seed=1)
    made, scores = numpy(made), numpy(scores)
    for row in range(4):
        end = int(np.flatnonzero(np.isin(free[row], (1, 2)))[0]) + 1
        np.testing.assert_array_equal(made[row, :end], free[row, :end])
        assert np.all(made[row, end:] == 4) and np.all(scores[row, end:] == 0)
    model.pad_token_id = None
    padded = numpy(model.generate(prompts, 30, end_token_id=[2, 0, 1, 3], seed=1))
    assert np.all(padded[:, -1] == 2)  # without padding of its own the first end token


def test_injected_noise_gives_the_same_tokens_on_every_backend():
    """The numbers of JAX; what is drawn is the uniforms' doing alone."""
    model = transformer_model()
    waves = 0.5 + 0.5 * np.sin(np.arange(400) * 1.7)
    model.uniform = lambda shape, rows=0: ops.reshape(
        ops.convert_to_tensor(waves[: int(np.prod(shape))].astype("float32")), shape
    )
    made = numpy(model.generate([[1, 2, 3], [4]], 8, 0.9, top_p=0.9, repetition_penalty=1.1))
    np.testing.assert_array_equal(made, EXPECTED)


EXPECTED = [[4, 10, 1, 0, 5, 10, 0, 0], [10, 4, 0, 3, 10, 3, 0, 4]]


def test_a_stream_sees_every_token_once():
    model, pieces = transformer_model(), []
    made = numpy(model.generate([[1, 2], [3]], 20, stream=pieces.append, seed=2))
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), made)
    assert [piece.shape[1] for piece in pieces] == [1, 8, 8, 3]
    np.testing.assert_array_equal(made, numpy(model.generate([[1, 2], [3]], 20, seed=2)))


def test_beams_find_a_likelier_sequence_than_greed():
    model, log_table = table_model(seed=3)
    scores = [
        numpy(model.generate([[0]], 5, return_log_probs=True, **options)[1]).sum()
        for options in ({"temperature": 0}, {"num_beams": 25})
    ]
    assert scores[1] >= scores[0]
    cached = transformer_model()
    tokens, scores = cached.generate([[1, 2, 3]], 5, num_beams=4, return_log_probs=True)
    row = np.concatenate([[1, 2, 3], numpy(tokens)[0]])[None]
    np.testing.assert_allclose(numpy(cached.log_prob(row))[0, -5:], numpy(scores)[0], atol=1e-5)


def test_few_programs_serve_prompts_of_many_lengths():
    model = transformer_model()
    for length in (1, 2, 5, 9, 13):
        model.generate([list(range(length % 10)) or [1]], 3)
    assert len([key for key in model.compiled_methods if "generated" in key[0]]) <= 1


# What is refused

PROMPT = [[1, 2, 3]]


@pytest.mark.parametrize(
    "prompt, options, words",
    [
        (PROMPT, {"max_new_tokens": 0}, "`max_new_tokens` must be an integer of at least 1"),
        (PROMPT, {"temperature": -1.0}, "`temperature` must be at least 0"),
        (PROMPT, {"temperature": 1e-39}, "`temperature` must be 0 or a number from 1e-30 to 1e30"),
        (PROMPT, {"temperature": 1e39}, "`temperature` must be 0 or a number from 1e-30 to 1e30"),
        (PROMPT, {"repetition_penalty": 1e-40}, "`repetition_penalty` must be a number from 1e-30"),
        (
            PROMPT,
            {"num_beams": 2, "length_penalty": 1e40},
            r"`length_penalty` must be in \[-10, 10",
        ),
        (PROMPT, {"top_p": 0.0}, "`top_p` must be in .0.0, 1"),
        (PROMPT, {"top_p": 1.1}, "`top_p` must be in .0.0, 1"),
        (PROMPT, {"top_k": 0}, "`top_k` must be an integer of at least 1"),
        (PROMPT, {"end_token_id": 99}, "`end_token_id` must be below"),
        ([[1, 99]], {}, r"Token ids must be in \[0, 11\)"),
        ([[1, -1]], {}, "Token ids must be in"),
        ([[1], []], {}, "at least one token"),
        ([], {}, "at least one prompt"),
        ([[0.5]], {}, "rows of integers"),
        ([[1] * 40], {}, "A prompt must fit into the network's context of 32"),
        ([[1] * 30], {}, "Prompt and new tokens must fit"),
        (PROMPT, {"prompt_mask": [[1, 0, 1]]}, "stand together"),
        (PROMPT, {"prompt_lengths": [4]}, "`prompt_lengths` must say"),
        (PROMPT, {"num_beams": 2, "top_k": 3}, "A beam search draws nothing"),
    ],
)
def test_generation_refuses(prompt, options, words):
    with pytest.raises(ValueError, match=words):
        transformer_model().generate(prompt, **{"max_new_tokens": 8, **options})


def test_a_network_built_for_the_width_of_its_data_says_how_to_take_longer_rows():
    rows = [[1] * 6]
    fixed = [keras.layers.Embedding(5, 4), keras.layers.Dense(5)]
    free = [keras.Input((None,), dtype="int32"), *fixed]
    models = [Autoregressive(keras.Sequential(layers), seed=0) for layers in (fixed, free)]
    for model in models:
        model.build((None, 6))
    with pytest.raises(ValueError, match=r"begin the network with `keras.Input\(\(None,\)\)`"):
        models[0].generate(rows, 1)
    assert models[1].generate(rows, 1).shape == (1, 1)
    with pytest.raises(ValueError, match="Cut it from the left.$"):  # whose context is its own
        transformer_model().generate([[1] * 40], 1)


def test_training_refuses_what_are_no_tokens():
    model = transformer_model(length=8)
    model.compile("sgd")
    for x, words in (
        (np.zeros((4, 1), "int32"), "at least one token to predict.*`start_token_id`"),
        (np.full((4, 8), 11), "Token ids must be in"),
        (np.zeros((4, 12), "int32"), "context of 8"),
        (np.zeros((4, 8), "float32"), "must be integers"),
        (np.zeros((4, 8, 1), "int32"), "rows of token ids"),
    ):
        with pytest.raises(ValueError, match=words):
            model.fit(x, verbose=0)
    late = np.zeros((600, 8), "int32")
    late[500] = 11
    with pytest.raises(ValueError, match="Token ids must be in"):
        model.fit(late, verbose=0)
    with pytest.raises(ValueError, match="shape of the tokens"):
        model.fit(np.zeros((4, 8), "int32"), np.zeros((4, 7), "int32"), verbose=0)


def test_rows_of_one_token_teach_nothing_but_after_a_start_token():
    model, _ = table_model()
    model.compile("sgd")
    one = np.array([[1], [3]], "int32")
    for call in (
        lambda: model.fit(((one, one) for _ in range(2)), verbose=0),
        lambda: model.evaluate(one, verbose=0),
        lambda: model.log_prob(one),
        lambda: model.perplexity(one),
    ):
        with pytest.raises(ValueError, match="at least one token to predict"):
            call()
    with_start, log_table = table_model(start_token_id=0)
    with_start.compile("sgd")
    loss = with_start.evaluate(one, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(-(log_table[0, 1] + log_table[0, 3]) / 2, rel=1e-5)


def test_construction_refuses():
    network = CausalTransformer(11, 8, num_layers=1, num_heads=1, width=4)
    for options, words in (
        ({"pad_token_id": 11}, "`pad_token_id` must be below"),
        ({"label_smoothing": 1.5}, "`label_smoothing`"),
        ({"scheduled_sampling": "sigmoid"}, "Did you mean 'inverse_sigmoid'"),
    ):
        with pytest.raises(ValueError, match=words):
            Autoregressive(network, **options)
    with pytest.raises(ValueError, match="must give logits"):
        last = keras.Sequential([keras.layers.Embedding(5, 5), keras.layers.Flatten()])
        Autoregressive(last).build((None, 8))


# T11


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_small_transformer_learns_shakespeare(shared_data):
    """2.35 nats per character after 500 steps, 1.92 after 2,000, on the last tenth."""
    text = (shared_data / "text" / "tinyshakespeare.txt").read_text()
    alphabet = sorted(set(text))
    ids = np.array([alphabet.index(character) for character in text], "int32")
    train, test = np.split(ids, [int(0.9 * len(ids))])
    starts = np.random.default_rng(0).integers(0, len(train) - 65, 2000 * 12)
    rows = train[starts[:, None] + np.arange(65)]
    held_out = test[: 65 * (len(test) // 65)].reshape(-1, 65)
    reached = {}
    for steps in (500, 2000):
        keras.utils.set_random_seed(0)
        model = Autoregressive(CausalTransformer(len(alphabet), 64), seed=0)
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps, warmup_steps=0)
        model.compile(keras.optimizers.AdamW(rate, weight_decay=0.1), steps_per_execution=50)
        model.fit(rows[: steps * 12], batch_size=12, verbose=0, shuffle=False)
        reached[steps] = np.log(model.perplexity(held_out, batch_size=256))
    print(reached)
    assert reached[500] <= 2.35 and reached[2000] <= 1.92
