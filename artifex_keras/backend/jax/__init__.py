"""The seam on JAX: a step is a pure function of its state, and several steps are one program."""

from artifex_keras.backend.jax.memory import share_one_heap

share_one_heap()
