#!/usr/bin/env python3
"""One of four nodes is frozen (SIGSTOP): the others lose merges with it, never rounds or tokens, and wait for
nobody past a deadline, as their logs say; then it catches up.  Made ten times slower, it goes on merging and
slows down nobody.

Every node is held to a share of the processors that leaves room, so that the freeze frees nothing for the
others.  And a partner that freezes in the last round's exchange does not keep the other from ending the run.
"""

import re
import signal
import threading
import time

import harness
from harness import SMALL, expect, say, wait_until

ROUND_S = 0.5
OPTIONS = SMALL + ["--round-ms", "%d" % (1000 * ROUND_S), "--rounds", "2000"]
WINDOW_S = 20
WINDOWS = 3  # at most: one may differ by 5 % through what else the machine does, what is looked for is in all
CPU_PERCENT = 30  # of a processor, each
DEADLINE_MS = 1500 * ROUND_S  # an exchange may last one and a half rounds
LATE_MS = 500  # how late a timer may fire on a busy machine
SKIPPED = re.compile(r"round (\d+): merge with (\w+) skipped after (\d+) ms: (.*)")
FAR = "weights are too far from ours"  # what a gate says, frozen partners or not
LAST = 16
ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


def next_round(node):
    """Waits until a round ends; returns the new round, the tokens trained on, the processor time that took,
    and when that was.
    """
    start = node.run()["round"]
    run = node.wait_run("ends a round", 20, lambda run: run["round"] > start, every=0.02)
    return run["round"], run["tokens"], run["steps_s"], time.monotonic()


class Witness(threading.Thread):
    """Works as a trainer does, in pieces of a few milliseconds held to the nodes' share, and says how much of
    it the machine granted.  A machine that others use too grants less, to the nodes as to this one.
    """

    PIECE_S = 0.005

    def __init__(self):
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.began = time.monotonic()
        self.worked = 0.0

    def run(self):
        while not self.over.is_set():
            began, used = time.monotonic(), time.thread_time()
            while time.thread_time() - used < self.PIECE_S:
                pass
            used = time.thread_time() - used
            self.worked += used
            self.over.wait(max(0, began + used * 100 / CPU_PERCENT - time.monotonic()))

    def granted(self):
        """Of the share, 0 to 1."""
        self.over.set()
        self.join()
        return self.worked / (time.monotonic() - self.began) * 100 / CPU_PERCENT


def rates(watched):
    """Means over the nodes, each measured between two ends of rounds: rounds a minute, tokens a second, and
    the share of the time in which a processor made steps, out of what the machine granted.  How many tokens
    a second of a processor is good for changes with what else the machine does, by more than the 5 % that
    are looked for.
    """
    first = [next_round(node) for node in watched]
    witness = Witness()
    witness.start()
    time.sleep(WINDOW_S)  # the length of a measurement, not a wait for a state
    granted = witness.granted()
    last = [next_round(node) for node in watched]
    spans = [after[3] - before[3] for before, after in zip(first, last)]
    rounds = [60 * (after[0] - before[0]) / span for before, after, span in zip(first, last, spans)]
    tokens = [(after[1] - before[1]) / span for before, after, span in zip(first, last, spans)]
    steps = [(after[2] - before[2]) / span / granted for before, after, span in zip(first, last, spans)]
    say("granted by the machine: %.3f of a share" % granted)
    return [sum(values) / len(values) for values in (rounds, tokens, steps)]


def rates_beside(watched, rounds_before, steps_before):
    """The same beside a node that is in trouble: of several windows, until one is as before."""
    for window in range(WINDOWS):
        rounds, tokens, steps = rates(watched)
        say("share of the time in steps: %.3f before, %.3f now" % (steps_before, steps))
        if rounds >= 0.95 * rounds_before and steps >= 0.95 * steps_before:
            break
        say("window %d of %d is worse than before" % (window + 1, WINDOWS))
    return rounds, tokens, steps


def skips(node, first, last):
    """What the node's log says of merges that did not happen: (round, partner, milliseconds, why)."""
    with open(node.log, encoding="utf-8", errors="replace") as file:
        found = SKIPPED.findall(file.read())
    rows = [(int(number), partner, int(ms), why) for number, partner, ms, why in found]
    return [row for row in rows if first <= row[0] <= last]


