"""What others see of the runs: traces, metrics and logs, by OpenTelemetry's API alone.

The API is known to this room and no other; its SDK only to `setup`, which the command line calls.
"""
