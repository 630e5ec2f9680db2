import asyncio
import functools
import json
import pickle
import threading
import time

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import compiled
from artifex_keras.datasets.tokenizers import CharacterTokenizer
from artifex_keras.rl.host_rewards import decoded
from artifex_keras.rl.ready_rewards import exact_match, gsm8k_answer
from artifex_keras.rl.rewards import (
    Rewards,
    rewards_config,
    rewards_from_config,
    traceable,
)

PROMPTS = ["a", "b", "c"]
COMPLETIONS = ["xx", "", "x"]


def length(prompts, completions):
    return [len(text) for text in completions]


def nothing(prompts, completions):
    return [None] * len(completions)


def host(reward_fn, columns=None, prompts=PROMPTS, completions=COMPLETIONS):
    return Rewards(reward_fn).host(prompts, completions, columns or {})


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def close(x, expected):
    np.testing.assert_allclose(numpy(x), expected, rtol=1e-6)


# What is a reward


def test_names_are_unique_and_never_those_of_the_total():
    class Judge:
        def __call__(self, prompts, completions):
            return [0.0] * len(prompts)

    def reward(prompts, completions):
        return [0.0] * len(prompts)

    def std(prompts, completions):
        return [0.0] * len(prompts)

    layer = keras.layers.Dense(1, name="scorer")
    bound = functools.partial(length)
    functions = [length, length, bound, Judge(), layer, reward, std, lambda p, c: [0.0] * len(p)]
    assert Rewards(functions).names == [
        "length",
        "length_2",
        "length_3",
        "Judge",
        "scorer",
        "reward_fn",
        "std_fn",
        "lambda",
    ]


def test_none_is_no_reward_yet():
    assert not Rewards(None) and not Rewards(None, [1.0, 2.0])
    assert len(Rewards([length, nothing])) == 2


@pytest.mark.parametrize("wrong", ["length", [length, 3], [None], [keras.layers.Dense], [[length]]])
def test_what_is_no_reward_is_refused(wrong):
    with pytest.raises(ValueError, match="`reward_fn` must be a function"):
        Rewards(wrong)


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Rewards([])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], 2.0, [1.0, np.nan], [1.0, "2"]])
def test_weights_are_one_finite_number_for_each(weights):
    with pytest.raises(ValueError, match="`reward_weights`"):
        Rewards([length, nothing], weights)


def test_where_rewards_run():
    dense = keras.layers.Dense(1)
    on_device = traceable(lambda prompts, completions: completions[:, 0])
    assert not Rewards([dense, on_device]).on_host
    assert Rewards([dense, length]).on_host


def test_a_function_without_place_for_completions_is_refused():
    with pytest.raises(ValueError, match=r"'short' must take `prompts` and `completions`.*texts"):

        def short(texts):
            return [0.0] * len(texts)

        Rewards(short)


# How functions are called


def test_a_function_gets_the_columns_that_it_has_parameters_for():
    seen = {}

    def some(first, second, answer, level=3, missing=7, *, hint):
        seen.update(locals())
        return [0.0] * 3

    columns = {"answer": [1, 2, 3], "level": np.arange(3), "hint": ["h"] * 3, "other": [0] * 3}
    host(some, columns)
    assert seen.pop("level") is columns["level"]
    seen.pop("seen", None)
    assert seen == {
        "first": PROMPTS,
        "second": COMPLETIONS,
        "answer": [1, 2, 3],
        "missing": 7,
        "hint": ["h"] * 3,
    }


def test_a_function_with_keywords_gets_all_columns():
    seen = {}

    def every(prompts, completions, a, **columns):
        seen.update(columns, a=a)
        return [0.0] * 3

    host(every, {"a": [1] * 3, "b": [2] * 3, "prompts": [3] * 3})
    assert seen == {"a": [1] * 3, "b": [2] * 3}


@pytest.mark.parametrize(
    "function",
    [
        lambda completions, answer: [c + a for c, a in zip(completions, answer, strict=True)],
        lambda completions, **kw: [c + a for c, a in zip(completions, kw["answer"], strict=True)],
        lambda completions, prompts, answer: [c + a for c, a in zip(completions, answer)],  # noqa: B905
        lambda *args, answer: [c + a for c, a in zip(args[1], answer, strict=True)],
        lambda prompts, answer, completions: [c + a for c, a in zip(completions, answer)],  # noqa: B905
    ],
)
def test_completions_are_found_wherever_they_stand(function):
    given = {"prompts": [7, 8], "completions": [1, 2]}
    close(host(function, {"answer": [10, 20]}, **given), [[11], [22]])


