# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The command line: lab up | down | status | exec | run | ssh | console | monitor | root."""
import argparse
import json
import os
import signal
import sys

from hostlab import container, guest, lab, machine, root, spec, state, vm
from hostlab.anyhost import AnyHost, in_network
from hostlab.errors import LabError
from hostlab.kinds import KINDS

DEFAULT_SPEC = os.path.join(spec.LAB, "specs", "demo.toml")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="Containers and virtual machines with real systemd, SSH "
                                     "and NIC queues, in a network of their own. Needs root.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, named: bool = True):
        sub = commands.add_parser(name, help=text, description=text)
        if named:
            sub.add_argument("-n", "--name", default="",
                             help="the lab (default: $FASTSOCKET_LAB, else the only one that is up)")
        return sub

    for name, text in (("up", "bring a lab up; one with its name is taken down first"), ("down", "take a lab down")):
        sub = command(name, text, named=False)
        sub.add_argument("-s", "--spec", help="TOML or JSON file (default for up: specs/demo.toml)")
        sub.add_argument("-n", "--name", default="", help="name of the lab instead of the one in the file")
        if name == "up":
            sub.add_argument("-b", "--bind", action="append", metavar="[HOST=]SRC:DST",
                             help="show SRC of the machine, read-only, as DST in the host, or in all hosts")
        else:
            sub.add_argument("--all", action="store_true", help="all labs")
    sub = command("status", "show one lab, or all")
    sub.add_argument("--json", action="store_true", help="as JSON")
    for name, text in (("exec", "run a command as root inside a host, without SSH"),
                       ("ssh", "log in to a host, or run a command there"),
                       ("monitor", "tell a virtual machine's QEMU: COMMAND [JSON], as system_reset, stop, cont, quit")):
        sub = command(name, text)
        if name == "ssh":
            sub.add_argument("-l", "--login", default="root", help="root (default), ops (may use sudo) or nosudo")
        sub.add_argument("host")
        sub.add_argument("cmd", nargs=argparse.REMAINDER)
    sub = command("run", "run a command of the controller in the lab's network")
    sub.add_argument("cmd", nargs=argparse.REMAINDER)
    command("console", "follow what a host writes to its console").add_argument("host")
    command("root", "make the hosts' root file system now and print where it is", named=False)
    for name in ("_host", "_furnish", "_guest"):  # how the lab calls itself
        sub = commands.add_parser(name)
        sub.add_argument("name")
        sub.add_argument("host")
        sub.add_argument("cmd", nargs=argparse.REMAINDER)
    return parser


def _say(name: str):
    return lambda text: print(f"lab {name}: {text}", flush=True)


def _pick(args) -> str:
    """The lab that is meant."""
    given = args.name or os.environ.get("FASTSOCKET_LAB", "")
    if given:
        return given
    names = state.names()
    if len(names) != 1:
        raise LabError(f"which lab? give --name; up are: {', '.join(names) or 'none'}")
    return names[0]


def _command(args) -> list[str]:
    return args.cmd[1:] if args.cmd[:1] == ["--"] else args.cmd


def _running(args, name: str) -> AnyHost:
    host = lab.member(name, args.host)
    if not host.pid():
        raise LabError(f"host {args.host} of lab {name} is not running")
    return host


def _become(name: str, argv: list[str]) -> None:
    """Replace this process by ARGV, as a member of the lab: `down` ends it and all it starts."""
    if state.read(name)["status"] != "up":
        raise LabError(f"lab {name} is not up yet")
    machine.enter_group(name, "controller")
    os.environ["FASTSOCKET_LAB"] = name
    try:
        os.execvp(argv[0], argv)
    except OSError as err:
        raise LabError(f"{argv[0]}: {err.strerror}") from err


def _up(args) -> int:
    chosen = spec.load(args.spec or DEFAULT_SPEC, KINDS, args.name, args.bind)
    machine.need_tools({tool: package for host in chosen.host for tool, package in KINDS[host.kind].TOOLS.items()})
    lab.up(chosen, _say(chosen.name))
    return 0


def _down(args) -> int:
    if args.all:
        names = state.names()
    elif args.spec and not args.name:
        names = [spec.load(args.spec, KINDS).name]
    else:
        names = [_pick(args)]
    for name in names:
        lab.down(name, _say(name))
    return 0


def _status(args) -> int:
    names = [args.name] if args.name else state.names()
    found = [lab.status(name) for name in names]
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for one in found:
        print(f"lab {one['name']}: {one['status']}, controller {one['controller']}, {one['folder']}")
        for name, host in one["hosts"].items():
            print(f"  {name:15} {'running' if host['running'] else 'gone':8} pid {host['pid']:<7} {host['profile']:9}"
                  f" {host['queues']:3} queues  {', '.join(host['address'])}")
    if not found:
        print("no lab is up")
    return 0 if all(one["status"] == "up" for one in found) else 1


def _exec(args) -> int:
    name = _pick(args)
    _become(name, _running(args, name).enter(_command(args) or ["bash", "-l"]))
    return 0


def _monitor(args) -> int:
    name, words = _pick(args), _command(args)
    if not 1 <= len(words) <= 2:
        raise LabError("monitor: give a command, and arguments as JSON if it has any: lab monitor HOST system_reset")
    host = _running(args, name)
    if host.host.kind != "vm":
        raise LabError(f"host {args.host} is a {host.host.kind}, only a vm has a monitor")
    try:
        arguments = json.loads(words[1]) if len(words) > 1 else {}
    except ValueError as err:
        raise LabError(f"monitor: {words[1]!r} is no JSON: {err}") from err
    with guest.monitor(os.path.join(host.place, "monitor")) as lines:
        print(json.dumps(lines.call(words[0], **arguments), indent=2))
    return 0


def _console(args) -> int:
    name = _pick(args)
    _become(name, ["tail", "-n", "+1", "-F", lab.member(name, args.host).log])
    return 0


def _ssh(args) -> int:
    name = _pick(args)
    _become(name, [*in_network(name), "ssh", "-F", state.folder(name, "ssh_config"), "-l", args.login,
                   lab.member(name, args.host).host.name, *_command(args)])
    return 0


def _run(args) -> int:
    name = _pick(args)
    if not _command(args):
        raise LabError("run: give a command: lab run -- CMD...")
    _become(name, [*in_network(name), *_command(args)])
    return 0


def _root(_args) -> int:
    machine.need_tools(KINDS["container"].TOOLS)
    print(root.ensure(_say("root")))
    return 0


def _inside(args) -> int:
    record = state.read(args.name)
    chosen = lab.spec_of(record)
    container.inside(chosen, next(host for host in chosen.host if host.name == args.host), record["root"])
    return 1


def _furnish(args) -> int:
    lab.member(args.name, args.host).furnish()
    return 0


def _guest(args) -> int:
    return vm.in_guest(args.name, args.host, args.cmd)


COMMANDS = {"up": _up, "down": _down, "status": _status, "exec": _exec, "ssh": _ssh, "run": _run, "root": _root,
            "console": _console, "monitor": _monitor, "_host": _inside, "_furnish": _furnish, "_guest": _guest}


def _stop(number, _frame):
    """SIGTERM like ^C: an exception that unwinds. Once: taking down is bounded, and must not be interrupted itself."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    args = _parser().parse_args()
    try:
        machine.need_root()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _stop)
        return COMMANDS[args.command](args)
    except (LabError, OSError) as err:
        print(f"lab: error: {err}", file=sys.stderr)
        return 1
