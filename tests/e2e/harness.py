"""What the end-to-end tests share: a directory, real text, a time limit, and what to print on failure.

A test is an executable file here with a function test(context) and harness.run(test, seconds) at its end.
Exit codes: 0 passed, 77 skipped (the last line says why), anything else failed.  The ends of the nodes' logs
are printed on failure; DUNLIN_KEEP=1 in the environment keeps the directory then.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.environ.get("DUNLIN_ROOT") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tools", "quickstart.d"))

import nodes  # noqa: E402
from nodes import Failed, wait_until  # noqa: E402,F401

# A model that takes a few milliseconds a step, so that many rounds fit into a test.
SMALL = ["--width", "32", "--layers", "1", "--heads", "2", "--context", "32", "--batch", "8"]


class Skip(Exception):
    """The machine lacks something; the message says what."""


class Context:
    """One test's directory, programs and swarms."""

    def __init__(self, name, directory):
        self.name = name
        self.dir = directory
        self.programs = None
        self.swarms = []

    def swarm(self, name="swarm", cpu=None):
        """A swarm of its own network, so that tests never meet each other or a node of this machine."""
        directory = os.path.join(self.dir, name)
        os.makedirs(directory, exist_ok=True)
        network = "e2e-%s-%s-%d" % (self.name, name, os.getpid())
        swarm = nodes.Swarm(self.programs, directory, network, cpu)
        self.swarms.append(swarm)
        return swarm

    def text(self):
        """A file of real text: the project's own sources and documents, always there and about a megabyte."""
        path = os.path.join(self.dir, "text.txt")
        if os.path.exists(path):
            return path
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True)
        names = listed.stdout.decode().split("\0") if listed.returncode == 0 else os_files(ROOT)
        with open(path, "wb") as out:
            for name in sorted(names):
                if name.endswith((".md", ".h", ".c", ".py")) and os.path.isfile(os.path.join(ROOT, name)):
                    with open(os.path.join(ROOT, name), "rb") as file:
                        out.write(file.read())
        if os.path.getsize(path) < 200000:
            raise Failed("the project's own text has only %d bytes" % os.path.getsize(path))
        return path

    def stop(self):
        for swarm in self.swarms:
            for node in swarm.nodes:
                node.signal(signal.SIGCONT)
                node.kill()


def os_files(root):
    """Paths below root, for a checkout without git."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in ("build", ".git")]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root)


def say(text):
    print("[%7.2f] %s" % (time.monotonic() - STARTED, text), flush=True)


def expect(condition, text):
    """One claim of a test: printed when it holds, fatal when it does not."""
    if not condition:
        raise Failed(text)
    say("ok: " + text)


def expect_exit(done, code, *parts):
    """A finished process ended with this code, and its words hold every part."""
    said = done.stdout + done.stderr
    words = " ".join(done.args[:1] + done.args[1:])
    if done.returncode != code:
        raise Failed("exit code %s instead of %s from: %s\n%s" % (done.returncode, code, words, said))
    for part in parts:
        if part.lower() not in said.lower():
            raise Failed("'%s' is missing in what was said by: %s\n%s" % (part, words, said))
    say("ok: exit %d, '%s'" % (code, " | ".join(said.strip().splitlines()[:1])))


STARTED = time.monotonic()


def on_alarm(_number, _frame):
    raise Failed("the test ran past its time limit")


def on_terminate(number, _frame):
    raise KeyboardInterrupt(number)


def finish(context, code):
    if code not in (0, 77):
        for swarm in context.swarms:
            for node in swarm.nodes:
                print(node.log_tail())
    context.stop()
    if code != 0 and os.environ.get("DUNLIN_KEEP"):
        print("kept: %s" % context.dir)
    else:
        shutil.rmtree(context.dir, ignore_errors=True)


def run(test, seconds):
    """Runs the test within its time limit and exits with its code."""
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_terminate)
    # A shell that starts us in the background has interrupts ignored, which programs we start would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(seconds)
    name = os.path.basename(sys.argv[0]).split(".")[0].replace("test_", "")
    context = Context(name, tempfile.mkdtemp(prefix="dunlin-e2e-"))
    code, last = 1, ""
    try:
        context.programs = nodes.Programs(ROOT)
        test(context)
        code = 0
        say("passed")
    except Skip as reason:
        code, last = 77, "skipped: %s" % reason
    except (Failed, KeyboardInterrupt, OSError, subprocess.SubprocessError) as problem:
        print("FAILED: %s" % (str(problem) or type(problem).__name__))
    except Exception:  # a mistake in the test itself
        traceback.print_exc(file=sys.stdout)
    finally:
        signal.alarm(0)
        finish(context, code)
    if last:
        print(last)
    sys.exit(code)
