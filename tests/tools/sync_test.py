#!/usr/bin/env python3
"""The synchronisation benchmark must refuse bad options with a reason, say that it needs root, leave nothing,
and make the right figures of what nodes and ranks tell.  No lab is built, so none of this needs root.

usage: sync_test.py ROOT
"""
import contextlib
import importlib.util
import io
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BENCH = ROOT / "tools" / "bench.d" / "sync"
NOBODY = 65534


def load():
    loader = importlib.machinery.SourceFileLoader("sync", str(BENCH))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("sync", loader))
    loader.exec_module(module)
    return module


sync = load()


def answer(rounds, merges, exchange_s, gate=0, tokens=0, sent=0):
    """What run show says, as far as the benchmark reads it."""
    return {"round": rounds, "merges": merges, "skipped_by": {"gate": gate} if gate else {"busy": 3},
            "exchange_s": exchange_s, "tokens": tokens, "bytes_sent": sent, "bytes_received": 2 * sent,
            "params": 1000, "config": {"fragments": 5, "codec": "auto", "round_ms": 2000}}


def reading(at, run, wire=0, cpu_s=0):
    return {"at": at, "run": run, "wire": wire, "cpu_s": cpu_s}


class Options(unittest.TestCase):
    def refused(self, *words):
        """What it says on standard error when it refuses these."""
        err = io.StringIO()
        with contextlib.redirect_stderr(err), self.assertRaises(SystemExit) as ended:
            sync.arguments(list(words))
        self.assertEqual(ended.exception.code, 2, words)
        return err.getvalue()

    def test_defaults(self):
        args = sync.arguments([])
        self.assertEqual((args.nodes, args.rate_bps, args.delay_s), ([4, 8], 50_000_000, 0.02))
        self.assertEqual(sync.run_options(args), ["--round-ms", "2000"])

    def test_given(self):
        args = sync.arguments("--nodes 2,16 --rate 1G --delay 5ms --width 64 --codec int8".split())
        self.assertEqual((args.nodes, args.rate_bps, args.delay_s), ([2, 16], 10**9, 0.005))
        self.assertEqual(sync.run_options(args),
                         ["--round-ms", "2000", "--width", "64", "--codec", "int8"])

    def test_refused(self):
        for words in ("--nodes 1", "--nodes 65", "--nodes 4,x", "--nodes 4,", "--rate fast", "--rate 0",
                      "--delay 20", "--cpu 0", "--cpu 101", "--windows 0", "--times 0", "--warm-rounds 0",
                      "--round-ms 10", "--data /does/not/exist", "--no-such", "stray"):
            said = self.refused(*words.split())
            self.assertIn("error: ", said, words)
            self.assertIn(words.split()[-1] if words.startswith(("--nodes", "--data")) else "", said)

    def test_scenario(self):
        """The laboratory takes it, and every node has its line."""
        sites = sync.scenario.parse(sync.scenario_text(3, "50M", "20ms"), "test")
        self.assertEqual([site["name"] for site in sites], ["n1", "n2", "n3"])
        for site in sites:
            self.assertEqual(site["link"], {"up": 50_000_000, "down": 50_000_000, "delay": 20_000})


class Program(unittest.TestCase):
    def run_as(self, words, user=None):
        return subprocess.run([str(BENCH), *words], capture_output=True, text=True, user=user, check=False)

    def test_help(self):
        done = self.run_as(["--help"])
        self.assertEqual(done.returncode, 0)
        self.assertIn("usage: tools/bench sync", done.stdout)

    def test_needs_root(self):
        """Not root: 77 and the reason, nothing on standard output, even with --json."""
        root = os.geteuid() == 0
        done = subprocess.run(["/usr/bin/python3", str(BENCH), "--json"], capture_output=True, text=True,
                              user=NOBODY if root else None, check=False)
        if root and done.returncode not in (0, 77) and "Permission denied" in done.stderr:
            self.skipTest("another user may not read this folder")
        self.assertEqual(done.returncode, 77, done.stderr)
        self.assertIn("needs root", done.stderr)
        self.assertEqual(done.stdout, "")

    def test_rank_refuses(self):
        """A rank without its options ends with usage, not in the middle of a rendezvous."""
        done = subprocess.run([str(ROOT / "tools" / "bench_sync_gloo.py")], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 2, done.stderr)


