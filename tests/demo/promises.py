# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demos promise, judged on their reports; and a report as a table. Pure."""

ACCEPTS, CONNECTS = 0.99, 0.95
SWITCH_S = 1.0
# Stock keeps about 1/N; so much above that, and the rollout would prove little.
STOCK_MARGIN = 0.25


def spread(values):
    """Largest over mean; None without anything to compare."""
    return max(values) * len(values) / sum(values) if values and sum(values) else None


def _phase(report, name):
    """The hosts of a phase, in order: [(host, figures)]; none when it was not measured."""
    return sorted(next((phase["hosts"] for phase in report["phases"] if phase["name"] == name), {}).items())


def _at_least(value, floor):
    return value is not None and value >= floor


def _locality(report):
    """Yield (kept, text) of what both demos promise of stock and of rolled out hosts."""
    for host, row in _phase(report, "rolled_out"):
        yield _at_least(row["accept_local"], ACCEPTS), "%s rolled out: %s of accepts local (at least %s)" % (
            host, percent(row["accept_local"]), percent(ACCEPTS))
        yield _at_least(row["accept_local_sampled"], ACCEPTS), "%s rolled out: %s of %d sampled from outside local" % (
            host, percent(row["accept_local_sampled"]), row["sampled"])
        if row["service"] == "haproxy":
            yield _at_least(row["connect_local"], CONNECTS), "%s rolled out: %s of connects local (at least %s)" % (
                host, percent(row["connect_local"]), percent(CONNECTS))
    for host, row in _phase(report, "stock"):
        share, most = row["accept_local"], 1.0 / report["cpus"] + STOCK_MARGIN
        yield share is not None and share <= most, "%s stock: %s of accepts local (at most %s)" % (
            host, percent(share), percent(most))


def _whole(report, phases):
    yield report["failed_total"] == 0, "%s failed of %s requests" % (
        report["failed_total"], report.get("requests_total"))
    yield len(report["phases"]) == phases, "%d of %d phases measured" % (len(report["phases"]), phases)


def of_demo(report):
    """Yield (kept, text) for `make demo`."""
    yield from _locality(report)
    effect = report["switch_effect_s"]
    yield effect is not None and effect < SWITCH_S, "switched off within %s s (less than %.0f)" % (effect, SWITCH_S)
    yield from _whole(report, 4)


def of_kernel_demo(report):
    """Yield (kept, text) for `make demo-kernel`."""
    ours, stock = report["kver"], None
    for host, row in _phase(report, "stock"):
        stock = row["kernel"]
        yield stock != ours, "%s stock: runs %s" % (host, stock)
    yield from _locality(report)
    for host, row in _phase(report, "rolled_out"):
        yield row["kernel"] == ours, "%s rolled out: runs %s (%s)" % (host, row["kernel"], ours)
        for name, what in (("accept", "accepts"), ("lookup", "listener look-ups")):
            share = row["kernel_%s_local" % name]
            yield _at_least(share, ACCEPTS), "%s rolled out: %s of %s local by the kernel's own count" % (
                host, percent(share), what)
    for host, row in _phase(report, "rolled_back"):
        yield row["kernel"] == stock, "%s rolled back: runs %s (%s)" % (host, row["kernel"], stock)
    yield len(report["reboots"]) == 2, "%d of 2 announced reboots; %s requests failed in their %s s" % (
        len(report["reboots"]), sum(one["failed"] for one in report["reboots"]),
        "+".join("%.0f" % one["seconds"] for one in report["reboots"]) or 0)
    yield from _whole(report, 3)


def outage(lines, announced):
    """Return (begin, end) of the outage of a reboot announced at a time: from the announcement to the first second
    after the failures in which requests were answered and none failed. `lines`: of tests/lab/load.py, one target.

    It is what is not promised; a failure before or after it is a broken promise. Without any failure it is empty."""
    after = [row for row in lines if row["t"] > announced]
    bad = [bool(row["failed"] or row["probe_failed"]) for row in after]
    if True not in bad:
        return announced, announced
    first = bad.index(True)
    for row, failed in list(zip(after, bad, strict=True))[first:]:
        if not failed and row["ok"]:
            return announced, row["t"] - 1
    return announced, after[-1]["t"]


def check(found):
    """Return (all kept, lines) of promises: (kept, text)."""
    found = list(found)
    lines = ["%s  %s" % ("kept  " if kept else "BROKEN", text) for kept, text in found]
    return all(kept for kept, dummy in found), lines


def percent(value):
    """0.9934 -> 99.3 %."""
    return "-" if value is None else "%.1f %%" % (100 * value)


# A column of the table: heading, does it stand on the left, its text from (host, phase, figures of the host).
COLUMNS = (
    ("host", True, lambda host, phase, row: host),
    ("service", True, lambda host, phase, row: row["service"]),
    ("phase", True, lambda host, phase, row: phase),
    ("accepts local", False, lambda host, phase, row: percent(row["accept_local"])),
    ("from outside", False, lambda host, phase, row: percent(row["accept_local_sampled"])),
    ("connects local", False, lambda host, phase, row: percent(row["connect_local"])),
    ("spread", False, lambda host, phase, row: "-" if row["spread"] is None else "%.2f" % row["spread"]),
    ("conn/s", False, lambda host, phase, row: "%.0f" % row["cps"]),
    ("failed", False, lambda host, phase, row: str(row["failed"])),
)
KERNEL_COLUMNS = COLUMNS[:3] + (
    ("kernel", True, lambda host, phase, row: row["kernel"]),
) + COLUMNS[3:5] + (
    ("by kernel", False, lambda host, phase, row: percent(row["kernel_accept_local"])),
    ("look-ups", False, lambda host, phase, row: percent(row["kernel_lookup_local"])),
) + COLUMNS[6:]


def table(report):
    """Return the lines of the table: a row a host and phase."""
    columns = KERNEL_COLUMNS if "kver" in report else COLUMNS
    rows = [[text(host, phase["name"], row) for dummy, dummy, text in columns]
            for phase in report["phases"] for host, row in phase["hosts"].items()]
    rows.sort(key=lambda row: row[0])
    rows.insert(0, [column[0] for column in columns])
    widths = [max(len(row[number]) for row in rows) for number in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) if column[1] else cell.rjust(width)
                       for cell, width, column in zip(row, widths, columns, strict=True)) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return lines
