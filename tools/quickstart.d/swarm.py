#!/usr/bin/env python3
"""Starts a swarm on this machine, shows how it trains, and sums up; the last step of tools/quickstart."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time

import corpus
import nodes
from nodes import Failed

ROUND_MS = 2000
LINE_SECONDS = 10  # between lines when nobody watches a terminal
GRACE_ROUNDS = 30  # after the planned end, for merging the models; nobody waits once that is done
NODES_MAX = 64
MEBI = 2**20
PROMPT = "The "  # of the sample at the end


def arguments():
    parser = argparse.ArgumentParser(
        prog="tools/quickstart",
        description="Builds Dunlin, starts a swarm of separate "
        "processes on this machine, and trains one model on real text.",
    )
    parser.add_argument("--nodes", type=int, default=4, metavar="N", help="processes to start (default 4)")
    parser.add_argument("--minutes", type=float, default=3, metavar="M", help="training time (default 3)")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="text to train on: a file or a folder (default: English text "
        "of this machine's documentation)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="figures as JSON on standard output, the rest on " "standard error",
    )
    parser.add_argument("--isolated", action="store_true", help="let no node ever merge, to compare")
    parser.add_argument("--dir", metavar="DIR", help="working directory (default: a new temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep the working directory")
    parser.add_argument("--yes", action="store_true", help="install missing packages without asking")
    parser.add_argument("--only-check", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not 1 <= args.nodes <= NODES_MAX:
        parser.error("--nodes must be from 1 to %d" % NODES_MAX)
    if not 0.1 <= args.minutes <= 100000:
        parser.error("--minutes must be at least 0.1")
    if args.data is not None and not os.path.exists(args.data):
        parser.error("--data: there is no file or folder %s" % args.data)
    return args


def say(text):
    print(text, file=sys.stderr, flush=True)


def short(identifier):
    return identifier[:10] if identifier else "-"


def number(value, form):
    return form % value if value is not None else "-"


def kilo(value):
    return "%.1fk" % (value / 1000) if value >= 1000 else "%.0f" % value


HEAD = "%-8s %-10s %-9s %6s  %-10s %9s %9s %8s %8s %7s %7s" % (
    "node",
    "id",
    "state",
    "round",
    "partner",
    "tokens",
    "tokens/s",
    "loss",
    "val",
    "merges",
    "skipped",
)


def row(node, run):
    if run is None:
        return "%-8s %-10s %s" % (node.name, short(node.id), "stopped" if not node.alive() else "busy")
    return "%-8s %-10s %-9s %6d  %-10s %9s %9s %8s %8s %7d %7d" % (
        node.name,
        short(node.id),
        run["state"],
        run["round"],
        short(run["partner"]),
        kilo(run["tokens"]),
        kilo(run["tokens_s"] or 0),
        number(run["train_loss"], "%.3f"),
        number(run["val_loss"], "%.3f"),
        run["merges"],
        run["skipped"],
    )


class Screen:
    """A table that is redrawn on a terminal, or a line now and then elsewhere."""

    def __init__(self):
        self.live = sys.stderr.isatty()
        self.drawn = 0
        self.next_line = 0.0

    def show(self, title, swarm, runs):
        lines = [title, HEAD] + [row(node, run) for node, run in zip(swarm.nodes, runs)]
        if self.live:
            up = "\x1b[%dA" % self.drawn if self.drawn else ""
            sys.stderr.write(up + "".join("\x1b[2K%s\n" % line for line in lines))
            sys.stderr.flush()
            self.drawn = len(lines)
        elif time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            known = [run for run in runs if run]
            say(
                "%s: round %s, %s tokens/s in all, loss %s, merges %d"
                % (
                    title,
                    "/".join(str(run["round"]) for run in known),
                    kilo(sum(run["tokens_s"] or 0 for run in known)),
                    "/".join(number(run["train_loss"], "%.2f") for run in known),
                    sum(run["merges"] for run in known),
                )
            )


def check_alive(swarm):
    for node in swarm.dead():
        raise Failed("%s died with exit code %s\n%s" % (node.name, node.process.returncode, node.log_tail()))


def watch(swarm, seconds):
    """Shows the training until its time is over; returns the seconds it took."""
    screen = Screen()
    began = time.monotonic()
    while True:
        runs = [node.run(check=False) for node in swarm.nodes]
        check_alive(swarm)
        elapsed = time.monotonic() - began
        screen.show("%s of %s" % (clock(elapsed), clock(seconds)), swarm, runs)
        for node, run in zip(swarm.nodes, runs):
            if run and run["state"] == "error":
                raise Failed("%s cannot train: %s\n%s" % (node.name, run["error"], node.log_tail()))
        finished = all(run and run["state"] == "finished" for run in runs)
        if finished or elapsed >= seconds + GRACE_ROUNDS * ROUND_MS / 1000:
            return elapsed
        time.sleep(max(0.0, min(1.0, began + elapsed + 1 - time.monotonic())))


def clock(seconds):
    return "%d:%02d" % (seconds // 60, seconds % 60)


def train(swarm, args, data):
    """Runs the swarm; returns the summary's figures."""
    say("starting %d nodes, each held to %d %% of one processor" % (args.nodes, swarm.cpu))
    swarm.start(args.nodes, 30 + args.nodes)
    rounds = max(1, int(args.minutes * 60000 / ROUND_MS))
    first = swarm.train(
        data, ["--name", "quickstart", "--round-ms", str(ROUND_MS), "--rounds", str(rounds)], args.isolated
    )
    say(
        "run %s: %.2fM parameters, %.0f MiB of memory a node, %.1f MiB of text"
        % (
            short(swarm.run_id),
            first["params"] / 1e6,
            first["memory_bytes"] / MEBI,
            corpus.size_of(data) / MEBI,
        )
    )
    seconds = watch(swarm, args.minutes * 60)
    for node in swarm.nodes:
        node.ask("run", "pause", swarm.run_id, check=False)
    runs = [node.run() for node in swarm.nodes]
    say("measuring every node's model, and their mean, on the validation text")
    paths = swarm.export()
    sample = swarm.nodes[0].ask(
        "sample", swarm.run_id, "--prompt", PROMPT, "--length", "300", "--temperature", "0.7", check=False
    )
    codes = swarm.stop()
    for node in swarm.nodes:
        if codes[node.name] != 0:
            raise Failed(
                "%s did not stop in good order (exit code %s)\n%s"
                % (node.name, codes[node.name], node.log_tail())
            )
    return summary(swarm, runs, swarm.compare(paths, data), seconds), sample and PROMPT + sample["text"]


