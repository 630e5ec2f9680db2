"""Sequences of tokens from a model's logits: what may follow, what follows, and the loops.

B rows, V the size of the vocabulary. The functions of logits (B, V) are pure and give logits again,
-inf where a token is ruled out; they compose in the order temperature, top-k, top-p, min-p. A token
is chosen with one uniform number, so a whole sequence needs (B, N) of them, drawn beforehand.

The loops know the model as a *decoder*, ``decoder(tokens, index, cache) -> (logits, cache)``: it
takes the tokens (B,) that were chosen as number `index` of the new ones and gives the logits of the
next. `CachedDecoder` and `FullDecoder` make one of a network.
"""

import contextlib
import dataclasses

import keras
from keras import ops

from artifex_keras.backend import ReadThroughScope, spread, stacks
from artifex_keras.objectives.tokens import token_log_probs

__all__ = [
    "CachedDecoder",
    "FullDecoder",
    "Rule",
    "beam_search",
    "start_decode",
    "choice",
    "continue_decode",
    "min_p",
    "repetition_penalty",
    "seen_tokens",
    "tempered",
    "top_k",
    "top_p",
]

NEVER = -float("inf")
LARGE = 1e7  # a logit that penalties don't pass: finite still after the least temperature, 1e-30


# What may follow


def tempered(logits, temperature):
    """``z / τ`` in float32."""
    return ops.cast(logits, "float32") / temperature


def top_k(logits, k):
    """The k largest logits, and what equals the smallest of them; the rest -inf.

    Example:

    ```python
    import numpy as np
    from artifex_keras.samplers.tokens import top_k

    print(top_k(np.array([[1.0, 3.0, 2.0]]), 2))  # the least likely has no chance any more
    ```
    """
    logits = ops.convert_to_tensor(logits)
    k = min(int(k), logits.shape[-1])
    smallest = ops.top_k(logits, k, sorted=True)[0][..., -1:]
    return ops.where(logits >= smallest, logits, NEVER)


def top_p(logits, p):
    """The logits of the likeliest tokens that together have a probability of at least p; the rest
    -inf. The token that crosses p is kept (1904.09751).

    Example:

    ```python
    import numpy as np
    from artifex_keras.samplers.tokens import top_p

    print(top_p(np.log([[0.6, 0.3, 0.1]]), 0.8))  # the last has no chance any more
    ```
    """
    logits = ops.convert_to_tensor(logits)
    ordered = -ops.sort(-logits, axis=-1)
    probabilities = ops.softmax(ordered, axis=-1)
    before = ops.cumsum(probabilities, axis=-1) - probabilities
    kept = ops.logical_or(before < p, p >= 1.0)
    smallest = ops.min(ops.where(kept, ordered, float("inf")), axis=-1, keepdims=True)
    return ops.where(logits >= smallest, logits, NEVER)


def min_p(logits, p):
    """The logits of tokens at least p times as likely as the likeliest; the rest -inf
    (2407.01082)."""
    logits = ops.convert_to_tensor(logits)
    smallest = ops.max(logits, axis=-1, keepdims=True) + ops.log(ops.cast(p, "float32"))
    return ops.where(logits >= smallest, logits, NEVER)


def repetition_penalty(logits, seen, penalty):
    """Logits of tokens that were `seen`, (B, V) of zeros and ones, made less likely: divided by the
    penalty where positive, multiplied by it where negative (1909.05858). All stay finite that
    were."""
    logits, seen = ops.convert_to_tensor(logits), ops.convert_to_tensor(seen)
    penalised = ops.where(logits > 0, logits / penalty, logits * penalty)
    penalised = ops.where(logits > NEVER, ops.clip(penalised, -LARGE, LARGE), NEVER)
    return ops.where(seen > 0, penalised, logits)


def seen_tokens(tokens, mask, size):
    """1 for each token that stands in its row where `mask` is not zero: (B, V) float32."""
    counts = ops.one_hot(ops.cast(tokens, "int32"), size, dtype="float32")
    return ops.max(counts * ops.cast(mask, "float32")[..., None], axis=1)


# What follows


