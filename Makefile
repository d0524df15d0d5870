# Every target sets up what it needs; `make help` lists them.
SHELL := /bin/sh
PYTHON_TOOL := .venv/bin/python -m
.DEFAULT_GOAL := help
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH PYTEST_ADDOPTS MAKEFLAGS MFLAGS
.PHONY: image image-debug image-reproducible image-lock image-boot image-test vm-test help setup system wheelhouse demo up check test checklist conformance interop fuzz bench protos locks

help: ## this list
	@awk -F ' ## ' '/^[a-z-]+:.* ## / {sub(/:.*/, "", $$1); printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: ## the installed commands in .venv/bin, from the hashed lock
	@sh tools/setup.sh

system: ## setup, and the system packages that demo and tests can use
	@sh tools/setup.sh --system

wheelhouse: setup ## the TPM library's wheel, built from the hashed lock into build/wheelhouse
	@$(PYTHON_TOOL) tools.tpm_library

demo: system ## the main job on the embedded simulator, step by step
	@$(PYTHON_TOOL) tools.demo

up: system ## the demo's world left running, with commands to try
	@$(PYTHON_TOOL) tools.demo --keep

check: setup ## format, lint, types, generated code, architecture rules
	@$(PYTHON_TOOL) tools.check

test: system ## every test this machine can run; says last what it could not
	@$(PYTHON_TOOL) tools.run_tests

checklist: setup ## per page of docs/spec: the numbered checks that passing tests prove
	@$(PYTHON_TOOL) tools.checklist

conformance: setup ## the daemons as a black box; FIXTURES=DIR: vendors' real documents too
	@$(PYTHON_TOOL) tools.run_tests $(if $(FIXTURES),--documents "$(FIXTURES)") tests/conformance tests/documents

interop: system ## the tests against third-party programs alone
	@$(PYTHON_TOOL) tools.ttrpc_peers
	@$(PYTHON_TOOL) tools.run_tests tests/interop

fuzz: setup ## every fuzz target for FUZZ_SECONDS each (60)
	@$(PYTHON_TOOL) tools.fuzz --seconds $${FUZZ_SECONDS:-60}

bench: system ## the bars of docs/ARCHITECTURE.md, measured here
	@cd tests && ../.venv/bin/python -m bench.run

protos: setup ## regenerate guest/protos/*_pb2.py and compare
	@$(PYTHON_TOOL) tools.protos
	@$(PYTHON_TOOL) tools.protos --check

locks: setup ## recompile requirements/py3*.txt, each under its own Python
	@$(PYTHON_TOOL) tools.locks

image: system ## the pod VM image: podvm-image/build/production (as root); BINARIES=DIR: kata-agent and the like
	@cd podvm-image && ../.venv/bin/python -m podvm build $(if $(BINARIES),--binaries "$(abspath $(BINARIES))")

image-debug: system ## the same with a console and ssh, for looking inside; AUTHORIZED_KEYS=FILE: who may log in
	@cd podvm-image && ../.venv/bin/python -m podvm build --variant debug $(if $(AUTHORIZED_KEYS),--authorized-keys "$(abspath $(AUTHORIZED_KEYS))")

image-reproducible: setup ## as root: the image built twice, apart in everything but the commit, and compared
	@cd podvm-image && ../.venv/bin/python -m podvm.reproducible

image-lock: setup ## the image's Debian packages resolved anew
	@cd podvm-image && ../.venv/bin/python -m podvm lock
	@cd podvm-image && ../.venv/bin/python -m podvm.vm_module

image-boot: image-debug ## boot the debug variant under emulation and show its report
	@cd podvm-image && ../.venv/bin/python -m podvm boot

image-test: image ## smoke test: boot the production image and its variant with probes, assert S1 to S20 (as root)
	@cd podvm-image && ../.venv/bin/python -m podvm image-test

vm-test: system ## as root: tests that need device-mapper and the like, in an emulated machine; VM_TESTS=MARKERS
	@cd podvm-image && ../.venv/bin/python -m podvm.vm_test $(if $(VM_TESTS),-m "$(VM_TESTS)")
