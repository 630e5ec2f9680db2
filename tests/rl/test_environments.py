"""Episodes of several turns with an environment: what is played, learned and refused."""

import contextvars
import itertools
import threading
import time

import keras
import numpy as np
import pytest
from algorithms import ENDS, PAD, bigrams, network, prompts, sevens
from games import placed
from keras import ops

from artifex_keras.networks import CausalTransformer
from artifex_keras.rl import GRPO, PPO, REINFORCE, RLOO
from artifex_keras.rl.environments import Environments

COMMON = {
    "num_generations": 4,
    "max_new_tokens": 4,
    "end_token_id": list(ENDS),
    "pad_token_id": PAD,
    "seed": 0,
}


class OneTurn:
    """`sevens` as an environment."""

    def reset(self, prompt):
        return prompt  # which the policy has read already

    def step(self, ids):
        return [3, 4, 5], sevens(None, [ids])[0], True


class Counting:
    """Answers with two ids, three times; the reward is a share of large ids, the last one 1."""

    def reset(self, **columns):
        self.turn = 0
        return []

    def step(self, ids):
        self.turn += 1
        return [11, 12], float(max(ids) > 7), self.turn == 3


def grpo(environment=None, policy=None, cls=GRPO, optimizer="sgd", **options):
    model = cls(policy or bigrams(), environment=environment, **{**COMMON, **options})
    model.compile(optimizer)
    return model


def numbers(model):
    return [
        np.array(ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)
    ]


def assert_same(first, second):
    for a, b in zip(numbers(first), numbers(second), strict=True):
        np.testing.assert_array_equal(a, b)


def episodes_of(model, x, seed=0):
    """The `Episodes` of a batch, outside of `fit`."""
    opening = model.actor.unpack(keras.tree.map_structure(ops.convert_to_tensor, x))
    with model.drawing_from(seed):
        opening = model._begin_for_table(opening)
    return model.play(model._turn_for_table, opening, model.episode_columns(x, opening, "train"))


# One turn


