"""The trainers of fine-tuning: what they take, what they refuse, and that a run can go on."""

import json

import keras
import numpy as np
import pytest
from faults import Crash, crash_after

import artifex_keras as ak
from artifex_keras import datasets, trainers
from artifex_keras.networks import CausalTransformer
from artifex_keras.rl import exact_match

CHARACTERS = "\n0123456789+="
TOKENIZER = datasets.CharacterTokenizer(CHARACTERS)
SUMS = [
    {"prompt": f"{a}+{b}=", "answer": str(a + b)}
    for a, b in [(1, 2), (3, 4), (0, 5), (2, 2), (9, 9)]
]
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["answer"], "rejected": f"{index}0"}
    for index, row in enumerate(SUMS)
]
ANSWERS = [
    {"prompt": row["prompt"], "completion": row["answer"], "label": index % 2 == 0}
    for index, row in enumerate(SUMS)
]
ON_POLICY = {"tokenizer": TOKENIZER, "max_new_tokens": 3, "end_token_id": 0}
GIVEN = {"tokenizer": TOKENIZER, "end_token_id": 0}
CASES = {
    "GRPO": (ak.GRPOTrainer, SUMS, {**ON_POLICY, "num_generations": 4}),
    "PPO": (ak.PPOTrainer, SUMS, {**ON_POLICY, "num_epochs": 2, "num_minibatches": 2}),
    "REINFORCE": (ak.REINFORCETrainer, SUMS, {**ON_POLICY, "num_generations": 2}),
    "DPO": (ak.DPOTrainer, PAIRS, GIVEN),
    "KTO": (ak.KTOTrainer, ANSWERS, GIVEN),
    "SFT": (ak.SFTTrainer, ANSWERS, GIVEN),
}


def first_digit(prompts, completions, answer):
    """A reward that is easily found: whether the first character is a digit, and near."""
    return [
        1.0 if text == right else 0.5 * text[:1].isdigit()
        for text, right in zip(completions, answer, strict=True)
    ]


def policy(seed=0):
    keras.utils.set_random_seed(seed)
    network = CausalTransformer(len(CHARACTERS), 16, num_layers=1, width=8, num_heads=2)
    return ak.Autoregressive(network)


def config(**more):
    return {"batch_size": 2, "num_epochs": 2, "seed": 0, "verbose": 0, **more}


def made(name, model=None, data=None, val=None, settings=None, **more):
    """A trainer of that algorithm with what suits it."""
    trainer, rows, arguments = CASES[name]
    if trainer.watched == "reward":
        arguments = {"reward_fn": first_digit, **arguments}
    return trainer(
        policy() if model is None else model,
        config(**(settings or {})),
        rows if data is None else data,
        val,
        **{**arguments, **more},
    )


