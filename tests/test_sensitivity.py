"""What moves a score that should not: each variation changes what it says, and nothing else."""

from dataclasses import replace

import pytest

from granted import cli
from granted.dataset_builders.ted_6k.records import fingerprint
from granted.encoding.features import new_aggregator
from granted.encoding.loading import EncoderOptions, load_encoder
from granted.eval_metric.benchmark import find_aggregators, score_encoder
from granted.eval_metric.sensitivity import PLAIN, VARIATIONS, Variation, changed, markdown, report, score, sensitivity
from granted.modeling_granted import GrantedModel
from granted.tests.test_benchmark import DATASET, RECORDS
from granted.tests.test_stability import scored
from granted.utils.errors import InputError
from granted.utils.files import read_json, write_json


INFO = {"config": "custom", "fingerprint": fingerprint(RECORDS)}
FEATURES = ("last", "norm_avg")
BY_NAME = {one.name: one for one in (PLAIN, *VARIATIONS)}


@pytest.fixture(scope="module")
def aggregators(tiny_encoder_folder, tmp_path_factory):
    """Untrained ones of two features and two seeds, as they are stored."""
    folder = tmp_path_factory.mktemp("aggregators")
    encoder = GrantedModel.from_encoder(tiny_encoder_folder)
    for name in FEATURES:
        for seed in (0, 1):
            head = new_aggregator(name, encoder, "tiny", encoder.fingerprint(), seed=seed)
            head.save_pretrained(folder / f"seed{seed}" / name)
            write_json(folder / f"seed{seed}" / name / "training.json", {"settings": {"seed": seed}})
    return folder


@pytest.fixture(scope="module")
def found(tiny_encoder_folder, aggregators, tmp_path_factory):
    output = tmp_path_factory.mktemp("sensitivity")
    return output, sensitivity([f"tiny={tiny_encoder_folder}"], RECORDS, INFO, aggregators, output)


def rows_of(found, variation):
    return {(row["feature"], row["pooling"]): row for row in found["rows"] if row["variation"] == variation}


def test_order_batches_and_padding_change_nothing(found):
    for name in ("order", "padding"):
        rows = rows_of(found[1], name)
        assert set(rows) == {(feature, pooling) for feature in FEATURES for pooling in ("aggregator", "mean")}
        for row in rows.values():
            assert row["difference"] == 0 and row["ci95"] == [0, 0] and row["changed"] == 0 and row["p"] == 1
            assert row["cosine"] < 1e-5
    assert {row["seeds"] for key, row in rows_of(found[1], "plain").items() if key[1] == "aggregator"} == {2}


def test_what_cuts_nothing_changes_nothing_and_what_changes_texts_moves_cosines(found):
    for row in rows_of(found[1], "77 tokens").values():
        assert row["texts_cut"] == 0 and row["cosine"] == 0
    for name in ("caption alone", "other first line", "template", "dtype"):
        assert all(row["cosine"] > 1e-4 for row in rows_of(found[1], name).values()), name


def test_a_variation_scores_what_such_an_encoder_and_such_captions_score(tiny_encoder_folder, aggregators, tmp_path):
    heads = [head for head in find_aggregators(aggregators) if head.seed == 0]
    _, encoder = load_encoder(tiny_encoder_folder)

    def scores(results):
        return {(one.feature, one.pooling): [item["scores"] for item in one.items] for one in results}

    def varied(one):
        with changed(encoder.config, one):
            return scores(score(encoder, "tiny", heads, RECORDS, DATASET, tmp_path / one.name, one))

    template = BY_NAME["template"]
    _, other = load_encoder(tiny_encoder_folder, EncoderOptions(template=template.config["prompt_template"]))
    plain = score_encoder(other, "tiny", heads, RECORDS, DATASET, tmp_path / "other", as_trained=False)
    assert varied(template) == scores(plain)
    short = Variation("short", "", {"max_sequence_length": 6})
    _, other = load_encoder(tiny_encoder_folder, max_length=6)
    plain = score_encoder(other, "tiny", heads, RECORDS, DATASET, tmp_path / "cut", as_trained=False)
    assert varied(short) == scores(plain) != varied(PLAIN)
    bare = BY_NAME["caption alone"]
    written = [record | {"caption": "Caption Type: image\nCaption: " + record["caption"]} for record in RECORDS]
    images = [record | {"media": "image"} for record in RECORDS]
    one = score_encoder(encoder, "tiny", heads, written, DATASET, tmp_path / "written", captions=bare.captions)
    two = score_encoder(encoder, "tiny", heads, images, DATASET, tmp_path / "images")
    assert scores(one) == scores(two), "a caption alone is the text of the record's caption"
    assert encoder.config.prompt_template is None and encoder.config.padding_side == "right"


