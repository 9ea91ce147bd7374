# Every target sets itself up: Python >= 3.11 with pip, and make, are all it takes.
PYTHON ?= python3
ACCELERATOR ?= cuda
MINUTES ?= 30
PROCESSES ?= 2
SEED ?= 0
BIN := .venv/bin
STAMP := .venv/.installed
VIEWER := service/viewer/dist/.built
TYPES := service/viewer/src/openapi.ts
VIEWER_SOURCES := $(wildcard service/viewer/*.json service/viewer/*.ts service/viewer/index.html \
	service/viewer/src/* service/viewer/src/pages/*)

.DEFAULT_GOAL := help
.PHONY: help demo serve types viewer test proofs fuzz check benchmark docs screenshots container image \
	openrecon clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(STAMP) ## simulate, undersample, reconstruct and evaluate a scan
	$(BIN)/mri-posterior demo

serve: $(STAMP) ## the service with its viewer at http://127.0.0.1:8080/view
	@$(MAKE) --no-print-directory viewer || echo 'The viewer could not be built;' \
		'/view/plain shows pictures without it.' >&2
	$(BIN)/mri-posterior serve

types: $(STAMP) ## the viewer's types of the HTTP API, from the API itself
	$(BIN)/mri-posterior openapi | service/viewer/npm.sh --silent run types > $(TYPES).new
	mv $(TYPES).new $(TYPES)

viewer: $(VIEWER) ## the viewer's bundle, by npm (the machine's, or Node.js from PyPI)

test: check ## lint, types and all tests but the slow ones, PROCESSES=2 at a time
	@$(MAKE) --no-print-directory viewer || \
		echo 'The viewer could not be built: the tests that need it are skipped.' >&2
	@test ! -f $(VIEWER) || service/viewer/npm.sh test
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(PROCESSES) --dist loadfile

proofs: $(STAMP) ## the slow tests: servers started, killed, fuzzed and under load
	$(BIN)/python -m pytest -m slow

fuzz: $(STAMP) ## hostile files, streams, headers and requests for MINUTES=30, from SEED=0
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

check: $(STAMP) ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pre-commit validate-config .pre-commit-config.yaml

benchmark: $(STAMP) ## the tables and figures of the README
	$(BIN)/python -m benchmarks.scans
	$(BIN)/python -m benchmarks all

docs: $(STAMP) ## the documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

screenshots: $(STAMP) viewer ## the pictures of the viewer in docs/images (needs chromium)
	$(BIN)/python -m benchmarks.screenshots

container: .venv/.container ## check docker/: files, Dockerfile, image at work (Debian, root); CHECK=--static: files
	docker/check.sh $(CHECK)

image: ## build the image mri-posterior with Docker; ACCELERATOR=cpu for one without CUDA
	docker build --file docker/Dockerfile --tag mri-posterior --build-arg ACCELERATOR=$(ACCELERATOR) \
		--build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg CREATED=$$(git show --no-patch --format=%cI HEAD) .

openrecon: image docs ## pack that image for Siemens OpenRecon: dist/OpenRecon_….zip (needs Docker, chromium)
	mkdir -p dist
	chromium --headless --no-sandbox --disable-gpu --print-to-pdf=dist/openrecon.pdf \
		"file://$$PWD/site/scanners-and-hospitals/index.html"
	$(BIN)/python docker/openrecon/package.py --image mri-posterior --pdf dist/openrecon.pdf \
		--version $$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) --out dist

clean: ## remove caches, build output and demo output; keeps .venv and runs
	rm -rf build dist demo site service/viewer/dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find recon models service benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One pip call under the constraints: torch is pinned before anything that depends on it is
# resolved, so no dependency can pull another release (with its CUDA libraries).
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	@touch $@

.venv/.container: $(STAMP)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[container]'
	@touch $@

$(VIEWER): $(VIEWER_SOURCES) | $(STAMP)
	service/viewer/npm.sh ci
	service/viewer/npm.sh run build
	@touch $@

# The second way is for a Python whose venv module has no ensurepip (Debian's without python3-venv).
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'mri-posterior needs Python 3.11 or newer, and "$(PYTHON)" is not.' >&2; \
		echo 'Name another one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null && $(PYTHON) -m venv .venv || { \
		$(PYTHON) -m venv --without-pip .venv && \
		$(PYTHON) -m pip --python .venv/bin/python install pip; } || { rm -rf .venv; exit 1; }
