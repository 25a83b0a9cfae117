# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command that takes minutes or hours, its output in a file on the host, and say now and then how far it is."""

import os
import shlex
import time
import uuid

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

POLL = 2.0      # seconds between two looks
TAIL = 25       # lines of the log that a failure shows
# One command a log at a time: whoever comes second waits. The status has a file of its own, {over}, when it is over.
# The terminal that SSH may have given us hangs up before the command has left its session: that must not end it.
START = """\
mkdir -p {folder} && : >>{log} || exit
trap '' HUP
setsid flock {log}.lock sh -c {script} </dev/null >/dev/null 2>&1 &
echo $!"""
# Exit status or nothing; steps so far; the last line that says something. A killed process leaves no status: -1.
LOOK = """\
kill -0 {pid} 2>/dev/null && alive=yes || alive=
if [ -s {over} ]; then cat {over}; elif [ "$alive" ]; then echo; else echo -1; fi
grep -cE {step} {log}
grep -v '^ *$' {log} | tail -n 1 | cut -c 1-100"""


class ActionModule(ActionBase):
    """The action behind M(fastsocket.fleet.long_command)."""

    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Start the command, watch it, return when it is over."""
        result = super().run(tmp, task_vars)
        dummy, given = self.validate_argument_spec(
            argument_spec={
                "argv": {"type": "list", "elements": "str", "required": True},
                "log": {"type": "str", "required": True},
                "step": {"type": "str", "default": "^"},
                "steps": {"type": "int", "default": 0},
                "every": {"type": "float", "default": 30},
            })
        if self._task.check_mode:
            return dict(result, changed=True)
        self.begin = time.monotonic()
        names = {"log": shlex.quote(given["log"]), "folder": shlex.quote(os.path.dirname(given["log"])),
                 "step": shlex.quote(given["step"]), "over": shlex.quote(f"{given['log']}.{uuid.uuid4().hex}")}
        script = shlex.join(given["argv"]) + " >{log} 2>&1; echo $? >{over}".format(**names)
        start = START.format(script=shlex.quote(script), **names)
        started = self._low_level_execute_command(start, executable="/bin/sh")
        if started["rc"]:
            return dict(result, failed=True, msg=f"{given['log']} cannot be written: {started['stderr'].strip()}")
        names["pid"] = started["stdout"].strip()
        told = self.begin
        while True:
            status, steps, line = (self._host(LOOK.format(**names)).split("\n") + ["", ""])[:3]
            if status:
                break
            if time.monotonic() - told >= given["every"]:
                told = time.monotonic()
                self._say(task_vars["inventory_hostname"], int(steps or 0), given["steps"], line)
            time.sleep(POLL)
        said = self._host("rm -f {over}; tail -n %d {log}".format(**names) % TAIL).rstrip()
        result.update(rc=int(status), changed=True, steps=int(steps or 0), seconds=round(time.monotonic() - self.begin),
                      log=given["log"])
        if result["rc"]:
            how = "was killed" if result["rc"] < 0 else f"failed with status {result['rc']}"
            result.update(failed=True, msg="%s %s; %s on the host has all of its output, which ends in:\n%s" % (
                " ".join(given["argv"]), how, given["log"], said))
        return result

    def _host(self, script):
        """Return what a shell script on the host prints; a terminal in between makes its own line ends."""
        return self._low_level_execute_command(script, executable="/bin/sh")["stdout"].replace("\r", "")

    def _say(self, host, steps, total, line):
        """Print one line: whose, how long, how far."""
        seconds = int(time.monotonic() - self.begin)
        # More steps than were expected is no news for anybody.
        far = f"{steps} of about {max(steps, total)}, " if total else ""
        name = self._task.get_name().rpartition(" : ")[2]
        Display().display(f"{host}: {name}: {seconds // 60}:{seconds % 60:02} {far}{line.strip()}")
