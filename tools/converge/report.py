"""What the rows say: gaps against references of the same seed, a Markdown table, a plot."""
import math
import shutil
import statistics
import subprocess

# group, label -> (reference label, limit in % for the mean, limit in % for the merged model)
TARGETS = {"pairs": {10: (0.5, 0.3), 50: (1.5, 0.3)}, "codec": 0.3, "mod2": 0.8, "fail": 1.0,
           "fail half": 1.5, "fault": 0.7, "kill": 3.0, "attack": 5.0}
RATIOS = {"int8": 3.9, "mod4": 6.0, "mod3": 8.0, "mod2": 11.0}


def gap(row, reference, field):
    """How much worse in %; infinite when the row is not finite, None without a reference."""
    if reference is None or not reference[field]:
        return None
    if row[field] is None:
        return math.inf
    return 100 * (row[field] / reference[field] - 1)


class Rows:
    def __init__(self, rows):
        self.rows = rows

    def find(self, group, label, seed):
        for row in self.rows:
            if (row["group"], row["label"], row["seed"]) == (group, label, seed):
                return row
        return None

    def labels(self, group):
        return list(dict.fromkeys(row["label"] for row in self.rows if row["group"] == group))

    def of(self, group, label):
        return [row for row in self.rows if row["group"] == group and row["label"] == label]


def reference_of(rows, row, settings):
    """The row that this one is to be compared with: same seed."""
    seed, label = row["seed"], row["label"]
    if row["group"] == "methods":
        h = 5 * settings.h if label.endswith(f"h {5 * settings.h}") else settings.h
        return rows.find("methods", f"DiLoCo h {h}", seed)
    if row["group"] in ("codecs", "variants"):
        return rows.find("methods", f"pairs h {settings.h}", seed)
    if row["group"] == "faults" or label.startswith(("default", "loss test")):
        return rows.find("codecs", "mod3", seed)
    if row["group"] == "attacks":
        return rows.find("attacks", "plain, none", seed)
    return None


def limits_of(row, settings):
    """Targets in % for mean and merged; None: none."""
    group, label = row["group"], row["label"]
    if group == "methods" and label.startswith("pairs"):
        return TARGETS["pairs"][10 if label.endswith(f"h {settings.h}") else 50]
    if group == "codecs" and label != "bf16":
        limit = TARGETS["mod2"] if label == "mod2" else TARGETS["codec"]
        return limit, limit
    if group == "faults":
        special = {"30 % of exchanges fail": "fail", "50 % of exchanges fail": "fail half",
                   "30 % killed every 10 cycles": "kill"}
        judged = label in special or label.startswith(("one node", "joiner", "halves", "every node"))
        return (TARGETS[special.get(label, "fault")], None) if judged else (None, None)
    if group == "attacks" and label.startswith(("default", "loss test")):
        return TARGETS["attack"], None
    return None, None


def mean_of(values):
    values = [value for value in values if value is not None]
    return statistics.fmean(values) if values else None


def shown(value, pattern, missing="-"):
    return missing if value is None else pattern.format(value)


def shown_ppl(rows, field):
    """Mean over seeds; a wrecked swarm's number has a hundred digits, or is none at all."""
    if any(row[field] is None for row in rows):
        return "inf"
    mean = statistics.fmean(row[field] for row in rows)
    return f"{mean:.4f}" if mean < 1e4 else f"{mean:.0e}"


def shown_gap(value):
    if value is None:
        return "-"
    return f"{value:+.2f} %" if value < 1000 else "wrecked"


def verdict(gaps, limits, settings):
    """Nothing in quick mode: targets are for whole runs."""
    if settings.quick:
        return ""
    checks = [g <= limit for g, limit in zip(gaps, limits) if limit is not None and g is not None]
    if not checks:
        return ""
    return "yes" if all(checks) else "no"


