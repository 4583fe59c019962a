#!/usr/bin/env python3
"""A man page must keep up with its program: every command and option that the help lists is in the page.

usage: man_test.py PROGRAM PAGE
"""
import re
import subprocess
import sys


def page_text(path):
    """The page without the markup that splits words."""
    with open(path, encoding="utf-8") as file:
        text = file.read().replace("\\-", "-")
    return re.sub(r"\\f[A-Z]|\"", "", text)


def help_of(program, *words):
    result = subprocess.run([program, *words, "--help"], check=True, text=True, stdout=subprocess.PIPE)
    return result.stdout


def commands_of(text):
    """Names in the part of the help that lists commands, one or two words each."""
    part = re.search(r"^commands:\n((?:  .*\n)+)", text, re.MULTILINE)
    return [re.split(r"\s{2,}", line.strip())[0] for line in part.group(1).splitlines()] if part else []


def main():
    program, path = sys.argv[1:]
    page = page_text(path)
    text = help_of(program)
    commands = commands_of(text)
    options = set(re.findall(r"--[a-z][a-z-]+", text))
    for command in commands:
        help_text = help_of(program, *command.split())
        options |= set(re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]+)", help_text, re.MULTILINE))
    missing = [name for name in commands if not re.search(rf"^{name}\b", page, re.MULTILINE)]
    missing += [name for name in sorted(options) if not re.search(rf"{name}(?![a-z-])", page)]
    for name in missing:
        print(f"{path} does not mention {name}")
    print(f"{len(commands)} commands and {len(options)} options, {len(missing)} missing from {path}")
    return 1 if missing or not options else 0


if __name__ == "__main__":
    sys.exit(main())
