"""A RealNVP of two moons.

After https://keras.io/examples/generative/real_nvp. Prints the negative log-likelihood of held-out
points, in nats a point of standardised data; less is better. A Gaussian has 2.7.
"""

import argparse

import keras

import artifex_keras as ak


def main(data="moons", epochs=300, limit=3000, width=256, learning_rate=1e-4):
    points = ak.datasets.load(data)
    train, test = ak.datasets.standardise(points.train[:limit], points.test)
    bijection = ak.networks.realnvp(points.shape, num_layers=6, units=(width,) * 4)
    flow = ak.NormalizingFlow(bijection, seed=0)
    flow.compile(keras.optimizers.Adam(learning_rate))
    flow.fit(train, batch_size=256, epochs=epochs, verbose=2)
    ak.pictures.scatter(flow.sample(3000, seed=0), "real_nvp.png")
    nats = -float(keras.ops.mean(flow.log_prob(test)))
    print(f"held-out negative log-likelihood: {nats:.3f} nats a point")
    return nats


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="moons", help="points.csv, points.npy, ...")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--limit", type=int, default=3000, help="points to train on")
    main(**vars(parser.parse_args()))
