"""Scoring on TED: what a plain computation gives, whatever is batched, cached, sharded or interrupted."""

import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from granted.dataset_builders.ted_6k.records import caption_text, fingerprint, validate_records
from granted.encoding.features import new_aggregator
from granted.eval_metric import benchmark
from granted.eval_metric.benchmark import (
    TrainedAggregator,
    find_aggregators,
    load_aggregator,
    score_encoder,
    select_shard,
)
from granted.eval_metric.results import merge_shards
from granted.modeling_context_aggregator import ContextAggregator
from granted.modeling_granted import GrantedModel
from granted.utils.errors import InputError
from granted.utils.files import read_json


FEATURES = ("last", "norm_avg", "learned")
COLOURS = ("red", "blue", "green", "yellow", "black")


def make_records():
    """Six captions of different lengths, each with two instances."""
    records = []
    for i, thing in enumerate(("cube", "sphere", "table", "door", "dog", "ball")):
        tail = " near the river at night on the wet street" * (i % 3)
        for category in ("Adjective", "OCR"):
            records.append(
                {
                    "id": f"c{i}/{category.lower()}",
                    "caption_id": f"c{i}",
                    "caption": f"a {COLOURS[i % 5]} {thing} and two cats{tail}",
                    "media": "image" if i % 2 else "video",
                    "category": category,
                    "question": "",
                    "statements": [f"the {thing} is {COLOURS[(i + n) % 5]}{tail[:15]} {category}" for n in range(4)],
                    "label": 0,
                    "source": "test",
                }
            )
    validate_records(records)
    return records


RECORDS = make_records()
DATASET = {"name": "ted-6k", "config": "custom", "fingerprint": fingerprint(RECORDS), "instances": 12, "captions": 6}


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder):
    return GrantedModel.from_encoder(tiny_encoder_folder)


def make_heads(encoder):
    made = [
        TrainedAggregator(new_aggregator(name, encoder, "tiny", encoder.fingerprint(), seed=3), seed=3)
        for name in FEATURES
    ]
    with torch.no_grad():
        made[2].aggregator.fusion.weights.copy_(torch.tensor([0.3, -0.5, 1.0, 0.2]))
    return made


@pytest.fixture(scope="module")
def heads(encoder):
    return make_heads(encoder)


def score(encoder, heads, cache, **options):
    results = score_encoder(encoder, "tiny", heads, RECORDS, DATASET, cache, show_progress=False, **options)
    return {(result.feature, result.pooling): result for result in results}


def scores(result):
    return torch.tensor([item["scores"] for item in result.items])  # (instances, 4)


def close(one, other, atol=1e-4):
    assert one.keys() == other.keys()
    for key in one:
        assert [item["id"] for item in one[key].items] == [item["id"] for item in other[key].items]
        torch.testing.assert_close(scores(one[key]), scores(other[key]), atol=atol, rtol=0)


@pytest.fixture(scope="module")
def expected(encoder, heads, tmp_path_factory):
    return score(encoder, heads, tmp_path_factory.mktemp("cache"))


@torch.no_grad()
def layers_alone(encoder, text):
    """The layers (1, L, N, D) of one text, as the encoder itself gives them."""
    ids = encoder.tokenizer(text, return_tensors="pt")
    output = encoder.encoder(**{key: ids[key] for key in ("input_ids", "attention_mask")}, output_hidden_states=True)
    return torch.stack(output.hidden_states[1:], dim=1).float()  # (1, L, N, D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_the_cosines_of_texts_encoded_one_by_one_in_fp32_after_the_layers(
    tiny_encoder_folder, tmp_path, dtype
):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, dtype=dtype)
    heads = make_heads(encoder)
    with torch.autocast("cpu", torch.bfloat16):  # as a training around it may have it
        scored = score(encoder, heads, tmp_path, token_budget=1)
    assert set(scored) == {(name, pooling) for name in FEATURES for pooling in ("aggregator", "mean")}
    for head in heads:

        def aggregated(text, head=head):
            return head.aggregator(layers_alone(encoder, text)).context_embedding[0]  # (context_dim,)

        def mean(text, head=head):
            return head.aggregator.fusion(layers_alone(encoder, text))[0].mean(0)  # (D,)

        for pooling, embed in (("aggregator", aggregated), ("mean", mean)):
            found = {item["id"]: torch.tensor(item["scores"]) for item in scored[head.feature, pooling].items}
            for record in RECORDS:
                with torch.no_grad():
                    statements = torch.stack([embed(text) for text in record["statements"]])  # (4, D)
                    plain = F.cosine_similarity(statements, embed(caption_text(record))[None])  # (4,)
                torch.testing.assert_close(found[record["id"]], plain, atol=1e-6, rtol=0)


