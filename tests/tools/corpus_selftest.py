#!/usr/bin/env python3
"""The text that quickstart gathers is English prose, each paragraph once, and valid UTF-8.

We build a small documentation tree with manual pages, perl manuals, repeats, another language, binary files
and link lists, and look at what comes out.  usage: corpus_selftest.py FOLDER_OF_CORPUS_PY
"""

import gzip
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv.pop(1))

import corpus  # noqa: E402

PROSE = (
    "This is the manual of a small program that reads the files of a folder and writes what it finds in\n"
    "them. It is used by people who want to know how much of the text on their machine is written in\n"
    "English, and it can be run from a script as well as by hand. The options are listed below, in the\n"
    "order in which they were added to the program. If you find a mistake in it, please write to the\n"
    "author of this page.\n"
)
OTHER = (
    "The second text is about something else: a bird that lives on the shore and flies with many others\n"
    "in a large flock. There is no leader in the flock, and each of the birds looks only at the ones\n"
    "that are near to it. This is enough for all of them to turn at the same time, as if they had\n"
    "agreed on it before.\n"
)
GERMAN = (
    "Dies ist ein deutscher Text, der von einem kleinen Programm handelt, das alle Dateien eines\n"
    "Ordners liest und aufschreibt, was es darin findet. Er soll nicht aufgenommen werden, denn gesucht\n"
    "wird englischer Text und nichts anderes, damit ein kleines Modell in wenigen Minuten etwas lernen\n"
    "kann und nicht verwirrt wird.\n"
)
ROFF = (
    '.\\" a comment\n.TH TOOL 1\n.SH NAME\ntool \\- reads \\fIfiles\\fR\n.SH DESCRIPTION\n.PP\n'
    + PROSE
    + ".BR dunlin (1)\n"
)
POD = "=head1 NAME\n\ntool - B<reads> C<files>\n\n=over 4\n\n=item one\n\n" + OTHER + "\n=back\n\n=cut\n"


class Corpus(unittest.TestCase):
    def test_roff(self):
        text = corpus.strip_roff(ROFF)
        self.assertIn("tool - reads files", text)
        self.assertIn("dunlin(1)", text)
        self.assertNotIn("comment", text)
        self.assertNotIn("\\f", text)
        self.assertIsNone(corpus.strip_roff(".Dd today\n.Sh NAME\n"))

    def test_pod(self):
        text = corpus.strip_pod(POD)
        self.assertIn("tool - reads files", text)
        self.assertIn("flock", text)
        for left in ("=head1", "=over", "=back", "=cut", "B<"):
            self.assertNotIn(left, text)

    def test_language(self):
        self.assertTrue(corpus.is_english(PROSE))
        self.assertFalse(corpus.is_english(GERMAN))
        self.assertFalse(corpus.is_english("a list of names " * 3))

    def test_paragraphs_come_once(self):
        seen = set()
        first = corpus.new_paragraphs(PROSE + "\n" + OTHER, seen)
        again = corpus.new_paragraphs(OTHER.replace("\n", "\n   ") + "\n" + PROSE.upper(), seen)
        self.assertIn("flock", first)
        self.assertEqual(again.strip(), "")
        links = "[1]: https://a.example/#x [2]: https://b.example/?y=1&z=2 [3]: 0x12345 6789 <<>> {}[]()"
        self.assertEqual(corpus.new_paragraphs(links, seen).strip(), "")

    def test_gather(self):
        with tempfile.TemporaryDirectory() as folder:
            root = os.path.join(folder, "man")
            os.makedirs(os.path.join(root, "man1"))
            os.makedirs(os.path.join(root, "de", "man1"))
            with gzip.open(os.path.join(root, "man1", "tool.1.gz"), "wb") as file:
                file.write(ROFF.encode())
            with gzip.open(os.path.join(root, "de", "man1", "tool.1.gz"), "wb") as file:
                file.write(ROFF.replace("flock", "Schwarm").encode())
            os.symlink(os.path.join(root, "man1", "tool.1.gz"), os.path.join(root, "man1", "alias.1.gz"))
            docs = os.path.join(folder, "doc")
            os.makedirs(docs)
            for name, data in (
                ("bird.txt", OTHER.encode() + "\ncaf\u00e9 \u20ac\n".encode()),
                ("copy.txt", OTHER.encode()),
                ("deutsch.txt", GERMAN.encode()),
                ("binary.txt", PROSE.encode() + b"\0"),
                ("latin.txt", b"\xe9" * 500),
            ):
                with open(os.path.join(docs, name), "wb") as file:
                    file.write(data)
            corpus.SOURCES = (
                ("manual", root, r".*/man[1-8]/[^/]*\.[1-8][a-z]*(\.gz)?$", "roff", 10000),
                ("doc", docs, r".*\.txt$", "text", 10000),
            )
            corpus.DOCUMENT_MIN = 100
            cache = os.path.join(folder, "cache")
            with self.assertRaises(corpus.TooLittle):
                corpus.gather(cache, lambda text: None)
            self.assertEqual(os.listdir(cache), [])
            corpus.TOTAL_MIN = 400
            said = []
            made = corpus.gather(cache, said.append)
            text = ""
            for name in sorted(os.listdir(made)):
                with open(os.path.join(made, name), "rb") as file:
                    text += file.read().decode("utf-8")
            self.assertEqual(text.count("flies with many others"), 1)
            self.assertEqual(text.count("much of the text on"), 1)
            self.assertNotIn("deutscher", text)
            count = len(said)
            self.assertEqual(corpus.gather(cache, said.append), made)
            self.assertEqual(len(said), count, "the second time comes from the cache")


if __name__ == "__main__":
    unittest.main()
