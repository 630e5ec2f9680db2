"""Steps that a competent JAX user would write around a Keras network: `stateless_call` inside `jit`
of `lax.scan`, the loss in `jax.numpy`, Adam by hand.

The network's graph is the same as ours, so what differs is all that stands around it. Noise comes
from the keys `[seed, draw]`, as in `by_hand`.
"""

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks.by_hand import ByHand, adam, adam_state

__all__ = ["AVERAGE", "Diffusion", "Energy", "Flow", "LanguageModel"]

AVERAGE = 0.999


class Stateless(ByHand):
    """Training of `network`; a subclass has `loss(weights, x, draw)` and `draws` per step."""

    draws = 1

    def __init__(self, network, seed, batch_size, steps):
        self.network, self.seed = network, seed
        weights = copies(network.trainable_variables)
        self.fixed = copies(network.non_trainable_variables)
        super().__init__((weights, adam_state(weights), jnp.uint32(0)), batch_size, steps)

    def key(self, draw):
        return jnp.stack([jnp.uint32(self.seed), draw])

    def called(self, weights, *inputs, **options):
        return self.network.stateless_call(weights, self.fixed, *inputs, **options)[0]

    def step(self, state, x):
        weights, optimizer, draw = state
        loss, gradients = jax.value_and_grad(self.loss)(weights, x, draw)
        weights, optimizer = adam(weights, gradients, optimizer)
        return (weights, optimizer, draw + self.draws), {"loss": loss}


def copies(variables):
    return [jnp.array(np.array(variable)) for variable in variables]


class Diffusion(Stateless):
    """The plain error of ε on a linear schedule, and the average of the weights."""

    draws = 2

    def __init__(self, network, seed, batch_size, steps, num_timesteps=1000):
        super().__init__(network, seed, batch_size, steps)
        self.alphas = jnp.array(np.cumprod(1 - np.linspace(1e-4, 0.02, num_timesteps)), "float32")
        weights = self.state[0]
        self.state = (self.state, jax.tree.map(jnp.copy, weights), jnp.float32(0))

    def loss(self, weights, x, draw):
        u = jax.random.uniform(self.key(draw), (len(x),))
        t = (u * len(self.alphas)).astype("int32")
        noise = jax.random.normal(self.key(draw + 1), x.shape)
        alphas = self.alphas[t][:, None]
        noisy = jnp.sqrt(alphas) * x + jnp.sqrt(1 - alphas) * noise
        return jnp.mean((noise - self.called(weights, [noisy, t], training=True)) ** 2)

    def step(self, state, x):
        state, average, n = state
        state, logs = super().step(state, x)
        share = 1 - jnp.minimum(AVERAGE, (1 + n) / (10 + n))
        average = jax.tree.map(lambda a, w: a + share * (w - a), average, state[0])
        return (state, average, n + 1), logs

    def sampler(self, n, width, num_steps):
        """A compiled function of a seed: `n` samples by DDIM."""
        steps = np.round(1000 - np.arange(num_steps) * (1000 / num_steps)).astype("int32") - 1
        now = self.alphas[steps]
        rows = jnp.array(steps), now, jnp.append(now[1:], 1.0)

        @jax.jit
        def sample(weights, seed):
            def step(x, row):
                t, a, after = row
                noise = self.called(weights, [x, jnp.full((n,), t)], training=False)
                start = (x - jnp.sqrt(1 - a) * noise) / jnp.sqrt(a)
                return jnp.sqrt(after) * start + jnp.sqrt(1 - after) * noise, None

            first = jax.random.normal(jax.random.key(seed), (n, width))
            return jax.lax.scan(step, first, rows)[0]

        return lambda seed: sample(self.state[1], seed).block_until_ready()


class Flow(Stateless):
    """Exact likelihood: the coupling layers of the chain, one after the other."""

    def __init__(self, chain, seed, batch_size, steps):
        super().__init__(chain, seed, batch_size, steps)
        self.draws = 0

    def loss(self, weights, x, draw):
        import keras

        mapping = list(zip(self.network.trainable_variables, weights, strict=True))
        with keras.StatelessScope(mapping):
            z, log_det = self.network.forward_and_log_det(x)
        log_p = -0.5 * jnp.sum(z**2, axis=-1) - 0.5 * x.shape[1] * np.log(2 * np.pi)
        return -jnp.mean(log_p + log_det)


class Energy(Stateless):
    """Contrastive divergence with `mcmc_steps` Langevin steps from the data."""

    def __init__(self, network, seed, batch_size, steps, *, mcmc_steps, step_size):
        super().__init__(network, seed, batch_size, steps)
        self.mcmc_steps, self.step_size = mcmc_steps, step_size

    def energies(self, weights, x):
        return self.called(weights, x)[:, 0]

    def loss(self, weights, x, draw):
        noise = jax.random.normal(self.key(draw), (self.mcmc_steps, *x.shape))
        slope = jax.grad(lambda x: jnp.sum(self.energies(jax.lax.stop_gradient(weights), x)))

        def langevin(x, n):
            return x - 0.5 * self.step_size * slope(x) + np.sqrt(self.step_size) * n, None

        negatives = jax.lax.stop_gradient(jax.lax.scan(langevin, x, noise)[0])
        return jnp.mean(self.energies(weights, x) - self.energies(weights, negatives))


class LanguageModel(Stateless):
    """Next-token cross-entropy over rows of T + 1 ids."""

    draws = 0

    def loss(self, weights, ids, draw):
        logits = self.called(weights, ids[:, :-1], training=True)
        picked = jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)

    def generator(self, prompt, num_tokens):
        """A compiled function of a seed: `num_tokens` after the prompt (B, P), with its cache."""
        import keras

        rows, length = prompt.shape
        total = length + num_tokens
        prompt = jnp.array(prompt)

        @jax.jit
        def generate(weights, seed):
            mapping = list(zip(self.network.trainable_variables, weights, strict=True))
            places = jnp.arange(total)

            def step(carry, place):
                token, cache, key = carry
                key, now = jax.random.split(key)
                with keras.StatelessScope(mapping):
                    seen = jnp.broadcast_to(places <= place, (rows, 1, total))
                    at = jnp.full((rows, 1), place)
                    logits, cache = self.network.step(token[:, None], at, cache, place, seen)
                token = jax.random.categorical(now, logits)
                return (token, cache, key), token

            key = jax.random.key(seed)
            with keras.StatelessScope(mapping):
                cache = self.network.make_cache(rows, total)
                at = jnp.broadcast_to(jnp.arange(length), (rows, length))
                seen = jnp.broadcast_to(
                    places <= jnp.arange(length)[:, None], (rows, length, total)
                )
                logits, cache = self.network.step(prompt, at, cache, 0, seen)
            key, now = jax.random.split(key)
            token = jax.random.categorical(now, logits)
            steps = jnp.arange(length, total - 1)
            _, tokens = jax.lax.scan(step, (token, cache, key), steps)
            return jnp.concatenate([token[None], tokens]).T

        return lambda seed: generate(self.state[0], seed).block_until_ready()
