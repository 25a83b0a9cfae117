# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test machine: QEMU without KVM, a kernel, an initramfs with a plan, and what it said.

The kernel's watchdogs are told that the machine may stand still for a minute, for its host may be busy.

The machine begins with one CPU and its init brings the others. While several run, QEMU can lose the last write of a
kernel that patches its own code: a CPU that translates the old bytes between the invalidation and the write keeps the
breakpoint, and dies of it later ("Oops: int3"). A booting kernel patches what all CPUs run all the time, and on a busy
host that happened. What little risk is left is told apart by `lost_patch`.
"""
import re
import selectors
import subprocess
import time
from dataclasses import dataclass

import ktap

ARGUMENTS = (
    "console=ttyS0 loglevel=7 maxcpus=1 panic=-1 oops=panic no_timer_check lpj=25000000 watchdog_thresh=60 "
    "rcupdate.rcu_cpu_stall_timeout=300"
)
SPLAT = re.compile(
    r"WARNING:|BUG:|INFO: possible|INFO: task|INFO: rcu|\bKASAN\b|\bUBSAN\b|ODEBUG|suspicious RCU|Call Trace|"
    r"possible circular locking|general protection fault|unable to handle|refcount_t:|Kernel panic|soft lockup|"
    r"Oops|stack-protector|unregister_netdevice: waiting"
)
# Lines around a splat that are shown.
BEFORE, AFTER = 3, 40


@dataclass
class Boot:
    """One run: programs by name, splats in the console, seconds, and `trouble`, why it did not end as it should."""

    programs: dict
    splats: list
    console: list
    seconds: float
    trouble: str = ""

    @property
    def lost_patch(self):
        """QEMU lost a write to the kernel's code: this run says nothing."""
        return any("Oops: int3" in line for line in self.console)


def splats(console):
    """Return the parts of the console that no healthy kernel says, each a text."""
    found, at = [], 0
    while at < len(console):
        if SPLAT.search(console[at]):
            found.append("\n".join(console[max(0, at - BEFORE):at + AFTER]))
            at += AFTER
        at += 1
    return found


def command(kernel, initramfs, console, cpus, memory, arguments, parallel):
    accelerator = "tcg,tb-size=256,thread=" + ("multi" if parallel else "single")
    return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35", "-accel", accelerator, "-cpu", "qemu64,-svm", "-smp", str(cpus), "-m", str(memory),
            "-kernel", str(kernel), "-initrd", str(initramfs), "-append", f"{ARGUMENTS} {arguments}".strip(),
            "-serial", f"file:{console}", "-serial", "stdio"]


def boot(kernel, initramfs, logs, cpus, memory, limit, silence, arguments="", parallel=False,
         progress=lambda text: None):
    """Run the plan in `initramfs` on `cpus` CPUs with `memory` MiB; return a Boot.

    `parallel`: the CPUs run at the same time, each a thread of QEMU's own; else they take turns. When there are many
    more than the host has idle cores, they mostly wait for one that does not run: with 24, turns were much faster.
    The machine is ended after `limit` seconds, or when its plan has said nothing for `silence` seconds. `logs` is the
    path of the two logs without their endings (.console, .ktap), which stay.
    """
    console = logs.with_suffix(".console")
    started = time.monotonic()
    lines, trouble = [], ""
    with open(logs.with_suffix(".ktap"), "wb") as copy, subprocess.Popen(
            command(kernel, initramfs, console, cpus, memory, arguments, parallel),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as qemu:
        try:
            for line in said(qemu.stdout, started + limit, silence):
                copy.write(line + b"\n")
                copy.flush()
                lines.append(line.decode(errors="replace"))
                if ktap.result(lines[-1]):
                    progress(f"{time.monotonic() - started:5.0f} s  {lines[-1]}")
            qemu.wait(30)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            trouble = f"the machine was ended after {time.monotonic() - started:.0f} s: {error}"
        finally:
            qemu.kill()
    programs, ended = ktap.parse(lines)
    spoken = console.read_text(errors="replace").splitlines() if console.exists() else []
    if not trouble and not ended:
        trouble = f"the machine went before its plan was done, QEMU's exit status is {qemu.returncode}"
    if not spoken:
        trouble += f"; its console is empty; QEMU said: {' '.join(lines[-5:])}"
    return Boot(programs, splats(spoken), spoken, time.monotonic() - started, trouble)


def said(stream, deadline, silence):
    """Yield the lines of a stream until it ends. TimeoutError: at `deadline`, or after `silence` seconds of nothing."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError("it took too long")
            if not selector.select(min(silence, deadline - now)):
                raise TimeoutError("it took too long" if deadline - now < silence else f"silent for {silence:.0f} s")
            data = stream.read1(65536)
            if not data:
                break
            *whole, rest = (rest + data).replace(b"\r", b"").split(b"\n")
            yield from whole
    if rest:
        yield rest
