"""From stages to the files that evaluate and train take: who decides, what is kept apart, what the cards say."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st

from granted.dataset_builders.caption_pairs.pairs import read_pairs
from granted.dataset_builders.construction import export as export_module
from granted.dataset_builders.construction.card import ExportSettings
from granted.dataset_builders.construction.export import export
from granted.dataset_builders.construction.verdicts import Verdict, verdicts_of
from granted.dataset_builders.ted_6k.reading import read_ted
from granted.dataset_builders.ted_6k.statistics import shared_texts
from granted.dataset_builders.visual_vqa.check import check_rows
from granted.dataset_builders.visual_vqa.rows import load_vqa
from granted.publishing.checks import check_folder
from granted.tests.tiny_media import image, moving
from granted.utils.errors import InputError


USES = ["ted"] * 4 + ["pairs"] * 3 + ["vqa"] * 3
SCENES = ["river", "harbour", "kitchen", "mountain", "library", "desert", "market", "stadium", "orchard", "airport"]
ADJECTIVES = ["red", "wooden", "quiet", "enormous", "shiny", "crooked", "dusty", "narrow", "empty", "golden"]


def caption(i: int) -> str:
    return f"{ADJECTIVES[i].title()} {SCENES[i]} number {i}: {' '.join(ADJECTIVES[i:] + SCENES[:i])}, seen at {i}."


def decision(instance, choice, reviewer="ana", when=0, statements=None, label=0, gold=False):
    return {
        "instance": instance,
        "reviewer": reviewer,
        "decision": choice,
        "statements": statements,
        "label": label,
        "reason": None,
        "gold": gold,
        "seconds": 1.0,
        "when": f"2026-01-01T00:00:{when:02d}+00:00",
    }


def write(run: Path, stage: str, rows: list[dict], **record) -> None:
    (run / stage).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), run / stage / "rows.parquet")
    if record:
        (run / stage / "stage.json").write_text(json.dumps({"stage": stage, **record}))


@pytest.fixture
def run(tmp_path) -> Path:
    """Ten items, of which one of each use is a video, with everything that the stages before write."""
    folder = tmp_path / "run"
    (folder / "media").mkdir(parents=True)
    items = []
    for i, use in enumerate(USES):
        video = USES.index(use) == i
        file = f"media/{i}.{'mp4' if video else 'png'}"
        (folder / file).write_bytes(moving(i) if video else image(i))
        items.append({"id": str(i), "media": "video" if video else "image", "file": file, "use": use})
    write(folder, "curate", items, counts={"kept": 10, "ted": 4, "pairs": 3, "vqa": 3, "too small": 2})
    model = {"model": "tiny-vl", "counts": {"rows": 10, "null": 0, "set aside": 1}}
    model["usage"] = {"prompt_tokens": 1000, "completion_tokens": 234}
    prompts = {"caption_image": {"version": "3", "hash": "0123456789abcdef"}}
    write(folder, "caption", [{"id": str(i), "caption": caption(i)} for i in range(10)], prompts=prompts, **model)
    write(folder, "second_caption", [{"id": str(i), "caption": f"We see this: {caption(i)[::-1]}"} for i in (4, 5, 6)])
    questions = [
        ("counting", "How many?", "Two."),
        ("counting", "How many more?", "Three."),
        ("text", "What?", "'No'."),
    ]
    write(
        folder,
        "questions",
        [{"id": str(i), "aspect": a, "question": q, "answer": t} for i in (7, 8, 9) for a, q, t in questions],
    )
    instances = [
        {
            "instance": f"{i}-{category.lower()}",
            **items[i],
            "caption": caption(i),
            "category": category,
            "question": "What is said?",
            "statements": [f"{i} {category} {word}" for word in ("one", "two", "three", "four")],
            "label": 1,
            "reasons": ["two negatives say the same"] if (i, category) == (3, "OCR") else [],
            "kept": (i, category) != (3, "OCR"),
        }
        for i in range(4)
        for category in ("Quantity", "OCR")
    ]
    write(folder, "check", instances)
    return folder


def reviewed(run):
    agreement = {"category": "all", "of": "kept", "instances": 9, "agreed": 0.9, "kappa": 0.8, "ci95": [0.5, 0.95]}
    rows = [
        decision("0-quantity", "accept"),
        decision("0-ocr", "fix", statements=["a", "b", "c", "d"], label=2),
        decision("1-quantity", "reject"),
        decision("1-ocr", "null"),
        decision("2-quantity", "accept"),
        decision("2-quantity", "reject", "bo"),
        decision("2-ocr", "accept", gold=True),
    ]
    write(run, "review", rows, agreement=[agreement])


def settings(**changed):
    return ExportSettings(**{"license": "cc-by-4.0", "source_license": "cc0-1.0", **changed})


# ------------------------------------------------------------------------------------------------------------ verdicts


def verdict(*choices):
    return verdicts_of(decision("x", choice, f"r{i}", i) for i, choice in enumerate(choices))["x"].name


def test_most_reviewers_decide_and_as_many_on_each_side_decide_nothing():
    assert [verdict(one) for one in ("accept", "reject", "null")] == ["accepted", "rejected", "null"]
    assert verdict("accept", "reject") == verdict("accept", "accept", "reject", "null") == "undecided"
    assert verdict("accept", "accept", "reject") == "accepted"
    assert verdict("null", "reject", "accept") == "rejected" and verdict("null", "null", "reject") == "null"


def test_of_each_reviewer_the_last_decision_counts_whatever_the_order_of_the_rows():
    rows = [decision("x", "accept", when=0), decision("x", "reject", when=1), decision("x", "accept", when=2)]
    assert verdicts_of(rows)["x"] == verdicts_of(rows[::-1])["x"] == Verdict("accepted")


def test_a_fix_goes_before_what_was_accepted_and_the_latest_fix_before_others():
    fixes = [decision("x", "fix", f"r{i}", i, [letter] * 4, i) for i, letter in enumerate("abca")]
    assert verdicts_of(fixes[:3])["x"] == Verdict("fixed", ("c",) * 4, 2)
    same = [*fixes[:2], {**fixes[0], "reviewer": "r9"}]
    assert verdicts_of(same)["x"] == Verdict("fixed", ("a",) * 4, 0), "two of three wrote the same"
    assert verdicts_of([decision("x", "accept", "r9", 9), fixes[0]])["x"] == Verdict("fixed", ("a",) * 4, 0)
    accepted = [decision("x", "accept", f"s{i}", 9) for i in range(2)]
    assert verdicts_of([*accepted, fixes[0]])["x"] == Verdict("accepted")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["accept", "reject", "null"]), st.integers(0, 59))))
def test_what_is_kept_has_more_voices_than_what_is_not(said):
    rows = [decision("x", choice, who, when) for who, choice, when in said]
    last = {row["reviewer"]: row["decision"] for row in sorted(rows, key=lambda row: row["when"])}
    kept = Counter(choice == "accept" for choice in last.values())
    assert bool(rows and verdicts_of(rows)["x"].kept) == (kept[True] > kept[False])


# -------------------------------------------------------------------------------------------------------------- export


def test_what_people_have_kept_becomes_a_benchmark_that_everything_reads(run):
    reviewed(run)
    counts = export(settings(), run)
    records, info = read_ted(run / "export" / "ted-6k")
    assert info["config"] == "custom"
    found = {record["id"]: (record["statements"], record["label"]) for record in records}
    assert found == {
        "0/quantity": (["0 Quantity one", "0 Quantity two", "0 Quantity three", "0 Quantity four"], 1),
        "0/ocr": (["a", "b", "c", "d"], 2),
    }
    dataset = load_dataset(str(run / "export" / "ted-6k"), "ocr", split="test")
    assert dataset[0]["caption"] == caption(0) and dataset[0]["media"] == "video"
    expected = {"instances": 2, "accepted": 1, "fixed": 1, "rejected": 1, "null": 1, "undecided": 1, "gold": 1}
    expected |= {"set aside by checks": 1, "unreviewed": 1, "caption pairs": 3, "conversations": 6}
    assert counts == expected


def test_what_nobody_has_reviewed_is_exported_if_the_settings_say_so_and_the_card_says_how_many(run):
    card = run / "export" / "ted-6k" / "README.md"
    counts = export(settings(unreviewed=True), run)
    assert counts["instances"] == counts["unreviewed"] == 7
    assert "Exported without a review: 7" in card.read_text() and "Nobody has reviewed" in card.read_text()
    reviewed(run)
    assert export(settings(unreviewed=True), run)["instances"] == 3
    assert "Exported without a review: 1" in card.read_text()
    assert export(settings(), run)["instances"] == 2
    assert "Left out for want of one: 1" in card.read_text()


def test_the_cards_say_how_it_was_made_and_pass_the_checks_of_a_release(run):
    reviewed(run)
    export(settings(), run)
    ted, training = ((run / "export" / name / "README.md").read_text() for name in ("ted-6k", "."))
    said = ["`tiny-vl`", "caption_image 3 (`01234567`)", "1,234", "2 too small", "1 two negatives say the same"]
    said += ["2 people reviewed", "1 accepted, 1 fixed, 1 rejected, 1 null, 1 undecided, 1 gold", "0.50 to 0.95"]
    said += ["Texts: `cc-by-4.0`. Images and videos: `cc0-1.0`", "word overlap", "4 for the benchmark"]
    for text in said:
        assert text in ted and text in training, text
    assert "license: cc-by-4.0" in ted and "license: other" in training
    check_folder(run / "export" / "ted-6k", "dataset")


@pytest.mark.parametrize("name", ["license", "source_license"])
def test_without_a_licence_nothing_is_exported(run, name):
    with pytest.raises(InputError, match=f"got no {name}"):
        export(settings(**{name: " "}), run)
    assert not (run / "export").exists()


def test_training_data_load_and_hold_their_media(run):
    export(settings(), run)
    pairs = read_pairs(run / "export" / "pairs.parquet")
    assert [(pair["id"], pair["media"], pair["caption_a"]) for pair in pairs] == [
        (str(i), "video" if i == 4 else "image", caption(i)) for i in (4, 5, 6)
    ]
    (run / "media").rename(run / "elsewhere")
    rows = load_vqa(str(run / "export" / "vqa.parquet"))
    assert check_rows(rows) == []
    assert [(row["id"], len(row["messages"])) for row in rows][:3] == [
        ("7/counting", 4),
        ("7/text", 2),
        ("8/counting", 4),
    ]
    assert rows[0]["videos"][0]["bytes"] == moving(7) and rows[2]["images"][0]["bytes"] == image(8)
    loaded = load_dataset(str(run / "export"), "vqa", split="train")
    assert loaded["id"] == rows["id"] and len(load_dataset(str(run / "export"), "pairs", split="train")) == 3


def test_row_groups_are_as_small_as_memory_wants(run, monkeypatch):
    export(settings(), run)
    whole = pq.read_table(run / "export" / "vqa.parquet")
    monkeypatch.setattr(export_module, "BYTES_PER_GROUP", 1)
    export(settings(), run)
    assert pq.ParquetFile(run / "export" / "vqa.parquet").num_row_groups == 6
    assert pq.read_table(run / "export" / "vqa.parquet").equals(whole)


def test_nothing_is_trained_on_that_the_benchmark_describes(run):
    captions = {str(i): caption(i) for i in range(10)}
    captions["7"] = caption(0).replace("seen", "Seen")  # almost the same
    captions["3"] = caption(1).upper()
    write(run, "caption", [{"id": name, "caption": text} for name, text in captions.items()])
    write(run, "second_caption", [{"id": "4", "caption": caption(2)}, {"id": "5", "caption": "0 OCR one"}])
    table = pq.read_table(run / "check" / "rows.parquet").to_pylist()
    write(run, "check", [row | {"caption": captions[row["id"]]} for row in table])
    counts = export(settings(unreviewed=True), run)
    records, _ = read_ted(run / "export" / "ted-6k")
    assert {record["caption_id"] for record in records} == {"0", "1", "2"} and counts["of a repeated caption"] == 1
    assert counts["items described like the benchmark"] == 2 and counts["pairs with a text of the benchmark"] == 1
    assert not (run / "export" / "pairs.parquet").exists()
    assert {row["id"].partition("/")[0] for row in load_vqa(str(run / "export" / "vqa.parquet"))} == {"8", "9"}
    second = [{"id": "a", "media": "image", "caption_a": "x", "caption_b": "0 OCR one", "source": ""}]
    assert shared_texts(second, records), "the pair had to go"


def test_where_nothing_is_to_be_exported_one_line_says_why(run):
    for stage in ("second_caption", "questions"):
        (run / stage / "rows.parquet").unlink()
    with pytest.raises(InputError, match=r"7 unreviewed.*set unreviewed") as raised:
        export(settings(), run)
    assert "\n" not in str(raised.value) and not (run / "export").exists()


def test_push_takes_the_data_without_a_model(run, granted, tmp_path):
    reviewed(run)
    export(settings(), run)
    data = ("--ted", run / "export" / "ted-6k", "--training-data", run / "export")
    code, _, err = granted("push", *data, "--build-only", "--output", tmp_path / "release")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "release").iterdir()) == [
        "release.json",
        "ted-6k",
        "training-data",
    ]
    pushed = tmp_path / "release" / "ted-6k" / "README.md"
    assert pushed.read_text() == (run / "export" / "ted-6k" / "README.md").read_text(), "the card was lost"
    assert len(load_dataset(str(tmp_path / "release" / "training-data"), "vqa", split="train")) == 6
    code, _, err = granted("push", *data, "--dtype", "bfloat16", "--build-only", "--output", tmp_path / "release")
    assert code == 2 and "--dtype without a model" in err
    code, _, err = granted("push", "--training-data", tmp_path, "--build-only", "--output", tmp_path / "release")
    assert code == 2 and "as training data" in err
