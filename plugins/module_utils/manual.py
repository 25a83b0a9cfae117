# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""fsctl(8), made from fsctl's own parser: it tells every command and option there is."""

import argparse

PAGE = r""".\" SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
.\" SPDX-License-Identifier: GPL-3.0-or-later
.\" Made by fastsocket.fleet; changes here are lost.
.TH FSCTL 8 2026-11-23 "" "fastsocket.fleet"
.SH NAME
fsctl \- per\-core TCP on this host: look, off, on
.SH SYNOPSIS
.B fsctl
.I command
.RI [ argument ...]
.SH DESCRIPTION
.B fsctl
is for the person on call: it needs neither the controller nor the network.
All commands but those that only look need root.
A
.I service
is a systemd unit, with or without .service.
.SH COMMANDS
%s.SH EXIT STATUS
0; 1 with one line on standard error, or as told above.
.SH FILES
.TP
.I /run/fastsocket/SERVICE.stats
What
.B fsctl status
reads; see
.BR libfsocket (7).
.TP
.I /run/fastsocket/SERVICE.switch
What
.B fsctl off
and
.B fsctl on
write.
.TP
.I /etc/fastsocket
What is wanted of this host.
.TP
.I /var/lib/fastsocket
What
.B fsctl nic undo
puts back.
.SH SEE ALSO
.BR libfsocket (7),
.BR systemctl (1)
"""


def _roff(text):
    return text.replace("\\", "\\e").replace("-", "\\-")


def _sentence(text):
    """A help as a line of its own: a dot or quote at its beginning is no request."""
    return "\\&" + _roff(text[:1].upper() + text[1:])


def _arguments(parser):
    """Return the synopsis of one command's own arguments."""
    words = []
    for action in parser._actions:
        name = action.metavar or action.dest
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        if action.option_strings:
            value = "" if action.nargs == 0 else "\\fR \\fI%s" % _roff(name)
            words.append("[\\fB%s%s\\fR]" % (_roff(action.option_strings[-1]), value))
        else:
            optional = action.nargs in ("*", "?")
            more = "..." if action.nargs in ("*", "+") else ""
            words.append(("[\\fI%s\\fR%s]" if optional else "\\fI%s\\fR%s") % (_roff(name), more))
    return " ".join(words)


def commands(parser, before=""):
    """Return (words, arguments, help, [(option or argument, help)]) of every command below a parser."""
    found = []
    for group in parser._actions:
        if not isinstance(group, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help for choice in group._choices_actions}
        for name, one in group.choices.items():
            below = commands(one, before + name + " ")
            details = [((action.option_strings or [action.metavar or action.dest])[-1], action.help)
                       for action in one._actions
                       if action.help and not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))]
            found.extend(below or [(before + name, _arguments(one), helps.get(name) or "", details)])
    return found


def page(parser):
    """Return the manual page as roff."""
    text = ""
    for words, arguments, told, details in commands(parser):
        text += ".TP\n\\fB%s\\fR %s\n%s.\n" % (_roff(words), arguments, _sentence(told))
        for name, detail in details:
            text += ".RS\n.TP\n.B %s\n%s.\n.RE\n" % (_roff(name), _sentence(detail))
    return PAGE % text
