"""The kinds of routers, and the nftables rules that make the kernel's NAT behave as each.

A kind is a set of options; a scenario may add more to it.  What each gives was measured with sockets, and
`netlab verify` measures it again on any machine.
"""

from space import LabError

# nat: how source addresses are mapped.  filter: who may answer.  Words of RFC 4787: EI endpoint-independent,
# AD address-dependent, APD address-and-port-dependent.
KINDS = {
    "pub": {"router": False, "mapping": "EI", "filtering": "EI"},
    "pubfw": {"router": False, "firewall": True, "mapping": "EI", "filtering": "APD"},
    "masq": {"nat": "masq", "mapping": "EI", "filtering": "APD"},
    "masqopen": {"nat": "masq", "input_open": True, "mapping": "EI", "filtering": "APD"},
    "eimrand": {"nat": "eimrand", "mapping": "EI", "filtering": "APD"},
    "fullcone": {"nat": "fullcone", "mapping": "EI", "filtering": "EI"},
    "arc": {"nat": "arc", "mapping": "EI", "filtering": "AD"},
    "adm": {"nat": "adm", "mapping": "AD", "filtering": "APD"},
    "symseq": {"nat": "symseq", "step": 1, "mapping": "APD", "filtering": "APD"},
    "symrand": {"nat": "symrand", "mapping": "APD", "filtering": "APD"},
    "life": {"nat": "life", "mapping": "EI", "filtering": "APD", "life_s": 20},
    "udpblock": {"nat": "masq", "block": "udp", "mapping": None, "filtering": None},
    "tcp443": {"nat": "masq", "block": "not443", "mapping": None, "filtering": None},
    # An IPv4 that is as hard as it gets and an IPv6 behind a firewall: only the IPv6 is worth having.
    "fw6": {"nat": "symrand", "ipv6": True, "mapping": "APD", "filtering": "APD"},
    "upnp": {"nat": "symrand", "portmap": "upnp", "mapping": "APD", "filtering": "APD"},
    "natpmp": {"nat": "symrand", "portmap": "natpmp", "mapping": "APD", "filtering": "APD"},
    "pcp": {"nat": "symrand", "portmap": "pcp", "mapping": "APD", "filtering": "APD"},
}
DEFAULTS = {
    "router": True,
    "nat": None,
    "firewall": False,
    "input_open": False,
    "block": None,
    "ipv6": False,
    "portmap": None,
    "step": 1,
    "life_s": 0,
    "hairpin": False,
}
PORTMAPS = ("upnp", "natpmp", "pcp")
SEQUENCE = 8192  # ports of the symseq kind, from SEQUENCE_BASE on
SEQUENCE_BASE = 20000
CONE_SECONDS = 300
# So many seconds after its making a mapping of the kind "life" ends; until then its map element must stand.
LIFE_MAP_SECONDS = 3600


def expand(kind, words):
    """Options of a kind with further words: ipv6, hairpin, step=3, portmap=pcp, behind=, hosts=."""
    if kind not in KINDS:
        raise LabError("unknown kind '%s': %s" % (kind, " ".join(KINDS)))
    options = dict(DEFAULTS, **KINDS[kind], kind=kind)
    for word in words:
        name, equals, value = word.partition("=")
        if word in ("ipv6", "hairpin"):
            options[word] = True
        elif name == "step" and options["nat"] == "symseq" and value.isdigit() and 1 <= int(value) <= 5:
            options["step"] = int(value)
        elif name == "portmap" and value in PORTMAPS:
            options["portmap"] = value
        elif name in ("behind", "hosts") and value:
            options[name] = value
        else:
            raise LabError(
                "'%s' is no option of %s: ipv6 hairpin step=1..5 (symseq) portmap=%s hosts=N "
                "behind=CARRIER" % (word, kind, "|".join(PORTMAPS))
            )
    if options["hairpin"] and options["nat"] not in ("fullcone", "arc"):
        raise LabError("hairpin is for the kinds with a table of inbound ports: fullcone, arc")
    if not options["router"] and (options["ipv6"] or options["portmap"]):
        raise LabError("%s has IPv6 without asking, and no router" % kind)
    return options