def test_functions_called_by_name_get_the_prompts_too():
    def both(completions, prompts):
        return [c - p for c, p in zip(completions, prompts, strict=True)]

    def all_of(completions, **kwargs):
        return both(completions, kwargs["prompts"])

    assert host([both, all_of], prompts=[1, 2], completions=[5, 5]).tolist() == [[4, 4], [3, 3]]


def test_a_missing_column_names_the_reward_the_column_and_what_there_is():
    def graded(prompts, completions, answer):
        raise AssertionError

    with pytest.raises(ValueError, match=r"'graded' needs the column 'answer'.*\['level', 'row'\]"):
        host(graded, {"row": [], "level": []})


# What functions give


def test_results_are_float32_in_the_order_of_the_rewards():
    values = host([length, nothing, lambda p, c: np.array([True, False, True])])
    assert values.dtype == "float32"
    np.testing.assert_array_equal(values, [[2, np.nan, 1], [0, np.nan, 0], [1, np.nan, 1]])


@pytest.mark.parametrize(
    "result",
    [
        [1, 0.5, None],
        (np.float64(1), np.array(0.5), None),
        np.array([1, 0.5, None]),
        np.array([[1], [0.5], [None]]),  # as a network gives them
        [True, np.float32(0.5), None],
    ],
)
def test_numbers_may_be_of_any_kind(result):
    np.testing.assert_array_equal(host(lambda p, c: result)[:, 0], [1, 0.5, np.nan])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "bool"])
def test_tensors_are_numbers_too(dtype):
    tensor = ops.cast(ops.convert_to_tensor([1, 0, 1]), dtype)
    close(host(lambda p, c: tensor)[:, 0], [1, 0, 1])
    close(host(lambda p, c: [tensor[0], tensor[1], tensor[2]])[:, 0], [1, 0, 1])


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ([1.0, 2.0], "one number per completion, 3. Received: 2 of them"),
        (np.zeros((3, 2)), r"one number per completion, 3. Received: an array of shape \(3, 2\)"),
        (np.float32(1), r"an array of shape \(\)"),
        (1.0, "Received: 1.0 of type float"),
        (None, "Received: None of type NoneType"),
        ("abc", "Received: 'abc' of type str"),
        ({0: 1.0}, "of type dict"),
        ([1.0, float("nan"), 1.0], "Received: nan in row 1. Return None where"),
        (np.array([1, 2, np.inf]), "Received: inf in row 2. Return None where"),
        ([1e39, 0, 0], r"Received: 1e\+39 in row 0"),
        ([10**400, 0, 0], r"Received: 10+ in row 0"),
        ([0, "1", 0], "Received: '1' in row 1"),
        ([0, [1], 0], r"Received: \[1\] in row 1"),
        ([0, 0, 1j], "Received: 1j in row 2"),
        ([np.zeros(2), 0, 0], "in row 0"),
    ],
)
def test_a_wrong_result_names_the_reward_and_the_row(result, said):
    def strange(prompts, completions):
        return result

    with pytest.raises(ValueError, match=f"'strange' must give.*{said}"):
        host([length, strange])


def test_what_a_reward_raises_says_which_one_did():
    def broken(prompts, completions):
        return {}["key"]

    async def late(prompts, completions):
        raise KeyError("key")

    for function in (broken, late):
        with pytest.raises(KeyError) as caught:
            host([length, function])
        said = f"Raised by the reward {function.__name__!r} for rows 0 to 2, first prompt 'a'."
        assert caught.value.__notes__ == [said]


@pytest.mark.parametrize(
    "reward",
    [
        lambda prompts, completions: [1 / len(c) for c in completions],
        lambda prompts, completions: [1 / len(c) for _, c in zip(prompts, completions)],  # noqa: B905
        lambda prompts, completions: [1 / len(completions[i]) for i in range(2)],
        lambda prompts, completions: list(map(lambda c: 1 / len(c), completions)),
        lambda prompts, completions: [0, float("inf")],
    ],
    ids=["loop", "zip", "index", "map", "result"],
)
def test_a_failure_names_the_row_that_was_read_and_its_prompt(reward):
    with pytest.raises((ZeroDivisionError, ValueError)) as caught:
        host(reward, prompts=["one", "two" * 100], completions=["x", ""])
    (note,) = caught.value.__notes__
    assert "in row 1, prompt 'twotwo" in note and "..." in note and len(note) < 200


