"""The command line: `actorjobs`. A failure is one clear line and a status other than 0, never a traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from actorjobs.errors import ActorJobsError, InvalidOption, PayloadInvalid, UnknownJob, UnknownQueue

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status: 0 done, 1 failed, 2 the request itself was wrong."""
    try:
        from actorjobs.cli.app import app

        app(args=None if arguments is None else list(arguments), prog_name="actorjobs")
    except (InvalidOption, PayloadInvalid, UnknownJob, UnknownQueue) as error:
        _fail(error, EXIT_USAGE)
    except ActorJobsError as error:
        _fail(error, EXIT_FAILURE)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would only spoil the way out
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: ActorJobsError, status: int) -> None:
    sys.stderr.write(f"actorjobs: {' '.join(str(error).split())}\n")
    sys.exit(status)
