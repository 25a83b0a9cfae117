# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a steering plan into effect, remember what was there before, and take it back exactly.

On disk are the policy (ETC_DIR/nic.json: what is wanted, planned anew at each boot, because interrupt numbers move)
and the before-state (STATE_DIR/nic-before.json: what every written path held when this boot first touched it). The
values live in the kernel and end with it, so a before-state of another boot says nothing and is dropped.

A change is {path, kind, before, after}; kind is rps, rfs, xps, irq, sysctl (one-line kernel values), file or link.
"""

import errno
import os

from . import cpulist, hostfile, rss, steering, systemd, topology
from .errors import FleetError

ETC_DIR = "/etc/fastsocket"
STATE_DIR = "/var/lib/fastsocket"
POLICY_FILE = "nic.json"
STATE_FILE = "nic-before.json"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

UNIT = "/etc/systemd/system/fastsocket-nic.service"
UNIT_LINK = "/etc/systemd/system/multi-user.target.wants/fastsocket-nic.service"
UNIT_TEXT = """\
# Written by fastsocket.fleet.nic_steering.
[Unit]
Description=Put NIC queues and interrupts on their CPUs (fastsocket)
ConditionPathExists=/usr/sbin/fsctl
ConditionPathExists=%s/%s
Wants=network-online.target
After=network-online.target irqbalance.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/fsctl nic apply

