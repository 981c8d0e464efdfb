"""Caption pairs: the two texts of a pair share no caption, the seed decides all, and a bad row is named."""

import gzip
import itertools
import json
import os
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.dataset_builders.caption_pairs import pairs as module
from granted.dataset_builders.caption_pairs.pairs import (
    GroupReport,
    iter_pairs,
    pairs_from_authors_jsonl,
    pairs_from_columns,
    pairs_from_groups,
    read_caption_groups,
    read_pairs,
    write_pairs,
)
from granted.dataset_builders.loading import load_source
from granted.utils.errors import InputError


GROUPS = Path(__file__).parents[2] / "shared" / "data" / "caption_groups"


def pair(number=0, **changes):
    base = {"id": f"t/{number}", "media": "image", "caption_a": "A cat.", "caption_b": "One cat.", "source": "t"}
    return {**base, **changes}


def group(captions, name="g"):
    return {"id": name, "media": "video", "captions": captions}


def make(groups, **options):
    return list(pairs_from_groups(groups, **{"target_words": 6, "seed": 0, "source": "t", **options}))


def write_lines(path, *lines):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return path


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


sentence = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=8).map(" ".join)


@settings(deadline=None)
@given(captions=st.lists(sentence, min_size=1, max_size=9), target=st.integers(1, 40), seed=st.integers())
def test_the_texts_are_disjoint_whole_captions_near_the_target(captions, target, seed):
    made = make([group(captions)], target_words=target, seed=seed)
    distinct = {f"{caption}." for caption in captions}
    if len(distinct) < 2:
        assert made == []
        return
    texts = [made[0]["caption_a"], made[0]["caption_b"]]
    used = [[f"{part}." for part in text[:-1].split(". ")] for text in texts]
    assert len(set(used[0] + used[1])) == len(used[0]) + len(used[1]), "a caption is used twice"
    assert set(used[0] + used[1]) <= distinct
    longest = max(len(caption.split()) for caption in distinct)
    for text, parts in zip(texts, used):
        assert len(parts) == 1 or len(text.split()) <= target + longest / 2
    if len(used[0]) + len(used[1]) < len(distinct):
        assert min(len(text.split()) for text in texts) >= target - longest / 2, "stopped too early"
    assert made == make([group(captions[::-1])], target_words=target, seed=seed), "depends on the captions' order"


def test_pairs_depend_on_seed_and_group_alone():
    groups = [group([f"caption {n} of {g} here" for n in range(6)], f"g{g}") for g in range(30)]
    made = make(groups)
    assert make(reversed(groups)) == made[::-1] and make(groups[5:6]) == made[5:6]
    assert make(groups, limit=3) == made[:3]
    other = make(groups, seed=1)
    assert sum(a["caption_a"] != b["caption_a"] for a, b in zip(made, other)) > 20
    assert made[3]["id"] == "t/g3" and made[3]["media"] == "video" and made[3]["source"] == "t"


def test_two_long_captions_are_a_natural_pair_in_either_order():
    captions = ["word " * 50 + "first", "word " * 50 + "second?"]
    firsts = [make([group(captions, str(n))])[0]["caption_a"].split()[-1] for n in range(40)]
    assert set(firsts) == {"first.", "second?"}


def test_either_text_may_be_the_one_with_more_captions():
    counts = [make([group(["one a", "one b", "one c"], str(n))])[0]["caption_a"].count(".") for n in range(40)]
    assert set(counts) == {1, 2}


def test_repeated_and_unfinished_captions_are_settled_first():
    report = GroupReport()
    groups = [group(["A cat", " A  cat. ", "A cat."]), group(["one"]), group(["A cat", "A dog "], "kept")]
    made = make(groups, report=report)
    assert [{p["caption_a"], p["caption_b"]} for p in made] == [{"A cat.", "A dog."}]
    assert (report.pairs, report.skipped) == (1, 2)
    refused(lambda: make([], target_words=0), "target_words=0")
    refused(lambda: make([], limit=-1), "limit=-1")


def test_groups_are_streamed():
    endless = (group([f"a {n}", f"b {n}"], str(n)) for n in itertools.count())
    assert len(make(endless, limit=4)) == 4


