"""What the Hub reads of a release, results of a model and the task of a benchmark, as its own readers take them."""

import string

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from hypothesis import given
from hypothesis import strategies as st

from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.hub_task import eval_yaml, subset, task_id
from granted.dataset_builders.ted_6k.reading import load_sample
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


def test_inspect_asks_with_the_texts_of_the_record():
    inspect = pytest.importorskip("inspect_ai._eval.task.hf", reason="inspect_ai is not installed")
    (task,) = yaml.safe_load(eval_yaml("sample", "Shipped."))["tasks"]
    read, record = inspect.HFTask.model_validate(task), load_sample()[0]
    sample = inspect._record_to_sample_hf(record, read.field_spec)
    assert (sample.input, sample.choices) == (record["question"], record["statements"])
    assert sample.target == "ABCD"[record["label"]] and sample.metadata == {"caption": record["caption"]}


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
