# From a fresh clone, with Python >= 3.11 and make and nothing else:
#   make demo    installs, trains a VAE on handwritten digits, writes pictures
#   make test    installs what the tests need and runs them on JAX
# `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first Python >= 3.11 that can make a virtual environment; PYTHON= names another.
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUITABLE)' 2>/dev/null && { command -v $$p; break; }; done)

# On Linux the registry's newest torch brings several GB of CUDA. An exact version lets a CPU
# wheel that pip is told of (PIP_FIND_LINKS) win; TORCH= names another version or a wheel file.
TORCH ?= torch==2.13.0

EPOCHS ?=
RUN ?= runs/demo
# Without compiled files each process compiles what it imports: 12 s of CPU for Keras with JAX, more with
# TensorFlow and torch.
unexport PYTHONDONTWRITEBYTECODE
# What pytest is given besides: TESTS=tests/test_vae.py, PYTEST="-x -k shapes".
TESTS ?= tests
WORKERS ?= 2
PYTEST ?=
SEAM ?= --seam
# A process that crashes ends the run: with groups pytest-xdist waits for ever for the one in its place.
SPREAD = -n $(WORKERS) --max-worker-restart 0
# A file's tests run in one process (of the frame's a row's), which has compiled for them already.
pytest = -m pytest $(TESTS) $(SPREAD) --dist loadgroup $(PYTEST)
# XLA's compiling is most of the tests' time on JAX: what was compiled once is kept, and what runs
# for a moment isn't optimised.
# It lies where all clones find it: a second one compiles half as much.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/artifex-keras
ON_JAX = test devices slow across oldest newest notebooks examples-jax docs cv hub no-tensorflow
$(ON_JAX): export JAX_COMPILATION_CACHE_DIR := $(CACHE)/jax
$(ON_JAX): export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
test oldest newest docs cv no-tensorflow: export XLA_FLAGS := --xla_backend_optimization_level=0

.PHONY: examples examples-jax examples-tensorflow examples-torch help environments demo test devices lint format types wheel layers check check-all tensorflow torch cv hub no-tensorflow \
	oldest newest slow across notebooks docs benchmark mutants extras clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z -]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- environments: a folder each, made once, and again when pyproject.toml changes --------------

# The environment on top of which another one stands: what it lacks, it finds there.
BASE =

# Python compiles what is imported; of TensorFlow and torch that is a small part.
define environment
@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found: make PYTHON=/path/to/it" >&2; exit 1; }
@test -x $(@D)/bin/python || "$(PYTHON)" -m venv $(@D)
@test -z "$(BASE)" || $(@D)/bin/python .ci/on_top_of.py $(BASE)
@echo "Installing $(INSTALL) into $(@D)"
@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $(INSTALL)
@touch $@
endef

.venv/core: INSTALL = -e .
.venv/core: pyproject.toml
	$(environment)

.venv/dev: INSTALL = -e '.[dev]'
.venv/dev: .venv/core
	$(environment)

.venv-backends/torch: private BASE = .venv
.venv-backends/torch: INSTALL = '$(TORCH)'
.venv-backends/torch: .venv/dev
	$(environment)

.venv-backends/dev: INSTALL = -e '.[dev,tensorflow,torch,cv,gcs,mlflow]'
.venv-backends/dev: pyproject.toml .venv-backends/torch
	$(environment)

.venv-oldest/dev: private BASE = .venv
.venv-oldest/dev: INSTALL = -e '.[dev]' keras==3.15.0 jax==0.7.2 jaxlib==0.7.2
.venv-oldest/dev: pyproject.toml .venv/dev
	$(environment)

.venv-newest/dev: private BASE = .venv
.venv-newest/dev: INSTALL = -e '.[dev]'
.venv-newest/dev: pyproject.toml .venv/dev
	$(environment)

# As a user gets it: the built package with its core dependencies.
.venv-plain/core: INSTALL = .
.venv-plain/core: pyproject.toml
	$(environment)

# Several at once with -j.
environments: .venv/dev .venv/types .venv/build .venv-backends/hub .venv-oldest/dev .venv-newest/dev .venv-plain/core

# ---- what a person runs -------------------------------------------------------------------------

demo: .venv/core  ## train a VAE on handwritten digits (EPOCHS=20 RUN=runs/demo)
	.venv/bin/artifex-keras train vae --data digits --output $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS))

test: .venv/dev  ## the tests on JAX (TESTS=tests PYTEST="-x -k name")
	.venv/bin/python $(pytest)

# A pool with threads for all devices: where it has two, devices wait for each other for ever. So
# they do where a program's exchanges may come in another order on each device, which XLA's scheduler
# for concurrency allows.
devices hub: export XLA_FLAGS := --xla_force_host_platform_device_count=8 \
	--xla_cpu_enable_concurrency_optimized_scheduler=false --xla_backend_optimization_level=0
devices hub: export NPROC := 32
devices: .venv/dev  ## the tests on eight virtual devices and in several processes
	.venv/bin/python -m pytest tests/distributed $(SPREAD) $(PYTEST)

lint: .venv/dev  ## ruff
	.venv/bin/ruff check .

format: .venv/dev  ## what ruff can mend by itself
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.venv/types: INSTALL = -e '.[types]'
.venv/types: .venv/dev
	$(environment)

types: .venv/types  ## what a checker of types sees of the package (basedpyright)
	.venv/bin/basedpyright --pythonpath .venv/bin/python --level error tests/typing

