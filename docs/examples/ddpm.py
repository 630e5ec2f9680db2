"""A diffusion model of images with 1,000 levels of noise, sampled through all of them.

After https://keras.io/examples/generative/ddpm. Prints the Fréchet distance of generated to
held-out images, both shrunk to 8x8 pixels in [-1, 1]; less is better.
"""

import argparse

import keras
from keras import layers

import artifex_keras as ak


def main(data="digits", epochs=50, limit=None, widths=(64, 128), levels=1000, learning_rate=2e-4):
    images = ak.datasets.load(data, scale="symmetric")
    network = ak.networks.unet(images.shape, widths, blocks=2, attention=(-1,))
    diffusion = ak.Diffusion(
        network, noise_schedule="linear", num_timesteps=levels, ema_decay=0.999, seed=0
    )
    diffusion.compile(keras.optimizers.Adam(learning_rate))
    diffusion.fit(images.train[:limit], batch_size=32, epochs=epochs, verbose=2)
    made = diffusion.sample(256, num_steps=levels, sampler="ddpm", clip=(-1, 1), seed=0)
    ak.pictures.image_grid(made[:64], "ddpm.png", limits=(-1, 1))
    shrunk = keras.Sequential([keras.Input(images.shape), layers.Resizing(8, 8), layers.Flatten()])
    pairs = (ak.metrics.extracted(shrunk, x) for x in (images.test, made))
    distance = ak.metrics.frechet_distance(*pairs)
    print(f"Fréchet distance of 8x8 thumbnails: {distance:.2f}")
    return distance


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="a folder of images, cifar10.npz, ...")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--limit", type=int, help="images to train on")
    main(**vars(parser.parse_args()))
