# make run    builds and serves on 127.0.0.1:8080      make build   the release program
# make test   installs what tests need, runs them all   make lint    formatting, clippy, licenses
# make bench  measures beside other sandboxes           make help    this text
# make test-vm  the engine's tests in a virtual machine  make fuzz SECONDS=60  each fuzz target for so long
# make soak MINUTES=60  random use and accidents, then a count of what is left
#
# CARGO_TARGET_DIR is respected. Settings: ADDR=127.0.0.1:8080  DATA=DIR  ARGS="more options of csb serve"

SHELL := /bin/bash
ADDR ?= 127.0.0.1:8080
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
CSB := $(TARGET)/release/csb

.PHONY: help run build test test-vm fuzz soak bench lint
help:
	@sed -n 's/^# \?//p;/^$$/q' Makefile

run:
	@scripts/prerequisites.sh run
	@cargo build --release --locked -p csb
	@exec $(CSB) serve --dev --listen $(ADDR) $(if $(DATA),--data-dir $(DATA)) $(ARGS)

build:
	@scripts/prerequisites.sh build
	cargo build --release --locked -p csb

# The tests that try the isolation need root, and say so where they are run without it.
test:
	@scripts/prerequisites.sh test
	cargo nextest run --workspace --locked --no-fail-fast
	scripts/fuzz.sh 3
	scripts/test-typescript.sh
	scripts/test-python.sh

# The engine's tests on another kernel, with cgroup v2 alone; see docs/guides/testing.md.
test-vm:
	@scripts/prerequisites.sh test-vm
	@scripts/test-vm.sh

# What reads foreign bytes, fed with any, so long for each target. `make test` does it for some seconds.
SECONDS = 60
fuzz:
	@scripts/prerequisites.sh fuzz
	@scripts/fuzz.sh $(SECONDS)

# Random use and accidents for so long, then a count of what is left. .ci/run does five minutes of it, `make test` none.
MINUTES = 60
soak:
	@scripts/prerequisites.sh soak
	cargo build --locked -p csb
	scripts/soak.py --minutes $(MINUTES)

bench:
	@scripts/prerequisites.sh bench
	cargo build --release --locked -p csb
	scripts/bench.sh $(CSB)

lint:
	@scripts/prerequisites.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo deny --locked check licenses bans sources
