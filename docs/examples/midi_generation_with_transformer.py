"""A transformer of music as MIDI-like events: velocities, notes on and off, shifts of time.

After https://keras.io/examples/generative/midi_generation_with_transformer. Prints the perplexity
of held-out events; less is better. Without a file it learns melodies whose entropy is known: no
model can be below it.
"""

import argparse

import numpy as np

import artifex_keras as ak

ON, OFF, SHIFT, VELOCITY, START = 0, 128, 256, 356, 388  # where each kind of event begins
SCALE = np.array([0, 2, 4, 5, 7, 9, 11])


def melodies(count, notes, seed=0):
    """Walks on major scales from one of 24 tonics: four events for each note."""
    random = np.random.default_rng(seed)
    steps, length, loudness = random.integers(0, 4, (3, count, notes))
    degrees = np.cumsum(np.array([-2, -1, 1, 2])[steps], axis=1)
    degrees = degrees - degrees[:, :1]
    pitch = random.integers(48, 72, (count, 1)) + SCALE[degrees % 7]
    events = [VELOCITY + 8 * loudness, ON + pitch, SHIFT + 10 * length, OFF + pitch]
    return np.stack(events, axis=-1).reshape(count, 4 * notes).astype("int32")


def main(data=None, epochs=15, limit=None, width=128, notes=32):
    events = ak.datasets.load(data or melodies(4000, notes))
    network = ak.networks.CausalTransformer(
        START + 1, events.shape[0] + 1, num_layers=2, num_heads=4, width=width
    )
    model = ak.Autoregressive(network, start_token_id=START, seed=0)
    model.compile("adam")
    model.fit(events.train[:limit], batch_size=32, epochs=epochs, verbose=2)
    print("new events:", model.sample(1, seed=0)[0])
    perplexity = model.perplexity(events.test)
    floor = np.exp((np.log(24) - np.log(4) + 3 * notes * np.log(4)) / (4 * notes))
    print(f"held-out perplexity: {perplexity:.3f}" + ("" if data else f", at best {floor:.3f}"))
    return perplexity


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="events.npy: whole numbers below 388, a piece in each row")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--limit", type=int, help="pieces to train on")
    main(**vars(parser.parse_args()))
