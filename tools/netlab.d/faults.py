"""What can go wrong on purpose while a lab runs."""

import json
import random
import signal

import rules
import space
from space import LabError

# Dropped on input: a drop on output would be an error of the sender's own socket, which no real loss is.
CUT_TABLE = """
table inet cut {
  set from4 {
    type ipv4_addr
    flags interval
  }
  set from6 {
    type ipv6_addr
    flags interval
  }
  chain input {
    type filter hook input priority -10; policy accept;
    ip saddr @from4 drop
    ip6 saddr @from6 drop
  }
}
"""


def seen_as(lab, name, by):
    """How packets of one host look when another receives them: (set, address) pairs."""
    site, other = lab.site(name), lab.site(by)
    if site["name"] == other["name"]:
        return [("from4", lab.host_address(name))]
    if site["behind"] and site["behind"] == other["behind"]:
        return [("from4", site["wan4"]), ("from4", lab.outermost(site)["wan4"])]
    outer = lab.outermost(site)
    found = [("from4", outer["wan4"])]
    if site["wan6"]:
        found.append(("from6", "2a01:%d::/48" % site["number"]))
    return found


def change_cut(lab, a, b, word):
    for name, other in ((a, b), (b, a)):
        if name not in lab.hosts():
            raise LabError("%s is no host of the lab: %s" % (name, " ".join(lab.hosts())))
        where = lab.space(name)
        if space.run(["nft", "list", "table", "inet", "cut"], check=False, space=where).returncode != 0:
            if word == "delete":
                raise LabError("nothing is cut at %s" % name)
            space.nft(where, CUT_TABLE)
        for kind, address in seen_as(lab, other, name):
            space.nft(where, "%s element inet cut %s { %s }\n" % (word, kind, address))


def cut(lab, a, b):
    """No packet of either host reaches the other by a direct way; both still reach everybody else."""
    change_cut(lab, a, b, "add")


def heal(lab, a, b):
    """Ends what cut began."""
    change_cut(lab, a, b, "delete")


def kill(lab, name):
    """Every process of a host dies at once, by SIGKILL."""
    if not space.processes([lab.resolve(name)]):
        raise LabError("no process lives in %s" % name)
    space.end_processes([lab.resolve(name)], first=signal.SIGKILL)


def routed(lab, name):
    site = lab.site(name)
    if not site["router"]:
        raise LabError("%s has no router" % name)
    return site, lab.router_space(site)


def flush(lab, name):
    """The router forgets every mapping, as after a restart.  One that keeps ports gives them again."""
    site, where = routed(lab, name)
    text = "".join(
        "flush %s ip nat %s\n" % ("map" if one in ("out", "in") else "set", one)
        for one in rules.MAPS.get(site["nat"], [])
    )
    if text:
        space.nft(where, text)
    space.run(["conntrack", "-F"], space=where)


def rebind(lab, name):
    """As flush, and every later mapping has another port, also at routers that keep ports."""
    site, where = routed(lab, name)
    if site["nat"] in ("masq", "symseq"):
        # Other ports for one, for the other another beginning: its counter starts at zero.
        masq = site["nat"] == "masq"
        site["rebound"] = random.randrange(20000, 60000, 64) if masq else random.randrange(1, rules.SEQUENCE)
        lab.save()
        space.nft(where, rules.nat_table(site))
    flush(lab, name)


def readdress(lab, name):
    """A router or public host gets another public address from its provider, or a LAN host another from its
    router: name a host behind a router for that, NAME.router or a carrier for the former."""
    site = lab.site(name)
    if site["router"] and name in lab.hosts():
        moved = site.setdefault("moved", {})
        last = int(lab.host_address(name).rsplit(".", 1)[1])
        moved[name] = last + 100 if last < 110 else last - 100
        lab.save()
        space.ip_batch(["addr flush dev eth0 scope global"] + lab.host_addresses(site, name), lab.space(name))
        return
    base, last = site["wan4"].rsplit(".", 1)
    site["wan4"] = "%s.%d" % (base, int(last) + 100 if int(last) < 100 else int(last) - 100)
    if site["wan6"]:
        base, last = site["wan6"].rsplit("::", 1)
        site["wan6"] = "%s::%d" % (base, int(last) + 100 if int(last) < 100 else int(last) - 100)
    lab.save()
    where = lab.router_space(site)
    space.ip_batch(["addr flush dev wan0 scope global"] + lab.wan_addresses(site), where)
    if site["wan6"]:
        outer, port = lab.uplink(site)
        space.ip_batch(
            ["route replace 2a01:%d::/48 via %s dev %s" % (site["number"], site["wan6"], port)], outer
        )
    if site["router"]:
        space.nft(where, rules.nat_table(site))
        space.run(["conntrack", "-F"], space=where)


def mappings(lab, name):
    """The kernel's entries at a router, as text, and the learned ports of the kinds that have a table."""
    site, where = routed(lab, name)
    text = space.run(["conntrack", "-L"], space=where).stdout
    for one in rules.MAPS.get(site["nat"], []):
        word = "map" if one in ("out", "in") else "set"
        shown = space.run(["nft", "-j", "list", word, "ip", "nat", one], space=where).stdout
        text += "%s: %s\n" % (one, json.dumps(json.loads(shown)["nftables"][1:]))
    return text


ACTIONS = {
    "cut": (cut, 2),
    "heal": (heal, 2),
    "kill": (kill, 1),
    "flush": (flush, 1),
    "rebind": (rebind, 1),
    "readdress": (readdress, 1),
}
