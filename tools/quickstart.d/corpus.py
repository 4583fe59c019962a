"""English text that a Debian machine carries, gathered into a folder of plain text files.

Sources, in this order, each up to its share: licence texts, perl's manual, manual pages, and the
documentation of installed packages.  Text is kept when it is English, and each paragraph is kept once:
package documentation repeats the same licences hundreds of times, and a model measured on what it has seen
before proves nothing.
"""

import gzip
import hashlib
import os
import re
import shutil

FORMAT = "5"  # part of the cache key: raise it when the output changes
TOTAL_MAX = 30 << 20
TOTAL_MIN = 1 << 20  # less than this does not train anything worth looking at
DOCUMENT_MAX = 1 << 20  # of one file's text, so that no single changelog dominates
DOCUMENT_MIN = 512
FILE_BYTES = 1 << 20  # size of the files written
PROSE_SHARE_MIN = 0.8  # letters and spaces of a paragraph; link lists, tables and code have fewer
REPEAT_MIN = 60  # paragraphs shorter than this may repeat (headings, "See also")
COMMON = frozenset(
    "the of and to in is for that this with be are or as it on by not if can you an from".split()
)
COMMON_SHARE_MIN = 0.12  # of the words; prose has 0.25 and more, lists of names and other languages less

# (name, root, file name pattern, kind, bytes at most)
SOURCES = (
    ("licenses", "/usr/share/common-licenses", r".*", "text", 1 << 20),
    ("perl", "/usr/share/perl", r".*\.pod$", "pod", 10 << 20),
    ("manual", "/usr/share/man", r".*/man[1-8]/[^/]*\.[1-8][a-z]*(\.gz)?$", "roff", 12 << 20),
    (
        "doc",
        "/usr/share/doc",
        r".*/(readme|news|faq|howto|tutorial|guide)[^/]*$|.*\.(txt|md|rst|pod)(\.gz)?$",
        "text",
        12 << 20,
    ),
    ("copyright", "/usr/share/doc", r".*/copyright$", "text", 6 << 20),
    ("changes", "/usr/share/doc", r".*/changelog[^/]*$|.*/changes[^/]*$", "text", 4 << 20),
)


class TooLittle(Exception):
    """The machine carries too little text; the message says what to do."""


def candidates(root, pattern):
    """Regular files below root whose path matches, each real file once, in an order that mixes packages."""
    matcher = re.compile(pattern, re.IGNORECASE)
    found = {}
    for folder, _, names in os.walk(root):
        if "/man/" in folder + "/" and not re.search(r"/man/man\d$", folder):
            continue  # /usr/share/man/de/man1: other languages
        for name in names:
            path = os.path.join(folder, name)
            if not matcher.match(path):
                continue
            try:
                status = os.stat(path)
            except OSError:
                continue
            found.setdefault((status.st_dev, status.st_ino), (path, status.st_size, int(status.st_mtime)))
    return sorted(
        found.values(), key=lambda item: hashlib.sha256(item[0].encode("utf-8", "replace")).digest()
    )


def read_text(path):
    """The file's text, or None when it is not UTF-8 or cannot be read."""
    try:
        opener = gzip.open if path.endswith(".gz") else open
        with opener(path, "rb") as file:
            data = file.read(DOCUMENT_MAX)
    except (OSError, EOFError, gzip.BadGzipFile):
        return None
    if b"\0" in data:
        return None
    text = data.decode("utf-8", "ignore")
    return text if len(text.encode()) > 0.98 * len(data) else None


ROFF_ESCAPES = (
    (re.compile(r'\\".*'), ""),
    (re.compile(r"\\f(\[[^]]*\]|\(..|.)"), ""),
    (re.compile(r"\\s[-+]?\d+"), ""),
    (re.compile(r"\\\((aq|cq|oq)"), "'"),
    (re.compile(r"\\\((lq|rq|dq)"), '"'),
    (re.compile(r"\\\((em|en|mi|hy)"), "-"),
    (re.compile(r"\\\(.."), ""),
    (re.compile(r"\\\*(\(..|\[[^]]*\]|.)"), ""),
    (re.compile(r"\\[&|^/,:%)]|\\c$"), ""),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\-"), "-"),
    (re.compile(r"\\e"), "\\\\"),
)
ROFF_FONTS = {"B", "I", "SM", "SB", "BR", "RB", "BI", "IB", "RI", "IR"}


def roff_request(line):
    """Text of one line that starts with a dot, or None when it prints nothing."""
    words = re.findall(r'"((?:[^"]|"")*)"|(\S+)', line[1:])
    words = [quoted or plain for quoted, plain in words]
    if not words:
        return None
    name, rest = words[0], words[1:]
    if name in ("SH", "SS"):
        return "\n" + " ".join(rest) + "\n"
    if name in ROFF_FONTS:
        return ("" if len(name) == 2 and name not in ("SM", "SB") else " ").join(rest)
    return "" if name in ("PP", "P", "LP", "TP", "IP", "HP", "sp", "RS", "RE") else None


