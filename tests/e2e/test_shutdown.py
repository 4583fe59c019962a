#!/usr/bin/env python3
"""The command line against a live swarm, and an orderly end.

Every command prints help without a daemon, and valid JSON with one; limits take effect at once; SIGTERM and
'dunlin stop' end a training node within seconds with exit code 0 and an intact checkpoint.
"""

import json
import os
import re
import signal
import time

import harness
from harness import SMALL, expect, expect_exit, say, wait_until

OPTIONS = SMALL + ["--name", "orderly", "--round-ms", "500", "--rounds", "2000"]


def commands(node):
    """Every command's name, from the help."""
    text = node.run_cli("--help").stdout
    listed = text.split("commands:\n")[1].split("\n\n")[0]
    return [re.match(r"  (\S+( \S+)?)  ", line + "  ").group(1) for line in listed.splitlines()]


def check_help(node):
    names = commands(node)
    for name in names:
        done = node.run_cli(*name.split(), "--help")
        if done.returncode != 0 or not done.stdout.startswith("usage: dunlin " + name):
            raise harness.Failed("'dunlin %s --help' failed: %s" % (name, done.stderr))
    expect(len(names) >= 20, "all %d commands print help" % len(names))


def check_json(swarm):
    """Each reading command gives a JSON object, and text without --json."""
    node, peer, run = swarm.nodes[0], swarm.nodes[1], swarm.run_id
    asked = [
        ["status"],
        ["peers"],
        ["peer", peer.id],
        ["ping", peer.id, "--count", "2"],
        ["speed", peer.id, "--bytes", "1M"],
        ["trace", peer.id],
        ["nat"],
        ["run", "list"],
        ["run", "show", run],
        ["dht", "table"],
        ["dht", "find", peer.id],
        ["dht", "providers", run],
        ["dht", "provide", peer.id],
        ["state", "ls", run],
        ["sample", run, "--length", "40", "--seed", "1"],
        ["checkpoint", "save", run],
        ["checkpoint", "ls", run],
        ["limit"],
        ["id"],
        ["version"],
        ["run", "pause", run],
        ["run", "resume", run],
    ]
    for words in asked:
        done = node.run_cli(*words, "--json")
        expect_exit(done, 0)
        for line in done.stdout.splitlines():
            if not isinstance(json.loads(line), dict):
                raise harness.Failed("dunlin %s --json is no object: %s" % (" ".join(words), line))
        plain = node.run_cli(*words)
        expect(plain.returncode == 0 and plain.stdout.strip(), "dunlin %s prints text" % " ".join(words))
    verdict = node.run_cli("doctor", "--json")
    code = json.loads(verdict.stdout)["code"]
    expect(verdict.returncode == code and code in (0, 1), "the doctor's exit code is its verdict: %d" % code)
    expect(node.ask("trace", peer.id)["log"], "the trace knows how the peer was reached")
    record = node.ask("state", "ls", run)["records"][0]
    got = node.ask("state", "get", run, record["author"], str(record["slot"]))
    expect(got["seq"] >= record["seq"] and got["value"], "a listed record can be read")
    expect(node.ask("peer", peer.id[:6])["id"] == peer.id, "the beginning of an id is enough")


def check_wrong_ids(node, run):
    expect_exit(node.run_cli("peer", "aaaaaaaa"), 1, "aaaaaaaa")
    expect_exit(node.run_cli("run", "show", "zzzzzzzz"), 1, "zzzzzzzz")
    expect_exit(node.run_cli("run", "show", run[:2]), 1)
    expect_exit(node.run_cli("ping", "not-an-id"), 1)


def check_sample(node, run):
    words = ["sample", run, "--prompt", "The ", "--length", "64", "--seed", "7"]
    first = node.ask(*words)["text"]
    expect(len(first) >= 32, "the model writes: %r" % first)


def check_limits(node):
    node.ask("limit", "--cpu", "20%", "--up", "2M")
    limits = node.ask("status")["limits"]
    expect(limits == {"up_bytes_s": 2000000, "cpu_pct": 20}, "limits are taken over: %r" % limits)
    expect_exit(node.run_cli("limit", "--cpu", "0"), 2, "1 to 100")
    node.ask("limit", "--up", "none")
    expect(node.ask("status")["limits"]["up_bytes_s"] == 0, "the upload cap is lifted")


def check_export(context, swarm):
    path = os.path.join(context.dir, "model.safetensors")
    node = swarm.nodes[0]
    done = node.ask("checkpoint", "export", swarm.run_id, path)
    expect(os.path.getsize(path) == done["bytes"], "the export has the %d bytes it says" % done["bytes"])
    expect_exit(node.run_cli("checkpoint", "verify", path), 0)
    with open(path, "r+b") as file:
        file.truncate(done["bytes"] - 4)
    expect_exit(node.run_cli("checkpoint", "verify", path), 1, path)


def test(context):
    with context.swarm(cpu=harness.nodes.cpu_share(2)) as swarm:
        swarm.start(2)
        check_help(swarm.nodes[0])
        swarm.train(context.text(), OPTIONS)
        swarm.nodes[0].wait_run("merges", 60, lambda run: run["merges"] >= 2)
        check_json(swarm)
        check_wrong_ids(swarm.nodes[0], swarm.run_id)
        check_sample(swarm.nodes[0], swarm.run_id)
        check_limits(swarm.nodes[0])
        check_export(context, swarm)

        first, second = swarm.nodes
        round_before = first.run()["round"]
        began = time.monotonic()
        expect(first.stop() == 0, "SIGTERM: exit code 0")
        say("ended after %.1f s" % (time.monotonic() - began))
        second.ask("stop")
        for _ in range(50):
            second.signal(signal.SIGTERM)  # impatience must not kill it half-way
        wait_until("the other ends after 'dunlin stop'", 20, lambda: not second.alive())
        expect(second.process.returncode == 0, "dunlin stop: exit code 0")
        expect_exit(second.run_cli("status"), 3, "no daemon", "dunlind")

        first.start()
        checkpoints = first.ask("checkpoint", "ls", swarm.run_id)["checkpoints"]
        intact = [one["round"] for one in checkpoints if one["intact"]]
        saved = max(intact, default=-1)
        expect(saved >= round_before - 1, "the shutdown saved round %d of %d" % (saved, round_before))
        run = first.wait_run("trains again", 30, lambda run: run["state"] == "training")
        expect(run["round"] >= saved, "it goes on from round %d" % saved)
        first.ask("run", "leave", swarm.run_id)
        wait_until("the run is gone", 20, lambda: (first.run() or {"state": "left"})["state"] == "left")


harness.run(test, 200)
