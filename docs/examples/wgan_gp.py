"""A Wasserstein GAN with gradient penalty, three steps of the critic for each of the generator.

After https://keras.io/examples/generative/wgan_gp. Prints the Fréchet distance of generated to
held-out images in the features of a classifier of their labels; less is better.
"""

import argparse

import keras

import artifex_keras as ak


def main(data="digits", epochs=20, limit=None, width=64, learning_rate=2e-4):
    images = ak.datasets.load(data, scale="symmetric")
    generator = ak.networks.conv_generator(
        128,
        images.shape,
        (4 * width, 2 * width, width),
        upsampling="resize",
        activation="leaky_relu",
        output_activation="tanh",
    )
    critic = ak.networks.conv_critic(images.shape, (width, 2 * width, 4 * width))
    gan = ak.GAN(
        generator, critic, latent_dim=128, loss_type="wasserstein", gp_weight=10, d_steps=3, seed=0
    )
    gan.compile(keras.optimizers.Adam(learning_rate, beta_1=0.5, beta_2=0.9))
    gan.fit(images.train[:limit], batch_size=3 * 64, epochs=epochs, verbose=2)
    made = gan.sample(len(images.test), seed=0)
    ak.pictures.image_grid(made[:64], "wgan_gp.png")
    features = ak.metrics.classifier_features(*images.part("train"), seed=0)
    pairs = (ak.metrics.extracted(features, x) for x in (images.test, made))
    distance = ak.metrics.frechet_distance(*pairs)
    print(f"Fréchet distance in the classifier's features: {distance:.2f}")
    return distance


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="fashion_mnist.npz or others with labels")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, help="images to train on")
    parser.add_argument("--width", type=int, default=64, help="filters of the first layer")
    main(**vars(parser.parse_args()))