def test_rows_are_lists_to_whoever_asks():
    def checked(prompts, completions):
        again = pickle.loads(pickle.dumps(completions))
        assert type(again) is list and again == completions == COMPLETIONS
        assert json.dumps(prompts) == json.dumps(PROMPTS) and completions[-1] == COMPLETIONS[-1]
        assert completions[1:] == COMPLETIONS[1:]
        return [0, 0, 0]

    close(host(checked), [[0], [0], [0]])


# In time, and again


class Flaky:
    """Fails so many times; then it is the length."""

    def __init__(self, times, instead):
        self.left, self.instead, self.calls = times, instead, 0

    def __call__(self, prompts, completions):
        self.calls += 1
        self.left -= 1
        return self.instead() if self.left >= 0 else [float(len(c)) for c in completions]


def unreachable():
    raise ConnectionError("unreachable")


async def unreachable_later():
    raise ConnectionError("unreachable")


async def forever():
    await asyncio.sleep(60)


FLAKES = {
    "raises": unreachable,
    "raises later": unreachable_later,
    "wrong": lambda: [float("nan")] * 3,
    "late": lambda: time.sleep(0.4),
    "late later": forever,
}


@pytest.mark.parametrize("name", FLAKES)
def test_a_reward_is_asked_again(name):
    patience = {"timeout": 0.1 if "late" in name else None}
    flaky = Flaky(2, FLAKES[name])
    asked = Rewards([flaky, length]).host(PROMPTS, COMPLETIONS, {}, retries=2, **patience)
    close(asked[:, 0], asked[:, 1])
    assert flaky.calls == 3
    flaky = Flaky(2, FLAKES[name])
    error = {"wrong": ValueError, "late": TimeoutError}.get(name.split()[0], ConnectionError)
    with pytest.raises(error):
        Rewards(flaky).host(PROMPTS, COMPLETIONS, {}, retries=1, **patience)
    assert flaky.calls == 2


