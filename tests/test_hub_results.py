"""What the Hub reads of a release, results of a model and the task of a benchmark, as its own readers take them."""

import json
import string
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from hypothesis import given
from hypothesis import strategies as st

from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.hub_task import eval_yaml, subset, task_id
from granted.dataset_builders.ted_6k.reading import load_sample
from granted.dataset_builders.ted_6k.records import caption_text
from granted.eval_metric.seed_groups import group_seeds
from granted.model_cards.hub_results import read_results, results_yaml, ted_entry
from granted.publishing.checks import check_folder
from granted.tests.ted_results import make
from granted.utils.errors import InputError


CONFIGS = ("official", "synthetic", "sample", "custom")


def test_the_entry_is_the_feature_that_the_model_computes_by_its_aggregator():
    runs = [make("tiny", "norm_avg", seed=seed, quality=0.5) for seed in (0, 1)]
    others = [make("tiny", "norm_avg", pooling="mean", quality=4.0), make("tiny", "last", quality=4.0)]
    (group,) = group_seeds(runs)
    entry = ted_entry([*others, *runs], "me/ted-6k", "norm_avg")
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/ted-6k", "TED6KSynthetic", group.estimate.accuracy)
    assert entry.date == max(run.provenance["date"] for run in runs) and entry.dataset_revision is None
    assert "norm_avg features" in entry.notes and "seeds: 2" in entry.notes and "fingerprint f00" in entry.notes
    assert ted_entry(others, "me/ted-6k", "learned") is None
    assert ted_entry([make("tiny", "frozen_weights")], "me/ted-6k", "learned").notes.startswith("cosines of learned")


@given(st.floats(0, 1), st.text(string.printable, max_size=50))
def test_what_is_written_is_what_huggingface_hub_reads(value, notes):
    entry = ted_entry([make("tiny", "last")], "me/ted-6k", "last")
    entry.value, entry.notes = value, notes
    text = results_yaml([entry])
    assert read_results(text) == parse_eval_result_entries(yaml.safe_load(text)) == [entry]


@pytest.mark.parametrize(
    "text", ["", "[]", "a: 1", "- 3", "- dataset: {id: a/b}\n  value: 1", "- [", "!!python/name:os.x"]
)
def test_results_that_the_hub_would_not_read_are_refused(text):
    with pytest.raises(InputError, match="huggingface_hub cannot read"):
        read_results(text)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_task_is_as_mteb_reads_it(config):
    content = yaml.safe_load(eval_yaml(config, "Where: it's {from}."))
    (task,) = content["tasks"]
    assert content["evaluation_framework"] == "mteb" and "it's {from}." in content["description"]
    assert (task["id"], task["config"], task["split"]) == (task_id(config), subset(config), "test")
    if config == "official":
        assert task["id"] == "TED6K"
    mteb = pytest.importorskip("mteb._hf_integration.eval_model")
    assert mteb.HFEvalMeta.model_validate(content).tasks[0].id == task["id"]


def test_a_question_to_a_language_model_begins_with_the_caption_as_encoders_get_it():
    (task,) = yaml.safe_load(eval_yaml("sample", "Shipped."))["tasks"]
    record, spec = load_sample()[0], task["field_spec"]
    filled = {name: record[name] for name in spec["metadata"]} | {"prompt": record[spec["input"]]}
    asked = task["solvers"][0]["args"]["template"].format(**filled)
    assert asked == f"{caption_text(record)}\n\n{record['question']}"
    assert (spec["choices"], spec["target"]) == ("statements", "label")


INSPECT = """
import json
import sys

from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model

asked = dict(json.load(open(sys.argv[1])))  # what each question begins with, and how many to go on from the true one


def answer(messages, *_):
    (found,) = [value for text, value in asked.items() if f"{text}\\n\\nA) " in messages[-1].text]
    right, options = found
    written = f"ANSWER: {chr(65 + (right + shift) % options)}"
    output = ModelOutput.from_content("mockllm", written)
    output.usage = ModelUsage()  # or a tokenizer is fetched to count
    return output


for shift in (0, 1):
    model = get_model("mockllm/model", custom_outputs=answer)
    (log,) = eval("hf/me/ted-6k", model=model, display="none", log_dir="logs")
    assert log.status == "success", log.error
    print("accuracy", log.results.total_samples, log.results.scores[0].metrics["accuracy"].value)
"""


def test_inspect_scores_true_statements_with_one_and_others_with_zero(loopback_hub, tmp_path):
    """`inspect eval hf/me/ted-6k`, from a Hub, with answers that are known to be right and to be wrong."""
    pytest.importorskip("inspect_ai", reason="inspect_ai is not installed")
    records = [dict(record) for record in load_sample()[:12]]
    records[0]["question"] = ""
    records[1] |= {"statements": records[1]["statements"][:2], "label": 1}
    records[2] |= {"statements": [f"statement {number} {{choices}}" for number in range(8)], "label": 7}
    records[3] |= {"caption": "A {caption} beside a {prompt}.", "caption_id": "braces"}
    export_dataset(records, tmp_path / "ted-6k", config_name="custom", source_note="Odd ones.")
    loopback_hub.hold(tmp_path / "ted-6k", "me/ted-6k")
    asked = [
        (f"{caption_text(record)}\n\n{record['question']}", (record["label"], len(record["statements"])))
        for record in records
    ]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    folders = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    ran = subprocess.run(
        [sys.executable, "-c", INSPECT, "asked.json"],
        cwd=tmp_path,
        env=loopback_hub.environment(tmp_path) | folders,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    found = [line for line in ran.stdout.splitlines() if line.startswith("accuracy")]
    assert found == ["accuracy 12 1.0", "accuracy 12 0.0"]


def test_a_repository_may_hold_what_the_hub_reads_and_no_other_hidden_or_yaml_file(tmp_path):
    folder = export_dataset(load_sample(), tmp_path / "ted-6k", config_name="sample", source_note="Shipped.")
    assert "eval.yaml" in [file.path for file in check_folder(folder, "dataset")]
    for name, text, finding in (
        (".eval_results/ted.yaml", "- {dataset: {id: a/b, task_id: c}, value: 1.0}", "is no file that the Hub reads"),
        ("data/eval.yaml", "a: 1", "is no file that the Hub reads"),
        ("eval.yaml", "a: &x 1\nb: *x", "YAML alias"),
        ("eval.yaml", "a: [", "is not YAML"),
        (".hidden/x.md", "a", "is hidden"),
    ):
        path = folder / name
        before = path.read_text() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        with pytest.raises(InputError, match=finding):
            check_folder(folder, "dataset")
        if before is None:
            path.unlink()
            if path.parent.name.startswith("."):
                path.parent.rmdir()
        else:
            path.write_text(before)


def test_results_in_a_model_are_looked_at(tmp_path):
    (tmp_path / ".eval_results").mkdir()
    for name, text, finding in (
        ("a.yaml", "- {value: 1}", "cannot read"),
        ("a.json", "{}", "no file that the Hub reads"),
    ):
        (tmp_path / ".eval_results" / name).write_text(text)
        with pytest.raises(InputError, match=rf"eval_results/{name}: .*{finding}"):
            check_folder(tmp_path, "model")
        (tmp_path / ".eval_results" / name).unlink()
