"""The truth table: which kinds of path each pair of kinds of NAT must come to.  The table is truth.json."""

import json
import os

from space import LabError


class Truth:
    def __init__(self):
        with open(
            os.path.join(os.path.dirname(os.path.abspath(__file__)), "truth.json"), encoding="ascii"
        ) as file:
            table = json.load(file)
        self.groups, self.order = table["groups"], table["order"]
        self.kinds, self.pairs, self.kind_pairs = table["kinds"], table["pairs"], table["kind_pairs"]
        self.neighbours, self.quick = table["neighbours"], table["quick"]
        for a in table["classes"]:
            for b in table["classes"]:
                if "%s:%s" % (a, b) not in self.pairs and "%s:%s" % (b, a) not in self.pairs:
                    raise LabError("truth.json says nothing of the classes %s and %s" % (a, b))

    def class_pair(self, a, b):
        """Name of the row, the same for both orders; neighbours have rows of their own."""
        if a in self.neighbours:
            return a
        one, two = self.kinds[a]["class"], self.kinds[b]["class"]
        return "%s:%s" % ((one, two) if "%s:%s" % (one, two) in self.pairs else (two, one))

    def allowed(self, a, b):
        """Kinds of path or groups of them, best first."""
        if a in self.neighbours:
            return self.neighbours[a]["allowed"]
        for key in ("%s:%s" % (a, b), "%s:%s" % (b, a)):
            if key in self.kind_pairs:
                return self.kind_pairs[key]
        return self.pairs[self.class_pair(a, b)]

    def rank(self, path):
        """Place of a path, or of a group, in the order from best to worst; None: no path at all."""
        for place, group in enumerate(self.order):
            if path == group or path in self.groups[group]:
                return place
        return None

    def is_best(self, path, allowed):
        """Whether nothing better than this path is asked for."""
        return self.fits(path, allowed[:1])

    def is_allowed(self, path, allowed):
        # A single kind of path (lan) is meant as it is; of groups each better one will do.
        return self.fits(path, allowed)

    def fits(self, path, allowed):
        place = self.rank(path)
        if place is None:
            return False
        # A single kind of path (lan) is meant as it is; of groups every better one will do.
        return any(
            path == one if one not in self.order else place <= self.order.index(one) for one in allowed
        )
