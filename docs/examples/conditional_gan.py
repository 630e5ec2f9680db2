"""A GAN of digits that is given the class, in both networks.

After https://keras.io/examples/generative/conditional_gan. Prints how many generated digits a
logistic regression, trained on real ones, sees as the digit that was asked for.
"""

import argparse

import keras
import numpy as np
from keras import layers, ops
from sklearn.linear_model import LogisticRegression

import artifex_keras as ak


def networks(shape, latent_dim, classes, width):
    code, image = keras.Input((latent_dim,)), keras.Input(shape)
    label = keras.Input((), dtype="int32")
    one_hot = ops.one_hot(label, classes)
    x = layers.Concatenate()([code, one_hot])
    x = layers.Dense((shape[0] // 4) * (shape[1] // 4) * width, activation="leaky_relu")(x)
    x = layers.Reshape((shape[0] // 4, shape[1] // 4, width))(x)
    for _ in range(2):
        x = layers.Conv2DTranspose(width, 4, strides=2, padding="same", activation="leaky_relu")(x)
    x = layers.Conv2D(shape[2], 7, padding="same", activation="sigmoid")(x)
    y = ops.concatenate([image, layers.UpSampling2D(shape[:2])(one_hot[:, None, None])], axis=-1)
    for filters in (width // 2, width):
        y = layers.Conv2D(filters, 3, strides=2, padding="same", activation="leaky_relu")(y)
    logit = layers.Dense(1)(layers.Flatten()(y))
    return keras.Model([code, label], x), keras.Model([image, label], logit)


def main(data="digits", epochs=20, limit=None, width=128, learning_rate=3e-4):
    digits = ak.datasets.load(data)
    gan = ak.GAN(*networks(digits.shape, 128, digits.num_classes, width), latent_dim=128, seed=0)
    gan.compile(keras.optimizers.Adam(learning_rate, beta_1=0.5))
    train, labels = digits.train[:limit], digits.train_labels[:limit]
    gan.fit(train, labels, batch_size=64, epochs=epochs, verbose=2)
    asked = np.arange(500) % digits.num_classes
    made = np.array(gan.sample(500, asked, seed=0))
    ak.pictures.image_grid(made[:100], "conditional_gan.png", columns=10)
    judge = LogisticRegression(max_iter=300)
    judge.fit(train[:5000].reshape(-1, made[0].size), labels[:5000])
    print("seen as the digit asked for:", share := judge.score(made.reshape(500, -1), asked))
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="mnist.npz or other labelled images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, help="images to train on")
    main(**vars(parser.parse_args()))
