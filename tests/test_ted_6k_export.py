"""TED-6K exported: the folder, its card, its builder, and what `load_dataset` makes of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from granted.dataset_builders.ted_6k import export
from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.reading import load_sample, read_ted
from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA, snake_case
from granted.dataset_builders.ted_6k.statistics import describe
from granted.dataset_builders.ted_6k.ted_6k import CONFIG_FILES, Ted6K
from granted.tests.loopback_hub import OWNER, File, Repo
from granted.tests.ted_records import record, refused


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent") / "ted-6k"
    return export_dataset(load_sample(), folder, config_name="sample", source_note="Written by hand.")


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
