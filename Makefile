# Two commands set everything up: `make demo` and `make test`. Both start from a bare machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: demo test test-postgres test-slow lint serve migrate bench lock clean snorkel

demo: $(VENV)/.installed
	$(BIN)/tokensieve demo

test: $(VENV)/.installed $(VENV)/.vendor $(VENV)/.browser
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow"

test-slow: $(VENV)/.installed $(VENV)/.vendor
	$(BIN)/python -m pytest -q -m slow

test-postgres: $(VENV)/.installed $(VENV)/.vendor
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/with_postgres.sh $(BIN)/python -m pytest -q -m "not slow and not browser" tests/app

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy app labeling

serve: $(VENV)/.installed $(VENV)/.vendor
	$(BIN)/tokensieve serve

migrate: $(VENV)/.installed
	$(BIN)/python -c "from app.db import migrate; from app.settings import settings; migrate(settings())"

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.harvest --model data/assets/smollm2 --sae app/demo_data/smollm2-135m-block20 \
		--text data/demo-corpus/web.jsonl

# For one test: its dependencies conflict with ours, what LFAnalysis needs of them is here already.
snorkel: $(VENV)/.installed
	$(BIN)/pip install -q --no-deps --target .snorkel snorkel==0.10.0 munkres==1.1.4

# torch first, and alone: resolved together with the rest, pip may pick another build of it.
$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/pip install --disable-pip-version-check -q $(TORCH)
	$(BIN)/pip install --disable-pip-version-check -q -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.vendor: $(VENV)/.installed assets.toml
	$(BIN)/python -m app.vendor
	touch $@

# Debian's Chromium where apt is there, else the browser Playwright brings.
$(VENV)/.browser: $(VENV)/.installed
	command -v chromium >/dev/null || \
		{ command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q --no-install-recommends chromium; } || \
		$(BIN)/playwright install chromium
	touch $@

clean:
	rm -rf $(VENV) data
