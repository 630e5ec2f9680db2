"""Through how many functions and files of ours four journeys lead: a measure of what a reader has
to follow. Nothing is timed; each journey is followed once, with nothing compiled or cached before.

    python -m benchmarks.journeys after     writes the column "after" of results/journeys.json
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
RESULTS = Path(__file__).parent / "results" / "journeys.json"

YAML = """
family: vae
data: {source: digits}
network: {units: [8]}
training: {num_epochs: 1, seed: 0, batch_size: 256}
"""


class Journey:
    """Inside, counts the calls of the functions of a package.

    Attributes:
        functions: the different functions, lambdas among them, comprehensions not.
        calls: how often one was called, by its file.
        changes: how often the path led from one file into another, by a call or by a return.
        entries: how often it led into each file.
    """

    def __init__(self, package):
        self.root = f"{package}{os.sep}"
        self.functions, self.calls, self.entries, self.changes = set(), {}, {}, 0
        self._stack, self._last = [], None

    def __enter__(self):
        sys.setprofile(self._follow)
        return self

    def __exit__(self, *exception):
        sys.setprofile(None)

    def _follow(self, frame, event, argument):
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(self.root):
            return
        if event == "call":
            file = code.co_filename.removeprefix(self.root).replace(os.sep, "/")
            self._stack.append(file)
            if code.co_name == "<lambda>" or not code.co_name.startswith("<"):
                self.functions.add((file, code.co_firstlineno, code.co_name))
                self.calls[file] = self.calls.get(file, 0) + 1
        elif self._stack:
            self._stack.pop()
        here = self._stack[-1] if self._stack else None
        if here is not None and here != self._last:
            self.changes += self._last is not None
            if event == "call":
                self.entries[here] = self.entries.get(here, 0) + 1
            self._last = here

    def counts(self):
        """The figures as they are written down."""
        most = max(self.entries, key=self.entries.get)
        return {
            "functions": len(self.functions),
            "calls": sum(self.calls.values()),
            "files": len(self.calls),
            "changes_of_file": self.changes,
            "entered_most": {most: self.entries[most]},
        }


def vae_fit(follow, folder):
    """A batch of images through `VAE.fit`."""
    import numpy as np

    import artifex_keras as ak

    encoder, decoder = ak.networks.mlp_encoder((8, 8), 2), ak.networks.mlp_decoder(2, (8, 8))
    model = ak.VAE(encoder, decoder, seed=0)
    model.compile("adam")
    images = np.zeros((4, 8, 8), "float32")
    with follow:
        model.fit(images, batch_size=4, verbose=0)


def grpo_fit(follow, folder):
    """A batch of prompts through `GRPO.fit`: a transformer with its cache, a reward in Python, a
    reference."""
    import numpy as np

    import artifex_keras as ak

    def reward(prompts, completions):
        return [float(len(completion)) for completion in completions]

    policy = ak.networks.CausalTransformer(13, 24, num_layers=1, num_heads=2, width=16)
    ends = {"end_token_id": 1, "pad_token_id": 0}
    model = ak.GRPO(policy, reward, num_generations=4, max_new_tokens=4, beta=0.1, seed=0, **ends)
    model.compile("adam")
    prompts = np.random.default_rng(0).integers(3, 13, (4, 3)).astype("int32")
    with follow:
        model.fit(prompts, batch_size=4, verbose=0)


def resume(follow, folder):
    """A checkpoint from its save in the middle of an epoch to the exact resume in a new model."""
    import numpy as np

    import artifex_keras as ak
    from artifex_keras.callbacks import CheckpointCallback

    def fit(epochs):
        encoder, decoder = ak.networks.mlp_encoder((8, 8), 2), ak.networks.mlp_decoder(2, (8, 8))
        model = ak.VAE(encoder, decoder, seed=0)
        model.compile("adam")
        images = np.zeros((8, 8, 8), "float32")
        keep = CheckpointCallback(folder, save_every_n_steps=1, resume="auto", verbose=False)
        model.fit(images, batch_size=4, epochs=epochs, verbose=0, callbacks=[keep])

    with follow:
        fit(1)
        fit(2)


def from_yaml(follow, folder):
    """A YAML file to a trained model, by the shell."""
    from artifex_keras import cli

    file = Path(folder) / "run.yaml"
    file.write_text(YAML)
    with follow, contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["train", "--config", str(file), "--output", str(Path(folder) / "run")])
    assert code == 0


JOURNEYS = {
    "images through VAE.fit": vae_fit,
    "a prompt through GRPO.fit": grpo_fit,
    "a checkpoint from save to exact resume": resume,
    "a YAML file to a trained model": from_yaml,
}


def followed(name):
    """The counts of one journey, in this process."""
    import artifex_keras

    follow = Journey(Path(artifex_keras.__file__).resolve().parent)
    with tempfile.TemporaryDirectory() as folder:
        JOURNEYS[name](follow, folder)
    return follow.counts()


def in_a_fresh_process(name):
    """The counts of one journey."""
    command = [sys.executable, __file__, "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.journeys", description=__doc__)
    parser.add_argument("column", nargs="?", choices=["before", "after"], default="after")
    parser.add_argument("--only", choices=JOURNEYS, help="follow one journey, here, print JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(followed(options.only)))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in JOURNEYS:
        counts = in_a_fresh_process(name)
        results.setdefault(name, {})[options.column] = counts
        print(f"{name}\n  {counts}", flush=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
