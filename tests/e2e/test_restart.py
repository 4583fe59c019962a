#!/usr/bin/env python3
"""A node killed with SIGKILL resumes from its own disk; so does a swarm that was killed all at once."""

import harness
from harness import SMALL, expect, say, wait_until

OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "2000"]


def resumed(node, saved, seconds=60):
    """The node trains again, from what it had saved or later."""
    run = wait_until(
        "%s trains again" % node.name,
        seconds,
        lambda: (
            lambda now: now
            if now and now["state"] == "training" and now["tokens"] > saved["tokens"]
            else None
        )(node.run(check=False)),
        every=0.2,
    )
    expect(
        run["round"] >= saved["round"],
        "%s: round %d after the restart, %d saved" % (node.name, run["round"], saved["round"]),
    )
    expect(
        run["val_loss_start"] == saved["val_loss_start"], "%s: it remembers the loss at the start" % node.name
    )
    return run


def test(context):
    with context.swarm(cpu=harness.nodes.cpu_share(3)) as swarm:
        swarm.start(3)
        swarm.train(context.text(), OPTIONS)
        victim = swarm.nodes[1]
        wait_until("the victim merges", 60, lambda: victim.run()["merges"] >= 3)
        victim.ask("checkpoint", "save", swarm.run_id)
        saved, identity = victim.run(), victim.id
        checkpoints = victim.ask("checkpoint", "ls", swarm.run_id)["checkpoints"]
        expect(any(one["intact"] for one in checkpoints), "an intact checkpoint lies on the disk")
        saved["round"] = max(one["round"] for one in checkpoints if one["intact"])
        saved["tokens"] = 0 if saved["round"] == 0 else saved["tokens"] // 2
        victim.kill()
        say("one node killed")
        victim.start()
        expect(victim.id == identity, "the same id after the restart")
        merges = resumed(victim, saved)["merges"]
        wait_until("it merges again", 60, lambda: victim.run()["merges"] >= merges + 2, every=0.3)

        saved = []
        for node in swarm.nodes:
            node.ask("checkpoint", "save", swarm.run_id)
            run = node.run()
            run["round"] = max(
                one["round"] for one in node.ask("checkpoint", "ls", swarm.run_id)["checkpoints"]
            )
            run["tokens"] //= 2
            saved.append(run)
        for node in swarm.nodes:
            node.kill()
        say("all nodes killed")
        for node in swarm.nodes:
            node.start()
        for node, run in zip(swarm.nodes, saved):
            resumed(node, run)
        merges = [node.run()["merges"] for node in swarm.nodes]
        for node, count in zip(swarm.nodes, merges):
            wait_until(
                "%s merges again" % node.name,
                60,
                lambda node=node, count=count: (node.run()["merges"] >= count + 2),
                every=0.3,
            )
        say("the whole swarm goes on")


harness.run(test, 200)