def choice(logits, uniforms):
    """Tokens (...,) int32 with the probabilities ``softmax(z)``, from logits (..., V) and numbers
    in [0, 1) of shape (...): the first token at which the cumulated probability exceeds u.

    A token without probability is never chosen, whatever the rounding of the sum.
    """
    logits = ops.cast(logits, "float32")
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    cumulated = ops.cumsum(weights, axis=-1)
    target = ops.cast(uniforms, "float32")[..., None] * cumulated[..., -1:]
    # Sums in parallel may fall from a token to the next, and u·total may round up to the total:
    # where nothing exceeds it, the last token that is possible.
    size = logits.shape[-1]
    place = ops.arange(size, dtype="int32")
    rank = ops.where(cumulated > target, 2 * size - place, place)
    return ops.cast(ops.argmax(ops.where(weights > 0, rank, -1), axis=-1), "int32")


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a token is chosen: called with logits (B, V), what was seen (B, V) or None, and uniforms
    (B,), it gives `(tokens, log_probs)`, each (B,).

    The log-probabilities are the model's at that temperature, before anything is ruled out or
    penalised. `greedy` takes the likeliest token, with its log-probability at temperature 1.
    `top_k` and `greedy` are settings of the program; the others may be tensors.
    """

    temperature: object = 1.0
    top_k: int | None = None
    top_p: object = None
    min_p: object = None
    repetition_penalty: object = None
    greedy: bool = False

    def __call__(self, logits, seen, uniforms):
        # A device has all logits of its rows. Where the vocabulary is sharded it has fewer rows.
        scored = logits = spread(ops.cast(logits, "float32"), all_devices=True)
        if self.repetition_penalty is not None:
            logits = repetition_penalty(logits, seen, self.repetition_penalty)
        if self.greedy:
            tokens = ops.cast(ops.argmax(logits, axis=-1), "int32")
        else:
            scored = tempered(scored, self.temperature)
            tokens = choice(self._allowed(tempered(logits, self.temperature)), uniforms)
        return spread(tokens), spread(token_log_probs(scored[:, None], tokens[:, None])[:, 0])

    def _allowed(self, logits):
        for limit, setting in ((top_k, self.top_k), (top_p, self.top_p), (min_p, self.min_p)):
            logits = logits if setting is None else limit(logits, setting)
        return logits


# The loop


def start_decode(logits, choose, uniforms, seen, cache, *, ends=None, pad=0):
    """The state of a generation after its first token, of N as `uniforms` (B, N) has them.

    Args:
        logits: (B, V), of the first token.
        choose: a `Rule`.
        uniforms: in [0, 1).
        seen: (B, V) of zeros and ones, for a rule that asks what stands in the row; or None.
        cache: the decoder's.
        ends: ids (E,) of which any ends its row; or None.
        pad: what stands after the end, with a log-probability of 0.

    Returns:
        a dict: `index` of the next token, `tokens` (B, N), `log_probs` (B, N), `done` (B,), whether
        the row has ended, `seen` if it was given, and `cache`.
    """
    shape = tuple(uniforms.shape)
    state = {
        "index": ops.zeros((), "int32"),
        "tokens": ops.full(shape, pad, "int32"),
        "log_probs": ops.zeros(shape, "float32"),
        "done": ops.zeros(shape[:1], "bool"),
        "cache": cache,
    }
    if seen is not None:
        state["seen"] = seen
    return _with_next(state, logits, choose, uniforms, ends, pad)


def continue_decode(state, decoder, choose, uniforms, *, until=None, ends=None, pad=0):
    """`state` after token number `until` (all N by default), or where all rows have ended before.

    One loop, which may be gone through in pieces; the arguments are those of `start_decode`.
    """
    names = sorted(state)
    until = ops.cast(uniforms.shape[1] if until is None else until, "int32")

    def keep_decoding(*values):
        here = dict(zip(names, values, strict=True))
        return ops.logical_and(here["index"] < until, ops.logical_not(ops.all(here["done"])))

    def step(*values):
        here = dict(zip(names, values, strict=True))
        latest = here["index"] - 1
        tokens = ops.take(here["tokens"], latest, axis=1)
        logits, here["cache"] = decoder(tokens, latest, here["cache"])
        here = _with_next(here, logits, choose, uniforms, ends, pad)
        return [here[name] for name in names]

    values = ops.while_loop(keep_decoding, step, [state[name] for name in names])
    return dict(zip(names, values, strict=True))


def _with_next(state, logits, choose, uniforms, ends, pad):
    """`state` with one more token in each row that hasn't ended."""
    index, done, seen = state["index"], state["done"], state.get("seen")
    tokens, scores = choose(logits, seen, ops.take(uniforms, index, axis=1))
    tokens = ops.where(done, ops.full_like(tokens, pad), tokens)
    state = {
        **state,
        "index": index + 1,
        "tokens": _put(state["tokens"], tokens, index),
        "log_probs": _put(state["log_probs"], ops.where(done, 0.0, scores), index),
        "done": _ended(done, tokens, ends),
    }
    if seen is not None:
        state["seen"] = ops.maximum(seen, ops.one_hot(tokens, seen.shape[1], dtype="float32"))
    return state


