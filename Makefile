# Two commands do all the set-up: `make demo` and `make test`. `make check test` is exactly what CI runs.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed
SOURCES := services models tests benchmarks examples
PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos --python_out=services --pyi_out=services --grpc_python_out=services protos/headrace/*/*.proto
GENERATED := services/headrace/v1 services/headrace/keda
BASELINE := protos/baseline.binpb
IMAGE = $(BIN)/buf build protos --exclude-source-info -o

.PHONY: help setup demo demo-shadow serve test test-proofs test-scaling test-upgrades test-faults check format fuzz bench-setup bench scale-sim soak train protos protos-baseline clean chart-tools chart-test chart-docs image-test wheel-test sbom dist

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUN) ## Make .venv and install the pinned requirements

$(RUN): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed -c requirements.lock -e '.[replica,train,dev]'
	@touch $@

demo: $(RUN) ## Stream a simulated day of payments through a cluster on this machine (HEADRACE_DEMO_SECONDS bounds it)
	@$(BIN)/headrace demo

demo-shadow: $(RUN) ## Compare two challengers on simulated traffic: one takes over, one is refused (build/demo/experiment-*.html)
	@$(BIN)/headrace demo-shadow

serve: $(RUN) ## Serve the shipped models on 8001 (gRPC) and 8002 (metrics) until Ctrl-C
	@$(BIN)/headrace serve

test: TOOLS = --optional
test: chart-tools ## Run every test, but those that take minutes, which have targets of their own
	@$(BIN)/python -m pytest

test-proofs: $(RUN) ## Run what takes tens of seconds a test: cards of shipped models, simulated experiments, 100 promotions, 10,000 traces
	@$(BIN)/python -m pytest -m proof

test-scaling: $(RUN) ## Replicas follow the load on a Ray cluster of several nodes: a minute, on a machine that does nothing else
	@$(BIN)/python -m pytest -m scaling

test-upgrades: $(RUN) ## Ray clusters, versions and gateways are replaced under load, no request fails: a minute, on a machine that does nothing else
	@$(BIN)/python -m pytest -s -m upgrades

fuzz: $(RUN) ## Search for inputs that break what reads them, SECONDS (60) for each of eight targets, or for ONLY=codec (Linux, x86-64)
	@$(BIN)/python tests/fuzz/fuzz.py --seconds $(or $(SECONDS),60) $(addprefix --only ,$(ONLY))

test-faults: $(RUN) ## Break a whole cluster under load, fault by fault: minutes, on a machine that does nothing else; as root, all of it
	@$(BIN)/python -m pytest -s -m faults

check: $(RUN) ## Format, lint, types, import contracts, images, workflows, protos (lint, breaking changes, generated code in sync), spelling
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/hadolint services/Dockerfile
	@$(BIN)/shellcheck .ci/run
	@$(BIN)/zizmor --offline --no-progress --quiet .github
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/buf lint protos
	@$(BIN)/buf breaking protos --against $(BASELINE)
	@$(IMAGE) - | cmp -s - $(BASELINE) || (echo "$(BASELINE) is not what protos/ says: run make protos, commit" && false)
	@$(PROTOC)
	@git diff --exit-code -- $(GENERATED) || (echo "$(GENERATED) are not what protos/ generates: run make protos, commit" && false)
	@$(BIN)/codespell

format: $(RUN) ## Format the code and mend what ruff can
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

chart-tools: $(RUN) ## Fetch helm 4, helm 3 and kubectl for the tests of the chart: build/tools/ (Linux, x86-64)
	@$(BIN)/python tests/helm/tools.py $(TOOLS)

chart-test: chart-tools ## Run every test of the chart: hundreds of values, both helms, installs (HEADRACE_CRD_DIR: schemas of the CRDs)
	@$(BIN)/python -m pytest tests/helm tests/cluster/test_chart_serve.py -m ''

chart-docs: $(RUN) ## Regenerate the table in helm/headrace/README.md from the comments of values.yaml
	@$(BIN)/python -m tests.helm.readme

bench-setup: $(RUN) ## Make the peers' environments, once: build/bench/ (Ray Serve, MLServer, Triton)
	@$(BIN)/python benchmarks/environments.py

bench: $(RUN) ## Measure headrace beside its peers: build/bench/results.json, report.md (QUICK=1: within ten minutes)
	@$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick)

scale-sim: $(RUN) ## Replay a day, a sale and outages at up to 100,000 requests/s against each scaling policy: build/scale-sim (QUICK=1)
	@$(BIN)/python benchmarks/scale_simulation.py $(if $(QUICK),--quick)

soak: $(RUN) ## Load fraud-tx for MINUTES (default 10), memory must not grow; FAULTS=1: 80 % of capacity, random faults, nothing lost
	@$(BIN)/python benchmarks/$(if $(FAULTS),soak_faults.py,soak.py) --minutes $(or $(MINUTES),10)

train: $(RUN) ## Train MODEL (default fraud-tx) on simulated payments, or on EVENTS=file.csv|file.parquet
	@$(BIN)/headrace train --model $(or $(MODEL),fraud-tx) $(if $(EVENTS),--events $(EVENTS)) --out $(or $(OUT),build/models)

protos: $(RUN) ## Regenerate services/headrace/v1 and keda from protos/, and renew the baseline unless something breaks
	@$(BIN)/buf breaking protos --against $(BASELINE)
	@$(IMAGE) $(BASELINE)
	@$(PROTOC)

protos-baseline: $(RUN) ## The same, accepting what breaks (protos/README.md says when)
	@$(IMAGE) $(BASELINE)
	@$(PROTOC)

image-test: $(RUN) ## Build both images and try them (Docker, or buildah and debootstrap as root); takes minutes
	@$(BIN)/python -m pytest -m image -o faulthandler_timeout=0 tests/image

wheel-test: $(RUN) ## Build the wheel, install it alone, score a payment with it
	@$(BIN)/python -m pytest -m wheel -o faulthandler_timeout=0 tests/wheel

sbom: $(RUN) ## List what each image holds: build/sbom/*.json (CycloneDX)
	@$(BIN)/python services/sbom.py

dist: $(RUN) ## Build the source archive and the wheel: build/dist/
	@$(BIN)/python services/dist.py

clean: ## Remove what the targets made, the environment too
	@rm -rf build $(VENV)
