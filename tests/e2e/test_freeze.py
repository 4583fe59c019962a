#!/usr/bin/env python3
"""One of four nodes is frozen (SIGSTOP): the others lose merges with it, never rounds; then it catches up.

Every node is held to its share of the processors, so that the freeze frees nothing for the others.  And a
partner that freezes in the last round's exchange does not keep the other from ending the run.
"""

import signal
import time

import harness
from harness import SMALL, expect, say, wait_until

ROUND_S = 0.5
OPTIONS = SMALL + ["--round-ms", "%d" % (1000 * ROUND_S), "--rounds", "2000"]
WINDOW_S = 18
LAST = 16
ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


def next_round(node):
    """Waits until a round ends; returns the new round and when that was."""
    start = node.run()["round"]
    run = node.wait_run("ends a round", 20, lambda run: run["round"] > start, every=0.02)
    return run["round"], time.monotonic()


def rounds_per_minute(watched):
    """Mean over the nodes, each measured between two ends of rounds about WINDOW_S apart."""
    first = [next_round(node) for node in watched]
    time.sleep(WINDOW_S)  # the length of a measurement, not a wait for a state
    last = [next_round(node) for node in watched]
    rates = [60 * (r1 - r0) / (t1 - t0) for (r0, t0), (r1, t1) in zip(first, last)]
    return sum(rates) / len(rates)


def catches_up(frozen, others):
    own, ahead = frozen.run()["round"], max(node.run()["round"] for node in others)
    return own >= ahead - 2


def last_exchange(context):
    """It outlives its round: who invites, the lower id, waits as long as an exchange may last."""
    with context.swarm("last", cpu=harness.nodes.cpu_share(2)) as swarm:
        swarm.start(2)
        options = SMALL + ["--round-ms", "%d" % (1000 * ROUND_S), "--rounds", "%d" % LAST]
        swarm.train(context.text(), options)
        inviter, frozen = sorted(
            swarm.nodes, key=lambda node: [ID_LETTERS.index(letter) for letter in node.id]
        )
        inviter.wait_run("nears its end", 60, lambda run: run["round"] >= LAST - 1, every=0.02)
        frozen.signal(signal.SIGSTOP)
        run = inviter.wait_run("ends", 30, lambda run: run["state"] == "finished", every=0.05)
        say("the last partner froze: %d merges, skipped %r" % (run["merges"], run["skipped_by"]))
        frozen.signal(signal.SIGCONT)
        frozen.wait_run("ends too", 30, lambda run: run["state"] == "finished")


def test(context):
    last_exchange(context)
    with context.swarm(cpu=harness.nodes.cpu_share(4)) as swarm:
        swarm.start(4)
        swarm.train(context.text(), OPTIONS)
        for node in swarm.nodes:
            node.wait_run("merges", 60, lambda run: run["merges"] >= 2)
        others, frozen = swarm.nodes[:3], swarm.nodes[3]
        before = rounds_per_minute(others)
        frozen_round = frozen.run()["round"]
        frozen.signal(signal.SIGSTOP)
        during = rounds_per_minute(others)
        say("rounds per minute: %.1f before, %.1f with one node frozen" % (before, during))
        runs = [node.run() for node in others]
        for node, run in zip(others, runs):
            say(
                "%s: merges %d, skipped %d %r" % (node.name, run["merges"], run["skipped"], run["skipped_by"])
            )
        expect(during >= 0.9 * before, "the others' rounds per minute fell by at most a tenth")

        frozen.signal(signal.SIGCONT)
        say("thawed at round %d, the others are at %d" % (frozen_round, runs[0]["round"]))
        wait_until("it is within 2 rounds of the others", 40, lambda: catches_up(frozen, others), every=0.2)
        for node, run in zip(others, runs):
            node.wait_run("merges as before", 40, lambda now, run=run: now["merges"] >= run["merges"] + 3)
        # Losses are measured every few rounds: wait for one that is newer than the thaw.
        own = frozen.wait_run("trains on", 40, lambda run: run["round"] >= runs[0]["round"] + 15)
        mean = sum(node.run()["val_loss"] for node in others) / 3
        near = abs(own["val_loss"] - mean) <= 0.1 * mean
        expect(near, "its validation loss %.3f is near the others' %.3f" % (own["val_loss"], mean))

        # A stop of a few rounds, too short for fetching a state: the node must take up the others' count, or
        # it is refused as stale for ever after.
        for stopped in swarm.nodes[:2]:
            merges = stopped.run()["merges"]
            stopped.signal(signal.SIGSTOP)
            time.sleep(4 * ROUND_S)
            stopped.signal(signal.SIGCONT)
            stopped.wait_run(
                "merges again after a stop of four rounds",
                40,
                lambda run, merges=merges: run["merges"] >= merges + 8,
            )


harness.run(test, 300)
