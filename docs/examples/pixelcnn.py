"""A PixelCNN of digits in black and white.

After https://keras.io/examples/generative/pixelcnn. Prints the exact negative log-likelihood of
held-out digits, in nats an image; less is better.
"""

import argparse

import keras
from keras import layers

import artifex_keras as ak


def network(shape, filters, blocks):
    image = keras.Input(shape)
    x = ak.networks.MaskedConv2D(filters, 7, "A", activation="relu")(image)
    for _ in range(blocks):
        h = layers.Conv2D(filters, 1, activation="relu")(x)
        h = ak.networks.MaskedConv2D(filters // 2, 3, "B", activation="relu")(h)
        x = layers.Add()([x, layers.Conv2D(filters, 1, activation="relu")(h)])
    for _ in range(2):
        x = layers.Conv2D(filters, 1, activation="relu")(x)
    return keras.Model(image, layers.Reshape((*shape, 2))(layers.Conv2D(2, 1)(x)))


def main(data="digits", epochs=50, limit=None, filters=128, blocks=5, learning_rate=5e-4):
    digits = ak.datasets.load(data)
    train, test = ((x >= 0.33).astype("int32") for x in (digits.train[:limit], digits.test))
    model = ak.PixelAutoregressive(network(digits.shape, filters, blocks), num_levels=2, seed=0)
    model.compile(keras.optimizers.Adam(learning_rate))
    model.fit(train, batch_size=128, epochs=epochs, verbose=2)
    ak.pictures.image_grid(model.sample(64, seed=0), "pixelcnn.png")
    nats = model.evaluate(test, return_dict=True, verbose=0)["loss"]
    print(f"held-out negative log-likelihood: {nats:.2f} nats an image")
    return nats


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="mnist.npz or other grey images")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--limit", type=int, help="images to train on")
    parser.add_argument("--filters", type=int, default=128)
    main(**vars(parser.parse_args()))
