# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel tried for one boot: pinned -> armed -> (reboot) running -> committed, or fell_back.

At every moment the default is a kernel that was found good: the one that was pinned until the commit, the new one from
then on. Until then only a boot for once starts the new one, and the deadman ends it."""

import contextlib
import fcntl
import os
import time
import uuid

from .. import hostfile, paths, systemd, topology
from ..errors import FleetError
from . import deadman, evidence, grub2, kernels, loader, systemd_boot

# The first that finds itself on the host is its loader.
LOADERS = (loader.Container, loader.Unmounted, systemd_boot.SystemdBoot, grub2.Grub, loader.GrubLegacy, loader.Unknown)
STATE = paths.VAR + "/boot.json"
SECONDS = (60, 86400)
LOCK_S = 10


def find_loader(root="/"):
    return next(filter(None, (kind.find(root) for kind in LOADERS)))


# ---- what is ---------------------------------------------------------------


def info(kernel=None, root="/"):
    """Return the state of the loader and of the trial; modules/boot_entry.py says what is in it. `kernel`: the problems
    include those of trying this one."""
    return _readable(_describe(find_loader(root), _load(root), kernel, root))


def _readable(value):
    """Return a value whose texts can be shown: a menu may have titles of another encoding."""
    if isinstance(value, dict):
        return {key: _readable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_readable(one) for one in value]
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value


def _describe(found, state, kernel, root):
    entries = [{key: entry[key] for key in ("id", "title", "kernel", "arguments")} for entry in found.entries]
    return {
        "loader": found.name, "kernel": kernels.running(root), "boot_id": kernels.boot_id(root),
        "default": found.default(), "pinned": found.pinned() if state["pin"] else None, "entries": entries,
        "problems": _problems(found, state, kernel, root), "trial": _trial(found, state["trial"], root),
        "warnings": found.warnings,
    }


def _problems(found, state, kernel, root):
    rejected = _rejected(found, state, root)
    return [rejected] if rejected else found.problems(kernel)


def _rejected(found, state, root):
    """Return what to say on the boot of a trial that somebody ended, None on any other: its kernel still runs, and
    nobody may take that for a kernel without a trial."""
    trial = state["trial"]
    if not _is_here(trial, root) or trial["ended"] != "disarmed":
        return None
    return "the trial of %s was disarmed while it ran, so this kernel stays no longer than this boot: reboot; the " \
           "next boot is the default, %s" % (trial["kernel"], found.default()["kernel"])


def _keep_off(found, state, kernel, what, root):
    rejected = _rejected(found, state, root)
    if rejected and kernel == state["trial"]["kernel"]:
        raise FleetError("%s is not %s: %s" % (kernel, what, rejected))


def _is_here(trial, root):
    """Is this boot the trial, open or ended?"""
    return bool(trial) and kernels.trial_of(root) == trial["id"]


def _load(root):
    return dict({"pin": None, "before": {}, "trial": None}, **hostfile.read_json(topology.at(root, STATE), {}))


def _trial(found, trial, root):
    """Return how a trial stands."""
    if trial is None:
        return None
    boots, fired, expired = (trial["boots"], [], False) if trial["ended"] else deadman.boots(trial, root)
    status = trial["ended"] or _status(found, trial, boots, expired, root)
    reason, lines = trial.get("reason"), trial.get("evidence", [])
    if status == "fell_back":
        reason = _reason(found, trial, boots, fired)
        lines = evidence.collect(trial["armed_at"], [boot["boot_id"] for boot in boots if boot["trial"]], root)
    elif status == "expired":
        reason = "no reboot came within %d s of arming" % trial["seconds"]
    keys = ("id", "kernel", "stock", "arguments", "seconds", "armed_boot_id")
    return dict({key: trial[key] for key in keys}, state=status, boots=boots, reason=reason, evidence=lines,
                failed_units=trial.get("failed_units", []), this_boot=_is_here(trial, root))


def _status(found, trial, boots, expired, root):
    if _is_here(trial, root):
        return "running"
    if expired:
        return "expired"
    if kernels.boot_id(root) == trial["armed_boot_id"]:
        return "armed" if found.armed() and deadman.is_open(trial, root) else "expired"
    return "fell_back"


_EARLY = "it panicked or hung early, found no root, stopped in emergency mode, or needs more than the %d s it had"


def _reason(found, trial, boots, fired):
    tried, kernel = [boot for boot in boots if boot["trial"]], trial["kernel"]
    if not tried:
        entry = found.entry(kernel)
        why = found.kernel_problems(entry) if entry else [found.no_entry(kernel)]
        return "%s never came to a writable root file system: %s" % (
            kernel, why[0] if why else _EARLY % trial["seconds"])
    if tried[-1]["boot_id"] in fired:
        return "%s booted, and nobody committed it within %d s: its deadman rebooted" % (kernel, trial["seconds"])
    return "%s booted, and the host was rebooted, crashed or lost power before the commit" % kernel


# ---- what shall be ---------------------------------------------------------


def settle(state, kernel=None, arguments=(), seconds=600, check=False, root="/"):
    """Bring the loader to a state; return info() with `changed` and `changes` besides. FleetError, with the problems,
    when it is refused; nothing is touched then."""
    action = {"info": None, "pinned": _pinned, "armed": _armed, "committed": _committed, "disarmed": _disarmed,
              "released": _released}[state]
    if action is None:
        return dict(info(kernel, root), changed=False, changes=[])

    def plan():
        return action(find_loader(root), _load(root), _Wanted(kernel, arguments, seconds), root)

    changes = plan().changes()
    if changes and not check:
        with _locked(root):
            step = plan()   # the deadman may have fired since
            changes = step.changes()
            step.carry_out()
    shown = kernel if state in ("pinned", "armed") else None
    return dict(info(shown, root), changed=bool(changes), changes=_readable(changes))


class _Wanted:
    def __init__(self, kernel, arguments, seconds):
        self.kernel, self.arguments, self.seconds = kernel, list(arguments), seconds


class _Step:
    """The way to a state: what is to change in the loader, the deadman and our record. `trial` as it shall be recorded;
    while it is not over, its deadman is there."""

    def __init__(self, found, state, root, pin, trial, layout, sysctls=()):
        self.found, self.layout, self.root, self.sysctls = found, layout, root, list(sysctls)
        self.arms = bool(trial and not trial["ended"])
        if self.arms:
            self.deadman = deadman.changes(trial, found.disarm_command(), state["trial"], root)
        else:
            self.deadman = deadman.removal(state["trial"], root) if state["trial"] else []
        self.loader = found.changes(layout)
        record = {"schema": 1, "pin": pin, "before": layout.before, "trial": trial}
        text, there = hostfile.json_text(record) if pin or trial else None, hostfile.read(topology.at(root, STATE))
        self.record = [{"path": STATE, "before": there, "after": text}] if there != text else []

    def changes(self):
        return self.record + self.deadman + self.loader + self.sysctls

    def carry_out(self):
        """Arming: the record and the deadman first, the boot for once last of all; all is taken back when that fails.
        The other states: the loader first, then the deadman; the record last, so that who is cut short goes on."""
        if not self.arms:
            self._change_loader()
            self._change_deadman()
            kernels.set_sysctls(self.sysctls, self.root)
            self._change_record()
            return
        try:
            self._change_record()
            self._change_deadman()
            self._change_loader()
        except (FleetError, OSError) as error:
            self._take_back()
            raise FleetError("%s; nothing is armed" % error) from error

    def _change_record(self):
        for change in self.record:
            loader.write_file(change, self.root)

    def _change_deadman(self):
        if self.deadman:
            deadman.apply(self.deadman, self.root)
            (deadman.start if self.arms else deadman.stop)(self.root)

    def _change_loader(self):
        self.found.apply(self.loader)
        again = find_loader(self.root)
        if self.layout.pin and again.default_id != self.layout.pin:
            raise FleetError("the default of %s is %s, not %s as was just set" % (
                again.name, again.default_id, self.layout.pin))
        if again.armed() != self.layout.once or bool(self.layout.trial) != bool(again.by_id(kernels.TRIAL_ID)):
            raise FleetError("%s does not hold the trial entry as it was just set" % again.name)

    def _take_back(self):
        for change in _reverse(self.loader):
            with contextlib.suppress(FleetError, OSError):
                self.found.apply([change])
        deadman.apply(_reverse(self.deadman), self.root)
        for change in _reverse(self.record):
            loader.write_file(change, self.root)
        deadman.stop(self.root)


def _reverse(changes):
    return [dict(change, before=change["after"], after=change["before"]) for change in reversed(changes)]


def _pin_of(found, kernel):
    entry = found.wanted(kernel)
    return {"id": entry["id"], "kernel": kernel}


def _open_trial(found, state, root):
    """Return the trial that is neither committed nor disarmed, as _trial() tells it; else None."""
    return None if state["trial"] is None or state["trial"]["ended"] else _trial(found, state["trial"], root)


def _end(found, state, how, root):
    """Return the record of a trial that is over, with what was known of it."""
    trial = state["trial"]
    if trial is None or trial["ended"]:
        return trial
    shown = _trial(found, trial, root)
    return dict(trial, ended=how, boots=shown["boots"], reason=shown["reason"], evidence=shown["evidence"])


def _before(found, state):
    return state["before"] if state["pin"] else found.before()


def _pinned(found, state, wanted, root):
    trial = _open_trial(found, state, root)
    if trial and trial["state"] in ("armed", "running"):
        raise FleetError("a trial of %s is %s: commit or disarm it before another kernel is pinned" % (
            trial["kernel"], trial["state"]))
    if isinstance(found, loader.Without):
        raise FleetError(found.reason, problems=found.problems())
    kernel = wanted.kernel or kernels.running(root)
    _keep_off(found, state, kernel, "pinned", root)
    pin, before = _pin_of(found, kernel), _before(found, state)
    ended = _end(found, state, "disarmed", root)
    return _Step(found, state, root, pin, ended, loader.Layout(pin["id"], None, False, before))


def _armed(found, state, wanted, root):
    _check_armed(wanted)
    trial = _open_trial(found, state, root)
    same = trial and trial["state"] == "armed" and (trial["kernel"], trial["arguments"], trial["seconds"]) == (
        wanted.kernel, wanted.arguments, wanted.seconds)
    if trial and trial["state"] == "running":
        raise FleetError("this boot is the trial of %s: commit or disarm it before another is armed" % trial["kernel"])
    problems = _problems(found, state, wanted.kernel, root)
    if problems:
        raise FleetError("no trial of %s here: %s" % (wanted.kernel, "; ".join(problems)), problems=problems)
    before = _before(found, state)
    pin = state["pin"] or _pin_of(found, kernels.running(root))
    record = state["trial"] if same else {
        "id": uuid.uuid4().hex[:12], "kernel": wanted.kernel, "stock": pin["kernel"], "arguments": wanted.arguments,
        "seconds": wanted.seconds, "armed_boot_id": kernels.boot_id(root), "armed_at": int(time.time()), "ended": None,
        "failed_units": systemd.failed() if root == "/" else [], "sysctls": kernels.sysctls(root)}
    if trial and trial["state"] == "fell_back":
        raise FleetError("the trial of %s fell back (%s): disarm it before another is armed" % (
            trial["kernel"], trial["reason"]), trial=trial)
    more = kernels.trial_arguments(record["id"], wanted.arguments, root)
    layout = loader.Layout(pin["id"], (wanted.kernel, more, pin["id"]), True, before)
    return _Step(found, state, root, pin, record, layout)


def _check_armed(wanted):
    if not wanted.kernel:
        raise FleetError("state armed needs `kernel`: the version (uname -r) to try")
    kernels.check_arguments(wanted.arguments)
    if not SECONDS[0] <= wanted.seconds <= SECONDS[1]:
        raise FleetError("seconds %d: needs %d to %d; a boot and its checks must fit in it"
                         % ((wanted.seconds,) + SECONDS))


def _committed(found, state, wanted, root):
    running = kernels.running(root)
    kernel, trial = wanted.kernel or running, _open_trial(found, state, root)
    ours = trial and trial["kernel"] == kernel
    # A commit that was cut short has set the default; the deadman may have rebooted into it.
    finish = ours and trial["state"] == "fell_back" and found.default()["kernel"] == kernel
    if kernel != running:
        raise FleetError("%s is not committed: %s runs%s" % (kernel, running, _told(trial)))
    if trial and not finish and (not ours or trial["state"] != "running"):
        raise FleetError("%s is not committed: the trial of %s is %s%s" % (
            kernel, trial["kernel"], trial["state"], _told(trial)))
    _keep_off(found, state, kernel, "committed", root)
    if deadman.has_fired(root):
        raise FleetError("%s is not committed: its deadman has fired and this host is rebooting" % kernel)
    pin, before = _pin_of(found, kernel), _before(found, state)
    ended, sysctls = _end(found, state, "committed", root), []
    if trial and trial["this_boot"]:
        sysctls = kernels.sysctl_changes(state["trial"].get("sysctls", {}), trial["arguments"], root)
    return _Step(found, state, root, pin, ended, loader.Layout(pin["id"], None, False, before), sysctls)


def _told(trial):
    return " (%s)" % trial["reason"] if trial and trial["reason"] else ""


def _disarmed(found, state, dummy, root):
    layout = loader.Layout(state["pin"] and state["pin"]["id"], None, False, _before(found, state))
    return _Step(found, state, root, state["pin"], _end(found, state, "disarmed", root), layout)


def _released(found, state, dummy, root):
    return _Step(found, state, root, None, None, loader.Layout(None, None, False, _before(found, state)))


@contextlib.contextmanager
def _locked(root):
    """Hold the lock that the deadman takes before it fires. FleetError when it does not come free: it has fired."""
    folder = topology.at(root, deadman.LOCK)
    os.makedirs(os.path.dirname(folder), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)     # who may open it may lock it
    handle, deadline = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), time.time() + LOCK_S
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadman.has_fired(root) or time.time() > deadline:
                    raise FleetError("the deadman of the trial has fired and this host is rebooting"
                                     if deadman.has_fired(root) else
                                     "another run holds %s for more than %d s" % (deadman.LOCK, LOCK_S)) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)
