#!/usr/bin/python3
"""One rank of a ring all-reduce by gloo, for tools/bench.d/sync.

All ranks run on one machine, in namespaces of their own, so their monotonic clocks are one clock.  Each
prints one line of JSON: when each all-reduce began and ended here, and what the line carried meanwhile.
Exits 3 when PyTorch is not installed, 1 when a sum is wrong.
"""
import argparse
import datetime
import json
import os
import sys
import time

DEVICE = "wan0"  # as tools/netlab calls a host's line
WARM_UP = 1  # connections are made and TCP finds its window


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--master", required=True, help="ADDRESS:PORT of rank 0")
    parser.add_argument("--count", type=int, required=True, help="values")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--times", type=int, default=7)
    return parser.parse_args()


def traffic():
    """(received, sent) bytes of the line."""
    with open("/proc/self/net/dev", encoding="ascii") as file:
        for line in file:
            name, _, figures = line.partition(":")
            if name.strip() == DEVICE:
                words = figures.split()
                return int(words[0]), int(words[8])
    return 0, 0


def main():
    args = arguments()
    os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
    try:
        import torch
        import torch.distributed as dist
    except ImportError:
        print("PyTorch is missing: apt-get install python3-torch", file=sys.stderr)
        return 3
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="tcp://" + args.master, rank=args.rank,
                            world_size=args.ranks, timeout=datetime.timedelta(seconds=120))
    values = torch.empty(args.count, dtype=getattr(torch, args.dtype))
    spans = []
    before = (0, 0)
    for number in range(WARM_UP + args.times):
        values.fill_(args.rank + 1)
        dist.barrier()
        if number == WARM_UP:
            before = traffic()
        began = time.monotonic()
        dist.all_reduce(values)
        spans.append((began, time.monotonic()))
        if not bool((values == args.ranks * (args.ranks + 1) // 2).all()):
            print(f"rank {args.rank}: the sum is wrong", file=sys.stderr)
            return 1
    dist.barrier()
    after = traffic()
    print(json.dumps({"spans": spans[WARM_UP:], "received": after[0] - before[0],
                      "sent": after[1] - before[1], "version": torch.__version__}))
    return 0


sys.exit(main())
