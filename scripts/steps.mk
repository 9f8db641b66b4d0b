# The steps of `make test` between its set-up and its end. scripts/test has two of them run at a time, because each waits
# for a good part of its time: those of the demo one after another, and beside them, one after another, all others.
STEP := scripts/step
fleet := examples/local/fleet.yml
# 1, or more for the long form (`make soak`).
short := $(filter 1,$(TEST_SCALE))

# On hosts of the demo, because what is deployed already need not be deployed again; all others bring hosts of their own.
shared_scenarios := kafka mongodb vllm
# Half an hour in all, and the demo has most of these roles too.
long_scenarios := docker driver firewall gateway hardening monitoring processor toolkit
scenarios := $(patsubst molecule/%/molecule.yml,%,$(wildcard molecule/*/molecule.yml))

others := integration check own-hosts
.PHONY: steps demo e2e artifact make-room molecule destroy others $(others)
steps: destroy others

demo:
	@$(STEP) $@ ansible-playbook -i $(fleet) playbooks/site.yml

e2e: demo
	@$(STEP) $@ pytest -q --durations=20 tests/e2e $(if $(short),--ignore tests/e2e/test_rolling_upgrade.py)

# After e2e, which looks at a demo that nobody else uses, and breaks it.
artifact: e2e
	@$(STEP) $@ pytest -q tests/artifact

# The demo's other hosts make room.
make-room: artifact
	@$(STEP) $@ ansible-playbook -i $(fleet) playbooks/provision.yml --limit processor-1,producer-1 \
		-e fleet_instance_state=stopped

molecule: make-room
	@MOLECULE_SHARED_DEPLOYMENT=gpuops-demo $(STEP) $@ scripts/molecule $(shared_scenarios)

# At once, because the demo takes a sixth of this machine also when nobody looks at it.
destroy: molecule
	@$(STEP) $@ ansible-playbook -i $(fleet) playbooks/destroy.yml

# These have deployments of their own. One that fails holds up no other.
others:
	@status=0; for step in $(others); do $(MAKE) --file scripts/steps.mk --no-print-directory $$step || status=1; done; \
		exit $$status

integration:
	@$(STEP) $@ pytest -q --durations=15 --numprocesses 3 --dist loadfile tests/integration

own-hosts:
	@MOLECULE_JOBS=1 $(STEP) $@ scripts/molecule $(filter-out $(shared_scenarios) $(if $(short),$(long_scenarios)),$(scenarios))

check:
	@$(STEP) $@ $(MAKE) --no-print-directory check
