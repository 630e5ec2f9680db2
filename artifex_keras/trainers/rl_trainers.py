"""Training by rewards and by preferences."""

import contextlib
import inspect

from artifex_keras.rl import (
    DPO,
    GRPO,
    KTO,
    PPO,
    REINFORCE,
    RLOO,
    SFT,
    Distillation,
    ProcessRewardModel,
    RewardModel,
)
from artifex_keras.trainers.batches import is_arrays
from artifex_keras.trainers.trainer import Trainer

__all__ = [
    "DPOTrainer",
    "DistillationTrainer",
    "GRPOTrainer",
    "KTOTrainer",
    "PPOTrainer",
    "REINFORCETrainer",
    "RLOOTrainer",
    "ProcessRewardModelTrainer",
    "RewardModelTrainer",
    "SFTTrainer",
]


class FineTuner(Trainer):
    """What the trainers of this module share: they make the algorithm of a policy.

    `model` is the algorithm then, `policy` the model that was given.
    """

    def __init__(self, model, config, train_dataset, val_dataset=None, **arguments):
        common = {name: arguments.pop(name) for name in COMMON if name in arguments}
        self.check_names([name for name in arguments if name not in self._own()])
        place = common.get("distribution")
        with contextlib.nullcontext() if place is None else place.scope():
            model = self._algorithm(model, arguments)
        super().__init__(model, config, train_dataset, val_dataset, **common)

    def _own(self):
        """The arguments of the algorithm, but for the policy."""
        classes = [cls for cls in self.family.__mro__ if cls.__module__.startswith(PACKAGE)]
        names = {name for cls in classes for name in inspect.signature(cls.__init__).parameters}
        return names - NOT_OPTIONS

    def accepted_arguments(self):
        return super().accepted_arguments() | self._own()

    def _algorithm(self, model, arguments):
        """`model` if it is the algorithm already, else the algorithm with it as the policy."""
        if not isinstance(model, self.family):
            return self.family(model, **arguments)
        if arguments:
            name = type(model).__name__
            raise ValueError(
                f"`model` is a {name} already, with arguments of its own: give the policy instead, "
                f"or leave out {', '.join(f'`{argument}`' for argument in arguments)}."
            )
        return model

    @property
    def policy(self):
        """The model that is fine-tuned."""
        return self.model.policy

    def count_params(self):
        return self.policy.count_params()


COMMON = tuple(inspect.signature(Trainer.__init__).parameters)[5:-1]
PACKAGE = "artifex_keras.rl"
# Of a constructor: the trained model, by its names, and what isn't the user's.
NOT_OPTIONS = {"self", "policy", "backbone", "student"}
NOT_OPTIONS |= {"args", "common", "kwargs", "metric_names"}


class OnPolicyTrainer(FineTuner):
    """What the trainers of algorithms share that learn from the policy's own completions."""

    watched = "reward"
    drop_remainder = True

    def configure(self):
        super().configure()
        self.model.check_reward()

    def compile_arguments(self):
        arguments = super().compile_arguments()
        updates = self.model.num_epochs * self.model.num_minibatches
        return {**arguments, "optimizer": self.optimizer(updates_per_batch=updates)}

    def readable(self, dataset, training):
        if not self.model.actor.tokens or is_batches(dataset):
            return dataset
        if not training:
            return self.model.prompt_batches(
                dataset, self.batch_size, shuffle=False, drop_remainder=False
            )
        return self.model.prompt_batches(
            dataset,
            self.batch_size,
            shuffle=self.config.shuffle,
            seed=self.config.seed,
            steps=self.config.steps_per_epoch,
        )


class AnswersTrainer(FineTuner):
    """What the trainers of algorithms share that learn from answers given beforehand."""

    def readable(self, dataset, training):
        if isinstance(dataset, tuple):
            return (self.model.prepared_data(dataset[0]), *dataset[1:])
        return self.model.prepared_data(dataset)


