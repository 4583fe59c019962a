"""Measures every kind of NAT with sockets from two observers, and compares with what it claims to be."""

import concurrent.futures
import json
import socket
import time

import faults
import probe
import rules
from lab import Lab
from space import LabError

# Beyond the kinds alone: what only shows with two routers or two hosts.
EXTRAS = {
    "symseq3": ("home {n} symseq step=3", {"mapping": "APD", "filtering": "APD", "step": 3}),
    "masq2": ("carrier {n}-c masq\nhome {n} masq behind={n}-c", {"mapping": "EI", "filtering": "APD"}),
    "masqcone": ("carrier {n}-c fullcone\nhome {n} masq behind={n}-c", {"mapping": "EI", "filtering": "APD"}),
    "masqsym": ("carrier {n}-c symrand\nhome {n} masq behind={n}-c", {"mapping": "APD", "filtering": "APD"}),
    "hairpin": ("home {n} fullcone hairpin hosts=2", {"mapping": "EI", "filtering": "EI", "hairpin": True}),
    "nohairpin": ("home {n} fullcone hosts=2", {"mapping": "EI", "filtering": "EI", "hairpin": False}),
    "archairpin": ("home {n} arc hairpin hosts=2", {"mapping": "EI", "filtering": "AD", "hairpin": True}),
    "shaped": ("home {n} masq\nlink {n} delay=10ms rate=50M", {"mapping": "EI", "filtering": "APD"}),
    "slow": ("home {n} masq\nlink {n} rate=20M", {"mapping": "EI", "filtering": "APD"}),
}
KEEPS_PORT = ("pub", "pubfw", "masq", "masqopen", "fullcone", "arc")
OBSERVERS = ["o1", "o2"]
AT_ONCE = 8


def expectations(kind):
    """What the sockets must find at a kind."""
    if kind in EXTRAS:
        return dict(EXTRAS[kind][1])
    options = rules.expand(kind, [])
    wanted = {
        "mapping": options["mapping"],
        "filtering": options["filtering"],
        "answers": options["input_open"],
    }
    if kind in KEEPS_PORT:
        wanted["keeps port"] = True
    elif kind in ("eimrand", "life", "adm", "symrand"):
        wanted["keeps port"] = False
    if kind == "symseq":
        wanted["step"] = 1
    if options["block"]:
        wanted["tcp 443"] = True
        wanted["tcp 80"] = options["block"] == "udp"
    if options["ipv6"]:
        wanted["ipv6"] = "EI/APD"
    if options["portmap"]:
        wanted["mapped port"] = True
    return wanted


def scenario_text(kinds):
    lines = ["public %s" % " ".join(OBSERVERS)]
    for kind in kinds:
        lines.append(EXTRAS[kind][0].format(n=kind) if kind in EXTRAS else "home %s %s" % (kind, kind))
    return "\n".join(lines) + "\n"


def measure(lab, kind, wanted):
    """Every property that the kind claims, as found."""
    found = probe.examine(lab, kind, OBSERVERS)
    ports = found.pop("ports")
    local = found.pop("local")
    if ports[0] is not None:
        found["ports"] = ports
    if "keeps port" in wanted:
        found["keeps port"] = ports[0] == local
    if "step" in wanted:
        # Foreign flows may come in between, but never make a step that is no multiple.
        steps = {b - a for a, b in zip(ports, ports[1:])} if None not in ports else {0}
        found["step"] = steps.pop() if len(steps) == 1 else sorted(steps)
    if "answers" in wanted:
        found["answers"] = probe.router_answers(lab, kind, OBSERVERS)
    for port in (443, 80):
        if "tcp %d" % port in wanted:
            found["tcp %d" % port] = probe.tcp_connects(lab, kind, OBSERVERS[0], port)
    if "ipv6" in wanted:
        six = probe.examine(lab, kind, OBSERVERS, socket.AF_INET6)
        found["ipv6"] = "%s/%s" % (six["mapping"], six["filtering"])
    if "mapped port" in wanted:
        found["mapped port"] = mapped_port_works(lab, kind)
    if "hairpin" in wanted:
        found["hairpin"] = hairpin_works(lab, kind)
    return found


def mapped_port_works(lab, kind):
    """A stranger's first packet reaches the mapped port, and the router's other protocols are not there."""
    inner, stranger = probe.Udp(lab, kind), probe.Udp(lab, OBSERVERS[1])
    try:
        return probe.arrives(stranger, inner, probe.map_port(lab, kind, kind, inner.port))
    except OSError as problem:
        return str(problem)
    finally:
        inner.close()
        stranger.close()


def hairpin_works(lab, kind):
    """Two hosts of one home by the router's outside: both ways, and seen with the outside's address."""
    observers = probe.Observers(lab, OBSERVERS)
    one, two = probe.Udp(lab, kind), probe.Udp(lab, kind + ".2")
    try:
        outside = [probe.ask(host, observers.sockets[0], observers.address(0)) for host in (one, two)]
        # Each has spoken to the router's own address, which an address-restricted one asks for.
        one.send(tuple(outside[1]), b"opener")
        seen = probe.ask(two, one, outside[0])
        return seen is not None and seen == outside[1]
    finally:
        for each in (observers, one, two):
            each.close()


def life_ends(lab, kind, seconds):
    """Seconds that a busy mapping of the kind "life" lived."""
    observers = probe.Observers(lab, OBSERVERS)
    inner = probe.Udp(lab, kind)
    try:
        began = time.monotonic()
        first = probe.ask(inner, observers.sockets[0], observers.address(0))
        while time.monotonic() < began + 2 * seconds:
            if probe.ask(inner, observers.sockets[0], observers.address(0)) != first:
                return time.monotonic() - began
            time.sleep(0.2)
        return None
    finally:
        observers.close()
        inner.close()


