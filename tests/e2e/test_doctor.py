#!/usr/bin/env python3
"""What a person is told about the network: alone, with a seed that is dead, and with a peer.

The doctor's exit code is its verdict, and the trace says how a peer was found and reached.  With root,
homes of every sort in the NAT laboratory get the diagnosis and the one remedy that are theirs.
"""

import json
import shutil
import time

import harness
from harness import Failed, Skip, expect, say
from lab_swarm import LabSwarm, space

HOMES = """
public one two three
home keeps masq
home varies symrand
home forwards symrand
home opens upnp
home blocks udpblock
carrier provider symrand
home twice masq behind=provider portmap=upnp
home guarded pubfw
home six fw6
home late masq
"""
# What a person did in the menu of the router: port 4242 leads to the first host.
FORWARD = """
table ip byhand {
  chain pre {
    type nat hook prerouting priority -110;
    iifname wan0 udp dport 4242 dnat to 192.168.1.10;
  }
}
"""
# host: (exit code, what is said, beginning of the remedy).  The last is left out without faketime.
DIAGNOSES = {
    "keeps": (0, "holes can be punched", "Your router does not open ports"),
    "varies": (1, "unpredictable port", "Your router does not open ports"),
    "forwards": (0, "strangers reach this node", None),
    "opens": (0, "opened a port for us by UPnP, and it works", None),
    "blocks": (1, "UDP is blocked", "UDP is blocked"),
    "twice": (1, "two NATs in a row", "Two NATs in a row"),
    "guarded": (0, "a firewall keeps strangers out", "A firewall lets nobody in: open UDP port 4242"),
    "six": (1, "IPv6: the address is public, but a firewall", "Your router does not open ports"),
    "late": (1, "3600 s behind", "Your clock is off"),
}
DIAGNOSIS_SECONDS = 120


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


def wrong_in(node, code, words, remedy):
    """What is not yet as it should be in the doctor's answer, or None."""
    done = node.run_cli("doctor", "--json")
    said = json.loads(done.stdout)
    text = "\n".join(line["text"] for line in said["lines"])
    fits = done.returncode == code and words in text
    if remedy is None:
        fits = fits and said["remedy"] is None
    else:
        fits = fits and (said["remedy"] or "").startswith(remedy)
    return None if fits else "exit %d\n%s\nremedy: %s" % (done.returncode, text, said["remedy"])


def diagnose_homes(context):
    with LabSwarm(context, HOMES, "homes") as swarm:
        space.nft(swarm.lab.space("forwards.router"), FORWARD)
        for host in ("one", "two", "three"):
            swarm.seed(host)
        waiting = dict(DIAGNOSES)
        if not shutil.which("faketime"):
            del waiting["late"]
        for host in waiting:
            swarm.add(host, wrap=["faketime", "-f", "-1h"] if host == "late" else [])
        deadline = time.monotonic() + DIAGNOSIS_SECONDS
        while waiting:
            for host, wanted in list(waiting.items()):
                wrong = wrong_in(swarm[host], *wanted)
                if wrong is None:
                    expect(True, "%s: '%s', remedy: %s" % (host, wanted[1], wanted[2]))
                    del waiting[host]
                elif time.monotonic() > deadline:
                    raise Failed("%s: not %r but %s" % (host, wanted, wrong))


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
    try:
        diagnose_homes(context)
    except Skip as reason:
        say("no laboratory on this machine: %s" % reason)


harness.run(test, 300)
