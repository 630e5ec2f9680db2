"""The seam on JAX: a step is a pure function of its state, and several steps are one program."""
