# sniffer: `make help` lists the targets. On a fresh Debian or Ubuntu machine, `make demo` and `make test` need root,
# git and make; they fetch everything else themselves, once.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
ISOLATED := scripts/isolated

# The compiler and the strip of one LLVM: 19 where it is, else the newest. Looked for when a recipe runs: a first run
# has just installed it.
CLANG = $(call newest,clang)
STRIP = $(call newest,llvm-strip)
newest = $(shell for version in 19 $$(seq 30 -1 14); do command -v $(1)-$$version && exit; done; command -v $(1))
SYSTEM_HEADERS := /usr/include/$(shell uname -m)-linux-gnu
ISA := v2
BPF_CFLAGS = -O2 -g -target bpf -mcpu=$(ISA) -Wall -Wextra -Werror -I$(SYSTEM_HEADERS) -Ibpf \
	'-ffile-prefix-map=$(CURDIR)=.'
HEADERS := $(wildcard bpf/*.h)
# The product's object, and those that tests and bench load beside it (build/tests/bpf/x.bpf.o of tests/bpf/x.bpf.c).
OBJECT := build/sniffer.bpf.o
CAPTURE := build/capture.bpf.o
# What the package has of them: themselves, and their digests, without which nothing is loaded.
PACKAGED := $(foreach suffix,.o .o.sha256,sniffer/kernel/sniffer.bpf$(suffix) sniffer/kernel/capture.bpf$(suffix))
# The product's source in other instructions: what an upgrade brings, in tests.
SUCCESSOR := build/successor/sniffer.bpf.o
OBJECTS := $(OBJECT) $(CAPTURE) $(SUCCESSOR) $(patsubst %.c,build/%.o,$(wildcard tests/bpf/*.bpf.c tests/*/bpf/*.bpf.c bench/*.bpf.c))

PYTHON_PATHS := sniffer $(wildcard tests bench demo)
C_SOURCES := $(wildcard bpf/*.[ch] sniffer/cli/*.c tests/bpf/*.[ch] tests/*/bpf/*.[ch] bench/*.[ch])

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: root build ## real traffic between two namespaces, mirrored to an analyzer in a third (root)
	@$(ISOLATED) $(BIN)/python -m demo

.PHONY: test
test: root lint build $(if $(or $(if $(TESTS),,all),$(findstring cluster,$(TESTS))),cluster-build) $(if $(or $(if $(TESTS),,all),$(findstring netns,$(TESTS))),analyzers) ## lint, then every test (root); TESTS='tests/netns -k vlan' runs some
	@$(if $(TESTS),$(ISOLATED) $(BIN)/python -m pytest $(TESTS),scripts/tests)

.PHONY: test-unit
test-unit: build ## the tests that need neither root nor a kernel
	@$(BIN)/python -m pytest tests/unit $(TESTS)

.PHONY: test-kernel
test-kernel: root build kernels ## a reduced suite on another kernel, in QEMU: KERNEL=5.10, 6.1, 6.12 or newest (docs/kernels.md)
	@tests/kernels/run $(KERNEL) $(TESTS)

.PHONY: cluster
cluster: root build cluster-tools ## a shell in a running cluster of two nodes with sniffer installed (root)
	@$(ISOLATED) $(BIN)/python -m tests.cluster.shell

.PHONY: kernels
kernels: root
	@scripts/packages packages.apt kernels

.PHONY: analyzers
analyzers: root
	@scripts/packages packages.apt analyzers
	@tests/zeek >/dev/null || [ $$? -eq 4 ]

# What a cluster takes.
.PHONY: cluster-tools
cluster-tools: root
	@scripts/packages packages.apt cluster
	@tests/cluster/build >/dev/null
	@tests/cluster/image >/dev/null

# And what its tests take.
.PHONY: cluster-build
cluster-build: cluster-tools
	@tests/cluster/build prometheus >/dev/null
	@tests/cluster/image arm64 >/dev/null
	@tests/cluster/image trace >/dev/null

.PHONY: bench
bench: root build ## what a copy costs, as a table of ratios (root)
	@$(ISOLATED) $(BIN)/python -m bench

.PHONY: build
build: $(VENV)/.installed $(OBJECTS) $(PACKAGED) ## the BPF objects and .venv/bin/sniffer

.PHONY: lint
lint: $(VENV)/.installed | build/ ## ruff, mypy, import-linter, clang-format
	@echo "Checking style, types and dependencies"
	@failed=0; \
	$(BIN)/ruff check --quiet $(PYTHON_PATHS) || failed=1; \
	$(BIN)/ruff format --check --quiet $(PYTHON_PATHS) || failed=1; \
	$(BIN)/mypy --no-error-summary $(wildcard sniffer bench demo) || failed=1; \
	$(BIN)/lint-imports --no-logo >build/imports.log 2>&1 || { cat build/imports.log; failed=1; }; \
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES) || failed=1; \
	(( failed == 0 )) || { echo "sniffer: lint found something (\`make format\` mends layout)." >&2; exit 1; }

.PHONY: format
format: $(VENV)/.installed ## layout of Python and C, as lint wants it
	@$(BIN)/ruff check --quiet --fix-only $(PYTHON_PATHS)
	@$(BIN)/ruff format $(PYTHON_PATHS)
	@$(BIN)/clang-format -i $(C_SOURCES)

.PHONY: lock
lock: | packages ## requirements.lock anew from pyproject.toml; UPGRADE=1 takes the newest versions
	@PYTHON="$(PYTHON)" scripts/lock $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## removes what was built
	@rm -rf build dist $(VENV) $(PACKAGED) .*_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

.PHONY: root
root:
	@(( $$(id -u) == 0 )) || { echo "sniffer: \`make $(firstword $(MAKECMDGOALS))\` makes network namespaces and loads programs into the kernel: run it as root." >&2; exit 1; }

.PHONY: packages
packages:
	@scripts/packages packages.apt base

# The first Python that is new enough, the machine's own before others.
PYTHON = $(shell for python in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

$(VENV)/.installed: requirements.lock pyproject.toml | packages
	@[[ -n "$(PYTHON)" ]] || { echo "sniffer: needs Python 3.11 or later with venv; found $$(python3 --version 2>&1)." >&2; exit 1; }
	@echo "Installing Python packages into $(VENV), half a minute"
	@$(BIN)/python -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

define compile
@mkdir -p $(@D)
@[[ -n "$(CLANG)" ]] || { echo "sniffer: found no clang." >&2; exit 1; }
@echo "Compiling $<"
@$(CLANG) $(BPF_CFLAGS) -c $< -o $@
@$(if $(STRIP),$(STRIP) -g $@,echo "sniffer: found no llvm-strip: $@ keeps its DWARF")
endef

build/:
	@mkdir -p $@

$(OBJECT) $(CAPTURE): build/%.bpf.o: bpf/%.bpf.c $(HEADERS) Makefile | packages
	$(compile)

# The same with arm64's headers, on any machine that has linux-libc-dev-arm64-cross: it is the same to the byte.
build/aarch64/%.bpf.o: SYSTEM_HEADERS := /usr/aarch64-linux-gnu/include
build/aarch64/%.bpf.o: bpf/%.bpf.c $(HEADERS) Makefile | packages
	$(compile)

$(SUCCESSOR): ISA := v3
$(SUCCESSOR): bpf/sniffer.bpf.c $(HEADERS) Makefile | packages
	$(compile)

build/%.bpf.o: %.bpf.c $(HEADERS) Makefile | packages
	$(compile)

.PHONY: packaged
packaged: $(PACKAGED)

sniffer/kernel/%.bpf.o: build/%.bpf.o
	@install -m 644 $< $@

sniffer/kernel/%.bpf.o.sha256: build/%.bpf.o
	@(cd $(<D) && sha256sum $(<F)) >$@
