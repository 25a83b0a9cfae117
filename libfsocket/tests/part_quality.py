# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the built library looks like, and what analyzers and fuzzers say of its sources."""
import json
import re

import lab

LIBFSOCKET = lab.HERE.parent
SOURCES = sorted((LIBFSOCKET / "src").glob("*.c"))
FUZZ_RUNS = 20000


def intercepted():
    """Names of the functions that the sources mean to intercept."""
    return set(re.findall(r"^EXPORT \w+ (\w+)\(", "\n".join(p.read_text() for p in SOURCES), re.M))


def test_exports():
    """the library exports the intercepted names, no other, and none with a version"""
    # With a version they are not found: test_version_node.
    names = lab.run("nm", "-D", "--defined-only", "--with-symbol-versions", lab.preload).stdout
    assert {line.split()[-1] for line in names.splitlines()} == intercepted()
    listed = re.search(r"global:(.*?)local:", (LIBFSOCKET / "src/libfsocket.map").read_text(), re.S)[1]
    assert set(re.findall(r"\w+", listed)) == intercepted() and len(intercepted()) > 15


def test_version_node():
    """a version on the exported names would end the interception: programs ask for accept@GLIBC_2.2.5"""
    slots = {}
    for kind in ("plain", "versioned"):
        script, library = lab.RUN / f"{kind}.map", lab.RUN / f"{kind}.so"
        node = "FSOCKET_1 " if kind == "versioned" else ""
        script.write_text(re.sub(r"^\{", node + "{", (LIBFSOCKET / "src/libfsocket.map").read_text(), flags=re.M))
        lab.run("gcc", "-shared", f"-Wl,--version-script={script}", *sorted(lab.build.glob("*.o")), "-o", library)
        lab.run(lab.build / "tests/listens", env={**lab.environment(kind), "LD_PRELOAD": str(library)})
        slots[kind] = len(lab.Stats(kind).read()["slots"])
    assert slots == {"plain": 1, "versioned": 0}, slots


def hardening(library):
    """What readelf shows of the hardening flags."""
    text = lab.run("readelf", "-W", "-l", "-d", "--dyn-syms", library).stdout
    stack = re.search(r"GNU_STACK.*", text)[0].split()
    return {
        "relocations read-only": "GNU_RELRO" in text,
        "bound at once": bool(re.search(r"\(FLAGS_1\).*\bNOW\b", text)),
        "stack not executable": stack[-2] == "RW",
        "stack protected": "__stack_chk_fail" in text,
        "fortified": bool(re.search(r"__\w+_chk\b", text.replace("__stack_chk_fail", ""))),
        "no text relocations": "TEXTREL" not in text,
        "no search path": not re.search(r"\(R(UN)?PATH\)", text),
    }


def test_hardening():
    """relocations read-only and bound at once, stack protected and not executable, no clash, calls fortified"""
    missing = [what for what, there in hardening(lab.preload).items() if not there]
    assert not missing, missing
    commands = lab.run("make", "-n", "-B", "-C", LIBFSOCKET, f"BUILD={lab.build}", f"{lab.build}/settings.o").stdout
    for option in ("-fstack-clash-protection", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"):
        assert option in commands, f"{option} is not among the compiler's options"
    # The check can say no: the same function without any of it.
    soft = lab.RUN / "soft.so"
    code = "int printf(const char *, ...); void f(char *s) { char b[9]; printf(s, b); }"
    lab.run("gcc", "-shared", "-fPIC", "-O2", "-fno-stack-protector", "-Wl,-z,execstack,-z,lazy,-z,norelro,-rpath,/x",
            "-x", "c", "-", "-o", soft, input=code)
    wrong = {what for what, there in hardening(soft).items() if not there}
    assert wrong == set(hardening(soft)) - {"no text relocations"}, wrong


def analysis(name):
    """What an analyzer said of the sources; make has run it."""
    said = {path.stem: path.read_text() for path in (lab.build / "analyze").glob(f"*.{name}")}
    assert "free" in said["FAULTY"] and "warning:" in said.pop("FAULTY"), f"{name} does not see a double free"
    assert set(said) >= {path.stem for path in SOURCES}, sorted(said)
    found = [said[path.stem] for path in SOURCES if "warning:" in said[path.stem] or "failed" in said[path.stem]]
    assert not found, "\n".join(found)[:6000]


def test_gcc_analyzer():
    """gcc -fanalyzer has nothing to say of the sources, and sees a fault that is put before it"""
    analysis("gcc")


def test_clang_analyzer():
    """clang --analyze has nothing to say of the sources, and sees a fault that is put before it"""
    analysis("clang")


def test_fuzz():
    """parsers of the environment and of the NICs, the cleaner: twenty thousand mutations each, from the same start"""
    out = lab.run(lab.HERE / "fuzz", lab.build, lab.RUN / "fuzz", f"-runs={FUZZ_RUNS}", "-seed=1", check=False)
    done = re.findall(rf"^Done {FUZZ_RUNS} runs", out.stdout, re.M)
    fuzzers = list(lab.HERE.glob("fuzz_*.c"))
    assert out.returncode == 0 and len(done) == len(fuzzers) >= 3, out.stdout[-5000:]
    covered = [int(n) for n in re.findall(r"DONE +cov: (\d+)", out.stdout)]
    print(f"# edges reached: {covered}")
    assert min(covered) > 30, "the fuzzers go nowhere"


def documented():
    """Every name a person meets, from the compiled header."""
    abi = json.loads((lab.build / "abi.json").read_text())
    names = {name for name in abi["structs"]["fsocket_cpu"]["fields"] if name != "reserved"}
    for constant in abi["constants"]:
        if m := re.fullmatch(r"FSOCKET_(?:ERR|CAP|MODE|SLOT)_(\w+)", constant):
            names.add(m[1].lower())
    return names - {"count", "free"}


def test_tables():
    """every counter, error, capability, mode and state of the compiled header is in the manual and the docs"""
    names = documented()
    manual = (lab.build / "libfsocket.7").read_text()
    # That docs/libfsocket.md is this page, `make lint` sees.
    page = lab.run(LIBFSOCKET / "tools/docs-page", lab.build / "settings-doc").stdout
    assert len(names) > 25 and "accepts_local" in names, names
    assert not [name for name in names if f"\n.B {name}\n" not in manual]
    assert not [name for name in names if f"| `{name}` |" not in page]
    said = lab.run("groff", "-man", "-Tutf8", "-wall", "-z", lab.build / "libfsocket.7").stdout
    assert not said, said