def is_batches(dataset):
    """Whether prompts come in batches, or as arrays, which `fit` takes as they are."""
    if isinstance(dataset, (list, str)) or hasattr(dataset, "__fspath__"):
        return False
    return not isinstance(dataset, dict) or is_arrays(dataset)


class GRPOTrainer(OnPolicyTrainer):
    """Trains a policy by `GRPO`. `config.batch_size` counts prompts per step, each of which gets
    `num_generations` completions.

    Args:
        model: the policy, see `rl.policies.policy_of`; or a `GRPO`, which has its arguments
            already.
        config: see `Trainer`. A `scheduler` goes on with the batches, however many updates one
            has. `save_best` keeps the epoch with the best `val_reward`.
        train_dataset: prompts in any form that `GRPO.fit` takes: texts, rows of ids, dicts with
            further columns, arrays, the path of a .jsonl file, `datasets.PromptBatches`, which keep
            their own batch size.
        val_dataset: the same; all of them are completed after each epoch.
        **arguments: those of `GRPO`, `reward_fn` among them, and those of `Trainer`.

    Raises:
        ValueError: for what `GRPO` or `Trainer` refuse, no reward, and arguments of the algorithm
            beside an algorithm.
    """

    family = GRPO


class PPOTrainer(OnPolicyTrainer):
    """Trains a policy by `PPO`; arguments are those of `PPO`, else all is as in `GRPOTrainer`."""

    family = PPO


class REINFORCETrainer(OnPolicyTrainer):
    """Trains a policy by `REINFORCE`; arguments are those of `REINFORCE`, else all is as in
    `GRPOTrainer`."""

    family = REINFORCE


class RLOOTrainer(OnPolicyTrainer):
    """Trains a policy by `RLOO`; arguments are those of `RLOO`, else all is as in `GRPOTrainer`."""

    family = RLOO


class DPOTrainer(AnswersTrainer):
    """Trains a policy by `DPO`. `config.batch_size` counts pairs.

    Args:
        model: the policy, see `rl.policies.policy_of`; or a `DPO`, which has its arguments already.
        config: see `Trainer`.
        train_dataset: pairs in any form that `DPO.fit` takes: a list of dicts of `prompt`, `chosen`
            and `rejected`, the path of a .jsonl file, a dict of arrays, with sample weights as
            (x, None, weights), or batches.
        val_dataset: the same.
        **arguments: those of `DPO` and those of `Trainer`.

    Raises:
        ValueError: for what `DPO` or `Trainer` refuse, and arguments of the algorithm beside an
            algorithm.
    """

    family = DPO


class KTOTrainer(AnswersTrainer):
    """Trains a policy by `KTO` on answers, dicts of `prompt`, `completion` and `label`; arguments
    are those of `KTO`, else all is as in `DPOTrainer`. Answers at the end of a pass that make no
    whole batch are left out of it."""

    family = KTO
    drop_remainder = True


class RewardModelTrainer(AnswersTrainer):
    """Trains a reward model on pairs; `model` is the backbone, or a `RewardModel`. Arguments are
    those of `RewardModel`, else all is as in `DPOTrainer`."""

    family = RewardModel


class ProcessRewardModelTrainer(AnswersTrainer):
    """Trains a process reward model on judged steps; `model` is the backbone, or a
    `ProcessRewardModel`. Arguments are those of `ProcessRewardModel`, else all is as in
    `DPOTrainer`."""

    family = ProcessRewardModel


class DistillationTrainer(AnswersTrainer):
    """Trains a student on the distributions of a teacher; `model` is the student, or a
    `Distillation`. Arguments are those of `Distillation`, `teacher` among them, else all is as in
    `DPOTrainer`."""

    family = Distillation


class SFTTrainer(AnswersTrainer):
    """Trains a policy by `SFT` on texts, prompts with completions, or chats, in any form that
    `SFT.fit` takes; arguments are those of `SFT`, else all is as in `DPOTrainer`.
    `config.batch_size` counts rows, packed ones where there is `packing`."""

    family = SFT