def link_seconds(row, line_bits=50e6, round_trip=0.04):
    """Seconds a cycle of this row needs on a line, computed: bytes, and two round trips for each exchange of
    a pair or half a one for each of the 2 (N - 1) turns of a ring."""
    rounds = row["rounds"] * row["h"] / row["steps"]
    if not row["bytes_per_node_round"]:
        return 0.0
    pair = row["method"] in ("noloco", "pair")
    waits = 2 * round_trip if pair else (row["nodes"] - 1) * round_trip
    return rounds * (8 * row["bytes_per_node_round"] / line_bits + waits)


def line(rows, group, label, settings):
    """One line of a table: means over seeds."""
    same = rows.of(group, label)
    references = [reference_of(rows, row, settings) for row in same]
    pairs = list(zip(same, references))
    gaps = [mean_of([gap(row, ref, field) for row, ref in pairs]) for field in ("ppl_mean", "ppl_merged")]
    ratio = mean_of([ref["bytes_per_node"] / row["bytes_per_node"] for row, ref in pairs
                     if ref and row["bytes_per_node"]])
    limits = limits_of(same[0], settings)
    good = verdict(gaps, limits, settings)
    if good and group == "codecs" and ratio is not None and ratio < RATIOS.get(label, 0):
        good = "no"
    goal = ", ".join([shown(limit, "{:g} %") for limit in limits if limit is not None][:2])
    if group == "codecs" and label in RATIOS:
        goal += f", {RATIOS[label]:g}x"
    resent = mean_of([100 * row["resent"] / row["blocks"] for row in same if row["blocks"]])
    cells = [label, str(len(same)), shown_ppl(same, "ppl_mean"), shown_gap(gaps[0]),
             shown_ppl(same, "ppl_training"), shown_ppl(same, "ppl_merged"), shown_gap(gaps[1]),
             shown(mean_of([row["spread"] for row in same]), "{:.1e}"),
             f"{statistics.fmean(row['bytes_per_node_round'] for row in same):,.0f}",
             shown(ratio, "{:.2f}x"), shown(resent, "{:.1f} %"),
             f"{statistics.fmean(link_seconds(row) for row in same):.2f}", goal, good]
    return "| " + " | ".join(cells) + " |"


HEAD = ("| | seeds | ppl of replicas | gap | in training | ppl merged | gap | spread | bytes/node/round | "
        "fewer bytes | resent | s/cycle at 50 Mbit/s, 40 ms | target | met |")
COMPARED = {
    "methods": "Gaps against exact all-reduce DiLoCo (heavy ball 0.3 / 0.7), same h and learning rate.",
    "codecs": "Gaps and bytes against the same exchange in fp32; resends are counted.",
    "variants": "Gaps against fp32 with five fragments in hypercube order.",
    "faults": "The default codec mod3; gaps against the undisturbed run of the same codec.",
    "attacks": "One node in four is hostile; perplexities are of the honest ones.  \"default\": gates on, "
               "mod3; \"plain\": fp32 averages of whatever comes; \"loss test\": default with --loss-test.  "
               "Gaps against the same without an attack, the loss test's against the default.",
    "scale": "Bytes of one node in one round, 40 steps from the checkpoint.",
    "tune": "Measured on text of its own.",
}


STARTS = {"starts": "the transformer, nats per byte",
          "digits": "an MLP without normalisation on 8 x 8 digits, nats per image"}


