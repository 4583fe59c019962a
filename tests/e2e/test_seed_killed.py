#!/usr/bin/env python3
"""The seed is killed during a run: the others go on merging, and a newcomer that knows one of them joins."""

import harness
from harness import SMALL, expect, say

OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "1000"]


def goes_on(node, before):
    """The node passes rounds and merges, counted from `before`."""
    after = node.wait_run(
        "goes on without the seed",
        60,
        lambda run: run["round"] >= before["round"] + 10 and run["merges"] >= before["merges"] + 3,
    )
    words = (node.name, before["round"], after["round"], before["merges"], after["merges"])
    say("%s: rounds %d to %d, merges %d to %d" % words)


def test(context):
    with context.swarm(cpu=harness.nodes.cpu_share(5)) as swarm:
        swarm.start(4)
        swarm.train(context.text(), OPTIONS)
        for node in swarm.nodes:
            node.wait_run("merges", 60, lambda run: run["merges"] >= 2)
        say("four nodes train and merge")

        seed, others = swarm.nodes[0], swarm.nodes[1:]
        seed.kill()
        before = [node.run() for node in others]
        for node, run in zip(others, before):
            goes_on(node, run)
        expect(not seed.alive() and all(node.alive() for node in others), "only the seed is gone")

        newcomer = swarm.add(seeds=swarm.seed_list("seeds-late", [others[1]]), name="newcomer")
        swarm.join(newcomer, context.text())
        run = swarm.wait_training(newcomer, 60)
        say("the newcomer trains from round %d on" % run["round"])
        newcomer.wait_run("merges", 60, lambda run: run["merges"] >= 2)
        round_there, own = others[0].run()["round"], newcomer.run()["round"]
        expect(abs(round_there - own) <= 3, "its round %d is that of the others (%d)" % (own, round_there))
        members = newcomer.ask("run", "show", swarm.run_id)["members_list"]
        known = {member["id"] for member in members}
        expect({node.id for node in others} <= known, "the newcomer knows the other members")


harness.run(test, 200)
