# Each target is a short call of something that you can run without make.
SHELL := /bin/bash
FLEET ?= examples/local/fleet.yml
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH := $(CURDIR)/build/collections
# How long the long tests are: 1 in `make test`; `make soak` runs their full form.
export TEST_SCALE ?= 1

LOCAL_PROVIDER := ansible-playbook playbooks/local_provider.yml -e local_provider_cache_directory=$(CURDIR)/build/cache

.DEFAULT_GOAL := help
.PHONY: help setup demo verify destroy exec check lint sanity unit test mutations bench emulators soak clean lock pin-images

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## prepare this machine: .venv, and for the provider local an engine, host images and a registry
	@scripts/setup runtime
	@$(LOCAL_PROVIDER)

demo: setup ## rent the demo's hosts from the provider local, deploy, verify, report
	ansible-playbook -i $(FLEET) playbooks/site.yml

# What uses an earlier set-up instead of making one.
verify destroy exec: .venv/bin/ansible-playbook

.venv/bin/ansible-playbook:
	@echo "Nothing is set up in this checkout yet: run 'make setup' first." >&2; exit 1

verify: ## check the running demo (TAGS=kafka checks one service)
	ansible-playbook -i $(FLEET) playbooks/verify.yml $(if $(TAGS),--tags $(TAGS))

destroy: ## destroy the demo and prove that nothing is left
	@scripts/destroy "$(FLEET)"
	$(LOCAL_PROVIDER) -e local_provider_state=absent

# By the environment, and as it was written: neither make nor this machine's shell may read what is meant for the container.
exec: export EXEC_COMMAND = $(value CMD)
exec: ## a command inside a service's container: make exec HOST=kafka-1 SERVICE=kafka CMD='ls /opt'
	@scripts/exec "$(FLEET)" "$(HOST)" "$(SERVICE)" "$$EXEC_COMMAND"

check: ## lint, sanity and unit tests
	@scripts/setup dev
	@scripts/check

timed-%:
	@scripts/timed $* $(MAKE) --no-print-directory $*

lint:
	ruff check .
	ruff format --check .
	mypy -p ansible_collections.gpuops.fleet.plugins -p gpuops_telemetry
	mypy tests
	mypy molecule
	@# Programs that run by themselves, each in a place of its own.
	for file in $$(git ls-files 'roles/*/files/*.py' 'playbooks/files/*.py' 'scripts/*.py' ':!roles/processor/files/telemetry'); do \
		mypy "$$file" || exit; \
	done
	yamllint .
	ansible-lint --offline --profile production
	antsibull-changelog lint
	scripts/in-collection-tree antsibull-docs lint-collection-docs --plugin-docs --disallow-unknown-collection-refs .
	shellcheck $$(git grep -lE '^\#!.*\b(ba)?sh$$' -- scripts .ci 'roles/*/files')

sanity:
	scripts/sanity

unit:
	pytest -q --numprocesses 3 tests/unit

test: ## every test; begins by destroying the demo, and ends so
	@scripts/test

mutations: ## put the faults of docs/faults.md back, one by one: a test must see each
	@scripts/setup dev
	@scripts/mutations

bench: ## ratios against references, into build/bench.json (BENCH=--from-nothing times the first demo, too)
	@scripts/setup dev
	@$(LOCAL_PROVIDER)
	PYTHONPATH=tests:tests/e2e:roles/processor/files/telemetry:$(PYTHONPATH) python -m benchmarks \
		--base-image gpufleet/base:trixie $(BENCH)

emulators: ## emulated providers with real machines, until you press Ctrl-C (LIGHT=--light: without machines)
	@scripts/setup dev
	@$(if $(LIGHT),true,$(LOCAL_PROVIDER) -e local_provider_docker_image=true)
	@python -m tests.emulators $(LIGHT)

soak: ## the long forms of the tests
	@TEST_SCALE=10 scripts/test

pin-images: ## print every image of the roles with its digest, where a registry answers
	python scripts/pin_images.py

lock: ## refresh the lock files from requirements/*.in
	scripts/lock

clean: ## remove everything that was made here, caches too
	@scripts/clean