def starts_table(rows, group):
    """Cycles until the mean loss of the replicas crosses each threshold."""
    out = ["", f"### {group}", "", f"Sixteen nodes from fresh weights, {STARTS[group]}: plain averages of "
           "random pairs, the whole model once a cycle.  Cycles until the replicas' mean loss is below a "
           "threshold.", ""]
    first = rows.of(group, rows.labels(group)[0])[0]
    limits = [crossing["loss"] for crossing in first["crossings"]]
    out.append("| | seeds | " + " | ".join(f"to {limit:g}" for limit in limits)
               + " | ppl of replicas | ppl merged | accuracy | tensors corrected |")
    out.append("|---" * (6 + len(limits)) + "|")
    for label in rows.labels(group):
        same = rows.of(group, label)
        cells = [label, str(len(same))]
        for number in range(len(limits)):
            cycle = mean_of([row["crossings"][number]["cycle"] for row in same])
            cells.append(shown(cycle, "{:.1f}", "never"))
        cells += [shown_ppl(same, field) for field in ("ppl_mean", "ppl_merged")]
        accuracy = mean_of([row["accuracy"] for row in same if row["model"] == "mlp"])
        cells.append(shown(accuracy, "{:.3f}"))
        cells.append(f"{statistics.fmean(row['corrected'] for row in same):.0f}")
        out.append("| " + " | ".join(cells) + " |")
    return out


def markdown(all_rows, settings, corpus):
    rows = Rows(all_rows)
    some = next((row for row in all_rows if row["model"] == "transformer"), all_rows[0])
    out = [f"Small language model, {some['parameters']:,} parameters, {some['batch']} sequences of "
           f"{some['context']} bytes a node and step; text: {corpus['name']}, "
           f"{corpus['bytes'] / 1e6:.1f} MB.  All methods start from one checkpoint of {settings.warm_steps} "
           f"synchronous steps (learning rate {settings.warm_rate:g}) and train {settings.steps} more with "
           f"the same tokens, at {settings.rate:g} unless a row says otherwise.  "
           f"Perplexity is per byte, on {settings.windows} held-out windows.  Seconds on a line are "
           "computed, not measured."]
    for group in ("tune", "methods", "codecs", "variants", "faults", "attacks", "scale"):
        labels = rows.labels(group)
        if labels:
            out += ["", f"### {group}", "", COMPARED[group], "", HEAD, "|---" * 14 + "|"]
            out += [line(rows, group, label, settings) for label in labels]
    for group in STARTS:
        if rows.labels(group):
            out += starts_table(rows, group)
    return "\n".join(out) + "\n"


def plot(all_rows, path):
    """Perplexity against bytes; returns a reason when there is no plot."""
    if shutil.which("gnuplot") is None:
        return "gnuplot is not installed (package gnuplot-nox): no plot"
    points = [row for row in all_rows if row["group"] in ("methods", "codecs") and row["ppl_mean"]
              and row["bytes_per_node"]]
    if not points:
        return "no rows to plot"
    data = path.with_suffix(".dat")
    lines = []
    for number, group in enumerate(("methods", "codecs")):
        lines += [f"# {group}"]
        lines += [f"{row['bytes_per_node'] / row['steps']:.1f} {row['ppl_mean']:.5f} {row['ppl_merged']:.5f} "
                  f"\"{row['label']}\"" for row in points if row["group"] == group] + ["", ""]
    data.write_text("\n".join(lines), encoding="utf-8")
    low = min(row["ppl_merged"] for row in points)
    high = max(row["ppl_mean"] for row in points)
    room = max(high - low, 1e-3) * 0.1
    script = f"""
set terminal pngcairo size 1100,700 font "sans,11"
set output "{path}"
set logscale x
set format x "10^{{%T}}"
set xlabel "bytes sent by a node a step"
set ylabel "perplexity per byte after the same tokens"
set grid
set key top right
set yrange [{low - room}:{high + room}]
set offsets graph 0.02, graph 0.12, 0, 0
plot for [i=0:1] "{data}" index i using 1:2 with points pointtype 7 pointsize 1.4 linecolor i+1 \\
       title (i == 0 ? "methods, replicas" : "codecs, replicas"), \\
     for [i=0:1] "{data}" index i using 1:3 with points pointtype 6 pointsize 1.4 linecolor i+1 \\
       title (i == 0 ? "methods, merged" : "codecs, merged"), \\
     "{data}" using 1:2:4 with labels offset 1,0.6 left notitle
"""
    done = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True, check=False)
    return None if done.returncode == 0 else f"gnuplot: {done.stderr.strip()}"


