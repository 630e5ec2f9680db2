"""Models as a Keras user writes them without us: `compute_loss` over what `call` returns.

Where one loss isn't all, for a GAN's two players and GRPO's rollouts, as Keras's guide to JAX
writes it: `stateless_call` and `stateless_apply` in a compiled program of its own.
"""

import jax
import keras
import numpy as np
from keras import ops

__all__ = ["GAN", "GRPO", "VAE", "Diffusion", "Energy", "Flow", "FlowMatching", "LanguageModel"]


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
        heads = self.encoder(x)
        mean, log_var = heads if isinstance(heads, list) else ops.split(heads, 2, axis=-1)
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


class _OfNetwork(keras.Model):
    """A model of one built network and one stream of noise."""

    def __init__(self, network, seed):
        super().__init__()
        self.network = network
        self.noise = keras.random.SeedGenerator(seed)
        self.built = True


class Diffusion(_OfNetwork):
    """The plain error of ε on the cosine schedule."""

    def __init__(self, network, seed, num_timesteps):
        super().__init__(network, seed)
        times = (np.linspace(0, 1, num_timesteps + 1) + 0.008) / 1.008
        curve = np.cos(np.pi / 2 * times) ** 2
        alphas = np.cumprod(np.maximum(curve[1:] / curve[:-1], 1e-3))
        self.alphas = ops.convert_to_tensor(alphas, "float32")

    def call(self, x, training=False):
        u = keras.random.uniform((ops.shape(x)[0],), seed=self.noise)
        t = ops.cast(u * len(self.alphas), "int32")
        noise = keras.random.normal(ops.shape(x), seed=self.noise)
        alpha = ops.take(self.alphas, t)[:, None]
        noisy = ops.sqrt(alpha) * x + ops.sqrt(1 - alpha) * noise
        return self.network([noisy, t], training=training), noise

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        answer, noise = y_pred
        return ops.mean(ops.square(answer - noise))


class FlowMatching(_OfNetwork):
    """The velocity of straight lines from noise to data."""

    def call(self, x, training=False):
        t = keras.random.uniform((ops.shape(x)[0],), seed=self.noise)
        noise = keras.random.normal(ops.shape(x), seed=self.noise)
        between = t[:, None] * x + (1 - t[:, None]) * noise
        return self.network([between, t], training=training), x - noise

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        velocity, target = y_pred
        return ops.mean(ops.square(velocity - target))


class Flow(_OfNetwork):
    """Exact likelihood."""

    def __init__(self, network, seed):
        super().__init__(network, seed)
        self.bits = keras.metrics.Mean(name="bits_per_dim")

    def call(self, x):
        return self.network.forward_and_log_det(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        z, log_det = y_pred
        width = z.shape[-1]
        log_p = -0.5 * ops.sum(ops.square(z), axis=-1) - 0.5 * width * np.log(2 * np.pi)
        nll = -ops.mean(log_p + log_det)
        self.bits.update_state(nll / (width * np.log(2)))
        return nll


class Energy(_OfNetwork):
    """Denoising score matching at several σ, ``s(x) = -∇E(x)/σ``."""

    def __init__(self, network, seed, sigmas):
        super().__init__(network, seed)
        self.sigmas = ops.convert_to_tensor(sigmas, "float32")
        self.energy_data = keras.metrics.Mean(name="energy_data")

    def call(self, x):
        u = keras.random.uniform((ops.shape(x)[0],), seed=self.noise)
        sigma = ops.take(self.sigmas, ops.cast(u * len(self.sigmas), "int32"))[:, None]
        noise = keras.random.normal(ops.shape(x), seed=self.noise)
        slope = jax.grad(lambda x: ops.sum(self.network(x)))(x + sigma * noise)
        return self.network(x), noise - slope

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        energy, error = y_pred
        self.energy_data.update_state(ops.mean(energy))
        return 0.5 * ops.mean(ops.square(error))


class LanguageModel(_OfNetwork):
    """Next-token cross-entropy over rows of T + 1 ids."""

    def __init__(self, network, seed):
        super().__init__(network, seed)
        self.accuracy = keras.metrics.Mean(name="accuracy")

    def call(self, ids, training=False):
        return self.network(ids[:, :-1], training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        targets = x[:, 1:]
        right = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), targets.dtype), targets)
        self.accuracy.update_state(ops.mean(ops.cast(right, "float32")))
        losses = keras.losses.sparse_categorical_crossentropy(targets, y_pred, from_logits=True)
        return ops.mean(losses)