def host_firewall():
    """The kind pubfw: one host with a stateful filter of its own."""
    return """
table inet fw {
  chain input {
    type filter hook input priority 0; policy drop;
    iifname != "wan0" accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
  }
}
"""


def nat_table(site):
    """The address translation alone, replacing what there was."""
    return "table ip nat\ndelete table ip nat\ntable ip nat {\n%s}\n" % NATS[site["nat"]](site)


def router(site):
    """All rules of a new router."""
    text = filter_table(site) + nat_table(site)
    if site["portmap"]:
        text += PORTMAP_TABLE
    return text


# A probe that reaches the router before its host has sent to that peer is input of the router.  Accepted
# there it would leave an entry that the host's own packet collides with, and its external port would move.
# Most home routers drop it; the kind masqopen is for those that do not.
def filter_table(site):
    block = {
        None: "",
        "udp": 'oifname "wan0" meta l4proto udp drop',
        "not443": 'oifname "wan0" meta l4proto udp drop\n    oifname "wan0" tcp dport != 443 drop',
    }[site["block"]]
    older = {
        "natpmp": "iifname lan0 udp dport 5351 @th,64,8 2 drop",
        "pcp": "iifname lan0 udp dport 5351 @th,64,8 0 drop",
    }.get(site["portmap"], "")
    return """
table inet fw
delete table inet fw
table inet fw {
  chain upnp_fwd {
  }
  chain input {
    type filter hook input priority 0; policy %s;
    %s
    iifname != "wan0" accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
    %s
    ct state established,related accept
    iifname != "wan0" accept
    jump upnp_fwd
    ct status dnat accept
  }
}
""" % (
        "accept" if site["input_open"] else "drop",
        older,
        block,
    )


# The tables that miniupnpd writes its mappings into.
PORTMAP_TABLE = """
table inet upnp_nat {
  chain upnp_pre {
  }
  chain upnp_post {
  }
  chain prerouting {
    type nat hook prerouting priority -100;
    jump upnp_pre
  }
  chain postrouting {
    type nat hook postrouting priority 90;
    jump upnp_post
  }
}
"""


def postrouting(*lines):
    return "chain postrouting {\ntype nat hook postrouting priority 100;\n%s\n}\n" % "\n".join(lines)


def learn(*lines):
    """Rules that see a packet after its source was rewritten, when `udp sport` is the external port."""
    return "chain learn {\ntype filter hook postrouting priority 110;\n%s\n}\n" % "\n".join(lines)


def dynamic_map(name, types, seconds=CONE_SECONDS):
    return "map %s {\ntype %s\nflags dynamic,timeout\nsize 65535\ntimeout %ds\n}\n" % (name, types, seconds)


NEW_OUT = "oifname wan0 meta l4proto udp ct direction original"
OUT_ENTRY = "{ ct original ip saddr . ct original proto-src : ip saddr . udp sport }"
BY_OUT = "oifname wan0 snat ip to ip saddr . udp sport map @out"
RANDOM_PORT = "oifname wan0 meta l4proto udp masquerade to :20000-60000 random"
MASQUERADE = "oifname wan0 masquerade"
OUT_TYPES = "ipv4_addr . inet_service : ipv4_addr . inet_service"


def nat_masq(site):
    """Keeps the port.  After `fault rebind` it takes those of a small range instead."""
    first = site.get("rebound")
    if not first:
        return postrouting(MASQUERADE)
    return postrouting("oifname wan0 meta l4proto udp masquerade to :%d-%d" % (first, first + 63), MASQUERADE)


def nat_eimrand(_site):
    return (
        dynamic_map("out", OUT_TYPES)
        + postrouting(BY_OUT, RANDOM_PORT, MASQUERADE)
        + learn("%s update @out %s" % (NEW_OUT, OUT_ENTRY))
    )


