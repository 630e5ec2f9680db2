"""Two real processes with four virtual devices each: the first learns, the second samples."""

import os
import signal

import numpy as np
import pytest
from distributed import test_processes
from distributed.groups import Watch, run_group

pytestmark = [pytest.mark.slow, pytest.mark.backends("jax")]

MEMBER = test_processes.MEMBER.with_name("actor_member.py")
environment = test_processes.environment


def grouped(task, folder, watch, **options):
    """The exit code of both at a task; one that hangs is killed and fails."""
    return run_group([str(MEMBER), task, str(folder)], watch, **options)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """What both find, and what one process alone does, of which a thread asks for rewards."""
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_processes, "MEMBER", MEMBER)
        alone = test_processes.alone("basics", tmp_path_factory.mktemp("alone"))
    folder = tmp_path_factory.mktemp("group")
    assert grouped("basics", folder, watch, max_restarts=0) == 0, "\n".join(watch.lines)
    return {**watch.results(), "alone": alone}


def assert_close(found, expected):
    assert found["history"].keys() == expected["history"].keys()
    for name, values in expected["history"].items():
        np.testing.assert_allclose(found["history"][name], values, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(found["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["grpo", "updates", "ppo"])
def test_the_numbers_of_one_process_in_both(group, name):
    """Metrics, those of validation, and weights after the last update."""
    assert_close(group[0][name], group["alone"][name])
    assert group[1][name] == group[0][name]


def test_rewards_of_tensors_are_the_learners(group):
    assert_close(group[0]["tensors"], group["alone"]["grpo"])
    assert group[1]["tensors"] == group[0]["tensors"]


def test_frozen_weights_are_sent_once(group):
    """Before and after each of two updates; evaluation sends what no update sent."""
    assert group[0]["sent"] == [2, 1, 0, 1, 2, 0, 0, 0] and group[1]["sent"] == []


def test_a_reward_that_raises_does_so_in_both(group):
    """After two updates; both can go on."""
    for index in (0, 1):
        assert group[index]["error"] == "OSError: no judge"
        assert (group[index]["finished"], group[index]["again"]) == (2, 12)


def test_a_callback_that_raises_in_one_ends_the_other(group):
    """Who waits for it gets an error; both can go on."""
    assert group[1]["one fails"] == "InterruptedError: no disk"
    assert "The other process of `actor_learner` has ended" in group[0]["one fails"]


def test_a_batch_is_sampled_while_the_other_learns(group):
    """It was begun before the update, and isn't done when that is. Of the first two batches of an
    epoch neither waits for an update, and in the first epoch programs are compiled meanwhile."""
    assert group[1]["sampled"][-3:] == [False] * 3


def test_both_evaluate_and_stop_alike(group):
    assert group[0]["evaluated"] == group[1]["evaluated"]
    assert group[0]["stopped"] == group[1]["stopped"] == 2


def test_a_run_that_breaks_off_goes_on_to_the_bit(group):
    straight, resumed = group[0]["resumed"]
    assert resumed == straight == group[1]["resumed"][1]


def test_each_has_its_own_devices(group):
    assert len({*group[0]["devices"], *group[1]["devices"]}) == 8


def test_one_that_is_killed_ends_the_other_and_both_go_on(group, tmp_path):
    """A launcher starts both again, from the last checkpoint."""
    kill = Watch({"died": lambda match: None})
    kill.on[r"\[1\] pid (\d+) step 5"] = lambda match: os.kill(int(match[1]), signal.SIGKILL)
    assert grouped("train", tmp_path, kill) == 0, "\n".join(kill.lines)
    assert "Process 1 died of SIGKILL" in kill.at("died")
    for found in kill.results().values():
        assert found == group[0]["resumed"][0]


def test_they_learn_echo(tmp_path):
    """As fast as one process that is one update behind: seed 0, 12,800 completions."""
    watch = Watch()
    assert grouped("echo", tmp_path, watch, max_restarts=0) == 0, "\n".join(watch.lines)
    found = watch.results()
    assert found[0] == found[1] and found[0]["reward"] >= 0.95
    assert found[0]["completions"] <= 15_000