def _ended(done, tokens, ends):
    if ends is None:
        return done
    return ops.logical_or(done, ops.any(tokens[..., None] == ends, axis=-1))


def _put(table, column, index):
    """`table` (..., N) with another column `index`."""
    start = [ops.zeros_like(index)] * (len(table.shape) - 1) + [index]
    return ops.slice_update(table, start, ops.cast(column[..., None], table.dtype))


def beam_search(logits, decoder, cache, *, num_beams, num_tokens, length_penalty=0.0, ends=None,
                pad=0):  # fmt: skip
    """`(tokens, log_probs)`, each (B, N), of the best sequence that `num_beams` beams find.

    A beam's score is its log-probability divided by its length to the power of `length_penalty`: 0
    looks for the likeliest sequence, more favours longer ones. Beams that have ended stay in the
    race with the score they have. The loop ends with token N, or when all beams have ended.
    """
    rows, size = logits.shape
    cache = keras.tree.map_structure(lambda leaf: ops.repeat(leaf, num_beams, axis=0), cache)
    shape = (rows, num_beams)
    state = {
        "index": ops.zeros((), "int32"),
        "tokens": ops.full((*shape, num_tokens), pad, "int32"),
        "log_probs": ops.zeros((*shape, num_tokens), "float32"),
        "done": ops.zeros(shape, "bool"),
        "length": ops.zeros(shape, "float32"),
        # All beams are alike at first: one of them goes on.
        "score": ops.tile(ops.where(ops.arange(num_beams) == 0, 0.0, NEVER)[None], (rows, 1)),
        "cache": cache,
    }
    names = sorted(state)

    def extended(state, logits):
        return _best_beams(state, logits, length_penalty, ends, pad)

    def keep_decoding(*values):
        here = dict(zip(names, values, strict=True))
        return ops.logical_and(here["index"] < num_tokens, ops.logical_not(ops.all(here["done"])))

    def step(*values):
        here = dict(zip(names, values, strict=True))
        latest = here["index"] - 1
        tokens = ops.reshape(ops.take(here["tokens"], latest, axis=2), (-1,))
        logits, here["cache"] = decoder(tokens, latest, here["cache"])
        here = extended(here, ops.reshape(logits, (*shape, size)))
        return [here[name] for name in names]

    state = extended(state, ops.repeat(logits[:, None], num_beams, axis=1))
    values = ops.while_loop(keep_decoding, step, [state[name] for name in names])
    state = dict(zip(names, values, strict=True))
    return state["tokens"][:, 0], state["log_probs"][:, 0]


