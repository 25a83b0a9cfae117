# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the test machine runs: our selftests and the kernel's own, built statically from its tree, in an initramfs."""
import re
import shutil
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
OURS = TOP / "kernel-src/selftests"
GUEST = Path(__file__).parent / "guest"
BUSYBOX = Path("/bin/busybox")
# The kernel's own tests about reuseport, binding and listening, by program: command lines. Its scripts around them need
# tools that the machine lacks; guest/upstream does their part.
UPSTREAM = {
    "reuseport_bpf": ["reuseport_bpf"],
    "reuseport_bpf_cpu": ["reuseport_bpf_cpu"],
    "reuseport_addr_any": ["reuseport_addr_any"],
    "reuseport_dualstack": ["reuseport_dualstack"],
    "so_incoming_cpu": ["so_incoming_cpu"],
    "stress_reuseport_listen": ["stress_reuseport_listen 30 80"],
    "tcp_fastopen_backup_key": [f"tcp_fastopen_backup_key -{way}" for way in ("4", "6sr")],
    "reuseaddr_conflict": ["reuseaddr_conflict"],
    "bind_wildcard": ["bind_wildcard"],
    "bind_timewait": ["bind_timewait"],
    "sk_connect_zero_addr": ["sk_connect_zero_addr"],
}
# `PROGRAM -l` of the harness: fixture, variant and test in columns, each column a list of its own.
COLUMNS = (slice(0, 21), slice(21, 47), slice(47, None))


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], check=False, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def build(linux, folder):
    """Build all programs into `folder`/tests: ours by their own Makefile, where they would be in the kernel's tree."""
    source = linux / "tools/testing/selftests"
    stage = folder / "linux/tools/testing/selftests"
    shutil.copytree(OURS, stage / "net/fastsocket")
    for name in ("lib.mk", "kselftest.h", "kselftest_harness.h"):
        shutil.copy(source / name, stage)
    (folder / "tests").mkdir()
    # The kernel's own headers where `make headers` left them, else this system's.
    headers = ["-isystem", str(linux / "usr/include")] if (linux / "usr/include/linux").is_dir() else []
    run("make", "-s", "-C", stage / "net/fastsocket", f"OUTPUT={folder}/tests", f"KHDR_INCLUDES={' '.join(headers)}")
    for name in UPSTREAM:
        run("gcc", "-O2", "-w", "-static", "-pthread", *headers,
            source / f"net/{name}.c", "-o", folder / "tests" / name)
    run("gcc", "-O2", "-w", "-o", folder / "gen_init_cpio", linux / "usr/gen_init_cpio.c")


def ours():
    """Names of our programs, as their Makefile has them."""
    return re.search(r"^TEST_GEN_PROGS := (.*)$", (OURS / "Makefile").read_text(), re.MULTILINE)[1].split()


def tests(program):
    """Names of the tests inside a program of the harness, as its KTAP names them."""
    listed = subprocess.run([program, "-l"], check=False, text=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    names = []
    for block in listed.split("-" * 80)[1:]:
        rows = [[line[column].strip() for column in COLUMNS] for line in block.strip("\n").splitlines()]
        fixture = rows[0][0]
        variants = [variant for dummy, variant, dummy in rows if variant] or [""]
        names += [".".join(filter(None, (fixture, variant, test)))
                  for variant in variants for dummy, dummy, test in rows if test]
    if not names:
        raise RuntimeError(f"{program} -l lists no test: {listed}")
    return names


def initramfs(folder, plan, image):
    """Write `image`, an initramfs whose init runs `plan`: (name, command line) pairs."""
    text = folder / f"{image.name}.plan"
    text.write_text("".join(f"{name} {command}\n" for name, command in plan))
    entries = [f"dir /{name} 0755 0 0" for name in ("bin", "dev", "tests")]
    entries += ["nod /dev/console 0600 0 0 c 5 1", "slink /bin/sh busybox 0777 0 0",
                f"file /bin/busybox {BUSYBOX} 0755 0 0", f"file /bin/ip {GUEST}/ip 0755 0 0",
                f"file /init {GUEST}/init 0755 0 0", f"file /tests/upstream {GUEST}/upstream 0755 0 0",
                f"file /plan {text} 0644 0 0"]
    entries += [f"file /tests/{path.name} {path} 0755 0 0" for path in sorted((folder / "tests").iterdir())]
    listing = folder / f"{image.name}.list"
    listing.write_text("\n".join(entries) + "\n")
    with open(image, "wb") as out:
        subprocess.run([folder / "gen_init_cpio", listing], check=True, stdin=subprocess.DEVNULL, stdout=out)
