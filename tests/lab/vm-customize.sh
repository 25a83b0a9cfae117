#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# Called by mmdebstrap with the tree of a virtual machine: the hosts' root with a kernel and GRUB. What
# root-customize.sh forbade a container is allowed again; what emulation makes slow stays masked.
set -eu
tree=$1

systemctl --quiet --root="$tree" disable lab-host.service
systemctl --quiet --root="$tree" unmask \
    systemd-sysctl.service systemd-modules-load.service systemd-udev-trigger.service systemd-networkd.service \
    systemd-networkd.socket systemd-random-seed.service systemd-pstore.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-journal-flush.service systemd-remount-fs.service \
    systemd-machine-id-commit.service
systemctl --quiet --root="$tree" mask qemu-guest-agent.service systemd-networkd-wait-online.service
systemctl --quiet --root="$tree" enable lab-agent.service systemd-networkd.service systemd-pstore.service
mkdir -p "$tree/var/log/journal"

# The only NIC is eth0, as in a container.
ln -s /dev/null "$tree/etc/systemd/network/99-default.link"

# Debian's file, with a short menu, and all of it on the serial port. Mitigations cost emulation a sixth of a boot. A
# busy machine that lets go of an emulated CPU while its kernel measures the APIC's timer gives it a timer that hardly
# ever comes: that boot hangs, and is to begin anew.
arguments='console=ttyS0 mitigations=off hung_task_panic=1 panic=30'
sed -i -e 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=1/' -e "s/^GRUB_CMDLINE_LINUX=.*/GRUB_CMDLINE_LINUX=\"$arguments\"/" \
    "$tree/etc/default/grub"
cat >>"$tree/etc/default/grub" <<'END'
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
END
rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/log/*.log
