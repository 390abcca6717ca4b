"""The fault cases F1 to F25 on RabbitMQ, judged by the history checker (tests/system/checker.py).

    F1 F2 F3 F12 F16 F19    test_processes      workers and callers that die, stop, or have the wrong time
    F4  F18                 test_connections    connections that break while jobs run, loops that stand still
    F5  F6  F10  F11  F22   test_nodes          nodes killed, wiped, cut off, that differ or refuse (`make faults`)
    F6  F7  F10  F20        test_lost_hints     hints that are gone, and those that only seem to be
    F8  F9  F21             test_flow           how much a worker holds, and for how long
    F12  F13  F23           test_messages       messages that are no hints, or have been through too much
    F14  F15                test_store          a database that is away; two of everybody
    F17  F25                test_driver         cancellations, asked for and not
    two hosts               test_hosts          one is cut off from everything (`make faults`)

F24, queues whose names end alike, is in the conformance suite of brokers. Workers killed at random: tests/system.
"""
