# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""A virtual machine that has booted, kept: under emulation a boot takes 40 s and more, going on from its memory 3 s.

~/.cache/fastsocket/lab-vm-HASH-SIZE/ holds `disk.qcow2`, the changes of that boot to the image's disk, `memory.zst`.
HASH also covers QEMU and its command line: it restores only what the same QEMU with the same devices has saved.
"""
import contextlib
import dataclasses
import hashlib
import os
import platform
import subprocess
import tempfile
import time

from hostlab import cache, guest, image
from hostlab.errors import LabError, call
from hostlab.spec import Host

BOOT_PATIENCE = 400.0  # seconds; 40 on 2 idle cores
PROBE_PATIENCE = 20.0  # a tiny guest takes 1 s with KVM and 10 without
KVM = "/dev/kvm"
ACCELERATORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    # qemu64 is the quickest to emulate. rdrand: whoever starts early would wait for randomness.
    "tcg": ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64,-svm,+rdrand"),
}
MACHINE = ("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-vga", "none",
           "-display", "none")
SETTLE = "systemctl is-system-running --wait >/dev/null && sync && echo 1 >/proc/sys/vm/drop_caches"


def qemu(host: Host, accelerator: str, place: str, log: str, disk: str, tap: str, mac: str) -> list[str]:
    """The command of a virtual machine. Its sockets lie in PLACE: `monitor`, `agent`; LOG gets its console."""
    return [*MACHINE, *ACCELERATORS[accelerator], "-name", host.name, "-smp", str(host.cpus), "-m", str(host.memory),
            "-chardev", f"file,id=console,path={log},append=on", "-serial", "chardev:console",
            "-chardev", f"socket,id=agent,path={place}/agent,server=on,wait=off", "-serial", "chardev:agent",
            "-qmp", f"unix:{place}/monitor,server=on,wait=off",
            "-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe",
            # Where a kernel that panics leaves its last lines (pstore); it keeps them over a reset.
            "-object", f"memory-backend-file,id=erst,mem-path={place}/erst,size=64K,share=on",
            "-device", "acpi-erst,memdev=erst",
            "-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no,vhost=off,queues={host.queues}",
            "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile=,mq={'on' if host.queues > 1 else 'off'}"
                       f",vectors={2 * host.queues + 2}" + (f",{host.nic}" if host.nic else "")]


def overlay(path: str, base: str, kind: str) -> None:
    """A new disk at PATH that keeps its changes to BASE, which is of KIND raw or qcow2."""
    call("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", kind, path)


def ensure(host: Host, base: str, say) -> str:
    """Return the folder with the snapshot of a machine of HOST's size on the image BASE, made if needed."""
    accelerator = accelerate(base)
    version = call("qemu-system-x86_64", "--version").splitlines()[0]
    command = qemu(dataclasses.replace(host, name=""), accelerator, "", "", "", "", "")
    digest = hashlib.sha256("\0".join([version, *command]).encode()).hexdigest()[:8]
    size = f"{host.cpus}cpu-{host.memory}m-{host.queues}q"
    return cache.once(f"{base}-{size}-{digest}", image.FAMILY,
                      lambda place: _build(host, accelerator, base, place), say,
                      f"a virtual machine of {size} is booted first (once, about a minute)")


def _build(host: Host, accelerator: str, base: str, place: str) -> None:
    disk, log = os.path.join(place, "disk.qcow2"), os.path.join(place, "boot.log")
    overlay(disk, os.path.join(base, "disk"), "raw")
    with tempfile.TemporaryDirectory() as sockets, open(log, "wb") as output:
        argv = qemu(host, accelerator, sockets, log, disk, "eth0", "52:54:00:00:00:00")
        child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", *argv],
                                 stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            status, output = guest.run(f"{sockets}/agent", ["sh", "-c", SETTLE], patience=BOOT_PATIENCE)
            if status:
                raise LabError(f"a virtual machine does not boot without failed units, see {log}: {output}")
            _save(f"{sockets}/monitor", os.path.join(place, "memory.zst"))
            child.wait(timeout=30)
        finally:
            child.kill()
            child.wait()


def _save(monitor: str, path: str) -> None:
    """Write the machine's memory to PATH and end it. It is not stopped before: it would be restored as stopped."""
    with guest.monitor(monitor) as lines:
        lines.call("migrate-set-parameters", max_bandwidth=2**40)
        lines.call("migrate", uri=f"exec:zstd -q -T0 -o '{path}'")
        while (state := lines.call("query-migrate")["status"]) != "completed":
            if state in ("failed", "cancelled"):
                raise LabError(f"the machine's memory could not be saved: {state}")
            time.sleep(0.1)
        lines.call("quit")


def incoming(place: str) -> list[str]:
    """What makes QEMU go on from the snapshot in PLACE."""
    return ["-incoming", f"exec:zstd -dcq '{place}/memory.zst'"]


def accelerate(base: str) -> str:
    """"kvm" if a guest really boots with it, else "tcg". The device may be there and no guest live on it.

    Tried once on a machine, with the image's kernel and a program of its initramfs that powers off.
    """
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "tcg"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line for line in file if line.startswith("model name")), "")
    key = hashlib.sha256(f"{platform.release()} {platform.version()} {model} {base}".encode()).hexdigest()[:16]
    answer = os.path.join(cache.CACHE, f"lab-kvm-{key}")
    if not os.path.exists(answer):
        with open(answer + ".new", "w", encoding="ascii") as file:
            file.write("kvm" if boots(base, "kvm") else "tcg")
        os.rename(answer + ".new", answer)
    with open(answer, encoding="ascii") as file:
        return file.read()


def boots(base: str, accelerator: str, patience: float = PROBE_PATIENCE) -> bool:
    """Does a guest reach user space with ACCELERATOR and end there?"""
    argv = [*MACHINE, *ACCELERATORS[accelerator], "-m", "256", "-kernel", f"{base}/vmlinuz",
            "-initrd", f"{base}/initrd", "-append", "rdinit=/bin/poweroff console=ttyS0", "-serial", "stdio"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(cache.bound(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=patience, check=False)
        return done.returncode == 0 and b"Power down" in done.stdout
    return False
