# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says about its boots, and what follows from it. Pure: no connection, no clock.

A *look* is what a host answered, {boot_id, kernel, settled, state, failed}, or None without an answer; `settled` is
how many seconds its boot has been over, None before that. A *timeline* is the looks since a reboot was asked for, looks
at one boot next to each other made one: [{boot_id, kernel, settled, since, until}], times in seconds from the request;
boot_id is None while there was no answer."""

import re

# One line a fact, `name=value`. Cheap enough to be asked every two seconds, and no Python. FinishTimestampMonotonic, in
# microseconds, is systemd's own mark of the end of the boot (org.freedesktop.systemd1(5)); it is on the clock of
# /proc/uptime, also in a container, whose /proc/uptime is the machine's. Without systemd an answer is the end.
LOOK = """\
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
echo "kernel=$(uname -r)"
echo "uptime=$(cat /proc/uptime)"
if [ -d /run/systemd/system ]; then
    systemctl show -p SystemState -p FinishTimestampMonotonic
    systemctl list-units --state=failed --plain --no-legend --no-pager --full | sed 's/^/failed=/'
fi
echo end="""
BOOT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SETTLED_STATES = ("running", "degraded", "")
# So many boots after one request, or so many times that one kernel was there and was gone: it is not coming to rest.
LOOP = 3


def look(text):
    """Return the look in what LOOK printed; None when that is cut off or holds no well-formed boot id."""
    facts, failed = {}, []
    for name, found, value in (line.strip().partition("=") for line in text.splitlines()):
        if name == "failed":
            failed += [word for word in value.split() if "." in word][:1]   # some systemd put a bullet before it
        elif found:
            facts[name] = value
    if "end" not in facts or not BOOT_ID.fullmatch(facts.get("boot_id", "")):
        return None
    try:
        up = float(facts["uptime"].split()[0])
        over = int(facts.get("FinishTimestampMonotonic", "0")) / 1e6
    except (KeyError, IndexError, ValueError):
        return None
    state = facts.get("SystemState", "")
    settled = round(up - over, 1) if state in SETTLED_STATES and (over or not state) else None
    return {"boot_id": facts["boot_id"], "kernel": facts.get("kernel", ""), "settled": settled, "state": state,
            "failed": sorted(failed)}


def extend(timeline, seen, now):
    """Add one look (or None) at `now` to a timeline, in place."""
    seen = seen or {"boot_id": None, "kernel": None, "settled": None}
    if not timeline or timeline[-1]["boot_id"] != seen["boot_id"]:
        timeline.append({"since": now})
    timeline[-1].update(until=now, **{name: seen[name] for name in ("boot_id", "kernel", "settled")})


def boot_ids(timeline, before):
    """Return the ids of the boots after `before`, in the order in which they were first seen."""
    return list(dict.fromkeys(part["boot_id"] for part in timeline if part["boot_id"] not in (None, before)))


def outcome(timeline, before, expected, stable, expired):
    """Return what became of a reboot, None while that is open.

    `before`: id of the boot that was asked to end; `expected`: the kernel (uname -r) that was to come; `stable`:
    seconds that a boot must be over before its kernel counts; `expired`: nothing more is waited for."""
    if len(boot_ids(timeline, before)) >= LOOP:
        return "boot_loop"
    last = timeline[-1] if timeline else {"boot_id": None}
    here = last["boot_id"] not in (None, before)
    if not expired and not (here and last["settled"] is not None and last["settled"] >= stable):
        return None
    came = sum(part["boot_id"] not in (None, before) and part["kernel"] == expected for part in timeline)
    if expired and came >= LOOP:
        return "boot_loop"
    if not here:
        return "never_returned"
    return "new_kernel" if last["kernel"] == expected else "fell_back"


def remember(timeline, before, trial):
    """Add the boots that the host noted (boot_entry's trial) and nobody saw, in place, before the last part."""
    seen = {before, trial.get("armed_boot_id"), *boot_ids(timeline, None)}
    unseen = [boot for boot in trial.get("boots") or [] if boot["boot_id"] not in seen]
    timeline[-1:-1] = [dict(boot_id=boot["boot_id"], kernel=boot["kernel"], settled=None, since=None, until=None)
                       for boot in unseen]


def failed_before(given, since, trial):
    """Return the units that are no fault of the new kernel: as given, else those that had failed when the reboot was
    asked for, else, where another run did that, when the trial was armed."""
    known = (given, since.get("failed_units"), trial.get("failed_units"))
    return next((units for units in known if units is not None), [])


def unhealthy(seen, failed_before, stable):
    """Return what is wrong on a host that answers, as phrases: units newly failed, a boot that is not over."""
    wrong = [f"{unit} failed" for unit in seen["failed"] if unit not in failed_before]
    if seen["settled"] is None:
        wrong.append(f"the boot is not over (systemd: {seen['state']})")
    elif seen["settled"] < stable:
        wrong.append(f"the boot was over for {seen['settled']:.0f} of {stable:g} s only")
    return wrong


def progress(timeline, before, stable):
    """Return what a person who waits wants to know; it changes only with the state."""
    last = timeline[-1]
    if last["boot_id"] is None:
        return "does not answer"
    if last["boot_id"] == before:
        return "is going down"
    if last["settled"] is None:
        return f"boots {last['kernel']}"
    return f"has booted {last['kernel']} and is watched for {stable:g} s"


def reason(timeline, before, trial, error):
    """Return why it is not the new kernel, as far as anybody knows; "" when nobody does."""
    if trial.get("reason"):
        return trial["reason"]
    last = timeline[-1]
    if last["boot_id"] is not None and last["boot_id"] == before:
        return "it never went down: its boot id is the one from before"
    kernels = [part["kernel"] for part in timeline if part["boot_id"] not in (None, before)]
    if last["boot_id"] is None and kernels:
        return f"it answered with {kernels[-1]} and then no more: {error}"
    return error


# What can be done, by outcome. The default entry is stock all the time, so any way to make the host boot again helps.
ADVICE = {
    "fell_back": "It is on its default kernel and was not committed.",
    "never_returned": "If its kernel runs, it reboots to its default by itself when the trial time is over. Else "
                      "power-cycle it: its next boot is the default. Its console says more.",
    "boot_loop": "Look at its console; a boot without our trial is its default entry.",
}
WHAT = {
    "new_kernel": "runs {kernel}",
    "fell_back": "fell back to {kernel}",
    "never_returned": "never returned",
    "boot_loop": "is in a boot loop, {boots} boots",
}


def message(host, expected, found):
    """Return the whole finding for a person: one sentence each for what, why and what now, then the console's end."""
    what = WHAT[found["outcome"]].format(kernel=found["kernel"], boots=len(found["boot_ids"]))
    said = f"{host} {what} after {found['seconds']:.0f} s"
    if found["unhealthy"] and found["outcome"] == "new_kernel":
        said += ", but " + ", ".join(found["unhealthy"])
    if found["outcome"] != "new_kernel":
        said += f": {found['reason'].rstrip('.') or expected + ' did not stay'}"
    said += f". {ADVICE[found['outcome']]}" if found["outcome"] in ADVICE else "."
    if found["outcome"] != "new_kernel" and found["console"]:
        said += "\nIts last lines:\n" + "\n".join("  " + line for line in found["console"])
    return said
