"""Separate dunlind processes on this machine, for tools/quickstart and the end-to-end tests.

Every process is a child of ours that gets SIGTERM when we die, whatever we die of, so nothing keeps running.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
LOG_TAIL_LINES = 60
LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """Something that should have worked did not; the message says what, and where to look."""


def processors():
    """Processors this process may use, a container's quota included."""
    count = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = open("/sys/fs/cgroup/cpu.max").read().split()
        if quota != "max":
            count = min(count, int(quota) / int(period))
    except (OSError, ValueError):
        pass
    return count


def cpu_share(nodes):
    """Percent of one processor for each node's training thread, so that all fit with a tenth to spare."""
    return max(1, min(100, int(0.9 * processors() * 100 / nodes)))


def die_with_parent():
    """Runs in the child between fork and exec."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def wait_until(what, seconds, check, every=0.1):
    """Polls check until it returns something true, and returns that.  Failed: it did not within the time."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed("waited %d s in vain: %s" % (seconds, what))
        time.sleep(every)


class Programs:
    """Where the binaries are."""

    def __init__(self, root):
        self.dunlind = os.environ.get("DUNLIND") or os.path.join(root, "build/release/node/dunlind")
        self.dunlin = os.environ.get("DUNLIN") or os.path.join(root, "build/release/tools/dunlin/dunlin")
        for path in (self.dunlind, self.dunlin):
            if not os.access(path, os.X_OK):
                raise Failed(
                    "%s is missing: build it with 'cmake --preset release && cmake --build --preset release'"
                    % path
                )


class Node:
    """One daemon with its data directory."""

    def __init__(self, programs, directory, name, network, cpu=None, seeds=None, flags=()):
        self.programs = programs
        self.dir = os.path.join(directory, name)
        self.name = name
        self.network = network
        self.cpu = cpu
        self.seeds = seeds  # path of a seed list, or None
        self.flags = list(flags)
        self.port = 0  # 0 until the first start: any free one, kept over restarts
        self.process = None
        self.log = os.path.join(directory, name + ".log")

    def command(self):
        words = [
            self.programs.dunlind,
            "-d",
            self.dir,
            "--listen",
            str(self.port),
            "--network",
            self.network,
            "--threads",
            "1",
            "--log-file",
            self.log,
            # What runs on one machine asks nothing of the network around it.
            "--port-mapping",
            "no",
            "--lan",
            "no",
        ]
        if self.cpu is not None:
            words += ["--cpu", str(self.cpu)]
        if self.seeds is not None:
            words += ["--seeds", self.seeds]
        return words + self.flags

    def start(self, seconds=20):
        """Starts the daemon and returns once it answers on its control socket."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
                env=dict(os.environ, OPENBLAS_NUM_THREADS="1"),
            )
        status = wait_until("%s answers on its control socket" % self.name, seconds, self.first_status)
        self.id = status["id"]
        self.port = port_of(status["listen"])
        return self

    def first_status(self):
        if self.process.poll() is not None:
            raise Failed(
                "%s ended with exit code %s at its start\n%s"
                % (self.name, self.process.returncode, self.log_tail())
            )
        return self.ask("status", check=False)

    def run_cli(self, *words, seconds=60):
        """Runs dunlin and returns its CompletedProcess."""
        return subprocess.run(
            [self.programs.dunlin, "-d", self.dir, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=dict(os.environ, OPENBLAS_NUM_THREADS="1"),
        )

    def ask(self, *words, check=True, seconds=60):
        """Result of a command with --json.  Failed when it did not succeed; with check=False None instead."""
        try:
            done = self.run_cli(*words, "--json", seconds=seconds)
        except subprocess.TimeoutExpired:
            done = None
        if done is not None and done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        if not check:
            return None
        problem = (
            "no answer within %d s" % seconds
            if done is None
            else "exit %d: %s" % (done.returncode, done.stderr)
        )
        raise Failed("%s: dunlin %s: %s" % (self.name, " ".join(words), problem.strip()))

    def run(self, check=True):
        """The node's first run, or None."""
        answer = self.ask("run", "list", check=check, seconds=20)
        runs = answer["runs"] if answer else []
        return runs[0] if runs else None

    def wait_run(self, what, seconds, check, every=0.2):
        """Polls until check(run) holds of the node's run, and returns that run."""

        last = None

        def probe():
            nonlocal last
            last = self.run(check=False)
            return last if last and check(last) else None

        try:
            return wait_until("%s %s" % (self.name, what), seconds, probe, every)
        except Exception:
            print("%s last said: %r\n%s" % (self.name, last, self.log_tail()), file=sys.stderr)
            raise

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        if self.alive():
            self.process.send_signal(number)

    def ask_to_stop(self):
        """SIGTERM, without waiting.  A second one would tell the daemon not to wait for its checkpoints."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

    def ended(self, seconds=20):
        """Waits for the end; returns the exit code, or None when it had to be killed."""
        if self.process is None:
            return 0
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def stop(self, seconds=20):
        self.ask_to_stop()
        return self.ended(seconds)

    def kill(self):
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def log_tail(self):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()[-LOG_TAIL_LINES:]
        except OSError:
            lines = []
        return "--- last lines of %s\n%s---" % (self.log, "".join(lines))


def port_of(listen):
    """The UDP port in the first of a status's listen addresses."""
    for address in listen:
        match = re.search(r":(\d+)$", address)
        if match and int(match.group(1)) > 0:
            return int(match.group(1))
    raise Failed("no port in the node's listen addresses %r" % (listen,))


