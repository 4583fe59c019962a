#!/usr/bin/env python3
"""What a person is told about the network: alone, with a seed that is dead, and with a peer.

The doctor's exit code is its verdict, and the trace says how a peer was found and reached.
"""

import json

import harness
from harness import expect


def verdict(node, code, *words):
    """The doctor's answer, as JSON and as text: this exit code, these words."""
    done = node.run_cli("doctor", "--json")
    plain = node.run_cli("doctor")
    said = json.loads(done.stdout)
    expect(done.returncode == plain.returncode == said["code"], "exit code %d is the verdict" % said["code"])
    expect(said["code"] in code, "verdict '%s': %s" % (said["verdict"], said["lines"][0]["text"]))
    for word in words:
        expect(word.lower() in plain.stdout.lower(), "the doctor says '%s'" % word)
    for line in said["lines"]:
        expect(line["text"] in plain.stdout, "told to people as well: %s" % line["text"])


def check_trace(node, peer):
    trace = node.ask("trace", peer.id)
    parts = {step["part"] for step in trace["log"]}
    expect(trace["connected"] and trace["path"] != "none", "connected by %s" % trace["path"])
    expect({"path", "quic"} <= parts, "its log tells of %s" % ", ".join(sorted(parts)))
    ages = [step["age_s"] for step in trace["log"]]
    expect(ages == sorted(ages, reverse=True), "%d steps in order of time" % len(ages))
    active = [one for one in trace["candidates"] if one["state"] == "active"]
    expect(len(active) == 1 and active[0]["kind"] == trace["path"], "one address is in use: %r" % active)
    row = [one for one in node.ask("peers")["peers"] if one["id"] == peer.id][0]
    expect(row["path"] == trace["path"] and row["rtt_ms"] > 0, "the table of peers agrees")
    harness.expect_exit(node.run_cli("trace", "q" * 52), 1, "nothing was tried")


def check_nat(node):
    nat = node.ask("nat")
    expect(nat["port"] == node.port, "it listens on %d" % nat["port"])
    expect([one["family"] for one in nat["families"]] == ["ipv4", "ipv6"], "both families are told of")
    for key in ("portmap", "relaying", "tcp", "punching"):
        expect(isinstance(nat[key], dict), "%s: %r" % (key, nat[key]))
    expect(isinstance(nat["relays"], list) and isinstance(nat["published"], list), "relays and addresses")


def test(context):
    with context.swarm("alone") as alone:
        lone = alone.add()
        verdict(lone, (2,), "no peers", "--seeds")
        check_nat(lone)
        seeds = alone.seed_list("dead", [lone])
        lone.kill()
        dead = alone.add(seeds=seeds, name="orphan")
        verdict(dead, (2,), "no seed")
    with context.swarm("pair") as swarm:
        swarm.start(2)
        node, peer = swarm.nodes
        node.ask("speed", peer.id, "--bytes", "1M")
        verdict(node, (0, 1), "connected peers: 1")
        check_trace(node, peer)
        check_trace(peer, node)
        check_nat(node)


harness.run(test, 150)
