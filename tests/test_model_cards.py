"""Cards say what files say: their figures are those of the results, their code runs, an unfinished one is refused."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import FlowMatchEulerDiscreteScheduler
from huggingface_hub import ModelCardData
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaModel

from granted import GrantedModel
from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.reading import read_ted
from granted.eval_metric.results import Result, provenance
from granted.model_cards.cards import metric_card, model_card, pipeline_card
from granted.model_cards.figures import at_chance, feature_name
from granted.model_cards.kinds import KINDS
from granted.model_cards.validation import validate_card
from granted.pipeline_granted import GrantedLumina2Pipeline, GrantedWanPipeline
from granted.publishing.checks import check_folder
from granted.tests.fresh_process import run_without_package
from granted.tests.tiny_models import image_transformer, video_transformer
from granted.utils.citation import bibtex
from granted.utils.errors import InputError


ROOT = Path(__file__).parents[1]
SHAPES, STAGE_2 = ROOT / "results/stage2/simple/shapes.json", ROOT / "results/stage2/training_record.json"
VQA, STAGE_1 = ROOT / "results/tiny/vqa.json", ROOT / "results/miniature/vqa_training_record.json"


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder) -> GrantedModel:
    model = GrantedModel.from_encoder(tiny_encoder_folder, fusion="learned")
    model.config.encoder_name_or_path, model.config.encoder_config._name_or_path = None, ""
    torch.manual_seed(0)
    torch.nn.init.normal_(model.fusion.weights)
    return model


@pytest.fixture(scope="module")
def release(encoder, tmp_path_factory) -> Path:
    """All five folders, built and with their cards."""
    root = tmp_path_factory.mktemp("release")
    encoder.save_pretrained(root / "granted")
    (root / "granted" / "README.md").write_text(model_card(root / "granted", license="apache-2.0", revision="v1"))

    scheduler = FlowMatchEulerDiscreteScheduler()
    GrantedLumina2Pipeline(image_transformer(), scheduler, None, encoder, None).save_pretrained(
        root / "granted-lumina2"
    )
    GrantedWanPipeline(video_transformer(), scheduler, None, encoder, None).save_pretrained(root / "granted-wan")
    sizes = {"height": 8, "width": 8, "num_inference_steps": 2}
    shared = {"encoder_repo": "granted", "license": "apache-2.0", "revision": "v1"}
    for name, call in (("granted-lumina2", sizes), ("granted-wan", {"num_frames": 3, **sizes})):
        record = tmp_path_factory.mktemp(name) / "record.json"
        record.write_text(json.dumps({"settings": call, "steps": 1}))
        card = pipeline_card(root / name, repo_id=name, training_record=record, **shared)
        (root / name / "README.md").write_text(card)

    (root / "ted_accuracy").mkdir()
    for name in ("ted_accuracy.py", "app.py", "requirements.txt"):
        shutil.copy(ROOT / "eval_metric" / "ted_accuracy" / name, root / "ted_accuracy")
    (root / "ted_accuracy" / "README.md").write_text(metric_card(root / "ted_accuracy", revision="v1"))

    records, info = read_ted("sample")
    export_dataset(records, root / "ted-6k", config_name=info["config"], source_note="By hand.", revision="v1")
    return root


FOLDERS = {
    "granted": "model",
    "ted-6k": "dataset",
    "ted_accuracy": "metric",
    "granted-lumina2": "pipeline",
    "granted-wan": "pipeline",
}
EACH = pytest.mark.parametrize("name", FOLDERS)


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n", 2)[1])


def python_of(card: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL))


# ---------------------------------------------------------------------------------------------------- the five folders


@EACH
def test_a_built_folder_passes_every_check_with_its_card(release, name):
    validate_card((release / name / "README.md").read_text(encoding="utf-8"), FOLDERS[name])
    check_folder(release / name, FOLDERS[name])


PROGRAM = """
import runpy

for block in sys.argv[1:]:
    runpy.run_path(block)  # each knows nothing of the others' names
    assert "granted" not in sys.modules, block