class Swarm:
    """Nodes on loopback whose seed is the first one.  Use in a with statement: leaving it stops them all."""

    def __init__(self, programs, directory, network, cpu=None):
        self.programs = programs
        self.directory = directory
        self.network = network
        self.cpu = cpu
        self.nodes = []
        self.run_id = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def seed_list(self, name, nodes):
        """Writes a seed list that names these nodes, and returns its path."""
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="ascii") as file:
            file.writelines("%s@127.0.0.1:%d\n" % (node.id, node.port) for node in nodes)
        return path

    def add(self, seeds=None, name=None, flags=()):
        """Starts one more node; seeds defaults to the swarm's first node."""
        if seeds is None and self.nodes:
            seeds = self.seed_list("seeds", self.nodes[:1])
        node = Node(
            self.programs,
            self.directory,
            name or "node%d" % len(self.nodes),
            self.network,
            self.cpu,
            seeds,
            flags,
        )
        self.nodes.append(node)
        return node.start()

    def start(self, count, seconds=30):
        """Starts count nodes and returns when each has found the others' network."""
        for _ in range(count):
            self.add()
        for node in self.nodes:
            if count > 1:
                what = "%s joins the DHT" % node.name
                wait_until(what, seconds, lambda node=node: node.ask("status")["dht"]["contacts"] > 0)

    def wait_connected(self, peers, seconds=30):
        """Waits until each node has QUIC connections to this many peers, as members of one run do."""
        for node in self.nodes:
            what = "%s is connected to %d peers" % (node.name, peers)
            wait_until(what, seconds, lambda node=node: node.ask("status")["connections"] >= peers)

    def train(self, data, options=(), isolated=False, seconds=60):
        """Creates a run on the first node, lets all others join, and returns when all train."""
        extra = ["--isolated"] if isolated else []
        first = self.nodes[0].ask("run", "create", "--data", data, *options, *extra)
        self.run_id = first["id"]
        for node in self.nodes[1:]:
            self.join(node, data, extra)
        for node in self.nodes:
            self.wait_training(node, seconds)
        return first

    def join(self, node, data, extra=()):
        return node.ask("run", "join", self.run_id, "--data", data, *extra)

    def wait_training(self, node, seconds=60):
        def trains(run):
            if run["state"] == "error":
                raise Failed("%s cannot train: %s" % (node.name, run["error"]))
            return run["state"] in ("training", "finished") and run["tokens"] > 0

        return node.wait_run("trains", seconds, trains)

    def dead(self):
        return [node for node in self.nodes if not node.alive()]

    def export(self):
        """Each node's weights as a file; returns the paths."""
        paths = []
        for node in self.nodes:
            path = os.path.join(self.directory, node.name + ".safetensors")
            node.ask("checkpoint", "export", self.run_id, path)
            paths.append(path)
        return paths

    def compare(self, paths, data, seconds=300):
        """Loss of exported models and of their mean, measured by dunlin."""
        return self.nodes[0].ask("checkpoint", "compare", *paths, "--data", data, seconds=seconds)

    def stop(self, seconds=20):
        """SIGTERM to all at once; returns name -> exit code (None: had to be killed)."""
        for node in self.nodes:
            node.ask_to_stop()
        return {node.name: node.ended(seconds) for node in self.nodes}
