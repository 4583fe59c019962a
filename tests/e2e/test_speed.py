#!/usr/bin/env python3
"""Bulk transfers between two nodes: both ways intact, refused politely beyond the cap, and never waited for
without end when the peer is gone.
"""

import json
import signal
import subprocess
import time

import harness
from harness import expect, expect_exit, wait_until


def begin(node, *words):
    """A measurement under way, as its own process."""
    command = [node.programs.dunlin, "-d", node.dir, "speed", *words, "--json"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process, seconds=60):
    """Exit code, result (or None) and what it complained about."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, json.loads(out.splitlines()[-1]) if out else None, err


def check_both_ways(node, peer):
    for words in ([], ["--down"]):
        done = node.ask("speed", peer.id, "--bytes", "64M", *words, seconds=120)
        expect(done["intact"] and done["bytes"] == 64 << 20, "64 MiB intact, %s" % done["direction"])
        said = "%.0f Mbit/s by %s" % (done["mbps"], done["path"])
        expect(done["mbps"] > 1 and done["path"] != "none", said)
        longest = max([gap["ms"] for gap in done["gaps"]], default=0)
        expect(done["longest_gap_ms"] == longest and len(done["gaps"]) <= 32, "its pauses: %r" % done["gaps"])
        expect(done["paths"][-1]["path"] == done["path"], "its paths: %r" % done["paths"])
    one = node.ask("speed", peer.id, "--bytes", "1")
    expect(one["intact"] and one["bytes"] == 1, "a single byte")
    plain = node.run_cli("speed", peer.id, "--bytes", "100K")
    expect_exit(plain, 0, "intact", "Mbit/s")


def check_refusals(node, peer):
    expect_exit(node.run_cli("speed", node.id), 1, "own id")
    expect_exit(node.run_cli("speed", peer.id, "--bytes", "5G"), 1, "bytes must be")
    expect_exit(node.run_cli("speed", peer.id, "--bytes", "x"), 2, "64M")
    expect_exit(node.run_cli("speed", "q" * 52, "--timeout", "2"), 4, "no connection", "waiting for")


def check_cap(node, peer):
    """Four slow ones fill the peer's table; the fifth is told so at once, and the four go on."""
    node.ask("limit", "--up", "1M")
    running = [begin(node, peer.id, "--bytes", "256M") for _ in range(4)]
    wait_until("four measurements run", 30, lambda: served(node, peer) == "busy")
    expect(all(process.poll() is None for process in running), "four at once go on")
    for process in running:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    node.ask("limit", "--up", "none")
    wait_until("cancelled ones free their places", 20, lambda: served(node, peer) == "fine")


def served(node, peer):
    done = node.run_cli("speed", peer.id, "--bytes", "1")
    if done.returncode == 0:
        return "fine"
    expect_exit(done, 1, "serves 4 measurements already", "ERR_BUSY")
    return "busy"


def check_many(node, peer):
    """Five at once, both ways mixed: four succeed, or all when the first are over before the fifth comes."""
    running = [begin(node, peer.id, "--bytes", "16M", *["--down"][: i % 2]) for i in range(5)]
    codes = []
    for process in running:
        code, done, err = ended(process)
        codes.append(code)
        if code == 0:
            expect(done["intact"], "one of five is intact: %s" % done["direction"])
        elif "ERR_BUSY" not in err:
            raise harness.Failed("a measurement failed: %s" % err)
    expect(codes.count(0) >= 4, "at least four of five succeed: %r" % codes)


def check_killed(node, peer):
    """The peer dies half-way: an error that says so, within the deadline, and no process that hangs."""
    node.ask("limit", "--up", "1M")
    running = begin(node, peer.id, "--bytes", "256M")
    wait_until("bytes flow", 20, lambda: node.ask("status")["traffic"]["by_class"]["blobs"]["sent"] > 1 << 20)
    peer.kill()
    began = time.monotonic()
    code, _done, err = ended(running, 90)
    expect(code in (1, 4) and "of 268435456 bytes" in err, "exit %d: %s" % (code, err.strip()))
    expect(time.monotonic() - began < 60, "after %.0f s" % (time.monotonic() - began))
    expect(node.ask("status")["id"] == node.id, "the daemon lives")


def test(context):
    with context.swarm() as swarm:
        swarm.start(2)
        node, peer = swarm.nodes
        check_both_ways(node, peer)
        check_refusals(node, peer)
        check_cap(node, peer)
        check_many(node, peer)
        check_killed(node, peer)


harness.run(test, 240)
