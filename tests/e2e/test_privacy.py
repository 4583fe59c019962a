#!/usr/bin/env python3
"""What a listener on the wire sees of a run: QUIC and sealed datagrams, and nothing that can be read.

tcpdump records loopback while three nodes start, connect, train and merge uncompressed weights.  In the
packets we look for the training text, the run's id and name, the keys, and anything that compresses (weights
would).  The database is opened with LMDB's own tool meanwhile.
"""

import base64
import os
import re
import shutil
import signal
import struct
import subprocess
import zlib

import harness
from harness import SMALL, Failed, Skip, expect, say

# fp32 on the wire: the form that would be easiest to recognise.
OPTIONS = SMALL + ["--name", "Corvus-corone-cornix", "--round-ms", "500", "--codec", "fp32"]
READABLE = re.compile(rb"[\x20-\x7e\n\t]{24,}")  # random bytes hold one in 10^10 positions
LINK_HEADS = {1: 14, 113: 16, 276: 20}  # Ethernet, Linux cooked 1 and 2: bytes before the IP head


def packets(path):
    """(source port, destination port, payload) of each UDP packet in a capture file."""
    with open(path, "rb") as file:
        data = file.read()
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}.get(data[:4])
    if order is None:
        raise Failed("tcpdump wrote a capture of an unknown kind")
    head = LINK_HEADS[struct.unpack(order + "I", data[20:24])[0]]
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack(order + "I", data[at + 8 : at + 12])[0]
        ip = data[at + 16 + head : at + 16 + length]
        at += 16 + length
        if len(ip) < 28:
            continue
        udp = ip[(ip[0] & 15) * 4 :] if ip[0] >> 4 == 4 else ip[40:]
        source, target = struct.unpack(">HH", udp[:4])
        yield source, target, udp[8:]


def start_capture(path):
    if not shutil.which("tcpdump"):
        raise Skip("tcpdump is not installed")
    if os.geteuid() != 0:
        raise Skip("capturing packets needs root")
    # Loopback packets of up to 64 KiB are joined by the kernel: take them whole.
    command = ["tcpdump", "-i", "lo", "-s", "0", "-U", "-B", "65536", "-w", path, "udp"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=harness.nodes.die_with_parent
    )
    line = process.stderr.readline().decode()
    while line and "listening on" not in line:
        line = process.stderr.readline().decode()
    if not line:
        raise Skip("tcpdump cannot capture on loopback here")
    return process


def secrets(swarm, context):
    """What must not be seen: name -> bytes."""
    found = {"the run's name": b"Corvus-corone-cornix", "the run's id as text": swarm.run_id.encode()}
    padded = swarm.run_id.upper() + "=" * (-len(swarm.run_id) % 8)
    found["the run's id"] = base64.b32decode(padded)
    for node in swarm.nodes:
        with open(os.path.join(node.dir, "node.key"), "rb") as file:
            text = file.read().split()[-1]
        found["%s's key as text" % node.name] = text[:40]
        raw = base64.b32decode(text.upper() + b"=" * (-len(text) % 8))
        found["%s's key" % node.name] = raw[:32]
    with open(context.text(), "rb") as file:
        found["training text"] = file.read(32)
    return found


def record(context):
    """Trains under capture; returns the payloads of the swarm's packets and what they must not hold."""
    path = os.path.join(context.dir, "loopback.pcap")
    capture = start_capture(path)
    try:
        with context.swarm(cpu=harness.nodes.cpu_share(3)) as swarm:
            swarm.start(3)
            swarm.train(context.text(), OPTIONS)
            for node in swarm.nodes:
                # Each carries a fragment of the weights: enough of them for a mebibyte and more.
                node.wait_run("merges", 60, lambda run: run["merges"] >= 16)
            open_database(swarm.nodes[0])
            ports = {node.port for node in swarm.nodes}
            hidden = secrets(swarm, context)
    finally:
        capture.send_signal(signal.SIGINT)
        capture.wait(20)
    seen = [payload for source, target, payload in packets(path) if source in ports or target in ports]
    return seen, hidden


def open_database(node):
    if not shutil.which("mdb_stat"):
        say("mdb_stat is not installed: the database was not opened")
        return
    path = os.path.join(node.dir, "dunlin.mdb")
    done = subprocess.run(["mdb_stat", "-n", "-e", "-a", path], capture_output=True, text=True)
    expect(done.returncode == 0 and "Entries" in done.stdout, "mdb_stat -n opens the database of a live node")


def test(context):
    seen, hidden = record(context)
    total = sum(map(len, seen))
    expect(
        len(seen) > 200 and total > 2**20, "captured %d packets, %.1f MiB" % (len(seen), total / 2**20)
    )
    everything = b"\xff\x00".join(seen)
    for name, value in hidden.items():
        expect(value not in everything, "not on the wire: %s" % name)
    readable = READABLE.findall(everything)
    expect(not readable, "no readable text: %r" % readable[:3])
    bulk = b"".join(payload for payload in seen if len(payload) > 1000)
    ratio = len(zlib.compress(bulk, 9)) / len(bulk)
    expect(ratio > 0.98, "big packets do not compress (%.3f): no weights or text in clear" % ratio)
    first = sorted({payload[0] for payload in seen if payload})
    say("first bytes seen: %s" % " ".join("%02x" % byte for byte in first))


harness.run(test, 150)