def weights(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", CASES)
def test_rows_of_text_train_and_evaluate(name):
    trainer = made(name, val=CASES[name][1][:3])
    before = weights(trainer.policy)
    history = trainer.train().history
    assert trainer.model is not trainer.policy and trainer.model.policy is trainer.policy
    assert len(history["loss"]) == 2 and np.isfinite(history["loss"]).all()
    assert f"val_{trainer.watched}" in history
    assert any((a != b).any() for a, b in zip(before, weights(trainer.policy), strict=True))
    # Of 5 rows two batches of 2 are whole.
    whole = trainer.drop_remainder
    assert trainer.steps_per_epoch == (2 if whole else 3)
    assert int(trainer.model.step) == 2 * trainer.steps_per_epoch
    metrics = trainer.evaluate(CASES[name][1][:3])
    assert trainer.watched in metrics


def test_prompts_come_in_every_form(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    ids = np.array([TOKENIZER.encode(row["prompt"]) for row in SUMS])
    length = {"reward_fn": lambda prompts, completions: [float(len(c)) for c in completions]}
    for data, arguments, steps in (
        (path, {}, 2),
        (str(path), {}, 2),
        ({name: [row[name] for row in SUMS] for name in SUMS[0]}, {}, 2),
        ([row["prompt"] for row in SUMS], length, 2),
        ([list(row) for row in ids], length, 2),
        (list(ids), length, 2),
        (ids, length, 2),
        ({"prompt": ids, "answer": np.arange(5)}, length, 2),
        (datasets.PromptBatches(SUMS, 5, tokenizer=TOKENIZER, seed=1), {}, 1),
    ):
        trainer = made("GRPO", data=data, **arguments)
        assert trainer.steps_per_epoch == steps


def test_arrays_and_batches_train():
    ids = np.array([TOKENIZER.encode(row["prompt"]) for row in SUMS])
    seen = []

    def reward(prompts, completions):
        seen.append(prompts)
        return [float(len(text)) for text in completions]

    made("GRPO", data=ids, val=ids[:3], reward_fn=reward, settings={"num_epochs": 1}).train()
    assert [len(prompts) for prompts in seen] == [8, 8, 8, 4]  # all are validated
    assert seen[2] == ["1+2="] * 4 + ["3+4="] * 4


def test_pairs_come_in_every_form(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    arrays = datasets.preferences(PAIRS, tokenizer=TOKENIZER, end_token_id=0)
    weight = np.array([1.0, 0.0, 1.0, 1.0, 1.0], "float32")
    for data in (PAIRS, path, {n: [row[n] for row in PAIRS] for n in PAIRS[0]}, arrays):
        (read,) = made("DPO", data=data).train_dataset.arrays
        for name, expected in arrays.items():
            np.testing.assert_array_equal(read[name], expected)
    trainer = made("DPO", data=(arrays, None, weight), settings={"num_epochs": 1})
    weights_of_batches = np.concatenate([trainer.train_dataset[i][2] for i in range(3)])
    assert sorted(weights_of_batches) == sorted(weight)


def test_columns_of_ids_are_pairs():
    columns = {
        name: np.array([TOKENIZER.encode(row[name][:1]) for row in PAIRS]) for name in PAIRS[0]
    }
    trainer = made("DPO", data=columns, tokenizer=None)
    assert trainer.train_dataset[0][0]["chosen_mask"].sum() == 4  # two ids and two ends


def test_an_algorithm_that_is_made_already_is_taken_as_it_is():
    model = ak.GRPO(policy(), first_digit, num_generations=4, **ON_POLICY)
    trainer = ak.GRPOTrainer(model, config(), SUMS)
    assert trainer.model is model and trainer.policy is model.policy
    with pytest.raises(ValueError, match="is a GRPO already.* leave out `beta`, `reward_fn`"):
        ak.GRPOTrainer(model, config(), SUMS, beta=0.1, reward_fn=first_digit)


def test_a_schedule_goes_on_with_the_batches():
    settings = {"scheduler": "linear", "optimizer": {"type": "sgd", "learning_rate": 1.0}}
    schedule = made("PPO", settings=settings).model.optimizer._learning_rate
    rates = [float(schedule(np.int32(update))) for update in range(2 * 2 * 4)]
    expected = made("REINFORCE", settings=settings).model.optimizer._learning_rate
    assert rates == [float(expected(np.int32(batch))) for batch in range(4) for _ in range(4)]
    assert len(set(rates)) == 4


def test_what_is_refused():
    for arguments, words in (
        ({"num_generatons": 4}, "Unknown argument of the trainer 'num_generatons'. Did you mean"),
        ({"trackin": {}}, "Did you mean 'tracking'"),
        ({"kl_coef": 0.1}, "Did you mean 'kl_coeff'"),
        ({"loss_type": "grop"}, "Unknown loss type 'grop'. Did you mean 'grpo'"),
        ({"num_generations": 1}, "`num_generations` must be an integer of at least 2"),
        ({"reward_fn": None}, "There is no reward: give a `reward_fn`"),
        ({"max_new_tokens": 20}, "Prompt and completion must fit into the network's context"),
        ({"reward_fn": "file.py"}, "`reward_fn` must be a function"),
        ({"data": ["1*2=", "1*3="]}, "has no '\\*'"),
    ):
        with pytest.raises(ValueError, match=words):
            made("GRPO", **arguments)
    for arguments, words in (
        ({"loss_type": "sigmod"}, "Did you mean 'sigmoid'"),
        ({"reward_fn": first_digit}, "Unknown argument of the trainer 'reward_fn'"),
        ({"data": SUMS}, "Unknown column 'chosen'|Row 0 has no 'chosen'"),
    ):
        with pytest.raises(ValueError, match=words):
            made("DPO", **arguments)
    with pytest.raises(ValueError, match="`policy` must be a keras.Model or keras.Layer"):
        ak.GRPOTrainer("model.keras", config(), SUMS, reward_fn=first_digit, max_new_tokens=2)


def test_all_are_exported():
    for name in ("GRPO", "PPO", "REINFORCE", "DPO", "KTO", "SFT"):
        assert getattr(ak, name) is getattr(ak.rl, name)
        assert getattr(ak, f"{name}Trainer") is getattr(trainers, f"{name}Trainer")


def test_the_best_epoch_is_that_of_the_greatest_reward(tmp_path):
    rewards = iter([0.0] * 2 + [1.0] + [0.0] * 2 + [3.0] + [0.0] * 2 + [2.0])

    def reward(prompts, completions):
        return [next(rewards)] * len(completions)

    settings = {"checkpoint_dir": tmp_path, "save_best": True, "save_frequency": None}
    trainer = made("GRPO", val=SUMS[:2], reward_fn=reward, settings={**settings, "num_epochs": 3})
    assert trainer.train().history["val_reward"] == [1.0, 3.0, 2.0]
    callback = trainer._kept[0]
    assert callback.watched.metric == "val_reward" and callback.watched.best == 3.0


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["GRPO", "DPO"])
def test_a_run_goes_on_within_an_epoch_as_if_it_had_never_stopped(name, tmp_path):
    settings = {"num_epochs": 3, "save_every_n_steps": 1, "batch_size": 1}
    more = {"beta": 0.1}

    def run(place, model_seed=0, resume=False, **others):
        folder = {"checkpoint_dir": tmp_path / place}
        trainer = made(name, policy(model_seed), settings={**settings, **folder}, **more, **others)
        return trainer, trainer.train(resume=resume)

    straight, history = run("straight")
    with pytest.raises(Crash):
        run("parts", callbacks=[crash_after(7)])  # of 5 batches an epoch
    again, rest = run("parts", model_seed=9, resume=True)
    assert rest.history == history.history
    for one, other in zip(weights(straight.model), weights(again.model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_common_settings_reach_the_algorithm():
    trainer = made("GRPO", mixed_precision=True, gradient_accumulation_steps=2, beta=0.1)
    assert trainer.model.optimizer.steps == 2
    layers = [layer.dtype_policy.name for layer in trainer.policy._flatten_layers()]
    assert "mixed_bfloat16" in layers
    assert made("DPO", loss_type="simpo", mixed_precision=True).model.reference is None


class Sums:
    """Says twice whether the sum is right; more for the second turn, and for a digit."""

    def reset(self, answer):
        self.answer, self.turn = answer, 0
        return ""

    def step(self, text):
        self.turn += 1
        right = text.strip() == self.answer
        return "+" if right else "=", self.turn * (right + 0.5 * text[:1].isdigit()), self.turn == 2


def test_an_environment_in_a_trainer_gives_the_numbers_of_the_class():
    played = {"environment": Sums, "max_turns": 2}
    trainer = made("GRPO", reward_fn=None, **played)
    model = ak.GRPO(policy(), num_generations=4, seed=0, **played, **ON_POLICY)
    model.compile(**trainer.compile_arguments())
    batches = model.prompt_batches(SUMS, 2, seed=0, drop_remainder=True)
    expected = model.fit(batches, epochs=2, verbose=0).history
    history = trainer.train().history
    assert history["turns"] == [2.0, 2.0] and max(history["reward_std"]) > 0
    assert history == expected
    for one, other in zip(weights(trainer.model), weights(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ready_rewards_work_in_a_trainer():
    rewards = [exact_match(), first_digit]
    trainer = made("REINFORCE", reward_fn=rewards, reward_weights=[1, 0.5])
    assert {"reward_exact_match", "reward_first_digit"} <= set(trainer.model.metric_names)
