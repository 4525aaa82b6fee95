# The verbs of this repository. Each one installs what it needs into a cache outside of the checkout.
#   make demo CONTEXT=name REGISTRY=host/path    uses a cluster of your kubeconfig instead of the built-in one

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PYTHONPATH := $(CURDIR)/crds:$(CURDIR)/operator:$(CURDIR)/trainer_image:$(CURDIR)/tests
# Python keeps the byte code of what it imports, whatever this shell says: a trainer starts in half of the CPU time then.
unexport PYTHONDONTWRITEBYTECODE
export MYPY_CACHE_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/loraline/mypy

PYTHON_CODE := crds operator trainer_image tests docs charts
CONTEXT ?=
REGISTRY ?=
DEV = dev=$$(tests/tools/setup.sh dev | tail -1)

PLAN ?=
SAMPLE ?=
CHAOS ?=
CHANGES ?= 8
export LORALINE_CHANGES := $(CHANGES)
PAIRS ?= 60
RESUME ?=
SIZES ?= 100,1000,5000
ALONE ?= 100,1000,5000,20000

.PHONY: help demo demo-down test check parts faults bench-operator bench-gpu fmt generate lock

help: ## List these verbs.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: ## Fine-tune a real model on a real Kubernetes and chat with it (7 minutes; leaves the cluster up).
	@$(DEV); "$$dev/bin/python" -m demo $(if $(CONTEXT),--context "$(CONTEXT)") $(if $(REGISTRY),--registry "$(REGISTRY)")

demo-down: ## Remove the demo's cluster, or with CONTEXT=name what the demo made on that one.
	@$(DEV); "$$dev/bin/python" -m demo down $(if $(CONTEXT),--context "$(CONTEXT)")

# Three lanes for two cores, as most of them wait more than they compute; more of them starve each other. The chain has
# one to itself from the beginning: it is the longest, and what computes in its pods fills what the others leave.
CODE_LANE = ruff check . && ruff format --check . && mypy $(PYTHON_CODE) && lint-imports && pytest tests/unit tests/argocd
MODEL_LANE = pytest tests/trainer tests/switchboard
CHAIN_LANE = tests/images/build.sh && pytest tests/e2e
CLUSTER_LANE = pytest tests/cluster tests/faults
# One thread for a product in the lanes: two that wait for each other starve beside the others.
LANES = export PATH="$$dev/bin:$$PATH" OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE; python tests/tools/side_by_side.py

test: parts ## Run everything, on the built-in cluster (Linux, root; CHANGES=20 plays more version changes than 8).
	@tests/tools/setup.sh system; tests/tools/setup.sh k8s-node >/dev/null; tests/tools/setup.sh registry >/dev/null; \
	$(DEV); $(LANES) "chain=$(CHAIN_LANE)" "models=$(MODEL_LANE)" \
		"code=$(CODE_LANE) tests/api tests/operator && $(CLUSTER_LANE)"

check: parts ## Run what needs neither root nor a cluster: style, types, layers, unit tests, trainer and switchboard.
	@$(DEV); $(LANES) "code=$(CODE_LANE)" "models=$(MODEL_LANE)"

parts:
	@for part in dev vllm tools argocd; do tests/tools/setup.sh $$part >/dev/null; done

faults: ## Break the operator's world at every point (PLAN=id plays one again, SAMPLE=n some, CHAOS=minutes only kills, RESUME=1 the rest).
	@tests/tools/setup.sh system; $(DEV); "$$dev/bin/python" -m faults $(if $(RESUME),--resume) $(if $(PLAN),--plan "$(PLAN)",\
	$(if $(SAMPLE),--sample $(SAMPLE),$(if $(CHAOS),--chaos $(CHAOS),--pairs $(PAIRS) --manifests 1000 --chaos 10)))

bench-operator: ## Measure the operator beside a plain kopf operator (SIZES=100,... on a real API server, ALONE=100,... without).
	@tests/tools/setup.sh k8s-control-plane >/dev/null; tests/tools/setup.sh k8s-kwok >/dev/null; \
	$(DEV); "$$dev/bin/python" -m bench.operator --sizes "$(SIZES)" --alone "$(ALONE)"; \
	"$$(tests/tools/setup.sh plot | tail -1)/bin/python" tests/bench/operator/plot.py

bench-gpu: ## Time training beside TRL, Liger and Unsloth (one GPU, no network; ROWS=..., see docs/benchmarks.md).
	@"$(or $(PYTHON),python3)" -m bench.gpu $(if $(ROWS),--rows "$(ROWS)") $(BENCH)

fmt: ## Format the code.
	@$(DEV); "$$dev/bin/ruff" check --fix .; "$$dev/bin/ruff" format .

generate: ## Write what is generated: CRD YAML, the chart's copy of it, the field reference, Argo CD's patch, the policy's schema.
	@$(DEV); "$$dev/bin/python" -m loraline_api.crd crds; "$$dev/bin/python" -m loraline_api.crd charts/loraline/crds; \
	"$$dev/bin/python" docs/generate.py; "$$dev/bin/python" charts/argocd/generate.py; \
	"$$dev/bin/python" charts/generate_schema.py

lock: # pins the dependencies anew
	@tests/tools/lock.sh
