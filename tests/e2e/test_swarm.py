#!/usr/bin/env python3
"""Four nodes that know one seed find each other, train one model on real text and merge in pairs.

Their losses fall together and their weights stay close, and the mean of the models is as good as each.
The same swarm that never merges is the control: it must drift apart, else the first half proves nothing.
"""

import harness
from harness import SMALL, expect, say

ROUNDS = 40
OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "400"]


def report(name, node, run):
    say(
        "%s %s: round %d, tokens %d, loss %.3f, validation %.3f from %.3f, merges %d, skipped %d %r"
        % (
            name,
            node.name,
            run["round"],
            run["tokens"],
            run["train_loss"],
            run["val_loss"],
            run["val_loss_start"],
            run["merges"],
            run["skipped"],
            run["skipped_by"],
        )
    )


def train(context, name, isolated):
    """Trains for ROUNDS rounds; returns the runs and what the comparison of the exports says."""
    with context.swarm(name, cpu=harness.nodes.cpu_share(4)) as swarm:
        swarm.start(4)
        say("%s: four nodes know each other" % name)
        swarm.train(context.text(), OPTIONS, isolated)
        if not isolated:
            swarm.wait_connected(3)
        say("%s: all train" % name)
        for node in swarm.nodes:
            node.wait_run("reaches round %d" % ROUNDS, 90, lambda run: run["round"] >= ROUNDS)
        runs = [node.run() for node in swarm.nodes]
        for node, run in zip(swarm.nodes, runs):
            report(name, node, run)
        compared = swarm.compare(swarm.export(), context.text())
        codes = swarm.stop()
        expect(set(codes.values()) == {0}, "%s: all stop in good order %r" % (name, codes))
    return runs, compared


def mean_loss(compared):
    losses = [model["val_loss"] for model in compared["models"]]
    return sum(losses) / len(losses)


def test(context):
    runs, merged = train(context, "merging", False)
    few = ROUNDS // 4
    expect(all(run["merges"] >= few for run in runs), "every node merged in %d rounds at least" % few)
    fell = all(run["val_loss"] < run["val_loss_start"] - 1 for run in runs)
    expect(fell, "every validation loss fell by 1 nat")
    expect(all(run["members"] == 4 for run in runs), "every node counts four members")
    mean, both = mean_loss(merged), merged["merged_val_loss"]
    expect(both <= 1.01 * mean, "the mean model (%.3f) is as good as the nodes (%.3f)" % (both, mean))

    control, isolated = train(context, "isolated", True)
    expect(all(run["merges"] == 0 for run in control), "isolated nodes never merged")
    near, far = merged["replica_distance"], isolated["replica_distance"]
    expect(
        far > 1.5 * near, "isolated nodes drift further apart (%.4f) than merging ones (%.4f)" % (far, near)
    )
    say("isolated: mean model %.3f, nodes %.3f" % (isolated["merged_val_loss"], mean_loss(isolated)))


harness.run(test, 240)
