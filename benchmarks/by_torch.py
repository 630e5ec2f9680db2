"""The loops that a torch user would write for networks of the same sizes, where torch is there.

Eager, on all cores, `torch.optim.Adam`; flows are zuko's. Weights and noise are torch's own, so the
losses differ from ours: what is compared is the time.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["GPT", "Diffusion", "Flow", "LanguageModel"]

LEARNING_RATE = 1e-3


class Loop:
    """`fit(x, epochs)`: batches of shuffled rows, Adam, the mean loss of the last epoch."""

    def __init__(self, network, batch_size):
        self.network = network
        self.batch_size = batch_size
        self.optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def fit(self, x, epochs):
        for _ in range(epochs):
            losses = []
            order = np.random.permutation(len(x))
            for start in range(0, len(x), self.batch_size):
                batch = torch.from_numpy(x[order[start : start + self.batch_size]])
                self.optimizer.zero_grad(set_to_none=True)
                loss = self.loss(batch)
                loss.backward()
                self.optimizer.step()
                losses.append(loss.item())
        return float(np.mean(losses))


# Diffusion


class TimedMLP(nn.Module):
    """As `networks.timed_mlp`: each hidden layer hears of the time."""

    def __init__(self, width, units):
        super().__init__()
        self.half = units[0] // 2
        self.embedding = nn.Sequential(
            nn.Linear(2 * self.half, units[0]), nn.SiLU(), nn.Linear(units[0], units[0]), nn.SiLU()
        )
        sizes = [width, *units]
        self.hidden = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.times = nn.ModuleList(nn.Linear(units[0], size, bias=False) for size in units)
        self.output = nn.Linear(units[-1], width)

    def forward(self, x, t):
        frequencies = torch.exp(-np.log(10_000.0) * torch.arange(self.half) / self.half)
        angles = t[:, None] * frequencies
        e = self.embedding(torch.cat([torch.cos(angles), torch.sin(angles)], dim=1))
        for hidden, time in zip(self.hidden, self.times, strict=True):
            x = F.silu(hidden(x) + time(e))
        return self.output(x)


class Diffusion(Loop):
    """The plain error of ε on a linear schedule (2006.11239)."""

    def __init__(self, width, units, batch_size, num_timesteps=1000):
        super().__init__(TimedMLP(width, units), batch_size)
        alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, num_timesteps))
        self.alphas = torch.tensor(alphas, dtype=torch.float32)

    def loss(self, x):
        t = torch.randint(0, len(self.alphas), (len(x),))
        noise = torch.randn_like(x)
        alphas = self.alphas[t][:, None]
        noisy = alphas.sqrt() * x + (1 - alphas).sqrt() * noise
        return F.mse_loss(self.network(noisy, t.float()), noise)

    @torch.no_grad()
    def sample(self, n, width, num_steps):
        """DDIM (2010.02502)."""
        steps = np.round(1000 - np.arange(num_steps) * (1000 / num_steps)).astype(int) - 1
        x = torch.randn(n, width)
        for t, after in zip(steps, [*steps[1:], None], strict=True):
            a = self.alphas[t]
            b = torch.tensor(1.0) if after is None else self.alphas[after]
            noise = self.network(x, torch.full((n,), float(t)))
            start = (x - (1 - a).sqrt() * noise) / a.sqrt()
            x = b.sqrt() * start + (1 - b).sqrt() * noise
        return x


# Flows


class Flow(Loop):
    """zuko's coupling flow: `RealNVP` with alternating halves."""

    def __init__(self, width, transforms, units, batch_size):
        import zuko

        flow = zuko.flows.RealNVP(width, transforms=transforms, hidden_features=units)
        super().__init__(flow, batch_size)

    def loss(self, x):
        return -self.network().log_prob(x).mean()


# Text


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        rows, length, dim = x.shape
        split = self.inputs(x).view(rows, length, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(rows, length, dim))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attention, self.norm_1 = Attention(dim, heads), nn.LayerNorm(dim)
        self.norm_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    """A plain GPT with learned positions."""

    def __init__(self, vocabulary, length, layers, heads, dim):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm, self.logits = nn.LayerNorm(dim), nn.Linear(dim, vocabulary, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x))


class LanguageModel(Loop):
    """Next-token cross-entropy over rows of T + 1 ids."""

    def __init__(self, vocabulary, length, layers, heads, dim, batch_size):
        super().__init__(GPT(vocabulary, length, layers, heads, dim), batch_size)

    def loss(self, ids):
        ids = ids.long()
        logits = self.network(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
