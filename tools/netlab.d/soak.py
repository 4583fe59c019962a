"""Real nodes for minutes among faults; afterwards all of them must still meet, and none may have leaked.

Homes of mixed kinds and public nodes.  At random, and from one seed, a node is killed and started again, a
router forgets its mappings or draws new ports, two hosts are cut off from each other and joined again, and
pairs move a little data.  Then all is left alone for a while, every pair moves data once more, and the
descriptors, auxiliary sockets, relay sessions and memory of every process are held to what a node may keep.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

import faults
import swarm
from lab import Lab
from space import LabError

PUBLIC = ["p1", "p2", "p3"]
HOMES = {
    "masq": "masq",
    "cone": "fullcone",
    "seq": "symseq",
    "rand": "symrand",
    "life": "life",
    "tcp": "udpblock",
}
BYTES = 20000
PAUSE_SECONDS = (2, 8)  # between two faults
QUIET_SECONDS = 75  # for what dead peers leave to run out: silent sessions end after 60 s
CALM_SECONDS = 60
PAIR_TRIES = 4
SPEED_SECONDS = 45
# What a node may keep.  Descriptors beyond those of a node that has just joined: kept punched sockets, those
# of the NAT's measurements, and TCP links in and out.
FDS_MORE = 8 + 4 + 24
KEPT_SOCKETS = 8
SESSIONS_A_PEER = 2
# Resident memory may grow while tables fill; a leak in some minutes of faults would be more.  The address
# sanitizer keeps freed memory for a while.
GROWTH_KB = 24 << 10
GROWTH_SANITIZED_KB = 300 << 10


def of_process(pid, name):
    with open("/proc/%d/%s" % (pid, name), encoding="ascii", errors="replace") as file:
        return file.read()


def descriptors(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def resident_kb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", of_process(pid, "status")).group(1))


class Soak:
    def __init__(self, args, out):
        self.out = out
        self.minutes = args.minutes
        self.seed = args.seed if args.seed is not None else random.randrange(1 << 31)
        self.random = random.Random(self.seed)
        self.lab = Lab(args.name if args.name != "lab" else "soak")
        self.nodes, self.began = {}, {}
        self.cuts, self.counts, self.problems = set(), {}, []

    def say(self, text):
        print(text, flush=True)

    def problem(self, text):
        self.problems.append(text)
        self.say("PROBLEM: " + text)

    # ---- faults ----

    def remember(self, host):
        """Figures of a process that has joined: what it has later is compared with them."""
        pid = self.daemon(self.nodes[host])
        self.began[host] = {"pid": pid, "fds": descriptors(pid), "rss": resident_kb(pid)}

    def daemon(self, node):
        """nsenter becomes the daemon: the number of the process stays."""
        return node.process.pid

    def restart(self):
        host = self.random.choice(sorted(HOMES))
        node = self.nodes[host]
        node.kill()
        time.sleep(self.random.uniform(0, 4))
        node.start()
        swarm.nodes.wait_until(
            "%s joins again" % host, 60, lambda: swarm.joined(node.ask("status", check=False, seconds=20))
        )
        self.remember(host)

    def restart_public(self):
        """The first one is everybody's seed, and stays."""
        host = self.random.choice(PUBLIC[1:])
        self.nodes[host].kill()
        time.sleep(self.random.uniform(0, 3))
        self.nodes[host].start()
        self.remember(host)

    def flush(self):
        faults.flush(self.lab, self.random.choice(sorted(HOMES)))

    def rebind(self):
        faults.rebind(self.lab, self.random.choice(sorted(HOMES)))

    def cut_or_heal(self):
        if self.cuts and self.random.random() < 0.6:
            faults.heal(self.lab, *self.cuts.pop())
            return
        pair = tuple(self.random.sample(sorted(HOMES) + PUBLIC[1:], 2))
        if pair not in self.cuts and pair[::-1] not in self.cuts:
            faults.cut(self.lab, *pair)
            self.cuts.add(pair)

    def move(self):
        """Whether it succeeds is no matter while things break."""
        a, b = self.random.sample(sorted(self.nodes), 2)
        try:
            self.speed(a, b, 15)
        except subprocess.TimeoutExpired:
            pass

    def speed(self, a, b, seconds):
        words = ["speed", self.nodes[b].id, "--bytes", str(BYTES), "--timeout", str(seconds)]
        return self.nodes[a].run_cli(*words, seconds=seconds + 15)

    def disturb(self):
        actions = [self.restart, self.flush, self.rebind, self.cut_or_heal, self.restart_public]
        weights = [3, 2, 2, 3, 1]
        ends = time.monotonic() + 60 * self.minutes
        while time.monotonic() < ends:
            action = self.random.choices(actions, weights)[0]
            self.counts[action.__name__] = self.counts.get(action.__name__, 0) + 1
            action()
            self.move()
            self.check_alive()
            time.sleep(self.random.uniform(*PAUSE_SECONDS))
        while self.cuts:
            faults.heal(self.lab, *self.cuts.pop())

    def check_alive(self):
        for host, node in self.nodes.items():
            if not node.alive():
                raise LabError("%s ended by itself\n%s" % (host, node.log_tail()))

    # ---- judgement ----

    def all_meet(self):
        for a in sorted(self.nodes):
            for b in sorted(self.nodes):
                if a < b and not self.meets(a, b):
                    self.problem("%s does not reach %s\n%s" % (a, b, self.nodes[a].trace(self.nodes[b].id)))

    def meets(self, a, b):
        for _ in range(PAIR_TRIES):
            try:
                if self.speed(a, b, SPEED_SECONDS).returncode == 0:
                    return True
            except subprocess.TimeoutExpired:
                pass
        return False

    def figures(self, host):
        """(what, has, most) of a node, and a line for people."""
        node, before = self.nodes[host], self.began[host]
        pid = self.daemon(node)
        nat = node.ask("nat", seconds=20)
        growth = GROWTH_SANITIZED_KB if "libasan" in of_process(pid, "maps") else GROWTH_KB
        fds, rss = descriptors(pid), resident_kb(pid)
        sockets = nat["punching"]["sockets"]
        sessions = sum(relay["sessions"] for relay in nat["relays"])
        served = sum(client["sessions"] for client in nat["relaying"]["list"])
        line = "%-5s fds %3d -> %3d  rss %6d -> %6d kB" % (host, before["fds"], fds, before["rss"], rss)
        line += "  sockets %d  sessions %2d  served %2d" % (sockets, sessions, served)
        line += "  tcp %d in %d out" % (nat["tcp"]["incoming"], nat["tcp"]["outgoing"])
        found = [
            ("descriptors", fds, before["fds"] + FDS_MORE),
            ("kB of memory", rss, before["rss"] + growth),
            ("punched sockets", sockets, KEPT_SOCKETS),
            ("relay sessions", sessions, SESSIONS_A_PEER * (len(self.nodes) - 1)),
            ("sessions served, both ends", served, 4 * len(self.nodes) * len(self.nodes)),
            ("blocked UDP", int(nat["tcp"]["udp_blocked"]), int(host == "tcp")),
        ]
        return found, line

    def leaks(self, host):
        """A round of punching holds hundreds of sockets for some seconds: one calm moment is enough."""
        ends = time.monotonic() + CALM_SECONDS
        while True:
            found, line = self.figures(host)
            over = [one for one in found if one[1] > one[2]]
            if not over or time.monotonic() > ends:
                break
            time.sleep(0.5)
        self.say(line)
        for what, has, most in over:
            self.problem("%s has %d %s, more than %d" % (host, has, what, most))
        if host == "tcp" and not found[-1][1]:
            self.problem("tcp takes UDP for open")

    def sanitizer_reports(self):
        for host, node in self.nodes.items():
            with open(node.log, encoding="utf-8", errors="replace") as file:
                text = file.read()
            for word in ("AddressSanitizer", "runtime error", "ThreadSanitizer", "ASSERT", "LeakSanitizer"):
                if word in text:
                    self.problem("%s: %s in %s" % (host, word, node.log))

    def run(self):
        found = swarm.programs()
        lines = ["public " + " ".join(PUBLIC)] + ["home %s %s" % one for one in HOMES.items()]
        self.say("%.1f minutes of faults, --seed %d, logs in %s" % (self.minutes, self.seed, self.out))
        self.lab.up("\n".join(lines) + "\n", "soak")
        try:
            self.nodes = swarm.start_all(found, self.out, self.lab, PUBLIC, list(HOMES), self.say)
            for host in self.nodes:
                self.remember(host)
            self.disturb()
            broken = ", ".join("%s %d" % one for one in sorted(self.counts.items()))
            self.say("faults: %s; all is quiet" % broken)
            time.sleep(QUIET_SECONDS)
            self.check_alive()
            self.all_meet()
            time.sleep(QUIET_SECONDS)
            for host in sorted(self.nodes):
                self.leaks(host)
            self.end_orderly()
            self.sanitizer_reports()
        finally:
            swarm.stop_all(self.nodes)
            self.lab.down()

    def end_orderly(self):
        for host, node in self.nodes.items():
            node.ask_to_stop()
        for host, node in self.nodes.items():
            code = node.ended(60)
            if code != 0:
                self.problem("%s ended with %s when asked to\n%s" % (host, code, node.log_tail()))


def main(args):
    out = args.out or tempfile.mkdtemp(prefix="netlab-soak-")
    os.makedirs(out, exist_ok=True)
    soak = Soak(args, out)
    try:
        soak.run()
    except swarm.nodes.Failed as problem:
        soak.problem(str(problem))
    with open(os.path.join(out, "soak.json"), "w", encoding="ascii") as file:
        json.dump({"seed": soak.seed, "problems": soak.problems, "faults": soak.counts}, file, indent=1)
    print("%d problems; --seed %d" % (len(soak.problems), soak.seed), file=sys.stderr)
    if not args.out and not soak.problems:
        shutil.rmtree(out)
    return 1 if soak.problems else 0