class GAN:
    """Two players with an optimizer each, the vanilla game: `learn(x, batch_size)`."""

    def __init__(self, generator, discriminator, latent_dim, seed):
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim = latent_dim
        self.key = jax.random.key(seed)
        self.trackers = {name: keras.metrics.Mean(name) for name in ("loss", "d_loss", "g_loss")}

    def compile(self, optimizer, discriminator_optimizer):
        optimizer.build(self.generator.trainable_variables)
        discriminator_optimizer.build(self.discriminator.trainable_variables)
        self.players = {
            "generator": (self.generator, optimizer),
            "discriminator": (self.discriminator, discriminator_optimizer),
        }
        self.program = jax.jit(self.step, donate_argnums=0)

    def groups(self):
        return {
            name: (network.trainable_variables, network.non_trainable_variables, opt.variables)
            for name, (network, opt) in self.players.items()
        } | {name: (tracker.variables,) for name, tracker in self.trackers.items()}

    def called(self, player, weights, others, x):
        network, _ = self.players[player]
        return network.stateless_call(weights, others, x, training=True)

    def d_loss(self, weights, state, x, key):
        codes = jax.random.normal(key, (len(x), self.latent_dim))
        fake, _ = self.called("generator", *state["generator"][:2], codes)
        real, others = self.called("discriminator", weights, state["discriminator"][1], x)
        made, others = self.called("discriminator", weights, others, fake)
        return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(made)), others

    def g_loss(self, weights, state, x, key):
        codes = jax.random.normal(key, (len(x), self.latent_dim))
        fake, others = self.called("generator", weights, state["generator"][1], codes)
        made, _ = self.called("discriminator", *state["discriminator"][:2], fake)
        return ops.mean(ops.softplus(-made)), others

    def step(self, state, x, key):
        state, losses = dict(state), {}
        turns = {"discriminator": self.d_loss, "generator": self.g_loss}
        keys = jax.random.split(key)
        for (player, loss), now in zip(turns.items(), keys, strict=True):
            weights, _, slots = state[player]
            gradient = jax.value_and_grad(loss, has_aux=True)
            (losses[player], others), gradients = gradient(weights, state, x, now)
            optimizer = self.players[player][1]
            weights, slots = optimizer.stateless_apply(slots, gradients, weights)
            state[player] = weights, others, slots
        d_loss, g_loss = losses["discriminator"], losses["generator"]
        logs = {}
        values = {"loss": d_loss + g_loss, "d_loss": d_loss, "g_loss": g_loss}
        for name, tracker in self.trackers.items():
            state[name] = (tracker.stateless_update_state(*state[name], values[name]),)
            logs[name] = tracker.stateless_result(*state[name])
        return state, logs

    def learn(self, x, batch_size):
        state = jax.tree.map(lambda v: v.value, self.groups(), is_leaf=_is_variable)
        for start in range(0, len(x), batch_size):
            self.key, now = jax.random.split(self.key)
            state, logs = self.program(state, x[start : start + batch_size], now)
        variables = jax.tree.leaves(self.groups(), is_leaf=_is_variable)
        for variable, value in zip(variables, jax.tree.leaves(state), strict=True):
            variable.assign(value)
        return {name: float(value) for name, value in logs.items()}


def _is_variable(value):
    return isinstance(value, keras.Variable)


class GRPO(_OfNetwork):
    """`learn(prompts, reward, ...)`: a compiled program samples with the cache, Python rewards,
    `train_on_batch` learns."""

    def __init__(self, network, seed, group, max_new_tokens):
        super().__init__(network, seed)
        self.group, self.max_new_tokens = group, max_new_tokens
        self.entropy = keras.metrics.Mean(name="entropy")
        self.sample = jax.jit(self.sampled)

    def sampled(self, weights, prompts, key):
        rows, length = prompts.shape
        total = length + self.max_new_tokens
        places = jax.numpy.arange(total)
        network = self.network

        def step(carry, place):
            token, cache, key = carry
            key, now = jax.random.split(key)
            seen = jax.numpy.broadcast_to(places <= place, (rows, 1, total))
            at = jax.numpy.full((rows, 1), place)
            logits, cache = network.step(token[:, None], at, cache, place, seen)
            token = jax.random.categorical(now, logits)
            return (token, cache, key), token

        with keras.StatelessScope(list(zip(network.variables, weights, strict=True))):
            cache = network.make_cache(rows, total)
            at = jax.numpy.broadcast_to(jax.numpy.arange(length), (rows, length))
            seen = places <= jax.numpy.arange(length)[:, None]
            seen = jax.numpy.broadcast_to(seen, (rows, length, total))
            logits, cache = network.step(prompts, at, cache, 0, seen)
            key, now = jax.random.split(key)
            token = jax.random.categorical(now, logits)
            carry, tokens = jax.lax.scan(
                step, (token, cache, key), jax.numpy.arange(length, total - 1)
            )
        return jax.numpy.concatenate([prompts, token[:, None], tokens.T], axis=1)

    def call(self, x, training=False):
        return self.network(x["ids"][:, :-1], training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        logits = y_pred[:, -self.max_new_tokens :]
        targets = x["ids"][:, -self.max_new_tokens :]
        log_probs = jax.nn.log_softmax(logits)
        self.entropy.update_state(-ops.mean(ops.sum(ops.exp(log_probs) * log_probs, axis=-1)))
        picked = ops.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        ratio = ops.exp(picked - ops.stop_gradient(picked))
        worth = x["advantages"][:, None]
        clipped = ops.clip(ratio, 0.8, 1.2)
        return -ops.mean(ops.minimum(ratio * worth, clipped * worth))

    def learn(self, prompts, reward, batch_size, epochs):
        key = jax.random.key(1)
        for _ in range(epochs):
            for start in range(0, len(prompts), batch_size):
                rows = np.repeat(prompts[start : start + batch_size], self.group, axis=0)
                key, now = jax.random.split(key)
                ids = self.sample([v.value for v in self.network.variables], rows, now)
                made = np.asarray(ids)[:, prompts.shape[1] :]
                rewards = np.asarray(reward(list(rows), list(made)), "float32")
                groups = rewards.reshape(-1, self.group)
                spread = groups.std(axis=1, ddof=1, keepdims=True)
                worth = (groups - groups.mean(axis=1, keepdims=True)) / (spread + 1e-4)
                batch = {"ids": np.asarray(ids), "advantages": worth.reshape(-1)}
                self.train_on_batch(batch)
