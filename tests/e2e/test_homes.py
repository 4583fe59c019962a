#!/usr/bin/env python3
"""Two people at home train one model together: each behind a router of the usual kind, one public seed.

They meet through the seed, punch a hole, and go on without it.  Behind routers that no hole can be punched
through they train over the seed, which relays for them.
"""

import harness
from harness import SMALL, expect, say
from lab_swarm import LabSwarm

OPTIONS = SMALL + ["--round-ms", "500", "--rounds", "100000"]
HOMES = "public seed\nhome alice %s\nhome bob %s\n"
PAIR = ("alice", "bob")
# Nobody measures speed here, and others may need the machine.
CALM = ("--cpu", "30")


def begin(swarm, text):
    """One creates a run and the other joins; returns its id once both train."""
    swarm.seed("seed", *CALM)
    for host in PAIR:
        swarm.add(host, *CALM)
    swarm.wait_joined()
    run = swarm["alice"].ask("run", "create", "--data", text, *OPTIONS)["id"]
    swarm["bob"].ask("run", "join", run, "--data", text)
    for host in PAIR:
        swarm[host].wait_run("trains", 60, lambda run: run["state"] == "training" and run["tokens"] > 0)
    say("both train")
    return run


def check_merging(swarm, run_id, merges, seconds):
    """Both merge with each other, learn, and know each other as members."""
    for host in PAIR:
        run = swarm[host].wait_run(
            "merges %d times and learns" % merges,
            seconds,
            lambda run: run["merges"] >= merges and run["val_loss"] < run["val_loss_start"] - 0.5,
        )
        words = (host, run["round"], run["merges"], run["val_loss_start"], run["val_loss"])
        say("%s: round %d, merges %d, validation loss %.2f to %.2f" % words)
        members = swarm[host].ask("run", "show", run_id)["members_list"]
        wanted = {swarm[name].id for name in PAIR}
        expect(wanted <= {member["id"] for member in members}, "%s sees both members" % host)


def goes_on(swarm, rounds, merges, seconds):
    before = {host: swarm[host].run() for host in PAIR}
    for host in PAIR:
        was = before[host]
        now = swarm[host].wait_run(
            "goes on",
            seconds,
            lambda run, was=was: run["round"] >= was["round"] + rounds
            and run["merges"] >= was["merges"] + merges,
        )
        words = (host, was["round"], now["round"], was["merges"], now["merges"])
        say("%s: rounds %d to %d, merges %d to %d" % words)


def direct(context):
    with LabSwarm(context, HOMES % ("masq", "masq"), "direct") as swarm:
        run_id = begin(swarm, context.text())
        for host, peer in (PAIR, PAIR[::-1]):
            swarm.wait_path(host, peer, ("punched", "direct4"))
        expect(True, "a hole is punched through both routers")
        check_merging(swarm, run_id, 5, 90)
        swarm["seed"].kill()
        say("the seed is gone")
        goes_on(swarm, 20, 6, 90)
        for host, peer in (PAIR, PAIR[::-1]):
            path = swarm[host].path_to(swarm[peer].id)[0]
            expect(path in ("punched", "direct4"), "%s still reaches %s by %s" % (host, peer, path))


def relayed(context):
    with LabSwarm(context, HOMES % ("symrand", "symrand"), "relayed") as swarm:
        run_id = begin(swarm, context.text())
        for host, peer in (PAIR, PAIR[::-1]):
            swarm.wait_path(host, peer, ("relayed",))
        check_merging(swarm, run_id, 5, 90)
        relaying = swarm["seed"].ask("nat")["relaying"]
        expect(relaying["bytes"] > 100000, "the seed has relayed %d bytes" % relaying["bytes"])


def test(context):
    direct(context)
    relayed(context)


harness.run(test, 300)