def test_an_interrupt_is_not_asked_again():
    def interrupt():
        raise KeyboardInterrupt

    flaky = Flaky(1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        Rewards(flaky).host(PROMPTS, COMPLETIONS, {}, retries=3, timeout=5)
    assert flaky.calls == 1


def test_a_late_reward_is_left_behind():
    began = time.perf_counter()
    with pytest.raises(TimeoutError, match="`reward_timeout`.*after 0.05 seconds.*retries"):
        Rewards(Flaky(1, lambda: time.sleep(2))).host(PROMPTS, COMPLETIONS, {}, timeout=0.05)
    assert time.perf_counter() - began < 1.5
    with pytest.raises(TimeoutError, match="their own"):  # a time-out of the user's

        def own(prompts, completions):
            raise TimeoutError("their own")

        Rewards(own).host(PROMPTS, COMPLETIONS, {}, timeout=5)


# Asynchronous rewards


class Meeting:
    """Async rewards that each wait until all have come."""

    def __init__(self, count):
        self.count, self.here = count, 0

    async def __call__(self, prompts, completions):
        self.here += 1
        while self.here < self.count:
            await asyncio.sleep(0.001)
        return [float(len(text)) for text in completions]


@pytest.mark.timeout(30)
def test_asynchronous_rewards_run_at_once():
    meeting = Meeting(3)
    values = host([meeting, length, meeting, lambda p, c: meeting(p, c)])
    close(values, np.repeat([[2.0], [0.0], [1.0]], 4, axis=1))


@pytest.mark.timeout(30)
def test_asynchronous_rewards_run_within_a_running_loop_and_share_theirs():
    loops = set()

    async def where(prompts, completions):
        loops.add(asyncio.get_running_loop())
        return [1.0] * len(completions)

    async def notebook():
        assert asyncio.get_running_loop()
        return host(where)

    close(asyncio.run(notebook()), np.ones((3, 1)))
    host(where)
    assert len(loops) == 1  # so that a client may be kept from step to step


@pytest.mark.timeout(30)
def test_the_others_are_cancelled_when_one_fails():
    cancelled = threading.Event()

    async def endless(prompts, completions):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def fails(prompts, completions):
        await asyncio.sleep(0.01)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        host([endless, fails])
    assert cancelled.is_set()


@pytest.mark.timeout(30)
def test_the_loop_is_started_anew_after_its_thread_is_gone():
    from artifex_keras.rl import host_rewards

    host(Meeting(1))
    old = host_rewards._loops.thread
    host_rewards._loops.loop.call_soon_threadsafe(host_rewards._loops.loop.stop)
    old.join()
    close(host(Meeting(1)), [[2.0], [0.0], [1.0]])
    assert host_rewards._loops.thread is not old


# On the device

IDS = np.array([[5, 1, 0], [7, 7, 1]], "int32")


def view(**changes):
    prompts = np.array([[3, 4], [2, 2]], "int32")
    known = {
        "prompts": prompts,
        "completions": IDS,
        "sequence": np.concatenate([prompts, IDS], axis=1),
        "last": np.array([3, 4], "int32"),
        "columns": {
            "target": np.array([5.0, 9.0], "float32"),
            "completion_mask": np.array([[1, 1, 0], [1, 1, 1]], "float32"),
            "prompt_length": np.array([2, 2], "int32"),
        },
    } | changes
    return keras.tree.map_structure(
        lambda a: a if a is None else ops.convert_to_tensor(a), known, none_is_leaf=False
    )


def test_a_traceable_function_gets_tensors_and_columns():
    @traceable
    def near(prompts, completions, target, completion_mask):
        ids = ops.cast(completions, "float32") * completion_mask
        return ops.sum(ids, axis=1) - target + ops.cast(prompts[:, 0], "float32")

    (scores,) = Rewards(near).device(view())
    close(scores, [5 + 1 - 5 + 3, 7 + 7 + 1 - 9 + 2])


def test_methods_and_objects_can_be_traceable():
    class Judge:
        def near(self, prompts, completions, target):
            return target

        @traceable
        def __call__(self, prompts, completions):
            return completions[:, 0]

    @traceable
    class Scorer(Judge):
        pass

    rewards = Rewards([traceable(Judge().near), Scorer()])
    assert rewards.names == ["near", "Scorer"] and not rewards.on_host
    for scores, expected in zip(rewards.device(view()), ([5, 9], [5, 7]), strict=True):
        close(scores, expected)


class Scores(keras.Model):
    """Scores of given shapes, made from ids: per row their sum, per token themselves."""

    def __init__(self, kind):
        super().__init__(name=kind)
        self.kind = kind

    def call(self, ids, training=None):
        assert training is False
        x = ops.cast(ids, "float32")
        total = ops.sum(x, axis=tuple(range(1, len(x.shape))))
        return {
            "rows": total,
            "column": total[:, None],
            "tokens": x,
            "token_column": x[..., None],
            "short": x[:, 1:],
            "logits": ops.stack([x, x], -1),
            "all": ops.sum(x),
            "pair": (total, total),
        }[self.kind]


def test_models_score_rows_or_the_last_real_token():
    model = Scores
    rewards = Rewards([model("rows"), model("column"), model("tokens"), model("token_column")])
    values = rewards.values((), view())
    close(values, [[13, 13, 1, 1], [19, 19, 1, 1]])
    later = rewards.values((), view(last=np.array([2, 3], "int32")))
    close(later[:, 2:], [[5, 5], [7, 7]])


def test_a_row_of_one_token_has_one_score():
    rows = {"sequence": np.array([[4], [6]], "int32"), "last": np.array([0, 0], "int32")}
    close(Rewards(Scores("tokens")).device(view(**rows))[0], [4, 6])


def test_models_score_samples():
    samples = np.arange(8, dtype="float32").reshape(2, 2, 2)
    chains = {"completions": samples, "sequence": None, "last": None, "columns": {}}
    close(Rewards(Scores("rows")).device(view(**chains))[0], [6, 22])
    with pytest.raises(ValueError, match=r"'tokens' must give one score.*shape \(2, 2, 2\)"):
        Rewards(Scores("tokens")).device(view(**chains))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("short", r"shape \(2, 4\)"),
        ("logits", r"shape \(2, 5, 2\)"),
        ("all", ""),
        ("pair", ""),
    ],
)
def test_a_model_that_gives_something_else_is_refused(kind, said):
    with pytest.raises(ValueError, match=rf"'{kind}' must give one score.*\(2,\).*{said}"):
        Rewards(Scores(kind)).device(view())


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda ids: ids, r"shape \(2, 3\)"),
        (lambda ids: ids[:, :1], r"shape \(2, 1\)"),
        (lambda ids: ids[0], r"shape \(3,\)"),
        (lambda ids: ops.sum(ids), r"shape \(\)"),
        (lambda ids: None, "None"),
        (lambda ids: [1.0, 2.0], r"\[1.0, 2.0\]"),
    ],
)
def test_a_traceable_function_that_gives_something_else_is_refused(result, said):
    @traceable
    def strange(prompts, completions):
        return result(completions)

    with pytest.raises(ValueError, match=rf"'strange' must give a tensor.*\(2,\).*{said}"):
        Rewards(strange).device(view())


