"""The steps that a competent JAX user would write: `jit` around `lax.scan`, nothing else.

Adam is written by hand in the form of the end of section 2 of 1412.6980, which has the fewest
operations, and noise comes from the keys `[seed, draw]`, which need no splitting. Both are what
Keras computes too, so the numbers of a run can be held against each other, and no form is cheaper.
"""

import functools

import jax
import numpy as np
from jax import numpy as jnp

__all__ = ["GAN", "VAE"]

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7


def adam(weights, gradients, state):
    first, second, count = state
    count = count + 1
    rate = LEARNING_RATE * jnp.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
    first = jax.tree.map(lambda m, g: m + (1 - BETA_1) * (g - m), first, gradients)
    second = jax.tree.map(lambda v, g: v + (1 - BETA_2) * (g * g - v), second, gradients)
    weights = jax.tree.map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON), weights, first, second
    )
    return weights, (first, second, count)


def adam_state(weights):
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return zeros(weights), zeros(weights), jnp.zeros(())


def dense(x, kernel, bias):
    return x @ kernel + bias


def mlp(weights, x):
    *hidden, last = weights
    for layer in hidden:
        x = jax.nn.relu(dense(x, *layer))
    return dense(x, *last)


def pairs(network):
    """The kernels and biases of a Keras network of dense layers, copied."""
    arrays = [jnp.array(np.array(weight)) for weight in network.weights]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


class ByHand:
    """Training from host memory, `steps` batches a dispatch. `step(state, batch)` is the maths."""

    def __init__(self, state, batch_size, steps):
        self.state = state
        self.batch_size = batch_size
        self.steps = steps
        self.program = jax.jit(functools.partial(jax.lax.scan, self.step), donate_argnums=0)

    def fit(self, x, epochs):
        """The last epoch's mean loss."""
        size = self.steps * self.batch_size
        for _ in range(epochs):
            order = np.random.permutation(len(x))
            logs = []
            for start in range(0, len(x), size):
                rows = x[order[start : start + size]]
                batches = rows.reshape(self.steps, self.batch_size, *x.shape[1:])
                self.state, log = self.program(self.state, batches)
                logs.append(log)
            means = jax.tree.map(lambda *parts: float(np.mean(parts)), *logs)
        return means["loss"]


class VAE(ByHand):
    def __init__(self, encoder, decoder, seed, batch_size, steps):
        weights = {"encoder": pairs(encoder), "decoder": pairs(decoder)}
        self.seed = seed
        super().__init__((weights, adam_state(weights), jnp.uint32(0)), batch_size, steps)

    def loss(self, weights, x, draw):
        *hidden, mean_head, log_var_head = weights["encoder"]
        h = x
        for layer in hidden:
            h = jax.nn.relu(dense(h, *layer))
        mean, log_var = dense(h, *mean_head), dense(h, *log_var_head)
        noise = jax.random.normal(jnp.stack([jnp.uint32(self.seed), draw]), mean.shape)
        made = mlp(weights["decoder"], mean + jnp.exp(0.5 * log_var) * noise)
        reconstruction = jnp.mean(jnp.sum((x - made) ** 2, axis=-1))
        kl = jnp.mean(0.5 * jnp.sum(mean**2 + jnp.expm1(log_var) - log_var, axis=-1))
        loss = reconstruction + kl
        return loss, {"loss": loss, "reconstruction_loss": reconstruction, "kl_loss": kl}

    def step(self, state, x):
        weights, optimizer, draw = state
        gradients, logs = jax.grad(self.loss, has_aux=True)(weights, x, draw)
        weights, optimizer = adam(weights, gradients, optimizer)
        return (weights, optimizer, draw + 1), logs


class GAN(ByHand):
    """WGAN-GP (1704.00028): `d_steps` critic steps on parts of the batch, one generator step."""

    def __init__(self, generator, critic, seed, batch_size, steps, *, latent_dim, d_steps):
        weights = {"generator": pairs(generator), "critic": pairs(critic)}
        optimizers = {name: adam_state(part) for name, part in weights.items()}
        self.seed, self.latent_dim, self.d_steps = seed, latent_dim, d_steps
        super().__init__((weights, optimizers, jnp.uint32(0)), batch_size, steps)

    def key(self, draw):
        return jnp.stack([jnp.uint32(self.seed), draw])

    def generated(self, generator, draw, rows):
        return mlp(generator, jax.random.normal(self.key(draw), (rows, self.latent_dim)))

    def critic_loss(self, critic, real, fake, draw):
        def judged(x):
            return mlp(critic, x)[..., 0]

        share = jax.random.uniform(self.key(draw), (len(real), 1))
        between = share * real + (1 - share) * fake
        slope = jax.grad(lambda x: jnp.sum(judged(x)))(between)
        norm = jnp.sqrt(jnp.sum(slope**2, axis=-1) + 1e-12)
        a, b = judged(real), judged(fake)
        penalty = jnp.mean((norm - 1) ** 2)
        loss = jnp.mean(b) - jnp.mean(a) + 10.0 * penalty
        logs = {"d_real": jnp.mean(a), "d_fake": jnp.mean(b), "gp_loss": penalty}
        return loss, {"d_loss": loss, **logs}

    def step(self, state, x):
        weights, optimizers, draw = state
        parts = x.reshape(self.d_steps, -1, *x.shape[1:])

        def critic_step(carry, real):
            critic, optimizer, draw = carry
            fake = self.generated(weights["generator"], draw, len(real))
            gradients, logs = jax.grad(self.critic_loss, has_aux=True)(critic, real, fake, draw + 1)
            return (*adam(critic, gradients, optimizer), draw + 2), logs

        carry = weights["critic"], optimizers["critic"], draw
        (critic, critic_optimizer, draw), logs = jax.lax.scan(critic_step, carry, parts)

        def generator_loss(generator):
            return -jnp.mean(mlp(critic, self.generated(generator, draw, len(parts[0]))))

        g_loss, gradients = jax.value_and_grad(generator_loss)(weights["generator"])
        generator, optimizer = adam(weights["generator"], gradients, optimizers["generator"])
        logs = {**jax.tree.map(jnp.mean, logs), "g_loss": g_loss}
        state = (
            {"generator": generator, "critic": critic},
            {"generator": optimizer, "critic": critic_optimizer},
            draw + 1,
        )
        return state, {"loss": logs["d_loss"] + g_loss, **logs}
