# Two commands are enough: `make demo` and `make test`. README has the plain pip lines.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint bench soak clean
demo: $(READY)
	$(BIN)/crawler demo --fresh
test: $(READY)
	$(BIN)/pytest -q -n 2 -m "not soak"
lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
bench: $(READY)
	$(BIN)/python -m benchmarks.transport && $(BIN)/python -m benchmarks.crawl --default-settings --split
soak: $(READY)
	$(BIN)/pytest -q -m soak
clean:
	rm -rf .venv

$(READY): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv -q --allow-existing .venv && uv pip install -q --python $(BIN)/python -e '.[test]'; \
	else \
	  $(PYTHON) -m venv .venv || { echo "venv is missing: apt-get install python3-venv"; exit 1; }; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'; \
	fi
	@touch $@