"""


def test_every_line_of_python_in_the_cards_runs_in_a_fresh_process_without_this_package(release, tmp_path):
    blocks = []
    for name in FOLDERS:
        shutil.copytree(release / name, tmp_path / name)
        blocks.append(tmp_path / f"of_{name.replace('-', '_')}.py")
        blocks[-1].write_text(python_of((release / name / "README.md").read_text(encoding="utf-8")))
    run_without_package(PROGRAM, tmp_path, *blocks)
    assert (tmp_path / "image.png").is_file() and (tmp_path / "video.gif").is_file()


@EACH
def test_a_card_tells_the_sha256_of_every_python_file_and_how_to_pin_them(release, name):
    card = (release / name / "README.md").read_text(encoding="utf-8")
    for path in (release / name).rglob("*.py"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card, path
    assert "v1" in card and "hash of a commit" in card


@EACH
def test_metadata_is_complete_and_is_what_huggingface_hub_reads(release, name):
    metadata = front((release / name / "README.md").read_text(encoding="utf-8"))
    assert all(metadata[key] for key in KINDS[FOLDERS[name]].metadata)
    if name.startswith("granted"):
        assert metadata["library_name"] == ("transformers" if name == "granted" else "diffusers")
        assert ModelCardData(**metadata).to_dict() == metadata


@pytest.mark.parametrize("name", ["granted", "granted-lumina2", "granted-wan"])
def test_cards_without_results_say_so_and_give_no_figure_of_any(release, name):
    make, options = (model_card, {}) if name == "granted" else (pipeline_card, {"encoder_repo": "granted"})
    card = make(release / name, repo_id=name, license="apache-2.0", **options)
    assert "has not been scored" in card and "No training record came with" in card
    assert "model-index" not in front(card) and "[" not in card.partition("## Scores")[2].partition("## Limits")[0]


# ------------------------------------------------------------------------------------------------ figures of the files


def ted_result(feature: str, seed: int | None, right: list[bool], config: str = "synthetic", encoder: str = "mine"):
    """A result on as many instances, of which the given ones are answered rightly."""
    items = [
        {
            "id": f"{i}/ocr",
            "caption_id": str(i // 2),
            "category": "OCR",
            "media": "image",
            "label": 0,
            "scores": [0.9, 0.1] if hit else [0.1, 0.9],
        }
        for i, hit in enumerate(right)
    ]
    dataset = {
        "name": "ted-6k",
        "config": config,
        "fingerprint": config * 2,
        "instances": len(items),
        "captions": len({item["caption_id"] for item in items}),
    }
    baselines = {
        name: {"accuracy": accuracy, "categories": {"OCR": accuracy}, "media": {"image": accuracy}}
        for name, accuracy in (("chance", 0.5), ("word_overlap", 0.625), ("tfidf_cosine", 0.375))
    }
    where = provenance(device="cpu", dtype="float32", seconds=1.0, tokens=10, seed=seed)
    where["aggregator"] = {"pairs": {"training": 1234, "held_out": 5}} if seed is not None else None
    where["parameters"] = {"encoder": 100, "aggregator": 6}
    pooling = "aggregator" if seed is not None else "mean"
    return Result(encoder, feature, pooling, seed, items, dataset, where, baselines)


@settings(deadline=None, max_examples=12)
@given(right=st.lists(st.booleans(), min_size=2, max_size=12), other=st.randoms())
def test_ted_figures_of_a_card_are_those_of_the_results(release, tmp_path_factory, right, other):
    folder = tmp_path_factory.mktemp("results")
    results = [
        ted_result("frozen_granted", 0, right),
        ted_result("frozen_granted", 1, other.sample(right, len(right))),
        ted_result("last", 0, right[::-1]),
        ted_result("frozen_granted", None, right),
        ted_result("learned", 0, right),
    ]
    paths = [result.save(folder) for result in results]
    card = model_card(release / "granted", license="apache-2.0", ted_results=paths)
    validate_card(card, "model")
    first, second, last, plain, _ = results
    told = ModelCardData(**front(card)).eval_results
    assert {result.metric_name for result in told} == {
        "TED accuracy (learned layer weights, frozen, aggregator)",
        "TED accuracy (learned layer weights, frozen, mean)",
    }, "the metadata are of this model's feature alone"
    by_pooling = {result.metric_name.split(", ")[-1][:-1]: result for result in told}
    assert by_pooling["aggregator"].metric_value == pytest.approx((first.accuracy + second.accuracy) / 2)
    assert by_pooling["aggregator"].metric_args["seeds"] == 2
    assert by_pooling["mean"].metric_value == plain.accuracy
    assert by_pooling["mean"].metric_args["ci95"] == plain.summary()["ci95"]
    low, high = last.summary()["ci95"]
    row = f"| mine | last | aggregator | {100 * last.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}] | 1 | 0 |"
    assert row in card
    for line in (
        "| *Chance* | – | – | *50.0* |",
        "| *Word overlap* | – | – | *62.5* |",
        "*TF-IDF cosine*",
        "1,234 pairs",
    ):
        assert line in card
    assert "no scores on TED-6K" in card


def test_results_on_several_data_sets_get_a_table_each_and_never_pass_for_the_official_one(release, tmp_path):
    configs = ("custom", "synthetic", "official", "sample")
    paths = [ted_result("frozen_granted", 0, [True, False, True], config).save(tmp_path) for config in configs]
    card = model_card(release / "granted", license="apache-2.0", ted_results=paths, ted_repo="somebody/ted-6k")
    titles = re.findall(r"^### (.*)", card, re.MULTILINE)
    assert titles == [
        "TED-6K",
        "TED sample (no part of TED-6K)",
        "TED synthetic (no part of TED-6K)",
        "TED custom (not the whole TED-6K)",
    ]
    assert card.count("no scores on") == 3
    told = ModelCardData(**front(card)).eval_results
    assert {result.dataset_type for result in told} == {"somebody/ted-6k"}
    assert sorted(result.dataset_config for result in told) == ["default", "default", "official", "synthetic"]


@pytest.mark.parametrize(
    ("right", "claim"), [([True, False] * 8, "any better than chance"), ([True] * 16, "is what TED measures")]
)
def test_vectors_are_offered_for_what_they_are_scored_at_and_features_have_the_names_people_read(
    release, tmp_path, right, claim
):
    folder = Path(shutil.copytree(release / "granted", tmp_path / "granted"))
    (folder / "modules.json").write_text("[]")
    (folder / "context_aggregator").mkdir()
    paths = [ted_result(feature, 0, right).save(tmp_path) for feature in ("frozen_granted", "norm_avg")]
    save_file({"weight": torch.zeros(7)}, folder / "context_aggregator/model.safetensors")
    card = model_card(folder, license="mit", ted_results=paths)
    assert "has not been measured" in card and claim not in card, "another aggregator was scored"
    save_file({"weight": torch.zeros(6)}, folder / "context_aggregator/model.safetensors")
    card = model_card(folder, license="mit", ted_results=paths)
    assert claim in card and "frozen_" not in card and "| learned layer weights, frozen | aggregator |" in card
    (told,) = ModelCardData(**front(card)).eval_results
    assert told.metric_name == "TED accuracy (learned layer weights, frozen, aggregator)"
    paths.append(ted_result("frozen_other", 0, right).save(tmp_path))
    assert "learned layer weights, frozen (other)" in model_card(folder, license="mit", ted_results=paths)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "norm_avg"),
        ({"layers": [0, 1, 2, 3]}, "norm_avg"),
        ({"layer_norm": "layer_norm"}, "norm_avg"),
        ({"fusion": "single", "layer_index": -3}, "layer_1"),
        ({"fusion": "single", "layer_index": 3}, "last"),
        ({"fusion": "signed"}, ""),
        ({"fusion": "stack"}, ""),
        ({"layers": [0, 1]}, "norm_avg_first_2"),
        ({"layers": [1, 2]}, ""),
        ({"layers": [0, 1], "fusion": "avg"}, ""),
        ({"embeddings": True}, ""),
        ({"layer_norm": "none"}, "avg"),
        ({"num_outputs": 2, "fusion": "learned"}, ""),
        ({"projection_dim": 8}, ""),
        ({"fusion": "single", "layer_index": -2}, "penultimate"),
        ({"fusion": "single", "layer_index": 1}, "layer_1"),
        ({"fusion": "learned"}, "learned"),
    ],
)
def test_a_score_is_of_the_very_feature_that_a_model_computes(tiny_encoder_folder, options, name):
    config = GrantedModel.from_encoder(tiny_encoder_folder, **{"fusion": "norm_avg"} | options).config
    assert feature_name(config) == name
    config.standardize = True
    assert feature_name(config) == "", "results are of features as they are"


@pytest.mark.parametrize(
    ("options", "shape", "layers"),
    [
        ({"fusion": "concat", "layers": [1, 3]}, "tokens, 64", "| 1, 3 |"),
        ({"fusion": "stack", "layers": [0, 1, 3]}, "3, tokens, 32", "| 0, 1, 3 |"),
        ({"fusion": "learned", "num_outputs": 2}, "2, tokens, 32", "| all 4 |"),
        ({"fusion": "norm_avg", "embeddings": True}, "tokens, 32", "| the embeddings and all 4 |"),
    ],
)
def test_shapes_of_a_card_are_those_that_come_out(tiny_encoder_folder, tmp_path, options, shape, layers):
    model = GrantedModel.from_encoder(tiny_encoder_folder, **options)
    model.save_pretrained(tmp_path)
    card = model_card(tmp_path, license="mit")
    assert f"one ({shape}) tensor" in card and f"# (prompts, {shape}), zeros" in card and layers in card
    (features,) = model.encode(["a red cube"])
    assert shape.replace("tokens", str(features.shape[-2])) == ", ".join(map(str, features.shape))


def test_a_score_whose_interval_holds_chance_is_at_chance():
    answers = [True, True, False, False] * 4 + [True, True]
    assert at_chance([ted_result("norm_avg", 0, answers)], "norm_avg")  # 10 of 18
    assert not at_chance([ted_result("norm_avg", 0, [True] * 16)], "norm_avg")


def test_results_without_what_is_optional_are_shown(release, tmp_path):
    result = ted_result("frozen_granted", 0, [True, False, True])
    for name in ("parameters", "settings"):
        result.provenance.pop(name, None)
    card = model_card(release / "granted", license="mit", ted_results=[result.save(tmp_path)])
    assert "### TED synthetic" in card and "Of each text at most" not in card


def test_results_of_another_encoder_are_refused(release, tmp_path):
    paths = [ted_result("last", 0, [True, False], encoder=name).save(tmp_path) for name in ("mine", "other")]
    with pytest.raises(InputError, match="got results of mine, other, expected those of the encoder"):
        model_card(release / "granted", license="apache-2.0", ted_results=paths)


def test_stage_1_figures_of_a_card_are_those_of_its_files(release):
    card = model_card(
        release / "granted",
        repo_id="somebody/granted",
        license="apache-2.0",
        base_model="org/base",
        base_revision="0123abc",
        datasets=["somebody/questions"],
        vqa_scores=VQA,
        training_record=STAGE_1,
        demonstration=True,
    )
    validate_card(card, "model")
    assert front(card)["base_model"] == "org/base" and front(card)["datasets"] == ["somebody/questions"]
    assert "`org/base` at `0123abc`" in card and 'from_pretrained("somebody/granted", trust' in card
    for aspect, part in json.loads(VQA.read_text())["accuracy"].items():
        cells = [part[name] for name in ("before", "after", "after, picture swapped", "majority answer")]
        shown = [f"{100 * c['accuracy']:.1f} [{100 * c['ci95'][0]:.1f}, {100 * c['ci95'][1]:.1f}]" for c in cells]
        assert f"| {aspect} | {part['n']} | {' | '.join(shown)} |" in card
    record = json.loads(STAGE_1.read_text())
    for shown in (f"{record['rows']:,}", f"{record['steps']:,}", f"{record['final_loss']:.4g}", record["base_model"]):
        assert f"| {shown} |" in card
    for step, features in record["ted"].items():
        for feature, score in features.items():
            low, high = score["ci95"]
            figures = f"{100 * score['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            assert f"| {int(step):,} | {feature} | {score['n']} | {score['captions']} | {figures} |" in card
    assert "**This is a demonstration**" in card
    ted, pairs = record["settings"]["ted"], record["settings"]["ted_pairs"]
    assert f"on `{ted}`, with" in card and f"(`{pairs}`)" in card


def test_the_model_is_told_as_its_folder_is(release, encoder):
    card = model_card(release / "granted", license="mit")
    weights = ", ".join(f"{weight:.3f}" for weight in encoder.layer_weights.tolist())
    assert f"Layer weights, first layer first: {weights}." in card
    parameters = sum(p.numel() for p in encoder.parameters())
    assert f"| parameters of the encoder in this repository | {parameters:,} |" in card
    assert "`llama` whose 4 layers" in card and "width 32 per token" in card and "| all 4 |" in card
    assert "sentence_transformers" not in card


def test_sentence_transformers_are_told_of_where_the_folder_has_their_files(release, tmp_path):
    folder = Path(shutil.copytree(release / "granted", tmp_path / "granted"))
    (folder / "modules.json").write_text("[]")
    card = model_card(folder, license="mit")
    assert "sentence-transformers" in front(card)["tags"] and 'SentenceTransformer("granted"' in card


def test_stage_2_figures_of_a_card_are_those_of_its_files(release, tmp_path, encoder):
    folder = Path(shutil.copytree(release / "granted-lumina2", tmp_path / "granted-lumina2"))
    shutil.copy(ROOT / "results/stage2/simple/grid.png", folder)
    options = {"repo_id": "somebody/granted-lumina2", "encoder_repo": "somebody/granted", "license": "apache-2.0"}
    files = {"scores": SHAPES, "training_record": STAGE_2, "grid": folder / "grid.png"}
    card = pipeline_card(folder, **options, **files, demonstration=True)
    (folder / "README.md").write_text(card)
    check_folder(folder, "pipeline")
    scores, record = json.loads(SHAPES.read_text()), json.loads(STAGE_2.read_text())
    told = {result.metric_name: result for result in ModelCardData(**front(card)).eval_results}
    for part, rows in scores["report"].items():
        assert f"**{part}**" in card
        for name, row in rows.items():
            assert told[name.replace("_", " ")].metric_value == row["score"]
            assert told[name.replace("_", " ")].metric_args["ci95"] == row["ci95"]
            figures = [
                f"{100 * one['score']:.1f} [{100 * one['ci95'][0]:.1f}, {100 * one['ci95'][1]:.1f}]"
                for one in (row, row["control"])
            ]
            shown = [name.replace("_", " "), str(row["n"]), *figures, f"{100 * row['ceiling']:.1f}"]
            assert f"| {' | '.join(shown)} |" in card
    for shown in (f"{record['steps']:,}", f"{record['frozen_at']:,}", f"{record['loss']:.4g}", "muon", "two_step"):
        assert f"| {shown} |" in card
    assert ", ".join(f"{weight:.3f}" for weight in encoder.layer_weights.tolist()) in card
    assert "num_inference_steps=20," in card and 'negative_prompt="",' in card and "](grid.png)" in card
    assert front(card)["base_model"] == "somebody/granted" and front(card)["pipeline_tag"] == "text-to-image"
    assert 'DiffusionPipeline.from_pretrained("somebody/granted-lumina2", trust_remote_code=True)' in card


def test_without_scores_the_example_is_called_as_the_trainings_samples_were(release, tmp_path):
    record = json.loads(STAGE_2.read_text())
    record["settings"] |= {"height": 16, "width": 24, "num_frames": 5, "num_inference_steps": 7, "guidance_scale": 2.5}
    (tmp_path / "record.json").write_text(json.dumps(record))
    options = {"repo_id": "granted-wan", "encoder_repo": "granted", "license": "apache-2.0"}
    card = pipeline_card(release / "granted-wan", **options, training_record=tmp_path / "record.json")
    arguments = (
        "    height=16,\n    width=24,\n    num_frames=5,\n    num_inference_steps=7,\n    guidance_scale=2.5,\n"
    )
    assert arguments + '    negative_prompt="",\n' in card
    assert "has not been scored" in card and front(card)["pipeline_tag"] == "text-to-video"


def test_folders_of_a_machine_in_a_record_do_not_reach_the_card(release, tmp_path):
    record = json.loads(STAGE_1.read_text()) | {
        "base_model": "/home/somebody/base",
        "data": "/tmp/a.parquet,b.parquet",
    }
    (tmp_path / "record.json").write_text(json.dumps(record))
    card = model_card(release / "granted", license="mit", training_record=tmp_path / "record.json")
    assert "/home" not in card and "/tmp" not in card and "| base |" in card and "| a.parquet, b.parquet |" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vqa_scores": STAGE_1}, "expected the report of granted evaluate vqa"),
        ({"training_record": VQA}, "expected the record of a training"),
        ({"ted_results": [VQA]}, "is not a result"),
        ({"ted_results": [Path("nowhere.json")]}, "does not exist"),
    ],
)
def test_a_file_of_another_kind_is_refused(release, arguments, message):
    with pytest.raises(InputError, match=message):
        model_card(release / "granted", license="mit", **arguments)


def test_a_folder_of_another_kind_is_refused(release, tmp_path):
    with pytest.raises(InputError, match="expected the folder of a GrantedModel"):
        model_card(release / "granted-lumina2" / "transformer", license="mit")
    options = {"repo_id": "x", "encoder_repo": "y", "license": "mit"}
    with pytest.raises(InputError, match="does not exist"):
        pipeline_card(release / "granted", **options)
    with pytest.raises(InputError, match=r"expected shapes\.json"):
        pipeline_card(release / "granted-wan", **options, scores=VQA)
    with pytest.raises(InputError, match=r"got the image .*, expected one in"):
        pipeline_card(release / "granted-wan", **options, grid=ROOT / "results/stage2/simple/grid.png")


# ---------------------------------------------------------------------------------------------------------- validation


@pytest.fixture(scope="module")
def finished(release) -> dict[str, str]:
    return {name: (release / name / "README.md").read_text(encoding="utf-8") for name in FOLDERS}


@EACH
@settings(deadline=None)
@given(data=st.data())
def test_an_unfilled_field_anywhere_does_not_validate(finished, name, data):
    lines = finished[name].splitlines()
    body = lines.index("---", 1) + 1
    mark = data.draw(st.sampled_from(["{{ accuracy }}", "{% if x %}", "[More Information Needed]", "TODO", "FIXME"]))
    place = data.draw(st.integers(body, len(lines)))
    card = "\n".join([*lines[:place], mark, *lines[place:]])
    with pytest.raises(InputError, match=f"line {place + 1} has"):
        validate_card(card, FOLDERS[name])


@pytest.mark.parametrize("text", ["The score is None.", "| accuracy | nan |", "None", "Trained on undefined rows."])
def test_a_field_without_a_value_does_not_validate(finished, text):
    with pytest.raises(InputError, match="a field without a value"):
        validate_card(f"{finished['granted']}\n{text}\n", "model")


@pytest.mark.parametrize(
    "text", ["`None` is legal.", "```python\nx = None\n```", "None of them is ours.", "A nanosecond."]
)
def test_code_and_prose_may_say_none(finished, text):
    validate_card(f"{finished['granted']}\n{text}\n", "model")


@EACH
def test_each_missing_entry_of_the_metadata_does_not_validate(finished, name):
    kind = FOLDERS[name]
    _, _, body = finished[name].split("---\n", 2)
    metadata = front(finished[name])
    for key in KINDS[kind].metadata:
        for value in (None, "", []):
            changed = yaml.safe_dump(metadata | {key: value})
            with pytest.raises(InputError, match=f"metadata lacks {key}"):
                validate_card(f"---\n{changed}---\n{body}", kind)
        less = yaml.safe_dump({k: v for k, v in metadata.items() if k != key})
        with pytest.raises(InputError, match=f"metadata lacks {key}"):
            validate_card(f"---\n{less}---\n{body}", kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("---\n", "", 1), "metadata is missing"),
        (("license: apache-2.0", "license: [", 1), "metadata is no YAML"),
        (("license: apache-2.0", "license: {{ license }}", 1), "metadata"),
        (("license: apache-2.0", "license: apache-2.0\nbase_model: null", 1), "has base_model without a value"),
        (("license: apache-2.0", "license: apache-2.0\ndatasets: ['None']", 1), r"has datasets\[0\] without a value"),
        (("license: apache-2.0", "license: apache-2.0\nmodel-index: 3", 1), "cannot be read by huggingface_hub"),
        (("license: apache-2.0", "license: &a apache-2.0\nx: *a", 1), "metadata has a YAML alias"),
        (("license: apache-2.0", f"license: apache-2.0\nx: {'[' * 5000}{']' * 5000}", 1), "nested more than 20 deep"),
        (("license: apache-2.0", f"license: {'a' * 300_000}", 1), "longer than 200,000 characters"),
        (("## Limits\n", "## Limits\n\n## More\n", 1), "line .* has a section without text"),
        (("## Limits\n", "##  \n", 1), "a heading without a title"),
    ],
)
def test_what_is_malformed_does_not_validate(finished, change, message):
    with pytest.raises(InputError, match=message):
        validate_card(finished["granted"].replace(*change), "model")


@settings(deadline=None)
@given(st.text(max_size=300), st.sampled_from(sorted(KINDS)))
def test_a_text_that_is_no_card_is_refused_in_words(text, kind):
    for card in (text, f"---\n{text}\n---\n{text}"):
        with pytest.raises(InputError, match="expected a finished one"):
            validate_card(card, kind)


def test_the_citation_is_that_of_the_citation_file():
    entry = bibtex()
    stated = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert stated["title"] in entry and entry.count(" and\n") == len(stated["authors"]) - 1
    assert all(f"{author['family-names']}, {author['given-names']}" in entry for author in stated["authors"])
    assert entry.count("{") == entry.count("}")
    metric = " ".join((ROOT / "eval_metric/ted_accuracy/ted_accuracy.py").read_text().split())  # it ships alone
    assert all(f"{author['family-names']}, {author['given-names']}" in metric for author in stated["authors"])
    assert entry.partition(",")[0] in metric, "another key"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fusion": "learned", "num_outputs": 3}, "the mean of those of 3 blocks of the diffusion model: "),
        ({"fusion": "signed"}, "Layer weights, first layer first: "),
        ({"fusion": "stack", "layers": [0, 2]}, "chosen layers, each by itself"),
    ],
)
def test_a_card_can_be_made_of_every_fusion(tmp_path, make_tokenizer, options, said):
    tokenizer = make_tokenizer("[BOS]", None)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = GrantedModel.from_loaded(LlamaModel(LlamaConfig(**sizes, vocab_size=len(tokenizer))), tokenizer, **options)
    model.save_pretrained(tmp_path / "granted")
    card = model_card(tmp_path / "granted", license="mit")
    assert said in card
    if model.fusion.options.has_weights():
        factors = model.layer_weights.reshape(-1, 4).mean(0).tolist()
        assert ", ".join(f"{factor:.3f}" for factor in factors) in card
