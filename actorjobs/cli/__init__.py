"""The command line: `actorjobs`. A failure is one clear line and a status other than 0, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from actorjobs.cli.guarded import OutputFailed, guarded_output
from actorjobs.errors import ActorJobsError, InvalidOption, PayloadInvalid, UnknownJob, UnknownQueue

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_NOBODY_READS = 141
"""As for a program that SIGPIPE ends: a gate whose output nobody reads has not been passed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status: 0 done, 1 failed, 2 the request itself was wrong."""
    try:
        from actorjobs.cli.app import app

        with guarded_output():
            app(args=None if arguments is None else list(arguments), prog_name="actorjobs")
    except OutputFailed as failed:
        _give_up(failed.cause)
    except (InvalidOption, PayloadInvalid, UnknownJob, UnknownQueue) as error:
        _fail(error, EXIT_USAGE)
    except ActorJobsError as error:
        _fail(error, EXIT_FAILURE)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would only spoil the way out
        sys.exit(EXIT_INTERRUPTED)


def _give_up(error: OSError) -> None:
    """Say that the output went nowhere, unless nobody reads. What is left in buffers must not say so again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        sys.exit(EXIT_NOBODY_READS)
    sys.stderr.write(f"actorjobs: the output cannot be written: {error.strerror or error}\n")
    sys.exit(EXIT_FAILURE)


def _fail(error: ActorJobsError, status: int) -> None:
    sys.stderr.write(f"actorjobs: {' '.join(str(error).split())}\n")
    sys.exit(status)