def faults_work(lab):
    """Each fault does what it says, to the home "masq" and the host "pub": name -> True or what was seen."""
    results = {}
    observers = probe.Observers(lab, OBSERVERS)
    home, host = probe.Udp(lab, "masq"), probe.Udp(lab, "pub")
    at = (lab.site("pub")["wan4"], host.port)
    try:
        faults.cut(lab, "masq", "pub")
        results["cut"] = not probe.ask(home, host, at) and bool(
            probe.ask(home, observers.sockets[0], observers.address(0))
        )
        faults.heal(lab, "masq", "pub")
        before = probe.ask(home, host, at)
        results["heal"] = before is not None
        faults.flush(lab, "masq")
        inbound = probe.arrives(host, home, before)
        results["flush"] = not inbound and probe.ask(home, host, at) == before
        faults.rebind(lab, "masq")
        after = probe.ask(home, host, at)
        results["rebind"] = after is not None and after != before and after[0] == before[0]
        faults.readdress(lab, "masq.router")
        moved = probe.ask(home, host, at)
        results["readdress router"] = moved is not None and moved[0] == lab.site("masq")["wan4"] != before[0]
        faults.readdress(lab, "masq")
        results["readdress host"] = probe.ask(home, host, at) is not None
        faults.readdress(lab, "pub")
        results["readdress public"] = probe.ask(home, host, (lab.site("pub")["wan4"], host.port)) is not None
    finally:
        for each in (observers, home, host):
            each.close()
    return results


def round_trip_ms(inner, there, at):
    """The fastest of nine round trips, None if none came back: a busy machine adds to a link's delay, nothing
    takes from it.  More are tried while even the fastest was plainly held up.
    """
    times = []
    for number in range(60):
        began = time.monotonic()
        seen = probe.ask(inner, there, at)
        if seen and probe.arrives(there, inner, seen):
            times.append(1000 * (time.monotonic() - began))
        if number >= 8 and (not times or min(times) < 40):
            break
    return min(times, default=None)


def links_work(lab):
    """The home "shaped": the delay of its link both ways, then a loss that it gets while it runs."""
    observers = probe.Observers(lab, OBSERVERS)
    inner = probe.Udp(lab, "shaped")
    at, there = observers.address(0), observers.sockets[0]
    try:
        fastest = round_trip_ms(inner, there, at)
        lab.change_link("shaped", ["loss=40%", "delay=1ms"])
        # The forwarder takes its new shape when it gets to the signal; until then this is the old one.
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            began = time.monotonic()
            if probe.arrives(inner, there, at) and time.monotonic() - began < 0.006:
                break
        for number in range(500):
            inner.send(at, b"loss %d" % number)
        got = there.count(b"loss ", 0.5)
    finally:
        observers.close()
        inner.close()
    delayed = fastest is not None and 20 <= fastest < 40
    return {"rtt 20 ms": delayed or fastest, "loss 40%": 240 <= got <= 360 or got}


def compare(wanted, found):
    return {name: value for name, value in wanted.items() if found.get(name) != value}


def examine_kind(lab, kind):
    wanted = expectations(kind)
    found = measure(lab, kind, wanted)
    if kind == "life":
        # The reaper looks twice a second, and so do we.
        lived = life_ends(lab, kind, rules.KINDS["life"]["life_s"])
        found["life_s"] = round(lived, 1) if lived else None
        wanted["life_s"] = found["life_s"] if lived and 19 <= lived <= 23 else "19 to 23"
    return {"kind": kind, "found": found, "wrong": compare(wanted, found)}


def examine_all(lab, kinds):
    """Most of the time goes by waiting for packets that must not come, so many kinds wait at once."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        rows = list(pool.map(lambda kind: examine_kind(lab, kind), kinds))
    for name, work, needed in (
        ("(faults)", faults_work, {"masq", "pub"}),
        ("(links)", links_work, {"shaped"}),
    ):
        if needed <= set(kinds):
            results = work(lab)
            wrong = {name: True for name, value in results.items() if value is not True}
            rows.append({"kind": name, "found": results, "wrong": wrong})
    return rows


def main(args):
    every = list(rules.KINDS) + list(EXTRAS)
    unknown = [kind for kind in args.kinds if kind not in every]
    if unknown:
        raise LabError("unknown kinds %s: %s" % (" ".join(unknown), " ".join(every)))
    kinds = args.kinds or every
    lab = Lab(args.name if args.name != "lab" else "verify")
    began = time.monotonic()
    lab.up(scenario_text(kinds), "verify")
    try:
        rows = examine_all(lab, kinds)
    finally:
        lab.down()
    failed = [row for row in rows if row["wrong"]]
    if args.json:
        print(
            json.dumps(
                {
                    "kinds": rows,
                    "passed": len(rows) - len(failed),
                    "failed": len(failed),
                    "seconds": round(time.monotonic() - began, 1),
                }
            )
        )
        return 1 if failed else 0
    for row in rows:
        words = ", ".join("%s %s" % pair for pair in row["found"].items())
        print("%-11s %s  %s" % (row["kind"], "WRONG" if row["wrong"] else "ok   ", words))
        for name, value in row["wrong"].items():
            print("%-11s        %s must be %s" % ("", name, value))
    print(
        "verify: %d passed, %d failed, %.1f s"
        % (len(rows) - len(failed), len(failed), time.monotonic() - began)
    )
    return 1 if failed else 0
