#!/usr/bin/env python3
"""Four nodes that know one seed find each other, train one model on real text and merge in pairs.

Their losses fall together and their weights stay close, and the mean of the models is as good as each.  The same
swarm that never merges is the control: it must drift apart, else the first half proves nothing.
"""

import harness
from harness import SMALL, expect, say

ROUNDS = 40
OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "400"]


def train(context, name, isolated):
    """Trains for ROUNDS rounds; returns the runs and what the comparison of the exports says."""
    with context.swarm(name, cpu=harness.nodes.cpu_share(4)) as swarm:
        swarm.start(4)
        say("%s: four nodes are connected" % name)
        swarm.train(context.text(), OPTIONS, isolated)
        say("%s: all train" % name)
        for node in swarm.nodes:
            harness.wait_until(
                "%s reaches round %d" % (node.name, ROUNDS),
                90,
                lambda node=node: node.run()["round"] >= ROUNDS,
                every=0.3,
            )
        runs = [node.run() for node in swarm.nodes]
        compared = swarm.compare(swarm.export(), context.text())
        codes = swarm.stop()
        expect(set(codes.values()) == {0}, "%s: all stop in good order %r" % (name, codes))
    for node, run in zip(swarm.nodes, runs):
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
    return runs, compared


def test(context):
    runs, merged = train(context, "merging", False)
    mean = sum(model["val_loss"] for model in merged["models"]) / 4
    expect(
        all(run["merges"] >= ROUNDS // 4 for run in runs),
        "every node merged in a quarter of its rounds at least",
    )
    expect(
        all(run["val_loss"] < run["val_loss_start"] - 1 for run in runs),
        "every validation loss fell by 1 nat",
    )
    expect(all(run["members"] == 4 for run in runs), "every node counts four members")
    expect(
        merged["merged_val_loss"] <= 1.01 * mean,
        "the mean model (%.3f) is as good as the nodes (%.3f)" % (merged["merged_val_loss"], mean),
    )
    control, isolated = train(context, "isolated", True)
    expect(all(run["merges"] == 0 for run in control), "isolated nodes never merged")
    expect(
        isolated["replica_distance"] > 1.5 * merged["replica_distance"],
        "isolated nodes drift apart (%.4f) further than merging ones (%.4f)"
        % (isolated["replica_distance"], merged["replica_distance"]),
    )
    mean = sum(model["val_loss"] for model in isolated["models"]) / 4
    say("isolated: mean model %.3f, nodes %.3f" % (isolated["merged_val_loss"], mean))


harness.run(test, 240)
