#!/usr/bin/env python3
"""At the end of a run its members' models become one.

Four nodes come to the planned end, where a hypercube merges them; three others are ended early by the
creator, which no other member can do, and one of them is killed in the middle.  In both swarms the exported
weights must agree within the tolerance, and the merged model must be no worse than the worst replica was.
Who joins afterwards gets the merged model, and a restart changes nothing.
"""
import array
import json
import os
import struct
import subprocess
import sys

import harness
from harness import expect, expect_exit, say

TOLERANCE = 1e-3


def weights(path):
    """All values of a .safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    values = array.array("f")
    for name in sorted(key for key in header if key != "__metadata__"):
        begin, end = header[name]["data_offsets"]
        values.frombytes(data[begin:end])
    if sys.byteorder == "big":
        values.byteswap()
    return values


def distance(a, b):
    """|b - a| / |a|."""
    apart = sum((x - y) ** 2 for x, y in zip(a, b))
    return (apart / sum(x * x for x in a)) ** 0.5


def exports(swarm, name):
    files = []
    for node in swarm.nodes:
        files.append(os.path.join(swarm.directory, "%s-%s.safetensors" % (node.name, name)))
        node.ask("checkpoint", "export", swarm.run_id, files[-1])
    return [weights(file) for file in files]


def largest(models):
    return max(distance(models[0], model) for model in models[1:])


def finished(node, seconds=60):
    return node.wait_run(
        "has finished",
        seconds,
        lambda run: run["state"] == "finished" and run["finish"]["evaluated"],
    )


def check_merged(swarm, runs):
    """One model on all nodes, as near as they say, and no worse than the worst of the replicas was."""
    models = exports(swarm, "merged")
    apart = largest(models)
    for run in runs:
        say("%(round)d rounds, %(val_loss).4f" % run + ", finish %r" % run["finish"])
        expect(run["finish"]["outcome"] == "merged", "%d members merged" % run["finish"]["members"])
        expect(run["finish"]["spread"] < TOLERANCE, "spread %.2g" % run["finish"]["spread"])
    expect(apart < TOLERANCE, "the exported weights are %.2g apart" % apart)
    before = [run["finish"]["val_loss_before"] for run in runs]
    after = [run["val_loss"] for run in runs]
    expect(max(after) <= max(before), "loss %.4f, worst replica before %.4f" % (max(after), max(before)))
    return models


def planned_end(context, text):
    with context.swarm("four", cpu=harness.nodes.cpu_share(4)) as swarm:
        swarm.start(4)
        options = [*harness.SMALL, "--round-ms", "200", "--rounds", "40", "--seed", "5", "--lr", "0.01"]
        swarm.train(text, options)
        seen = swarm.nodes[1].wait_run("is finishing", 60, lambda run: run["state"] != "training")
        expect(seen["state"] in ("finishing", "finished"), "the planned end: " + seen["state"])
        runs = [finished(node) for node in swarm.nodes]
        spread = max(run["finish"]["spread_before"] for run in runs)
        expect(spread > 3 * TOLERANCE, "the replicas were %.2g apart" % spread)
        expect(all(run["finish"]["members"] == 4 for run in runs), "all four know of each other")
        models = check_merged(swarm, runs)
        late = swarm.add()
        swarm.join(late, text)
        run = finished(late)
        expect(run["finish"]["outcome"] == "fetched", "who joins later fetches the result")
        path = os.path.join(swarm.directory, "late.safetensors")
        late.ask("checkpoint", "export", swarm.run_id, path)
        apart = distance(models[0], weights(path))
        expect(apart < TOLERANCE, "and has it, %.2g from the others" % apart)


def restarted(swarm, node):
    """A finished run stays finished, with the same weights, also after a kill."""
    node.ask("checkpoint", "save", swarm.run_id)
    path = os.path.join(swarm.directory, "before.safetensors")
    node.ask("checkpoint", "export", swarm.run_id, path)
    before = node.run()["finish"]
    node.kill()
    node.start()
    run = finished(node)
    same = ("outcome", "members", "cycles", "spread", "last_round")
    expect(all(run["finish"][key] == before[key] for key in same), "a restart keeps what was reached")
    node.ask("checkpoint", "export", swarm.run_id, path + ".again")
    apart = distance(weights(path), weights(path + ".again"))
    expect(apart < 1e-6, "and the weights: %.2g" % apart)


def early_end(context, text):
    with context.swarm("three", cpu=harness.nodes.cpu_share(3)) as swarm:
        swarm.start(3)
        options = [*harness.SMALL, "--round-ms", "500", "--rounds", "5000", "--seed", "6", "--lr", "0.01"]
        swarm.train(text, options)
        first, second, third = swarm.nodes
        for node in swarm.nodes:
            node.wait_run("merges", 60, lambda run: run["merges"] >= 6)
        expect_exit(second.run_cli("run", "finish", swarm.run_id), 1, "creator", first.id)
        expect(second.run()["state"] == "training", "who may not end it changes nothing")
        waiting = subprocess.Popen(
            [first.programs.dunlin, "-d", first.dir, "run", "finish", swarm.run_id, "--after", "3"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for node in swarm.nodes:
            node.wait_run("hears of the end", 20, lambda run: run["rounds_total"] < 5000)
        ends = {node.run()["rounds_total"] for node in swarm.nodes}
        expect(len(ends) == 1, "all know the last round: %r" % ends)
        third.wait_run(
            "is finishing", 20, lambda run: run["state"] == "finishing" and run["finish"]["cycles"] > 0, 0.05
        )
        third.ask("checkpoint", "save", swarm.run_id)
        third.kill()
        third.start()
        run = third.wait_run("is back", 30, lambda run: run["state"] in ("finishing", "finished"))
        expect(run["rounds_total"] in ends, "the chain on its disk says where to go on")
        runs = [finished(node) for node in swarm.nodes]
        say("the one that was killed: %r" % runs[2]["finish"])
        said, told = waiting.communicate(timeout=30)
        expect(waiting.returncode == 0 and "merged model" in said and "cycle" in told, "the creator is told")
        again = first.ask("run", "finish", swarm.run_id)
        expect(again["state"] == "finished", "asked again it only reports")
        for run in runs[:2]:
            expect(run["finish"]["outcome"] == "merged", "those that were there merged")
        models = exports(swarm, "three")
        expect(largest(models) < TOLERANCE, "the exported weights are %.2g apart" % largest(models))
        restarted(swarm, second)


def test(context):
    text = context.text()
    planned_end(context, text)
    early_end(context, text)


harness.run(test, 180)
