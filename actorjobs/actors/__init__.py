"""The kernel: mailboxes, actors, what keeps them alive, and what happens again and again."""

from actorjobs.actors.actor import Actor, ActorStatistics, RestartActor
from actorjobs.actors.background import Background
from actorjobs.actors.keeper import ChildSpec, ChildState, Keeper, KeeperStatistics, Restarts
from actorjobs.actors.life import Life
from actorjobs.actors.mailbox import Mailbox, MailboxClosed, MailboxFull
from actorjobs.actors.periodic import Periodic, PeriodicStatistics
from actorjobs.actors.service import Cancelled, Service, StartInterrupted, Statistics, TaskService, Watcher
from actorjobs.actors.supervisor import Supervisor, SupervisorStatistics
from actorjobs.actors.timing import Backoff, within
from actorjobs.actors.tree import Tree, TreeStatistics

__all__ = [
    "Actor",
    "ActorStatistics",
    "Background",
    "Backoff",
    "Cancelled",
    "ChildSpec",
    "ChildState",
    "Keeper",
    "KeeperStatistics",
    "Life",
    "Mailbox",
    "MailboxClosed",
    "MailboxFull",
    "Periodic",
    "PeriodicStatistics",
    "RestartActor",
    "Restarts",
    "Service",
    "StartInterrupted",
    "Statistics",
    "Supervisor",
    "SupervisorStatistics",
    "TaskService",
    "Tree",
    "TreeStatistics",
    "Watcher",
    "within",
]
