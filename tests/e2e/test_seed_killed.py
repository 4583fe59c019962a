#!/usr/bin/env python3
"""The seed is killed during a run.  The others go on merging, and a newcomer that knows any one of them joins."""

import harness
from harness import SMALL, expect, say, wait_until

OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "1000"]


def test(context):
    with context.swarm(cpu=harness.nodes.cpu_share(5)) as swarm:
        swarm.start(4)
        swarm.train(context.text(), OPTIONS)
        for node in swarm.nodes:
            wait_until("%s merges" % node.name, 60, lambda node=node: node.run()["merges"] >= 2)
        say("four nodes train and merge")

        seed, others = swarm.nodes[0], swarm.nodes[1:]
        seed.kill()
        before = [node.run() for node in others]
        for node, run in zip(others, before):
            after = wait_until(
                "%s goes on without the seed" % node.name,
                60,
                lambda node=node, run=run: (
                    lambda now: now
                    if now["round"] >= run["round"] + 10 and now["merges"] >= run["merges"] + 3
                    else None
                )(node.run()),
                every=0.3,
            )
            say(
                "%s: rounds %d to %d, merges %d to %d"
                % (node.name, run["round"], after["round"], run["merges"], after["merges"])
            )
        expect(not seed.alive() and all(node.alive() for node in others), "only the seed is gone")

        newcomer = swarm.add(seeds=swarm.seed_list("seeds-late", [others[1]]), name="newcomer")
        swarm.join(newcomer, context.text())
        run = swarm.wait_training(newcomer, 60)
        say("the newcomer trains from round %d on" % run["round"])
        wait_until("the newcomer merges", 60, lambda: newcomer.run()["merges"] >= 2, every=0.3)
        swarm_round, own = others[0].run()["round"], newcomer.run()["round"]
        expect(
            abs(swarm_round - own) <= 3,
            "the newcomer's round %d is that of the others (%d)" % (own, swarm_round),
        )
        ids = {member["id"] for member in newcomer.ask("run", "show", swarm.run_id)["members_list"]}
        expect({node.id for node in others} <= ids, "the newcomer knows the other members")


harness.run(test, 200)
