#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# vm-disk.sh TREE DISK: a raw disk with one ext4 partition that holds TREE, and GRUB 2 for a BIOS before it.
# Runs in a mount namespace of its own: its mounts and the loop device end with it.
set -eu
tree=$1 disk=$2 size=3072 # MiB
place=$(dirname "$disk")
uuid=$(cat /proc/sys/kernel/random/uuid)

echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >"$tree/etc/fstab"
truncate -s "${size}M" "$disk"
# Without the two features that GRUB 2.06 cannot read.
mke2fs -q -t ext4 -O '^metadata_csum_seed,^orphan_file' -U "$uuid" -E offset=1048576 -d "$tree" \
    "$disk" "$((size - 1))M"

# grub-mkconfig refuses a loop device and looks for the disk of a partition: it is shown a disk without partitions, and
# the link that makes it find the root by UUID. Once mounted, losetup -d only says that the loop is to go with the mount.
loop=$(losetup --find --show --offset 1048576 "$disk")
mkdir "$place/dev" "$place/mnt"
mount -t tmpfs -o mode=755 tmpfs "$place/dev"
# shellcheck disable=SC2046 # two words
set -- $(stat -c '%Hr %Lr' "$loop")
mknod "$place/dev/vda" b "$1" "$2"
mknod "$place/dev/null" c 1 3
mkdir -p "$place/dev/disk/by-uuid"
ln -s /dev/vda "$place/dev/disk/by-uuid/$uuid"
mount --move "$place/dev" /dev
mount /dev/vda "$place/mnt"
losetup -d /dev/vda
cd "$place/mnt"
mount --bind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys

# GRUB is put in by hand: this machine's kernel may know no partitions of a loop device, which grub-install needs.
modules=usr/lib/grub/i386-pc
mkdir -p boot/grub/i386-pc
cp "$modules"/*.mod "$modules"/*.lst boot/grub/i386-pc/
chroot . grub-editenv /boot/grub/grubenv create
chroot . grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/i386-pc/core.img biosdisk part_msdos ext2
echo '(hd0) /dev/vda' >boot/grub/device.map
chroot . update-grub
rm boot/grub/device.map

# 440 bytes of boot code; the marks of a disk and of a boot sector with one bootable partition from sector 2048 to the
# end; from sector 1 on the rest of GRUB.
dd if="$modules/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
dd if=boot/grub/i386-pc/core.img of="$disk" bs=512 seek=1 conv=notrunc status=none
python3 -c 'import struct, sys
entry = struct.pack("<B3xB3xII", 0x80, 0x83, 2048, (int(sys.argv[2]) - 1) * 2048)
with open(sys.argv[1], "r+b") as disk:
    disk.seek(440)
    disk.write(struct.pack("<IH16s48xH", 0xfa57, 0, entry, 0xaa55))' "$disk" "$size"
