# One study, one command, one report. `make help` lists what there is.
PROFILE ?= world
PYTHON  ?= python3
PY      ?= .venv/bin/python
NOTEBOOK ?=
LAB     ?=
MODEL   ?= world
EXTRAS  ?=
DATA    ?=
SET     ?=
OUT     ?=
REMOVE  ?=
PROFILES := $(filter-out defaults,$(notdir $(basename $(wildcard params/*.yaml))))
ifeq ($(filter new,$(MAKECMDGOALS)),)  # which makes one
ifneq ($(filter $(PROFILE),$(PROFILES)),$(strip $(PROFILE)))
$(error no profile named "$(PROFILE)" in params/; there are: $(PROFILES))
endif
endif
ifeq ($(strip $(PROFILE)),)
$(error PROFILE is empty; there are: $(PROFILES))
endif
EXTRA_NAMES := $(patsubst requirements-%.txt,%,$(wildcard requirements-*.txt))
ifneq ($(filter-out $(EXTRA_NAMES),$(EXTRAS)),)
$(error no extra named "$(filter-out $(EXTRA_NAMES),$(EXTRAS))"; there are: $(EXTRA_NAMES))
endif
export PYTHONPATH := $(CURDIR)
export DATA OUT

REPORT := reports/$(PROFILE)
NAMES := $(sort $(patsubst notebooks/%.ipynb,%,$(wildcard notebooks/[0-9][0-9]_*.ipynb)))
RUNS  := $(NAMES:%=$(REPORT)/notebooks/%.ipynb)
ifneq ($(shell find $(REPORT) -newermt now -print -quit 2>/dev/null),)  # the clock was set back
$(shell $(PY) -c 'import pathlib; from lib.core.freshness import date_back; date_back(pathlib.Path("$(REPORT)"))')
endif
READY := $(if $(filter .venv/%,$(PY)),.venv/.ready)
extra  = $(if $(READY),$(1:%=.venv/.%))
run   = $(PY) -m lib.core.run

.DEFAULT_GOAL := help
.PHONY: help new report notebooks export prune test soak lab env pdf brief compare bench status plan pretrained fetch clean lock stamps
.SECONDARY:

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1|/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'
	@echo "  PROFILE=$(PROFILE)   one of: $(PROFILES)"

report: $(REPORT)/report.html ## run what is stale and stitch reports/PROFILE/report.html

new: $(READY) ## write params/PROFILE.yaml for your own pictures (DATA=folder, zip or tar of class folders)
	@$(PY) -m lib.tools.new --profile "$(PROFILE)" --data "$$DATA"

notebooks: $(RUNS) ## run what is stale, without the page

test: $(READY) $(call extra,dask) ## all tests but the long ones
	@$(PY) -m pytest tests -n logical --maxprocesses 8 --no-loadscope-reorder

soak: $(READY) $(call extra,dask) ## the long tests: faults, fuzzing at length
	@DOORS=20 $(PY) -m pytest tests -m "soak or doors"

lab: $(READY) ## open JupyterLab on this machine only (NOTEBOOK=file to open one, LAB=more options)
	@$(PY) -m lib.core.lab $(if $(NOTEBOOK),"$(NOTEBOOK)") $(LAB)

env: $(READY) $(call extra,$(EXTRAS)) ## build the environment and check it (EXTRAS=dask to add what clusters need)
	@$(PY) -m lib.core.compute

pdf: $(REPORT)/report.html ## print the report through an installed Chromium
	@$(PY) -m lib.report.page pdf $(PROFILE)

brief: $(REPORT)/report.html ## the report on one sheet, A4 and A3, as HTML and PDF
	@$(PY) -m lib.report.page brief $(PROFILE)

compare: $(READY) ## what differs between two finished studies: A=world B=digits
	@$(PY) -m lib.report.page compare $(A) $(B)

bench: $(READY) ## speed comparisons (NAME=one of tests/bench), one JSON line each
	@$(PY) -m lib.tools.bench $(NAME)

status: $(READY) ## what is fresh and what is not, and why
	@$(run) status --profile $(PROFILE)

plan: $(READY) ## what PROFILE would make, how long it takes here, disk, and what is missing; makes nothing
	@$(PY) -m lib.core.plan --profile $(PROFILE)

pretrained: $(READY) ## train a shipped model again from nothing (MODEL=world or sd32; hours; resumes)
	@$(if $(filter sd32,$(MODEL)),$(PY) -m lib.tools.pretrain_sd32 $(if $(DATA),--data "$(DATA)"),$(PY) -m lib.tools.pretrain)
	@$(if $(filter sd32,$(MODEL)),:,$(PY) -m lib.tools.quality)

fetch: $(READY) ## download what PROFILE needs (models, data sets), resumable, hashes checked
	@$(PY) -m lib.core.fetch --profile $(PROFILE)

export: $(READY) ## write an image set of PROFILE as PNG class folders with a CSV (SET=di OUT=folder)
	@$(PY) -m lib.tools.export --profile $(PROFILE) --set "$(SET)" --out "$$OUT"

prune: $(READY) ## what no profile uses in the store, and how much it is; REMOVE=yes removes it
	@$(PY) -m lib.tools.prune $(if $(filter yes,$(REMOVE)),--remove)

clean: ## remove what runs of PROFILE left in reports/ (the store stays)
	rm -rf $(REPORT)

lock: $(READY) ## make requirements*.txt and environment.yml again from pyproject.toml
	@$(PY) -m lib.tools.lock

# --- the graph: data -> inversion -> generation -> training -> summary -> report --------------------------------------------------
done = $(1:%=$(REPORT)/notebooks/%.ipynb)

$(call done,02_inversion): $(call done,01_data)
$(call done,03_generation): $(call done,01_data 02_inversion)
$(call done,04_training): $(call done,01_data 03_generation)
$(call done,05_gradcam 06_geometry): $(call done,01_data 03_generation)
$(call done,05_gradcam): $(call done,04_training)
$(call done,07_representation): $(call done,01_data 03_generation 04_training)
$(call done,08_repair): $(call done,01_data 03_generation 04_training)
$(call done,00_summary): $(call done,$(filter-out 00_summary,$(NAMES)))

$(RUNS): $(REPORT)/notebooks/%.ipynb: $(REPORT)/stamps/%.json
	@$(run) notebook $* --profile $(PROFILE)

$(REPORT)/report.html: $(RUNS) $(REPORT)/stamps/report.json
	@$(PY) -m lib.report.page report $(PROFILE)

$(NAMES:%=$(REPORT)/stamps/%.json) $(REPORT)/stamps/report.json: stamps
	@:

stamps: $(READY)
	@$(PY) -m lib.core.freshness $(PROFILE)

# --- the environment: nothing but Python 3.11-3.13 is needed
.venv/.ready: requirements.txt
	@$(PYTHON) lib/tools/environment.py
	@touch $@

.venv/.%: requirements-%.txt .venv/.ready
	@.venv/bin/python lib/tools/environment.py $*
	@touch $@
