"""Routes die, return and change while data moves between two real nodes: how long does it pause?

All of it happens to one QUIC connection.  The pauses are the transfer's own figures: where in-order delivery
at the receiver stood still.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import faults
import swarm
from lab import Lab
from space import LabError

PUBLIC = ["p1", "p2", "p3", "p4"]
EVENTS = ["cut", "flush", "rebind", "readdress", "move", "outage", "relay", "life"]
ALLOWED_MS = 500  # where another route exists, as every row but these
ALLOWED_LATER_MS = {"return": 1000, "relay": 3000, "life": 300}
DIRECT = ("lan", "direct6", "direct4", "mapped", "punched")
SETTLE_SECONDS = 3  # on the expected path before something happens
STEP_SECONDS = 40  # after several deaths within a minute better routes are taken up to 32 s late
OUTAGE_SECONDS = 4
CLOCK_MS = 150  # between the command's start and the daemon's
LIFE_SECONDS = 200
MAPPING_MS = 20000  # the life of the mappings of kind life
MOST_AGAIN = 2  # transfers that ended in the midst of an event, and so say nothing of it


def median(values):
    known = sorted(values)
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2


class Transfer:
    """Bytes under way from one node to another; times are in ms since its start."""

    def __init__(self, sender, receiver, size):
        self.sender, self.receiver, self.size = sender, receiver, size
        self.began = time.monotonic()
        words = [sender.programs.dunlin, "-d", sender.dir, "speed", receiver.id]
        words += ["--bytes", str(size), "--json", "--timeout", "120"]
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.result = None

    def now_ms(self):
        return 1000 * (time.monotonic() - self.began)

    def running(self):
        return self.process.poll() is None

    def wait(self, seconds):
        """Its result.  LabError: it was not whole, or did not end."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            raise LabError("the transfer did not end within %d s" % seconds) from None
        if self.process.returncode != 0:
            raise LabError("the transfer failed: %s" % err.strip())
        self.result = json.loads(out.splitlines()[-1])
        if not self.result["intact"] or self.result["bytes"] != self.size:
            raise LabError("the transfer is not intact: %s" % out)
        return self.result

    def stop(self):
        if self.running():
            self.process.kill()
            self.process.communicate()

    def gaps(self, begin_ms, end_ms):
        """Pauses that touch this span."""
        return [
            gap
            for gap in self.result["gaps"]
            if gap["at_ms"] < end_ms and gap["at_ms"] + gap["ms"] > begin_ms - CLOCK_MS
        ]