def frozen_pairs_only(others, frozen, first, last):
    """The logs' proof: only merges with the frozen node were lost, and none was waited for too long."""
    lost = [(node.name, *row) for node in others for row in skips(node, first, last)]
    foreign = [row for row in lost if not frozen.id.startswith(row[2]) and row[4] != FAR]
    far = sum(row[4] == FAR for row in lost)
    longest = max((row[3] for row in lost), default=0)
    say(
        "rounds %d to %d: %d merges skipped, %d of them too far apart, the longest wait %d ms"
        % (first, last, len(lost), far, longest)
    )
    expect(lost, "merges with the frozen node were skipped")
    expect(not foreign, "no merge between the others was: %r" % foreign)
    expect(longest <= DEADLINE_MS + LATE_MS, "nobody waited past the deadline of %d ms" % DEADLINE_MS)


def is_near(frozen, others):
    mean = sum(node.run()["val_loss"] for node in others) / len(others)
    return abs(frozen.run()["val_loss"] - mean) <= 0.1 * mean


def catches_up(frozen, others):
    own, ahead = frozen.run()["round"], max(node.run()["round"] for node in others)
    return own >= ahead - 2


def one_ten_times_slower(others, slow, rounds_before, steps_before):
    """The swarm with a straggler: rounds are boxes of time, it only makes fewer steps in them."""
    slow.ask("limit", "--cpu", "%d" % (CPU_PERCENT // 10))
    merges = slow.run()["merges"]
    rounds, tokens, steps = rates_beside(others, rounds_before, steps_before)
    _, own, _ = rates([slow])
    say("tokens per second: %.0f of the straggler, %.0f of the others" % (own, tokens))
    expect(own <= 0.2 * tokens, "the straggler is slow")
    expect(rounds >= 0.95 * rounds_before, "the others' rounds per minute are as before")
    expect(steps >= 0.95 * steps_before, "the others train for as much of the time as before")
    expect(slow.run()["merges"] >= merges + 8, "the straggler goes on merging")


def last_exchange(context):
    """It outlives its round: who invites, the lower id, waits as long as an exchange may last."""
    with context.swarm("last", cpu=CPU_PERCENT) as swarm:
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
    with context.swarm(cpu=CPU_PERCENT) as swarm:
        swarm.start(4)
        swarm.train(context.text(), OPTIONS)
        for node in swarm.nodes:
            node.wait_run("merges", 60, lambda run: run["merges"] >= 2)
        others, frozen = swarm.nodes[:3], swarm.nodes[3]
        rounds_before, tokens_before, steps_before = rates(others)
        frozen_round = frozen.run()["round"]
        frozen.signal(signal.SIGSTOP)
        rounds, tokens, steps = rates_beside(others, rounds_before, steps_before)
        say("rounds per minute: %.1f before, %.1f with one node frozen" % (rounds_before, rounds))
        say("tokens per second: %.0f before, %.0f with one node frozen" % (tokens_before, tokens))
        runs = [node.run() for node in others]
        for node, run in zip(others, runs):
            say(
                "%s: merges %d, skipped %d %r" % (node.name, run["merges"], run["skipped"], run["skipped_by"])
            )
        expect(rounds >= 0.95 * rounds_before, "the others' rounds per minute fell by at most 5 %")
        expect(steps >= 0.95 * steps_before, "the others' time in steps fell by at most 5 %")
        # Rounds begun before the freeze may have lost their merge in it.
        frozen_pairs_only(others, frozen, frozen_round + 1, min(run["round"] for run in runs) - 2)

        frozen.signal(signal.SIGCONT)
        say("thawed at round %d, the others are at %d" % (frozen_round, runs[0]["round"]))
        wait_until("it is within 2 rounds of the others", 40, lambda: catches_up(frozen, others), every=0.2)
        for node, run in zip(others, runs):
            node.wait_run("merges as before", 40, lambda now, run=run: now["merges"] >= run["merges"] + 3)
        # Losses are measured every few rounds: wait for one that is newer than the thaw.
        frozen.wait_run("trains on", 40, lambda run: run["round"] >= runs[0]["round"] + 15)
        wait_until("its validation loss is near the others'", 40, lambda: is_near(frozen, others), every=0.5)

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
        one_ten_times_slower(others, frozen, rounds_before, steps_before)


harness.run(test, 400)
