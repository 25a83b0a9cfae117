# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Other compilers, other C libraries, older ones."""
import re
from pathlib import Path

import lab

LIBFSOCKET = lab.HERE.parent
OLDEST = (2, 17)  # EL7's glibc
# In glibc before 2.33 these are inline functions of its headers.
INLINE_ONCE = {"stat", "fstat", "lstat", "fstatat"}


def make(target):
    """Build one of the Makefile's other worlds; return its library. A compiler that says anything has failed."""
    said = lab.run("make", "-s", "--no-print-directory", "-C", LIBFSOCKET, f"BUILD={lab.build}", target).stdout
    assert not said, said
    return lab.build / target / "libfsocket.so"


def serve(program, library, name):
    """Run `listens` with a library; return what it said, without the line of its own, and its slots."""
    env = {**lab.environment(name), "LD_PRELOAD": str(library)}
    said = lab.run(program, env=env).stdout.splitlines()
    said.remove("served")
    stats = lab.Stats(name)
    return said, stats.read()["slots"] if stats.path.exists() else []


def works(library, name):
    said, slots = serve(lab.build / "tests/listens", library, name)
    assert not said and len(slots) == 1, (said, slots)


def test_gcc():
    """the library as it is serves the program of these tests"""
    works(lab.preload, "gcc")


def test_old_compiler():
    """C99, no <stdatomic.h>, no option younger than Linux 3.10 in the headers: builds without a word, and works"""
    works(make("old"), "old")


def test_clang():
    """clang: builds without a word, and works"""
    works(make("clang"), "clang")


def musl_program():
    """`listens` as a program of musl."""
    program = lab.RUN / "listens-musl"
    lab.run("musl-gcc", "-Wall", "-Werror", lab.HERE / "listens.c", "-o", program)
    return program


def test_musl():
    """built for musl: works in a program of musl; in one of glibc it says one line and does nothing"""
    library = make("musl")
    said, slots = serve(musl_program(), library, "musl")
    assert not said and len(slots) == 1, (said, slots)
    refused(lab.build / "tests/listens", library, "musl-glibc")


def refused(program, library, name):
    said, slots = serve(program, library, name)
    assert len(said) == 1 and "another C library" in said[0] and not slots, (said, slots)


def test_glibc_in_musl():
    """built for glibc, in a program of musl: one line, or none with FSOCKET_LOG=0, and the program runs as ever"""
    program = musl_program()
    refused(program, lab.preload, "glibc-musl")
    quiet = lab.run(program, env={**lab.environment("glibc-musl", log=0)}).stdout
    assert quiet == "served\n", quiet


def versions(path, undefined):
    """Return {symbol: set of versions} that a library needs of glibc, or has."""
    found = {}
    for line in lab.run("readelf", "-W", "--dyn-syms", path).stdout.splitlines():
        m = re.search(r" (\w+)@@?GLIBC_([\d.]+)", line)
        if m and (" UND " in line) == undefined:
            found.setdefault(m[1], set()).add(tuple(map(int, m[2].split("."))))
    return found


def too_new(needed, offered):
    """Names that glibc 2.17 has in no version. What only moved since (dlsym, from libdl) it has in an older one."""
    return sorted(name for name in needed if min(offered[name]) > OLDEST and name not in INLINE_ONCE)


def test_symbols():
    """no function that glibc 2.17 does not have"""
    libc = Path(lab.run("gcc", "-print-file-name=libc.so.6").stdout.strip())
    needed, offered = versions(lab.preload, True), versions(libc, False)
    newer = {name: found for name, found in needed.items() if max(found) > OLDEST}
    print(f"# {len(needed)} needed; by a newer version than 2.17 only what is older under another: {sorted(newer)}")
    assert len(needed) > 30, needed
    assert too_new({"gettid", "close_range", "dlsym"}, offered) == ["close_range", "gettid"], "the check is blind"
    assert not too_new(needed, offered), too_new(needed, offered)
