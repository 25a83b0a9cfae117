# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a wrapped service is on a host: which text stands in which file (pure), what stands there now, and the sysctl
that goes with it."""

import collections
import os

from . import hostfile, paths, services, settings, switch, systemd
from .errors import FleetError

SYSCTL_FILE = "/etc/sysctl.d/60-fastsocket.conf"
MIGRATE = "/proc/sys/net/ipv4/tcp_migrate_req"
COOKIES = "/proc/sys/net/ipv4/tcp_syncookies"
BEFORE = paths.VAR + "/preload.json"

Wrap = collections.namedtuple("Wrap", "service library settings")


def dropin_path(service):
    return "/etc/systemd/system/%s.d/zz-fastsocket.conf" % services.unit_of(service)


def tmpfiles_path(service):
    return "/etc/tmpfiles.d/fastsocket-%s.conf" % services.name_of(service)


def desired_path(service):
    return "%s/%s.json" % (paths.ETC, services.name_of(service))


def extra_path(service):
    return "%s/%s.cfg" % (paths.ETC, services.name_of(service))


def variables_path(service):
    return "%s/%s.env" % (paths.ETC, services.name_of(service))


def read_at_start(service):
    """Files of ours that the service reads when it starts: a process older than one of them runs as before."""
    return {dropin_path(service), variables_path(service), extra_path(service)}


def nothing(service):
    """Return {path: None} of what a service that is not wrapped does not have. Its extra file is not in it: a process
    may still need it."""
    gone = (dropin_path(service), tmpfiles_path(service), desired_path(service), variables_path(service))
    return collections.OrderedDict((path, None) for path in gone)


def wrapped(service):
    return os.path.exists(dropin_path(service))


def wrapped_services():
    """Return the names of the services wrapped on this host."""
    try:
        return sorted(name[:-5] for name in os.listdir(paths.ETC)
                      if name.endswith(".json") and name != "nic.json" and wrapped(name[:-5]))
    except FileNotFoundError:
        return []


def refuse_while_wrapped(what):
    """FleetError while a service depends on what is about to be removed."""
    if wrapped_services():
        raise FleetError("%s stays while a service is wrapped: unwrap %s first (preload, state absent)"
                         % (what, ", ".join(wrapped_services())))


# ---- what must stand where (pure) ------------------------------------------


def quote(text):
    """Quote a value for a systemd unit or environment file."""
    return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"')


def preloads(wrap, properties):
    """Return the value of LD_PRELOAD: what the unit preloads already, then our library."""
    own = systemd.environment(properties).get("LD_PRELOAD", "").replace(":", " ").split()
    return ":".join([path for path in own if "/libfsocket.so" not in path] + [wrap.library])


def dropin(wrap, properties, variables):
    """Return the text of the drop-in. `variables`: the service has an environment file of ours."""
    lines = ["LD_PRELOAD=" + preloads(wrap, properties), "FSOCKET_NAME=" + services.name_of(wrap.service)]
    lines += ["%s=%s" % pair for pair in settings.environment(wrap.settings)]
    text = paths.MADE_BY + "[Service]\n" + "".join("Environment=%s\n" % quote(line) for line in lines)
    if variables:
        text += "EnvironmentFile=-%s\n" % variables_path(wrap.service)
    if properties["ProtectSystem"] == "strict":
        text += "ReadWritePaths=-%s\n" % paths.RUN
    return text


def extra_variable(service, properties):
    """Return (name, value) of the variable that adds our extra file to the command line; None when there is none."""
    for name in services.known(service).variables:
        if "$" + name in systemd.argv(properties):
            now = systemd.environment(properties, skip=(variables_path(service),)).get(name, "")
            return name, (now + " -f " + extra_path(service)).strip()
    return None


def tmpfiles(name, value):
    """Return the tmpfiles.d(5) text that makes the switch at boot, in the position it had."""
    return paths.MADE_BY + "d %s 0755 root root -\nf %s 0644 root root - %s\n" % (
        paths.RUN, switch.path_of(name), switch.BYTES[value].decode("ascii"))


def files(wrap, properties, configuration, cpus, value):
    """Return {path: text} of everything that wraps the service, and warnings. `value`: position of its switch."""
    name, known = services.name_of(wrap.service), services.known(wrap.service)
    found, warnings = collections.OrderedDict(), []
    variable, variables = extra_variable(wrap.service, properties) if known.extra else None, ""
    if variable:
        found[extra_path(wrap.service)] = known.extra(configuration, cpus)
        variables = "%s=%s\n" % (variable[0], quote(variable[1]))
    elif known.extra:
        warnings.append("the unit of %s takes no %s: add %s to its command line by hand, or its own balancing moves "
                        "connections between cores" % (name, " or ".join(known.variables), extra_path(wrap.service)))
    if "LD_PRELOAD" in systemd.environment(dict(properties, Environment=""), skip=(variables_path(wrap.service),)):
        # A file of the unit wins over our Environment=; the file that comes last wins over both.
        variables += "LD_PRELOAD=%s\n" % quote(preloads(wrap, properties))
    if variables:
        found[variables_path(wrap.service)] = paths.MADE_BY + variables
    found[dropin_path(wrap.service)] = dropin(wrap, properties, bool(variables))
    found[tmpfiles_path(wrap.service)] = tmpfiles(name, value)
    found[desired_path(wrap.service)] = hostfile.json_text(
        {"service": name, "unit": services.unit_of(wrap.service), "library": wrap.library, "settings": wrap.settings})
    return found, warnings


# ---- the kernel's help: queues that move with their listener ---------------


def deafens():
    """Can a queue that moves leave its heir without connections for good? Where a client resets a half-open connection
    of a listener that was closed, Linux (6.18 at least, net/ipv4/tcp_minisocks.c: tcp_check_req) makes the heir's
    request queue shorter than empty, and takes it for full. With SYN cookies such a listener serves on."""
    return (hostfile.read(COOKIES) or "").strip() == "0"


def migrate_change(on):
    """The change to net.ipv4.tcp_migrate_req, or None. It stays as long as a service is wrapped, unless it deafens();
    the value before comes back with the last one."""
    on = on and not deafens()
    now = (hostfile.read(MIGRATE) or "").strip()
    if not now:
        return None     # before Linux 5.14: libfsocket does without
    want = "1" if on else (hostfile.read_json(BEFORE, {}).get(MIGRATE) or now)
    return {"path": MIGRATE, "before": now, "after": want} if now != want else None


def migrate_apply(change, on):
    on = on and not deafens()
    if on and change:
        saved = hostfile.read_json(BEFORE, {})
        saved.setdefault(MIGRATE, change["before"])
        hostfile.write_json(BEFORE, saved)
    if on:
        hostfile.write(SYSCTL_FILE, paths.MADE_BY + "net.ipv4.tcp_migrate_req = 1\n")
    if change:
        with open(MIGRATE, "w", encoding="ascii") as handle:
            handle.write(change["after"])
    if not on:
        hostfile.remove(SYSCTL_FILE)
        hostfile.remove(BEFORE)
