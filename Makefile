# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later

# Everything that a person or a pipeline runs.
SHELL := /bin/bash
CACHE := $(or $(FASTSOCKET_CACHE),$(HOME)/.cache/fastsocket)
venv = $(CACHE)/venv-$(shell sha256sum requirements/$(1).txt | cut -c 1-12)
VENV := $(call venv,ansible-2.19)
VENV_OLDEST := $(call venv,ansible-2.16)
PYTHON := $(VENV)/bin/python
export PATH := $(VENV)/bin:$(PATH)
# The lab needs root: mounts, namespaces, cgroups.
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo --preserve-env env "PATH=$(PATH)" "HOME=$(HOME)")
# What emulates whole machines for long needs all CPUs, the others wait for something most of the time: two lanes. The first has the
# CPUs before the second, for it holds what measures where connections go, in emulated machines as well (vm).
SUITES := lint unit c-test vm sanity lab molecule integration + kernel trials

.PHONY: help setup test lint unit c-test sanity kernel test-kernel-debug integration lab molecule vm trials demo demo-kernel bench build hooks clean

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Debian packages and Python environments (the other targets call it)
	@tools/setup $(VENV)=requirements/ansible-2.19.txt $(VENV_OLDEST)=requirements/ansible-2.16.txt

test: setup ## every suite below, in two lanes, and a table; SUITES="lint unit" for some
	@$(ROOT) true && $(PYTHON) tools/run-suites $(SUITES)

lint: setup ## ruff, yamllint, shellcheck, Python 3.6, licences, ansible-lint, docs; CHECKS="ruff docs" for some
	@tools/lint $(CHECKS)

unit: setup ## planners and readers on captured trees, roles' specs
	@$(PYTHON) -m pytest tests/unit

c-test: setup ## the preload library's own tests
	@$(MAKE) --no-print-directory -C libfsocket check

sanity: setup ## ansible-test sanity with the oldest and the newest ansible-core
	@tools/sanity $(VENV_OLDEST) $(VENV)

kernel: setup ## our kernel on 2 to 24 emulated CPUs: the selftests, ours and its own; CPUS=2,4 for some
	@kernel=$$(tools/kernel lab) && $(PYTHON) -m pytest tests/kernel --kernel "$$kernel" $(if $(CPUS),--cpus $(CPUS))

test-kernel-debug: setup ## the same with lockdep, KASAN and PROVE_RCU, 4 CPUs; takes long, no part of `make test`
	@kernel=$$(tools/kernel debug) && $(PYTHON) -m pytest tests/kernel --kernel "$$kernel" --flavour debug $(if $(CPUS),--cpus $(CPUS))

integration: setup ## the tarball, and what needs the lab but no scenario
	@$(ROOT) $(PYTHON) -m pytest tests/integration

lab: setup ## the lab itself, containers and virtual machines
	@$(ROOT) $(PYTHON) -m pytest tests/lab

vm: setup ## the library in virtual machines: CPUs that go and come back, a NIC's own hash, a kernel of 2020
	@$(ROOT) $(PYTHON) -m pytest tests/vm

trials: setup ## kernels on trial in virtual machines with a real GRUB: what panics, hangs or is never committed comes back
	@$(ROOT) $(PYTHON) -m pytest tests/trials

molecule: setup ## every scenario in the lab; SCENARIOS="nic preload" for some
	@$(ROOT) tools/molecule $(SCENARIOS)

demo: setup ## the whole path: stock, rolled out, switched off, rolled back, in one table
	@$(ROOT) tests/demo/run

demo-kernel: setup ## one load balancer in a VM: stock kernel, ours, stock again, in the same table
	@$(ROOT) tests/demo/run kernel

bench: setup ## connections a second with the library against stock, in one table; no part of `make test`; ROUNDS=3
	@$(MAKE) --no-print-directory -C libfsocket bench

build: setup ## the collection's tarball in build/
	@tools/build build

hooks: setup ## run the quick checks before each commit
	@pre-commit install

clean: ## what builds and tests left in the tree
	@$(ROOT) rm -rf build .ansible .hypothesis
	@[ ! -e libfsocket/Makefile ] || $(MAKE) --no-print-directory -C libfsocket clean