layers: .venv/dev  ## imports go downwards only
	.venv/bin/python -m pytest tests/test_layers.py

check: lint types test devices  ## lint, types, tests on JAX

check-all: check no-tensorflow oldest tensorflow torch cv hub  ## check, with the other environments

tensorflow torch: .venv-backends/dev  ## what that backend can break (SEAM= for all tests)
	KERAS_BACKEND=$@ .venv-backends/bin/python $(pytest) $(SEAM)

cv: .venv-backends/dev  ## keras-cv's augmentations and U-Net, MLflow, SavedModels, and gcsfs, on JAX
	KERAS_BACKEND=jax .venv-backends/bin/python -m pytest tests/datasets/test_augmentation.py \
		tests/networks/test_stable_diffusion.py tests/test_tracking.py \
		tests/models/test_export.py tests/callbacks/test_gcs.py -m "slow or not slow" \
		$(SPREAD) --dist loadgroup $(PYTEST)

# Without what KerasHub only asks for in its pipelines of TensorFlow: `tensorflow-text` alone would
# hold the environment to one version of TensorFlow.
.venv-backends/hub: INSTALL = --no-deps 'keras-hub>=0.32' kagglehub kagglesdk regex
.venv-backends/hub: .venv-backends/dev
	$(environment)

hub: .venv-backends/hub  ## KerasHub's language models, on JAX and its eight virtual devices
	KERAS_BACKEND=jax .venv-backends/bin/python -m pytest tests/rl/test_hub.py \
		tests/models/test_causal_lm.py tests/distributed/test_hub_rollouts.py $(SPREAD) $(PYTEST)

oldest: .venv-oldest/dev  ## what keras 3.15.0 with jax 0.7.2 can break (SEAM= for all tests)
	.venv-oldest/bin/python $(pytest) $(SEAM)

# Keras's private names first, by name; then what our step makes of its loop. May fail: it tells early
# what the next version will ask of us.
newest: .venv-newest/dev  ## the newest Keras that the index offers, pre-releases too
	.venv-newest/bin/python -m pip install --quiet --upgrade --pre keras
	KERAS_BACKEND=jax .venv-newest/bin/python -c 'import keras; print("keras", keras.__version__)'
	.venv-newest/bin/python -m pytest $(SPREAD) tests/backend tests/models/test_frame.py \
		tests/callbacks/test_checkpoint.py -k "internals or seam or fitting or vae-everything or to_the_bit" \
		$(PYTEST)

.venv/build: INSTALL = build 'hatchling>=1.27'
.venv/build: .venv/dev
	$(environment)

wheel: .venv/build  ## sdist and wheel, into build/dist, and what is in them
	.venv/bin/python .ci/wheel.py build/dist

extras: wheel  ## versions that agree with each extra, by pip's dry run (no leg of .ci/run)
	.venv/bin/python .ci/extras.py build/dist

no-tensorflow: .venv-plain/core wheel  ## the wheel without extras: import, training, shell
	.venv-plain/bin/python -m pip install --quiet --no-deps --force-reinstall build/dist/*.whl
	.venv-plain/bin/python .ci/plain.py

across: .venv-backends/dev  ## a file of each backend trains on each, all families (no leg of .ci/run)
	KERAS_BACKEND=jax .venv-backends/bin/python -m pytest tests/models/test_across_backends.py -m slow $(PYTEST)

slow: .venv/dev  ## the learning runs: numbers that trained models reach
	.venv/bin/python $(pytest) -m slow

notebooks: .venv/dev  ## every notebook, at a small setting
	.venv/bin/python -m pytest tests/test_notebooks.py -m notebooks $(SPREAD) $(PYTEST)

examples: examples-jax examples-tensorflow examples-torch  ## keras.io's examples, on three backends

run_examples = -m pytest tests/test_keras_io.py -m examples $(SPREAD) $(PYTEST)
examples-jax: .venv/dev  ## the same, on JAX alone
	KERAS_BACKEND=jax .venv/bin/python $(run_examples)

# A thread each: more would wait for each other on the cores of two workers.
examples-tensorflow examples-torch: export OMP_NUM_THREADS := 1
examples-tensorflow examples-torch: .venv-backends/dev
	KERAS_BACKEND=$(@:examples-%=%) .venv-backends/bin/python $(run_examples)

.venv/docs: INSTALL = -e '.[docs]'
.venv/docs: .venv/dev
	$(environment)

docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/docs  ## the site, into build/site, and the examples on its pages
	.venv/bin/mkdocs build --quiet --strict
	.venv/bin/python -m pytest tests/test_site.py tests/test_gallery.py -m site -n $(WORKERS) $(PYTEST)

record:  ## run the long ones whole, and note for .ci/run on which code they passed
	$(MAKE) slow PYTEST=--record
	$(MAKE) notebooks PYTEST=--record
	$(MAKE) examples PYTEST=--record

benchmark: .venv/dev  ## speed beside hand-written steps and Keras's own
	.venv/bin/python -m benchmarks

mutants: .venv/dev  ## which faults of one line the tests notice (ONLY=name)
	.venv/bin/python -m benchmarks.mutants $(if $(ONLY),--only $(ONLY))

clean:  ## environments and caches, not your runs
	rm -rf .venv .venv-* .cache $(CACHE)/jax .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
