"""What every algorithm of fine-tuning shares: the first step, rewards, seeds, saving, resuming."""

import functools
import os

import keras
import numpy as np
import pytest
import quick
from algorithms import (
    ALGORITHMS,
    ENDS,
    ON_POLICY,
    PAD,
    SEVEN,
    Algorithm,
    bigrams,
    network,
    prompts,
    sevens,
    traced_sevens,
)
from equality import assert_same
from faults import Crash, crash_after
from fresh import fresh
from keras import ops
from poison import assert_it_stops

from artifex_keras.callbacks import CheckpointCallback
from artifex_keras.datasets import CharacterTokenizer
from artifex_keras.models import Autoregressive
from artifex_keras.rl import DPO, GRPO, PPO, REINFORCE, traceable


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """On JAX a folder of compiled programs: the same ones are asked for again and again."""
    if keras.config.backend() != "jax" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


# TensorFlow passes them too, and takes a quarter of an hour to compile what they try.
pytestmark = pytest.mark.backends("jax", "torch")
QUICK = ("grpo-everything", "ppo", "dpo")
every = pytest.mark.parametrize("algorithm", quick.rows(ALGORITHMS, QUICK))
FEW = [a for a in ALGORITHMS if a.name in QUICK]
few = pytest.mark.parametrize("algorithm", FEW, ids=[a.name for a in FEW])
on_policy = pytest.mark.parametrize("algorithm", quick.rows(ON_POLICY, QUICK[:2]))


def one_update(algorithm):
    """Options by which a batch is one update."""
    if algorithm.type is PPO:
        return {"num_epochs": 1, "num_minibatches": 1}
    return {n: 1 for n in ("num_iterations", "num_minibatches") if n in algorithm.options}


def compiled(algorithm, optimizer=None, steps_per_execution=1, **options):
    model = algorithm.make(**options)
    optimizer = keras.optimizers.Adam(1e-2) if optimizer is None else optimizer
    model.compile(optimizer, steps_per_execution=steps_per_execution)
    return model


def train(model, algorithm, *, epochs=2, rows=12, batch_size=4, **options):
    x = algorithm.data(rows)
    options = {"shuffle": False, "verbose": 0, **options}
    return model.fit(x, batch_size=batch_size, epochs=epochs, **options).history


def grpo(reward_fn=sevens, *, policy=None, optimizer="sgd", **options):
    """A `GRPO` that is ready to train."""
    common = {"num_generations": 4, "max_new_tokens": 4, "end_token_id": ENDS, "seed": 0}
    model = GRPO(policy or bigrams(), reward_fn, **{**common, **options})
    model.compile(optimizer)
    return model


def values(model):
    variables = model.variables + model.optimizer.variables
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def weights(model):
    return [np.array(w) for w in model.policy.get_weights()]


