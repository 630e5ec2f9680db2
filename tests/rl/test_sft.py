"""Supervised fine-tuning: the loss by hand, packed and chunked the same, what is refused."""

import keras
import numpy as np
import pytest
from algorithms import bigrams, network
from keras import ops

import artifex_keras as ak
from artifex_keras.backend import value_and_grad
from artifex_keras.models.autoregressive.chunks import chunk_of, token_terms

ROWS = [
    {"prompt": [3, 4], "completion": [10, 11, 5]},
    {"prompt": [6, 7, 8], "completion": [9]},
    {"prompt": [12], "completion": [3, 3, 3, 3, 4]},
    {"prompt": [5, 5], "completion": [8, 7]},
]
END = 1


def sft(policy=None, **options):
    policy = network() if policy is None else policy
    return ak.SFT(policy, **{"end_token_id": END, "pad_token_id": 0, "seed": 0, **options})


def numpy(x):
    return ops.convert_to_numpy(x)


def by_hand(logits_of):
    """Σ and number of -ln p over the completions with their ends, in float64."""
    total, count = 0.0, 0
    for row in ROWS:
        ids = [*row["prompt"], *row["completion"], END]
        logits = np.asarray(logits_of(np.int32([ids])), "float64")[0]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for place in range(len(row["prompt"]), len(ids)):
            total, count = total - log_p[place - 1, ids[place]], count + 1
    return total, count


def loss_and_gradients(model, rows=ROWS):
    """The loss of all rows as one batch, and its gradients."""
    arrays = model.prepared_data(rows)
    batch = model.unpack(arrays)

    def loss():
        return model.reduced(model.objective(batch, True), batch.weight)["loss"], None

    value, _, gradients = value_and_grad(loss, model.policy.trainable_variables)
    return float(value), [numpy(g) for g in gradients]


def alike(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6, rtol=1e-6)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.seam
def test_the_loss_is_the_mean_over_the_tokens_of_all_completions():
    policy = network()
    total, count = by_hand(lambda ids: numpy(policy(ids)))
    assert count == 15
    model = sft(policy)
    model.compile(keras.optimizers.SGD(0.0))
    for size in (4, 1, 3):  # not a mean of means: of batches that count 4, 2, 6 and 3 tokens
        logs = model.evaluate(ROWS, batch_size=size, verbose=0, return_dict=True)
        np.testing.assert_allclose(logs["loss"], total / count, rtol=1e-5)
    np.testing.assert_allclose(logs["perplexity"], np.exp(total / count), rtol=1e-5)
    right = 0
    for row in ROWS:
        ids = np.int32([[*row["prompt"], *row["completion"], END]])
        best = numpy(policy(ids))[0].argmax(-1)
        right += sum(best[len(row["prompt"]) - 1 : -1] == ids[0, len(row["prompt"]) :])
    np.testing.assert_allclose(logs["accuracy"], right / count, rtol=1e-6)


def test_it_is_what_trl_computes():
    """TRL 0.24's loss of completions: labels of -100 on prompt and padding, moved by one, cross
    entropy of `reduction="sum"` over their number (transformers' `ForCausalLMLoss`)."""
    model = sft()
    arrays = model.as_arrays(ROWS)
    labels = np.where(arrays["mask"] > 0, arrays["tokens"], -100)[:, 1:]
    logits = np.asarray(numpy(model.policy(arrays["tokens"])), "float64")[:, :-1]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0]
    expected = -(picked * (labels != -100)).sum() / (labels != -100).sum()
    np.testing.assert_allclose(loss_and_gradients(model)[0], expected, rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.seam
@pytest.mark.parametrize("packing", ["best_fit", "wrapped"])
def test_packed_rows_have_the_loss_and_gradients_of_the_rows_alone(packing):
    length = {"best_fit": 14, "wrapped": 25}[packing]  # wrapped: 23 ids, no row is cut in two
    packs = sft(packing=packing, max_length=length)
    arrays = packs.as_arrays(ROWS)
    assert arrays["tokens"].shape == ({"best_fit": 2, "wrapped": 1}[packing], length)
    alike(loss_and_gradients(packs), loss_and_gradients(sft()))


@pytest.mark.seam
@pytest.mark.parametrize("policy", [network, bigrams], ids=["hidden", "functional"])
def test_chunks_change_neither_loss_nor_gradients(policy):
    whole = loss_and_gradients(sft(policy(), chunk_size=None))
    for size in (1, 12):  # 1 column of 4 rows; 3 columns, of 15
        alike(loss_and_gradients(sft(policy(), chunk_size=size)), whole)


def test_automatic_chunks_hold_64_mib_where_all_would_be_more_than_128():
    assert chunk_of("auto", 4, 16, 1000) is None and chunk_of("auto", 8, 128, None) is None
    assert chunk_of("auto", 16, 128, 131_072) == 128
    assert chunk_of(7, 16, 128, 131_072) == 7 and chunk_of(None, 16, 128, 131_072) is None


@pytest.mark.backends("jax")
def test_chunks_take_an_eighth_of_the_memory():
    import jax

    table = np.zeros((8, 16_384), "float32")
    targets = np.zeros((4, 256), "int32")

    def temporaries(size):
        def loss(features, table):
            return ops.sum(token_terms(lambda x: ops.matmul(x, table), features, targets, size)[0])

        step = jax.jit(jax.grad(loss, (0, 1))).lower(np.zeros((4, 256, 8), "float32"), table)
        return step.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(64) < temporaries(None) / 8


def test_it_learns_what_to_say_in_each_turn_of_a_chat():
    tokenizer = ak.datasets.CharacterTokenizer.of("\n~:+=0123aeinrstu ")
    end = tokenizer.id_of("~")
    chat = [
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "1+2="},
        {"role": "assistant", "content": "3"},
    ]
    keras.utils.set_random_seed(0)
    policy = ak.networks.CausalTransformer(
        tokenizer.vocabulary_size, 64, num_layers=1, num_heads=2, width=16
    )
    model = ak.SFT(ak.Autoregressive(policy), tokenizer=tokenizer, end_token_id=end, seed=0)
    model.compile(keras.optimizers.Adam(0.02))
    logs = model.fit([{"messages": chat}] * 4, batch_size=4, epochs=120, verbose=0).history
    assert logs["loss"][-1] < 0.2 and logs["accuracy"][-1] == 1
    for turn, answer in ((1, "2~"), (3, "3~")):
        prompt = tokenizer.encode(ak.datasets.chat_text(chat[:turn]).replace("2\n", "2~\n"))
        ids = model.policy.generate(prompt[None], 2, temperature=0)
        assert tokenizer.decode(np.asarray(ids)[0])[-2:] == answer