def strip_roff(text):
    """Roughly what the page shows.  None for mdoc pages, whose macros carry the words."""
    if re.search(r"^\.(Dd|Sh) ", text, re.MULTILINE):
        return None
    out = []
    for line in text.splitlines():
        if line.startswith(("'", '.\\"')):
            continue
        if line.startswith("."):
            line = roff_request(line)
            if line is None:
                continue
        for pattern, replacement in ROFF_ESCAPES:
            line = pattern.sub(replacement, line)
        out.append(line)
    return "\n".join(out)


def strip_pod(text):
    """Text of a pod file, with commands and formatting codes taken out."""
    text = re.sub(r"^=(head\d|item)\s+", "", text, flags=re.MULTILINE)
    text = re.sub(r"^=(begin|for)\b.*?(?=\n\n|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^=\w+.*$", "", text, flags=re.MULTILINE)
    text = text.replace("E<gt>", ">").replace("E<lt>", "<")
    for _ in range(3):  # codes nest
        text = re.sub(r"[BCFILSX]<(?:[^<>|]*\|)?([^<>]*)>", r"\1", text)
    return text


def is_english(text):
    words = re.findall(r"[a-z']+", text[:200000].lower())
    if len(words) < 60:
        return False
    letters = sum(map(len, words))
    return sum(word in COMMON for word in words) >= COMMON_SHARE_MIN * len(words) and letters > 0.5 * len(
        text[:200000]
    )


def new_paragraphs(text, seen):
    """The paragraphs that did not occur before, as one text."""
    kept = []
    for paragraph in re.split(r"\n[ \t]*\.?[ \t]*\n", text.replace("\r\n", "\n").replace("\t", "    ")):
        lines = [line.rstrip() for line in paragraph.split("\n")]
        paragraph = "\n".join(line for line in lines if line)
        plain = " ".join(re.findall(r"\w+", paragraph.lower()))
        if not plain or len(NOT_PROSE.findall(paragraph)) > (1 - PROSE_SHARE_MIN) * len(paragraph):
            continue
        if len(plain) >= REPEAT_MIN:
            digest = hashlib.blake2b(plain.encode(), digest_size=16).digest()
            if digest in seen:
                continue
            seen.add(digest)
        kept.append(paragraph)
    return "\n\n".join(kept) + "\n\n\n"


class Writer:
    """Appends documents to folder/NAME-001.txt, -002 ..."""

    def __init__(self, folder):
        self.folder = folder
        self.total = 0
        self.file = None
        self.number = 0

    def add(self, name, data):
        if self.file is None or self.file.tell() >= FILE_BYTES:
            self.next(name)
        self.file.write(data)
        self.total += len(data)

    def next(self, name):
        self.close()
        self.number += 1
        self.file = open(os.path.join(self.folder, "%s-%03d.txt" % (name, self.number)), "wb")

    def close(self):
        if self.file is not None:
            self.file.close()
            self.file = None


NOT_PROSE = re.compile(r"[^A-Za-z\s]")
CLEANERS = {"text": lambda text: text, "pod": strip_pod, "roff": strip_roff}


def write_source(writer, seen, name, files, kind, bytes_max):
    """Adds one source's documents until its share or the total is used up."""
    written = 0
    for path, _, _ in files:
        room = min(bytes_max - written, TOTAL_MAX - writer.total)
        if room < DOCUMENT_MIN:
            break
        text = read_text(path)
        text = CLEANERS[kind](text) if text else None
        if not text or not is_english(text):
            continue
        data = new_paragraphs(text, seen).encode()[:room]
        data = data.decode("utf-8", "ignore").encode()  # the cut may have split a character
        if len(data) >= DOCUMENT_MIN:
            writer.add(name, data)
            written += len(data)
    writer.close()
    return written


def gather(cache, say):
    """Path of a folder with the text, made or found in the folder cache.  TooLittle: there is not enough."""
    lists = [(name, candidates(root, pattern), kind, limit) for name, root, pattern, kind, limit in SOURCES]
    key = hashlib.sha256(repr((FORMAT, lists)).encode("utf-8", "replace")).hexdigest()[:16]
    folder = os.path.join(cache, "text-" + key)
    if os.path.isdir(folder):
        return folder
    say("gathering English text from this machine's documentation (once)")
    part = "%s.part-%d" % (folder, os.getpid())
    os.makedirs(part)
    try:
        writer, seen = Writer(part), set()
        for name, files, kind, limit in lists:
            written = write_source(writer, seen, name, files, kind, limit)
            say("  %-10s %6.2f MiB from %d files" % (name, written / 2**20, len(files)))
        if writer.total < TOTAL_MIN:
            raise TooLittle(
                "this machine carries only %.2f MiB of English text, and %.0f MiB are needed: images for "
                "containers leave documentation out.  Install perl-doc and manpages, or give a text file or "
                "folder with --data" % (writer.total / 2**20, TOTAL_MIN / 2**20)
            )
        os.rename(part, folder)
    except OSError:
        if not os.path.isdir(folder):  # else another quickstart was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def size_of(path):
    """Bytes of a file, or of all files below a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names
    )
