"""A diffusion model of images, sampled by DDIM in 20 steps.

After https://keras.io/examples/generative/ddim. Prints the kernel distance of generated to held-out
images, as its KID, but in the features of a classifier of their labels; less is better.
"""

import argparse

import keras

import artifex_keras as ak


def main(data="digits", epochs=50, limit=None, widths=(32, 64, 96)):
    images = ak.datasets.load(data, scale="symmetric")
    network = ak.networks.unet(images.shape, widths, blocks=2, attention=None)
    diffusion = ak.Diffusion(network, noise_schedule="cosine", ema_decay=0.999, seed=0)
    diffusion.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-4))
    diffusion.fit(images.train[:limit], batch_size=64, epochs=epochs, verbose=2)
    made = diffusion.sample(500, num_steps=20, sampler="ddim", clip=(-1, 1), seed=0)
    ak.pictures.image_grid(made[:64], "ddim.png", limits=(-1, 1))
    features = ak.metrics.classifier_features(*images.part("train"), seed=0)
    pairs = (ak.metrics.extracted(features, x) for x in (images.test, made))
    distance, error = ak.metrics.kernel_distance(*pairs, subset_size=200, seed=0)
    print(f"kernel distance in the classifier's features: {distance:.3f} ± {error:.3f}")
    return distance


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="cifar10.npz or other labelled images")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--limit", type=int, help="images to train on")
    main(**vars(parser.parse_args()))