[Install]
WantedBy=multi-user.target
""" % (ETC_DIR, POLICY_FILE)

_HINTS = {
    errno.EACCES: "this needs root (become: true)",
    errno.EPERM: "this needs root with CAP_NET_ADMIN (become: true)",
    errno.EROFS: "the file system is read-only, as it is in many containers",
    errno.EIO: "the kernel manages this interrupt itself; leave interrupts alone with irq: off",
    errno.EINVAL: "the kernel has no online CPU for it",
    errno.EOVERFLOW: "the mask is wider than this machine",
}


def configure(given, root="/", etc_dir=ETC_DIR, state_dir=STATE_DIR, boot=True, check=False):
    """Make a policy (see steering.policy) hold now and, with `boot`, after each boot. Return {changed, changes,
    warnings, plan}. With `check` nothing is written. FleetError before anything is touched when the policy does not
    fit the machine."""
    wanted = steering.policy(given)
    plan = steering.plan(topology.read(root), wanted)
    changes = diff(plan, root, state_dir) if check else apply(plan, root, state_dir)
    changes += _settle({topology.at(root, etc_dir, POLICY_FILE): hostfile.json_text(wanted)}, check)
    changes += _settle_rss(root, check)
    changes += _settle_unit(root, boot, check)
    return dict(changed=bool(changes), changes=changes, warnings=plan["warnings"], plan=plan["writes"])


def remove(root="/", etc_dir=ETC_DIR, state_dir=STATE_DIR, check=False):
    """Take everything back: values, policy, unit. Return {changed, changes, warnings, plan: []}."""
    undone = undo(root, state_dir, check)
    changes = undone["changes"] + _settle({topology.at(root, etc_dir, POLICY_FILE): None}, check)
    changes += _settle_unit(root, False, check)
    return dict(changed=bool(changes), changes=changes, warnings=undone["skipped"], plan=[])


def reapply(root="/", etc_dir=ETC_DIR, state_dir=STATE_DIR):
    """Plan from the stored policy and apply: what `fsctl nic apply` does at boot. Return {changed, changes, warnings,
    plan}."""
    path = topology.at(root, etc_dir, POLICY_FILE)
    wanted = hostfile.read_json(path)
    if wanted is None:
        raise FleetError("%s is missing: there is no policy to apply; the role fastsocket.fleet.nic writes it" % path)
    plan = steering.plan(topology.read(root), wanted)
    changes = apply(plan, root, state_dir) + _settle_rss(root, False)
    return dict(changed=bool(changes), changes=changes, warnings=plan["warnings"], plan=plan["writes"])


def diff(plan, root="/", state_dir=STATE_DIR):
    """Return the changes that apply() would make: a list of {path, kind, before, after}. Values are compared as CPU
    sets and numbers, not as texts. A path that an earlier plan wrote and this one does not name goes back to its
    before-value."""
    return _changes(plan["writes"], root) + _changes(_left_over(plan, root, _load(root, state_dir))[0], root)


def apply(plan, root="/", state_dir=STATE_DIR):
    """Write a plan, read every value back, return the changes made. The before-value of a path is stored once, before
    its first write. When a write fails, what this run wrote is undone and FleetError names path, value and reason."""
    folder = topology.at(root, state_dir)
    with hostfile.locked(folder):
        old = _load(root, state_dir)
        restores, dropped = _left_over(plan, root, old)
        changes = _changes(plan["writes"], root)
        known = [_key(entry) for entry in old]
        added = [dict(change, value=change["before"]) for change in changes if _key(change) not in known]
        _save(root, state_dir, old + added)
        changes += _changes(restores, root)
        try:
            _write_all(changes, root)
        except FleetError:
            _save(root, state_dir, old)
            raise
        gone = [_key(entry) for entry in restores + dropped]
        _save(root, state_dir, [entry for entry in old + added if _key(entry) not in gone])
    return changes


def undo(root="/", state_dir=STATE_DIR, check=False):
    """Give every path its before-value, forget the before-state and what libfsocket is told of the NICs. Return
    {changes, skipped: [text]}: a queue, interface or interrupt that is gone is skipped and named. FleetError after
    the rest is done when a value cannot be restored."""
    changes = _settle({topology.at(root, rss.FILE): None}, check)
    restores, dropped = _restores(_load(root, state_dir), root)
    if check or not os.path.exists(topology.at(root, state_dir, STATE_FILE)):
        return {"changes": changes + _changes(restores, root), "skipped": [entry["reason"] for entry in dropped]}
    failed, messages = [], []
    with hostfile.locked(topology.at(root, state_dir)):
        restores, dropped = _restores(_load(root, state_dir), root)
        for change in _changes(restores, root):
            try:
                _write(change, root)
                changes.append(change)
            except FleetError as error:
                failed.append(dict(change, value=change["after"]))
                messages.append(str(error))
        _save(root, state_dir, failed)
    if failed:
        raise FleetError("not everything could be restored: %s" % "; ".join(messages), changes=changes)
    return {"changes": changes, "skipped": [entry["reason"] for entry in dropped]}


def _key(entry):
    # An interrupt number is given anew when a driver starts again: only number and name together are one interrupt.
    return entry["path"], entry.get("name")


def _load(root, state_dir):
    state = hostfile.read_json(topology.at(root, state_dir, STATE_FILE), {})
    return state["before"] if state.get("boot_id") == _boot_id(root) and "before" in state else []


def _save(root, state_dir, entries):
    path = topology.at(root, state_dir, STATE_FILE)
    kept = [{key: entry[key] for key in ("path", "kind", "value", "name") if key in entry} for entry in entries]
    if kept:
        hostfile.write_json(path, {"schema": 1, "boot_id": _boot_id(root), "before": kept})
    else:
        hostfile.remove(path)


def _boot_id(root):
    return (hostfile.read(topology.at(root, BOOT_ID)) or "").strip()


def _left_over(plan, root, state):
    named = [_key(write) for write in plan["writes"]]
    return _restores([entry for entry in state if _key(entry) not in named], root)


def _restores(state, root):
    """Return (writes that restore a before-state, last written first; entries that nothing answers to any more, with
    a reason)."""
    names = topology.irq_names(root)
    writes, dropped = [], []
    for entry in reversed(state):
        if entry["kind"] == "irq" and names.get(int(entry["path"].split("/")[3])) != entry["name"]:
            dropped.append(dict(entry, reason="%s is no longer the interrupt %s" % (entry["path"], entry["name"])))
        elif not os.path.exists(topology.at(root, entry["path"])):
            dropped.append(dict(entry, reason="%s is gone" % entry["path"]))
        else:
            writes.append(entry)
    return writes, dropped


def _changes(writes, root):
    changes = []
    for write in writes:
        before = _read(write, root)
        if _meaning(write["kind"], before) != _meaning(write["kind"], write["value"]):
            extra = {"name": write["name"]} if "name" in write else {}
            changes.append(dict(path=write["path"], kind=write["kind"], before=before, after=write["value"], **extra))
    return changes


def _meaning(kind, text):
    return int(text) if kind in ("rfs", "sysctl") else cpulist.parse_mask(text)


def _read(entry, root):
    try:
        with open(topology.at(root, entry["path"])) as handle:
            return handle.read().strip()
    except OSError as error:
        raise FleetError("%s cannot be read: %s" % (entry["path"], _explain(error))) from error


def _write_all(changes, root):
    done = []
    try:
        for change in changes:
            done.append(change)  # also the one that fails: the kernel may have kept a part of it
            _write(change, root)
    except FleetError as error:
        left = []
        for change in reversed(done):
            try:
                for back in _changes([dict(change, value=change["before"])], root):
                    _write(back, root)
            except FleetError as second:
                left.append(str(second))
        outcome = "and: " + "; ".join(left) if left else "what this run wrote is undone"
        raise FleetError("%s; %s" % (error, outcome)) from error


def _write(change, root):
    """Write one value and read it back. No O_CREAT: a path that has vanished stays away."""
    path, value = change["path"], change["after"]
    try:
        handle = os.open(topology.at(root, path), os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(handle, (value + "\n").encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise FleetError("%s does not take %s: %s" % (path, value, _explain(error))) from error
    kept = _read(change, root)
    if _meaning(change["kind"], kept) != _meaning(change["kind"], value):
        raise FleetError("%s was given %s and holds %s" % (path, value, kept))


def _explain(error):
    hint = _HINTS.get(error.errno)
    return "%s%s" % (os.strerror(error.errno), " (%s)" % hint if hint else "")


def _settle(files, check):
    """Make each file hold its text, or be absent when that is None; return the changes."""
    changes = []
    for path, text in files.items():
        before = hostfile.read(path)
        if before != text:
            changes.append(dict(path=path, kind="file", before=before, after=text))
            if not check and text is None:
                hostfile.remove(path)
            elif not check:
                hostfile.write(path, text)
    return changes


def _settle_rss(root, check):
    """Say how the NICs hash, for libfsocket, as things stand now."""
    return _settle({topology.at(root, rss.FILE): rss.text(topology.read(root), root)}, check)


def _settle_unit(root, wanted, check):
    """Install and enable the boot unit, or take it away; systemctl enable makes the same link. Without systemd:
    nothing."""
    if not os.path.isdir(topology.at(root, "/run/systemd/system")):
        return []
    changes = _settle({topology.at(root, UNIT): UNIT_TEXT if wanted else None}, check)
    link = topology.at(root, UNIT_LINK)
    before, after = os.readlink(link) if os.path.islink(link) else None, UNIT if wanted else None
    if before != after:
        changes.append(dict(path=link, kind="link", before=before, after=after))
        if not check:
            hostfile.remove(link)
        if not check and wanted:
            os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
            os.symlink(UNIT, link)
    if changes and not check and root == "/":  # a captured tree has no manager to tell
        systemd.run("systemctl", "daemon-reload")
        if not wanted:
            # It stays active after its run, and without its file systemd would keep showing it so.
            systemd.attempt("systemctl", "stop", os.path.basename(UNIT))
    return changes
