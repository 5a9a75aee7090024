# The two commands: `make demo` sets everything up and runs the main job on real data,
# `make test` sets everything up and passes all tests.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready
# Files share the processors; a file's tests stay together, with what they share.
PARALLEL ?= -n $(shell nproc) --dist loadfile --no-loadscope-reorder
# The interpreter that has torch_aie or mindietorch, and vitaie with [builder,report].
ASCEND_PYTHON ?= python3
CPP_OPTIONS ?= -DVITAIE_WERROR=ON

.PHONY: help setup demo test test-light test-long test-device-env test-aarch64 browser picture cpp \
	cpp-test ascend-acceptance lint format bench schema clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY) ## a virtual environment with the builder, the runtime and the tools

$(READY): pyproject.toml constraints.txt scripts/setup.sh
	PYTHON="$(PYTHON)" sh scripts/setup.sh $(VENV) '.[builder,report,ray,demo,dev]' constraints.txt
	@touch $@

demo: setup ## train on digits, bundle, verify, classify; then one full-size model
	$(BIN)/python examples/demo.py

test: setup cpp-test browser ## all tests that fit 20 minutes on two cores, Python and C++
	$(BIN)/python -m pytest -q -m "not long" $(PARALLEL)

test-light: setup ## the runtime on Python 3.9, without torch
	sh scripts/test_light.sh $(BIN)/python $(PARALLEL)

test-long: setup cpp browser ## what does not fit; its last result is docs/test-long.md
	$(BIN)/python -m pytest -m long --durations=0

test-device-env: setup ## the vendor's environment: Python 3.9, torch 2.0.1, timm 0.6.13 (4.5 GB)
	sh scripts/test_device_env.sh $(BIN)/python $(PARALLEL)

browser: ## what tests look at pages with: Chromium
	sh scripts/setup_browser.sh

picture: setup browser ## README's picture: the demo's report, made anew
	$(BIN)/python -m tests.support.report_picture docs

test-aarch64: setup ## the C++ loader for 64-bit ARM, under an emulator; installs what it needs
	sh scripts/test_aarch64.sh $(BIN)/python

cpp: ## the C++ loader, in cpp/build
	sh scripts/setup_cpp.sh
	cmake -S cpp -B cpp/build -DCMAKE_BUILD_TYPE=Release $(CPP_OPTIONS)
	cmake --build cpp/build --parallel "$$(nproc)"

cpp-test: cpp ## the tests of the C++ loader that need no Python
	ctest --test-dir cpp/build --output-on-failure --parallel "$$(nproc)"

CPP_FILES = $(shell find cpp/include cpp/src cpp/tests cpp/tools -name '*.[ch]pp' -o -name '*.h')

lint: setup ## ruff, clang-format, mypy, pyright, import-linter
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

ascend-acceptance: ## on a machine with a card, with CHECKPOINTS=DIR DATA=DIR: all of it, packed to send back
	$(ASCEND_PYTHON) -m benchmarks.ascend --checkpoints "$(CHECKPOINTS)" --data "$(DATA)" $(ACCEPTANCE)

bench: setup ## speed and memory beside what a user would use instead
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.evaluate

schema: setup ## write the generated files anew: JSON Schemas
	$(BIN)/python -m vitaie.manifests.schema

clean:
	rm -rf $(VENV) .venv-light .venv-device build cpp/build
