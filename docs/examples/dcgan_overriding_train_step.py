"""A DCGAN of images, with one-sided label smoothing.

After https://keras.io/examples/generative/dcgan_overriding_train_step, which has neither
`r1_weight`, the penalty on the critic's gradient, nor `ema_decay`, the average of the weights.
Prints the Fréchet distance of generated to held-out images, both shrunk to 8x8 pixels in [0, 1];
less is better.
"""

import argparse

import keras
from keras import layers

import artifex_keras as ak


def networks(shape, latent_dim, width):
    start = (-(-shape[0] // 8), -(-shape[1] // 8), 2 * width)
    generator = [keras.Input((latent_dim,)), layers.Dense(start[0] * start[1] * start[2])]
    generator.append(layers.Reshape(start))
    for filters in (2 * width, 4 * width, 8 * width):
        generator.append(layers.Conv2DTranspose(filters, 4, strides=2, padding="same"))
        generator.append(layers.LeakyReLU(0.2))
    generator.append(layers.Conv2D(shape[2], 5, padding="same", activation="sigmoid"))
    generator.append(layers.CenterCrop(*shape[:2]))
    critic = [keras.Input(shape)]
    for filters in (width, 2 * width, 2 * width):
        critic.append(layers.Conv2D(filters, 4, strides=2, padding="same"))
        critic.append(layers.LeakyReLU(0.2))
    critic += [layers.Flatten(), layers.Dropout(0.2), layers.Dense(1)]
    return keras.Sequential(generator), keras.Sequential(critic)


def main(data="digits", epochs=30, limit=None, width=64, learning_rate=2e-4):
    images = ak.datasets.load(data)
    options = {"label_smoothing": 0.05, "r1_weight": 0.3, "ema_decay": 0.99, "seed": 0}
    gan = ak.GAN(*networks(images.shape, 128, width), 128, **options)
    gan.compile(keras.optimizers.Adam(learning_rate, beta_1=0.5))
    gan.fit(images.train[:limit], batch_size=32, epochs=epochs, verbose=2)
    made = gan.sample(len(images.test), seed=0)
    ak.pictures.image_grid(made[:64], "dcgan.png")
    shrunk = keras.Sequential([keras.Input(images.shape), layers.Resizing(8, 8), layers.Flatten()])
    pairs = (ak.metrics.extracted(shrunk, x) for x in (images.test, made))
    distance = ak.metrics.frechet_distance(*pairs)
    print(f"Fréchet distance of 8x8 thumbnails: {distance:.3f}")
    return distance


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="a folder of images, cifar10.npz, ...")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--limit", type=int, help="images to train on")
    parser.add_argument("--width", type=int, default=64, help="filters of the first layer")
    main(**vars(parser.parse_args()))
