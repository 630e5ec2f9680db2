"""A GPT from scratch: a tokenizer of pieces of words, a transformer, five ways to write on.

After https://keras.io/examples/generative/text_generation_gpt. Prints the cross-entropy of held-out
text in bits a character, whatever the pieces; less is better. Without a file it learns Python's own
documentation.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import keras
import numpy as np
from tokenizers import ByteLevelBPETokenizer

import artifex_keras as ak

CHOICES = ({"temperature": 0}, {"num_beams": 10}, {}, {"top_k": 10}, {"top_p": 0.5})


def main(data=None, epochs=5, limit=None, width=256, length=128, vocabulary=5000):
    text = Path(data).read_text("utf-8") if data else "\n".join(topics.values())
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator([text], vocab_size=vocabulary, show_progress=False)
    tokenizer = ak.datasets.as_tokenizer(pieces)
    ids = tokenizer.encode(text)
    rows = ak.datasets.load(ids[: len(ids) // length * length].reshape(-1, length), seed=None)
    network = ak.networks.CausalTransformer(
        tokenizer.vocabulary_size, 2 * length, num_layers=2, num_heads=4, width=width
    )
    model = ak.Autoregressive(network, seed=0)
    model.compile(keras.optimizers.AdamW(1e-3))
    model.fit(rows.train[:limit], batch_size=64, epochs=epochs, verbose=2)
    for choice in CHOICES:
        more = model.generate(rows.test[:1, :20], length, **choice)
        print(f"--- {choice}:", tokenizer.decode(more)[0])
    test = rows.test[:200]
    nats = -float(keras.ops.sum(model.log_prob(test)))
    bits = nats / np.log(2) / sum(len(tokenizer.decode(row[1:])) for row in test)
    print(f"held-out cross-entropy: {bits:.3f} bits a character")
    return float(bits)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a text file")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, help="rows to train on")
    main(**vars(parser.parse_args()))