def nat_cone(site):
    """Full cone, or address-restricted when the inbound rule also asks for an address spoken to before."""
    restricted = site["nat"] == "arc"
    external = "ip daddr %s meta l4proto udp" % site["wan4"]
    guard = "udp dport . ip saddr @seen" if restricted else ""
    into = "dnat ip to udp dport map @in"
    before = ["iifname wan0 %s %s %s" % (external, guard, into)]
    after = [BY_OUT, "oifname wan0 udp sport @taken masquerade to :20000-60000 random", MASQUERADE]
    if site["hairpin"]:
        lan = "ip saddr %s.0/24" % site["lan4"]
        before.append("iifname lan0 %s %s" % (external, into))
        after.insert(0, "oifname lan0 %s ct status dnat snat ip to ip saddr . udp sport map @out" % lan)
    # The third rule lets answers to an inbound flow keep the mapping alive.
    known = [
        "%s update @out %s" % (NEW_OUT, OUT_ENTRY),
        "%s update @in { udp sport : ct original ip saddr . ct original proto-src }" % NEW_OUT,
        "oifname wan0 meta l4proto udp ct direction reply "
        "update @in { udp sport : ct reply ip saddr . ct reply proto-src }",
        "oifname wan0 meta l4proto udp update @seen { udp sport . ip daddr }",
        "oifname wan0 meta l4proto udp update @taken { udp sport }",
    ]
    sets = "".join(
        "set %s {\ntype %s\nflags dynamic,timeout\nsize 65535\ntimeout %ds\n}\n" % (name, types, CONE_SECONDS)
        for name, types in (("seen", "inet_service . ipv4_addr"), ("taken", "inet_service"))
    )
    return (
        dynamic_map("out", OUT_TYPES)
        + dynamic_map("in", "inet_service : ipv4_addr . inet_service")
        + sets
        + "chain prerouting {\ntype nat hook prerouting priority -100;\n%s\n}\n" % "\n".join(before)
        + postrouting(*after)
        + learn(*known)
    )


def nat_adm(_site):
    entry = "{ ct original ip saddr . ct original proto-src . ip daddr : ip saddr . udp sport }"
    return (
        dynamic_map("out", "ipv4_addr . inet_service . ipv4_addr : ipv4_addr . inet_service")
        + postrouting(
            "oifname wan0 snat ip to ip saddr . udp sport . ip daddr map @out",
            RANDOM_PORT,
            "oifname wan0 masquerade fully-random",
        )
        + learn("%s update @out %s" % (NEW_OUT, entry))
    )


def nat_symseq(site):
    """A counter as the port itself lands byte-swapped; through a map the step is exact.  It counts every new
    flow of every host of the home, as such routers do."""
    skip = site.get("rebound", 0)
    ports = ", ".join(
        "%d : %s . %d" % (i, site["wan4"], SEQUENCE_BASE + (i + skip) % SEQUENCE * site["step"])
        for i in range(SEQUENCE)
    )
    return "map seq {\ntypeof numgen inc mod %d : ip saddr . th sport\nelements = { %s }\n}\n" % (
        SEQUENCE,
        ports,
    ) + postrouting(
        "oifname wan0 meta l4proto { tcp, udp } snat ip to numgen inc mod %d map @seq" % SEQUENCE, MASQUERADE
    )


def nat_symrand(_site):
    return postrouting("oifname wan0 masquerade fully-random")


def nat_life(_site):
    """A mapping is learned once and ends life_s later, busy or not: reaper.py sees to that."""
    return (
        dynamic_map("out", OUT_TYPES, LIFE_MAP_SECONDS)
        + postrouting(BY_OUT, RANDOM_PORT, MASQUERADE)
        + learn("%s ct mark 0 add @out %s" % (NEW_OUT, OUT_ENTRY), "%s ct mark 0 ct mark set 1" % NEW_OUT)
    )


NATS = {
    "masq": nat_masq,
    "eimrand": nat_eimrand,
    "fullcone": nat_cone,
    "arc": nat_cone,
    "adm": nat_adm,
    "symseq": nat_symseq,
    "symrand": nat_symrand,
    "life": nat_life,
}
MAPS = {"eimrand": ["out"], "fullcone": ["out", "in", "seen", "taken"], "adm": ["out"], "life": ["out"]}
MAPS["arc"] = MAPS["fullcone"]
