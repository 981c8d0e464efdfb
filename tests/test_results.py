"""The results contract: what is refused, what survives the disk, and shards that add up to the whole."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from granted.dataset_builders.ted_6k.baselines import baseline_summary
from granted.eval_metric.results import Result, load, load_all, merge_shards, provenance
from granted.utils.errors import InputError


CATEGORY = ("OCR", "Adverb", "Quantity")


def make(encoder="org/Tiny Encoder", feature="norm_avg", pooling="aggregator", seed=0, n=24, **changes):
    rng = np.random.default_rng(n)
    items = [
        {
            "id": f"c{i // 3:02d}/{i}",
            "caption_id": f"c{i // 3:02d}",
            "category": CATEGORY[i % 3],
            "media": ("image", "video")[i // 3 % 2],
            "label": int(rng.integers(4)),
            "scores": rng.normal(size=4).tolist(),
        }
        for i in range(n)
    ]
    values = {
        "encoder": encoder,
        "feature": feature,
        "pooling": pooling,
        "seed": seed,
        "items": items,
        "dataset": {
            "name": "ted-6k",
            "config": "synthetic",
            "fingerprint": "f00",
            "instances": n,
            "captions": -(-n // 3),
        },
        "provenance": provenance(device="cpu", dtype="float32", seconds=1.5, tokens=100, config_hash="ab"),
    }
    return Result(**values | changes)


def item(**changes):
    return make(n=3).items[0] | changes


def shards(whole, n):
    part = lambda i: {"items": whole.items[i::n], "shard": f"{i + 1}/{n}"}  # noqa: E731
    return [replace(whole, **part(i)) for i in range(n)]


def test_known_values():
    scores = [[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]]
    items = [item(id=f"i{i}", label=0, scores=s, category="OCR", caption_id=f"c{i}") for i, s in enumerate(scores)]
    dataset = make().dataset | {"instances": 3, "captions": 3}
    result = make(items=items, dataset=dataset)
    assert result.correct.tolist() == [True, False, False] and result.tied.tolist() == [False, True, False]
    assert (result.ties, result.accuracy) == (1, pytest.approx(1 / 3))
    summary = result.summary()
    assert {key: summary[key] for key in ("accuracy", "n", "captions", "ties")} == {
        "accuracy": pytest.approx(1 / 3),
        "n": 3,
        "captions": 3,
        "ties": 1,
    }
    low, high = summary["ci95"]
    assert 0 <= low < 1 / 3 < high <= 1
    assert list(summary["categories"]) == ["OCR"] and summary["media"]["image"]["n"] == 3


def test_round_trip(tmp_path):
    result = make(seed=7, baselines={"chance": {"accuracy": 0.25, "categories": {"OCR": 0.25}, "media": {}}})
    path = result.save(tmp_path / "deep")
    assert path.name == f"{result.name}.json" and path.name.startswith(
        "org--Tiny-Encoder__norm_avg__aggregator__seed7__"
    )
    assert load(path) == result
    assert json.loads(path.read_text())["summary"] == load(path).summary()
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".parquet"]


def test_saving_twice_gives_the_same_bytes(tmp_path):
    result = make()
    one, other = result.save(tmp_path / "a"), result.save(tmp_path / "b")
    for suffix in (".json", ".parquet"):
        assert one.with_suffix(suffix).read_bytes() == other.with_suffix(suffix).read_bytes()


def test_what_was_noted_of_a_run_stays_until_the_run_is_another(tmp_path):
    first = make()
    assert first.keep(tmp_path) is first
    again = replace(
        first, provenance=provenance(device="gpu", dtype="float32", seconds=0.1, tokens=0, config_hash="ab")
    )
    assert again.keep(tmp_path) == first == load(tmp_path / f"{first.name}.json")
    better = replace(first, items=[item | {"scores": [*item["scores"][:3], 9.0]} for item in first.items])
    other = replace(first, provenance=first.provenance | {"config_hash": "cd"})
    for result in (better, other):
        assert result.keep(tmp_path) is result and load(tmp_path / f"{first.name}.json") == result


def test_names_never_collide():
    variants = [
        make(),
        make(encoder="org-Tiny Encoder"),
        make(encoder="org/Tiny-Encoder"),
        make(seed=1),
        make(seed=None),
        make(feature="layer_7"),
        make(pooling="mean"),
        make(dataset=make().dataset | {"config": "sample"}),
        make(dataset=make().dataset | {"fingerprint": "f01"}),
        *shards(make(), 2),
    ]
    assert len({one.name.lower() for one in variants}) == len(variants)
    assert make(encoder="../../etc").name.startswith("etc") or "/" not in make(encoder="../../etc").name


def test_order_of_items_does_not_matter():
    result = make()
    assert replace(result, items=result.items[::-1]) == result


def test_load_all_is_recursive_and_passes_over_other_json(tmp_path):
    make(seed=0).save(tmp_path / "x")
    make(seed=1).save(tmp_path / "y" / "z")
    (tmp_path / "speed.json").write_text('{"seconds": 3}')
    assert sorted(one.seed for one in load_all(tmp_path)) == [0, 1]
    with pytest.raises(InputError, match="not a folder"):
        load_all(tmp_path / "nowhere")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_merged_shards_equal_the_whole(n):
    whole = make()
    parts = [
        replace(part, provenance=part.provenance | {"device": f"gpu{i % 2}", "date": f"2026-01-0{i + 1}"})
        for i, part in enumerate(shards(whole, n))
    ]
    merged = merge_shards(parts[::-1])
    assert merged.items == whole.items and merged.summary() == whole.summary() and merged.name == whole.name
    assert (merged.provenance["seconds"], merged.provenance["tokens"]) == (1.5 * n, 100 * n)
    assert merged.provenance["date"] == f"2026-01-0{n}"
    assert merged.provenance["device"] == ("gpu0, gpu1" if n > 1 else "gpu0")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a, b, c: [a, b], "got shards 1, 2 of 3"),
        (lambda a, b, c: [a, b, c, c], "got shards 1, 2, 3, 3 of 3"),
        (lambda a, b, c: [a, b, replace(c, items=b.items)], "twice"),
        (lambda a, b, c: [a, b, replace(c, items=c.items[1:])], "got 23 instances"),
        (lambda a, b, c: [a, b, replace(c, dataset=c.dataset | {"fingerprint": "f01"})], "dataset fingerprint"),
        (lambda a, b, c: [a, b, replace(c, seed=1)], "seed 0 and 1"),
        (lambda a, b, c: [a, b, replace(c, feature="last")], "feature"),
        (lambda a, b, c: [a, b, replace(c, shard="3/4")], "number of shards"),
        (
            lambda a, b, c: [a, b, replace(c, provenance=c.provenance | {"config_hash": "cd"})],
            "provenance config_hash",
        ),
        (lambda a, b, c: [], "whole results or none"),
        (lambda a, b, c: [make()], "whole results or none"),
    ],
)
def test_shards_that_do_not_belong_together(change, message):
    with pytest.raises(InputError, match=message):
        merge_shards(change(*shards(make(), 3)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder": " "}, "encoder"),
        ({"feature": "Norm Avg"}, "feature"),
        ({"pooling": "max"}, "one of aggregator, mean"),
        ({"seed": 1.0}, "seed 1.0"),
        ({"shard": "0/4"}, "shard '0/4'"),
        ({"shard": "5/4"}, "shard '5/4'"),
        ({"dataset": {"name": "ted-6k"}}, "no field 'config' in dataset"),
        ({"provenance": {"colour": "red"}}, "unknown field 'colour' in provenance"),
        ({"provenance": {"seconds": float("nan")}}, "not JSON"),
        ({"provenance": {"seed": 3}}, "one seed"),
        ({"baselines": {"luck": {}}}, "unknown field 'luck' in baselines"),
        ({"baselines": {"chance": {"accuracy": 25, "categories": {}, "media": {}}}}, "got 25 in accuracy"),
        ({"items": []}, "no items"),
        ({"items": make().items[:-1]}, "got 23 instances of 8 captions, expected 24 of 8"),
        ({"items": [*make().items[:-1], make().items[0]]}, "twice"),
        ({"items": [item(scores=[1.0, float("nan")])]}, "finite numbers"),
        ({"items": [item(scores=[1.0])]}, "2 or more"),
        ({"items": [item(label=4)]}, "label 4"),
        ({"items": [item(category="ocr")]}, "got category 'ocr'"),
        ({"items": [item(media="audio")]}, "one of image, video"),
        ({"items": [item(id="")]}, "non-empty"),
        ({"items": [item(extra=1)]}, "unknown field 'extra' in an item"),
    ],
)
def test_wrong_values_are_refused(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.write_text(path.read_text()[:200]), "malformed JSON"),
        (lambda path: path.write_text("[]"), "not a result"),
        (lambda path: edit(path, colour="red"), "unknown field 'colour'"),
        (lambda path: edit(path, dataset=[]), "got list as dataset"),
        (lambda path: edit(path, dataset=make().dataset | {"instances": "many"}), "expected many of 8"),
        (lambda path: edit(path, shard="1/2", dataset=make().dataset | {"instances": "many"}), "cannot be loaded"),
        (lambda path: edit(path, provenance={"tokens": "many"}), "got tokens 'many'"),
        (lambda path: edit(path, provenance={"settings": [512]}), "got settings"),
        (lambda path: edit(path, encoder=7), "got encoder 7"),
        (lambda path: edit(path, baselines={"chance": 7}), "got int as baseline chance"),
        (lambda path: edit(path, items={"file": "x.parquet", "sha256": ""}), "saved beside x.parquet"),
        (lambda path: edit(path, summary={"accuracy": 0.99, "n": 24, "ties": 0}), "its items do not give"),
        (lambda path: path.with_suffix(".parquet").unlink(), "without .*parquet"),
        (lambda path: path.with_suffix(".parquet").write_bytes(b"PAR1"), "not the table saved with"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
def test_a_damaged_pair_is_refused(tmp_path, damage, message):
    path = make().save(tmp_path)
    damage(path)
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_refused(tmp_path):
    path = make().save(tmp_path)
    stored = json.loads(path.read_text())
    for name in (f.name for f in fields(Result)):
        path.write_text(json.dumps({key: value for key, value in stored.items() if key != name}))
        with pytest.raises(InputError, match=f"no field '{name}'"):
            load(path)


def test_provenance_collects_versions():
    stored = provenance(device="cpu", dtype="float32", seconds=1, tokens=2)
    assert {"granted", "torch", "transformers", "datasets", "python"} == set(stored["versions"])
    assert stored["date"].endswith("+00:00")


def test_baseline_summary_fits_a_result():
    statements = {"caption": "a red dog", "statements": ["red dog", "blue cat"], "label": 0}
    record = statements | {
        "id": "a/OCR",
        "caption_id": "a",
        "media": "image",
        "category": "OCR",
        "question": "",
        "source": "",
    }
    assert make(baselines=baseline_summary([record])).baselines["word_overlap"]["accuracy"] == 1.0