class Figures(unittest.TestCase):
    def test_exchanges(self):
        """Means over all time give back the single exchange, also those that a gate turned down."""
        first, later = answer(1, 0, None), answer(2, 1, 0.4)
        self.assertEqual(sync.new_exchanges(first, later), [0.4])
        self.assertEqual(sync.new_exchanges(later, later), [])
        gated = answer(4, 2, 0.6, gate=1)
        for value in sync.new_exchanges(later, gated):
            self.assertAlmostEqual(value, (3 * 0.6 - 0.4) / 2)
        self.assertEqual(len(sync.new_exchanges(later, gated)), 2)

    def test_ours(self):
        """Two nodes, one pair of windows: 8 rounds in 16 s, 900 tokens a second against 1000."""
        def side(tokens):
            return [(reading(0, answer(0, 0, None)),
                     reading(16, answer(8, 6, 0.2, tokens=tokens, sent=4000), wire=16000, cpu_s=4))] * 2
        ours = sync.our_figures([(side(16 * 450), side(16 * 500))], [0.1, 0.2, 0.6])
        self.assertAlmostEqual(ours["stall_share"], 0.1)
        self.assertEqual((ours["tokens_s"], ours["tokens_s_isolated"]), (900, 1000))
        self.assertAlmostEqual(ours["cpu_lost_share"], 0.1)
        self.assertEqual((ours["exchange_s"], ours["exchange_s_range"]), (0.2, [0.1, 0.6]))
        self.assertEqual((ours["seconds"], ours["cycle_s"]), (1.0, 10.0))
        self.assertEqual(ours["seconds_until_mixed"], 1.0)
        self.assertEqual((ours["bytes_sent_per_round"], ours["bytes_received_per_round"]), (500, 1000))
        self.assertEqual((ours["wire_bytes_per_round"], ours["bits_per_value"]), (2000, 20))
        self.assertEqual(ours["merged_share"], 0.75)

    def test_gloo(self):
        """An all-reduce counts from the last rank's start to the last rank's end."""
        ranks = [{"spans": [[0, 3], [10, 12], [20, 29]], "sent": 300, "received": 600, "version": "1"},
                 {"spans": [[1, 2], [9, 13], [20, 22]], "sent": 600, "received": 600, "version": "1"}]
        gloo = sync.gloo_figures(ranks, 9.0)
        self.assertEqual((gloo["seconds"], gloo["seconds_range"], gloo["times"]), (3, [2, 9], 3))
        self.assertEqual((gloo["bytes_sent"], gloo["bytes_received"]), (150, 200))
        self.assertEqual(gloo["stall_share"], 0.25)

    def test_ratios(self):
        ours = {"fragments": 5, "bytes_sent_per_round": 10, "seconds": 0.5}
        self.assertEqual(sync.ratios(ours, {"seconds": 2, "bytes_sent": 500}),
                         {"ratio": 4, "ratio_bytes": 10})
        self.assertEqual(sync.ratios(ours, None), {"ratio": None, "ratio_bytes": None})

    def test_table(self):
        """With and without the rival every figure of the row finds its place."""
        ours = sync.our_figures([([(reading(0, answer(0, 0, None)), reading(1, answer(1, 1, 1, tokens=9)))],
                                  [(reading(0, answer(0, 0, None)), reading(1, answer(1, 1, 1, tokens=9)))])],
                                [0.25])
        ranks = [{"spans": [[0, 2.5]], "sent": 3000, "received": 1, "version": "1"}]
        gloo = sync.gloo_figures(ranks, ours["cycle_s"])
        for rival in (gloo, None):
            row = {"nodes": 4, "parameters": 1000, "cpu_pct": 35, "rtt_s": 0.08, "ours": ours,
                   "gloo": rival, "gloo_half": rival, "ratio": rival and 2.0, "ratio_bytes": rival and 10.0}
            text = sync.table({"rate_bps": 5e7, "line_rtt_s": 0.04, "load_before": 0.1, "processors": 2.0,
                               "rows": [row]})
            self.assertIn("80 ms round trip between two", text)
            self.assertEqual("gloo" in text, rival is not None)
            self.assertEqual("2.500 s" in text, rival is not None)


class Cleaning(unittest.TestCase):
    def test_guard_outlives_its_maker(self):
        """Whatever ends the benchmark, the lab's clearing runs: here the maker is killed at once."""
        folder = ROOT / "build" / f"sync-test-{os.getpid()}"
        scratch = folder / "of-nodes"
        scratch.mkdir(parents=True)
        (folder / "scratch").symlink_to(scratch)
        self.addCleanup(shutil.rmtree, folder, True)
        text = f"""
import importlib.machinery, importlib.util, os, pathlib, signal, sys
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("sync", {str(BENCH)!r})
sync = importlib.util.module_from_spec(importlib.util.spec_from_loader("sync", loader))
loader.exec_module(sync)
class Lab:
    def __init__(self, name):
        self.name, self.dir = name, {str(folder)!r}
    def down(self):
        pathlib.Path(self.dir, self.name).touch()
        pathlib.Path(os.readlink(self.dir + "/scratch"), "written-late").touch()
sync.Lab = Lab
sync.guard("of-test")
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        # The guard keeps standard error open until it is through: the end of the pipe is the end of waiting.
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60,
                              check=False)
        self.assertEqual((done.returncode, done.stdout), (-9, "ready\n"), done.stderr)
        self.assertTrue((folder / "of-test").exists())
        self.assertFalse(scratch.exists())


if __name__ == "__main__":
    unittest.main()