@pytest.mark.parametrize("name", ["g.jsonl", "g.jsonl.gz"])
def test_caption_groups_are_read(tmp_path, name):
    path = write_lines(tmp_path / name, {**group(["a", "é"]), "split": "train"}, "", group(["c"], "h"))
    assert list(read_caption_groups(path)) == [group(["a", "é"]), group(["c"], "h")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["malformed"]),
        ("[1]", ["list"]),
        ({"id": "x", "media": "image"}, ["captions"]),
        (group([]), ["[]"]),
        (group("text"), ["'text'"]),
        (group(["a", " "]), ["caption ' '"]),
        (group(["a", None]), ["None"]),
        (group(["a", "\ud800"]), ["surrogate"]),
        ({**group(["a"]), "media": "audio"}, ["'audio'", "image, video"]),
        ({**group(["a"]), "id": 3}, ["id 3"]),
    ],
)
def test_a_bad_group_is_named_by_its_line(tmp_path, line, words):
    rows = read_caption_groups(write_lines(tmp_path / "g.jsonl", group(["a"]), line))
    next(rows)
    refused(lambda: next(rows), "line 2", *words)


def test_the_authors_file_is_read(tmp_path):
    row = {"processed_caption1": "A cat.", "processed_caption2": "One cat.", "other": 1}
    path = write_lines(tmp_path / "a.jsonl", row, row)
    assert list(pairs_from_authors_jsonl(path, source="t", media="video")) == [
        pair(1, media="video"),
        pair(2, media="video"),
    ]
    bad = write_lines(tmp_path / "b.jsonl", row, {"processed_caption1": "A cat."})
    refused(lambda: list(pairs_from_authors_jsonl(bad)), "line 2", "processed_caption2")
    bad = write_lines(tmp_path / "b.jsonl", {**row, "processed_caption1": ""})
    refused(lambda: list(pairs_from_authors_jsonl(bad)), "line 1", "caption_a ''")


@pytest.mark.parametrize("iterable", [False, True])
def test_pairs_come_from_any_two_columns(iterable):
    dataset = Dataset.from_dict({"x": ["A cat.", "A dog."], "y": ["One cat.", "One dog."], "kind": ["image", "video"]})
    dataset = dataset.to_iterable_dataset() if iterable else dataset
    assert next(pairs_from_columns(dataset, "x", "y", source="t")) == pair()
    assert [p["media"] for p in pairs_from_columns(dataset, "x", "y", source="t", media="kind")] == ["image", "video"]
    refused(lambda: list(pairs_from_columns(dataset, "x", "z", source="t")), "without z", "x, y, kind")
    empty = Dataset.from_dict({"x": ["A cat.", " "], "y": ["a", "b"]})
    refused(lambda: list(pairs_from_columns(empty, "x", "y", source="t")), "row 1 of t", "caption_a")


def test_a_column_named_as_a_medium_is_not_taken_for_the_medium():
    dataset = Dataset.from_dict({"image": [b"JFIF" * 99], "x": ["A cat."], "y": ["One cat."]})
    assert list(pairs_from_columns(dataset, "x", "y", source="t")) == [pair()]
    with pytest.raises(InputError, match=r"got media .* expected one of image, video") as caught:
        list(pairs_from_columns(dataset.rename_column("image", "kind"), "x", "y", source="t", media="kind"))
    assert len(str(caught.value)) < 200, "it shows a whole image"


def test_pairs_round_trip_through_parquet_and_json_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_GROUP", 4)
    several = [pair(n) for n in range(6)] + [pair(n, negatives=["A dog."]) for n in range(6, 10)]
    assert write_pairs(itertools.chain(several[:3], iter(several[3:])), tmp_path / "p.parquet") == 10
    assert read_pairs(tmp_path / "p.parquet") == several
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 3
    assert list(iter_pairs(write_lines(tmp_path / "p.jsonl.gz", *several))) == several


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("[", ["malformed"]),
        ({"processed_caption1": "x"}, ["without id, media, caption_a", "processed_caption1"]),
        (pair(caption_b=" "), ["caption_b"]),
        (pair(caption_a=None), ["caption_a None"]),
        (pair(media="gif"), ["'gif'"]),
        (pair(media=[]), ["media"]),
        (pair(negatives="x"), ["negatives"]),
        (pair(negatives=[""]), ["negative ''"]),
        (pair(source="\udfff"), ["source", "surrogate"]),
    ],
)
def test_a_bad_pair_is_named_by_its_line_and_never_written(tmp_path, row, words):
    refused(lambda: read_pairs(write_lines(tmp_path / "p.jsonl", pair(), row)), "line 2", *words)
    if isinstance(row, dict):
        refused(lambda: write_pairs([pair(), row], tmp_path / "p.parquet"), "pair 1", *words)
    assert os.listdir(tmp_path) == ["p.jsonl"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*module.FIELDS, "negatives"]), st.none() | st.text() | st.lists(st.text())))
