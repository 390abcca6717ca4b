"""Handlers in child processes: spawned, reused, killable, and no danger to their neighbours.

crew      who is idle, who is hired, who leaves        in the worker
process   one child as its worker sees it
desk      what handlers ask for, done on their behalf
child     the program that runs in the child           in the child
line      the handler's line to the worker
messages, orders, places, logs: what both sides know
"""

from actorjobs.worker.isolation.crew import Crew
from actorjobs.worker.isolation.inside import refuse_in_child
from actorjobs.worker.isolation.plan import plan_for

__all__ = ["Crew", "plan_for", "refuse_in_child"]
