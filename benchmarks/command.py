"""The command line of every program here: figures that make sense, and an end that leaves nothing behind."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

_ENDED_BY_SIGNAL = 128


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for. From here on SIGTERM ends the program in order: what it has started is stopped first."""
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(_ENDED_BY_SIGNAL + number))
    return asked


def at_least_one(word: str) -> int:
    """A number of one or more."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word}: one is the least")
    return number


def not_negative(word: str) -> float:
    """So many seconds, or none."""
    number = float(word)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{word}: it has to be 0 or more")
    return number


def new_file(word: str) -> Path:
    """A file that can be written once all is measured."""
    path = Path(word)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{word}: no file can be written there")
    return path


def old_file(word: str) -> Path:
    """A file that is there."""
    path = Path(word)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{word}: there is no such file")
    return path


def positive(word: str) -> float:
    """So many seconds, or a rate: more than nothing."""
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{word}: it has to be more than 0")
    return number
