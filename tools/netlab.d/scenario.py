"""Scenario files: text in, a plan of sites with all their addresses out.  README.md describes the format."""

import re

import rules
from space import LabError

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}$")
SITES_MAX = 240  # each owns one public /24 and /48
HOSTS_MAX = 50
RATE = re.compile(r"([0-9.]+)([kMG]?)(?:bit)?$")
TIME = re.compile(r"([0-9.]+)(us|ms|s)$")
SCALE = {"": 1, "k": 1000, "M": 1000000, "G": 1000000000}


def rate(text):
    """Bits a second."""
    match = RATE.match(text)
    if not match or float(match.group(1)) <= 0:
        raise LabError("'%s' is not a rate: 500k, 20M, 1G (bits a second)" % text)
    return int(float(match.group(1)) * SCALE[match.group(2)])


def time_us(text):
    match = TIME.match(text)
    if not match:
        raise LabError("'%s' is not a time: 500us, 20ms, 1s" % text)
    return int(float(match.group(1)) * {"us": 1, "ms": 1000, "s": 1000000}[match.group(2)])


def share_ppm(text):
    try:
        value = float(text[:-1]) if text.endswith("%") else -1
    except ValueError:
        value = -1
    if not 0 <= value <= 100:
        raise LabError("'%s' is not a share: 0%% to 100%%" % text)
    return int(value * 10000)


LINK_WORDS = {
    "rate": rate,
    "up": rate,
    "down": rate,
    "delay": time_us,
    "jitter": time_us,
    "queue": time_us,
    "loss": share_ppm,
    "reorder": share_ppm,
}


def parse_link(words):
    """Words like rate=20M delay=30ms as numbers; a rate counts for both directions."""
    link = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in LINK_WORDS:
            raise LabError("'%s' is no part of a link: %s" % (word, " ".join("%s=" % n for n in LINK_WORDS)))
        link[name] = LINK_WORDS[name](value)
    if "rate" in link:
        both = link.pop("rate")
        link.setdefault("up", both)
        link.setdefault("down", both)
    if not link:
        raise LabError("a link needs at least one of %s" % " ".join("%s=" % n for n in LINK_WORDS))
    return link


def needs_forwarder(link):
    """A plain rate is the kernel's; everything else is tools/wan's."""
    return any(name not in ("up", "down", "queue") for name in link)


class Parser:
    def __init__(self):
        self.sites = []
        self.links = {}

    def line(self, words):
        verb = {"public": self.public, "home": self.home, "carrier": self.carrier, "link": self.link}
        if words[0] not in verb:
            raise LabError("unknown word '%s': public, home, carrier or link" % words[0])
        if len(words) < 2:
            raise LabError("'%s' needs a name" % words[0])
        verb[words[0]](words[1:])

    def find(self, name):
        return next((site for site in self.sites if site["name"] == name), None)

    def add(self, name, kind, words, carrier):
        if not NAME.match(name) or name == "wan":
            raise LabError("'%s' is not a usable name: small letters, digits and -" % name)
        if self.find(name):
            raise LabError("the name %s is used twice" % name)
        if len(self.sites) >= SITES_MAX:
            raise LabError("more than %d sites" % SITES_MAX)
        site = {"name": name, "carrier": carrier, "behind": None, "hosts": 0 if carrier else 1}
        options = rules.expand(kind, words)
        site["behind"] = options.pop("behind", None)
        hosts = options.pop("hosts", None)
        if hosts is not None:
            site["hosts"] = int(hosts) if hosts.isdigit() else 0
            if carrier or not 1 <= site["hosts"] <= HOSTS_MAX:
                raise LabError("hosts= is for homes, from 1 to %d" % HOSTS_MAX)
        site.update(options)
        if not site["router"] and (carrier or site["behind"] or site["hosts"] != 1):
            raise LabError("%s is one host right on the internet: no carrier, no behind=, no hosts=" % kind)
        self.sites.append(site)

    def public(self, words):
        for name in words:
            self.add(name, "pub", [], False)

    def home(self, words):
        if len(words) < 2:
            raise LabError("a home needs a name and a kind: %s" % " ".join(rules.KINDS))
        self.add(words[0], words[1], words[2:], False)

    def carrier(self, words):
        if len(words) < 2:
            raise LabError("a carrier needs a name and a kind: %s" % " ".join(rules.KINDS))
        self.add(words[0], words[1], words[2:], True)

    def link(self, words):
        self.links[words[0]] = parse_link(words[1:])


def parse(text, source):
    """Sites in order, each with its addresses.  LabError names the line that is wrong."""
    parser = Parser()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if words:
            try:
                parser.line(words)
            except LabError as problem:
                raise LabError("%s:%d: %s" % (source, number, problem)) from None
    if not parser.sites:
        raise LabError("%s describes no site" % source)
    for name, link in parser.links.items():
        site = parser.find(name)
        if site is None:
            raise LabError("%s: link of an unknown site %s" % (source, name))
        site["link"] = link
    number_sites(parser, source)
    return parser.sites


def number_sites(parser, source):
    """Public numbers are from ranges that nobody takes for reserved: miniupnpd and nodes look at that."""
    customers = {}
    for number, site in enumerate(parser.sites, 1):
        site["number"] = number
        behind = site["behind"]
        if behind is None:
            site["wan4"], site["gate4"] = "11.0.%d.2" % number, "11.0.%d.1" % number
            site["wan6"], site["gate6"] = "2a01:%d::2" % number, "2a01:%d::1" % number
        else:
            carrier = parser.find(behind)
            if carrier is None or not carrier["carrier"] or carrier["number"] > number:
                raise LabError(
                    "%s: %s is behind %s, which is no carrier of a line above"
                    % (source, site["name"], behind)
                )
            customers[behind] = customers.get(behind, 1) + 1
            site["wan4"] = "100.64.%d.%d" % (carrier["number"], customers[behind])
            site["gate4"] = "100.64.%d.1" % carrier["number"]
            site["wan6"] = site["gate6"] = None
        if site["router"]:
            site["lan4"] = "100.64.%d" % number if site["carrier"] else "192.168.1"
            site["lan6"] = "2a01:%d:0:1" % number if site["ipv6"] and site["wan6"] else None


def host_names(site):
    """The hosts of a home: the first has the home's name."""
    return [site["name"] if i == 0 else "%s.%d" % (site["name"], i + 1) for i in range(site["hosts"])]
