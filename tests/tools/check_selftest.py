#!/usr/bin/env python3
"""Every rule of tools/check must fire on a small tree that breaks it and nothing may fire on a clean one.

usage: check_selftest.py PATH_OF_CHECK

Each case writes one file into a copy of the clean tree and names the one message that must appear.
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

HEADER = """/* A clean header. */
#ifndef DUNLIN_DHT_CLEAN_H
#define DUNLIN_DHT_CLEAN_H

#include <stdint.h>

struct dht_clean {
    uint32_t count;
};

/* Number of things, and their sum. */
uint32_t dht_clean_count(const struct dht_clean *clean);
uint32_t dht_clean_sum(const struct dht_clean *clean, uint32_t more);

#endif
"""
SOURCE = """#include "dht/clean.h"

#include "dht/internal.h"
#include "net/wire.h"

static const uint32_t weights[2] = {1, 2};

/* strcpy(a, b) in a comment and "malloc(1)" in a string are no calls. */
uint32_t dht_clean_count(const struct dht_clean *clean)
{
    static const char text[] = "malloc(1)";
    return clean->count + weights[0] + (uint32_t)text[0];
}
"""
CLEAN = {
    "README.md": "# Clean\n\nSee [the DHT](dht/README.md) and [a site](https://example.org/).\n",
    "dht/README.md": "# dht\n",
    "dht/CMakeLists.txt": "dunlin_library(dht LINK dunlin_net dunlin_base)\n",
    "dht/clean.h": HEADER,
    "dht/clean.c": SOURCE,
    "dht/internal.h": "struct dht_hidden;\n",
    "net/README.md": "# net\n",
    "nat/README.md": "# nat\n",
    "net/wire.h": "/* Wire. */\nstruct net_wire;\n",
    "nat/path.h": "/* Paths. */\nstruct nat_path;\n",
    "tools/run": "#!/usr/bin/env bash\nset -eu\n",
}
MARK = "TO" + "DO"
LONG_FUNCTION = "int dht_long(int a)\n{\n" + "    a++;\n" * 69 + "    return a;\n}\n"
FULL_FUNCTION = "int dht_long(int a)\n{\n" + "    a++;\n" * 67 + "    return a;\n}\n"

# (file, content, regular expression of the one message expected, or None for silence)
CASES = [
    ("dht/up.c", '#include "nat/path.h"\n', r"dht/up\.c:1: layers: .*nat/path"),
    ("dht/up.c", '#include "gone.h"\n', r"up\.c:1: layers: no file"),
    ("dht/loop.c", "#include <uv.h>\n", r"loop\.c:1: layers: <uv\.h> belongs to"),
    ("nat/CMakeLists.txt", "dunlin_library(nat LINK dunlin_dht)\n",
     r"CMakeLists\.txt:1: layers: .*dunlin_dht"),
    ("nat/peek.h", '/* P. */\n#include "dht/internal.h"\n', r"nat/peek\.h:2: (layers|internal): "),
    ("tools/peek.c", '#include "dht/internal.h"\n', r"tools/peek\.c:1: internal: "),
    ("tests/dht/test_peek.c", '#include "dht/internal.h"\n', None),
    ("dht/long.c", LONG_FUNCTION, r"long\.c:2: function-length: function of 72 lines"),
    ("dht/long.c", FULL_FUNCTION, None),
    ("dht/big.c", "int x(void);\n" * 801, r"big\.c:1: file-length: 801 lines"),
    ("dht/big.h", "/* B. */\n" + "int x(void);\n" * 249, r"big\.h:1: header-length: 250 lines"),
    ("tools/wide.py", "x = 1  # " + "y" * 110 + "\n", r"wide\.py:1: columns: 119 columns"),
    ("dht/ugly.c", "int  dht_ugly( void );\n", r"ugly\.c:1: format: run: clang-format-14 -i dht/ugly\.c"),
    ("dht/needs.h", "/* N. */\nstruct dht_n {\n    uint8_t x;\n};\n", r"needs\.h:3: standalone: .*uint8_t"),
    ("dht/bare.h", "/* B. */\n\nint dht_bare(void);\n", r"bare\.h:3: undocumented: dht_bare\(\)"),
    ("dht/bare.h", "/* B. */\n\nstruct dht_b {\n    int x;\n};\nint dht_bare(int a, int b);\n",
     r"bare\.h:6: undocumented: dht_bare\(\)"),
    ("dht/none.h", "struct dht_none;\n", r"none\.h:1: undocumented: a public header begins"),
    ("dht/heap.c", "void *dht_heap(void)\n{\n    return malloc(1);\n}\n", r"heap\.c:3: banned: malloc\(\)"),
    ("dht/clock.c", "long dht_clock(void)\n{\n    return time(0);\n}\n", r"clock\.c:3: banned: time\(\)"),
    ("dht/print.c", 'void dht_print(void)\n{\n    printf("x");\n}\n', r"print\.c:3: banned: printf\(\)"),
    ("tools/copy.c", "void tool_copy(char *a)\n{\n    strcpy(a, a);\n}\n", r"copy\.c:3: banned: strcpy\(\)"),
    ("tools/heap.c", "void *tool_heap(void)\n{\n    return malloc(1);\n}\n", None),
    ("dht/field.c", "int dht_field(struct x *a)\n{\n    return a->time(a);\n}\n", None),
    ("dht/heap.c", "void *dht_heap(void)\n{\n    /* check-allow: banned, freed by the C library */\n"
     "    return malloc(1);\n}\n", None),
    ("dht/heap.c", "void *dht_heap(void)\n{\n    return malloc(1); /* check-allow: banned */\n}\n",
     r"heap\.c:3: banned: malloc"),
    ("dht/mark.c", f"/* {MARK}: later */\n", r"mark\.c:1: marker: " + MARK),
    ("dht/mark.c", f"/* {MARK} #12: later */\n", None),
    ("dht/type.c", "typedef struct dht_x dht_x;\n", r"type\.c:1: typedef: no typedef"),
    ("dht/type.c", "typedef unsigned char dht_x_t;\n", r"type\.c:1: typedef: names ending in _t"),
    ("dht/memo.c", "int dht_memo(void)\n{\n    static int count;\n    return count++;\n}\n",
     r"memo\.c:3: static: mutable function static"),
    ("dht/global.c", "static int dht_global;\n", r"global\.c:1: static: mutable global"),
    ("tools/here.py", "PATH = '/ro" + "ot/x'\n", r"here\.py:1: path: "),
    ("tools/tail.py", "x = 1 \n", r"tail\.py:1: text: white space"),
    ("tools/end.py", "x = 1", r"end\.py:1: text: no newline"),
    ("tools/tab.py", "if 1:\n\tx = 1\n", r"tab\.py:2: text: tab"),
    ("tools/broken", "#!/usr/bin/env bash\nif\n", r"tools/broken:1: script: "),
    ("tools/plain.sh", "#!/bin/sh\ntrue\n", r"plain\.sh:1: script: .*not executable"),
    ("docs/lost.md", "See [this](nowhere.md).\n", r"lost\.md:1: link: nowhere\.md"),
    ("docs/protocol/dht.md", "# dht\n", r"protocol/dht\.md:1: link: no row"),
    ("store/alone.c", "int store_alone(void);\n", r"store/alone\.c:1: readme: store/README\.md is missing"),
    ("nat/CMakeLists.txt", "add_compile_options(-ffast" + "-math)\n", r"CMakeLists\.txt:1: banned: "),
]


def write(root, path, content):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as file:
        file.write(content)
    if content.startswith("#!") and not path.endswith("plain.sh"):
        os.chmod(full, 0o755)


def run(check, root):
    """(exit status, messages) of one run, without the notes and the summary."""
    result = subprocess.run([sys.executable, check, "--root", root], text=True, check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = [line for line in result.stdout.splitlines() if not line.startswith("check: ")]
    return result.returncode, lines


def run_case(check, path, content, expected):
    """What went wrong with one case, or None."""
    root = tempfile.mkdtemp(prefix="check-")
    try:
        shutil.copy(os.path.join(os.path.dirname(check), "..", ".clang-format"), root)
        for clean_path, clean_content in CLEAN.items():
            write(root, clean_path, clean_content)
        if path:
            write(root, path, content)
        status, lines = run(check, root)
    finally:
        shutil.rmtree(root)
    if expected is None:
        return None if status == 0 and not lines else f"expected silence, got: {lines}"
    if status != 1:
        return f"expected exit 1, got {status}: {lines}"
    if not lines or not all(re.search(expected, line) for line in lines):
        return f"expected only {expected}, got: {lines}"
    return None


def main():
    check = sys.argv[1]
    failures = 0
    cases = [("", "", None)] + CASES
    have_format = shutil.which("clang-format-14") is not None
    cases = [c for c in cases if have_format or not c[2] or "format:" not in c[2]]
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        problems = list(pool.map(lambda case: run_case(check, *case), cases))
    for (path, content, _), problem in zip(cases, problems):
        if problem:
            failures += 1
            print(f"{path or 'clean tree'} holding {content[:200]!r}: {problem}")
    print(f"{len(cases) - failures} of {len(cases)} cases as expected")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
