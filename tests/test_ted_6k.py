"""TED-6K: its schema, the authors' layout, the sample and the statistics keep their promises."""

import hashlib
import json
import random
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.reading import (
    SAMPLE_FILE,
    SkipReport,
    load_sample,
    read_authors_file,
    read_ted,
)
from granted.dataset_builders.ted_6k.records import (
    CATEGORIES,
    FEATURES,
    MEDIA,
    OFFICIAL_COUNTS,
    caption_text,
    composition_name,
    fingerprint,
    snake_case,
    validate_records,
)
from granted.dataset_builders.ted_6k.statistics import describe, pairs_apart, rows, shared_texts
from granted.tests.ted_records import record, refused
from granted.utils.errors import InputError


DEV = Path(__file__).parents[2] / "shared" / "data" / "ted" / "ted6k_dev.json"


def item(positive="yes", negatives=("no", "never", "not"), status="success", question="q"):
    return {
        "question": question,
        "correct_statement": None if positive is None else {"status": status, "statement": positive},
        "incorrect_statements": [{"status": "success", "statement": text} for text in negatives],
    }


def entry(media="video", caption="A caption.", **statements):
    return {
        "caption": caption,
        "caption_type": media,
        "statements": {name.replace("_", " "): value for name, value in statements.items()},
    }


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


# Records


def test_the_schema_is_the_documented_one():
    assert tuple(OFFICIAL_COUNTS) == CATEGORIES and len(CATEGORIES) == 9 and set(MEDIA) == {"image", "video"}
    assert " ".join(FEATURES) == "id caption_id caption media category question statements label source"
    assert sum(map(sum, OFFICIAL_COUNTS.values())) == 6641
    assert [sum(pair[i] for pair in OFFICIAL_COUNTS.values()) for i in (0, 1)] == [1374, 5267]
    assert snake_case("Spatial Relationship") == "spatial_relationship"
    assert caption_text(record()) == "Caption Type: image\nCaption: A cat sleeps soundly."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"category": "Verb"}, ["'Verb'", "Action Recognition", "Temporal"]),
        ({"category": None}, ["category"]),
        ({"media": "audio"}, ["'audio'", "image, video"]),
        ({"media": ["image"]}, ["media"]),
        ({"label": 4}, ["label 4", "0 to 3"]),
        ({"label": -1}, ["label -1"]),
        ({"label": True}, ["label True"]),
        ({"label": 1.0}, ["label 1.0"]),
        ({"caption": "  "}, ["empty caption"]),
        ({"caption": 3}, ["3", "string"]),
        ({"caption": "\ud800"}, ["surrogate"]),
        ({"statements": ["one"]}, ["1 statements", "2 to 8"]),
        ({"statements": ["x"] * 9}, ["9 statements"]),
        ({"statements": "text"}, ["'text'"]),
        ({"statements": ["a", ""]}, ["empty statement 1"]),
        ({"statements": ["a", None]}, ["statement 1", "None"]),
        ({"question": None}, ["question"]),
        ({"extra": 1}, ["extra"]),
    ],
)
def test_a_record_at_fault_is_named(changes, words):
    refused(lambda: validate_records([record(**changes)]), "a/adverb", *words)


def test_records_at_fault_together_are_named():
    refused(lambda: validate_records([]), "no record")
    refused(lambda: validate_records([record(), record()]), "'a/adverb'", "twice")
    refused(lambda: validate_records([record(), record(id="b", caption="Other.")]), "'b'", "one caption")
    refused(lambda: validate_records([{}]), "record 0", "missing")
    refused(lambda: validate_records(["x"]), "record 0", "str")
    refused(lambda: validate_records([record(id=7)]), "record 0")
    validate_records([record(question=""), record(id="b")])


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(FEATURES)), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_any_record_is_accepted_or_named_in_one_line(changes):
    try:
        validate_records([record(**changes)])
    except InputError as error:
        assert str(error)
    else:
        fingerprint([record(**changes)])
        pa.Table.from_pylist([record(**changes)], schema=FEATURES.arrow_schema)