def summary(swarm, runs, compared, seconds):
    """The figures under the names that --json promises."""
    starts = [run["val_loss_start"] for run in runs if run["val_loss_start"] is not None]
    node_rounds = sum(run["round"] for run in runs)
    return {
        "nodes": [
            {"id": node.id, "round": run["round"], "tokens": run["tokens"], "val_loss": model["val_loss"]}
            for node, run, model in zip(swarm.nodes, runs, compared["models"])
        ],
        "val_loss_start": max(starts) if starts else None,
        "merged_val_loss": compared["merged_val_loss"],
        "replica_distance": compared["replica_distance"],
        "merges": sum(run["merges"] for run in runs),
        "skipped": sum(run["skipped"] for run in runs),
        "bytes_per_round": round(sum(run["bytes_sent"] for run in runs) / max(1, node_rounds)),
        "seconds": round(seconds, 1),
    }


def print_summary(figures, sample, isolated):
    losses = [node["val_loss"] for node in figures["nodes"]]
    mean = sum(losses) / len(losses)
    print("\nAfter %s of training%s:" % (clock(figures["seconds"]), " without any merge" if isolated else ""))
    print("  validation loss at the start   %s nats per byte" % number(figures["val_loss_start"], "%.3f"))
    for node in figures["nodes"]:
        print(
            "  %s  round %-5d            %.3f   (%s tokens)"
            % (short(node["id"]), node["round"], node["val_loss"], kilo(node["tokens"]))
        )
    print(
        "  losses lie within              %.2f %% of each other" % (100 * (max(losses) - min(losses)) / mean)
    )
    print(
        "  loss of the nodes' mean model  %.3f   (mean of the nodes: %.3f)"
        % (figures["merged_val_loss"], mean)
    )
    print("  distance of the models         %.2f %% from their mean" % (100 * figures["replica_distance"]))
    print(
        "  merges %d, skipped %d; %.2f MiB sent a node and round"
        % (figures["merges"], figures["skipped"], figures["bytes_per_round"] / MEBI)
    )
    if sample:
        safe = "".join(c if c.isprintable() or c == "\n" else "?" for c in sample)
        print("\nWhat the first node's model writes:\n  " + safe.replace("\n", "\n  "))


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_signal(number_, _):
    for other in SIGNALS:  # a second Ctrl-C must not interrupt the stopping of the nodes
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(number_)


def main():
    args = arguments()
    if args.only_check:
        return 0
    for number_ in SIGNALS:
        signal.signal(number_, on_signal)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    programs = nodes.Programs(root)
    data = (
        os.path.abspath(args.data)
        if args.data
        else corpus.gather(os.path.join(root, "build", "quickstart"), say)
    )
    if args.dir:
        os.makedirs(args.dir, exist_ok=True)
    directory = os.path.abspath(args.dir) if args.dir else tempfile.mkdtemp(prefix="dunlin-")
    keep = args.keep or args.dir is not None
    network = "quickstart-%d-%d" % (os.getpid(), int(time.time()))
    try:
        with nodes.Swarm(programs, directory, network, nodes.cpu_share(args.nodes)) as swarm:
            figures, sample = train(swarm, args, data)
        if args.json:
            print(json.dumps(figures))
        else:
            print_summary(figures, sample, args.isolated)
        if keep:
            say("kept: %s" % directory)
    except BaseException as problem:
        interrupted = isinstance(problem, KeyboardInterrupt)
        keep = keep or not interrupted
        if keep:
            say("logs and data of the nodes: %s" % directory)
        raise
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("\nstopped; no node is left running")
        sys.exit(130)
    except (Failed, corpus.TooLittle, OSError) as failure:
        say("quickstart: %s" % failure)
        sys.exit(1)
