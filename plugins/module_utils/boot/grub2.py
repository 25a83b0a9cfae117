# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB 2, with and without Boot Loader Specification entries.

All of ours stands in one marked block of custom.cfg, which the grub.cfg of every distribution sources last: so it holds
whatever a package makes of grub.cfg, and is gone without trace when it is taken out. The block
* sets the default by id (the pin), unless this boot was told another one for once;
* holds the trial entry: the commands of the kernel's own entry; a file that is missing leads on to the stock kernel's
  commands instead of to a menu that waits for somebody;
* lets a one-shot trial go ahead only when GRUB has really cleared it from its environment block: on a disk that GRUB
  cannot write, the trial never boots, rather than for ever;
* without a trial entry takes one that is asked for as none: GRUB replays no journal, so after a crash it may read the
  block of before, and would boot the first entry of its menu, which is the newest kernel's.
All seen with GRUB 2.06 in QEMU, also on a read-only disk and on btrfs."""

import contextlib
import glob
import os
import re

from .. import hostfile, systemd, topology
from ..errors import FleetError
from . import bls, grubenv, grubmenu, grubscript, kernels, loader, storage

CONFIGURATIONS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
EFI_CONFIGURATION = "/etc/grub2-efi.cfg"    # EL 8: a link to the one in the EFI system partition
EFI = "/sys/firmware/efi"
ENTRIES = "/boot/loader/entries"
SOURCES = ("/etc/default/grub", "/etc/default/grub.d/*.cfg", "/etc/grub.d/*")
COMMAND_LINE = "/etc/kernel/cmdline"   # what kernel-install gives new entries; without it, what /proc/cmdline says
ONCE = "next_entry"

BEGIN, JOINED, END = "### BEGIN fastsocket.fleet", " (the line above had no end)", "### END fastsocket.fleet ###\n"
BLOCK = re.compile(r"(?:\n(?=%s%s))?%s[^\n]*\n.*?%s" % (BEGIN, re.escape(JOINED), BEGIN, END), re.DOTALL)
PIN = re.compile(r"^# pinned: (.*)$", re.MULTILINE)

_LINUX = ("linux", "linux16", "linuxefi")
_INITRD = ("initrd", "initrd16", "initrdefi")
_OWN_DEFAULT = ("savedefault",)


class Grub(loader.Loader):
    """GRUB 2 as its configuration describes it. Paths of files are the host's, also for a captured tree."""

    def __init__(self, root, configuration):
        super().__init__(root)
        self.configuration, self.folder = configuration, os.path.dirname(configuration)
        self.block_path = self.folder + "/grubenv"
        self.custom = storage.real(self.folder + "/custom.cfg", root)
        self.block = grubenv.read(topology.at(root, self.block_path))
        ordinary = {name: value for name, value in self.block.items() if name != ONCE}
        platform = "efi" if os.path.isdir(topology.at(root, EFI)) else "pc"
        self.specified = None
        self.menu = grubmenu.Menu(ordinary, platform, self.folder, self._read, self._boot_loader_spec)
        self.menu.load(configuration)
        self.name = "grub2" if self.specified is None else "bls"
        self.paths = {grubmenu.full_id(path): path for path in reversed(grubmenu.paths(self.menu.entries))}
        self.entries = [self._describe(path) for path in grubmenu.paths(self.menu.entries)]
        found = grubmenu.resolve(self.menu.entries, self.menu.env.get("default") or "0")
        self.default_id = grubmenu.full_id(found) if found else self.menu.env.get("default")
        self._warn()

    @classmethod
    def find(cls, root="/"):
        names = CONFIGURATIONS
        if os.path.isdir(topology.at(root, EFI)):
            names = (storage.real(EFI_CONFIGURATION, root),) + names
        found = next((name for name in names if os.path.isfile(topology.at(root, name))), None)
        return cls(root, found) if found else None

    # -- reading

    def _read(self, path):
        if os.path.dirname(path) != self.folder:
            return None     # of another disk, by GRUB's names
        text = hostfile.read(topology.at(self.root, path))
        # A custom.cfg that is not there yet: is it looked for?
        return text or "" if os.path.basename(path) == "custom.cfg" else text

    def _boot_loader_spec(self):
        self.specified = {entry["id"]: entry for entry in bls.entries(ENTRIES, self.root)}
        return [grubmenu.Entry(one["id"], one["title"], "--unrestricted" in one["grub_arg"], self._body_of(one), None)
                for one in self.specified.values()]

    def _body_of(self, entry):
        """Return an entry file as the commands that GRUB makes of it."""
        uuid = storage.uuid_of(ENTRIES, self.root)
        search = "search --no-floppy --fs-uuid --set=root %s\n" % uuid if uuid else ""
        words = [word if "$" in word or re.match(r"^[\w.,:=+/@%-]+$", word) else grubscript.quote(word)
                 for word in bls.words(entry["options"])]
        initrd = "initrd %s\n" % " ".join(entry["initrd"]) if entry["initrd"] else ""
        return "load_video\nset gfxpayload=keep\ninsmod gzio\n%slinux %s\n%s" % (
            search, " ".join([entry["linux"]] + words), initrd)

    def _describe(self, path):
        linux = [words[1:] for words in grubscript.commands(path[-1].body, self.menu.env)
                 if words[0] in _LINUX and words[1:]]
        file, arguments = (linux[0][0], linux[0][1:]) if linux else ("", [])
        initrds = [word for words in grubscript.commands(path[-1].body, self.menu.env)
                   if words[0] in _INITRD for word in words[1:]]
        return {"id": grubmenu.full_id(path), "title": path[-1].title, "kernel": self._kernel(file) if file else None,
                "arguments": arguments, "file": file, "initrds": initrds}

    def _kernel(self, file):
        return kernels.version(re.sub(r"^\([^)]*\)", "", file), self.root) or None

    def _warn(self):
        made = os.stat(topology.at(self.root, self.configuration)).st_mtime
        newer = [name for pattern in SOURCES for name in sorted(glob.glob(topology.at(self.root, pattern)))
                 if os.stat(name).st_mtime > made]
        if newer:
            self.warnings.append("%s is older than %s: what was changed there is not in it yet" % (
                self.configuration, newer[0]))

        if self.specified is not None and kernels.trial_of(self.root) and not os.path.exists(
                topology.at(self.root, COMMAND_LINE)):
            self.warnings.append("a kernel package that is installed now takes this boot's arguments, the trial's, for "
                                 "its own: reboot first, or write the usual ones to " + COMMAND_LINE)

    def _file(self, name):
        return kernels.find(name, ("/", "/boot"), self.root)

    # -- problems

    def own_problems(self):
        block = storage.real(self.block_path, self.root)
        found = grubenv.problems(topology.at(self.root, block)) or storage.problems(block, self.root)
        if os.path.dirname(block) != self.folder and not self._same_file_system(block):
            found.append("%s is a link to %s on another file system, where GRUB does not follow it" % (
                self.block_path, block))
        text = hostfile.read(topology.at(self.root, self.configuration))
        if ONCE not in text or "boot_once" not in text:
            found.append("%s does not know %s, so it has no boot for once; make it anew with grub-mkconfig" % (
                self.configuration, ONCE))
        if self.folder + "/custom.cfg" not in self.menu.sourced:
            found.append("%s does not source custom.cfg; put /etc/grub.d/41_custom back (executable) and make it anew "
                         "with grub-mkconfig" % self.configuration)
        if self.block.get(ONCE) not in (None, "", kernels.TRIAL_ID):
            found.append("the next boot is %s for once already (%s in %s); boot it, or unset it with grub-editenv" % (
                self.block[ONCE], ONCE, self.block_path))
        if "boot_counter" in self.block:
            found.append("boot_counter in %s makes GRUB choose the default by itself; finish what counts boots "
                         "(greenboot) first" % self.block_path)
        if grubenv.tool() is None and self.root == "/":
            found.append("neither %s is installed" % " nor ".join(grubenv.TOOLS))
        return found + self._choice_problems()

    def _same_file_system(self, block):
        ours, theirs = storage.mount_of(self.folder, self.root), storage.mount_of(block, self.root)
        return ours is not None and theirs is not None and ours.device == theirs.device

    def _choice_problems(self):
        default, found = self.by_id(self.default_id), []
        if self.pinned() not in (None, self.default_id):
            found.append("the default is %s although custom.cfg pins %s: something after our block in %s sets it" % (
                self.default_id, self.pinned(), self.custom))
        if _number(self.menu.env.get("timeout", "")) < 0:
            found.append("the menu of GRUB has no end (timeout %s): no boot here goes by itself; set GRUB_TIMEOUT to 0 "
                         "or more and make grub.cfg anew" % self.menu.env["timeout"])
        if default and default["kernel"]:
            found += ["%s, the %s of the default entry, is not on this host; make grub.cfg anew" % (file, what)
                      for what, file in self._missing(default)]
        if default and self.menu.env.get("superusers") and not self._free(self.default_id):
            found.append("GRUB asks for a password before it boots the default entry: no boot here goes by itself; add "
                         "--unrestricted to it")
        return found

    def _free(self, wanted):
        return all(entry.unrestricted for entry in self.paths[wanted])

    def kernel_problems(self, entry):
        found = ["%s, the %s of the entry %s, is not on this host" % (file, what, entry["id"])
                 for what, file in self._missing(entry)]
        names = [name for dummy, name, dummy in grubscript.parts(self.paths[entry["id"]][-1].body, self.menu.env)]
        if len([name for name in names if name in _LINUX]) != 1:
            found.append("the entry %s is not of the usual form, with one linux command outside of any if; it cannot "
                         "be copied" % entry["id"])
        if self.menu.env.get("superusers") and not self._free(entry["id"]):
            found.append("GRUB asks for a password before it boots the entry %s" % entry["id"])
        return found

    def _missing(self, entry):
        files = [("kernel", entry["file"])] + [("initramfs", file) for file in entry["initrds"]]
        return [(what, file) for what, file in files if not self._file(file)]

    # -- what is, and what shall be

    def armed(self):
        return self.block.get(ONCE) == kernels.TRIAL_ID

    def pinned(self):
        found = BLOCK.search(self._custom_text())
        match = PIN.search(found.group(0)) if found else None
        return match.group(1) if match else None

    def before(self):
        return {"custom": os.path.exists(topology.at(self.root, self.custom))}

    def _custom_text(self):
        return hostfile.read(topology.at(self.root, self.custom)) or ""

    def changes(self, layout):
        there = hostfile.read(topology.at(self.root, self.custom))
        rest = BLOCK.sub("", there or "", count=1)
        text = rest + self._block(layout, rest) if layout.pin or layout.trial else rest
        after = text if text or layout.before.get("custom") else None
        file = [{"path": self.custom, "before": there, "after": after}] if after != there else []
        once = []
        if layout.once != self.armed():
            values = {True: kernels.TRIAL_ID, False: None}
            once = [{"path": "%s %s" % (self.block_path, ONCE), "before": values[not layout.once],
                     "after": values[layout.once]}]
        return file + once if layout.once else once + file

    def apply(self, changes):
        for change in changes:
            if change["path"].endswith(" " + ONCE):
                grubenv.write(topology.at(self.root, self.block_path), ONCE, change["after"])
            else:
                loader.write_file(change, self.root)
        if changes and self.root == "/":
            with contextlib.suppress(FleetError):
                systemd.attempt("sync", "--file-system", self.folder)   # from the journal to where GRUB reads

    def disarm_command(self):
        tool, block = grubenv.tool() or grubenv.TOOLS[0], self.block_path
        return "%s %s list | grep -qx %s=%s && %s %s unset %s" % (
            tool, block, ONCE, kernels.TRIAL_ID, tool, block, ONCE)

    # -- the block

    def _block(self, layout, rest):
        joined = bool(rest) and not rest.endswith("\n")
        lines = [
            "\n" + BEGIN + JOINED if joined else BEGIN + " ###",
            "# Made by the module fastsocket.fleet.boot_entry, which takes it out again: state released."]
        if layout.pin:
            stray = "" if layout.trial else ' -o "${default}" = "%s"' % kernels.TRIAL_ID
            lines += [
                "# pinned: " + layout.pin,
                'if [ "${boot_once}" != "true"%s ]; then' % stray,
                "  set default=%s" % grubscript.quote(layout.pin), "fi"]
        if layout.trial:
            lines += self._trial(*layout.trial)
        return "\n".join(lines) + "\n" + END

    def _trial(self, kernel, arguments, stock):
        source = self.paths[self.wanted(kernel)["id"]]
        words = "menuentry %s --id %s%s {" % (
            grubscript.quote("Linux %s, tried for one boot" % kernel), kernels.TRIAL_ID,
            " --unrestricted" if all(entry.unrestricted for entry in source) else "")
        missing = "fastsocket_missing"
        lines = [words, "  set %s=" % missing]
        for text, name, dummy in grubscript.parts(source[-1].body, self.menu.env):
            if name in _LINUX + _INITRD:
                more = " " + " ".join(arguments) if name in _LINUX else ""
                lines.append("  if %s%s; then true; else set %s=1; fi" % (text, more, missing))
            elif name not in _OWN_DEFAULT:
                lines.append("  " + text)
        lines += ['  if [ -n "${%s}" ]; then' % missing]
        lines += ["    " + text for text, name, dummy in grubscript.parts(self.paths[stock][-1].body, self.menu.env)
                  if name not in _OWN_DEFAULT]
        return lines + [
            "  fi", "}",
            "# Was it cleared from the disk? Else it would boot again and again.",
            'if [ "${default}" = "%s" ]; then' % kernels.TRIAL_ID,
            "  load_env %s" % ONCE,
            '  if [ -n "${%s}" ]; then' % ONCE,
            "    set default=%s" % grubscript.quote(stock),
            "  fi", "fi"]


def _number(text):
    return int(text) if text.lstrip("-").isdigit() else 0
