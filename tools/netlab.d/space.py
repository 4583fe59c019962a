"""Network namespaces and the programs that shape them.

One process may work in many namespaces: a thread moves in, opens a socket or writes a sysctl, and moves back;
a socket stays in the namespace it was made in.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time

CLONE_NEWNET = 0x40000000
NETNS_DIR = "/run/netns"
LIBC = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """Something a person can act on; the message says what."""


def missing_programs():
    """Programs a lab cannot do without and this machine lacks."""
    return [name for name in ("ip", "nft", "conntrack") if shutil.which(name) is None]


def unusable():
    """Why no lab can be built here, or None."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    lacking = missing_programs()
    if lacking:
        return "lacks %s: tools/install-deps test" % ", ".join(lacking)
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        return "this machine gives no network namespaces: %s" % probe.stderr.strip()
    return None


@contextlib.contextmanager
def entering(space, die_with=None):
    """Gives what a child does between fork and exec to live in a namespace, or None when there is nothing."""
    fd = open_space(space) if space is not None else -1

    def forked():
        if fd >= 0:
            move_to(fd)
        if die_with is not None:
            die_with()

    try:
        yield forked if fd >= 0 or die_with is not None else None
    finally:
        if fd >= 0:
            os.close(fd)


def run(words, given=None, check=True, space=None):
    """Runs a program to its end, in a namespace when one is given; returns its CompletedProcess."""
    feed = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    with entering(space) as forked:
        done = subprocess.run(words, capture_output=True, text=True, preexec_fn=forked, **feed)
    if check and done.returncode != 0:
        lines = len((given or "").splitlines())
        shown = " ".join(words) + (" (%d lines)" % lines if lines else "")
        raise LabError("%s: %s" % (shown, (done.stderr or done.stdout).strip()[:2000]))
    return done


def start(words, space, log, die_with=None, env=None):
    """Starts a program in a namespace, its words going to the file log; returns its Popen."""
    with open(log, "ab") as out, entering(space, die_with) as forked:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=forked,
            env=env,
        )


def open_space(name):
    try:
        return os.open(os.path.join(NETNS_DIR, name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise LabError("there is no namespace %s" % name) from None


def move_to(fd):
    if LIBC.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def inside(space):
    """Runs the body in a namespace.  Only this thread moves; what it opens stays there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = open_space(space)
        try:
            move_to(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            move_to(home)
    finally:
        os.close(home)


def sysctl(space, values):
    """Writes network sysctls of a namespace: {"net/ipv4/ip_forward": 1, ...}.  Absent ones are skipped."""
    with inside(space):
        for name, value in values.items():
            try:
                with open("/proc/sys/" + name, "w", encoding="ascii") as file:
                    file.write(str(value))
            except FileNotFoundError:
                pass


def ip_batch(lines, space=None):
    where = ["-n", space] if space else []
    if lines:
        run(["ip", *where, "-batch", "-"], "\n".join(lines) + "\n")


def nft(space, text):
    run(["nft", "-f", "-"], text, space=space)


def names(prefix):
    """Namespaces that begin with prefix."""
    try:
        return sorted(name for name in os.listdir(NETNS_DIR) if name.startswith(prefix))
    except FileNotFoundError:
        return []


def processes(spaces):
    """Ids of all processes that live in these namespaces."""
    wanted = set()
    for name in spaces:
        try:
            wanted.add(os.stat(os.path.join(NETNS_DIR, name)).st_ino)
        except OSError:
            continue
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if os.stat("/proc/%s/ns/net" % entry).st_ino in wanted:
                found.append(int(entry))
        except OSError:
            continue  # it ended meanwhile
    return found


def end_processes(spaces, seconds=3.0, first=signal.SIGTERM):
    """Ends every process in these namespaces: first this signal, after the time SIGKILL."""
    deadline = time.monotonic() + seconds
    number = first
    while True:
        living = [pid for pid in processes(spaces) if not is_zombie(pid)]
        if not living:
            return
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGKILL and time.monotonic() > deadline + seconds:
            raise LabError("processes %s do not end" % living)
        # A second SIGTERM tells some daemons to hurry, so only the first round sends it.
        number = signal.SIGKILL if time.monotonic() > deadline else 0
        time.sleep(0.02)


def is_zombie(pid):
    """A zombie is its parent's business; it holds no namespace."""
    try:
        with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return True


def delete(spaces):
    if spaces:
        run(["ip", "-force", "-batch", "-"], "".join("netns del %s\n" % name for name in spaces), check=False)
    left = [name for name in spaces if os.path.exists(os.path.join(NETNS_DIR, name))]
    if left:
        raise LabError("could not delete the namespaces %s" % " ".join(left))
