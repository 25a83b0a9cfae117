# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What we know of the servers we wrap by name. Any other unit is wrapped too, without these comforts.

A row of SERVICES:
  test       words after the program that make it check its configuration and end
  keep       options of ExecStart, with their values, that the check needs too
  stop       signal to the main process: finish what is open, accept nothing new; None: systemd's way to stop it
  leave      how it goes on without the preload and without loss: "upgrade" (a new program takes the sockets over and
             does not get LD_PRELOAD from nginx) or "reload" (the program executes itself again)
  variables  names of the unit's variables that add words to its command line
  extra      function(configuration text, CPU ids) -> text of our extra configuration file, or None
"""

import collections
import os
import re

from . import cpulist, paths, systemd
from .errors import FleetError

Service = collections.namedtuple("Service", "test keep stop leave variables extra")

CPU_MAP = "cpu-map"
# More are refused: by HAProxy 2.6 altogether, by later ones in one thread group.
THREADS = 64


def haproxy_extra(configuration, cpus):
    """HAProxy moves accepted connections between its threads and shares idle server connections between them; both
    take a connection off its core. Returns the `global` section that ends it, without what the operator has set."""
    cpus = cpus[:THREADS]
    wanted = collections.OrderedDict((
        ("nbthread", "nbthread %d" % len(cpus)),
        (CPU_MAP, "cpu-map auto:1/1-%d %s" % (len(cpus), cpulist.format_list(cpus).replace(",", " "))),
        ("tune.listener.multi-queue", "tune.listener.multi-queue off"),
        ("tune.idle-pool.shared", "tune.idle-pool.shared off"),
    ))
    # nbthread and cpu-map go together: an operator who set one of them has a plan of his own.
    own = {name for name in wanted if re.search(r"^\s*%s\s" % re.escape(name), configuration, re.MULTILINE)}
    if own & {"nbthread", CPU_MAP}:
        own |= {"nbthread", CPU_MAP}
    lines = ["    " + line for name, line in wanted.items() if name not in own]
    return paths.MADE_BY + "global\n" + "".join(line + "\n" for line in lines)


SERVICES = {
    "nginx": Service(
        test=["-t", "-q"], keep=("-c", "-p", "-e"), stop="SIGQUIT", leave="upgrade", variables=(), extra=None),
    "haproxy": Service(
        test=["-c"], keep=("-f", "-C"), stop="SIGUSR1", leave="reload", variables=("EXTRAOPTS", "OPTIONS"),
        extra=haproxy_extra),
}
OTHER = Service(test=None, keep=(), stop=None, leave=None, variables=(), extra=None)


def unit_of(service):
    return service if service.endswith(".service") else service + ".service"


def name_of(service):
    """The name in our file names; `nginx@edge.service` keeps its instance."""
    return service[:-8] if service.endswith(".service") else service


def known(service):
    return SERVICES.get(name_of(service).partition("@")[0], OTHER)


def find(service):
    """Return systemd's properties of a service. FleetError when it is not there."""
    if not re.match(r"^[A-Za-z0-9][A-Za-z0-9:_.@-]*\Z", service):
        raise FleetError("service %r is not a unit name; give a name like nginx or haproxy.service" % service)
    properties = systemd.show(unit_of(service))
    if properties["LoadState"] == "not-found":
        if name_of(service) in SERVICES:
            raise FleetError("%s is not installed on this host: there is no unit %s" % (service, unit_of(service)))
        raise FleetError("service %s is unknown: there is no unit %s on this host; known by name are %s, and any "
                         "systemd service works" % (service, unit_of(service), ", ".join(sorted(SERVICES))))
    if properties["LoadState"] != "loaded":
        raise FleetError("unit %s cannot be used: systemd says %s" % (unit_of(service), properties["LoadState"]))
    if not systemd.argv(properties):
        raise FleetError("unit %s starts no program (no ExecStart)" % unit_of(service))
    if properties["User"] not in ("", "root", "0"):
        raise FleetError("unit %s starts as User=%s; only a service that starts as root, and drops its rights itself "
                         "as nginx and HAProxy do, can be wrapped" % (unit_of(service), properties["User"]))
    return properties


def command(service, properties, skip=()):
    """Return the words the unit would start, variables replaced."""
    return systemd.expand(systemd.argv(properties), systemd.environment(properties, skip))


def kept_options(service, words):
    """Return the options (with values) of a command line that a configuration check needs too."""
    found = []
    for index, word in enumerate(words[:-1]):
        if word in known(service).keep:
            found += [word, words[index + 1]]
    return found


def configurations(service, words):
    """Return the text of the configuration files a command line names with -f."""
    text = ""
    for index, word in enumerate(words[:-1]):
        if word != "-f":
            continue
        named = words[index + 1]
        files = [os.path.join(named, name) for name in sorted(os.listdir(named))] if os.path.isdir(named) else [named]
        for path in files:
            try:
                with open(path, encoding="utf-8", errors="replace") as handle:
                    text += handle.read() + "\n"
            except OSError as error:
                raise FleetError("%s: configuration file %s cannot be read: %s" % (service, path, error)) from error
    return text


def check_configuration(service, properties, words, more=()):
    """Run the service's own configuration check in the unit's environment, with more words if given. FleetError when
    it fails."""
    test = known(service).test
    if test is None:
        return
    line = [words[0]] + kept_options(service, words) + list(more) + test
    variables = dict(os.environ, **systemd.environment(properties))
    variables.pop("LD_PRELOAD", None)
    status, output = systemd.attempt(*line, env=variables)
    if status:
        raise FleetError("the configuration of %s does not pass its own check, nothing was changed: `%s` says: %s"
                         % (service, " ".join(line), systemd.last_lines(output)))
