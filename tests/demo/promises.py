# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demo promises, judged on its report; and the report as a table. Pure."""

ACCEPTS, CONNECTS = 0.99, 0.95
SWITCH_S = 1.0
# Stock keeps about 1/N; so much above that, and the rollout would prove little.
STOCK_MARGIN = 0.25


def spread(values):
    """Largest over mean; None without anything to compare."""
    return max(values) * len(values) / sum(values) if values and sum(values) else None


def _phase(report, name):
    return next((phase["hosts"] for phase in report["phases"] if phase["name"] == name), None)


def _at_least(value, floor):
    return value is not None and value >= floor


def _promises(report):
    """Yield (kept, text)."""
    out = _phase(report, "rolled_out") or {}
    for host, row in sorted(out.items()):
        yield _at_least(row["accept_local"], ACCEPTS), "%s rolled out: %s of accepts local (at least %s)" % (
            host, percent(row["accept_local"]), percent(ACCEPTS))
        yield _at_least(row["accept_local_sampled"], ACCEPTS), "%s rolled out: %s of %d sampled from outside local" % (
            host, percent(row["accept_local_sampled"]), row["sampled"])
        if row["service"] == "haproxy":
            yield _at_least(row["connect_local"], CONNECTS), "%s rolled out: %s of connects local (at least %s)" % (
                host, percent(row["connect_local"]), percent(CONNECTS))
    for host, row in sorted((_phase(report, "stock") or {}).items()):
        share, most = row["accept_local"], 1.0 / report["cpus"] + STOCK_MARGIN
        yield share is not None and share <= most, "%s stock: %s of accepts local (at most %s)" % (
            host, percent(share), percent(most))
    effect = report["switch_effect_s"]
    yield effect is not None and effect < SWITCH_S, "switched off within %s s (less than %.0f)" % (effect, SWITCH_S)
    yield report["failed_total"] == 0, "%s failed of %s requests" % (
        report["failed_total"], report.get("requests_total"))
    yield len(report["phases"]) == 4, "%d of 4 phases measured" % len(report["phases"])


def check(report):
    """Return (all kept, lines)."""
    found = list(_promises(report))
    lines = ["%s  %s" % ("kept  " if kept else "BROKEN", text) for kept, text in found]
    return all(kept for kept, dummy in found), lines


def percent(value):
    """0.9934 -> 99.3 %."""
    return "-" if value is None else "%.1f %%" % (100 * value)


def table(report):
    """Return the lines of the table: a row a host and phase."""
    head = ["host", "service", "phase", "accepts local", "from outside", "connects local", "spread", "conn/s", "failed"]
    rows = [[host, row["service"], phase["name"], percent(row["accept_local"]), percent(row["accept_local_sampled"]),
             percent(row["connect_local"]), "-" if row["spread"] is None else "%.2f" % row["spread"],
             "%.0f" % row["cps"], str(row["failed"])]
            for phase in report["phases"] for host, row in phase["hosts"].items()]
    rows.sort(key=lambda row: row[0])
    widths = [max(len(row[column]) for row in [head] + rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) if column < 3 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
             for row in [head] + rows]
    lines.insert(1, "-" * len(lines[0]))
    return lines
