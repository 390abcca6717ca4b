"""First honest figures: `python -m benchmarks`."""