def test_a_start_token_is_put_before_each_row():
    """Then the first token of a text is learned too; in packed rows each piece begins with it."""
    policy = ak.Autoregressive(network(), start_token_id=2)
    padded, packs = sft(policy), sft(policy, packing="best_fit", max_length=20)
    texts = [{"text": [3, 4, 5]}, {"text": [6]}]
    for model in (padded, packs):
        batch = model.unpack(model.as_arrays(texts))
        assert float(ops.sum(batch.weight)) == 6
    np.testing.assert_array_equal(packs.as_arrays(texts)["tokens"][0, :8], [2, 3, 4, 5, 1, 2, 6, 1])
    alike(loss_and_gradients(packs, texts), loss_and_gradients(padded, texts))


def test_arrays_and_packed_rows_are_taken_as_they_are():
    model = sft(chunk_size=None)
    packed = ak.datasets.packed([[3, 4, 5], [6, 7]], 8)
    batch = model.unpack(model.prepared_data(packed))
    assert numpy(batch.weight).tolist() == [3.0]  # of 5, two of which are the first
    arrays = model.as_arrays(ROWS)
    assert model.prepared_data(arrays) is arrays
    alike(loss_and_gradients(model, arrays), loss_and_gradients(model))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"packing": "best_fit", "policy": bigrams}, "'bigrams' takes ids alone.*Leave `packing`"),
        ({"packing": "bestfit"}, "Did you mean 'best_fit'"),
        ({"chunk_size": 0}, "`chunk_size` must be"),
        ({"chunk_size": "all"}, "`chunk_size` must be"),
        ({"max_length": 1}, "`max_length` must be"),
        ({"chat_template": "chatml"}, "`chat_template` must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    policy = options.pop("policy", network)()
    with pytest.raises(ValueError, match=words):
        sft(policy, **options)


def test_a_policy_of_logits_alone_has_no_chunks():
    @keras.saving.register_keras_serializable("tests")
    class Table(keras.Model):
        def build(self, shape):
            self.table = self.add_weight(shape=(13, 13), name="table")
            self.built = True

        def call(self, ids):
            return ops.take(self.table, ids, axis=0)

    policy = Table()
    policy.build((None, 4))
    total, count = by_hand(lambda ids: numpy(policy(ids)))
    np.testing.assert_allclose(loss_and_gradients(sft(policy))[0], total / count, rtol=1e-5)
    with pytest.raises(ValueError, match="gives logits alone"):
        sft(policy, chunk_size=4)


@pytest.mark.parametrize(
    "rows, words",
    [
        ([{"text": "a"}], "`text` must be token ids where there is no `tokenizer`"),
        ([{"completion": [3]}], "Rows must have a 'text'|SFT takes rows"),
        ([{"text": [3, 99]}], r"must be in \[0, 13\)"),
        ({"tokens": np.ones((2, 3), "int32")}, "arrays 'tokens' and 'mask'"),
        ({"tokens": np.ones((2, 3), "int32"), "mask": np.zeros((2, 3))}, "No token counts"),
        ({"tokens": np.ones((2, 3), "int32"), "mask": np.ones((2, 4))}, "must be .* and agree"),
        ({"tokens": np.ones((2, 30), "int32"), "mask": np.ones((2, 30))}, "context of 24 tokens"),
    ],
)
def test_rows_that_can_not_be_used(rows, words):
    model = sft()
    model.compile("sgd")
    with pytest.raises(ValueError, match=words):
        model.fit(rows, verbose=0)


def test_rows_are_cut_to_the_context_aloud():
    with pytest.warns(UserWarning, match="`max_length`=25 tokens, the longest has 31"):
        assert sft().as_arrays([{"text": [3] * 30}])["tokens"].shape == (1, 25)


def test_saved_and_loaded_it_has_its_template(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    def template(messages):
        return "".join(m["content"] for m in messages)

    model = sft(packing="wrapped", chunk_size=3, chat_template=template)
    model.save(tmp_path / "sft.keras")
    loaded = keras.saving.load_model(tmp_path / "sft.keras")
    assert loaded.chat_template is template and loaded.packing == "wrapped"
    assert loaded.chunk_size == 3
