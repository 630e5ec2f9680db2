"""A miniature GPT of words: one block of a transformer, which writes on from a prompt.

After https://keras.io/examples/generative/text_generation_with_miniature_gpt. Prints the perplexity
of held-out text by words; less is better. Without a file it learns Python's own documentation.
"""

import argparse
import collections
import re
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import artifex_keras as ak


def main(data=None, epochs=25, limit=None, width=256, length=80, vocabulary=20000):
    text = Path(data).read_text("utf-8") if data else "\n".join(topics.values())
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    kept = ["[UNK]", *(word for word, _ in collections.Counter(words).most_common(vocabulary - 1))]
    index = {word: number for number, word in enumerate(kept)}
    ids = np.array([index.get(word, 0) for word in words], "int32")
    rows = ak.datasets.load(ids[: len(ids) // length * length].reshape(-1, length), seed=None)
    network = ak.networks.CausalTransformer(
        len(kept),
        2 * length,
        num_layers=1,
        num_heads=2,
        width=width,
        mlp_width=width,
        positions="learned",
        norm="layer",
        activation="gelu",
        dropout=0.1,
    )
    model = ak.Autoregressive(network, seed=0)
    model.compile("adam")
    model.fit(rows.train[:limit], batch_size=32, epochs=epochs, verbose=2)
    more = model.generate(rows.test[:1, :10], length, top_k=10, seed=0)
    print(" ".join(kept[i] for i in np.append(rows.test[0, :10], more)))
    perplexity = model.perplexity(rows.test[:200])
    print(f"held-out perplexity: {perplexity:.1f} by words")
    return perplexity


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a text file")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--limit", type=int, help="rows to train on")
    main(**vars(parser.parse_args()))
