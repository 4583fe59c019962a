#!/usr/bin/env python3
"""Runs a command and measures how long the machine kept a waiting process from running meanwhile.

usage: watched.py SECONDS COMMAND [ARGUMENT...]
Ends as the command does: its exit status, 124 after SECONDS.  The last line of its output is
"longest stall: N ms".  A test of times that fails beside a long stall says something about the machine.
"""
import signal
import subprocess
import sys
import threading
import time

TICK_S = 0.01
KILL_AFTER_S = 20


class Stalls(threading.Thread):
    """Sleeps in short ticks; what a tick takes too long is a stall."""

    def __init__(self):
        super().__init__(daemon=True)
        self.longest_ms = 0
        self.over = threading.Event()

    def run(self):
        before = time.monotonic()
        while not self.over.wait(TICK_S):
            now = time.monotonic()
            self.longest_ms = max(self.longest_ms, 1000 * (now - before - TICK_S))
            before = now


def status_of(process, seconds):
    """The exit status as a shell counts it; a command that takes too long is ended, politely first."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return 124
    return code if code >= 0 else 128 - code


def main():
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        print(__doc__, file=sys.stderr)
        return 2
    stalls = Stalls()
    stalls.start()
    try:
        process = subprocess.Popen(sys.argv[2:])
    except OSError as error:
        print("watched: cannot run %s: %s" % (sys.argv[2], error.strerror), file=sys.stderr)
        return 127
    # An interrupt from the terminal reaches the command too; this one stays to report.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    status = status_of(process, int(sys.argv[1]))
    stalls.over.set()
    print("longest stall: %d ms" % stalls.longest_ms, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
