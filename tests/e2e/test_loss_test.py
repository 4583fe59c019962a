#!/usr/bin/env python3
"""A run whose members try every merge on a private batch goes on as others do.

Honest merges pass, what is refused is counted, the rounds after a refusal go on, and a node that was killed
in between comes back with weights as good as before.
"""

import harness
from harness import SMALL, expect, expect_exit, say

OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "400"]


def refused(run):
    return run["skipped_by"].get("loss", 0)


def report(node, run):
    say(
        "%s: round %d, validation %.3f from %.3f, merges %d, skipped %d %r"
        % (
            node.name,
            run["round"],
            run["val_loss"],
            run["val_loss_start"],
            run["merges"],
            run["skipped"],
            run["skipped_by"],
        )
    )


def test(context):
    with context.swarm(cpu=harness.nodes.cpu_share(2)) as swarm:
        swarm.start(2)
        first, second = swarm.nodes
        done = first.run_cli("run", "create", "--data", context.text(), "--strangers", "--loss-test")
        expect_exit(done, 1, "exclude each other")
        swarm.train(context.text(), OPTIONS + ["--loss-test"])
        swarm.wait_connected(1)
        for node in swarm.nodes:
            expect(node.ask("run", "show", node.run()["id"])["config"]["loss_test"], "the run has the option")
        for node in swarm.nodes:
            run = node.wait_run("has merged", 120, lambda run: run["merges"] >= 15)
            report(node, run)
            expect(run["val_loss"] < run["val_loss_start"], "%s learns" % node.name)
            # From fresh weights every second one may be refused by chance; an attack's nearly all are.
            most = refused(run) < run["merges"]
            expect(most, "%s: most merges pass: %r" % (node.name, run["skipped_by"]))
        before = second.run()
        second.ask("checkpoint", "save", swarm.run_id)
        second.kill()
        second.start()
        run = second.wait_run(
            "merges again",
            120,
            lambda run: run["merges"] >= before["merges"] + 3 and run["round"] > before["round"],
        )
        report(second, run)
        expect(run["val_loss"] < before["val_loss_start"], "it has kept what it knew")


harness.run(test, 300)
