# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one file of the library that knows Ansible: it turns a function's result or FleetError into a module's last
word."""

import errno
import os
import traceback

from .errors import FleetError

_NEEDS_ROOT = (errno.EACCES, errno.EPERM)


def run(module, function, root=False):
    """Call `function()` and end the module with what it returns, a dict. `root`: refuse anybody else first.

    `changes` in it ([{path, before, after}], null = absent) become the diff when the play asks for one, unless it
    brings a `diff` of its own. `warnings` become warnings. A FleetError becomes the failure message, its facts go
    along."""
    if root and os.geteuid() != 0:
        module.fail_json(msg="this needs root (become: true)")
    os.umask(0o022)     # what we write is read by services that are not root
    try:
        result = function()
    except FleetError as error:
        module.fail_json(msg=str(error), **error.facts)
    except OSError as error:
        hint = ": this needs root (become: true)" if error.errno in _NEEDS_ROOT else ""
        module.fail_json(msg="%s%s" % (error, hint), exception=traceback.format_exc())
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if not module._diff:
        result.pop("diff", None)
    elif "diff" not in result:
        result["diff"] = diff_of(result.get("changes", []))
    module.exit_json(**result)


def diff_of(changes):
    """Return Ansible's diff for a list of changes: one block of `path value` lines for one-line values, one for each
    file."""
    blocks = []
    for change in changes:
        if _is_file(change):
            sides = {"before": change["before"] or "", "after": change["after"] or ""}
            blocks.append(dict(sides, before_header=change["path"], after_header=change["path"]))
    lines = [change for change in changes if not _is_file(change)]
    if lines:
        sides = {
            side: "".join(
                "%s %s\n" % (change["path"], "(absent)" if change[side] is None else change[side]) for change in lines
            )
            for side in ("before", "after")
        }
        blocks.insert(0, dict(sides, before_header="values", after_header="values"))
    return blocks


def _is_file(change):
    return any("\n" in (change[side] or "") for side in ("before", "after"))
