# Everything from a fresh clone: `make demo` runs the main job, `make test` the tests.
# Each makes the environment it needs; nothing but Python >= 3.11 and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PRESET ?= quick
JOBS ?= 2
# One experiment of each theory, the main ones of their posts.
DEMO := fourier_density/mixtures attention/language_model diffusion/snr diffusion/upsample_exact \
    diffusion/distill_mixture ssm/memory ssm/structure ssm/transfer
export NO_MKDOCS_2_WARNING := 1
# Keep bytecode whatever the shell says: without it every start compiles jax from source.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all test-optimised wheel devices lint format docs pages bench reliability audit ci lock clean help

demo: $(STAMP) ## one small experiment of each theory, their figures on a sheet, the report
	$(BIN)/python -m experiments reproduce --preset $(PRESET) --only $(DEMO) --jobs $(JOBS)

test: $(STAMP) ## the tests but for the slow ones and most cases of long lists of cases
	$(BIN)/python -m pytest -n 2 --dist loadscope

test-all: $(STAMP) ## every test, three quarters of an hour
	$(BIN)/python -m pytest -n 2 --dist loadscope --all

test-optimised: $(STAMP) ## the tests of `make test`, compiled with all optimisations as users do
	KEXUE_OPTIMISED=1 $(BIN)/python -m pytest -n 2 --dist loadscope

wheel: $(STAMP) ## build the wheel, install it into an environment of its own, run the tests from it
	rm -rf build dist && mkdir -p build/installed
	$(BIN)/uv build --quiet --wheel --out-dir dist --python $(BIN)/python
	$(BIN)/uv venv --quiet --python $(BIN)/python build/installed/venv
	$(BIN)/uv pip install --quiet --python build/installed/venv/bin/python -r requirements.lock dist/*.whl
	cp -r tests benchmarks docs results README.md CITATION.cff pyproject.toml build/installed
	rm build/installed/tests/test_*.py  # those read the sources
	cd build/installed && venv/bin/python -m pytest -n 2 --dist loadscope

devices: $(STAMP) ## the paper presets' steps at reduced width on eight virtual devices
	JAX_NUM_CPU_DEVICES=8 $(BIN)/python -m pytest -n 2 --all tests/experiments -k "two_steps or reduced_width"

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error

format: $(STAMP) ## put the code into house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## build the site into site/; warnings are errors
	$(BIN)/python -m mkdocs build --strict

pages: $(STAMP) ## write the generated pages of docs/ and the summary in README.md again
	$(BIN)/python -m docs.pages

bench: $(STAMP) ## all benchmarks into results/benchmarks; TORCH=path/to/python adds PyTorch
	$(BIN)/python -m benchmarks $(if $(TORCH),--torch $(TORCH))
	$(BIN)/python -m docs.pages

reliability: $(STAMP) ## all campaigns of faults, some ninety minutes; tables into results/reliability
	$(BIN)/python -m tests.reliability --output results/reliability

ci: lint test devices docs ## what continuous integration runs; test-all runs every night

audit: $(STAMP) ## known vulnerabilities of the locked packages; needs a network
	$(BIN)/uv tool run pip-audit --requirement requirements.lock --no-deps --disable-pip

lock: $(STAMP) ## resolve requirements.lock again for all supported Pythons
	$(BIN)/uv pip compile --universal setup.cfg --extra dev --extra docs -o requirements.lock -q

$(STAMP): requirements.lock setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || true
	if test -x $(BIN)/uv; then \
	    $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock && \
	    $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .; \
	else \
	    $(BIN)/python -m pip install --quiet -r requirements.lock && \
	    $(BIN)/python -m pip install --quiet --no-deps --editable .; \
	fi
	touch $(STAMP)

clean: ## remove the environment and everything built; runs/ and results/ stay
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10
