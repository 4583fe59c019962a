#!/usr/bin/env python3
"""Merge on read: three nodes train a run to its end, then any of them writes the mean of all three.

What is written is the mean of the weights that the three publish, which their checkpoints hold as well, and
is no worse on the validation text than they are on average, and says whose they are.  A member that has
died, or is frozen, is left out and named; training goes on meanwhile, who does not wait for the end holds up
nobody, and what fails leaves no file, and one that was there before as it was.
"""

import array
import json
import os
import signal
import struct
import subprocess

import harness
from harness import SMALL, expect, expect_exit, say, wait_until

ROUNDS = 25
OPTIONS = SMALL + ["--round-ms", "400", "--rounds", str(ROUNDS)]
CHECKPOINT_HEAD = 106
LOSS_TIE = 1e-4  # nats per byte
ALIGN = 16  # floats: where each tensor begins in a checkpoint's arrays


def read_model(path):
    """Header bytes, header and weights of a .safetensors file."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        head = file.read(size)
        values = array.array("f")
        values.frombytes(file.read())
    return head, json.loads(head), values


def slow_weights(node, run, like):
    """Slow weights of a node's checkpoint, in the order of the .safetensors file `like`."""
    node.ask("checkpoint", "save", run)
    listed = node.ask("checkpoint", "ls", run)["checkpoints"]
    newest = max(listed, key=lambda one: int(os.path.basename(one["path"]).split(".")[0]))
    with open(newest["path"], "rb") as file:
        data = file.read()
    tensors = [one for name, one in like[1].items() if name != "__metadata__"]
    tensors.sort(key=lambda one: one["data_offsets"][0])
    values, at = array.array("f"), 0
    for tensor in tensors:
        count = (tensor["data_offsets"][1] - tensor["data_offsets"][0]) // 4
        values.frombytes(data[CHECKPOINT_HEAD + 4 * at : CHECKPOINT_HEAD + 4 * (at + count)])
        at += (count + ALIGN - 1) // ALIGN * ALIGN
    return values, newest["round"]


def write_model(path, like, values):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(like[0])) + like[0] + values.tobytes())
    return path


def merge(node, run, path, models, *more):
    return node.ask("checkpoint", "export", run, path, "--merge", str(models), *more)


def refusals(swarm, node, path):
    run = swarm.run_id
    done = node.run_cli("checkpoint", "export", run, path, "--merge", "0")
    expect_exit(done, 1, "merge must be 1 to 256")
    expect_exit(node.run_cli("checkpoint", "export", run, path, "--wait", "3"), 1, "goes with merge")
    expect(not os.path.exists(path), "nothing was written")
    alone = merge(node, run, path, 1)
    expect("models" not in alone and "merged" not in read_model(path)[1]["__metadata__"], "1 is plain")
    os.remove(path)


def check_mean(context, swarm, path):
    """The file that each node writes is the mean of the three."""
    run, nodes = swarm.run_id, swarm.nodes
    like = read_model(swarm.export()[0])
    states = [slow_weights(node, run, like) for node in nodes]
    ends = {node.id: at for node, (_, at) in zip(nodes, states)}
    expect(min(ends.values()) >= ROUNDS, "the checkpoints are of the end: %r" % ends)
    weights = [values for values, _ in states]
    apart = max(abs(a - b) for a, b in zip(weights[0], weights[1]))
    scale = max(abs(value) for value in weights[0])
    # Merged at the end of the run, to a tolerance: not yet the same numbers, three being no power of two.
    expect(apart > 1e-6 * scale, "the members' weights differ, by up to %.2g" % apart)
    for node in nodes:
        said = merge(node, run, path, 3)
        expect((said["models"], said["warning"], said["missing"]) == (3, None, []), "three models: %r" % said)
        expect(
            sorted((one["id"], one["round"]) for one in said["members"]) == sorted(ends.items()),
            "each once, as it ended: %r" % said["members"],
        )
        _, header, merged = read_model(path)
        names = " ".join("%s:%d" % (one["id"], one["round"]) for one in said["members"])
        expect(header["__metadata__"]["merged"] == names, "the file names them")
        expect(len(merged) == len(weights[0]), "of the same shape")
        off = max(abs(x - (a + b + c) / 3) for x, a, b, c in zip(merged, *weights))
        expect(off <= 2.5e-7 * scale, "the mean within rounding: off by %.2g of %.2g" % (off, scale))
    paths = []
    for index, values in enumerate(weights):
        name = os.path.join(swarm.directory, "slow%d.safetensors" % index)
        paths.append(write_model(name, like, values))
    losses = [one["val_loss"] for one in swarm.compare(paths + [path], context.text())["models"]]
    mean = sum(losses[:3]) / 3
    # The members agree to 1e-5 by now, so that the losses tie: either may be ahead by what rounding makes.
    expect(losses[3] <= mean + LOSS_TIE, "loss %.6f, members %.6f on average" % (losses[3], mean))


