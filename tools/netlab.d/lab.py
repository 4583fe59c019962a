"""One laboratory: brought up from a scenario, changed while it runs, taken down without a trace.

Everything a lab makes carries its name: namespaces begin with its prefix, files lie in its state directory,
and its processes live in its namespaces.  So `down` needs nothing but the name, whatever became of who
called `up`.
"""

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import time

import rules
import scenario
import space
from space import LabError

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
WAN = "wan"
ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    # Frames between two hosts of one LAN would otherwise pass the router's rules for routed packets.
    "net/bridge/bridge-nf-call-iptables": 0,
    "net/bridge/bridge-nf-call-ip6tables": 0,
}
ALL_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    # Otherwise IPv6 addresses cannot be used for their first second.
    "net/ipv6/conf/all/accept_dad": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/all/accept_ra": 0,
    "net/ipv6/conf/default/accept_ra": 0,
}
LAB_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}$")


def state_root():
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        return os.path.join(base, "dunlin-netlab")
    return "/tmp/dunlin-netlab-%d" % os.geteuid()


class Lab:
    def __init__(self, name):
        if not LAB_NAME.match(name):
            raise LabError("'%s' is not a usable lab name: small letters, digits and -" % name)
        self.name = name
        # The name ends in a character that names cannot hold, so that no prefix is the beginning of another.
        self.prefix = "netlab-%s_" % name
        self.dir = os.path.join(state_root(), name)
        self.sites = []

    # --- names ---------------------------------------------------------------------------------------------

    def space(self, name):
        return self.prefix + name

    def router_space(self, site):
        return self.space(site["name"] + ".router" if site["router"] else site["name"])

    def site(self, name):
        """A site by its name or by one of its hosts or its router."""
        for site in self.sites:
            if name in (site["name"], site["name"] + ".router") or name in scenario.host_names(site):
                return site
        raise LabError(
            "the lab %s has no %s; it has %s"
            % (self.name, name, " ".join(site["name"] for site in self.sites))
        )

    def hosts(self):
        return [name for site in self.sites for name in scenario.host_names(site)]

    def resolve(self, name):
        """The namespace behind a name that a person gives: a host, NAME.router, a carrier, or wan."""
        for candidate in (name, name + ".router"):
            if self.space(candidate) in space.names(self.prefix):
                return self.space(candidate)
        self.site(name)
        raise LabError("the lab %s is not up" % self.name)

    def outermost(self, site):
        """The site whose public address the world sees: the carrier, for a home behind one."""
        while site["behind"]:
            site = self.site(site["behind"])
        return site

    def host_address(self, name):
        """IPv4 address of a host in its own network."""
        site = self.site(name)
        if not site["router"]:
            return site["wan4"]
        moved = site.get("moved", {})
        index = scenario.host_names(site).index(name)
        return "%s.%d" % (site["lan4"], moved.get(name, 10 + index))

    # --- state ---------------------------------------------------------------------------------------------

    def save(self):
        path = os.path.join(self.dir, "state.json")
        with open(path + ".new", "w", encoding="ascii") as file:
            json.dump({"name": self.name, "sites": self.sites}, file, indent=1)
        os.replace(path + ".new", path)

    def load(self):
        try:
            with open(os.path.join(self.dir, "state.json"), encoding="ascii") as file:
                self.sites = json.load(file)["sites"]
        except (OSError, ValueError, KeyError):
            raise LabError("the lab %s is not up: tools/netlab up SCENARIO" % self.name) from None
        return self

    # --- up ------------------------------------------------------------------------------------------------

    def up(self, text, source):
        """Builds everything or nothing.  LabError: the scenario is wrong, or the machine refuses."""
        self.sites = scenario.parse(text, source)
        self.claim()
        try:
            self.save()
            self.build()
        except BaseException:
            with contextlib.suppress(LabError):
                self.down()
            raise

    def claim(self):
        """Takes the name, against another `up` at the same moment."""
        os.makedirs(state_root(), mode=0o700, exist_ok=True)
        lock = os.open(state_root(), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(self.dir) or space.names(self.prefix):
                raise LabError("the lab %s exists: tools/netlab --name %s down" % (self.name, self.name))
            os.makedirs(self.dir, 0o700)
        finally:
            os.close(lock)

    def build(self):
        spaces = [self.space(WAN)]
        for site in self.sites:
            spaces += [self.space(name) for name in scenario.host_names(site)]
            if site["router"]:
                spaces.append(self.router_space(site))
        space.ip_batch(["netns add " + name for name in spaces])
        routers = {self.space(WAN)} | {self.router_space(site) for site in self.sites if site["router"]}
        for name in spaces:
            space.sysctl(name, dict(ALL_SYSCTLS, **(ROUTER_SYSCTLS if name in routers else {})))
        self.make_links()
        self.address_wan()
        for site in self.sites:
            self.address_site(site)
            self.set_rules(site)
        for site in self.sites:
            self.set_rate(site)
            self.start_daemons(site)

    def make_links(self):
        """Cables: one from each site to the wan or to its carrier, one from each host to its router."""
        cables = []
        for site in self.sites:
            inner = self.router_space(site)
            outer, port = self.uplink(site)
            if scenario.needs_forwarder(site.get("link", {})):
                self.start_forwarder(site, inner, outer, port)
            else:
                cables.append(
                    "link add name wan0 netns %s type veth peer name %s netns %s" % (inner, port, outer)
                )
            for index, host in enumerate(scenario.host_names(site) if site["router"] else []):
                cables.append(
                    "link add name eth0 netns %s type veth peer name h%d netns %s"
                    % (self.space(host), index, inner)
                )
        space.ip_batch(cables)

    def uplink(self, site):
        """Where a site's cable ends: (namespace, name of the interface there)."""
        behind = site["behind"]
        return self.router_space(self.site(behind)) if behind else self.space(WAN), "w%d" % site["number"]

    def start_forwarder(self, site, inner, outer, port):
        shape = self.write_shape(site)
        log = os.path.join(self.dir, "wan-%s.log" % site["name"])
        process = space.start(
            [forwarder(), "--shape", shape, inner, "wan0", outer, port], self.space(WAN), log
        )
        with open(os.path.join(self.dir, "wan-%s.pid" % site["name"]), "w", encoding="ascii") as file:
            file.write(str(process.pid))
        deadline = time.monotonic() + 10
        while not (has_interface(inner, "wan0") and has_interface(outer, port)):
            if process.poll() is not None or time.monotonic() > deadline:
                with open(log, encoding="utf-8", errors="replace") as file:
                    raise LabError("the link forwarder of %s did not start: %s" % (site["name"], file.read()))
            time.sleep(0.005)

    def write_shape(self, site):
        """Both directions as numbers, in the words of tools/wan."""
        link = site["link"]
        path = os.path.join(self.dir, "wan-%s.shape" % site["name"])
        with open(path + ".new", "w", encoding="ascii") as file:
            for side in ("up", "down"):
                rate = link.get(side, 0)
                queue = rate // 8 * link.get("queue", 100000) // 1000000
                file.write(
                    "rate_bps=%d queue_bytes=%d delay_us=%d jitter_us=%d loss_ppm=%d reorder_ppm=%d\n"
                    % (
                        rate,
                        max(queue, 3000) if rate else 0,
                        link.get("delay", 0),
                        link.get("jitter", 0),
                        link.get("loss", 0),
                        link.get("reorder", 0),
                    )
                )
        os.replace(path + ".new", path)
        return path

    def address_wan(self):
        # Private numbers do not exist out here; as on the internet, nobody even says so.
        lines = ["link set dev lo up", "route add blackhole default", "route add blackhole ::/0"]
        for site in self.sites:
            if site["behind"]:
                continue
            port = "w%d" % site["number"]
            lines += [
                "link set dev %s up" % port,
                "addr add %s/24 dev %s" % (site["gate4"], port),
                "addr add %s/64 dev %s" % (site["gate6"], port),
                "route add 2a01:%d::/48 via %s dev %s" % (site["number"], site["wan6"], port),
            ]
        space.ip_batch(lines, self.space(WAN))

    def address_site(self, site):
        """Addresses and routes of a router, or of the host that has none, and of the hosts behind it."""
        lines = ["link set dev lo up", "link set dev wan0 up"] + self.wan_addresses(site)
        if site["router"]:
            lines += [
                "link add lan0 type bridge forward_delay 0",
                "link set dev lan0 up",
                "addr add %s.1/24 dev lan0" % site["lan4"],
                "link set dev lan0 multicast on",
            ]
            if site["lan6"]:
                lines.append("addr add %s::1/64 dev lan0" % site["lan6"])
            ports = ["h%d" % i for i in range(site["hosts"])]
            ports += ["w%d" % other["number"] for other in self.sites if other["behind"] == site["name"]]
            for port in ports:
                lines += self.lan_port(site, port)
        space.ip_batch(lines, self.router_space(site))
        for host in scenario.host_names(site) if site["router"] else []:
            space.ip_batch(
                ["link set dev lo up", "link set dev eth0 up"] + self.host_addresses(site, host),
                self.space(host),
            )

    def lan_port(self, site, port):
        """A veth joins the bridge; the end of a shaped link is no Ethernet and is routed to instead."""
        customer = next((s for s in self.sites if "w%d" % s["number"] == port), None)
        if customer is None or not scenario.needs_forwarder(customer.get("link", {})):
            return ["link set dev %s master lan0 up" % port]
        return [
            "link set dev %s up" % port,
            "addr add %s.1/32 dev %s" % (site["lan4"], port),
            "route add %s/32 dev %s" % (customer["wan4"], port),
        ]

    def wan_addresses(self, site):
        lines = [
            "addr add %s/24 dev wan0" % site["wan4"],
            "route replace default via %s dev wan0" % site["gate4"],
        ]
        if site["wan6"] and (not site["router"] or site["ipv6"]):
            lines += [
                "addr add %s/64 dev wan0" % site["wan6"],
                "route replace ::/0 via %s dev wan0" % site["gate6"],
            ]
        return lines

    def host_addresses(self, site, host):
        lines = [
            "addr add %s/24 dev eth0" % self.host_address(host),
            "route replace default via %s.1 dev eth0" % site["lan4"],
        ]
        if site["lan6"]:
            index = scenario.host_names(site).index(host)
            lines += [
                "addr add %s::%d/64 dev eth0" % (site["lan6"], 10 + index),
                "route replace ::/0 via %s::1 dev eth0" % site["lan6"],
            ]
        return lines

    def set_rules(self, site):
        where = self.router_space(site)
        if site["router"]:
            space.nft(where, rules.router(site))
        elif site["firewall"]:
            space.nft(where, rules.host_firewall())

    # --- links ---------------------------------------------------------------------------------------------

    def set_rate(self, site):
        """A plain rate: the kernel's token bucket at both ends, with a queue as long as the link says."""
        link = site.get("link")
        if not link or scenario.needs_forwarder(link):
            return
        outer, port = self.uplink(site)
        for side, where, device in (("up", self.router_space(site), "wan0"), ("down", outer, port)):
            if side in link:
                latency = link.get("queue", 100000)
                space.run(
                    [
                        "tc",
                        "-n",
                        where,
                        "qdisc",
                        "replace",
                        "dev",
                        device,
                        "root",
                        "tbf",
                        "rate",
                        "%dbit" % link[side],
                        "burst",
                        str(max(link[side] // 8 // 250, 65536)),
                        "latency",
                        "%dus" % latency,
                    ]
                )

    def change_link(self, name, words):
        """New figures for a site's link.  Those not given stay."""
        site = self.site(name)
        old = site.get("link", {})
        new = dict(old, **scenario.parse_link(words))
        if scenario.needs_forwarder(new) and not scenario.needs_forwarder(old):
            raise LabError(
                "the link of %s can only have a rate: give it a delay, jitter, loss or reorder in the "
                "scenario (delay=0us will do), and everything can change later" % site["name"]
            )
        site["link"] = new
        self.save()
        if not scenario.needs_forwarder(new):
            self.set_rate(site)
            return
        self.write_shape(site)
        with open(os.path.join(self.dir, "wan-%s.pid" % site["name"]), encoding="ascii") as file:
            pid = int(file.read())
        if pid not in space.processes([self.space(WAN)]):
            raise LabError("the link forwarder of %s is gone" % site["name"])
        os.kill(pid, signal.SIGHUP)

    # --- daemons -------------------------------------------------------------------------------------------

    def start_daemons(self, site):
        if site["router"] and site["life_s"]:
            space.start(
                [sys.executable, os.path.join(HERE, "reaper.py"), str(site["life_s"])],
                self.router_space(site),
                os.path.join(self.dir, "reaper-%s.log" % site["name"]),
            )
        if site["router"] and site["portmap"]:
            self.start_portmap(site)

    def start_portmap(self, site):
        """The real miniupnpd, speaking only the protocol that this router is to know."""
        program = shutil.which("miniupnpd") or "/usr/sbin/miniupnpd"
        if not os.path.exists(program):
            raise LabError("%s needs miniupnpd: tools/install-deps test" % site["name"])
        upnp = "yes" if site["portmap"] == "upnp" else "no"
        other = "no" if site["portmap"] == "upnp" else "yes"
        base = os.path.join(self.dir, "miniupnpd-%s" % site["name"])
        lines = [
            "ext_ifname=wan0",
            "listening_ip=lan0",
            "http_port=0",
            "enable_upnp=" + upnp,
            "enable_natpmp=" + other,
            "secure_mode=yes",
            "upnp_table_name=fw",
            "upnp_forward_chain=upnp_fwd",
            "upnp_nat_table_name=upnp_nat",
            "upnp_nat_chain=upnp_pre",
            "upnp_nat_postrouting_chain=upnp_post",
            "lease_file=%s.leases" % base,
            "uuid=%08x-0000-4000-8000-%012x" % (site["number"], random.getrandbits(48)),
            "allow 1024-65535 %s.0/24 1024-65535" % site["lan4"],
            "deny 0-65535 0.0.0.0/0 0-65535",
        ]
        with open(base + ".conf", "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")
        where = self.router_space(site)
        process = space.start(
            [program, "-d", "-f", base + ".conf", "-P", base + ".pid"], where, base + ".log"
        )
        port = 1900 if upnp == "yes" else 5351
        deadline = time.monotonic() + 10
        while not listens_udp(where, port):
            if process.poll() is not None or time.monotonic() > deadline:
                with open(base + ".log", encoding="utf-8", errors="replace") as file:
                    raise LabError("miniupnpd of %s did not start: %s" % (site["name"], file.read()[-1000:]))
            time.sleep(0.01)

    # --- down ----------------------------------------------------------------------------------------------

    def own_scratch(self, directory):
        """A directory of whoever uses the lab, to go with it when that one is killed: see down_all."""
        os.symlink(directory, os.path.join(self.dir, "scratch"))

    def down_all(self):
        """As down, and the user's directory too: for the command, when its user can no longer clear up."""
        with contextlib.suppress(OSError):
            directory = os.readlink(os.path.join(self.dir, "scratch"))
            shutil.rmtree(directory, ignore_errors=True)
        return self.down()

    def down(self):
        """Removes whatever there is of this lab; returns how many namespaces that were."""
        spaces = space.names(self.prefix)
        space.end_processes(spaces)
        space.delete(spaces)
        shutil.rmtree(self.dir, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(state_root())  # only when no other lab has its state there
        return len(spaces)


def forwarder():
    """The program that makes delay and loss."""
    places = (
        [os.environ.get("DUNLIN_WAN")]
        if os.environ.get("DUNLIN_WAN")
        else [
            os.path.join(ROOT, "build", preset, "tools/wan/dunlin_wan")
            for preset in ("release", "dev", "clang")
        ]
    )
    for path in places:
        if os.access(path, os.X_OK):
            return path
    raise LabError(
        "links with delay or loss need dunlin_wan: cmake --preset release && "
        "cmake --build --preset release --target dunlin_wan"
    )


def has_interface(where, device):
    with space.inside(where):
        return device in [name for _, name in socket.if_nameindex()]


def listens_udp(where, port):
    """Whether a UDP socket of a namespace has this local port."""
    with space.inside(where):
        with open("/proc/thread-self/net/udp", encoding="ascii") as file:
            return any(line.split()[1].endswith(":%04X" % port) for line in file.readlines()[1:])


def known_labs():
    """Names of all labs that are up or left something."""
    found = {name[len("netlab-") :].split("_")[0] for name in space.names("netlab-") if "_" in name}
    with contextlib.suppress(OSError):
        found |= {name for name in os.listdir(state_root()) if LAB_NAME.match(name)}
    return sorted(found)
