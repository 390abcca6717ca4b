"""Actors of the application's own: private state for the runs of one queue, such as an open SMTP connection."""

from __future__ import annotations

from typing import Any


class Actor:
    """What each actor of a queue keeps between runs: `Queue(concurrency=4, actor=Mailer)`, and `ctx.actor(Mailer)`.

    An instance belongs to one actor, so that one run uses it at a time. It is made without arguments. While `on_start`
    fails the queue takes nothing and says why. A handler that raises `RestartActor` fails its attempt and gets rid of
    the instance: the next run has a new one.
    """

    app: Any = None
    """The application's own context, set before `on_start`."""

    async def on_start(self) -> None:
        """Prepare: open connections, load what takes long to load."""

    async def on_stop(self) -> None:
        """Undo `on_start`. Called only where it succeeded."""