@pytest.mark.quick(1)
@pytest.mark.seam
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (GRPO, {"beta": 0.1, "num_iterations": 2, "num_minibatches": 2}),
        (RLOO, {}),
        (PPO, {"num_epochs": 1, "value": None}),
    ],
    ids=["grpo", "rloo", "ppo"],
)
def test_one_turn_is_a_reward_function_to_the_bit(cls, options):
    make = network if cls is PPO else bigrams
    models = [
        grpo(None, make(), cls, "adam", reward_fn=sevens, **options),
        grpo(OneTurn, make(), cls, "adam", max_turns=1, **options),
    ]
    fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    asked, played = (model.fit(prompts(8), **fit).history for model in models)
    assert played.pop("turns") == [1.0, 1.0]
    assert played.pop("truncated") == [0.0, 0.0]  # an episode that is over isn't cut off
    asked.pop("truncated")
    assert asked == played and max(asked["reward_std"]) > 0
    for a, b in zip(models[0].policy.weights, models[1].policy.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    optimizers = (model.optimizer.variables for model in models)
    for a, b in zip(*optimizers, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


# Several turns


def test_what_the_environment_writes_is_read_and_not_counted():
    model = grpo(Counting, network(), max_turns=3)
    episodes = episodes_of(model, prompts(2, (1, 3)))
    rollout = episodes.rollout()
    assert rollout.completion.shape == (8, 16) and rollout.sequence.shape == (8, 19)
    np.testing.assert_array_equal(rollout.start, [1] * 4 + [3] * 4)
    for row in range(8):
        completion, mask = rollout.completion[row], rollout.mask[row]
        start = rollout.start[row]
        np.testing.assert_array_equal(rollout.sequence[row, start : start + 16], completion)
        written = [ids for ids in episodes.transcripts[row][::2]]
        expected = [*written[0], 11, 12, *written[1], 11, 12, *written[2]]
        own = (
            [1] * len(written[0]) + [0, 0] + [1] * len(written[1]) + [0, 0] + [1] * len(written[2])
        )
        np.testing.assert_array_equal(completion[: len(expected)], expected)
        np.testing.assert_array_equal(mask[: len(own)], own)
        assert not mask[len(own) :].any() and (completion[len(own) :] == PAD).all()
        assert episodes.rewards[row] == sum(max(ids) > 7 for ids in written)
    assert rollout.turns.tolist() == [3] * 8 and rollout.ended.tolist() == [1] * 8
    tensors = keras.tree.map_structure(ops.convert_to_tensor, rollout, none_is_leaf=False)
    scores = ops.convert_to_numpy(model.actor.score(tensors).log_probs)
    own = rollout.mask > 0
    np.testing.assert_allclose(scores[own], rollout.log_probs[own], atol=1e-5)


@pytest.mark.seam
def test_tokens_of_the_environment_have_no_gradient():
    """One token a turn: places 0, 3 and 6 predict what the policy writes, the others what it
    reads. With a step of gradient descent a place moves by its gradient."""
    model = grpo(Counting, placed(), optimizer=keras.optimizers.SGD(1.0), max_new_tokens=1)
    model.fit(prompts(4, (1,)), batch_size=4, verbose=0)
    moved = ops.convert_to_numpy(model.policy.get_layer("places").table)
    assert (np.abs(moved[[0, 3, 6]]).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(np.delete(moved, [0, 3, 6], axis=0), 0.0)


class Drawn(Counting):
    """Begins each episode with another number of ids, and goes on for ever."""

    made = itertools.count()

    def __init__(self):
        self.length = next(Drawn.made) % 4

    def reset(self, prompt, **columns):
        return [2] * self.length  # no prompt, which would add nothing

    def step(self, ids):
        return [], 0.25, False


def test_episodes_of_a_prompt_may_begin_differently_and_are_cut_off():
    model = grpo(Drawn, max_turns=2, max_new_tokens=1)
    episodes = episodes_of(model, prompts(2, (1,)))
    rollout = episodes.rollout()
    assert sorted(rollout.start) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert rollout.sequence.shape == (8, 32)  # 16 each for beginnings and what follows
    assert rollout.ended.tolist() == [0] * 8 and episodes.values().ravel().tolist() == [0.5] * 8
    assert rollout.turns.tolist() == [2] * 8
    shown = model.table(prompts(2, (1,)), count=3)
    assert [len(row["prompt"]) for row in shown] == list(rollout.start[:3])
    assert shown[2]["completion"].count("\n> ") == 1 and shown[2]["reward"] == 0.5


def test_a_context_without_room_for_a_turn_ends_the_episode():
    """A prompt of one id and two turns make 7; two more of the environment leave no room in 8."""

    class Chatty:
        def reset(self):
            return []

        def step(self, ids):
            return [3, 3], 1.0, False

    keras.utils.set_random_seed(0)
    policy = CausalTransformer(13, 8, num_layers=1, num_heads=1, width=4)
    options = {"max_new_tokens": 2, "end_token_id": None, "max_turns": 9}
    episodes = episodes_of(grpo(Chatty, policy, **options), prompts(1, (1,)))
    assert episodes.rollout().turns.tolist() == [2] * 4
    assert episodes.rollout().ended.tolist() == [0] * 4

    class Long(Chatty):
        def reset(self, prompt):
            return [3] * 7

    message = r"fit into the network's context of 8 tokens.*8 tokens before.*in row 0, prompt \[\d"
    with pytest.raises(ValueError, match=message):
        episodes_of(grpo(Long, policy, **options), prompts(1, (1,)))


# How environments are called


class Slow:
    def __init__(self):
        self.thread = threading.get_ident()

    def reset(self, prompt):
        assert threading.get_ident() == self.thread
        return []

    def step(self, ids):
        assert threading.get_ident() == self.thread
        time.sleep(0.1)
        return [self.thread], 1.0, False


def test_environments_run_beside_each_other_each_in_its_own_thread():
    environments = Environments(Slow)
    columns = {"prompt": [[1]] * 16}
    environments.prompts = columns["prompt"]
    environments.reset(columns, 16)
    opening = time.perf_counter()
    answers = environments.step(1, range(16), [[5]] * 16)
    assert time.perf_counter() - opening < 0.8  # one after the other: 1.6
    assert len({ids[0] for ids, *_ in answers}) == 16
    before = list(environments._environments)
    environments.reset(columns, 16)
    assert environments._environments == before  # made once
    environments.close()


class Numbered:
    """Answers with its prompt, always from the same thread; that of 66 fails."""

    token = contextvars.ContextVar("token", default=0)

    def reset(self, prompt):
        self.prompt, self.thread = prompt, threading.get_ident()
        return []

    def step(self, ids):
        assert threading.get_ident() == self.thread
        if self.prompt == [66] and ids == [0]:
            raise KeyError("sixty-six")
        assert self.token.get() == 7
        self.token.set(0)  # which the next one of this thread doesn't see
        return self.prompt, 1.0, False


def test_more_environments_than_threads():
    environments = Environments(Numbered)
    environments.prompts = prompts = [[row] for row in range(70)]
    environments.reset({"prompt": prompts}, 70)
    Numbered.token.set(7)
    rows = [row for row in range(70) if row % 3]
    answers = environments.step(1, rows, [[5]] * len(rows))
    assert [answer[0] for answer in answers] == [[row] for row in rows]
    with pytest.raises(KeyError, match="sixty-six") as caught:
        environments.step(2, range(70), [[0]] * 70)
    assert caught.value.__notes__[0].endswith("in turn 2, row 66, prompt [66].")


def test_an_environment_that_is_late():
    environments = Environments(Slow)
    environments.prompts = [[1], [2]]
    environments.reset({"prompt": [[1], [2]]}, 2)
    with pytest.raises(TimeoutError, match="'Slow' must answer.*`step` after 0.01.*turn 3, row 1"):
        environments.step(3, [1], [[5]], timeout=0.01)


class Raises:
    def __init__(self, answer=None, begin=()):
        self.answer, self.begin = answer, list(begin)

    def reset(self, prompt):
        return self.begin

    def step(self, ids):
        if self.answer is None:
            raise KeyError("the environment")
        return self.answer


WRONG = {
    "nan": (([], float("nan"), True), "a finite number as the reward.*nan"),
    "huge": (([], 1e300, True), "a finite number as the reward"),
    "no number": (([], "1", True), "a finite number as the reward"),
    "none": (([], None, True), "a finite number as the reward"),
    "no flag": (([], 1.0, 1), "True or False as `done`"),
    "no text": ((None, 1.0, True), "a list of ids"),
    "text without tokenizer": (("higher", 1.0, True), "a list of ids .texts need a `tokenizer`"),
    "a pair": (([], 1.0), r"\(text, reward, done\)"),
    "nothing": (False, r"\(text, reward, done\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_an_environment_must_not_give(name):
    answer, message = WRONG[name]
    environments = Environments(lambda: Raises(answer))
    environments.prompts = [[7]]
    environments.reset({"prompt": [[7]]}, 1)
    with pytest.raises(ValueError, match=f"must give {message}.*in turn 2, row 0, prompt .7."):
        environments.step(2, [0], [[5]])
    assert not environments._environments  # the next batch makes new ones


class Letters:
    def encode(self, text):
        return ["abcdefghijklm".index(letter) for letter in text]

    def decode(self, ids):
        return "".join("abcdefghijklm"[i] for i in ids)


def test_texts_where_there_is_a_tokenizer():
    environments = Environments(lambda: Raises(("abc", True, np.True_), "b"), tokenizer=Letters())
    environments.prompts = ["m"]
    with pytest.raises(
        ValueError, match=r"must give a text from `reset`.*\['b'\].*row 0, prompt 'm'"
    ):
        environments.reset({"prompt": ["m"]}, 1)
    environments = Environments(lambda: Raises(("abc", True, np.True_)), tokenizer=Letters())
    environments._environments = [environments.factory()]
    assert environments.step(1, [0], ["a"]) == [("abc", [0, 1, 2], 1.0, True)]
    environments.close()


class NoStep:
    def reset(self):
        return ""


REFUSED = {
    "both": ({"environment": OneTurn, "reward_fn": sevens}, "can't both be given"),
    "turns": ({"reward_fn": sevens, "max_turns": 2}, "`max_turns` is for an `environment`"),
    "no turn": ({"environment": OneTurn, "max_turns": 0}, "`max_turns` must be"),
    "no step": ({"environment": NoStep}, "NoStep, without `step`"),
    "an object": ({"environment": OneTurn()}, "one environment.*Give its class"),
    "no class": ({"environment": "chess"}, "Received: 'chess' of type str"),
    "weights": ({"environment": OneTurn, "reward_weights": [1.0]}, "`reward_weights` is for"),
    "retries": ({"environment": OneTurn, "reward_retries": 1}, "`reward_retries` is for"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together(name):
    options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        grpo(**options)


def test_greedy_episodes_are_refused():
    with pytest.raises(ValueError, match="'greedy'"):
        REINFORCE(bigrams(), environment=OneTurn, baseline="greedy", max_new_tokens=2)


def test_neither_a_reward_nor_an_environment():
    with pytest.raises(ValueError, match="There is no reward.*`environment`"):
        grpo(None).fit(prompts(4), verbose=0)


def test_a_factory_that_makes_something_else_and_a_missing_column():
    with pytest.raises(ValueError, match="without `step`"):
        grpo(lambda: NoStep()).fit(prompts(4), verbose=0)

    class Needs(OneTurn):
        def reset(self, answer):
            return []

    with pytest.raises(ValueError, match="environment 'Needs' needs the column 'answer'"):
        grpo(Needs).fit([[3], [4]], batch_size=2, verbose=0)


def test_ids_outside_the_vocabulary():
    with pytest.raises(ValueError, match="the policy's vocabulary") as caught:
        grpo(lambda: Raises(([13], 1.0, False))).fit(prompts(4), verbose=0)
    assert "in turn 1, row 0" in caught.value.__notes__[0]


# The frame


class Fails:
    """Fails in the second turn of the batch `at`."""

    at, batches = None, 0

    def reset(self, prompt):
        self.turn = 0
        return []

    def step(self, ids):
        self.turn += 1
        if Fails.at == 0 and self.turn == 2:
            raise KeyError("the environment")
        return [5], float(ids[0]), self.turn == 3


@pytest.mark.seam
def test_an_environment_that_raises_leaves_the_model_as_it_was():
    x = prompts(4)
    Fails.at = None
    models = [grpo(Fails, optimizer="adam", max_turns=3) for _ in range(2)]
    for model in models:
        model.fit(x, batch_size=4, shuffle=False, verbose=0)
    Fails.at = 0
    with pytest.raises(KeyError, match="the environment") as caught:
        models[1].fit(x, batch_size=4, shuffle=False, verbose=0)
    note = caught.value.__notes__[0]
    assert note.startswith("Raised by the environment 'Fails' in `step` in turn 2, row 0, prompt [")
    Fails.at = None
    for a, b in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    rest = [model.fit(x, batch_size=4, shuffle=False, verbose=0).history for model in models]
    assert rest[0] == rest[1]
    assert_same(*models)


@keras.saving.register_keras_serializable(package="tests")
def saved():
    return OneTurn()


def test_a_registered_environment_is_saved_and_another_is_set_again(tmp_path):
    model = grpo(saved, max_turns=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.environment is saved and loaded.max_turns == 2 and loaded.rewards.plays
    model.environment = OneTurn
    assert model.get_config()["environment"] is None
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="`model.environment` again"):
        loaded.fit(prompts(4), verbose=0)
    loaded.environment = OneTurn
    assert loaded.rewards.plays and loaded.max_turns == 2
    with pytest.raises(ValueError, match="can't both"):
        loaded.reward_fn = sevens


def test_max_turns_may_be_set_later():
    Fails.at = None
    model = grpo(Fails)
    model.max_turns = 2
    assert episodes_of(model, prompts(2)).rollout().turns.tolist() == [2] * 8
    model.max_turns = None
    assert episodes_of(model, prompts(2)).rollout().turns.tolist() == [3] * 8