def assert_same_history(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name, row in first.items():
        np.testing.assert_allclose(row, second[name], err_msg=name, **tolerance)


# The first step


@pytest.mark.parametrize("algorithm", FEW[:2], ids=[a.name for a in FEW[:2]])
def test_without_a_move_every_update_is_on_the_policy_that_sampled(algorithm):
    """Dropout in the network, prompts of several lengths: neither scoring sees the one, nor is it
    led astray by the others."""
    still = keras.optimizers.SGD(0.0)
    model = compiled(algorithm, still, policy=network(dropout=0.5))
    history = train(model, algorithm, epochs=1)
    assert history["approx_kl"][0] < 1e-6
    assert abs(history["kl"][0]) < 1e-6
    if "clip_fraction" in history:
        assert history["clip_fraction"] == [0.0]


@on_policy
def test_the_first_batch_is_as_far_from_the_reference_as_a_copy(algorithm):
    model = fresh(algorithm, **one_update(algorithm))
    logs = model.train_on_batch(algorithm.data(4), return_dict=True)
    assert abs(float(logs["kl"])) < 1e-6 and float(logs["approx_kl"]) < 1e-6
    assert model.reference.trainable_variables == []
    ours = {id(variable) for variable in model.policy.variables}
    assert not ours & {id(variable) for variable in model.reference.variables}


@on_policy
def test_the_policy_moves_and_its_reference_only_when_asked(algorithm):
    model = fresh(algorithm)
    before, held = weights(model), [np.array(w) for w in model.reference.get_weights()]
    history = train(model, algorithm)
    assert np.all(np.isfinite(list(history.values())))
    assert int(model.step) == 6
    for new, old in zip(weights(model), before, strict=True):
        assert np.any(new != old)
    same = all(np.array_equal(*p) for p in zip(model.reference.get_weights(), held, strict=True))
    assert same == (model.reference_sync_steps is None)


def test_a_reference_follows_in_steps():
    """After every second step half of the way, to the bit nothing in between."""
    model = grpo(beta=0.1, reference_sync_steps=2, reference_mixup=0.5, optimizer="adam")
    x, expected = prompts(4), [np.array(w) for w in model.reference.get_weights()]
    for step in range(1, 5):
        model.train_on_batch(x)
        if step % 2 == 0:
            pairs = zip(expected, weights(model), strict=True)
            expected = [old + 0.5 * (new - old) for old, new in pairs]
        assert_same(expected, model.reference.get_weights(), atol=1e-6)


# Rewards


def test_rewards_see_each_prompt_beside_its_completions():
    seen = {}

    def reward(prompts, completions, answer, level, **columns):
        seen.update(prompts=prompts, answer=answer, level=level, columns=columns)
        seen["completions"] = completions
        return np.arange(len(prompts)) % 3

    model = grpo(reward, num_generations=3)
    rows = [
        {"prompt": [3, 4], "answer": "a", "level": 1},
        {"prompt": [5], "answer": "b", "level": 2},
    ]
    history = model.fit(rows, batch_size=2, shuffle=False, verbose=0).history
    assert seen["prompts"] == [[3, 4]] * 3 + [[5]] * 3
    assert seen["answer"] == ["a"] * 3 + ["b"] * 3
    assert list(seen["level"]) == [1, 1, 1, 2, 2, 2] and seen["columns"] == {}
    assert len(seen["completions"]) == 6
    for row in seen["completions"]:  # up to and including an end
        assert 1 <= len(row) <= 4 and not set(row[:-1]) & set(ENDS)
    lengths = [len(row) for row in seen["completions"]]
    assert history["completion_length"][0] == pytest.approx(np.mean(lengths))
    cut = [row[-1] not in ENDS for row in seen["completions"]]
    assert history["truncated"][0] == pytest.approx(np.mean(cut))
    assert history["reward"] == [1.0] and history["flat_groups"] == [0.0]
    assert history["reward_std"][0] == pytest.approx(np.sqrt(2 / 3))


@pytest.mark.parametrize(("data", "place"), [("array", "host"), ("dicts", "device")])
def test_a_start_token_is_the_policys_own_affair(data, place):
    """Neither kind of reward sees it, nor is a prompt's place moved by it."""
    seen = []

    def host(prompts, completions):
        seen.append(prompts)
        return [float(row[0] == 3) for row in prompts]

    @traceable
    def device(prompts, completions, prompt_length):
        return ops.cast(prompts[:, 0] == 3, "float32") + 10 * ops.cast(prompt_length, "float32")

    policy = Autoregressive(network(), start_token_id=PAD)
    x = np.array([[3, 4], [5, 6]], "int32")
    x = x if data == "array" else [row.tolist() for row in x]
    reward, expected = {"host": (host, 0.5), "device": (device, 20.5)}[place]
    model = grpo(reward, policy=policy, num_generations=2)
    history = model.fit(x, batch_size=2, shuffle=False, verbose=0).history
    assert history["reward"] == [expected]
    assert seen[:1] == ([[[3, 4], [3, 4], [5, 6], [5, 6]]] if place == "host" else [])


class LastToken(keras.Model):
    """1 where the row's id is a seven, per token, for an outcome that is told at its last one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = keras.layers.Embedding(13, 1, name="table")
        self.table.build()
        self.table.set_weights([np.eye(13, dtype="float32")[:, SEVEN : SEVEN + 1]])
        self.built = True

    def call(self, ids):
        return self.table(ids)


def last_on_host(prompts, completions):
    return [float(row[-1] == SEVEN) for row in completions]


@traceable
def last_on_device(prompts, completions, completion_mask):
    last = ops.cast(ops.sum(completion_mask, axis=1), "int32") - 1
    token = ops.take_along_axis(completions, last[:, None], axis=1)[:, 0]
    return ops.cast(token == SEVEN, "float32")


GREEDY = Algorithm("reinforce-greedy", REINFORCE, prompts, {"baseline": "greedy"})
HELD = [*FEW[:2], GREEDY]


@pytest.mark.parametrize("algorithm", HELD, ids=[a.name for a in HELD])
def test_the_same_rewards_give_the_same_run_wherever_they_are_told(algorithm):
    """One algorithm takes all three, each other one Python's and another."""
    others = {"ppo": [last_on_device], GREEDY.name: [LastToken(name="last")]}
    others = others.get(algorithm.name, [last_on_device, LastToken(name="last")])
    runs = []
    for reward in (last_on_host, *others):
        # Without an end token, or no completion could end by a seven. Adam would make much of
        # rounding where a gradient is about zero.
        optimizer = keras.optimizers.SGD(0.1)
        endless = {name: False for name in ("mask_truncated",) if name in algorithm.options}
        endless |= {"policy": bigrams(), "end_token_id": None}
        model = compiled(algorithm, optimizer, reward_fn=reward, **endless)
        runs.append((train(model, algorithm), weights(model)))
    assert runs[0][0]["reward"][0] > 0
    for history, after in runs[1:]:
        assert_same_history(history, runs[0][0], rtol=1e-5, atol=1e-6)
        assert_same(after, runs[0][1], atol=1e-6)


def test_the_greedy_completion_is_judged_beside_the_sampled_ones_in_training():
    seen, model = [], REINFORCE(
        bigrams(),
        None,
        baseline="greedy",
        num_generations=2,
        max_new_tokens=4,
        end_token_id=ENDS,
        pad_token_id=PAD,
        seed=0,
    )  # fmt: skip

    def spied(prompts, completions, answer):
        seen.append((prompts, completions, list(answer)))
        return sevens(prompts, completions)

    likeliest = ops.convert_to_numpy(ops.argmax(model.policy(np.arange(13)[None])[0], axis=-1))

    def greedy(prompt):
        row = [prompt[-1]]
        while len(row) < 5 and (len(row) == 1 or row[-1] not in ENDS):
            row.append(int(likeliest[row[-1]]))
        return row[1:]

    model.reward_fn = spied
    model.compile(keras.optimizers.SGD(0.0))
    data = [{"prompt": [3 + i, 4], "answer": i} for i in range(3)]
    history = model.fit(data, batch_size=3, validation_data=data, verbose=0).history
    assert [len(completions) for _, completions, _ in seen] == [9, 6]  # in validation none
    prompts, completions, answers = seen[0]
    assert answers == [prompt[0] - 3 for prompt in prompts] == list(np.repeat(answers[::3], 3))
    assert completions[2::3] == [greedy(prompt) for prompt in prompts[2::3]]
    assert any(row != greedy(prompt) for prompt, row in zip(prompts, completions, strict=True))
    scores = np.array(sevens(prompts, completions)).reshape(3, 3)
    np.testing.assert_allclose(history["reward"], scores[:, :2].mean(), rtol=1e-6)
    np.testing.assert_allclose(history["greedy_reward"], scores[:, 2].mean(), rtol=1e-6)
    assert "val_greedy_reward" not in history
    assert len(model.table(data, count=6)) == 6


def test_several_rewards_are_weighed_and_shown_each():
    def half(prompts, completions):
        return [0.5] * len(completions)

    def sometimes(prompts, completions):
        return [2.0 if i % 2 else None for i in range(len(completions))]

    model = grpo([half, sometimes], reward_weights=[1.0, 0.25])
    history = train(model, ON_POLICY[0], epochs=1)
    assert history["reward_half"] == [0.5] and history["reward_sometimes"] == [2.0]
    assert history["reward"] == [0.75]


def nowhere(prompts, completions):
    return [None] * len(completions)


def test_rewards_that_apply_nowhere_are_refused():
    """Each None of all rewards: there is nothing to learn, and 0 would be a lie."""
    other = REINFORCE(bigrams(), nowhere, max_new_tokens=4)
    for made in (grpo([nowhere, nowhere]), other):
        made.compile(keras.optimizers.SGD(1.0))
        before = weights(made)
        with pytest.raises(ValueError, match="`reward_fn` must give a number for some completion"):
            train(made, ON_POLICY[0], epochs=1)
        assert_same(before, weights(made))
    with pytest.raises(ValueError, match="Received: None for all 16 of 'nowhere', 'nowhere_2'"):
        made = grpo([nowhere, nowhere])
        made.rewards.require_one(np.full((16, 2), np.nan))
    assert len(other.table(ON_POLICY[0].data(4), count=2)) == 2


def test_a_reward_without_a_number_is_shown_as_none():
    """The others are learned from; its own mean is that of the batches that have one."""
    calls = []

    def at_first(prompts, completions):
        calls.append(1)
        return [3.0 if len(calls) == 1 else None] * len(completions)

    history = train(grpo([sevens, nowhere, at_first]), ON_POLICY[0], epochs=1)
    assert np.isnan(history["reward_nowhere"][0]) and np.isfinite(history["reward"][0])
    assert history["reward_at_first"] == [3.0] and len(calls) > 1

    @traceable
    def unknown(prompts, completions):
        return ops.full(completions.shape[:1], float("nan"))

    made = grpo(unknown)
    before = weights(made)
    history = train(made, ON_POLICY[0], epochs=1)
    assert np.isnan(history["reward"][0]) and np.isnan(history["reward_std"][0])
    assert_same(before, weights(made))


@pytest.mark.parametrize("data", [list("abcd"), [{"prompt": t, "answer": t} for t in "abcd"]])
def test_a_share_of_the_prompts_is_held_out(data):
    """As Keras does it: the last ones, before any order. A network's column is rewards, too."""
    seen = []

    def column(prompts, completions, **columns):
        seen.append((prompts, columns.get("answer")))
        return np.ones((len(completions), 1))

    model = grpo(column, num_generations=2, tokenizer=CharacterTokenizer("#$%abcdefghij"))
    history = model.fit(data, batch_size=3, validation_split=0.25, verbose=0).history
    assert history["reward"] == history["val_reward"] == [1.0]
    (trained, answers), (held_out, others) = seen
    assert set(trained) == set("abc") and set(held_out) == {"d"}
    assert (answers, others) == ((trained, held_out) if isinstance(data[0], dict) else (None, None))
    with pytest.raises(ValueError, match="validation_split.*0.1, 1 rows"):
        model.fit(data[:1], validation_split=0.1)
    with pytest.raises(ValueError, match=r"`validation_split` must be in .0, 1."):
        model.fit(data, validation_split=25)
    seen.clear()
    model.fit(data, batch_size=4, validation_split=0.5, validation_data=data[:1], verbose=0)
    assert [set(prompts) for prompts, _ in seen] == [set("abcd"), {"a"}]  # as Keras, too


def test_a_judge_is_not_trained():
    judge = LastToken(name="judge")
    before = [np.array(w) for w in judge.get_weights()]
    model = grpo(judge, optimizer=keras.optimizers.AdamW(0.1, weight_decay=0.5))
    train(model, ON_POLICY[0])
    assert_same(before, judge.get_weights())
    policy = network()
    with pytest.raises(ValueError, match="must not share weights with the policy"):
        grpo(policy, policy=policy)


def test_another_reward_may_be_set():
    model = grpo()
    assert train(model, ON_POLICY[0], epochs=1)["reward"][0] < 0.9

    def first(prompts, completions):
        return [1.0] * len(completions)

    model.reward_fn = first
    assert train(model, ON_POLICY[0], epochs=1)["reward"] == [1.0]
    model.gradient_norms = True
    count = len(model.variables)
    model.reward_fn = LastToken(name="last")
    assert train(model, ON_POLICY[0], epochs=1)["reward"][0] < 1
    assert len(model.variables) == count + 1
    model.reward_fn = [first, traced_sevens]
    assert len(model.variables) == count
    history = train(model, ON_POLICY[0], epochs=1)
    assert history["reward_first"] == [1.0]
    assert history["reward"][0] == pytest.approx(1 + history["reward_traced_sevens"][0])


# Runs


@every
def test_the_same_seed_gives_the_same_run_and_a_reset_model_is_a_new_one(algorithm):
    used = fresh(algorithm)
    train(used, algorithm, validation_data=algorithm.data(6))
    used = fresh(algorithm)
    first, after = train(used, algorithm), values(used)
    new = compiled(algorithm)
    assert train(new, algorithm) == first
    assert_same(values(new), after)


@every
def test_looking_does_not_change_training(algorithm):
    straight = fresh(algorithm)
    once, after = train(straight, algorithm), weights(straight)
    watched = fresh(algorithm)
    first = train(watched, algorithm, epochs=1)
    scores = [
        watched.evaluate(algorithm.data(6), batch_size=4, verbose=0, return_dict=True)
        for _ in range(2)
    ]
    assert scores[0] == scores[1]
    if algorithm.samples:
        assert watched.table(count=3) == watched.table(count=3)
    second = train(watched, algorithm, epochs=1, validation_data=algorithm.data(6))
    assert second["val_reward" if algorithm.samples else "val_loss"]
    for name, row in once.items():
        assert row == [first[name][0], second[name][0]], name
    assert_same(after, weights(watched))


@few
@pytest.mark.backends("jax", "tensorflow")
def test_several_steps_in_one_execution_give_the_same_numbers(algorithm):
    """Four batches an epoch in executions of three: a remainder, too."""
    single, fused = fresh(algorithm), fresh(algorithm, execution=3)
    histories = [train(model, algorithm, rows=16) for model in (single, fused)]
    assert_same_history(*histories, rtol=2e-5, atol=1e-6)
    assert_same(values(single), values(fused), atol=2e-6)


@few
def test_the_average_follows_its_recursion(algorithm):
    once = one_update(algorithm)
    model = fresh(algorithm, ema_decay=0.9, **once)
    average = [np.array(w, "float64") for w in model.policy.get_weights()]
    for n in range(3):
        model.train_on_batch(algorithm.data(4))
        decay = min(0.9, (1 + n) / (10 + n))
        pairs = zip(average, weights(model), strict=True)
        average = [decay * a + (1 - decay) * w for a, w in pairs]
    assert_same(average, [ops.convert_to_numpy(v) for v in model._average], atol=2e-6)
    shown = model.evaluate(algorithm.data(6), batch_size=6, verbose=0, return_dict=True)
    other = fresh(algorithm, ema_decay=None, **once)
    for mine, held in ((other.policy, average), (other.reference, model.reference.get_weights())):
        mine.set_weights(held)
    told = other.evaluate(algorithm.data(6), batch_size=6, verbose=0, return_dict=True)
    for name in ("reward", "completion_length") if algorithm.samples else ("loss",):
        np.testing.assert_allclose(shown[name], told[name], rtol=1e-5)


@few
def test_accumulated_micro_batches_make_one_update(algorithm):
    adam = {"gradient_accumulation_steps": 2}
    model = fresh(algorithm, adam=adam, **one_update(algorithm))
    before = weights(model)
    model.train_on_batch(algorithm.data(4))
    assert_same(before, weights(model))
    model.train_on_batch(algorithm.data(4))
    assert np.any(weights(model)[0] != before[0])
    assert int(model.optimizer.iterations) == 1


@few
def test_half_precision_trains(algorithm):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        policy = network()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model = compiled(algorithm, policy=policy)
    before = weights(model)
    history = train(model, algorithm)
    assert np.all(np.isfinite(list(history.values())))
    assert all(w.dtype == np.float32 for w in weights(model))
    assert np.any(weights(model)[0] != before[0])
    assert model.reference.compute_dtype == "bfloat16"


@every
def test_a_loss_that_is_no_number_stops_it(algorithm):
    assert_it_stops(fresh(algorithm), lambda model: train(model, algorithm))


# Saving and going on


@every
def test_a_saved_model_goes_on_as_if_never_saved(algorithm, tmp_path):
    model = fresh(algorithm)
    train(model, algorithm)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert train(model, algorithm) == train(loaded, algorithm)
    assert_same(values(model), values(loaded))
    assert loaded.get_config().keys() == model.get_config().keys()


def test_a_plain_function_must_be_given_again(tmp_path):
    def reward(prompts, completions):
        return sevens(prompts, completions)

    model = grpo(reward, optimizer="adam")
    train(model, ON_POLICY[0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"There is no reward.*`model\.reward_fn`"):
        train(loaded, ON_POLICY[0])
    with pytest.raises(ValueError, match="There is no reward"):
        loaded.train_on_batch(prompts(4))
    loaded.reward_fn = reward
    assert train(model, ON_POLICY[0]) == train(loaded, ON_POLICY[0])
    assert_same(values(model), values(loaded))


def test_a_judge_is_saved_with_the_model(tmp_path):
    judge = keras.Sequential(
        [keras.Input((None,), dtype="int32"), keras.layers.Embedding(13, 4), keras.layers.Dense(1)]
    )
    model = grpo(judge, optimizer="adam")
    train(model, ON_POLICY[0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(judge.get_weights(), loaded.reward_fn.get_weights())
    assert train(model, ON_POLICY[0]) == train(loaded, ON_POLICY[0])


class Answers:
    """Two turns; a reward for each odd id that was written."""

    def reset(self, prompt):
        self.turn = 0
        return []

    def step(self, ids):
        self.turn += 1
        return [11], float(ids[0] % 2), self.turn == 2


UPDATES = {"num_iterations": 2, "num_minibatches": 2}
CHOSEN = {"reward_fn": sevens, "oversample": 2.0, "importance_cap": 0.9}
REPLAYED = {
    "reward_fn": sevens,
    "importance_cap": 0.9,
    "replay_buffer_size": 3,
    "max_prompt_length": 8,
}
PLAYED = {"environment": Answers, "max_turns": 2, "max_new_tokens": 1}
RESUMED = [
    *ALGORITHMS,
    Algorithm("grpo-oversampled-capped", GRPO, prompts, UPDATES | CHOSEN),
    Algorithm("grpo-replay", GRPO, prompts, UPDATES | REPLAYED),
    Algorithm("grpo-environment", GRPO, prompts, UPDATES | PLAYED),
]


@pytest.mark.parametrize("algorithm", quick.rows(RESUMED, (*QUICK, "grpo-replay")))
def test_a_run_that_crashed_goes_on_to_the_bit(algorithm, tmp_path):
    """Three batches an epoch; the checkpoint is of batch 3, the crash comes before batch 5."""

    def fit(model, *callbacks):
        model.fit(algorithm.data(12), batch_size=4, epochs=3, verbose=0, callbacks=list(callbacks))
        return model

    def keeper():
        return CheckpointCallback(tmp_path, 3, resume="auto", verbose=False)

    def made():
        model = fresh(algorithm)
        keras.utils.set_random_seed(4)  # the order of the rows
        return model

    straight = fit(made())
    history, after = straight.history.history, values(straight)
    first = keeper()
    with pytest.raises(Crash):
        fit(made(), first, crash_after(4))
    first._writing.wait()
    resumed = fit(made(), keeper())
    assert resumed.history.history == history
    assert_same(values(resumed), after)


# What is refused


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"`num_generations` must be an integer of at least 2", {"num_generations": 1}),
        (r"`end_token_id` must be below the vocabulary's size 13", {"end_token_id": 13}),
        (r"`end_token_id` must hold an id", {"end_token_id": []}),
        (r"`pad_token_id` must be below the vocabulary's size 13", {"pad_token_id": 99}),
        (r"`max_new_tokens` must say", {"max_new_tokens": None}),
        (r"`max_new_tokens` must be an integer of at least 1", {"max_new_tokens": 0}),
        (r"`temperature` must be greater than 0", {"temperature": 0.0}),
        (r"`kl_estimator='k1'` has no gradient in the loss", {"beta": 0.1, "kl_estimator": "k1"}),
        (r"KL estimator 'k4'.*k3", {"beta": 0.1, "kl_estimator": "k4"}),
        (r"place of the divergence", {"kl_in": "advantages"}),
        (r"loss type", {"loss_type": "gpro"}),
        (r"`scale_rewards` must be one of True", {"scale_rewards": "std"}),
        (r"level of the ratio", {"level": "row"}),
        (r"`dual_clip` must be greater than 1", {"dual_clip": 0.5}),
        (r"`beta` must be at least 0", {"beta": -1}),
        (r"`clip_high` must be at least 0", {"clip_high": -0.1}),
        (r"`kl_coeff` is of no use here: GRPO's coefficient is `beta`", {"kl_coeff": 0.1}),
        (r"`num_epochs` is of no use here", {"num_epochs": 2}),
        (r"`reference` would not be looked at", {"reference": network()}),
        (r"`reference_sync_steps` moves a reference", {"reference_sync_steps": 2}),
        (r"`reference` must be None, 'lora_off' or a model", {"beta": 0.1, "reference": "old"}),
        (r"`reference='lora_off'` needs", {"beta": 0.1, "reference": "lora_off"}),
        (r"`mask_truncated` needs an", {"mask_truncated": True, "end_token_id": None}),
        (r"num_generation", {"num_generation": 8}),
        (r"`reward_weights` must be a list with one number", {"reward_weights": [1.0, 2.0]}),
        (r"`reward_timeout` must be greater than 0", {"reward_timeout": 0}),
        (r"`reward_timeout` must be ", {"reward_timeout": "1"}),
        (r"`reward_retries` must be an integer of at least 0", {"reward_retries": -1}),
        (r"`reward_retries` must be an integer of at least 0", {"reward_retries": 1.5}),
        (
            r"`reward_timeout` and `reward_retries` are for Python rewards",
            {"reward_fn": traced_sevens, "reward_retries": 1},
        ),
        (r"option of a TokenPolicy", {"sampling": {"num_steps": 4}}),
    ],
)
def test_bad_options_are_refused(message, options):
    with pytest.raises(ValueError, match=message):
        grpo(**options)


def test_bad_policies_and_references_are_refused():
    with pytest.raises(ValueError, match="`policy` must be a keras.Model"):
        grpo(policy="gpt")
    unbuilt = keras.Sequential([keras.layers.Embedding(13, 8), keras.layers.Dense(13)])
    with pytest.raises(ValueError, match="`policy` must be built"):
        grpo(policy=unbuilt)
    keras.utils.set_random_seed(0)
    policy, other = network(), type(network())(14, 24, num_layers=1, num_heads=2, width=16)
    with pytest.raises(ValueError, match="a reference of 14 tokens, a policy of 13"):
        grpo(policy=policy, reference=other, beta=0.1)
    with pytest.raises(ValueError, match="`reference` must not share weights"):
        grpo(policy=policy, reference=policy, beta=0.1)
    narrow = network(width=8)
    with pytest.raises(ValueError, match="whose weights differ in shape"):
        grpo(policy=policy, reference=narrow, beta=0.1, reference_sync_steps=1)
    grpo(policy=policy, reference=narrow, beta=0.1)


@pytest.mark.parametrize(
    ("message", "reward"),
    [
        (r"'short' must give one number per completion, 16. Received: 15", lambda n: [0.0] * 15),
        (r"'short' must give a finite number.*nan in row 3", lambda n: [0, 0, 0, np.nan] * 4),
        (r"'short' must give a finite number.*inf in row 0", lambda n: [np.inf] * 16),
        (r"'short' must give a finite number.*'good' in row 0", lambda n: ["good"] * 16),
    ],
)
def test_bad_rewards_are_told_with_their_name(message, reward):
    def short(prompts, completions):
        return reward(len(prompts))

    with pytest.raises(ValueError, match=message):
        train(grpo(short), ON_POLICY[0])


@pytest.mark.parametrize(
    ("message", "x", "options"),
    [
        (r"there is no use for `y`", prompts(4), {"y": np.zeros(4)}),
        (r"there is no use for `sample_weight`", prompts(4), {"sample_weight": np.ones(4)}),
        (r"tokenizer", ["one", "two"], {}),
        (r"prompts as rows of token ids", np.zeros((4, 2), "float32"), {}),
        (r"prompts as rows of token ids", np.zeros(4, "int32"), {}),
        (r"prompts as rows of token ids.*None", {"ids": np.zeros((4, 2), "int32")}, {}),
        (r"at least one token", np.zeros((4, 0), "int32"), {}),
        (r"at least one token", [[3], []], {"batch_size": 2}),
        (r"Token ids must be in \[0, 13\)", np.full((4, 2), 13, "int32"), {}),
        (r"Token ids must be in \[0, 13\)", [[3], [13]], {"batch_size": 2}),
        (r"context of 24 tokens.*a prompt of 22 tokens", np.full((4, 22), 3, "int32"), {}),
        (r"context of 24 tokens.*a prompt of 23 tokens", [[3], [3] * 23], {"batch_size": 2}),
        (r"`prompt_length` must be from 1 to 3", {**prompts(4), "prompt_length": [0] * 4}, {}),
        (r"empty", np.zeros((0, 2), "int32"), {}),
    ],
)
def test_bad_data_is_refused(message, x, options):
    if isinstance(x, dict):
        x = {name: np.asarray(column, "int32") for name, column in x.items()}
    with pytest.raises(ValueError, match=message):
        grpo(policy=never_trained()).fit(x, verbose=0, **options)


@functools.cache
def never_trained():
    """A policy with a context of 24 tokens."""
    return network()


def test_padding_is_taken_off_before_a_prompt_is_too_long():
    """24 tokens of context, 4 new ones, of which the last is not looked at: 21 are left."""
    x = np.full((4, 24), PAD, "int32")
    x[:, :21] = 3
    model = grpo(policy=network(), pad_token_id=PAD)
    model.fit(x, batch_size=4, verbose=0)
    x[:, 21] = 3
    with pytest.raises(ValueError, match="a prompt of 22 tokens"):
        model.fit(x, batch_size=4, verbose=0)


@pytest.mark.parametrize("listed", [True, False])
def test_minibatches_that_do_not_divide_a_batch_are_told_before_a_step(listed):
    def reward(prompts, completions):
        raise AssertionError("called")

    model = grpo(reward, num_minibatches=3)
    x = [[3]] * 12 if listed else np.full((12, 1), 3, "int32")
    message = r"`num_minibatches` must divide.*num_minibatches=3, 16 completions \(4 prompts, 4"
    with pytest.raises(ValueError, match=message):
        model.fit(x, batch_size=4, verbose=0)
    if not listed:  # 6 prompts, then 5
        with pytest.raises(ValueError, match=r"20 completions \(5 prompts"):
            model.fit(x[:11], batch_size=6, verbose=0)


def test_dpo_has_no_use_for_what_samples():
    with pytest.raises((TypeError, ValueError), match="max_new_tokens"):
        DPO(network(), max_new_tokens=4)
