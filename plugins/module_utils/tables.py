# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables for people: the same in the terminal of the controller and of the host."""

from . import cpulist, stats


def percent(value):
    """0.9934 -> "99.3 %"; None -> "-"."""
    return "-" if value is None else "%.1f %%" % (100.0 * value)


def number(value, form="%d"):
    return "-" if value is None else form % value


def render(head, rows):
    """Return lines of a table: first column left, the others right."""
    cells = [[str(cell) for cell in row] for row in [head] + list(rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(head))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _slot(row):
    where = ", runs on %s" % (cpulist.format_list(row["runs_on"]) or "none") if stats.strayed(row) else ""
    return "%d(%s%s)" % (row["tid"], row["state"], where)


def service_lines(title, found):
    """Return the per-core table of one wrapped service (a stats.read() result) with a line of totals."""
    if not found:
        return ["%s: wrapped, no statistics yet (not started since)" % title]
    total = found["summary"]
    lines = ["%s: switch %s, accepts %s local, connects %s local, spread %s" % (
        title, found["switch"], percent(total["accept_local"]), percent(total["connect_local"]),
        number(total["spread"], "%.2f"))]
    serving = {}
    for row in found["slots"]:
        serving.setdefault(row["cpu"], []).append(_slot(row))
    for cpu in found.get("offline", ()):
        serving.setdefault(cpu, []).insert(0, "offline")
    rows = []
    for cpu, row in sorted(found["cpus"].items(), key=lambda item: int(item[0])):
        rows.append([
            cpu, row["accepts"], row["accepts_local"], row["accepts_remote"],
            percent(stats.share(row["accepts_local"], row["accepts_remote"])), row["connects_local"],
            row["connects_remote"], percent(stats.share(row["connects_local"], row["connects_remote"])),
            row["spills"], " ".join(serving.get(int(cpu), ["-"]))])
    head = ("cpu", "accepts", "seen local", "remote", "share", "connects seen local", "remote", "share", "spills",
            "slots: thread")
    lines += ["  " + line for line in render(head, rows)]
    errors = ", ".join("%s %d" % item for item in sorted(found["errors"].items()) if item[1])
    return lines + (["  errors: " + errors] if errors else [])


def kernel_lines(found):
    """Return the per-core table of what the kernel itself counted (a kernelstats.read() result) with a line of totals;
    nothing for a kernel without it."""
    if not found:
        return []
    total, listen = found["summary"], found["sysctls"].get("local_listen")
    lines = ["kernel (all of this network namespace): local_listen %s, accepts %s local, connects %s local, "
             "look-ups %s local, spread %s" % (
                 {0: "off", 1: "on"}.get(listen, "-"), percent(total["accept_local"]), percent(total["connect_local"]),
                 percent(total["lookup_local"]), number(total["spread"], "%.2f"))]
    rows = [[cpu, row["accepts_local"], row["accepts_remote"],
             percent(stats.share(row["accepts_local"], row["accepts_remote"])), row["lookups_local"],
             row["lookups_fallback"], percent(stats.share(row["lookups_local"], row["lookups_fallback"]))]
            for cpu, row in sorted(found["cpus"].items(), key=lambda item: int(item[0]))]
    head = ("cpu", "accepts local", "remote", "share", "look-ups local", "fallback", "share")
    return lines + ["  " + line for line in render(head, rows)]


def host_lines(services, kernel):
    """Return the tables of a host: {name: stats.read() result} and a kernelstats.read() result. Where a window was
    measured, its counters, else the sums."""
    lines = [] if services else ["no service is wrapped on this host"]
    for name, found in sorted(services.items()):
        lines += service_lines(name, _shown(found))
    return lines + kernel_lines(_shown(kernel))


def _shown(found):
    window = (found or {}).get("window")
    return dict(found, cpus=window["cpus"], summary=window) if window else found
