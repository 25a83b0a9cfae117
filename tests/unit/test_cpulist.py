# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU lists and masks, against the forms that kernels print."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fastsocket.fleet.plugins.module_utils import cpulist
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

CPUS = st.sets(st.integers(0, 8191), max_size=300)


@pytest.mark.parametrize(
    "text, cpus",
    [("", []), ("0", [0]), ("0-3,8", [0, 1, 2, 3, 8]), (" 8,0-1\n", [0, 1, 8]), ("1,1-2,2", [1, 2]), ("8191", [8191])],
)
def test_list_is_read(text, cpus):
    assert cpulist.parse_list(text) == cpus


@pytest.mark.parametrize(
    "text", ["x", "0-", "-1", "3-1", "0,,x", "1.5", "0x3", "8192", "0-99999999999", "1 2", "(null)", "²"]
)
def test_a_wrong_list_is_named(text):
    with pytest.raises(FleetError, match="is not a CPU list"):
        cpulist.parse_list(text)


@pytest.mark.parametrize(
    "cpus, width, text",
    [
        ([], 1, "0"),
        ([0], 1, "1"),
        ([0, 1], 2, "3"),
        ([3], 4, "8"),
        ([0], 5, "01"),
        (range(24), 24, "ffffff"),
        ([0], 24, "000001"),
        ([31], 32, "80000000"),
        ([0], 33, "0,00000001"),
        ([32], 33, "1,00000000"),
        (range(40), 40, "ff,ffffffff"),
        ([0, 127], 128, "80000000,00000000,00000000,00000001"),
        ([], 144, "0000,00000000,00000000,00000000,00000000"),
    ],
)
def test_mask_is_what_the_kernel_prints(cpus, width, text):
    assert cpulist.format_mask(cpus, width) == text
    assert cpulist.parse_mask(text) == sorted(cpus)


@pytest.mark.parametrize("text", ["", "x", "1,,2", "123456789", "0x3", "-1", "1,"])
def test_a_wrong_mask_is_named(text):
    with pytest.raises(FleetError, match="is not a CPU mask"):
        cpulist.parse_mask(text)


def test_short_groups_are_groups():
    assert cpulist.parse_mask("1,0") == [32]


def test_a_cpu_beyond_the_mask_is_refused():
    with pytest.raises(FleetError, match="CPU 2 does not fit into a mask of 2 CPUs"):
        cpulist.format_mask([2], 2)


@given(CPUS)
def test_list_round_trip(cpus):
    text = cpulist.format_list(cpus)
    assert cpulist.parse_list(text) == sorted(cpus)
    assert cpulist.format_list(cpulist.parse_list(text)) == text


@given(CPUS, st.integers(1, 8192))
def test_mask_round_trip(cpus, width):
    cpus = sorted(cpu for cpu in cpus if cpu < width)
    text = cpulist.format_mask(cpus, width)
    assert cpulist.parse_mask(text) == cpus
    assert len(text.replace(",", "")) == (width + 3) // 4
