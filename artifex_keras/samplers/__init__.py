"""Noise schedules, and the loops that draw samples: pure functions of a network and of noise.

Every loop takes the random draws it needs as arguments, so that it gives the same samples on each
backend and is one compiled program inside a jitted function.
"""