def test_the_fingerprint_depends_on_the_content_alone():
    records = load_sample()
    shuffled = random.Random(0).sample(records, len(records))
    reference = fingerprint(records)
    assert fingerprint(shuffled) == reference
    assert fingerprint([{**r, "source": "elsewhere"} for r in records]) == reference
    for field in set(FEATURES) - {"source"}:
        assert fingerprint([{**records[0], field: "changed"}, *records[1:]]) != reference, field


def test_the_fingerprint_is_of_the_rows_as_json_in_the_order_of_their_ids():
    rows = [{name: value for name, value in record(id=name).items() if name != "source"} for name in ("é", "b", "B10")]
    text = json.dumps([rows[2], rows[1], rows[0]], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert fingerprint({**row, "source": "any"} for row in rows) == hashlib.sha256(text.encode()).hexdigest()


def test_only_the_published_composition_is_official():
    full = [
        {"category": category, "media": media, "source": "TED-6K"}
        for category, pair in OFFICIAL_COUNTS.items()
        for media, count in zip(MEDIA, pair)
        for _ in range(count)
    ]
    assert composition_name(full) == "official"
    assert composition_name(full[1:]) == "custom" == composition_name(load_sample())
    assert composition_name([{**record, "source": "synthetic lexical"} for record in full]) == "synthetic"
    assert composition_name([{**full[0], "source": "synthetic lexical"}, *full[1:]]) == "custom"


# The authors' layout


def test_every_reason_to_leave_something_out_is_counted(tmp_path):
    failed = {"status": "failed", "statement": "broken"}
    mixed = item()
    mixed["incorrect_statements"] = [failed, *mixed["incorrect_statements"][:2], {**failed, "statement": None}]
    path = write(
        tmp_path / "a.json",
        {
            "one": entry("image", Temporal=item(), OCR=item(None), Adverb=item(status="failed"), Quantity=item()),
            "two": entry(Temporal=item(), OCR=item(negatives=()), Adjective=item(negatives="abcdefghi")),
            "three": entry(Adjective=mixed),
        },
    )
    records, report = read_authors_file(path)
    assert asdict(report) == asdict(
        SkipReport(
            image_temporal=1, no_positive=1, failed_positive=1, no_negative=1, failed_negatives=2, surplus_negatives=2
        )
    )
    assert report.instances == 4
    by_id = {r["id"]: r for r in records}
    assert list(by_id) == ["one/quantity", "two/temporal", "two/adjective", "three/adjective"]
    assert sorted(by_id["two/adjective"]["statements"]) == [*"abcdefg", "yes"]
    assert sorted(by_id["three/adjective"]["statements"]) == ["never", "no", "yes"]
    assert all(r["statements"][r["label"]] == "yes" for r in records)


def test_the_order_of_statements_depends_on_seed_and_id_alone(tmp_path):
    captions = {f"c{i}": entry(OCR=item(), Adverb=item()) for i in range(40)}
    first, _ = read_authors_file(write(tmp_path / "a.json", captions))
    reversed_file = write(tmp_path / "b.json", dict(reversed(captions.items())))
    assert sorted(first, key=lambda r: r["id"]) == sorted(read_authors_file(reversed_file)[0], key=lambda r: r["id"])
    alone, _ = read_authors_file(write(tmp_path / "c.json", {"c7": captions["c7"]}))
    assert all(r in first for r in alone)
    assert first != read_authors_file(tmp_path / "a.json", seed=1)[0]
    assert {r["label"] for r in first} == {0, 1, 2, 3}


def broken(**changes):
    return {"key1": {**entry(OCR=item()), **changes}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["malformed JSON"]),
        ('{"key1": ', ["malformed JSON"]),
        ("[" * 100_000, ["deeply"]),
        ("{}", ["no usable instance"]),
        ("[]", ["list", "object"]),
        (broken(caption_type="audio"), ["key1", "'audio'", "image, video"]),
        (broken(caption=None), ["key1/ocr", "caption"]),
        (broken(caption=" "), ["key1/ocr", "empty caption"]),
        (broken(statements=[]), ["key1", "object"]),
        (broken(statements={"Colour": item()}), ["key1", "'Colour'", "Adjective"]),
        (broken(statements={"OCR": []}), ["OCR", "key1"]),
        (broken(statements={"OCR": {}}), ["OCR", "key1", "question, correct_statement, incorrect_statements"]),
        (broken(statements={"OCR": {**item(), "correct_statement": {}}}), ["correct_statement", "key1", "status"]),
        (broken(statements={"OCR": {**item(), "correct_statement": "x"}}), ["correct_statement", "key1"]),
        (broken(statements={"OCR": {**item(), "incorrect_statements": None}}), ["incorrect_statements", "key1"]),
        (broken(statements={"OCR": {**item(), "incorrect_statements": ["x"]}}), ["negative", "key1"]),
        (broken(statements={"OCR": item(positive=" ")}), ["key1/ocr", "empty statement"]),
        (broken(statements={"OCR": item(positive=5)}), ["key1/ocr", "5"]),
        (broken(statements={"OCR": item(None)}), ["no usable instance", "1 left out"]),
        ({"key1": {"caption": "x"}}, ["key1", "caption_type, statements"]),
        ({"key1": 5}, ["key1", "int"]),
        ('{"key1": {}, "key1": {}}', ["'key1' twice"]),
        (json.dumps(broken()).replace('"OCR"', '"OCR": {}, "OCR"'), ["'OCR' twice", "key1"]),
        (json.dumps(broken()).replace("A caption.", "\\ud800"), ["key1/ocr", "surrogate"]),
    ],
)
def test_a_broken_authors_file_is_one_line_that_names_the_key(tmp_path, content, words):
    path = write(tmp_path / "a.json", content)
    refused(lambda: read_authors_file(path), *words)


