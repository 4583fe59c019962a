"""Every kind of NAT dials every other with real nodes, moves data, and is held to the truth table.

Each kind has two homes, one that dials (a) and one that is dialled (b), so each ordered pair of kinds is a
pair of nodes that never met before.
"""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import swarm
from lab import Lab
from space import LabError
from truth import Truth

PUBLIC = ["p1", "p2", "p3", "p4"]
BYTES = 4 << 20
BYTES_LONG = 64 << 20
PAIR_SECONDS = 45
POLL_SECONDS = 0.15
SETTLE_SECONDS = (
    10  # after the data has moved over an allowed path: how long a still better one is waited for
)
GRACE_SECONDS = 3  # dunlin says why it gave up, when it is let


def wanted_pairs(truth, args):
    """Ordered pairs (a, b) of kinds; neighbours are (name, name)."""
    every = list(truth.kinds)
    if args.pairs:
        words = args.pairs.split(",")
    elif args.quick:
        words = truth.quick
    else:
        # Shifted rows: those next to each other share no home, so several can run at once.
        count = len(every)
        return [(every[i], every[(i + shift) % count]) for shift in range(count) for i in range(count)] + [
            (name, name) for name in truth.neighbours
        ]
    pairs = []
    for word in words:
        a, _, b = word.partition(":")
        if word in truth.neighbours:
            pairs.append((word, word))
            continue
        for one in (a, b):
            if one != "*" and one not in truth.kinds:
                raise LabError(
                    "'%s' is no pair; A:B of * %s, or %s"
                    % (word, " ".join(every), " ".join(truth.neighbours))
                )
        pairs += [(x, y) for x in (every if a == "*" else [a]) for y in (every if b == "*" else [b])]
    return list(dict.fromkeys(pairs))


def hosts_of(truth, pair):
    if pair[0] in truth.neighbours:
        return tuple(truth.neighbours[pair[0]]["hosts"])
    return pair[0] + "-a", pair[1] + "-b"


def scenario_text(truth, pairs):
    lines = ["public " + " ".join(PUBLIC)]
    homes = []
    for pair in pairs:
        if pair[0] in truth.neighbours:
            lines += truth.neighbours[pair[0]]["lines"]
            continue
        for kind, name in zip(pair, hosts_of(truth, pair)):
            if name not in homes:
                homes.append(name)
                lines += home_lines(truth.kinds[kind], name)
    return "\n".join(lines) + "\n"


def home_lines(kind, name):
    if "carrier" not in kind:
        return ["home %s %s" % (name, kind["home"])]
    return [
        "carrier %s-c %s" % (name, kind["carrier"]),
        "home %s %s behind=%s-c" % (name, kind["home"], name),
    ]


