"""TED-6K: its schema, the authors' layout, the exported folder and the sample keep their promises."""

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.dataset_builders.ted_6k import export
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
from granted.dataset_builders.ted_6k.ted_6k import CONFIG_FILES, Ted6K
from granted.tests.loopback_hub import OWNER, File, Repo
from granted.utils.errors import InputError


DEV = Path(__file__).parents[2] / "shared" / "data" / "ted" / "ted6k_dev.json"


def record(**changes):
    base = {
        "id": "a/adverb",
        "caption_id": "a",
        "caption": "A cat sleeps soundly.",
        "media": "image",
        "category": "Adverb",
        "question": "How does it sleep?",
        "statements": ["It sleeps soundly.", "It sleeps badly.", "It sleeps lightly.", "It sleeps rarely."],
        "label": 0,
        "source": "test",
    }
    return {**base, **changes}


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


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent") / "ted-6k"
    return export_dataset(load_sample(), folder, config_name="sample", source_note="Written by hand.")


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


def test_the_sample_is_never_called_anything_else(tmp_path, exported):
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


# Export


def test_the_export_has_the_documented_layout(exported):
    files = sorted(str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file())
    stats = describe(load_sample())
    expected = [
        f"data/{media}/{snake_case(category)}.parquet"
        for category, count in stats["by_category"].items()
        for media in MEDIA
        if count[media]
    ]
    assert files == sorted(["README.md", "eval.yaml", "statistics.json", "ted_6k.py", *expected])
    written = json.loads((exported / "statistics.json").read_text("utf-8"))
    assert written == {"source_note": written["source_note"], **stats} and stats["config_name"] == "sample"
    for name in expected:
        assert b"huggingface" not in (pq.read_schema(exported / name).metadata or {})


def test_a_round_trip_changes_nothing(exported):
    records, info = read_ted(exported)
    assert sorted(records, key=lambda r: r["id"]) == sorted(load_sample(), key=lambda r: r["id"])
    assert info["skipped"] == {} and info["source"] == str(exported)
    one = exported / "data" / "video" / "temporal.parquet"
    assert read_ted(one)[0] == [r for r in load_sample() if r["category"] == "Temporal"]


def test_two_exports_are_the_same_bytes_and_one_replaces_the_other(exported, tmp_path):
    target = tmp_path / "ted-6k"
    for _ in range(2):
        export_dataset(load_sample(), target, config_name="sample", source_note="Written by hand.")
        for path in exported.rglob("*"):
            if path.is_file():
                assert path.read_bytes() == (target / path.relative_to(exported)).read_bytes(), path
    export_dataset(load_sample()[:1], target, config_name="custom", source_note="One.")
    assert len(list(target.rglob("*.parquet"))) == 1
    assert os.listdir(tmp_path) == ["ted-6k"]


def test_load_dataset_takes_the_folder_by_its_name(exported):
    script = (
        "import json, sys\n"
        "from datasets import load_dataset\n"
        "names = [None, *sys.argv[1:]]\n"
        "sets = {str(n): load_dataset('ted-6k', n, split='test') for n in names}\n"
        "print(json.dumps({n: sorted(d['id']) for n, d in sets.items()}))\n"
    )
    names = [name for name in CONFIG_FILES if name != "default"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(exported.parent / "cache")}
    answer = subprocess.run(
        [sys.executable, "-c", script, *names],
        cwd=exported.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    ids = json.loads(answer.stdout)
    records = load_sample()
    assert ids.pop("None") == sorted(r["id"] for r in records)
    assert set(ids) == {*MEDIA, *map(snake_case, CATEGORIES)}
    for name, got in ids.items():
        assert got == sorted(r["id"] for r in records if name in (r["media"], snake_case(r["category"]))), name


LOADED = """
import json, os, sys
from datasets import load_dataset

found = []
for parent in sys.argv[2:]:
    os.chdir(parent)
    rows = [load_dataset(sys.argv[1], name, split="test").to_list() for name in (None, "adverb")]
    assert rows[0] == rows[1]
    found.append([rows[0][0]["caption"], rows[0][0]["source"], len(rows[0])])
print(json.dumps(found))
"""


def loaded(name: str, *parents: Path, environment: dict[str, str]) -> list:
    """What `load_dataset(name)` finds in each folder, one after the other: first caption, first source, instances."""
    command = [sys.executable, "-c", LOADED, name, *map(str, parents)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_load_dataset_never_takes_one_export_for_another(tmp_path, loopback_hub):
    one, two = [record()], [record(), record(id="b/adverb")]
    exports = [one, two, [record(caption="A dog sleeps soundly.")], [record(source="else")], one]  # sizes alike, too
    contents = [[part[0]["caption"], part[0]["source"], len(part)] for part in exports]
    parents = []
    for number, records in enumerate(exports):
        parents.append(tmp_path / str(number))
        export_dataset(records, parents[-1] / "ted-6k", config_name="custom", source_note="The same.")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    assert loaded("ted-6k", *parents, environment=environment) == contents

    repo = loopback_hub.repos["datasets", f"{OWNER}/ted-6k"] = Repo("datasets", f"{OWNER}/ted-6k", False, None)
    for parent, content in zip(parents[:2], contents):
        folder = parent / "ted-6k"
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        repo.commit("another export", {name: File(path.read_bytes()) for name, path in files.items()})
        answer = loaded(f"{OWNER}/ted-6k", tmp_path, environment=loopback_hub.environment(tmp_path / "home"))
        assert answer == [content]


def test_configurations_without_rows_are_left_out(tmp_path):
    folder = export_dataset([record()], tmp_path / "ted-6k", config_name="custom", source_note="One.")
    front = yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])
    names = ["default", "image", "adverb"]
    assert [config["config_name"] for config in front["configs"]] == names
    assert [info["config_name"] for info in front["dataset_info"]] == names
    dataset = load_dataset(str(folder), "adverb", split="test", cache_dir=str(tmp_path / "cache"))
    assert dataset[0] == record()
    assert dataset.features == Ted6K(data_dir=str(folder), cache_dir=str(tmp_path)).info.features