def _best_beams(state, logits, length_penalty, ends, pad):
    """`state` with each beam one token longer, the best first."""
    rows, beams, size = logits.shape
    log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    done = state["done"]
    stays = ops.where(ops.arange(size) == pad, 0.0, NEVER)
    log_p = ops.where(done[..., None], stays, log_p)
    length = state["length"] + ops.cast(ops.logical_not(done), "float32")
    scores = state["score"][..., None] + log_p
    ranked = scores / ops.power(length, length_penalty)[..., None]
    best = ops.top_k(ops.reshape(ranked, (rows, beams * size)), beams, sorted=True)[1]
    best = ops.cast(best, "int32")
    parents, tokens = best // size, best % size
    flat = ops.reshape(ops.arange(rows, dtype="int32")[:, None] * beams + parents, (-1,))

    def of_parents(leaf):
        chosen = ops.take(ops.reshape(leaf, (rows * beams, *leaf.shape[2:])), flat, axis=0)
        return ops.reshape(chosen, leaf.shape)

    def of_best(table):
        return ops.take_along_axis(ops.reshape(table, (rows, beams * size)), best, axis=1)

    done, index = of_parents(done), state["index"]
    return {
        "index": index + 1,
        "tokens": _put(of_parents(state["tokens"]), tokens, index),
        "log_probs": _put(of_parents(state["log_probs"]), of_best(log_p), index),
        "done": _ended(done, tokens, ends),
        "length": of_parents(length),
        "score": of_best(scores),
        "cache": keras.tree.map_structure(lambda x: ops.take(x, flat, axis=0), state["cache"]),
    }


# What a network's logits are


class CachedDecoder:
    """Logits from a network with a key-value cache, for prompts (B, `width`) and `num_tokens` more.

    The network offers `make_cache` and `step` as `networks.transformer` describes them.
    """

    def __init__(self, network, width, num_tokens):
        self.network, self.width = network, width
        self.columns = ops.arange(width + num_tokens - 1, dtype="int32")
        # Taken out of their stack here, and not for every token.
        self.weights = stacks.parts_and_values(network)

    def start(self, prompt, lengths):
        """`(logits, cache)` after prompts (B, P), of which the first `lengths` (B,) ids are real:
        the logits (B, V) of the token that comes next, and what this calls the cache."""
        places = ops.arange(self.width, dtype="int32")
        visible = (self.columns <= places[:, None])[None]
        layers = self.network.make_cache(prompt.shape[0], self.columns.shape[0])
        logits, layers = self.network.step(prompt, places[None], layers, 0, visible, lengths - 1)
        return logits, {"lengths": lengths, "layers": layers}

    def __call__(self, tokens, index, cache):
        """`(logits, cache)` after token number `index` of the new ones, (B,)."""
        lengths, column = cache["lengths"][:, None], self.width + index
        made = ops.logical_and(self.columns >= self.width, self.columns <= column)
        visible = ops.logical_or(self.columns < lengths, made)[:, None]
        own = ReadThroughScope(self.weights, keep_dtypes=True) if self.weights else None
        with contextlib.nullcontext() if own is None else own:
            logits, layers = self.network.step(
                tokens[:, None], lengths + index, cache["layers"], column, visible
            )
        return logits, {"lengths": cache["lengths"], "layers": layers}


class FullDecoder:
    """Logits as `CachedDecoder` gives them, from any causal network of ids (B, T) to (B, T, V).

    It is called on the whole row for every token. `total` is the T it is called with, by default
    what prompts and new tokens need.
    """

    def __init__(self, network, width, num_tokens, total=None):
        self.network, self.width = network, width
        self.total = width + num_tokens - 1 if total is None else total

    def start(self, prompt, lengths):
        """See `CachedDecoder.start`."""
        # Where the row is shorter than the prompts' width, only padding is cut off.
        ids = prompt[:, : self.total]
        ids = ops.pad(ids, [[0, 0], [0, self.total - ids.shape[1]]])
        return self._scored(ids, lengths - 1), {"ids": ids, "lengths": lengths}

    def __call__(self, tokens, index, cache):
        """See `CachedDecoder.__call__`."""
        place = cache["lengths"] + index
        here = ops.arange(self.total, dtype="int32") == place[:, None]
        ids = ops.where(here, tokens[:, None], cache["ids"])
        return self._scored(ids, place), {"ids": ids, "lengths": cache["lengths"]}

    def _scored(self, ids, last):
        logits = ops.cast(self.network(ids, training=False), "float32")
        return ops.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]