class Pair:
    """One measurement: a moves bytes to b, while the path between them is looked at again and again."""

    def __init__(self, truth, kinds, a, b, size, seconds):
        self.truth, self.kinds, self.a, self.b = truth, kinds, a, b
        self.size, self.seconds = size, seconds
        self.expected = truth.allowed(*kinds)
        self.path, self.via_tcp, self.best_ms = None, False, None

    def look(self, began):
        path, via_tcp = self.a.path_to(self.b.id)
        if path is None:
            return
        self.path, self.via_tcp = path, via_tcp
        if self.best_ms is None and self.truth.is_best(path, self.expected):
            self.best_ms = round(1000 * (time.monotonic() - began))

    def run(self, ended):
        """Returns the row of the result.  ended: set when everything is to stop."""
        began = time.monotonic()
        words = [
            self.a.programs.dunlin,
            "-d",
            self.a.dir,
            "speed",
            self.b.id,
            "--bytes",
            str(self.size),
            "--json",
        ]
        words += ["--timeout", "%d" % self.seconds]
        moving = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            said = self.watch(moving, began, ended)
        finally:
            if moving.poll() is None:
                moving.kill()
            said_late = moving.communicate()
        return self.row(moving.returncode, said or said_late, time.monotonic() - began)

    def watch(self, moving, began, ended):
        """Until the data has moved and the path is the best there can be, or the time is over.

        A path that is lost for a moment, as a busy machine makes it seem, has the rest of the time to return.
        """
        said, moved = None, None
        while not ended.is_set() and time.monotonic() < began + self.seconds + GRACE_SECONDS:
            self.look(began)
            if said is None:
                try:
                    said = moving.communicate(timeout=POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
            moved = moved or time.monotonic()
            settled = self.truth.is_allowed(self.path, self.expected)
            if moving.returncode != 0 or (settled and self.best_ms is not None):
                break
            if settled and time.monotonic() > moved + SETTLE_SECONDS:
                break
            time.sleep(POLL_SECONDS)
        return said

    def row(self, code, said, seconds):
        lines = said[0].splitlines()
        result = {}
        if code == 0 and lines:
            try:
                result = json.loads(lines[-1])
            except ValueError:
                code = "no JSON"
        self.path = self.path or result.get("path")
        row = {
            "a": self.kinds[0],
            "b": self.kinds[1],
            "classes": self.truth.class_pair(*self.kinds),
            "expected": self.expected,
            "path": self.path,
            "via_tcp": self.via_tcp,
            "best_path_ms": self.best_ms,
            "bytes": result.get("bytes", 0),
            "intact": bool(result.get("intact")),
            "seconds": round(seconds, 2),
        }
        for name in ("first_byte_ms", "longest_gap_ms", "mbps"):
            row[name] = result.get(name)
        row["ok"] = (
            row["intact"] and row["bytes"] == self.size and self.truth.is_allowed(self.path, self.expected)
        )
        if not row["ok"]:
            row["problem"] = (said[1].strip().splitlines() or ["exit code %s" % code])[-1][:300]
            if row["intact"]:
                row["problem"] = "the path is %s" % self.path
        return row


class Matrix:
    def __init__(self, args, out):
        self.truth = Truth()
        self.args, self.out = args, out
        self.pairs = wanted_pairs(self.truth, args)
        self.lab = Lab(args.name if args.name != "lab" else "matrix")
        self.nodes = {}
        self.rows = []
        self.ended = threading.Event()
        self.busy = set()
        self.free = threading.Condition()

    def say(self, text):
        print(text, file=sys.stderr if self.args.json else sys.stdout, flush=True)

    def run(self):
        found = swarm.programs()
        began = time.monotonic()
        self.lab.up(scenario_text(self.truth, self.pairs), "matrix")
        try:
            if not self.args.out:
                self.lab.own_scratch(self.out)
            homes = [host for host in self.lab.hosts() if host not in PUBLIC]
            self.say("%d pairs, %d homes; starting their nodes" % (len(self.pairs), len(homes)))
            self.nodes = swarm.start_all(found, self.out, self.lab, PUBLIC, homes, self.say)
            self.say("all nodes run after %.1f s" % (time.monotonic() - began))
            self.measure_all()
        finally:
            self.ended.set()
            swarm.stop_all(self.nodes)
            self.lab.down()
        return self.result(time.monotonic() - began)

    def measure_all(self):
        """Several pairs at once, none with a home in common."""
        # Relays ration what they carry: 64 MiB through one take a minute, which only the whole matrix has.
        bulk = [
            p for p in self.pairs if not self.args.quick or self.truth.allowed(*p)[0] in ("direct", "lan")
        ]
        long = {}
        for pair in bulk:
            long.setdefault(self.truth.class_pair(*pair), pair)
        pool = concurrent.futures.ThreadPoolExecutor(self.args.parallel)
        try:
            waiting = [pool.submit(self.measure, pair, pair in long.values()) for pair in self.pairs]
            for done in concurrent.futures.as_completed(waiting):
                self.rows.append(done.result())
        finally:
            self.ended.set()
            with self.free:
                self.free.notify_all()
            pool.shutdown(wait=True, cancel_futures=True)

    def measure(self, pair, long):
        hosts = set(hosts_of(self.truth, pair))
        with self.free:
            self.free.wait_for(lambda: self.ended.is_set() or not hosts & self.busy)
            self.busy |= hosts
        try:
            a, b = (self.nodes[host] for host in hosts_of(self.truth, pair))
            seconds = self.args.seconds or PAIR_SECONDS * (2 if long else 1)
            row = Pair(self.truth, pair, a, b, BYTES_LONG if long else BYTES, seconds).run(self.ended)
        finally:
            with self.free:
                self.busy -= hosts
                self.free.notify_all()
        if not self.ended.is_set():
            self.tell(row)
            if not row["ok"]:
                self.tell_traces(row, a, b)
        return row

    def tell(self, row):
        def text(name, form="%.0f"):
            return "-" if row[name] is None else form % row[name]

        self.say(
            "%-4s %-9s > %-9s %-8s first %6s ms  best %6s ms  %7s Mbit/s%s"
            % (
                "ok" if row["ok"] else "FAIL",
                row["a"],
                row["b"],
                (row["path"] or "none") + ("+" if row["via_tcp"] else ""),
                text("first_byte_ms"),
                text("best_path_ms"),
                text("mbps", "%.1f"),
                "" if row["ok"] else "  %s; allowed: %s" % (row["problem"], ", ".join(row["expected"])),
            )
        )

    def tell_traces(self, row, a, b):
        """What both sides remember goes to a file, and its end to the screen."""
        path = os.path.join(self.out, "trace-%s-%s.txt" % (row["a"], row["b"]))
        with open(path, "w", encoding="utf-8") as file:
            for node, peer in ((a, b), (b, a)):
                text = node.trace(peer.id)
                file.write("=== %s about %s\n%s" % (node.name, peer.name, text))
                self.say("  %s about %s:\n%s" % (node.name, peer.name, indent(text, 25)))

    def result(self, seconds):
        order = {pair: place for place, pair in enumerate(self.pairs)}
        self.rows.sort(key=lambda row: order[row["a"], row["b"]])
        passed = sum(row["ok"] for row in self.rows)
        result = {
            "pairs": self.rows,
            "passed": passed,
            "failed": len(self.rows) - passed,
            "seconds": round(seconds, 1),
        }
        with open(os.path.join(self.out, "matrix.json"), "w", encoding="ascii") as file:
            json.dump(result, file, indent=1)
        return result


def indent(text, lines):
    return "\n".join("    " + line for line in text.rstrip().splitlines()[-lines:])


def median(values):
    known = sorted(value for value in values if value is not None)
    return "%8.0f" % known[len(known) // 2] if known else "       -"


def summary(rows):
    """One line a class pair."""
    lines = ["classes       pairs   ok   first ms    best ms   Mbit/s  paths"]
    for name in dict.fromkeys(row["classes"] for row in rows):
        group = [row for row in rows if row["classes"] == name]
        paths = sorted({row["path"] or "none" for row in group})
        lines.append(
            "%-12s %6d %4d   %s   %s %s  %s"
            % (
                name,
                len(group),
                sum(row["ok"] for row in group),
                median([row["first_byte_ms"] for row in group]),
                median([row["best_path_ms"] for row in group]),
                median([row["mbps"] for row in group]),
                " ".join(paths),
            )
        )
    return "\n".join(lines)


def main(args):
    if args.parallel < 1:
        raise LabError("--parallel needs at least 1")
    out = args.out or tempfile.mkdtemp(prefix="dunlin-matrix-")
    if os.path.isdir(out) and os.path.exists(os.path.join(out, "seeds")):
        raise LabError("%s holds the results of an earlier matrix" % out)
    os.makedirs(out, exist_ok=True)
    keep = bool(args.out)
    try:
        result = Matrix(args, out).run()
        keep = keep or result["failed"] > 0
    except KeyboardInterrupt:
        raise
    except (LabError, swarm.nodes.Failed) as problem:
        keep = True
        raise LabError("%s (logs: %s)" % (problem, out)) from None
    finally:
        if not keep:
            shutil.rmtree(out, ignore_errors=True)
    if args.json:
        print(json.dumps(result))
    else:
        print(summary(result["pairs"]))
        kept = "; logs and traces: %s" % out if keep else ""
        print(
            "matrix: %d passed, %d failed, %.0f s%s"
            % (result["passed"], result["failed"], result["seconds"], kept)
        )
    return 1 if result["failed"] else 0