@pytest.mark.parametrize(
    ("name", "licence", "words"),
    [
        ("official", "other", ["**official**", "states no licence"]),
        ("synthetic", "apache-2.0", ["**synthetic**", "not the benchmark that the paper scored", "How it was made"]),
        ("sample", "apache-2.0", ["**sample**", "no part", "Apache-2.0"]),
        ("custom", "unknown", ["**custom**", "Unknown"]),
    ],
)
def test_the_card_says_what_the_data_is(name, licence, words, tmp_path):
    folder = export_dataset([record()], tmp_path / "ted-6k", config_name="custom", source_note=".")
    text = export.render_card(
        folder, {"data/image/adverb.parquet": 1}, {**describe([record()]), "config_name": name}, "Some note."
    )
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == licence
    for word in (*words, "must never be presented", "Some note.", "cosine", "| all | 1 | 0 | 1 |", "25.0%"):
        assert word in body
    for other in {"**official**", "**synthetic**", "**sample**", "**custom**"} - {f"**{name}**"}:
        assert other not in body


def test_a_wrong_name_is_refused(tmp_path):
    for name, records in (("official", load_sample()), ("custom", load_sample()), ("sample", [record()])):
        refused(
            lambda name=name, records=records: export_dataset(
                records, tmp_path / "x", config_name=name, source_note="."
            ),
            name,
            "never",
        )
    refused(lambda: export_dataset([record()], tmp_path / "x", config_name="full", source_note=""), "'full'", "sample")
    assert os.listdir(tmp_path) == []


def test_a_failing_export_leaves_nothing_behind(tmp_path, monkeypatch):
    folder = tmp_path / "ted-6k"

    def export_one():
        export_dataset([record()], folder, config_name="custom", source_note=".")

    refused(lambda: export_dataset([record(label=7)], folder, config_name="custom", source_note="."), "label 7")
    if os.path.exists("/dev/full"):
        writer = pq.ParquetWriter

        def writer_on_full_disk(path, schema):
            path.symlink_to("/dev/full")
            return writer(path, schema)

        with monkeypatch.context() as patch:
            patch.setattr(export.pq, "ParquetWriter", writer_on_full_disk)
            refused(export_one, "No space left", str(folder))
    assert os.listdir(tmp_path) == []
    export_one()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(export.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_one()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(lambda: export_dataset([record()], tmp_path, config_name="custom", source_note="."), "other files")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


# The builder


def test_the_builder_reads_every_configuration(exported, tmp_path):
    for name in (None, "image", "basic_event"):
        builder = Ted6K(config_name=name, data_dir=str(exported), cache_dir=str(tmp_path))
        builder.download_and_prepare()
        got = builder.as_dataset(split="test")
        want = [r for r in load_sample() if name in (None, r["media"], snake_case(r["category"]))]
        assert sorted(got, key=lambda r: r["id"]) == sorted(want, key=lambda r: r["id"])
    streamed = Ted6K(config_name="video", data_dir=str(exported), cache_dir=str(tmp_path)).as_streaming_dataset("test")
    assert {r["media"] for r in streamed} == {"video"}
    given_files = Ted6K(
        config_name="ocr", data_files=str(exported / "data" / "image" / "*.parquet"), cache_dir=str(tmp_path)
    )
    given_files.download_and_prepare()
    assert {(r["media"], r["category"]) for r in given_files.as_dataset(split="test")} == {("image", "OCR")}
    with pytest.raises(ValueError, match="spatial_relationship"):
        Ted6K(config_name="Spatial", data_dir=str(exported))


def test_the_builder_does_not_return_an_earlier_export(tmp_path):
    for caption in ("First.", "Second."):
        export_dataset([record(caption=caption)], tmp_path / "ted-6k", config_name="custom", source_note=".")
        builder = Ted6K(data_dir=str(tmp_path / "ted-6k"), cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        assert builder.as_dataset(split="test")[0]["caption"] == caption


def test_the_builder_stands_alone(exported):
    script = (
        "import sys\n"
        "from ted_6k import Ted6K\n"
        "b = Ted6K(cache_dir=sys.argv[1])\n"
        "b.download_and_prepare()\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'granted']\n"
        "print(len(b.as_dataset(split='test')))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(exported.parent / "alone")],
        cwd=exported,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(answer.stdout) == len(load_sample())
    for line in (exported / "ted_6k.py").read_text("utf-8").splitlines():
        assert "granted" not in line
        assert not (line.startswith("import ") and "," in line), "datasets 3 reads one import per line"


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
