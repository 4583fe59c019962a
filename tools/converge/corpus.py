"""Text for the convergence experiments, made from what the machine has: the same bytes on every machine."""
import gzip
import hashlib
import json
import pathlib

DICTIONARY = pathlib.Path("/usr/share/dictd/gcide.dict.dz")  # package dict-gcide, 40 MB of English
DIGITS = pathlib.Path("/usr/lib/python3/dist-packages/sklearn/datasets/data/digits.csv.gz")
BLOCK = 8192
HELD_EVERY = 50  # one block in so many is never trained on; half of these for choosing the learning rate
KEEP_EVERY = 4   # of the others: 10 MB are more than the longest run reads
SHARDS = 8       # the dictionary is in alphabetical order, so that shards differ: mildly
OWN_SUFFIXES = (".md", ".c", ".h", ".py", ".1", ".5", ".8")


class CorpusError(Exception):
    pass


def dictionary_text():
    with gzip.open(DICTIONARY) as file:
        return file.read().decode("utf-8", errors="ignore").encode()


def repository_text(root):
    """The repository's own text: small, so for quick runs only."""
    parts = []
    for folder in ("docs", "base", "crdt", "dht", "gossip", "nat", "net", "node", "store", "train"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in OWN_SUFFIXES and path.is_file():
                parts.append(path.read_bytes())
    return b"\n".join(parts)


def clean(block):
    """A block cut inside a character keeps only whole ones."""
    return block.decode("utf-8", errors="ignore").encode()


def split(text, keep_every, held_every):
    train, tune, held = [], [], []
    for number, at in enumerate(range(0, len(text), BLOCK)):
        block = clean(text[at:at + BLOCK])
        if number % held_every == held_every - 1:
            (held if number // held_every % 2 == 0 else tune).append(block)
        elif number % keep_every == 0:
            train.append(block)
    return train, tune, held


def prepare_digits(out):
    """Writes digits.csv: 1797 images of 8 x 8 (UCI, in package python3-sklearn).  False: it is not there."""
    if not DIGITS.exists():
        return False
    out.mkdir(parents=True, exist_ok=True)
    with gzip.open(DIGITS) as file:
        (out / "digits.csv").write_bytes(file.read())
    return True


def prepare(root, out, quick):
    """Writes text.txt, small.txt, held.txt, tune.txt and shards/N.txt below out; returns a description."""
    note = out / "corpus.json"
    if DICTIONARY.exists():
        name, text, keep, held_every = "GCIDE dictionary (package dict-gcide)", None, KEEP_EVERY, HELD_EVERY
    elif quick:
        name, text, keep, held_every = "the repository's own text", repository_text(root), 1, 10
    else:
        raise CorpusError(f"{DICTIONARY} is missing: install the package dict-gcide "
                          "(tools/install-deps bench); without it only --quick runs, on the repository's "
                          "text")
    known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if text is None and known.get("name") == name and (out / "held.txt").exists():
        return known
    text = dictionary_text() if text is None else text
    train, tune, held = split(text, keep, held_every)
    out.mkdir(parents=True, exist_ok=True)
    (out / "shards").mkdir(exist_ok=True)
    whole = b"".join(train)
    (out / "text.txt").write_bytes(whole)
    (out / "small.txt").write_bytes(clean(whole[:1 << 20]))
    (out / "tune.txt").write_bytes(b"".join(tune))
    (out / "held.txt").write_bytes(b"".join(held))
    for shard in range(SHARDS):
        part = train[len(train) * shard // SHARDS:len(train) * (shard + 1) // SHARDS]
        (out / "shards" / f"{shard}.txt").write_bytes(b"".join(part))
    known = {"name": name, "bytes": len(whole), "held_bytes": sum(map(len, held)),
             "hash": hashlib.blake2b(whole + b"".join(held), digest_size=8).hexdigest()}
    note.write_text(json.dumps(known), encoding="utf-8")
    return known