def test_files_that_are_no_text_or_not_there_are_one_line(tmp_path):
    (tmp_path / "a.json").write_bytes('{"é": 1}'.encode("latin-1"))
    refused(lambda: read_ted(tmp_path / "a.json"), "not UTF-8")
    refused(lambda: read_ted(tmp_path / "none.json"), "does not exist")
    refused(lambda: read_ted(tmp_path), "without a Parquet file")
    refused(lambda: read_ted(tmp_path / "none.parquet"), "not a file")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no parquet")
    refused(lambda: read_ted(tmp_path / "b.parquet"), "b.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "b.parquet")
    refused(lambda: read_ted(tmp_path / "b.parquet"), "caption_id", "without the columns")
    pq.write_table(pa.Table.from_pylist([record(label=9)]), tmp_path / "b.parquet")
    refused(lambda: read_ted(tmp_path / "b.parquet"), "label 9")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["caption", "caption_type", "statements", "OCR", "status", "statement", "question"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(value=JSON, data=st.data())
def test_any_json_is_read_or_refused_in_one_line(tmp_path_factory, value, data):
    path = tmp_path_factory.mktemp("any") / "a.json"
    good = entry(OCR=item())
    place = data.draw(st.sampled_from(["whole", "entry", "caption", "statements", "item"]))
    whole = {
        "whole": value,
        "entry": {"k": value},
        "caption": {"k": {**good, "caption": value}},
        "statements": {"k": {**good, "statements": value}},
        "item": {"k": {**good, "statements": {"OCR": value}}},
    }[place]
    try:
        validate_records(read_authors_file(write(path, whole))[0])
    except InputError as error:
        assert "\n" not in str(error)


# The sample


def test_the_sample_is_worth_shipping():
    records = load_sample()
    stats = describe(records)
    assert stats["captions"] >= 12 and stats["instances"] >= 60
    assert all(count["total"] for count in stats["by_category"].values()) and all(stats["by_media"].values())
    assert not stats["duplicates"] + stats["undecidable"] + stats["contested"]
    assert stats["caption_words"]["min"] >= 100 and stats["caption_words"]["max"] <= 180
    assert stats["statement_words"]["min"] >= 8 and stats["statement_words"]["max"] <= 20
    assert stats["chance"] == 0.25
    for r in records:
        assert len({text.casefold() for text in r["statements"]}) == 4, r["id"]
        assert (r["media"], r["category"]) not in [("image", "Temporal"), ("image", "Action Recognition")]
        assert r["source"] == "sample"
    captions = {r["caption"] for r in records}
    assert len({caption.split()[0] + caption.split()[1] for caption in captions}) > len(captions) // 2


def test_the_sample_is_never_called_anything_else(tmp_path):
    exported = export_dataset(load_sample(), tmp_path / "ted-6k", config_name="sample", source_note="Written by hand.")
    for path in ("sample", SAMPLE_FILE, exported, write(tmp_path / "copy.json", SAMPLE_FILE.read_text("utf-8"))):
        info = read_ted(path)[1]
        assert info["config"] == "sample" and info["fingerprint"] == fingerprint(load_sample()), path
    part = write(tmp_path / "part.json", dict(list(json.loads(SAMPLE_FILE.read_text("utf-8")).items())[:3]))
    assert read_ted(part)[1]["config"] == "custom"


# Statistics


def test_items_that_cannot_be_decided_are_found():
    first = record()
    reordered = [first["statements"][index] for index in (1, 0, 3, 2)]
    records = [
        first,
        record(id="same"),
        record(id="shuffled", statements=reordered, label=1),
        record(id="undecidable", statements=["It  sleeps. ", "it SLEEPS.", "It runs."]),
        record(id="contested", category="Basic Event", statements=["It sleeps badly.", "It does not."]),
        record(id="other", caption_id="b", statements=["It sleeps badly.", "It sleeps well."]),
    ]
    stats = describe(records)
    assert stats["duplicates"] == ["same", "shuffled"]
    assert stats["undecidable"] == ["undecidable"]
    assert stats["contested"] == ["contested"]
    assert stats["instances"] == 6 and stats["captions"] == 2
    assert stats["instances_per_caption"] == {"min": 1, "mean": 3.0, "max": 5}
    assert stats["chance"] == pytest.approx((3 / 4 + 1 / 3 + 2 / 2) / 6)
    assert rows(stats) == [
        ["category", "image", "video", "total"],
        ["Adverb", "5", "0", "5"],
        ["Basic Event", "1", "0", "1"],
        ["all", "6", "0", "6"],
    ]
    refused(lambda: describe([]), "no record")


def test_texts_that_pairs_share_with_the_benchmark_are_found_and_left_out():
    def pair(name, *texts, **more):
        return {"id": name, "media": "image", "source": "s", "caption_a": texts[0], "caption_b": texts[1], **more}

    pairs = [
        pair("own", "A dog.", "The dog."),
        pair("caption", "  a CAT sleeps\n soundly", "A cat."),
        pair("statement", "One.", "It sleeps rarely"),
        pair("negative", "Two.", "Three.", negatives=["it sleeps badly."]),
        pair("again", "It sleeps rarely", "Four.", negatives=None),
    ]
    assert shared_texts(pairs, [record()]) == ["  a CAT sleeps\n soundly", "It sleeps rarely", "it sleeps badly."]
    left_out = []
    assert [kept["id"] for kept in pairs_apart(pairs, [record()], left_out)] == ["own"]
    assert left_out == ["caption", "statement", "negative", "again"]
    assert shared_texts(pairs[:1], [record()]) == []


# Real data


def test_the_authors_own_file_is_read_whole(tmp_path):
    if not DEV.exists():
        pytest.skip(f"real TED-6K instances are absent: {DEV}")
    records, info = read_ted(DEV)
    stats = describe(records)
    assert (stats["instances"], stats["captions"]) == (300, 79)
    assert not any(info["skipped"].values()) and info["config"] == "custom"
    again, _ = read_ted(export_dataset(records, tmp_path / "ted-6k", config_name="custom", source_note="."))
    assert fingerprint(again) == info["fingerprint"]
