#!/usr/bin/env python3
"""One of four nodes is frozen (SIGSTOP): the others lose merges with it, never rounds.  Thawed, it catches up.

Every node is held to its share of the processors, so that the freeze frees nothing for the others.
"""

import signal
import time

import harness
from harness import SMALL, expect, say, wait_until

OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "2000"]
WINDOW_S = 20


def rounds_per_minute(watched):
    """Mean over the nodes, measured for WINDOW_S between two changes of the round counter."""

    def next_round(node):
        start = node.run()["round"]
        reached = wait_until(
            "%s ends a round" % node.name,
            20,
            lambda: (lambda now: now if now > start else None)(node.run()["round"]),
            every=0.02,
        )
        return reached, time.monotonic()

    first = [next_round(node) for node in watched]
    time.sleep(WINDOW_S)
    last = [next_round(node) for node in watched]
    rates = [60 * (r1 - r0) / (t1 - t0) for (r0, t0), (r1, t1) in zip(first, last)]
    return sum(rates) / len(rates)


def test(context):
    with context.swarm(cpu=harness.nodes.cpu_share(4)) as swarm:
        swarm.start(4)
        swarm.train(context.text(), OPTIONS)
        for node in swarm.nodes:
            wait_until("%s merges" % node.name, 60, lambda node=node: node.run()["merges"] >= 2)
        others, frozen = swarm.nodes[:3], swarm.nodes[3]
        before = rounds_per_minute(others)
        frozen_round = frozen.run()["round"]
        frozen.signal(signal.SIGSTOP)
        during = rounds_per_minute(others)
        say("rounds per minute: %.1f before, %.1f with one node frozen" % (before, during))
        for node in others:
            run = node.run()
            say(
                "%s: merges %d, skipped %d %r" % (node.name, run["merges"], run["skipped"], run["skipped_by"])
            )
        expect(during >= 0.9 * before, "the others' rounds per minute fell by at most a tenth")

        merges = [node.run()["merges"] for node in others]
        frozen.signal(signal.SIGCONT)
        say("thawed at round %d, the others are at %d" % (frozen_round, others[0].run()["round"]))

        def caught_up():
            own, ahead = frozen.run(), max(node.run()["round"] for node in others)
            return own if own["round"] >= ahead - 2 else None

        wait_until("the thawed node is within 2 rounds of the others", 40, caught_up, every=0.2)
        wait_until(
            "the others merge as before",
            40,
            lambda: all(node.run()["merges"] >= count + 3 for node, count in zip(others, merges)),
            every=0.3,
        )
        own = wait_until(
            "the thawed node merges and measures",
            40,
            lambda: (lambda now: now if now["round"] >= frozen_round + 50 else None)(frozen.run()),
            every=0.3,
        )
        mean = sum(node.run()["val_loss"] for node in others) / 3
        expect(
            abs(own["val_loss"] - mean) <= 0.1 * mean,
            "its validation loss %.3f is near the others' %.3f" % (own["val_loss"], mean),
        )


harness.run(test, 240)