def test_mean_pooling_has_a_seed_only_where_weights_are_learned(expected):
    assert {result.seed for (_, pooling), result in expected.items() if pooling == "aggregator"} == {3}
    assert {name: expected[name, "mean"].seed for name in FEATURES} == {"last": None, "norm_avg": None, "learned": 3}


@pytest.mark.parametrize(("token_budget", "together", "at_a_time"), [(1, 5, 1), (40, 3, 5), (200, 99, 99)])
def test_scores_do_not_depend_on_what_is_computed_together(
    encoder, heads, expected, tmp_path, monkeypatch, token_budget, together, at_a_time
):
    monkeypatch.setattr(benchmark, "TOGETHER", together)
    monkeypatch.setattr(benchmark, "AT_A_TIME", at_a_time)
    close(score(encoder, heads, tmp_path, token_budget=token_budget), expected)


def test_features_scored_together_score_as_each_alone(encoder, heads, expected, tmp_path):
    for head in heads:
        alone = score(encoder, [head], tmp_path)
        close(alone, {key: expected[key] for key in alone}, atol=1e-6)


def test_a_second_run_reads_the_cache_and_encodes_nothing(encoder, heads, expected, tmp_path, monkeypatch):
    close(score(encoder, heads, tmp_path), expected, atol=0)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    monkeypatch.setattr(encoder, "pad", None)
    close(score(encoder, heads, tmp_path), expected, atol=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == files


def test_every_text_is_encoded_once(encoder, expected):
    texts = {text for record in RECORDS for text in (caption_text(record), *record["statements"])}
    tokens = sum(len(ids) for ids in encoder.tokenize(sorted(texts)))
    assert expected["last", "mean"].provenance["tokens"] == tokens


def test_an_interrupted_run_encodes_only_what_is_missing_and_tells_of_all_of_it(
    encoder, heads, expected, tmp_path, monkeypatch
):
    pad, calls = encoder.pad, []

    def interrupted(token_ids):
        calls.append(len(token_ids))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return pad(token_ids)

    monkeypatch.setattr(encoder, "pad", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(encoder, heads, tmp_path, token_budget=100)
    first = sum(read_json(path)["seconds"] for path in shards_of(tmp_path))
    resumed = score(encoder, heads, tmp_path, token_budget=100)
    whole = expected["last", "mean"].provenance
    assert sum(calls[:3]) + sum(calls[4:]) == whole["texts"]
    for noted in (resumed["last", "mean"].provenance, score(encoder, heads, tmp_path)["last", "mean"].provenance):
        assert {name: noted[name] for name in ("tokens", "texts", "device")} == {
            name: whole[name] for name in ("tokens", "texts", "device")
        }
        assert noted["seconds"] == pytest.approx(
            sum(read_json(path)["seconds"] for path in shards_of(tmp_path)), abs=0.01
        )
    assert resumed["last", "mean"].provenance["seconds"] > round(first, 2) > 0
    close(resumed, expected)


def shards_of(folder):
    """What is noted beside each shard of the caches in a folder."""
    return [path.with_suffix(".json") for path in folder.rglob("*.safetensors")]


def test_what_is_cut_is_counted_and_told_once(encoder, heads, tmp_path, monkeypatch):
    texts = sorted({text for record in RECORDS for text in (caption_text(record), *record["statements"])})
    lengths = encoder.count_tokens(texts)
    monkeypatch.setattr(encoder.config, "max_sequence_length", 12)
    monkeypatch.setattr(benchmark, "TOGETHER", 5)
    cut = [length - 12 for length in lengths if length > 12]
    for _ in range(2):  # also where all is read from the cache
        with pytest.warns(UserWarning, match=f"tiny reads at most 12 .*{len(cut)} of {len(texts)} texts") as warned:
            noted = score(encoder, heads, tmp_path)["last", "mean"].provenance
        assert len(warned) == 1
        assert noted["settings"] == {"max_length": 12, "prompt_template": None, "template_drop_tokens": 0}
        found = [noted[name] for name in ("texts", "texts_cut", "tokens_cut", "tokens")]
        assert found == [len(texts), len(cut), sum(cut), sum(min(length, 12) for length in lengths)]


def test_other_layer_weights_or_another_template_never_read_the_same_cache(encoder, heads, expected, tmp_path):
    score(encoder, heads, tmp_path)
    changed = new_aggregator("learned", encoder, "tiny", encoder.fingerprint(), seed=3)
    other = score(encoder, [*heads[:2], TrainedAggregator(changed, seed=3)], tmp_path)
    assert not torch.equal(scores(other["learned", "mean"]), scores(expected["learned", "mean"]))
    encoder.config.prompt_template = "describe {prompt}"
    try:
        templated = score(encoder, heads, tmp_path)
    finally:
        encoder.config.prompt_template = None
    assert not torch.equal(scores(templated["last", "mean"]), scores(expected["last", "mean"]))


# -------------------------------------------------------------------------------------------------------------- shards


def test_shards_share_nothing_keep_captions_whole_and_make_the_whole():
    parts = [select_shard(RECORDS, f"{i}/2") for i in (1, 2)]
    ids = [record["id"] for part in parts for record in part]
    assert sorted(ids) == sorted(record["id"] for record in RECORDS)
    captions = [{record["caption_id"] for record in part} for part in parts]
    assert sum(map(len, captions)) == 6
    assert select_shard(RECORDS, None) == RECORDS
    with pytest.raises(InputError, match="without a single caption"):
        assert select_shard(RECORDS[:1], "1/2") != select_shard(RECORDS[:1], "2/2")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", " 1/2", ""])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(InputError, match=r"expected i/n with i from 1 to n, such as 1/4"):
        select_shard(RECORDS, shard)


def test_merged_shards_are_the_unsharded_result(encoder, heads, expected, tmp_path):
    shards = [score(encoder, heads, tmp_path, shard=f"{i}/2") for i in (1, 2)]
    merged = {key: merge_shards([shard[key] for shard in shards]) for key in expected}
    close(merged, expected)
    for key, result in merged.items():
        assert result.accuracy == expected[key].accuracy
        assert result.baselines == expected[key].baselines


# ------------------------------------------------------------------------------------------------------------ refusals


def test_an_aggregator_of_another_encoder_is_refused(encoder, heads, tiny_bert_folder, tmp_path):
    bert = GrantedModel.from_encoder(tiny_bert_folder)
    narrow = GrantedModel.from_encoder(tiny_encoder_folder_like(encoder, tmp_path, hidden_size=16))
    shallow = GrantedModel.from_encoder(tiny_encoder_folder_like(encoder, tmp_path, num_hidden_layers=2))
    half = GrantedModel.from_encoder(encoder.config.encoder_name_or_path, dtype=torch.bfloat16)
    moved = GrantedModel.from_encoder(encoder.config.encoder_name_or_path)
    with torch.no_grad():
        moved.encoder.embed_tokens.weight[3, 0] += 1e-3
    for other, message in (
        (narrow, r"4 layers of width 32\), expected one for tiny \(4 of 16\)"),
        (shallow, r"4 layers of width 32\), expected one for tiny \(2 of 32\)"),
        (bert, "other weights or another dtype"),
        (half, "other weights or another dtype"),
        (moved, "other weights or another dtype"),
    ):
        with pytest.raises(InputError, match=message):
            score(other, heads, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def tiny_encoder_folder_like(encoder, tmp_path, **changes):
    folder = tmp_path / "-".join(changes)
    config = type(encoder.encoder.config)(**(encoder.encoder.config.to_dict() | changes | {"head_dim": 4}))
    type(encoder.encoder)(config).save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return folder


def test_two_aggregators_of_one_feature_and_seed_are_refused(encoder, heads, tmp_path):
    with pytest.raises(InputError, match="several aggregators of the feature last and seed 3"):
        score(encoder, [heads[0], heads[1], heads[0]], tmp_path)


def test_embeddings_that_are_not_finite_are_refused_with_the_first_text(encoder, tmp_path):
    broken = GrantedModel.from_encoder(encoder.config.encoder_name_or_path)
    with torch.no_grad():
        broken.encoder.embed_tokens.weight[broken.tokenizer.convert_tokens_to_ids("door")] = math.nan
    head = TrainedAggregator(new_aggregator("last", broken, "tiny", broken.fingerprint(), seed=0), seed=0)
    with pytest.raises(InputError, match=r"got NaN or infinite values in .*last.*door.*--dtype") as error:
        score(broken, [head], tmp_path)
    assert "\n" not in str(error.value)


def test_an_aggregator_trained_on_texts_read_otherwise_is_refused(encoder, heads, tmp_path):
    as_now = {"max_length": 512, "prompt_template": None, "template_drop_tokens": 0}
    for change in ({"max_length": 16}, {"prompt_template": "draw {prompt}"}, {"template_keep_first": True}):
        training = {"settings": {"seed": 3}, "reading": as_now | change}
        with pytest.raises(InputError, match=f"read with {next(iter(change))} .*expected .* as tiny reads now"):
            score(encoder, [TrainedAggregator(heads[0].aggregator, 3, training)], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    score(
        encoder,
        [TrainedAggregator(heads[0].aggregator, 3, {"settings": {"seed": 3}, "reading": as_now})],
        tmp_path / "cache",
    )


def test_both_numbers_of_parameters_stand_beside_a_score(encoder, heads, expected):
    trunk = sum(weights.numel() for weights in encoder.encoder.parameters())
    head = sum(weights.numel() for weights in heads[0].aggregator.parameters())
    assert expected["last", "aggregator"].provenance["parameters"] == {"encoder": trunk, "aggregator": head}
    assert expected["last", "mean"].provenance["parameters"] == {"encoder": trunk}


def test_only_aggregators_that_say_what_they_read_are_loaded(heads, tmp_path):
    heads[0].aggregator.save_pretrained(tmp_path / "all" / "last")
    heads[1].aggregator.save_pretrained(tmp_path / "all" / "norm_avg")
    settings = {"settings": {"seed": 7}}
    (tmp_path / "all" / "last" / "training.json").write_text(json.dumps(settings))
    found = find_aggregators(tmp_path / "all")
    assert [head.name for head in found] == ["last@7", "norm_avg@None"]
    assert [head.name for head in find_aggregators(tmp_path / "all" / "last")] == ["last@7"]
    for name, tensor in heads[0].aggregator.state_dict().items():
        assert torch.equal(tensor, found[0].aggregator.state_dict()[name])

    assert len(find_aggregators(tmp_path)) == 2  # those of every seed below

    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no aggregator"):
        find_aggregators(tmp_path / "empty")
    with pytest.raises(InputError, match="expected the folder of a trained aggregator"):
        load_aggregator(tmp_path / "none")
    bare = ContextAggregator(type(heads[0].aggregator.config)(encoder_hidden_size=32))
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="without a feature"):
        load_aggregator(tmp_path / "bare")
    damages = {
        "cut": lambda folder: (folder / weights).write_bytes((folder / weights).read_bytes()[:-8]),
        "gone": lambda folder: (folder / weights).unlink(),
        "part": lambda folder: save_file({"context_token": torch.zeros(1, 1, 32)}, folder / weights, {"format": "pt"}),
        "nan": lambda folder: change(folder / weights, context_token=torch.full((1, 1, 32), math.nan)),
        "shape": lambda folder: change(folder / weights, context_token=torch.zeros(1, 1, 16)),
        "config": lambda folder: (folder / "config.json").write_text("{"),
        "wrong config": lambda folder: edit(folder / "config.json", num_heads="many"),
        "no training": lambda folder: (folder / "training.json").write_text("[]"),
        "no seed": lambda folder: (folder / "training.json").write_text('{"settings": {"seed": null}}'),
    }
    weights = "model.safetensors"
    for name, damage in damages.items():
        folder = shutil.copytree(tmp_path / "all" / "last", tmp_path / name)
        damage(folder)
        with pytest.raises(InputError, match=rf"{folder}.*cannot be loaded|malformed JSON in {folder}") as caught:
            load_aggregator(folder)
        assert "\n" not in str(caught.value)
    heads[0].aggregator.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    heads[0].aggregator.float()
    assert load_aggregator(tmp_path / "half").aggregator.dtype == torch.float32


def change(file, **tensors):
    save_file(load_file(file) | tensors, file, {"format": "pt"})


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
