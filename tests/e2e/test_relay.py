#!/usr/bin/env python3
"""What a relay's owner has decided holds, and those that it is decided about are told.

Two homes that can only be relayed: the rate of one is kept, the end of its volume is named wherever a person
may look, a relay that is switched off is passed over, and one that dies is replaced by another.
"""

import json
import subprocess
import time

import harness
from harness import Failed, expect, say, wait_until
from lab_swarm import LabSwarm

PAIR = ("alice", "bob")
HOMES = "home alice symrand\nhome bob symrand\n"
RATE = 500000
VOLUME = 4000000
WINDOW_S = 6
USED_UP = "the volume of the period is used up"
OFF = "the relay is switched off"


def begin(node, *words):
    """A transfer under way, as its own process."""
    command = [node.programs.dunlin, "-d", node.dir, "speed", *words, "--json"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def bytes_from(relay, node):
    """Bytes that the relay has forwarded of this node's."""
    for one in relay.ask("nat")["relaying"]["list"]:
        if one["id"] == node.id:
            return one["bytes_from"]
    return 0


def measured(relay, node):
    """(least, most) rate at which the relay may have forwarded, whatever time asking took."""
    before_ask = time.monotonic()
    first = bytes_from(relay, node)
    after_ask = time.monotonic()
    wait_until("a window passes", WINDOW_S + 20, lambda: time.monotonic() >= after_ask + WINDOW_S)
    before_last = time.monotonic()
    moved = bytes_from(relay, node) - first
    return moved / (time.monotonic() - before_ask), moved / (before_last - after_ask)


def keeps_rate(context):
    with LabSwarm(context, "public relay\n" + HOMES, "rate") as swarm:
        relay = swarm.seed("relay", "--relay-client", str(RATE))
        alice, bob = (swarm.add(host) for host in PAIR)
        swarm.wait_joined()
        running = begin(alice, bob.id, "--bytes", "32M")
        try:
            wait_until("bytes are relayed", 60, lambda: bytes_from(relay, alice) > RATE)
            windows = [measured(relay, alice) for _ in range(2)]
        finally:
            running.kill()
            running.communicate()
        shares = [(least / RATE, most / RATE) for least, most in windows]
        said = ", ".join("%.3f to %.3f" % pair for pair in shares)
        expect(all(least <= 1.05 for least, _ in shares), "never 5 %% over the grant: %s of it" % said)
        expect(any(most >= 0.85 for _, most in shares), "at least 85 % of it are used")
        row = [one for one in alice.ask("nat")["relays"] if one["id"] == relay.id][0]
        expect(row["rate_bytes_s"] == RATE, "the client knows its rate: %d bytes a second" % RATE)


def ends_with_volume(context):
    with LabSwarm(context, "public relay\n" + HOMES, "volume") as swarm:
        relay = swarm.seed("relay", "--relay-volume", str(VOLUME))
        alice, bob = (swarm.add(host) for host in PAIR)
        swarm.wait_joined()
        running = begin(alice, bob.id, "--bytes", "16M")
        try:
            for node, peer in ((alice, bob), (bob, alice)):
                told_everywhere(node, peer, relay)
            forwarded = bytes_from(relay, alice) + bytes_from(relay, bob)
            share = forwarded / VOLUME
            expect(0.95 <= share <= 1.05, "the relay has passed on %.3f of the volume" % share)
            expect(running.poll() is None, "the transfer has paused")
        finally:
            running.kill()
            running.communicate()


def goes_on_elsewhere(context):
    """The volume of one relay is less than the transfer, that of two is more."""
    with LabSwarm(context, "public one two\n" + HOMES, "elsewhere") as swarm:
        relays = [swarm.seed(host, "--relay-volume", str(VOLUME)) for host in ("one", "two")]
        alice, bob = (swarm.add(host) for host in PAIR)
        swarm.wait_joined()
        for node in (alice, bob):
            what = "%s holds a place at both relays" % node.name
            wait_until(what, 60, lambda n=node: all((place(n, r) or {}).get("held") for r in relays))
        done = alice.ask("speed", bob.id, "--bytes", str(VOLUME * 3 // 2), seconds=120)
        shares = [bytes_from(relay, alice) / VOLUME for relay in relays]
        expect(done["intact"], "%d bytes are intact" % done["bytes"])
        expect(min(shares) > 0.2, "both relays carried it: %.2f and %.2f of a volume" % tuple(shares))
        say("longest pause %d ms" % done["longest_gap_ms"])


def told_everywhere(node, peer, relay):
    """The end of the volume in `dunlin nat`, `dunlin trace` and the log."""

    def row():
        rows = [one for one in node.ask("nat")["relays"] if one["id"] == relay.id]
        return rows[0] if rows and rows[0]["refused"] else None

    found = wait_until("%s is told why" % node.name, 60, row)
    expect(USED_UP in found["refused"], "%s: dunlin nat says why" % node.name)
    expect(USED_UP in node.run_cli("nat").stdout, "%s: to people too" % node.name)
    texts = [step["text"] for step in node.ask("trace", peer.id)["log"]]
    expect(any(USED_UP in text for text in texts), "%s: dunlin trace says why" % node.name)
    with open(node.log, encoding="utf-8") as file:
        expect(USED_UP in file.read(), "%s: the log says why" % node.name)


def relay_of(nodes, sender):
    """Which of these relays has just passed on bytes of the sender's."""
    before = [bytes_from(node, sender) for node in nodes]

    def grown():
        for node, was in zip(nodes, before):
            if node.alive() and bytes_from(node, sender) > was + 100000:
                return node
        return None

    return wait_until("bytes go through a relay", 60, grown)


def place(node, relay):
    """What `dunlin nat` says of this relay, or None."""
    for one in node.ask("nat")["relays"]:
        if one["id"] == relay.id:
            return one
    return None


def closed_is_passed_over(context):
    with LabSwarm(context, "public closed open\n" + HOMES, "closed") as swarm:
        closed, other = swarm.seed("closed", "--relay", "no"), swarm.seed("open")
        alice, bob = (swarm.add(host) for host in PAIR)
        swarm.wait_joined()
        for node in (alice, bob):
            wait_until("%s holds a place" % node.name, 60, lambda n=node: (place(n, other) or {}).get("held"))
            refused = wait_until(
                "%s is refused" % node.name, 60, lambda n=node: (place(n, closed) or {}).get("refused")
            )
            expect(OFF in refused, "%s: %s" % (node.name, refused))
            expect(OFF in node.run_cli("nat").stdout, "%s: to people too" % node.name)
        done = alice.ask("speed", bob.id, "--bytes", "1M", seconds=60)
        expect(done["intact"] and done["path"] == "relayed", "1 MiB intact by the other one")


def dead_is_replaced(context):
    """The relay in use dies under way, without a word."""
    with LabSwarm(context, "public one two\n" + HOMES, "spare") as swarm:
        relays = [swarm.seed("one", "--relay-client", "2M"), swarm.seed("two", "--relay-client", "2M")]
        alice, bob = (swarm.add(host) for host in PAIR)
        swarm.wait_joined()
        for node in (alice, bob):
            what = "%s holds a place at both relays" % node.name
            wait_until(what, 60, lambda n=node: all((place(n, r) or {}).get("held") for r in relays))
        running = begin(alice, bob.id, "--bytes", "30M")
        try:
            used = relay_of(relays, alice)
            used.kill()
            died = time.monotonic()
            relay_of([node for node in relays if node is not used], alice)
            say("the other relay carries on %.1f s after %s died" % (time.monotonic() - died, used.name))
            out, err = running.communicate(timeout=120)
        finally:
            running.kill()
        if running.returncode != 0:
            raise Failed("the transfer ended with %d: %s" % (running.returncode, err))
        done = json.loads(out.splitlines()[-1])
        expect(done["intact"] and done["bytes"] == 30 << 20, "30 MiB are intact all the same")
        expect(done["longest_gap_ms"] < 20000, "longest pause %d ms" % done["longest_gap_ms"])


def test(context):
    keeps_rate(context)
    ends_with_volume(context)
    goes_on_elsewhere(context)
    closed_is_passed_over(context)
    dead_is_replaced(context)


harness.run(test, 300)
