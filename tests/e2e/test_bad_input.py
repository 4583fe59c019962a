#!/usr/bin/env python3
"""Wrong flags, files, keys, databases, ports, seeds and packets: each gets a message saying what and where.

Mistakes before the start end dunlind with exit code 2 (usage) or 1; mistakes while it runs are answered or
counted, and the daemon goes on.
"""

import os
import socket
import stat
import struct
import subprocess

import harness
from harness import SMALL, expect, expect_exit, say, wait_until


def dunlind(context, *words):
    """Runs the daemon with words that must make it end by itself."""
    command = [context.programs.dunlind, *words]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        raise harness.Failed("still runs after 20 s: %s" % " ".join(command)) from None


def write(context, name, text):
    path = os.path.join(context.dir, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def check_flags(context):
    home = os.path.join(context.dir, "flags")
    expect_exit(dunlind(context, "--nonsense"), 2, "--nonsense", "--help")
    expect_exit(dunlind(context, "-d", home, "--cpu", "400"), 2, "--cpu", "400")
    expect_exit(dunlind(context, "-d", home, "--listen", "99999"), 2, "--listen", "99999")
    expect_exit(dunlind(context, "-d", home, "--up", "fast"), 2, "--up", "fast")
    expect_exit(dunlind(context, "-d", home, "--seed", "nobody@nowhere"), 2, "--seed", "nobody@nowhere")
    expect_exit(dunlind(context, "--help"), 0, "--listen")
    expect_exit(dunlind(context, "--version"), 0)
    expect(not os.path.exists(home), "a refused start leaves nothing behind")


def check_files(context):
    home = os.path.join(context.dir, "files")
    missing = os.path.join(context.dir, "missing.conf")
    expect_exit(dunlind(context, "-d", home, "-c", missing), 2, missing)
    unknown = write(context, "unknown.conf", "[node]\nlisten = 0\nlistenn = 5\n")
    expect_exit(dunlind(context, "-d", home, "-c", unknown), 2, unknown, "3", "listenn")
    value = write(context, "value.conf", "[limits]\n# a comment\n\ncpu = many\n")
    expect_exit(dunlind(context, "-d", home, "-c", value), 2, value, "4", "many")
    seeds = write(context, "bad-seeds", "# fine\nthis is no seed\n")
    expect_exit(dunlind(context, "-d", home, "--seeds", seeds), 2, seeds, "2")
    no_list = os.path.join(context.dir, "no-list")
    expect_exit(dunlind(context, "-d", home, "--seeds", no_list), 2, no_list)


def check_disk(context):
    """A key and a database that are damaged, too open, or used by another daemon."""
    swarm = context.swarm("disk", cpu=20)
    node = swarm.add()
    expect(stat.S_IMODE(os.stat(os.path.join(node.dir, "node.key")).st_mode) == 0o600, "the key is private")
    expect_exit(dunlind(context, "-d", node.dir, "--listen", "0"), 1, node.dir)
    other = os.path.join(context.dir, "port")
    expect_exit(dunlind(context, "-d", other, "--listen", str(node.port)), 1, str(node.port))
    expect(node.alive(), "the first daemon is not disturbed")
    expect(node.stop() == 0, "it stops in good order")

    key = os.path.join(node.dir, "node.key")
    with open(key, "rb") as file:
        good = file.read()
    with open(key, "r+b") as file:
        file.seek(30)
        file.write(b"!!")
    expect_exit(dunlind(context, "-d", node.dir, "--listen", "0"), 1, key)
    with open(key, "wb") as file:
        file.write(good)
    os.chmod(key, 0o644)
    expect_exit(dunlind(context, "-d", node.dir, "--listen", "0"), 1, key)
    os.chmod(key, 0o600)
    expect_exit(node.run_cli("id"), 0, node.id)

    database = os.path.join(node.dir, "dunlin.mdb")
    with open(database, "r+b") as file:
        file.write(os.urandom(16384))
    expect_exit(dunlind(context, "-d", node.dir, "--listen", "0"), 1, database)
    os.rename(database, database + ".damaged")
    identity = node.id
    node.start()
    expect(node.id == identity, "without the damaged database it starts again under the same id")
    node.stop()


def check_runs(context):
    swarm = context.swarm("runs", cpu=20)
    node = swarm.add()
    missing = os.path.join(context.dir, "no-such-text")
    expect_exit(node.run_cli("run", "create", "--data", missing), 1, missing)
    tiny = write(context, "tiny.txt", "too little text\n")
    expect_exit(node.run_cli("run", "create", "--data", tiny), 1, "tiny.txt")
    text = context.text()
    expect_exit(node.run_cli("run", "create", "--data", text, "--width", "33"), 1, "width")
    expect_exit(node.run_cli("run", "create", "--data", text, "--alpha", "0.9"), 1, "alpha")
    expect_exit(node.run_cli("run", "create", "--data", text, "--codec", "morse"), 1, "codec")
    huge = ["--width", "4096", "--layers", "48", "--heads", "32", "--context", "2048"]
    expect_exit(node.run_cli("run", "create", "--data", text, *huge), 1, "too large")
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 24 * 2**30:
        big = ["--width", "2048", "--layers", "24", "--heads", "32", "--context", "2048"]
        expect_exit(node.run_cli("run", "create", "--data", text, *big), 1, "memory")
    expect_exit(node.run_cli("run", "create", "--data", text, "--wide", "3"), 2, "--wide")
    expect_exit(node.run_cli("sample", "aaaaaaaa"), 1)
    expect(node.run(check=True) is None or node.run()["state"] == "error", "no run came of it")
    check_control(node)
    check_packets(node)
    node.stop()


def check_control(node):
    """Nonsense on the control socket ends that connection and nothing else."""
    path = os.path.join(node.dir, "control.sock")
    expect(stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, "the control socket is private")
    empty_map = b"\x80"
    for name, data in (
        ("a message of 4 GiB", b"\xff\xff\xff\xff"),
        ("a message that is no msgpack", struct.pack(">I", 4) + b"\xc1\xc1\xc1\xc1"),
        ("a request without a method", struct.pack(">I", 1) + empty_map),
        ("deep nesting", struct.pack(">I", 64) + b"\x91" * 64),
        ("half a message", struct.pack(">I", 100) + b"\x82\x01"),
    ):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(path)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        try:
            while client.recv(4096):
                pass
        except ConnectionError:
            pass
        except socket.timeout:
            raise harness.Failed("the daemon holds a connection open after %s" % name) from None
        client.close()
        expect(node.ask("status")["id"] == node.id, "the daemon goes on after %s" % name)


def check_packets(node):
    """Packets of nobody are dropped and counted."""
    before = sum(node.ask("status")["dropped"].values())
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for length in (0, 1, 20, 100, 1200, 1232, 4000):
        for first in (0x00, 0x40, 0x7F, 0xC0, 0xFF):
            client.sendto(bytes([first]) + os.urandom(max(0, length - 1)), ("127.0.0.1", node.port))
    client.close()
    wait_until(
        "packets of nobody are counted", 10, lambda: sum(node.ask("status")["dropped"].values()) > before + 10
    )
    say("dropped: %r" % node.ask("status")["dropped"])


def check_peers(context):
    """A seed that does not answer, and one of another network: the node says so and goes on."""
    swarm = context.swarm("peers", cpu=20)
    alone = swarm.add()
    gone = write(context, "gone", "%s@127.0.0.1:9\n" % alone.id)
    lonely = harness.nodes.Node(
        context.programs, swarm.directory, "lonely", swarm.network, cpu=20, seeds=gone
    )
    swarm.nodes.append(lonely)
    lonely.start()
    wait_until("the log names the seed", 60, lambda: "127.0.0.1:9" in lonely.log_tail(), every=0.5)
    expect(lonely.ask("status")["connections"] == 0, "an unreachable seed is no reason to stop")

    stranger = harness.nodes.Node(
        context.programs,
        swarm.directory,
        "stranger",
        swarm.network + "-other",
        cpu=20,
        seeds=swarm.seed_list("seed", [alone]),
    )
    swarm.nodes.append(stranger)
    stranger.start()

    def counted():
        dropped = alone.ask("status")["dropped"]
        return any("network" in reason and count > 0 for reason, count in dropped.items())

    wait_until("a packet of another network is counted", 30, counted, every=0.3)
    expect(alone.ask("status")["connections"] == 0, "networks do not mix")
    swarm.stop()


def test(context):
    check_flags(context)
    check_files(context)
    check_disk(context)
    check_runs(context)
    check_peers(context)


harness.run(test, 180)