class Roam:
    def __init__(self, args, out):
        self.args, self.out = args, out
        self.events = args.only.split(",") if args.only else EVENTS
        for name in self.events:
            if name not in EVENTS:
                raise LabError("'%s' is no event; there are: %s" % (name, " ".join(EVENTS)))
        self.lab = Lab(args.name if args.name != "lab" else "roam")
        self.nodes = {}
        self.transfer = None
        self.open_rows = []  # of the transfer under way
        self.rows = []
        self.transfers = []
        self.connected_at = {}

    def say(self, text):
        print(text, file=sys.stderr if self.args.json else sys.stdout, flush=True)

    def scenario(self):
        # Their NATs can be passed, and give other ports after a restart.
        lines = ["public " + " ".join(PUBLIC), "home a eimrand", "home b eimrand"]
        names = ["a", "b"]
        if "life" in self.events:
            lines += ["home c life", "home d eimrand"]
            names += ["c", "d"]
        lines += ["link %s rate=%s delay=10ms" % (name, self.args.rate) for name in names]
        return "\n".join(lines) + "\n", names

    def run(self):
        text, homes = self.scenario()
        began = time.monotonic()
        self.lab.up(text, "roam")
        try:
            if not self.args.out:
                self.lab.own_scratch(self.out)
            self.nodes = swarm.start_all(swarm.programs(), self.out, self.lab, PUBLIC, homes, self.say)
            self.say("all nodes run after %.1f s" % (time.monotonic() - began))
            self.roam()
            if "life" in self.events:
                self.live()
        except LabError:
            self.keep_traces("end")
            raise
        finally:
            if self.transfer:
                self.transfer.stop()
            swarm.stop_all(self.nodes)
            self.lab.down()
        return self.outcome(time.monotonic() - began)

    # --- what is going on -----------------------------------------------------------------------------------

    def path(self, name="a", other="b"):
        path, via_tcp = self.nodes[name].path_to(self.nodes[other].id)
        return "tcp" if via_tcp and path == "direct" else path

    def wait_path(self, wanted, seconds=STEP_SECONDS, held=SETTLE_SECONDS):
        """Until the path has been one of these so long; the last path seen."""
        deadline = time.monotonic() + seconds + held
        since = None
        path = None
        while time.monotonic() < deadline:
            path = self.path()
            if path not in wanted:
                since = None
            elif since is None:
                since = time.monotonic()
            if since is not None and time.monotonic() >= since + held:
                break
            time.sleep(0.1)
        return path

    def same_connection(self, name, other):
        """LabError: the connection was made anew since this was asked first."""
        answer = self.nodes[name].ask("peers", seconds=20)
        for peer in answer["peers"]:
            if peer["id"] != self.nodes[other].id or not peer["connected"]:
                continue
            at = time.monotonic() - peer["since_s"]
            if abs(at - self.connected_at.setdefault(name, at)) > 2:
                raise LabError("the connection of %s to %s was made anew" % (name, other))
            return
        raise LabError("%s is not connected to %s" % (name, other))

    def keep_traces(self, event):
        """What all remember of their peers goes to files."""
        for name, other in (("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")):
            if name not in self.nodes or not self.nodes[name].alive():
                continue
            path = os.path.join(self.out, "trace-%s-%s.txt" % (event.replace(" ", "-"), name))
            with open(path, "w", encoding="utf-8") as file:
                file.write(self.nodes[name].trace(self.nodes[other].id))

    # --- transfers ------------------------------------------------------------------------------------------

    def begin(self):
        """A transfer is under way; the last one's pauses are found if it has ended."""
        if self.transfer and self.transfer.running():
            return
        self.end()
        self.transfer = Transfer(self.nodes["a"], self.nodes["b"], self.args.bytes)
        path = self.wait_path(DIRECT)
        if path not in DIRECT:
            raise LabError("the path at the beginning is %s" % path)
        self.same_connection("a", "b")
        self.same_connection("b", "a")

    def end(self):
        """Waits for the transfer, and finds the pauses of what happened meanwhile."""
        if not self.transfer:
            return
        result = self.transfer.wait(30 + self.args.bytes / 100000)
        shortest = min([gap["ms"] for gap in result["gaps"]], default=0)
        for row in self.open_rows:
            pauses = self.transfer.gaps(row["at_ms"], row["until_ms"])
            if row["event"] == "return":  # from there on, not from where it broke off
                spanning = [gap for gap in pauses if gap["at_ms"] < row["acted_ms"]]
                row["pause_ms"] = max([0] + [gap["at_ms"] + gap["ms"] - row["at_ms"] for gap in spanning])
            else:  # those that are not named are shorter than all that are
                row["pause_ms"] = max([shortest] + [gap["ms"] for gap in pauses])
            self.rows.append(row)
        self.transfers.append(
            {name: result[name] for name in ("bytes", "seconds", "mbps", "intact", "longest_gap_ms", "gaps")}
        )
        self.say("%d MiB intact, %.1f Mbit/s" % (result["bytes"] >> 20, result["mbps"]))
        self.open_rows, self.transfer = [], None

    def step(self, event, wanted, *actions):
        """One thing happens, and the path is to become one of those wanted.  False: the transfer ended."""
        row = {"event": event, "before": self.path(), "at_ms": self.transfer.now_ms()}
        for action in actions:
            action()
        row["acted_ms"] = self.transfer.now_ms()
        row["after"] = self.wait_path(wanted)
        row["until_ms"] = self.transfer.now_ms()
        row["ok"] = row["after"] in wanted
        if not self.transfer.running():
            return False
        self.open_rows.append(row)
        self.say("%-12s %s > %s" % (event, row["before"], row["after"]))
        if self.args.out or not row["ok"]:
            self.keep_traces("%d-%s" % (len(self.rows) + len(self.open_rows), event))
        return True

    # --- events ---------------------------------------------------------------------------------------------

    def fault(self, name, *words):
        return lambda: faults.ACTIONS[name][0](self.lab, *words)

    def cut(self):
        going = self.step("cut", ("relayed",), self.fault("cut", "a", "b"))
        return self.step("heal", DIRECT, self.fault("heal", "a", "b")) and going

    def flush(self):
        return self.step("flush", DIRECT, self.fault("flush", "a"))

    def rebind(self):
        return all(self.step("rebind " + name, DIRECT, self.fault("rebind", name)) for name in ("a", "b"))

    def readdress(self):
        return all(
            self.step("readdress " + name, DIRECT, self.fault("readdress", name + ".router"))
            for name in ("a", "b")
        )

    def move(self):
        return all(self.step("move " + name, DIRECT, self.fault("readdress", name)) for name in ("a", "b"))

    def outage(self):
        """Nothing gets through to or from one side; the sole route returns."""
        self.lab.change_link("a", ["loss=100%"])
        time.sleep(OUTAGE_SECONDS)
        return self.step("return", DIRECT, lambda: self.lab.change_link("a", ["loss=0%"]))

    def relay(self):
        """The relay in use dies while there is no direct route."""
        going = self.step("cut", ("relayed",), self.fault("cut", "a", "b"))
        relay = self.relay_in_use()
        if relay is None:
            return self.step("heal", DIRECT, self.fault("heal", "a", "b")) and going
        going = self.step("relay", ("relayed",), self.fault("kill", relay)) and going
        self.nodes[relay].kill()
        self.nodes[relay].start()
        return self.step("heal", DIRECT, self.fault("heal", "a", "b")) and going

    def relay_in_use(self):
        """Host name of the relay that a's packets go through now, or None."""
        for peer in self.nodes["a"].ask("peers")["peers"]:
            if peer["id"] == self.nodes["b"].id and peer.get("path") == "relayed":
                ip = peer["addr"].rsplit(":", 1)[0]
                for name in PUBLIC:
                    if self.lab.site(name)["wan4"] == ip:
                        return name
        return None

    def roam(self):
        for _ in range(self.args.times):
            for name in self.events:
                if name == "life":
                    continue
                for again in range(1 + MOST_AGAIN):
                    self.begin()
                    if getattr(self, name)():
                        break
                self.same_connection("a", "b")
                self.same_connection("b", "a")
        self.end()

    def life_known(self):
        """Seconds that the node believes a mapping to live, or None."""
        for family in self.nodes["c"].ask("nat")["families"]:
            if family["family"] == "ipv4":
                return family["life_s"]
        return None

    def live(self):
        """Mappings of one side end after 20 s however busy they are."""
        size = int(LIFE_SECONDS * bits_of(self.args.rate) / 8 * 0.8)
        transfer = self.transfer = Transfer(self.nodes["c"], self.nodes["d"], size)
        known_ms = None
        while transfer.running():
            time.sleep(0.5)
            if known_ms is None and self.life_known():
                known_ms = transfer.now_ms()
                self.say("life of mappings learnt after %.0f s" % (known_ms / 1000))
            if transfer.now_ms() > 10000:
                self.same_connection("c", "d")
        result = transfer.wait(30)
        self.transfer = None
        self.transfers.append(result)
        # The mapping in use may be about to end when it is learnt that they end; what replaces it need not.
        known_ms = known_ms + MAPPING_MS if known_ms else 1000 * result["seconds"]
        if self.args.out:
            self.keep_traces("life")
        for name, begin, end in (("life learning", 0, known_ms), ("life", known_ms, 1e12)):
            # The death that taught it began before it was known.
            pauses = [gap["ms"] for gap in result["gaps"] if begin <= gap["at_ms"] < end]
            self.rows.append(
                {
                    "event": name,
                    "before": "direct",
                    "after": self.path("c", "d"),
                    "at_ms": begin,
                    "until_ms": min(end, 1000 * result["seconds"]),
                    "pause_ms": max([0] + pauses),
                    "ok": name != "life" or known_ms < 1000 * result["seconds"] - 90000,
                }
            )

    # --- results --------------------------------------------------------------------------------------------

    def outcome(self, seconds):
        table = []
        for name in dict.fromkeys(row["event"] for row in self.rows):
            rows = [row for row in self.rows if row["event"] == name]
            pause = median([row["pause_ms"] for row in rows])
            allowed = None if name == "life learning" else ALLOWED_LATER_MS.get(name, ALLOWED_MS)
            table.append(
                {
                    "event": name,
                    "times": len(rows),
                    "pause_ms": round(pause),
                    "longest_ms": round(max(row["pause_ms"] for row in rows)),
                    "allowed_ms": allowed,
                    "before": sorted({row["before"] or "none" for row in rows}),
                    "after": sorted({row["after"] or "none" for row in rows}),
                    "ok": all(row["ok"] for row in rows) and (allowed is None or pause <= allowed),
                }
            )
        result = {
            "events": table,
            "rows": self.rows,
            "transfers": self.transfers,
            "same_connection": True,  # else LabError has ended the run
            "ok": all(row["ok"] for row in table),
            "seconds": round(seconds, 1),
        }
        with open(os.path.join(self.out, "roam.json"), "w", encoding="ascii") as file:
            json.dump(result, file, indent=1)
        return result


def bits_of(text):
    return float(text[:-1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[text[-1]]


def summary(table):
    lines = ["event          times  pause ms  longest  allowed  path"]
    for row in table:
        lines.append(
            "%-14s %5d  %8d %8d %8s  %s > %s%s"
            % (
                row["event"],
                row["times"],
                row["pause_ms"],
                row["longest_ms"],
                "-" if row["allowed_ms"] is None else row["allowed_ms"],
                " ".join(row["before"]),
                " ".join(row["after"]),
                "" if row["ok"] else "  FAIL",
            )
        )
    return "\n".join(lines)


def main(args):
    out = args.out or tempfile.mkdtemp(prefix="dunlin-roam-")
    if os.path.isdir(out) and os.path.exists(os.path.join(out, "seeds")):
        raise LabError("%s holds the results of an earlier run" % out)
    os.makedirs(out, exist_ok=True)
    keep = bool(args.out)
    try:
        result = Roam(args, out).run()
        keep = keep or not result["ok"]
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
        print(summary(result["events"]))
        kept = "; logs: %s" % out if keep else ""
        print("roam: %s, %.0f s%s" % ("ok" if result["ok"] else "FAILED", result["seconds"], kept))
    return 0 if result["ok"] else 1
