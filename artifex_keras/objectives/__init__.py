"""Losses, bounds and penalties as pure functions of tensors, written in `keras.ops`.

Likelihood-type terms sum over event axes, regression-type terms average over them; the mean over
the batch is the caller's, weighted by examples.
"""
