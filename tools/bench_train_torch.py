#!/usr/bin/python3
"""The built-in model in PyTorch, for tools/bench.d/train: same shape, batch, optimizer and thread count.

Everything that PyTorch has as one operation is used as one (layer_norm, gelu, cross_entropy, AdamW).  Prints
one line of JSON; exits 3 when PyTorch is not installed.
"""
import argparse
import json
import os
import statistics
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 256), ("layers", 4), ("heads", 4), ("context", 256), ("batch", 16),
                          ("threads", 2), ("steps", 3), ("warmup", 1)):
        parser.add_argument("--" + name, type=int, default=default)
    return parser.parse_args()


args = arguments()
os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("PyTorch is missing: apt-get install python3-torch", file=sys.stderr)
    sys.exit(3)


class Layer(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = torch.nn.LayerNorm(width)
        self.norm2 = torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.out = torch.nn.Linear(width, width, bias=False)
        self.up = torch.nn.Linear(width, 4 * width, bias=False)
        self.down = torch.nn.Linear(4 * width, width, bias=False)

    def attend(self, x, cosines, sines, mask):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
        scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5) + mask
        mixed = torch.softmax(scores, -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x, cosines, sines, mask):
        x = x + self.attend(self.norm1(x), cosines, sines, mask)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


def rotate(x, cosines, sines):
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosines - second * sines, first * sines + second * cosines), -1)


class Model(torch.nn.Module):
    def __init__(self, width, layers, heads, context):
        super().__init__()
        # One table for this byte, one for the byte before, one for that before it, as in train/model.h.
        self.embed = torch.nn.ModuleList(torch.nn.Embedding(256, width) for _ in range(3))
        self.layers = torch.nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.final = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, 256, bias=False)
        half = width // heads // 2
        angles = torch.arange(context)[:, None] * 10000.0 ** (-torch.arange(half) / half)[None, :]
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())
        self.register_buffer("mask", torch.full((context, context), float("-inf")).triu(1))

    def forward(self, tokens):
        x = self.embed[0](tokens)
        for back in (1, 2):
            x = x + F.pad(self.embed[back](tokens[:, :-back]), (0, 0, back, 0))
        for layer in self.layers:
            x = layer(x, self.cosines, self.sines, self.mask)
        return self.head(self.final(x))


def main():
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = Model(args.width, args.layers, args.heads, args.context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    times = []
    for step in range(args.warmup + args.steps):
        windows = torch.randint(0, 256, (args.batch, args.context + 1))
        start = time.monotonic()
        optimizer.zero_grad(set_to_none=True)
        logits = model(windows[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, 256), windows[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss_value = loss.item()
        if step >= args.warmup:
            times.append(time.monotonic() - start)
    median = statistics.median(times)
    print(json.dumps({
        "tokens_per_s": round(args.batch * args.context / median, 1),
        "step_s": round(median, 5),
        "loss": round(loss_value, 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "version": torch.__version__,
        "blas": os.environ.get("OPENBLAS_CORETYPE", "as detected"),
    }))


main()
