"""Real nodes in a lab: one dunlind on each host, knowing nothing of NATs but what it finds out itself."""

import os
import subprocess
import sys
import time

import space
from lab import ROOT
from space import LabError

sys.path.insert(0, os.path.join(ROOT, "tools", "quickstart.d"))

import nodes  # noqa: E402

JOIN_SECONDS = 60
# Public nodes serve on this port where a person would choose it, for those who may reach no other.
WEB_PORT = 443


class LabNode(nodes.Node):
    """A daemon on a host.  Its control socket is a file, so dunlin itself need not enter the namespace."""

    def __init__(self, programs, directory, lab, host, network, port=None, seeds=None):
        super().__init__(programs, directory, host, network, cpu=None, seeds=seeds)
        self.space = lab.space(host)
        self.own_port = port

    def command(self):
        """Nothing but what makes a node part of this lab.  What nodes of one machine are told for their own
        good (leave the router alone, find nobody on the LAN) would be a handicap here."""
        words = ["nsenter", "--net=" + os.path.join(space.NETNS_DIR, self.space), self.programs.dunlind]
        words += ["-d", self.dir, "--network", self.network, "--threads", "1", "--log-file", self.log]
        if self.own_port:  # without one the node takes its default, as most will
            words += ["--listen", str(self.own_port)]
        if self.seeds:
            words += ["--seeds", self.seeds]
        return words + self.flags

    def trace(self, peer):
        """What the node remembers of its dealings with a peer, as text for a person."""
        try:
            done = self.run_cli("trace", peer, seconds=20)
        except subprocess.TimeoutExpired:
            return "dunlin trace does not answer\n"
        return done.stdout + done.stderr

    def path_to(self, peer):
        """(kind of path, whether by TCP) of the connection to a peer; (None, False) without one."""
        answer = self.ask("peers", check=False, seconds=20)
        for one in answer["peers"] if answer else []:
            if one["id"] == peer and one.get("connected"):
                path = one.get("path")
                return (None if path == "none" else path), bool(one.get("via_tcp"))
        return None, False


def programs():
    """The binaries of the environment, or those of the release build, or of the development build."""
    for preset in ("release", "dev"):
        at = {"DUNLIND": "build/%s/node/dunlind" % preset, "DUNLIN": "build/%s/tools/dunlin/dunlin" % preset}
        if all(os.environ.get(n) or os.access(os.path.join(ROOT, p), os.X_OK) for n, p in at.items()):
            for name, path in at.items():
                os.environ.setdefault(name, os.path.join(ROOT, path))
            break
    try:
        found = nodes.Programs(ROOT)
    except nodes.Failed as problem:
        raise LabError(str(problem)) from None
    told = subprocess.run([found.dunlin, "--help"], capture_output=True, text=True)
    if " speed " not in told.stdout:
        raise LabError("%s has no command 'speed': it is too old for the matrix" % found.dunlin)
    return found


def joined(status):
    """Whether a node found the network and knows its own situation, as far as its status tells of it."""
    if not status or status["dht"]["contacts"] == 0:
        return False
    nat = status.get("nat")
    return not isinstance(nat, dict) or nat.get("state") not in ("unknown", "measuring", "surveying")


def start_all(found, directory, lab, public, homes, say):
    """Starts public nodes, which are the seeds, then all others, and waits until they have joined.

    Returns host -> node.  A node that does not join in time is said aloud and left to its pairs to fail."""
    network = "netlab-%s-%d" % (lab.name, os.getpid())
    everyone = {}
    try:
        seeds = os.path.join(directory, "seeds")
        for index, host in enumerate(public):
            port = WEB_PORT if index < len(public) // 2 else None
            known = seeds if index else None
            node = LabNode(found, directory, lab, host, network, port, known)
            everyone[host] = node
            node.start()
            with open(seeds, "a", encoding="ascii") as file:
                file.write("%s@%s:%d\n" % (node.id, lab.site(host)["wan4"], node.port))
        for host in homes:
            everyone[host] = LabNode(found, directory, lab, host, network, None, seeds)
            everyone[host].start()
        wait_joined(everyone, say)
    except BaseException:
        stop_all(everyone)
        raise
    return everyone


def wait_joined(everyone, say):
    waiting = dict(everyone)
    deadline = time.monotonic() + JOIN_SECONDS
    while waiting and time.monotonic() < deadline:
        for host, node in list(waiting.items()):
            if not node.alive():
                raise LabError("%s ended by itself\n%s" % (host, node.log_tail()))
            if joined(node.ask("status", check=False, seconds=20)):
                del waiting[host]
        time.sleep(0.2)
    if waiting:
        say("did not join within %d s: %s" % (JOIN_SECONDS, " ".join(waiting)))


def stop_all(everyone):
    """All at once and without waiting for orderly ends: what they keep is thrown away anyway."""
    for node in everyone.values():
        node.kill()
