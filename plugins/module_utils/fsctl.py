# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""fsctl: the command of the person on call. The same library as the modules, installed under /usr/lib/fastsocket."""

import argparse
import json
import os
import sys
import time

from . import doctor, kernelstats, nic, preload, services, stats, switch, tables, wrapping
from .boot import trial
from .errors import FleetError


def say(text, stream=None):
    """One line for the person at the terminal, also on one that knows fewer letters than a journal has."""
    stream = stream or sys.stdout
    stream.write(text.encode(stream.encoding or "utf-8", "replace").decode(stream.encoding or "utf-8") + "\n")


def _services(names):
    found = names or wrapping.wrapped_services()
    if not found:
        raise FleetError("no service is wrapped on this host")
    return found


def status(args):
    wrapped = wrapping.wrapped_services()
    names = [services.name_of(name) for name in args.service] or wrapped
    found = {name: stats.read(name) for name in names}
    for name in names:
        if not found[name] and not wrapping.wrapped(name):
            raise FleetError("%s is not wrapped; wrapped are: %s" % (name, ", ".join(wrapped) or "none"))
    kernel = kernelstats.read()
    if args.json:
        say(json.dumps({"services": found, "kernel_stats": kernel}, indent=2, sort_keys=True))
    else:
        say("\n".join(tables.host_lines(found, kernel)))


def turn(args):
    failed = []
    for name in _services(args.service):
        try:
            result = preload.set_switch(name, args.value, False)
        except FleetError as error:
            failed.append(str(error))   # the others are turned all the same
            continue
        effect = result.get("effect")
        took = " in %.2f s" % effect["seconds"] if effect else ""
        idle = ", %d idle slots follow at their next call" % effect["idle"] if effect and effect["idle"] else ""
        say("%s: %s%s%s" % (name, args.value, took if result["changed"] else " already", idle))
    if failed:
        raise FleetError("; ".join(failed))


def examine(args):
    lines, bad = doctor.report(args.service)
    say("\n".join(lines))
    return 1 if bad else 0


def nic_apply(dummy):
    _report(nic.reapply())


def nic_undo(dummy):
    _report(nic.undo())


def _report(result):
    for change in result["changes"]:
        if change["kind"] == "file":    # whole texts
            say("%s: %s" % (change["path"], "removed" if change["after"] is None else "written"))
        else:
            say("%s: %s -> %s" % (change["path"], change["before"], change["after"]))
    for warning in result.get("warnings", []) + result.get("skipped", []):
        say("warning: " + warning, sys.stderr)
    say("%d values changed" % len(result["changes"]))


def boot_status(args):
    found = trial.info()
    if args.json:
        say(json.dumps(found, indent=2, sort_keys=True))
        return
    pinned = "pinned" if found["pinned"] else "not pinned"
    say("%s runs; default of %s: %s (%s)" % (
        found["kernel"], found["loader"] or "no loader", found["default"]["kernel"] or "not known", pinned))
    one = found["trial"]
    if one:
        reason = ": " + one["reason"] if one["reason"] else ""
        say("trial %s of %s: %s%s" % (one["id"], one["kernel"], one["state"], reason))
        for boot in one["boots"]:
            say("  %s  %s %s" % (time.strftime("%F %T", time.localtime(boot["time"])), boot["kernel"],
                                 "(the trial)" if boot["trial"] else ""))
        for line in one["evidence"]:
            say("  | " + line)
    for problem in found["problems"]:
        say("no trial here: " + problem)


def boot_disarm(dummy):
    result = trial.settle("disarmed")
    say("no trial is armed%s; the default is %s" % (
        "" if result["changed"] else ", nor was one", result["default"]["kernel"] or "not known"))
    one = result["trial"]
    if one and one["this_boot"] and one["state"] == "disarmed":
        say(result["problems"][0])      # its kernel runs on


def parser():
    top = argparse.ArgumentParser(prog="fsctl", description="Per-core TCP on this host: look, off, on.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    one = commands.add_parser("status", help="per-core tables: the wrapped services, and what the kernel counted")
    one.add_argument("--json", action="store_true", help="as JSON")
    one.add_argument("service", nargs="*")
    one.set_defaults(run=status)
    for value, text in ((switch.OFF, "plain libc from the next call on; no restart, no connection lost"),
                        (switch.ON, "back to per-core sockets")):
        one = commands.add_parser(value, help=text)
        one.add_argument("service", nargs="*", help="default: all wrapped services")
        one.set_defaults(run=turn, value=value)
    one = commands.add_parser("doctor", help="what keeps services from per-core TCP; status 1: a problem")
    one.add_argument("service", nargs="*", help="default: all wrapped services")
    one.set_defaults(run=examine)
    group = commands.add_parser("nic", help="IRQ, RPS, RFS and XPS").add_subparsers(dest="what", metavar="WHAT")
    group.required = True
    group.add_parser("apply", help="plan anew and apply, as at boot").set_defaults(run=nic_apply)
    group.add_parser("undo", help="put back what was before the first apply").set_defaults(run=nic_undo)
    group = commands.add_parser("boot", help="the kernel that is tried").add_subparsers(dest="what", metavar="WHAT")
    group.required = True
    one = group.add_parser("status", help="which kernel runs, which is the default, how the trial stands")
    one.add_argument("--json", action="store_true", help="as JSON")
    one.set_defaults(run=boot_status)
    group.add_parser("disarm", help="end the trial: boot the default from now on").set_defaults(run=boot_disarm)
    return top


def main(words=None):
    """Return the exit status: 0, or 1 with one line on stderr."""
    args = parser().parse_args(words)
    os.umask(0o022)     # what we write is read by services that are not root
    try:
        if args.command != "status" and os.geteuid() != 0:
            raise FleetError("fsctl %s needs root" % args.command)
        return args.run(args) or 0
    except (FleetError, OSError) as error:
        say("fsctl: %s" % error, sys.stderr)
        return 1
