#!/usr/bin/env python3
"""A node killed with SIGKILL resumes from its own disk; so does a swarm that was killed all at once."""

import harness
from harness import SMALL, expect, say

OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "2000"]


def save(node, run_id):
    """Makes the node write a checkpoint; returns its run as it was just before."""
    run = node.run()
    node.ask("checkpoint", "save", run_id)
    checkpoints = node.ask("checkpoint", "ls", run_id)["checkpoints"]
    saved = max([one["round"] for one in checkpoints if one["intact"]], default=-1)
    expect(saved >= run["round"], "%s saved round %d" % (node.name, saved))
    return dict(run, round=saved)


def resumes(node, saved):
    """The node trains again, from what it had saved or later."""
    run = node.wait_run(
        "trains again", 60, lambda run: run["state"] == "training" and run["tokens"] > saved["tokens"]
    )
    words = (node.name, run["round"], saved["round"])
    expect(run["round"] >= saved["round"], "%s: round %d after the restart, %d saved" % words)
    same = run["val_loss_start"] == saved["val_loss_start"]
    expect(same, "%s remembers the loss at the start" % node.name)
    return run


def merges_again(node, run):
    node.wait_run("merges again", 60, lambda now: now["merges"] >= run["merges"] + 2)


def test(context):
    with context.swarm(cpu=harness.nodes.cpu_share(3)) as swarm:
        swarm.start(3)
        swarm.train(context.text(), OPTIONS)
        victim = swarm.nodes[1]
        victim.wait_run("merges", 60, lambda run: run["merges"] >= 3)
        saved, identity = save(victim, swarm.run_id), victim.id
        victim.kill()
        say("one node killed")
        victim.start()
        expect(victim.id == identity, "the same id after the restart")
        merges_again(victim, resumes(victim, saved))

        saved = [save(node, swarm.run_id) for node in swarm.nodes]
        for node in swarm.nodes:
            node.kill()
        say("all nodes killed")
        for node in swarm.nodes:
            node.start()
        runs = [resumes(node, run) for node, run in zip(swarm.nodes, saved)]
        for node, run in zip(swarm.nodes, runs):
            merges_again(node, run)
        say("the whole swarm goes on")


harness.run(test, 200)