def test_a_traceable_function_says_what_it_lacks_and_raises():
    @traceable
    def graded(prompts, completions, answer):
        raise AssertionError

    said = r"'graded' needs the column 'answer'.*'completion_mask'.*Text doesn't reach the device"
    with pytest.raises(ValueError, match=said):
        Rewards(graded).device(view())

    @traceable
    def broken(prompts, completions):
        raise KeyError("key")

    with pytest.raises(KeyError) as caught:
        Rewards(broken).device(view())
    assert caught.value.__notes__ == ["Raised by the reward 'broken'."]


def test_traceable_and_async_exclude_each_other():
    with pytest.raises(ValueError, match="can't be both"):
        Rewards(traceable(Meeting(1)))


@pytest.mark.parametrize("names", [("rows", "host", "near"), ("near", "rows"), ("host", "host")])
def test_values_keep_the_order_of_the_rewards_in_a_compiled_program(names):
    @traceable
    def near(prompts, completions, target):
        return ops.where(target > 6, float("nan"), target)

    known = {"rows": Scores("rows"), "near": near, "host": length}
    expected = {"rows": [13, 19], "near": [5, np.nan], "host": [2, 1]}
    rewards = Rewards([known[name] for name in names])
    told = rewards.host(["", ""], ["xx", "x"], {}) if rewards.on_host else ()

    class Program(keras.Model):
        compiled_methods = {}

        @compiled
        def run(self, told, view):
            return rewards.values(told, view)

    values = Program().run(ops.convert_to_tensor(told) if rewards.on_host else (), view())
    np.testing.assert_allclose(numpy(values), np.transpose([expected[name] for name in names]))


# Their sum


def test_combined_sums_what_applies():
    nan = np.nan
    values = [[1.0, 2.0, 4.0], [nan, 2.0, 4.0], [1.0, nan, nan], [nan, nan, nan]]
    rewards = Rewards([length] * 3, [0.5, -1.0, 0.25])
    # 0.5·1 - 1·2 + 0.25·4, then the same without what doesn't apply
    combined = rewards.combined(ops.convert_to_tensor(values))
    np.testing.assert_allclose(numpy(combined), [-0.5, -1.0, 0.5, nan], rtol=1e-6)


def test_combined_of_one_reward_is_itself():
    values = np.array([[0.1], [-3.0], [np.nan]], "float32")
    combined = Rewards(length).combined(ops.convert_to_tensor(values))
    np.testing.assert_array_equal(numpy(combined), values[:, 0])


# What functions are given


def test_decoded_texts_have_neither_end_token_nor_padding():
    tokenizer = CharacterTokenizer("abcde")  # a is 0, e is 4
    ids = np.array([[1, 2, 4, 4], [4, 0, 0, 0], [1, 1, 2, 2], [0, 3, 1, 1]])
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]], "float32")
    texts = ["bc", "", "bbcc", "a"]
    assert decoded(tokenizer, ids, mask, [4, 3]) == texts
    assert Rewards(length, tokenizer=tokenizer, end_token_ids=(3, 4)).readable(ids, mask) == texts
    assert decoded(tokenizer, ids, mask, 4) == ["bc", "", "bbcc", "ad"]
    assert decoded(tokenizer, ids, mask, None) == ["bce", "e", "bbcc", "ad"]


