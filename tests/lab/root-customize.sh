#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# Called by mmdebstrap with the finished tree: makes a Debian a quick and quiet lab host.
set -eu
tree=$1
here=$(dirname "$(readlink -f "$0")")

# --no-preserve=ownership,mode: the checkout may belong to anyone; the host's files belong to root.
(umask 022 && cp -rT --no-preserve=ownership,mode,timestamps "$here/rootfs" "$tree")
chmod 0440 "$tree/etc/sudoers.d/ops"

# A profile enables what its host serves. A set machine id would be shared by all hosts; "uninitialized" would run presets.
systemctl --quiet --root="$tree" disable nginx.service haproxy.service
systemctl --quiet --root="$tree" enable lab-host.service
: > "$tree/etc/machine-id"

# What would touch the machine, wait for hardware or wake up later. /sys is the machine's: no coldplug of its devices.
systemctl --quiet --root="$tree" mask \
    systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
    systemd-udev-trigger.service systemd-networkd.service systemd-networkd.socket systemd-timesyncd.service \
    systemd-random-seed.service systemd-pstore.service systemd-firstboot.service systemd-repart.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    systemd-machine-id-commit.service systemd-journal-flush.service systemd-remount-fs.service \
    console-getty.service getty.target dev-hugepages.mount sys-fs-fuse-connections.mount \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer systemd-tmpfiles-clean.timer

# Password "*": no password fits, but unlike "!" sshd does not take the account for locked.
for user in ops nosudo; do
    chroot "$tree" useradd --create-home --shell /bin/bash --password '*' "$user"
done

# The lab's key opens all three accounts; it stays beside the tree, out of the hosts.
ssh-keygen -q -t ed25519 -N '' -C lab -f "$tree/../id_ed25519"
for home in /root /home/ops /home/nosudo; do
    mkdir -p "$tree$home/.ssh"
    chmod 700 "$tree$home/.ssh"
    cp "$tree/../id_ed25519.pub" "$tree$home/.ssh/authorized_keys"
    chroot "$tree" chown -R --reference="$home" "$home/.ssh"
done

# What the web servers serve: a small and a slow body.
mkdir -p "$tree/var/www/lab"
printf '%063d\n' 0 > "$tree/var/www/lab/index.html"
head -c 8192 /dev/zero | tr '\0' s > "$tree/var/www/lab/slow"

# One host key for all hosts of this root: the lab's known_hosts names it.
rm -f "$tree"/etc/ssh/ssh_host_*
chroot "$tree" ssh-keygen -q -t ed25519 -N '' -C lab-host -f /etc/ssh/ssh_host_ed25519_key
rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/log/*.log
