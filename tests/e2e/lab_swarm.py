"""What the tests in the NAT laboratory share: a lab of one test's own, and real nodes on its hosts."""

import os
import sys

import harness
from harness import Failed, Skip, wait_until

sys.path.insert(0, os.path.join(harness.ROOT, "tools", "netlab.d"))

import space  # noqa: E402
from lab import Lab  # noqa: E402
from swarm import LabNode, joined  # noqa: E402

JOIN_SECONDS = 90


class LabSwarm:
    """Nodes in a lab.  Use in a with statement: leaving it ends the nodes and takes the lab down.

    Skip: this machine can have no lab (no root, no namespaces, programs missing)."""

    def __init__(self, context, scenario, name="lab"):
        reason = space.unusable()
        if reason:
            raise Skip(reason)
        self.programs = context.programs
        self.dir = os.path.join(context.dir, name)
        self.network = "e2e-%s-%s-%d" % (context.name, name, os.getpid())
        self.scenario = scenario
        self.lab = Lab("e2e-%s-%d" % (context.name, os.getpid()))
        self.nodes = []
        self.by_host = {}
        self.seeds = os.path.join(self.dir, "seeds")
        os.makedirs(self.dir)
        context.swarms.append(self)

    def __enter__(self):
        self.lab.up(self.scenario, "scenario of %s" % self.network)
        self.lab.own_scratch(self.dir)
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.kill()
        self.lab.down()

    def __getitem__(self, host):
        return self.by_host[host]

    def add(self, host, *flags, seeds=True, wrap=()):
        """Starts a node on a host; returns at once when it answers on its control socket.

        wrap: words before the daemon's own, such as those of a program that changes its clock."""
        known = self.seeds if seeds and os.path.exists(self.seeds) else None
        node = WrappedNode(self.programs, self.dir, self.lab, host, self.network, None, known)
        node.flags = list(flags)
        node.wrap = list(wrap)
        self.nodes.append(node)
        self.by_host[host] = node
        return node.start(seconds=40)

    def seed(self, host, *flags):
        """As add, and every later node knows this one."""
        node = self.add(host, *flags)
        with open(self.seeds, "a", encoding="ascii") as file:
            file.write("%s@%s:%d\n" % (node.id, self.lab.site(host)["wan4"], node.port))
            file.write("%s@[%s]:%d\n" % (node.id, self.lab.site(host)["wan6"], node.port))
        return node

    def wait_joined(self, *hosts):
        """Until these (or all that were given seeds) know the network and their own situation.  A seed
        whose only company hides behind NATs has no contacts in its DHT."""
        for host in hosts or [name for name, node in self.by_host.items() if node.seeds]:
            node = self.by_host[host]
            wait_until(
                "%s joins" % host,
                JOIN_SECONDS,
                lambda node=node: self.has_joined(node),
                every=0.2,
            )

    @staticmethod
    def has_joined(node):
        if not node.alive():
            raise Failed("%s ended by itself\n%s" % (node.name, node.log_tail()))
        return joined(node.ask("status", check=False, seconds=20))

    def wait_path(self, host, peer, kinds, seconds=60):
        """Until the connection of a host to a peer's node goes by one of these kinds of path; returns it."""
        node, other = self.by_host[host], self.by_host[peer]
        last = []

        def probe():
            last[:] = [node.path_to(other.id)[0]]
            return last[0] if last[0] in kinds else None

        try:
            return wait_until(
                "%s reaches %s by %s" % (host, peer, " or ".join(kinds)), seconds, probe, every=0.2
            )
        except Failed as problem:
            raise Failed(
                "%s; by %s at last\n%s%s" % (problem, last, node.trace(other.id), other.trace(node.id))
            ) from None


class WrappedNode(LabNode):
    """A node on a host that may be started by another program."""

    wrap = []

    def command(self):
        words = super().command()
        at = words.index(self.programs.dunlind)
        return words[:at] + self.wrap + words[at:]
