# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots the kernel that `tools/kernel` built once for each number of CPUs; every result in there is a test here."""
import shutil
import tempfile
import time
from pathlib import Path

import image
import machine
import pytest

LOGS = Path(__file__).resolve().parents[2] / "build/log/kernel"
CPUS = {"plain": [2, 4, 8, 24], "debug": [4]}
# What a debug kernel must have been built with, and how many times longer it may take.
DEBUG = ("CONFIG_KASAN=y", "CONFIG_PROVE_LOCKING=y", "CONFIG_PROVE_RCU=y")
SLOW = {"plain": 1, "debug": 6}
STRESS_SECONDS = {"plain": 4, "debug": 60}
# `busybox grep` in a debug kernel: lockdep turns itself off after its first report, or when its tables are full.
LOCKDEP = "grep -q debug_locks:.*1 /proc/lockdep_stats"
UPSTREAM_CPUS = 4
# CPUs up to which ours run on CPUs that really run at the same time; more of them take turns.
PARALLEL = 4
# Boots until one is not spoilt by QEMU.
TRIES = 3


def pytest_addoption(parser):
    parser.addoption("--kernel", type=Path, help="directory with bzImage, config and linux")
    parser.addoption("--flavour", choices=sorted(CPUS), default="plain", help="what the kernel was built as")
    parser.addoption("--cpus", help="numbers of CPUs, such as 2,24")
    parser.addoption("--base", action="store_true", help="a kernel without our patches: its own tests only")


class Bench:
    """The programs, built once; machines, booted once each when the first test asks for one."""

    def __init__(self, config, folder):
        self.kernel, self.flavour, self.folder = config.getoption("--kernel"), config.getoption("--flavour"), folder
        if not self.kernel or not (self.kernel / "bzImage").exists():
            raise pytest.UsageError(f"--kernel {self.kernel}: no bzImage there; `make kernel` knows where")
        if self.flavour == "debug":
            built = (self.kernel / "config").read_text().splitlines()
            missing = [option for option in DEBUG if option not in built]
            if missing:
                raise pytest.UsageError(f"{self.kernel}/config lacks {', '.join(missing)}: no debug kernel")
        chosen = config.getoption("--cpus")
        self.cpus = [int(count) for count in chosen.split(",")] if chosen else CPUS[self.flavour]
        # With and without the feature; a kernel without our patches knows only its own way.
        self.modes = ["base"] if config.getoption("--base") else ["off", "on"]
        self.boots, self.say = {}, print
        image.build(self.kernel / "linux", folder)
        self.ours = {} if config.getoption("--base") else {
            program: image.tests(folder / "tests" / program) for program in image.ours()}

    def boot(self, name, plan, cpus, **options):
        """Boot `plan` on `cpus` CPUs, once for each `name`."""
        if name not in self.boots:
            slow = SLOW[self.flavour]
            target = self.folder / f"{name}.cpio"
            image.initramfs(self.folder, plan, target)
            LOGS.mkdir(parents=True, exist_ok=True)
            options = {"memory": 512 + 32 * cpus + 512 * slow, "limit": slow * (300 + 40 * cpus), "silence": slow * 240,
                       "progress": lambda text: self.say(f"{name}: {text}")} | options
            for dummy in range(TRIES):
                self.say(f"{name}: {cpus} CPUs ...")
                done = machine.boot(self.kernel / "bzImage", target, LOGS / name, cpus=cpus, **options)
                self.say(f"{name}: {done.seconds:.0f} s {done.trouble}")
                if not done.lost_patch:
                    break
            self.boots[name] = done
        return self.boots[name]

    def selftests(self, cpus):
        """Our programs on so many CPUs."""
        plan = [(program, f"./{program}") for program in self.ours]
        plan += [("lockdep", LOCKDEP)] if self.flavour == "debug" else []
        # The kernel gives its init the variables that it does not know itself.
        return self.boot(f"selftests-{self.flavour}-{cpus}", plan, cpus, parallel=cpus <= PARALLEL,
                         arguments=f"FASTSOCKET_STRESS_SECONDS={STRESS_SECONDS[self.flavour]}")

    def upstream(self):
        """The kernel's own programs, once for each mode. In mode base nothing is set."""
        setting = {"off": "env LOCAL_LISTEN=0 ", "on": "env LOCAL_LISTEN=1 ", "base": ""}
        plan = [(f"{mode}:{self.label(line)}", f"{setting[mode]}./upstream ./{line}")
                for mode in self.modes for lines in image.UPSTREAM.values() for line in lines]
        return self.boot(f"upstream-{self.flavour}", plan, UPSTREAM_CPUS)

    @staticmethod
    def label(line):
        """A command line as a name."""
        return line.replace(" ", "_")


BENCH = pytest.StashKey()


def pytest_configure(config):
    if not config.option.help and not config.option.version:
        folder = Path(tempfile.mkdtemp(prefix="kernel-tests-"))
        config.add_cleanup(lambda: shutil.rmtree(folder))
        config.stash[BENCH] = Bench(config, folder)


def pytest_generate_tests(metafunc):
    bench = metafunc.config.stash[BENCH]
    if "selftest" in metafunc.fixturenames:
        cases = [(cpus, program, name)
                 for cpus in bench.cpus for program, names in bench.ours.items() for name in names]
        metafunc.parametrize("selftest", cases, ids=[f"{cpus}cpus-{name}" for cpus, program, name in cases])
    if "cpus" in metafunc.fixturenames:
        metafunc.parametrize("cpus", bench.cpus if bench.ours else [], ids=lambda cpus: f"{cpus}cpus")
    if "own" in metafunc.fixturenames:
        cases = [(mode, program, bench.label(line)) for mode in bench.modes
                 for program, lines in image.UPSTREAM.items() for line in lines]
        metafunc.parametrize("own", cases, ids=[f"{mode}-{label}" for mode, program, label in cases])


@pytest.fixture(scope="session")
def bench(request):
    """The Bench, which talks to the terminal while tests wait."""
    bench = request.config.stash[BENCH]
    capture = request.config.pluginmanager.getplugin("capturemanager")
    reporter = request.config.pluginmanager.getplugin("terminalreporter")

    def say(text):
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"  {time.strftime('%H:%M:%S')} {text}")

    bench.say = say
    return bench
