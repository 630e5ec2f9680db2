"""A convolutional VAE of digits with a code of two numbers.

After https://keras.io/examples/generative/vae. Prints the negative ELBO of held-out digits, in nats
an image; less is better.
"""

import argparse

import keras
from keras import layers

import artifex_keras as ak


def networks(shape, latent_dim):
    image = keras.Input(shape)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Dense(16, activation="relu")(layers.Flatten()(x))
    encoder = keras.Model(image, [layers.Dense(latent_dim)(x), layers.Dense(latent_dim)(x)])
    quarter = (shape[0] // 4, shape[1] // 4, 64)
    code = keras.Input((latent_dim,))
    x = layers.Dense(quarter[0] * quarter[1] * 64, activation="relu")(code)
    x = layers.Reshape(quarter)(x)
    x = layers.Conv2DTranspose(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(x)
    return encoder, keras.Model(code, layers.Conv2DTranspose(shape[2], 3, padding="same")(x))


def main(data="digits", epochs=30, limit=None, batch_size=128):
    digits = ak.datasets.load(data)
    vae = ak.VAE(*networks(digits.shape, latent_dim=2), reconstruction="bce", seed=0)
    vae.compile(keras.optimizers.Adam(1e-3))
    vae.fit(digits.train[:limit], batch_size=batch_size, epochs=epochs, verbose=2)
    ak.pictures.image_grid(vae.sample(64, seed=0), "vae.png")
    nats = -vae.evaluate(digits.test, return_dict=True, verbose=0)["elbo"]
    print(f"held-out negative ELBO: {nats:.1f} nats an image")
    return nats


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="mnist.npz, a folder of images, ...")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--limit", type=int, help="images to train on")
    main(**vars(parser.parse_args()))
