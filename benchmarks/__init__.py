"""Speed, measured beside what a person would write otherwise: `python -m benchmarks`."""
