# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reboot a host in one task and find out in a later one what became of it, so that many hosts boot at the same time."""

import time

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.fastsocket.fleet.plugins.plugin_utils import boots

POLL = 2.0      # seconds between two looks
# Root only. The command must be over before the shutdown ends its connection, so something else starts it a little
# later: systemd where it runs, a process of its own elsewhere.
REBOOT = """\
[ "$(id -u)" = 0 ] || { echo "this needs root (become: true)" >&2; exit 1; }
systemd-run --quiet --on-active=2 --timer-property=AccuracySec=100ms systemctl reboot 2>/dev/null ||
    { nohup sh -c 'sleep 2; exec reboot' </dev/null >/dev/null 2>&1 & }"""
# A host that hangs or goes away without a word must not hold the fork: seconds to connect, and to notice silence.
PATIENCE = {
    "timeout": 10,
    "reconnection_retries": 0,
    "ssh_extra_args": "-o ServerAliveInterval=5 -o ServerAliveCountMax=3",
}


class ActionModule(ActionBase):
    """The action behind M(fastsocket.fleet.reboot_verified)."""

    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Run one phase and return its result."""
        result = super().run(tmp, task_vars)
        dummy, given = self.validate_argument_spec(
            argument_spec={
                "phase": {"type": "str", "choices": ["reboot", "wait"], "required": True},
                "kernel": {"type": "str"},
                "timeout": {"type": "float", "default": 900},
                "stable": {"type": "float", "default": 30},
                "since": {"type": "dict", "default": {}},
                "failed_units": {"type": "list", "elements": "str"},
                "slice": {"type": "float", "default": 0},
            },
            required_if=[("phase", "wait", ("kernel",))])
        self.error, self.title = "", task_vars["inventory_hostname"]
        if self._connection.transport.endswith("local"):
            return dict(result, failed=True, msg="the connection is local: this would reboot the controller")
        if given["phase"] == "wait" and self._task.check_mode:
            return dict(result, changed=False, skipped=True, msg="in check mode nothing reboots")
        self._be_brisk()
        self._hang_up()     # whatever connection is kept open may know nothing of PATIENCE
        if given["phase"] == "reboot":
            return dict(result, **self._reboot())
        return dict(result, **self._wait(given, task_vars))

    def _reboot(self):
        """Ask the host to reboot; it goes down in two seconds."""
        before = self._look()
        if not before:
            return {"failed": True, "msg": f"{self.title} was not rebooted, it does not tell its boot id: {self.error}"}
        told = {"boot_id": before["boot_id"], "kernel": before["kernel"], "failed_units": before["failed"]}
        if self._task.check_mode:
            return dict(told, changed=True, started=None)
        try:
            done = self._low_level_execute_command(REBOOT)
        except AnsibleError as error:
            # Cut off, perhaps by the shutdown itself: what the host does now is for the wait to see.
            self._say(f"reboot: {error}")
            done = {"rc": 0}
        self._hang_up()
        if done["rc"]:
            said = (done["stderr"] or done["stdout"]).strip()
            return dict(told, failed=True, msg=f"{self.title} was not rebooted: {said or done['rc']}")
        return dict(told, changed=True, started=time.time())

    def _wait(self, given, task_vars):
        """Look at the host until it is clear what became of the reboot, or for a slice of that time."""
        since = given["since"]
        started = since.get("started") or time.time()
        before, timeline = since.get("boot_id"), list(since.get("timeline", []))
        until = time.time() + given["slice"] if given["slice"] else float("inf")
        deadline = started + given["timeout"]
        seen = said = None
        while True:
            seen = self._look()
            boots.extend(timeline, seen, round(time.time() - started, 1))
            expired = time.time() >= deadline
            became = boots.outcome(timeline, before, given["kernel"], given["stable"], expired)
            if became:
                break
            if said != boots.progress(timeline, before, given["stable"]):
                said = boots.progress(timeline, before, given["stable"])
                self._say(f"{said} ({time.time() - started:.0f} s)")
            if time.time() >= until:
                return dict(since, changed=False, outcome="waiting", started=started, timeline=timeline)
            time.sleep(max(0.0, min(POLL, deadline - time.time())))
        trial = self._trial(given["kernel"], task_vars) if seen else {}
        boots.remember(timeline, before, trial)
        became = boots.outcome(timeline, before, given["kernel"], given["stable"], expired)
        if became == "new_kernel" and trial.get("state") == "fell_back":
            became = "fell_back"    # the stock kernel has the same name: only the host can tell the boots apart
        failed_before = boots.failed_before(given["failed_units"], since, trial)
        found = {
            "changed": False,
            "outcome": became,
            "kernel": seen["kernel"] if seen else None,
            "boot_id": seen["boot_id"] if seen else None,
            "boot_ids": boots.boot_ids(timeline, before),
            "seconds": round(time.time() - started, 1),
            "reason": boots.reason(timeline, before, trial, self.error),
            "console": trial.get("evidence") or [],
            "unhealthy": boots.unhealthy(seen, failed_before, given["stable"]) if seen else [],
            "timeline": timeline,
        }
        failed = became != "new_kernel" or bool(found["unhealthy"])
        found.update(failed=failed, msg=boots.message(self.title, given["kernel"], found))
        if not failed:
            self._say(found["msg"])
        return found

    def _trial(self, kernel, task_vars):
        """Return what the host itself noted of the trial of this kernel; {} when it has none or cannot tell."""
        try:
            told = self._execute_module("fastsocket.fleet.boot_entry", {"state": "info"}, task_vars=task_vars)
        except Exception as error:     # the connection, again
            told = {"failed": True, "msg": error}
        if told.get("failed"):
            self.error = f"boot_entry cannot tell why: {told.get('msg')}"
        trial = told.get("trial") or {}
        return trial if trial.get("kernel") == kernel else {}

    def _look(self):
        """Return what the host says of its boot, None when it does not answer; self.error says why."""
        try:
            done = self._low_level_execute_command(boots.LOOK, sudoable=False)
        except Exception as error:     # each connection plugin has its own way to say it; there is only one meaning
            self.error = " ".join(str(error).split())[:300]
            self._hang_up()
            return None
        seen = boots.look(done["stdout"])
        self.error = "" if seen else f"its answer makes no sense: {(done['stdout'] + done['stderr']).strip()[:200]!r}"
        return seen

    def _be_brisk(self):
        for name, value in PATIENCE.items():
            try:
                if isinstance(value, str):
                    value = f"{self._connection.get_option(name) or ''} {value}".strip()
                self._connection.set_option(name, value)
            except (AnsibleError, KeyError, AttributeError):
                pass    # a connection that is not SSH, with options of its own

    def _hang_up(self):
        try:
            self._connection.reset()
        except Exception:   # nothing to hang up
            pass

    def _say(self, text):
        Display().display(f"{self.title}: {text}" if not text.startswith(self.title) else text)
