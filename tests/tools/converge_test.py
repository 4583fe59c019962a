#!/usr/bin/env python3
"""The convergence benchmark's driver must refuse bad options with a reason, keep finished rows and not run
them again, print what it promises, and never mix rows of two texts.  The swarm is played by a script.

usage: converge_test.py BENCH_CONVERGE ROOT
"""
import csv
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

FIELDS = ("method", "codec", "nodes", "ppl_mean", "ppl_merged", "spread", "bytes_per_node_round")

# Stands in for the program: counts its calls, answers with figures made from the options.
FAKE = """#!{python}
import json, os, sys
words = sys.argv[1:]
def get(name, default):
    return words[words.index(name) + 1] if name in words else default
with open({log!r}, "a", encoding="utf-8") as log:
    log.write(" ".join(words) + "\\n")
if "--warm-only" in words:
    open(get("--warm", None), "wb").close()
if get("--codec", "fp32") == {refuse!r}:
    sys.exit("bench_converge: refused for the test")
codec = get("--codec", "fp32")
size = {{"fp32": 4, "bf16": 2, "int8": 1, "mod4": .6, "mod3": .5, "mod2": .35}}[codec]
steps, h = int(get("--steps", 400)), int(get("--h", 10))
method = get("--method", "noloco")
row = dict(method=method, codec=codec, nodes=int(get("--nodes", 8)), seed=int(get("--seed", 1)), h=h,
           fragments=int(get("--fragments", 5)), attack=get("--attack", "none"),
           rate=float(get("--rate", 1e-3)), steps=steps, batch=4, context=128, accuracy=0.5,
           model="mlp" if "--rows" in words else "transformer",
           ppl_mean=None if get("--gates", "on") == "off" and "--attack" in words else 4.5, ppl_merged=4.4,
           ppl_worst=4.6, ppl_training=4.5, spread=0.01,
           bytes_per_node_round=100.0 * size, bytes_per_node=5e3 * size,
           rounds=200, merges=1, corrected=0, blocks=10, resent=1, parameters=525568, seconds=0.01 * steps,
           curve=[[1, 2.0]], crossings=[dict(loss=2.5, cycle=1.5), dict(loss=2.2, cycle=None)])
print(json.dumps(row))
"""


def check(condition, text):
    if not condition:
        sys.exit(f"converge_test: {text}")


def run(command, env=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def check_program(binary):
    code, out, _ = run([binary, "--help"])
    check(code == 0 and out.startswith("usage:"), "--help of the program")
    for words in (["--nodes", "x"], ["--no-such"], ["--method", "magic"], ["stray"], [],
                  ["--text", "a", "--held", "b", "--fragments", "3"], ["--sizes", "1,,2"]):
        code, out, err = run([binary, *words])
        check(code == 2 and not out and err, f"{words}: exit {code}, {err!r}")
    code, _, err = run([binary, "--text", "/does/not/exist", "--held", "/does/not/exist"])
    check(code == 1 and "/does/not/exist" in err, f"missing text: exit {code}, {err!r}")


def fake_build(folder, refuse=""):
    program = folder / "tools" / "converge" / "bench_converge"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(FAKE.format(python=sys.executable, log=str(folder / "log"), refuse=refuse),
                       encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"DUNLIN_BUILD": str(folder)}


def calls(folder):
    """Rows run so far: calibration and checkpoints are not rows."""
    lines = (folder / "log").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "--warm-only" not in line and "--start shared --nodes" not in line]


def check_driver(bench, folder):
    env = fake_build(folder)
    out = str(folder / "out")
    for words in (["--only", "nothing"], ["--seeds", "a"], ["--no-such"]):
        code, _, err = run([bench, *words], env)
        check(code == 2 and err, f"{words}: exit {code}")
    code, text, err = run([bench, "--quick", "--json", "--out", out], env)
    check(code == 0, f"quick: exit {code}, {err}")
    told = json.loads(text)
    for row in told["rows"]:
        check(all(field in row for field in FIELDS), f"fields of {row['label']}")
    names = {row["method"] for row in told["rows"]}
    check(names >= {"sync", "h1", "diloco", "noloco", "isolated"}, "methods")
    check({row["codec"] for row in told["rows"]} >= {"fp32", "int8", "mod4", "mod3", "mod2"}, "codecs")
    first = len(calls(folder))
    check(first == len(told["rows"]), f"{first} runs for {len(told['rows'])} rows")
    code, table, err = run([bench, "--quick", "--out", out], env)
    check(code == 0 and len(calls(folder)) == first, f"finished rows ran again: {err}")
    check("| mod3 " in table and "### methods" in table, "the table")
    with open(folder / "out" / "converge.csv", newline="", encoding="utf-8") as file:
        stored = list(csv.DictReader(file))
    check(len(stored) == first and all(row["key"] for row in stored), "the CSV")


def check_resume(bench, folder):
    """Stopped in the middle, by a row that fails: what was finished stays, the rest is made up."""
    env = fake_build(folder, refuse="mod4")
    out = str(folder / "out")
    code, _, err = run([bench, "--quick", "--out", out], env)
    check(code != 0 and "refused for the test" in err, f"a failing row: exit {code}, {err}")
    before = len(calls(folder)) - 1
    fake_build(folder)
    code, text, err = run([bench, "--quick", "--json", "--out", out], env)
    rows = json.loads(text)["rows"]
    check(len(calls(folder)) - 1 == len(rows), f"{before} rows were done, {len(rows)} exist: {err}")


def check_full(bench, folder):
    """All groups, the choice of the learning rate included; needs the packages it names, or says so."""
    code, text, err = run([bench, "--json", "--out", str(folder / "out")], fake_build(folder))
    if code != 0:
        check("dict-gcide" in err, f"full: exit {code}, {err}")
        return
    groups = {row["group"] for row in json.loads(text)["rows"]}
    check(groups >= {"tune", "methods", "codecs", "variants", "faults", "attacks", "starts", "scale"}, groups)


def main():
    binary, root = sys.argv[1], pathlib.Path(sys.argv[2])
    bench = str(root / "tools" / "bench.d" / "converge")
    check_program(binary)
    for what in (check_driver, check_resume, check_full):
        with tempfile.TemporaryDirectory() as folder:
            what(bench, pathlib.Path(folder))
    print("converge_test: fine")


main()
