# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian root to install packages into and throw away: the lab's root under an overlay, in a namespace of its own."""
import contextlib
import subprocess

import fleet

# Ends with its standard input, and all mounts with it.
HOLD = """
set -e
mount -t tmpfs tmpfs "$2" && mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1/tree,upperdir=$2/upper,workdir=$2/work" "$2/root"
mount -t proc proc "$2/root/proc"
mount --bind /dev "$2/root/dev"
echo ready
cat
"""


class Root:
    """sh(): a script inside the root, as root. rpm() and dnf(): the machine's own, working on it from outside."""

    def __init__(self, process, path):
        self.path = path
        self.enter = ["nsenter", "--mount", "--target", str(process.pid), "--"]

    def run(self, *words, status=0, stdin=None):
        """Run a command in the namespace; return what it prints, stderr included."""
        done = subprocess.run([*self.enter, *map(str, words)], input=stdin or "", check=False, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=120)
        assert status is None or done.returncode == status, f"{words}: {done.returncode}\n{stdin}\n{done.stdout}"
        return done.stdout

    def sh(self, script, status=0):
        environment = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"]
        return self.run("chroot", self.path, *environment, "sh", "-e", status=status, stdin=script)

    def rpm(self, *words, status=0):
        return self.run("rpm", "--root", self.path, "--dbpath", "/var/lib/rpm", *words, status=status)

    def dnf(self, repository, *words, status=0):
        """dnf with one repository, a folder with repodata; three kernels of a name may stand side by side."""
        # Debian's rpm keeps its database in the home of who calls it.
        (self.path.parents[1] / ".rpmmacros").write_text("%_dbpath /var/lib/rpm\n")
        return self.run(
            "env", f"HOME={self.path.parents[1]}", "dnf", "--installroot", self.path,
            "--repofrompath", f"ours,{repository}", "--repo", "ours", "--releasever", "9",
            "--setopt", "reposdir=/nowhere", "--setopt", f"cachedir={self.path.parents[1]}/dnf",
            "--setopt", "installonly_limit=3", "--nogpgcheck", "--noplugins", "-y", *words, status=status)

    def put(self, path, text):
        """Write an executable file."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod 755 "$1"', "sh", f"{self.path}{path}",
                 stdin=text)


@contextlib.contextmanager
def root(folder):
    """A fresh root, gone when the block ends; `folder` exists and is empty."""
    lower = subprocess.run([fleet.LAB, "root"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", HOLD, "sh",
                                lower, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield Root(process, folder / "root")
    finally:
        process.communicate(timeout=30)
