"""TRL's trainers on the tasks of `benchmarks.rl` and `benchmarks.sft`.

A program for the interpreter that has TRL:

    python by_trl.py '{"task": "COUNT", ...}'

It imports nothing of ours, since TRL may have an environment of its own. For each line on its input
it trains for some updates and answers with a line of JSON: the seconds that took, and those of CPU.
The model is a GPT-2 of the sizes that the case names, with random weights and without dropout.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from importlib import metadata

WORDS = ["pad", "end", "start", *"0123456789"]
PACKAGES = ("trl", "transformers", "torch", "accelerate")


def seven_share(completions, completion_ids, **columns):
    return [sum(token == 10 for token in row) / 8 for row in completion_ids]


def echoed(completions, completion_ids, digit, **columns):
    return [float(row[0] == wanted) for row, wanted in zip(completion_ids, digit, strict=True)]


def rows(case):
    """The prompts as words, with the digit that each is about."""
    digits = [i % 10 for i in range(case["completions"] * 8)]
    if case["task"] == "ECHO":
        return {"prompt": [f"start {d}" for d in digits], "digit": [3 + d for d in digits]}
    return {"prompt": ["start"] * len(digits)}


def tokenizer(case):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    more = [f"word{i}" for i in range(len(WORDS), case["vocabulary_size"])]
    ids = {word: index for index, word in enumerate(WORDS + more)}
    words = Tokenizer(models.WordLevel(ids, unk_token="pad"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="pad", eos_token="end", bos_token="start"
    )


def network(case):
    from transformers import GPT2Config, GPT2LMHeadModel

    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        vocab_size=case["vocabulary_size"],
        n_positions=case["context"],
        n_layer=case["num_layers"],
        n_head=case["num_heads"],
        n_embd=case["width"],
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        **off,
    )
    return GPT2LMHeadModel(config)


PLAIN = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_steps": 10**6,
    "logging_steps": 10**6,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 1,
}


def grpo(case, folder, **options):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=case["completions"],
        num_generations=case["group"],
        max_completion_length=case["max_new_tokens"],
        loss_type="grpo",
        beta=0.0,
        max_grad_norm=1.0,
        **PLAIN,
    )
    return GRPOTrainer(
        reward_funcs={"COUNT": seven_share, "ECHO": echoed}[case["task"]],
        args=config,
        train_dataset=Dataset.from_dict(rows(case)),
        **options,
    )


def sft(case, folder, **options):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=case["batch_size"],
        max_length=case["context"],
        max_grad_norm=0.0,
        **PLAIN,
    )
    columns = json.loads(open(case["rows"], encoding="utf-8").read())
    return SFTTrainer(args=config, train_dataset=Dataset.from_dict(columns), **options)


def trainer(case, folder, callback):
    options = {
        "model": network(case),
        "processing_class": tokenizer(case),
        "callbacks": [callback],
    }
    return (sft if case["task"] == "SFT" else grpo)(case, folder, **options)


def turns(case, answers):
    """A callback that waits for a line after every `case["updates"]` updates."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def start(self):
            """Waits for its turn; whether there is one."""
            going = bool(sys.stdin.readline())
            self.began = time.perf_counter(), time.process_time()
            return going

        def on_train_begin(self, args, state, control, **kwargs):
            control.should_training_stop = not self.start()

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % case["updates"]:
                return
            now = time.perf_counter(), time.process_time()
            wall, cpu = (after - before for before, after in zip(self.began, now, strict=True))
            print(json.dumps({"wall": wall, "cpu": cpu}), file=answers, flush=True)
            control.should_training_stop = not self.start()

    return Turns()


def main():
    warnings.filterwarnings("ignore")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    answers, sys.stdout = sys.stdout, sys.stderr  # what trainers print isn't an answer
    case = json.loads(sys.argv[1])
    versions = {package: metadata.version(package) for package in PACKAGES}
    with tempfile.TemporaryDirectory() as folder:
        trains = trainer(case, folder, turns(case, answers))
        print(json.dumps(versions), file=answers, flush=True)
        trains.train()


if __name__ == "__main__":
    main()
