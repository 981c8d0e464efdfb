"""TED in mteb: the accuracy that `granted evaluate ted` gives, from mteb's own run of the model."""
# ruff: noqa: E402

import json

import numpy as np
import pytest
import torch


mteb = pytest.importorskip("mteb")  # it needs Python 3.11, this package 3.10

from mteb.abstasks.abstask import get_abstask_prompt
from mteb.models import ModelMeta
from sentence_transformers import SentenceTransformer
from transformers import LlamaConfig, LlamaModel

from granted import GrantedModel
from granted.dataset_builders.ted_6k.reading import SAMPLE_FILE, read_ted
from granted.dataset_builders.ted_6k.records import caption_text, snake_case
from granted.encoding.features import new_aggregator
from granted.eval_metric.benchmark import TrainedAggregator, score_encoder
from granted.eval_metric.evaluation import dataset_description
from granted.eval_metric.mteb_task import TED6K
from granted.sentence_granted import GrantedSentenceEncoder
from granted.utils.errors import InputError


class Fixed:
    """A model of mteb whose embeddings are given by text."""

    def __init__(self, embeddings):
        self.embeddings = embeddings
        self.mteb_model_meta = ModelMeta.create_empty()

    def encode(self, inputs, **kwargs):
        return np.array([self.embeddings[text] for batch in inputs for text in batch["text"]])

    def similarity(self, one, other):
        return torch.as_tensor(one) @ torch.as_tensor(other).T

    def similarity_pairwise(self, one, other):
        return (torch.as_tensor(one) * torch.as_tensor(other)).sum(-1)


def scores(model, task) -> dict:
    (result,) = mteb.evaluate(model, task, cache=None, show_progress_bar=False).task_results
    assert result.dataset_revision == task.metadata.revision
    (found,) = result.scores["test"]
    assert result.get_score() == found["main_score"] == found["accuracy"]
    return found


@pytest.fixture(scope="module")
def encoder(make_tokenizer):
    """A tiny encoder that knows the words of the sample."""
    records, _ = read_ted("sample")
    texts = [caption_text(record) for record in records] + [
        text for record in records for text in record["statements"]
    ]
    tokenizer = make_tokenizer("[BOS]", None)
    tokenizer.add_tokens(sorted({word for text in texts for word in text.split()}))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaModel(LlamaConfig(**size, vocab_size=len(tokenizer)))
    return GrantedModel.from_loaded(model, tokenizer, fusion="norm_avg")


def test_the_accuracy_is_that_of_granted_evaluate(encoder, tmp_path):
    records, info = read_ted("sample")
    head = TrainedAggregator(new_aggregator("norm_avg", encoder, "tiny", encoder.fingerprint(), seed=3).eval(), seed=3)
    described = dataset_description(records, info)
    (aggregated, _) = score_encoder(encoder, "tiny", [head], records, described, tmp_path, show_progress=False)
    assert aggregated.pooling == "aggregator" and 0.1 < aggregated.accuracy < 0.9

    model = SentenceTransformer(modules=[GrantedSentenceEncoder(encoder, head.aggregator)], device="cpu")
    found = scores(model, TED6K())
    assert found["accuracy"] == pytest.approx(aggregated.accuracy)
    assert found["ties"] == aggregated.ties
    categories = aggregated.column("category")
    for category in set(categories):
        expected = aggregated.correct[categories == category].mean()
        assert found[f"accuracy_{snake_case(category)}"] == pytest.approx(expected)


def test_a_tie_is_wrong_and_is_counted(tmp_path):
    sample = json.loads(SAMPLE_FILE.read_text(encoding="utf-8"))
    (tmp_path / "ted.json").write_text(json.dumps(dict(list(sample.items())[:1])), encoding="utf-8")
    task = TED6K(tmp_path / "ted.json")
    embeddings = {caption_text(task.records[0]): [1.0, 0.0]}
    for number, record in enumerate(task.records):
        for i, statement in enumerate(record["statements"]):
            embeddings[statement] = [0.5, 0.1 * i]
        true = record["statements"][record["label"]]
        embeddings[true] = [0.9, 0.0] if number else embeddings[true]  # the first one ties, the others are right
    found = scores(Fixed(embeddings), task)
    count = len(task.records)
    assert count > 2
    assert found["ties"] == 1
    assert found["accuracy"] == pytest.approx((count - 1) / count)
    assert found[f"accuracy_{snake_case(task.records[0]['category'])}"] == 0
    assert found[f"accuracy_{snake_case(task.records[1]['category'])}"] == 1


def test_the_name_says_which_benchmark_it_is(tmp_path):
    sample = json.loads(SAMPLE_FILE.read_text(encoding="utf-8"))
    (tmp_path / "ted.json").write_text(json.dumps(dict(list(sample.items())[:2])), encoding="utf-8")
    custom, whole = TED6K(tmp_path / "ted.json"), TED6K()
    assert (custom.metadata.name, whole.metadata.name) == ("TED6KCustom", "TED6KSample")
    assert custom.metadata.revision != whole.metadata.revision == read_ted("sample")[1]["fingerprint"]


def test_a_task_can_be_run_again_and_leaves_mtebs_own_tasks_alone(encoder):
    task = TED6K()
    aggregator = new_aggregator("norm_avg", encoder, "tiny", encoder.fingerprint(), seed=3).eval()
    model = SentenceTransformer(modules=[GrantedSentenceEncoder(encoder, aggregator)], device="cpu")
    assert scores(model, task) == scores(model, task)
    assert get_abstask_prompt("SciFact")


def test_a_benchmark_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="which does not exist"):
        TED6K(tmp_path / "nowhere.json")