def test_any_pair_is_written_or_refused(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("any") / "p.parquet"
    try:
        write_pairs([pair(**changes)], path)
    except InputError:
        assert os.listdir(path.parent) == []
    else:
        expected = pair(**changes)
        if expected.get("negatives", ()) is None:
            del expected["negatives"]
        assert read_pairs(path) == [expected]


def test_bad_parquet_is_one_line(tmp_path):
    path = tmp_path / "p.parquet"
    refused(lambda: read_pairs(path), "not a file")
    path.write_bytes(b"nothing")
    refused(lambda: read_pairs(path), str(path))
    pq.write_table(pa.table({"id": ["a"], "caption_a": ["x"]}), path)
    refused(lambda: read_pairs(path), "row 0", "caption_b")
    pq.write_table(pa.Table.from_pylist([pair(), pair(caption_b="")]), path)
    refused(lambda: read_pairs(path), "row 1", "caption_b ''")
    (tmp_path / "p.jsonl").write_bytes(b'{"id": "\xff"}\n')
    refused(lambda: read_pairs(tmp_path / "p.jsonl"), "line 1", "not UTF-8")


def test_a_foreign_file_that_cannot_be_read_is_one_line(tmp_path):
    offsets = pa.py_buffer(struct.pack("2i", 0, 1))
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")])
    one = pa.array(["x"])
    columns = {"id": one, "media": pa.array(["image"]), "caption_a": broken, "caption_b": one, "source": one}
    path = tmp_path / "latin.parquet"
    pq.write_table(pa.table(columns), path)
    refused(lambda: read_pairs(path), str(path), "utf-8")
    rows = load_source(str(path), streaming=True)
    refused(
        lambda: list(pairs_from_columns(rows, "caption_a", "caption_b", source="latin")), "latin from row 0", "utf-8"
    )

    write_pairs((pair(n, caption_a=f"{n} " * 50) for n in range(999)), tmp_path / "whole.parquet")
    data = bytearray((tmp_path / "whole.parquet").read_bytes())
    data[len(data) // 3 : len(data) // 3 + 999] = b"\x07" * 999
    (tmp_path / "damaged.parquet").write_bytes(data)
    refused(lambda: read_pairs(tmp_path / "damaged.parquet"), "damaged.parquet")

    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "\n")
    refused(lambda: read_pairs(tmp_path / "deep.jsonl"), "line 1", "nested too deeply")
    refused(lambda: load_source(str(tmp_path / "deep.jsonl"), streaming=True), "deep.jsonl")
    refused(lambda: read_pairs("n" * 300 + ".parquet"), "not a file")
    refused(lambda: read_pairs(tmp_path / "a\nb.jsonl"), "a b.jsonl", "does not exist")
    refused(lambda: load_source(str(path), "test", streaming=True), "test")


def test_nothing_half_written_stays(tmp_path):
    refused(lambda: write_pairs([], tmp_path / "p.parquet"), "no pair")

    def stops():
        yield pair()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pairs(stops(), tmp_path / "p.parquet")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["flickr30k", "activitynet_val_paragraphs", "comprecap_mllm_long"])
def test_real_caption_groups_make_pairs(name):
    path = GROUPS / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"real caption groups are absent: {path}")
    report = GroupReport()
    made = make(read_caption_groups(path), target_words=25, limit=300, report=report)
    assert len(made) == 300 and report.skipped == 0
    assert all(p["caption_a"] != p["caption_b"] for p in made)
