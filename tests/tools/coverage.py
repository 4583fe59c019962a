#!/usr/bin/env python3
"""Branch and line coverage of each folder from a build with --coverage, read through gcov.

usage: coverage.py BUILD_DIR [--uncovered FOLDER]

Lines with ASSERT do not count towards branches: their other side is a bug.  --uncovered lists what a folder
lacks.
"""
import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile

FOLDERS = ["base", "store", "crdt", "train", "net", "net/uv", "nat", "dht", "gossip", "node"]
ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", ".."))


def reports(build):
    """gcov's JSON of every object file that ran."""
    data = [os.path.join(folder, name) for folder, _, names in os.walk(build) for name in names
            if name.endswith(".gcda") and "/tests/" not in folder]
    for path in data:
        with tempfile.TemporaryDirectory() as scratch:
            command = ["gcov", "--json-format", "--branch-probabilities", os.path.realpath(path)]
            subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            for name in os.listdir(scratch):
                with gzip.open(os.path.join(scratch, name), "rt", encoding="utf-8") as file:
                    yield json.load(file)


def collect(build):
    """{file: ({line: hit}, {(line, branch): hit})} of this repository's files."""
    files = {}
    for report in reports(build):
        for entry in report["files"]:
            path = os.path.realpath(os.path.join(report["current_working_directory"], entry["file"]))
            if not path.startswith(ROOT + os.sep) or not path.endswith(".c"):
                continue
            lines, branches = files.setdefault(os.path.relpath(path, ROOT), ({}, {}))
            with open(path, encoding="utf-8") as source:
                text = source.read().split("\n")
            for line in entry["lines"]:
                number = line["line_number"]
                lines[number] = lines.get(number, False) or line["count"] > 0
                if "ASSERT(" in text[number - 1] or "assert(" in text[number - 1]:
                    continue
                for index, branch in enumerate(line["branches"]):
                    hit = branches.get((number, index), False) or branch["count"] > 0
                    branches[(number, index)] = hit
    return files


def percent(hits):
    return f"{100.0 * sum(hits) / len(hits):5.1f} % of {len(hits):5d}" if hits else "none"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--uncovered", metavar="FOLDER")
    args = parser.parse_args()
    files = collect(args.build)
    if not files:
        print(f"no coverage data below {args.build}: run tools/test coverage", file=sys.stderr)
        return 1
    for folder in FOLDERS:
        inside = [f for f in files if os.path.dirname(f) == folder]
        lines = [hit for f in inside for hit in files[f][0].values()]
        branches = [hit for f in inside for hit in files[f][1].values()]
        if lines:
            print(f"{folder:8}  branches {percent(branches)}   lines {percent(lines)}")
        for path in inside if folder == args.uncovered else []:
            for number in sorted({n for n, hit in files[path][0].items() if not hit}):
                print(f"{path}:{number}: line never runs")
            for number, index in sorted(key for key, hit in files[path][1].items() if not hit):
                print(f"{path}:{number}: branch {index} never taken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
