#!/usr/bin/env python3
"""Two nodes train one classifier on rows of numbers, one from CSV by a named column, the other from IDX.

Both learn drawn digits, though the second starts from other weights than the run's; they merge, and the mean
of their models is as good as each.  Who brings rows that do not fit is told so.
"""
import os
import random
import struct

import harness
from harness import expect, expect_exit, say

ROWS = 1500
GLYPHS = (
    ".###.#...##..###.#.###..##...#.###. ..#...##....#....#....#....#...###. "
    ".###.#...#....#...#...#...#...##### .###.#...#....#..##.....##...#.###. "
    "...#...##..#.#.#..#.#####...#....#. ######....####.....#....##...#.###. "
    ".###.#....#....####.#...##...#.###. #####....#...#...#...#....#....#... "
    ".###.#...##...#.###.#...##...#.###. .###.#...##...#.####....#....#.###."
).split()


def draw(chance):
    """One digit as 64 numbers of 0 to 16, shifted, of some strength, with noise; and which it is."""
    digit, left, top = chance.randrange(10), chance.randrange(3), chance.randrange(2)
    strength = 8 + chance.randrange(8)
    row = []
    for pixel in range(64):
        x, y = pixel % 8 - left, pixel // 8 - top
        ink = 0 <= x < 5 and 0 <= y < 7 and GLYPHS[digit][5 * y + x] == "#"
        row.append(max(0, min(16, (strength if ink else 0) + chance.randrange(7) - 3)))
    return row, digit


def write_csv(path, rows):
    with open(path, "w") as out:
        out.write("digit,%s\r\n" % ",".join("p%d" % i for i in range(64)))
        for row, digit in rows:
            out.write("%d,%s\r\n" % (digit, ",".join("%d" % value for value in row)))
    return path


def write_idx(directory, rows):
    os.makedirs(directory)
    with open(os.path.join(directory, "train-images-idx3-ubyte"), "wb") as out:
        out.write(struct.pack(">4B3I", 0, 0, 8, 3, len(rows), 8, 8))
        out.write(b"".join(bytes(row) for row, _ in rows))
    with open(os.path.join(directory, "train-labels-idx1-ubyte"), "wb") as out:
        out.write(struct.pack(">4BI", 0, 0, 8, 1, len(rows)) + bytes(digit for _, digit in rows))
    return directory


def create(node, csv, options):
    return node.ask("run", "create", "--model", "mlp", "--label", "digit", "--data", csv, *options)["id"]


def check_config(node):
    config = node.ask("run", "show", node.run()["id"])["config"]
    found = (config["model"], config["sizes"], config["input_max"], config["label"])
    expect(found == ("mlp", "64,64,32,10", 16, "digit"), "shape and scale come from the data: %r" % (found,))


def misfits(swarm, node, words):
    """Rows of another width reach an end that names the line; text is no answer of a classifier."""
    narrow = os.path.join(swarm.directory, "narrow.csv")
    with open(narrow, "w") as out:
        out.write("digit,a,b\n" + "1,2,3\n" * 30)
    node.run_cli("run", "join", swarm.run_id, "--data", narrow)
    run = node.wait_run("refuses the rows", 60, lambda run: run["state"] == "error")
    told = "line 1: 2 values beside the label, and 64 are expected"
    expect(told in run["error"], run["error"])
    node.ask("run", "leave", swarm.run_id)
    first = swarm.nodes[0]
    expect_exit(first.run_cli("sample", swarm.run_id, "--prompt", "1"), 1, "mlp")
    expect_exit(first.run_cli("run", "create", "--data", words, "--layers", "64,10"), 2, "--model mlp")
    done = first.run_cli("run", "create", "--model", "mlp", "--data", words)
    expect_exit(done, 1, "line 2: value 1 is 'one'")


def outsider(swarm, node, csv):
    """Weights from elsewhere need a run that allows them, whether it is made or joined."""
    made = node.run_cli("run", "create", "--model", "mlp", "--label", "digit", "--data", csv,
                        "--init-seed", "7")
    expect_exit(made, 1, "--strangers")
    closed = create(swarm.nodes[0], csv, ["--round-ms", "500", "--rounds", "400", "--seed", "1"])
    node.run_cli("run", "join", closed, "--data", csv, "--init-seed", "7")
    run = node.wait_run("refuses its own weights", 60, lambda run: run["state"] == "error")
    expect("--strangers" in run["error"], run["error"])
    for member in (node, swarm.nodes[0]):
        member.ask("run", "leave", closed)


def late(swarm, node, csv):
    """Who comes late with weights of its own brings them along: they are far from those it meets."""
    swarm.join(node, csv, ["--init-seed", "3"])
    run = node.wait_run("merges", 60, lambda run: run["merges"] >= 1)
    words = "round %d, %d merges, distance %.3f" % (run["round"], run["merges"], run["replica_distance"])
    expect(run["replica_distance"] > 0.3, "a stranger joins late: " + words)
    run = node.wait_run("learns", 90, lambda run: (run["val_accuracy"] or 0) > 0.9)


def test(context):
    chance = random.Random(5)
    rows = [draw(chance) for _ in range(ROWS)]
    csv = write_csv(os.path.join(context.dir, "digits.csv"), rows)
    idx = write_idx(os.path.join(context.dir, "digits"), rows)
    words = os.path.join(context.dir, "words.csv")
    with open(words, "w") as out:
        out.write("a,b\n" + "one,1\n" * 30)
    with context.swarm(cpu=harness.nodes.cpu_share(2)) as swarm:
        swarm.start(3)
        first, second, third = swarm.nodes
        options = ["--round-ms", "500", "--rounds", "400", "--seed", "1"]
        swarm.run_id = create(first, csv, [*options, "--strangers"])
        swarm.join(second, idx, ["--init-seed", "2"])
        for node in (first, second):
            swarm.wait_training(node)
        check_config(first)
        expect(second.run()["init_seed"] == 2, "the second starts from weights of its own")
        misfits(swarm, third, words)
        for node in (first, second):
            run = node.wait_run(
                "has learnt and merged",
                90,
                lambda run: run["round"] >= 12 and run["merges"] >= 5 and (run["val_accuracy"] or 0) > 0.9,
            )
            say("%s: round %d, %.1f %% right" % (node.name, run["round"], 100 * run["val_accuracy"]))
        outsider(swarm, third, csv)
        late(swarm, third, csv)
        paths = []
        for node in (first, second):
            paths.append(os.path.join(swarm.directory, node.name + ".safetensors"))
            node.ask("checkpoint", "export", swarm.run_id, paths[-1])
        verified = first.ask("checkpoint", "verify", paths[0])
        expect(verified["sizes"] == "64-64-32-10", "the export says its shape")
        compared = first.ask("checkpoint", "compare", *paths, "--data", csv, "--label", "digit")
        say("compared: %r" % compared)
        right = [model["val_accuracy"] for model in compared["models"]]
        expect(min(right) > 0.9 and compared["merged_val_accuracy"] > 0.9, "each and their mean")


harness.run(test, 200)
