#!/usr/bin/env python3
"""The NAT laboratory is what it claims to be and leaves nothing; its nodes find all paths there are."""

import json
import os
import signal
import subprocess
import sys
import time

import harness
from harness import Failed, Skip, expect, say

NETLAB = os.path.join(harness.ROOT, "tools", "netlab")
SKIP = 77


def netlab(*words, seconds=60):
    """Runs tools/netlab in a lab of this test's own."""
    return subprocess.run(
        [sys.executable, NETLAB, "--name", "e2e-%d" % os.getpid(), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def must(done):
    if done.returncode == SKIP:
        raise Skip(done.stderr.strip())
    if done.returncode != 0:
        raise Failed("exit %d of %s\n%s%s" % (done.returncode, done.args, done.stdout, done.stderr))
    return done.stdout


def remains():
    """Namespaces of this test's lab."""
    names = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    return [name for name in names if name.startswith("netlab-e2e-%d_" % os.getpid())]


def leaves_nothing(context):
    """After down, a scenario that cannot be built, a signal, and SIGKILL followed by down."""
    must(netlab("up", "two-homes"))
    expect(
        must(netlab("exec", "alice", "ip", "-4", "-br", "addr")).find("192.168.1.10") > 0,
        "alice has an address",
    )
    must(netlab("down"))
    expect(not remains(), "down leaves no namespace")
    wrong = os.path.join(context.dir, "wrong.lab")
    with open(wrong, "w", encoding="ascii") as file:
        file.write("public one\nhome two masq\nlink two rate=1k delay=1h\n")
    done = netlab("up", wrong)
    expect(done.returncode == 1 and "wrong.lab:3" in done.stderr, "a wrong line is named")
    expect(not remains(), "a wrong scenario leaves no namespace")
    for number in (signal.SIGTERM, signal.SIGKILL):
        interrupt(number)
        if number == signal.SIGKILL:
            must(netlab("down"))
        expect(not remains(), "nothing is left after %s" % signal.Signals(number).name)


def interrupt(number):
    """A signal while the lab comes up, as soon as its first namespace is there."""
    words = [sys.executable, NETLAB, "--name", "e2e-%d" % os.getpid(), "up", "every-kind"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    harness.wait_until(
        "the first namespace", 20, lambda: remains() or process.poll() is not None, every=0.002
    )
    process.send_signal(number)
    process.wait(30)


def verify():
    began = time.monotonic()
    result = json.loads(must(netlab("verify", "--json", seconds=240)))
    for row in result["kinds"]:
        say("%s: %s" % (row["kind"], ", ".join("%s %s" % pair for pair in row["found"].items())))
    expect(result["failed"] == 0, "%d kinds are what they claim to be" % result["passed"])
    say("verified in %.0f s" % (time.monotonic() - began))


def matrix():
    """Passed pairs and times are printed; which paths are right is the truth table's business."""
    # Its table and the traces of failures are this test's output, so it is neither captured nor bounded here.
    words = [sys.executable, NETLAB, "--name", "e2e-%d" % os.getpid(), "matrix", "--quick"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=harness.nodes.die_with_parent)
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
    expect(code == 0, "every pair of the quick matrix came to a path of the truth table")


def test(context):
    try:
        leaves_nothing(context)
        verify()
        matrix()
    finally:
        if remains():
            netlab("down")
    expect(not remains(), "nothing is left")


harness.run(test, 870)
