# Each target makes the virtual environment it needs; only Python 3.11+ and make must be there.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo docs test test-libvirt test-containers test-systemd test-deb soak lint model simulate mutants bench deb images image-pins up down system-deps
.PHONY: clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.embedded
	$(BIN)/etcdlock demo

# Two lanes: see tests/conftest.py.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(ARGS)

# A real libvirt on hosts in namespaces of their own, as root: some minutes.
test-libvirt: $(VENV)/.test
	$(BIN)/python -m pytest tests/libvirt $(ARGS)

# An hour of faults on real processes, as root; see docs/FAULTS.md. SEED=N puts them in an earlier run's order.
soak: SECONDS := 3600
soak: $(VENV)/.test
	$(BIN)/python -m tests.cluster --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

# The contract on etcd in containers, and the whole of docker-compose.yml: with Docker, or as root with Debian's docker.io.
test-containers: $(VENV)/.test
	$(BIN)/python -m pytest tests/containers $(ARGS)

# The trial cluster of docker-compose.yml: docs/CONTAINERS.md.
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

images:
	./deploy/build-images

up: images
	$(COMPOSE) up -d --no-build
	@for host in host-a host-b host-c; do $(COMPOSE) exec -T $$host vm ready || exit 1; done
	@echo "three hosts are ready: $(COMPOSE) exec host-a vm start vm1"

down:
	$(COMPOSE) down --volumes --remove-orphans --timeout 20

# What deploy/Dockerfile installs, pinned anew to the latest that pyproject.toml allows.
image-pins: $(VENV)/.pins
	cd deploy/image && CUSTOM_COMPILE_COMMAND="make image-pins" ../../$(BIN)/pip-compile -q --upgrade $(PINS) \
		--output-file requirements.txt ../../pyproject.toml
	cd deploy/image && CUSTOM_COMPILE_COMMAND="make image-pins" ../../$(BIN)/pip-compile -q --upgrade --allow-unsafe $(PINS) \
		--output-file build-requirements.txt build.in
PINS = --generate-hashes --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site, in site/; a link that leads nowhere fails it.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q docs site

# The lock protocol's model, searched exhaustively by spin: some minutes. ARGS=NAME shows how a weakening goes wrong.
model:
	@command -v spin >/dev/null && command -v gcc >/dev/null || { echo "needs spin and gcc: make system-deps" >&2; exit 1; }
	$(PYTHON) docs/model/check.py $(ARGS)

# Seeded schedules of whole clusters under trouble; a seed that fails is printed with the command that plays it again.
SEEDS ?= 100000
JOBS ?= $(shell nproc)
simulate: $(VENV)/.test
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

# Takes out, one by one, what keeps the promises; the simulation must show each. ARGS=NAME plants only that.
mutants: $(VENV)/.test
	$(BIN)/python -m tests.simulation.mutate --jobs $(JOBS) $(ARGS)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# What some tests need beyond Python, on Debian 12 and its relatives; as root, or with sudo.
system-deps:
	./deploy/system-deps

# One mark for each extra of pyproject.toml; made anew when that file changes.
$(VENV)/.%: pyproject.toml
	@test -n "$(PYTHON)" || { echo "etcdlock needs Python 3.11 or later on PATH" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "no virtual environment could be made: install python3-venv, or run 'make system-deps'" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

# The Debian package, in dist/.
deb:
	deploy/debian/build dist

# The package on a machine that boots with systemd: order, upgrades under guests, removal.
test-systemd: $(VENV)/.test
	$(BIN)/python -m pytest tests/deploy $(ARGS)

# The package in a fresh Debian 12 tree, with lintian; as root, with debootstrap and lintian installed.
test-deb: deb
	deploy/debian/try dist/*.deb

clean:
	rm -rf $(VENV) build dist site docs/reference/made .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
