"""Which experiments there are: rows of (group, label, options of bench_converge)."""

GROUPS = {
    "methods": "who averages what: sync, h1, DiLoCo, pairs, isolated",
    "codecs": "the paired exchange with each encoding",
    "variants": "fragments and partner order",
    "faults": "failed exchanges, late and slow nodes, partitions, kills",
    "attacks": "one hostile node in four, default configuration and plain averaging",
    "starts": "different initial weights, 16 nodes from scratch, the transformer",
    "digits": "the same for an MLP without normalisation on images of digits",
    "scale": "bytes a node and round for 4, 16 and 64 nodes",
}
ATTACKS = ("flip:1", "reverse:3", "scale:10", "scale:2", "noise:1", "nan", "stale", "replay")
LOSS_TESTED = ("reverse:3", "stale", "replay")  # near enough to pass the other gates, at times
CODECS = ("bf16", "int8", "mod4", "mod3", "mod2")
DEFAULT_CODEC = "mod3"
FAULTS = {
    "30 % of exchanges fail": {"fail": 0.3},
    "50 % of exchanges fail": {"fail": 0.5},
    "20 % commit on one side only": {"one-sided": 0.2},
    "one node 10x slower": {"straggler": 10},
    "joiner after a third": {"join": 0.3333},
    "halves apart for the middle third": {"partition": True},
    "every node its own shard": {"non-iid": True},
    "30 % killed every 10 cycles": {"kill": 10},
    "applied 0.3 of a cycle late": {"late": 0.3},
    "applied 0.9 of a cycle late": {"late": 0.9},
}
RATES = (1.8e-2, 1.2e-2, 6e-3, 3e-3, 1.5e-3)
LONG_H = 5  # times the usual interval of exchanges


class Row:
    """One run of bench_converge.  quiet options (paths, threads) are added when it runs."""

    def __init__(self, group, label, options, text="text.txt", held="held.txt", rows=None):
        self.group = group
        self.label = label
        self.options = options
        self.text = text
        self.held = held
        self.rows = rows  # a table in place of text

    def words(self):
        """Options as they stand on a command line, in a fixed order: the row's identity."""
        out = []
        for name in sorted(self.options):
            value = self.options[name]
            for one in value if isinstance(value, tuple) else (value,):
                out.append(f"--{name}")
                if one is not True:
                    out.append(f"{one:g}" if isinstance(one, float) else str(one))
        return out

    def key(self):
        return " ".join([self.rows or f"{self.text} {self.held}", *self.words()])

    def cost(self):
        """Node steps, and node evaluations of one window of context bytes, for the estimate."""
        get = self.options.get
        if self.rows:
            return 0, 0  # seconds
        nodes, steps = get("nodes", 8), get("steps", 400)
        windows = (nodes + 3) * get("windows", 256)
        if get("curve"):
            windows += steps // get("h", 10) // get("curve") * nodes * 64
        return nodes * steps, windows


def base(settings, seed):
    return {"seed": seed, "steps": settings.steps, "warm-steps": settings.warm_steps, "h": settings.h,
            "rate": settings.rate, "warm-rate": settings.warm_rate, "windows": settings.windows}


def paired(settings, seed, codec="fp32", **more):
    return {**base(settings, seed), "method": "noloco", "codec": codec, **more}


def methods(settings, seed, long_h):
    common = base(settings, seed)
    yield Row("methods", "sync", {**common, "method": "sync"})
    as_before = {**common, "rate": settings.warm_rate}
    yield Row("methods", "sync, the checkpoint's rate", {**as_before, "method": "sync"})
    yield Row("methods", "h1 all-reduce", {**{k: v for k, v in common.items() if k != "h"}, "method": "h1"})
    for h in (settings.h, *([long_h] if long_h else [])):
        yield Row("methods", f"DiLoCo h {h}", {**common, "method": "diloco", "fragments": 1, "h": h})
        yield Row("methods", f"pairs h {h}", {**common, "method": "noloco", "h": h})
        yield Row("methods", f"plain pairs h {h}", {**common, "method": "pair", "h": h})
    yield Row("methods", "isolated", {**common, "method": "isolated"})


def codecs(settings, seed):
    for codec in CODECS:
        yield Row("codecs", codec, paired(settings, seed, codec))


def variants(settings, seed):
    for fragments, order in ((1, "random"), (1, "hypercube"), (5, "random")):
        label = f"{fragments} fragment{'s' if fragments > 1 else ''}, {order}"
        yield Row("variants", f"fp32, {label}", paired(settings, seed, fragments=fragments, order=order))
        yield Row("variants", f"mod3, {label}",
                  paired(settings, seed, "mod3", fragments=fragments, order=order))