def check_warning(swarm, path):
    """More are wanted than there are; progress is no result, and the result says what it is."""
    done = swarm.nodes[0].run_cli("checkpoint", "export", swarm.run_id, path, "--merge", "6")
    expect_exit(done, 0, "warning: the mean is of 3 models instead of 6", swarm.nodes[1].id[:10])


def check_full_disk(swarm):
    """No room for the file: an error that says so, and nothing of it is left."""
    disk = os.path.join(swarm.directory, "disk")
    os.mkdir(disk)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk]).returncode != 0:
        say("not tried: a full disk, since nothing can be mounted here")
        return
    try:
        path = os.path.join(disk, "merged.safetensors")
        done = swarm.nodes[0].run_cli("checkpoint", "export", swarm.run_id, path, "--merge", "3")
        expect_exit(done, 1, path, "disk")
        expect(os.listdir(disk) == [], "nothing is left on the full disk")
    finally:
        subprocess.run(["umount", disk], check=True)


def abandon(node, run, path):
    """A client that waits for a frozen member is interrupted: the daemon breaks off, takes the next call."""
    words = [node.programs.dunlin, "-d", node.dir, "checkpoint", "export", run, path, "--merge", "3"]
    with open(path, "rb") as file:
        before = file.read()
    client = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        expect("models, fetching" in client.stderr.readline(), "an export waits")
        done = node.run_cli("checkpoint", "export", run, path, "--merge", "3")
        expect_exit(done, 1, "another merged export")
        client.send_signal(signal.SIGINT)
        expect(client.wait(10) != 0, "the interrupted client ends")
    finally:
        client.kill()
        client.communicate()
    with open(path, "rb") as file:
        expect(file.read() == before, "the file is what it was before")
    expect(not os.path.exists(path + ".new"), "and no half of a new one lies beside it")
    wait_until(
        "the daemon notices",
        10,
        lambda: "another merged export"
        not in node.run_cli("checkpoint", "export", run, path, "--merge", "2", "--wait", "1").stderr,
    )


def check_missing(swarm, path):
    """One frozen: left out after its time.  All gone: an error that names them."""
    first, second, third = swarm.nodes
    third.signal(signal.SIGSTOP)
    abandon(first, swarm.run_id, path)
    said = merge(first, swarm.run_id, path, 3, "--wait", "3")
    expect(said["models"] == 2 and said["missing"][0]["id"] == third.id, "left out: %r" % said["missing"])
    expect("2 models instead of 3" in said["warning"], said["warning"])
    expect(third.id[:10] in said["warning"], "the warning names it")
    second.kill()
    os.remove(path)
    done = first.run_cli("checkpoint", "export", swarm.run_id, path, "--merge", "3", "--wait", "3")
    expect_exit(done, 4, "no other member gave its weights", second.id[:10], third.id[:10])
    expect("of 3 models" in done.stderr, "progress was told meanwhile")
    expect(not os.path.exists(path), "nothing was written")
    expect(first.alive() and first.run()["state"] == "finished", "the daemon goes on")
    third.signal(signal.SIGCONT)


def while_training(swarm, path):
    """A run in full swing is merged and goes on."""
    first = swarm.nodes[0]
    run = first.wait_run("is on its way", 60, lambda run: run["round"] >= 4)
    said = merge(first, swarm.run_id, path, 3)
    expect(said["models"] == 3, "merged while training: %r" % [one["round"] for one in said["members"]])
    after = first.wait_run("goes on", 10, lambda run: run["round"] > said["round"] + 2)
    say("training goes on: round %d to %d" % (run["round"], after["round"]))


def test(context):
    with context.swarm(cpu=harness.nodes.cpu_share(3)) as swarm:
        swarm.start(3)
        path = os.path.join(swarm.directory, "merged.safetensors")
        swarm.train(context.text(), OPTIONS)
        refusals(swarm, swarm.nodes[0], path)
        while_training(swarm, path)
        for node in swarm.nodes:
            run = node.wait_run("has finished", 90, lambda run: run["state"] == "finished")
            say("%s: round %d, merges %d" % (node.name, run["round"], run["merges"]))
        check_mean(context, swarm, path)
        check_warning(swarm, path)
        check_full_disk(swarm)
        check_missing(swarm, path)


harness.run(test, 200)
