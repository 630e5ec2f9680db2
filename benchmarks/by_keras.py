"""The VAE as a Keras user writes it without us: `compute_loss` over what `call` returns."""

import keras
from keras import ops

__all__ = ["VAE"]


class VAE(keras.Model):
    def __init__(self, encoder, decoder, seed):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.noise = keras.random.SeedGenerator(seed)
        self.reconstruction_tracker = keras.metrics.Mean(name="reconstruction_loss")
        self.kl_tracker = keras.metrics.Mean(name="kl_loss")
        self.built = True  # both networks are

    def call(self, x):
        mean, log_var = self.encoder(x)
        noise = keras.random.normal(ops.shape(mean), seed=self.noise)
        return self.decoder(mean + ops.exp(0.5 * log_var) * noise), mean, log_var

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        made, mean, log_var = y_pred
        reconstruction = ops.mean(ops.sum(ops.square(x - made), axis=-1))
        kl = ops.sum(ops.square(mean) + ops.expm1(log_var) - log_var, axis=-1)
        kl = 0.5 * ops.mean(kl)
        self.reconstruction_tracker.update_state(reconstruction)
        self.kl_tracker.update_state(kl)
        return reconstruction + kl
