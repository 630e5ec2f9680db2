"""An LSTM that writes a text character by character.

After https://keras.io/examples/generative/lstm_character_level_text_generation. Prints the
cross-entropy of held-out text in bits a character; less is better. Without a file it learns
Python's own documentation.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import keras
import numpy as np
from keras import layers

import artifex_keras as ak


def main(data=None, epochs=40, limit=None, width=128, length=40):
    text = Path(data).read_text("utf-8") if data else "\n".join(topics.values())
    tokenizer = ak.datasets.CharacterTokenizer.of(text)
    ids = tokenizer.encode(text)
    rows = ak.datasets.load(ids[: len(ids) // length * length].reshape(-1, length), seed=None)
    network = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(tokenizer.vocabulary_size, width),
            layers.LSTM(width, return_sequences=True),
            layers.Dense(tokenizer.vocabulary_size),
        ]
    )
    model = ak.Autoregressive(network, seed=0)
    model.compile(keras.optimizers.RMSprop(0.01))
    model.fit(rows.train[:limit], batch_size=128, epochs=epochs, verbose=2)
    for temperature in (0.2, 0.5, 1.0, 1.2):
        more = model.generate(rows.test[:1], 2 * length, temperature=temperature, seed=0)
        print(f"--- temperature {temperature}:", tokenizer.decode(more)[0])
    bits = np.log2(model.perplexity(rows.test[:1000]))
    print(f"held-out cross-entropy: {bits:.3f} bits a character")
    return float(bits)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a text file")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--limit", type=int, help="rows to train on")
    main(**vars(parser.parse_args()))