def test_a_shorter_limit_of_the_encoder_stays(tiny_encoder_folder):
    _, encoder = load_encoder(tiny_encoder_folder, max_length=50)
    with changed(encoder.config, BY_NAME["77 tokens"]):
        assert encoder.config.max_sequence_length == 50


def test_ranks_say_which_pairs_change_places(tiny_encoder_folder, aggregators, tmp_path):
    heads = [head for head in find_aggregators(aggregators) if head.seed == 0]
    _, encoder = load_encoder(tiny_encoder_folder)
    results = score_encoder(encoder, "tiny", heads, RECORDS, DATASET, tmp_path)
    pooled = [one for one in results if one.pooling == "mean"]

    def right(result, share):
        items = [
            item | {"scores": [float((j == item["label"]) == (i < share)) for j in range(4)]}
            for i, item in enumerate(result.items)
        ]
        return replace(result, items=items)

    plain = [right(pooled[0], 12), right(pooled[1], 0)]
    turned = [right(pooled[0], 3), right(pooled[1], 6)]
    ranks = report({"plain": plain, "turned": turned})["ranks"]
    counts = ("pairs", "swapped", "differ", "differ_swapped")
    assert {rank["pooling"]: [rank[name] for name in counts] for rank in ranks} == {
        "aggregator": [0, 0, 0, 0],
        "mean": [1, 1, 1, 1],
    }


def test_the_files_say_what_was_found_and_running_again_encodes_nothing(found, tiny_encoder_folder, aggregators):
    output, content = found
    assert read_json(output / "sensitivity.json") == content
    text = (output / "sensitivity.md").read_text()
    assert text == markdown(content)
    assert text.count("| tiny | ") == 4 and all(one.name in text for one in VARIATIONS)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    sensitivity([f"tiny={tiny_encoder_folder}"], RECORDS, INFO, aggregators, output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")} == before


def test_aggregators_of_another_encoder_are_refused(tiny_bert_folder, aggregators, tmp_path):
    with pytest.raises(InputError, match="expected"):
        sensitivity([tiny_bert_folder], RECORDS, INFO, aggregators, tmp_path)


def test_the_command_finds_the_aggregators_of_an_evaluation(
    tiny_encoder_folder, aggregators, tmp_path, monkeypatch, capsys
):
    words = ["evaluate", "sensitivity", f"tiny={tiny_encoder_folder}", "--aggregator", str(aggregators / "seed0/last")]
    monkeypatch.setattr("sys.argv", ["granted", *words, "--output", str(tmp_path)])
    cli.main()
    assert "caption alone" in capsys.readouterr().out
    assert read_json(tmp_path / "sensitivity.json")["dataset"]["config"] == "sample"


def test_a_difference_is_the_variations_minus_the_plain_one():
    def result(right):
        one = scored("last", right)
        return replace(one, provenance=one.provenance | {"texts_cut": 0})

    rows = report({"plain": [result(48)], "turned": [result(30)]})["rows"]
    (row,) = [row for row in rows if row["variation"] == "turned"]
    assert row["difference"] == pytest.approx((30 - 48) / 60) and row["ci95"][1] < 0