def faults(settings, seed):
    for label, options in FAULTS.items():
        options = dict(options)
        if "late" in options:
            options["late"] = max(1, round(options["late"] * settings.h))
        yield Row("faults", label, paired(settings, seed, DEFAULT_CODEC, **options))


def attacks(settings, seed):
    plain = {**base(settings, seed), "method": "pair", "gates": "off"}
    yield Row("attacks", "plain, none", plain)
    for attack in ATTACKS:
        yield Row("attacks", f"default, {attack}", paired(settings, seed, DEFAULT_CODEC, attack=attack))
        yield Row("attacks", f"plain, {attack}", {**plain, "attack": attack})
    tested = paired(settings, seed, DEFAULT_CODEC, **{"loss-test": True})
    yield Row("attacks", "loss test, none", tested)
    for attack in LOSS_TESTED:
        yield Row("attacks", f"loss test, {attack}", {**tested, "attack": attack})


def starts(settings, seed):
    """From fresh weights, so with the larger rate; rounds of the whole model, as in the papers."""
    common = {"seed": seed, "nodes": 16, "steps": settings.scratch_steps, "h": settings.h, "fragments": 1,
              "method": "pair", "order": "random", "rate": settings.warm_rate, "windows": settings.windows,
              "curve": 1, "threshold": settings.thresholds}
    yield Row("starts", "shared start", {**common, "start": "shared"})
    yield Row("starts", "shared start, shrunk", {**common, "start": "scaled"})
    for correction in ("plain", "gated", "always"):
        yield Row("starts", f"different, {correction}",
                  {**common, "start": "different", "correction": correction})


def digits(settings, seed):
    """The paper's case: deep, no normalisation.  Local steps few, so that what averaging does to the variance
    shows before training repairs it."""
    common = {"seed": seed, "nodes": 16, "steps": 1000, "h": 5, "fragments": 1, "method": "pair", "batch": 8,
              "order": "random", "sizes": "64,64,64,64,64,64,10", "input-max": 16, "curve": 1,
              "threshold": (1.0, 0.5)}
    for name, how in (("AdamW", {"rate": 2e-3}), ("SGD", {"rate": 0.1, "sgd": True})):
        for start, correction in (("shared", "plain"), ("different", "plain"), ("different", "gated"),
                                  ("different", "always")):
            label = f"{name}, {start}, {correction}"
            yield Row("digits", label, {**common, **how, "start": start, "correction": correction},
                      rows="digits.csv")


def scale(settings, seed):
    """One encoding of a fixed size, and the default, which is larger at the first contact of two nodes."""
    for codec in ("int8", DEFAULT_CODEC):
        for nodes in (4, 16, 64):
            options = paired(settings, seed, codec, nodes=nodes)
            options.update({"steps": 4 * settings.h, "windows": 32})
            yield Row("scale", f"{codec}, {nodes} nodes", options, text="small.txt")


def tuning(settings, seed):
    """Exact DiLoCo at several learning rates and both intervals, measured on text of its own."""
    for rate in RATES:
        for h in (settings.h, LONG_H * settings.h):
            options = {**base(settings, seed), "method": "diloco", "fragments": 1, "rate": rate, "h": h}
            yield Row("tune", f"DiLoCo h {h} at {rate:g}", options, held="tune.txt")


def full(settings, groups, seeds, more_seeds):
    """Rows in the order of their worth; more_seeds are for the groups beyond methods and codecs."""
    rows = []
    for seed in seeds:
        if "methods" in groups:
            rows += methods(settings, seed, long_h=LONG_H * settings.h)
        if "codecs" in groups:
            rows += codecs(settings, seed)
    for seed in more_seeds:
        for name, make in (("faults", faults), ("attacks", attacks), ("starts", starts),
                           ("digits", digits),
                           ("variants", variants), ("scale", scale)):
            if name in groups:
                rows += make(settings, seed)
    return rows


def quick(settings, groups, seed):
    rows = []
    if "methods" in groups:
        rows += [row for row in methods(settings, seed, long_h=None) if not row.label.startswith("plain")]
    if "codecs" in groups:
        rows += sorted(codecs(settings, seed), key=lambda row: row.label == "bf16")
    if "faults" in groups:
        rows += list(faults(settings, seed))[:1]
    if "attacks" in groups:
        rows += [row for row in attacks(settings, seed)
                 if row.label in ("plain, none", "default, flip:1", "plain, flip:1")]
    return rows