def test_without_a_tokenizer_ids_go_up_to_the_end_token():
    ids = np.array([[1, 4, 0], [1, 2, 3], [9, 9, 9]], "int32")
    rows = decoded(None, ids, [[1, 1, 0], [1, 1, 1], [0, 0, 0]], [4])
    assert rows == [[1, 4], [1, 2, 3], []]
    assert type(rows[0][0]) is int


# Saving


@keras.saving.register_keras_serializable("tests")
def kept(prompts, completions):
    return [1.0] * len(completions)


@keras.saving.register_keras_serializable("tests")
@traceable
def kept_on_device(prompts, completions):
    return completions[:, 0]


def saved(reward_fn):
    return rewards_from_config(json.loads(json.dumps(rewards_config(reward_fn))))


def test_registered_functions_and_models_are_kept():
    functions = saved([kept, kept_on_device, keras.Sequential([keras.layers.Dense(1)], name="s")])
    assert functions[:2] == [kept, kept_on_device]
    assert Rewards(functions).names == ["kept", "kept_on_device", "s"]
    assert saved(kept) is kept


def lambda_inside():
    return keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)])


@pytest.mark.parametrize(
    "reward_fn",
    [
        None,
        length,
        lambda prompts, completions: [0.0],
        [kept, length],
        functools.partial(kept),
        Meeting(1),
        "abc".count,
        len,
        exact_match(extract=lambda text: text),
    ],
)
def test_bare_functions_are_left_out(reward_fn):
    assert rewards_config(reward_fn) is None
    assert saved(reward_fn) is None


def test_a_function_that_only_has_the_name_of_a_registered_one_is_left_out():
    def other(prompts, completions):
        return [0.0]

    other.__name__ = "tests>kept"
    assert rewards_config(other) is None


@pytest.mark.filterwarnings("ignore")
def test_no_lambda_is_written():
    assert rewards_config(lambda_inside()) is None


# Ready rewards


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He has 3 + 4 = <<3+4=7>>7.\n#### 7", 7.0),
        ("#### 1,234.50", 1234.5),
        ("####-12", -12.0),
        ("#### $1,000. And more", 1000.0),
        ("#### -$5", -5.0),
        ("#### .5", 0.5),
        ("#### 42 #### 7", 42.0),
        ("42", None),
        ("#### none", None),
        (np.int64(3), 3.0),
    ],
)
def test_gsm8k_answer(text, number):
    assert gsm8k_answer(text) == number


def test_exact_match_of_texts():
    columns = {"answer": ["xx", "y", None]}
    values = host(exact_match(), columns, completions=[" xx\n", "yy", "z"])
    np.testing.assert_array_equal(values[:, 0], [1, 0, np.nan])


def test_exact_match_of_numbers_and_ids():
    numbers = host(exact_match("n"), {"n": np.array([7, 8, 9])}, completions=["7", "8.", "9 "])
    assert numbers[:, 0].tolist() == [1, 0, 1]
    ids = host(exact_match(), {"answer": np.array([[1, 2], [3, 4]])}, completions=[[1, 2], [3]])
    assert ids[:, 0].tolist() == [1, 0]


def test_exact_match_of_what_is_extracted():
    reward = exact_match(extract=gsm8k_answer)
    columns = {"answer": ["so #### 1,000", 5, "#### 3"]}
    values = host(reward, columns, completions=["#### 1000.0", "#### 6", "3"])
    assert values[:, 0].tolist() == [1, 0, 0]
    again = saved(reward)
    assert again.column == "answer" and again.extract is gsm8k_answer
    assert Rewards([reward, again]).names == ["exact_match", "exact_match_2"]


def test_exact_match_says_what_the_data_lack():
    with pytest.raises(ValueError, match=r"'exact_match' needs the column 'answer'.*\['other'\]"):
        host(exact_match(), {"other": [1] * 3})
    with pytest.raises(ValueError, match="Received: '42' in row 1 of column 'answer'"):
        host(exact_match(extract=gsm8k_answer), {"answer": ["#### 1", "42", "#### 3"]})
    with pytest.raises(ValueError, match="`extract` must be"):
        exact_match(extract="gsm8k")
