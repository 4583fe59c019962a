#!/usr/bin/env python3
"""Two machines of one household find each other by mDNS and talk over their LAN: where there is nothing
else at all, and where public seeds would let them meet outside as well.
"""

import harness
from harness import expect, say, wait_until
from lab_swarm import LabSwarm

PAIR = ("home", "home.2")


def move(swarm, host, other):
    """4 MiB each way; every path that the transfer took must be the LAN."""
    node, peer = swarm[host], swarm[other]
    for words in ([], ["--down"]):
        done = node.ask("speed", peer.id, "--bytes", "4M", *words, seconds=60)
        expect(done["intact"] and done["bytes"] == 4 << 20, "4 MiB intact from %s, %s" % (host, done["path"]))
        expect(done["path"] == "lan", "over the LAN at %.0f Mbit/s" % done["mbps"])


def alone(context):
    """No seed, no internet: the router's own line is dead."""
    with LabSwarm(context, "home home masq hosts=2\n", "alone") as swarm:
        for host in PAIR:
            swarm.add(host)
        for host, other in (PAIR, PAIR[::-1]):
            wait_until(
                "%s finds the other in the DHT" % host,
                40,
                lambda host=host: swarm[host].ask("status")["dht"]["contacts"] > 0,
            )
        say("found by mDNS alone")
        move(swarm, *PAIR)
        move(swarm, *PAIR[::-1])


def with_seeds(context, name, kind, *flags):
    """Outside addresses are known too.  Most routers do not hairpin; where one does, that is a detour."""
    with LabSwarm(context, "public one two\nhome home %s hosts=2\n" % kind, name) as swarm:
        swarm.seed("one")
        swarm.seed("two")
        for host in PAIR:
            swarm.add(host, *flags)
        swarm.wait_joined()
        node, peer = (swarm[host] for host in PAIR)
        node.ask("speed", peer.id, "--bytes", "1", seconds=60)  # they meet, over the LAN at once or later
        for host, other in (PAIR, PAIR[::-1]):
            swarm.wait_path(host, other, ("lan",), 30)
        move(swarm, *PAIR)
        candidates = swarm[PAIR[0]].ask("trace", swarm[PAIR[1]].id)["candidates"]
        active = [one for one in candidates if one["state"] == "active"]
        expect(active and active[0]["addr"].startswith("192.168.1."), "in use: %r" % active)


def test(context):
    alone(context)
    with_seeds(context, "seeds", "masq")
    with_seeds(context, "hairpin", "fullcone hairpin")
    # Access points that drop multicast are common; then the seeds and relays make the two acquainted.
    with_seeds(context, "muted", "masq", "--lan", "no")
    with_seeds(context, "muted-hairpin", "fullcone hairpin", "--lan", "no")


harness.run(test, 200)
