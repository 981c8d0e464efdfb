"""The release as a whole: built from the miniature, loaded by the names people type, pushed, and loaded back."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from granted.errors import InputError
from granted.publishing.build import KINDS, Sources, build_release, miniature
from granted.push_to_hub import push


# Ahead of every program: this package cannot be imported.
BLOCKED = """
import importlib.abc
import sys


class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "granted":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
"""

# The lines of the README and the cards, with an owner in front of the names on the Hub and none beside the folders.
LINES = """
import evaluate
from datasets import load_dataset
from diffusers import DiffusionPipeline
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor, AutoTokenizer

model = AutoModel.from_pretrained("{owner}granted", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{owner}granted", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{owner}granted", trust_remote_code=True)
text = "On a white background, a red star in the centre."
(features,) = model.encode([text])
assert features.shape == (len(tokenizer(text)["input_ids"]), model.config.hidden_size)
assert processor(text)["input_ids"] == tokenizer(text)["input_ids"]

ted = load_dataset("{owner}ted-6k", split="test")
assert len(ted) == 6641
spatial = load_dataset("{owner}ted-6k", "spatial_relationship", split="test")
assert set(spatial["category"]) == {{"Spatial Relationship"}}

metric = evaluate.load("{owner}ted_accuracy")
assert metric.compute(predictions=[[0.9, 0.2], [0.1, 0.3]], references=[0, 0])["accuracy"] == 0.5

sentences = SentenceTransformer("{owner}granted", trust_remote_code=True)
assert sentences.similarity(sentences.encode([text]), sentences.encode([text])).item() > 0.999

for name, options in (("granted-lumina2", {{}}), ("granted-wan", {{"num_frames": 8}})):
    pipe = DiffusionPipeline.from_pretrained("{owner}" + name, trust_remote_code=True)
    assert type(pipe).__module__ == "diffusers_modules.local.pipeline_granted", type(pipe)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(text, negative_prompt="", height=32, width=32, num_inference_steps=2, output_type="np", **options)[0]
    assert drawn.shape[-3:] == (32, 32, 3)
assert "granted" not in sys.modules
"""


def run(program: str, folder: Path, environment: dict[str, str]) -> None:
    """Run a program in a process of its own, in which this package cannot be imported."""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKED + program],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,  # a question about remote code would fail
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]


def code_of(card: Path) -> str:
    """The Python code of a card, as it stands there."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", card.read_text(), flags=re.MULTILINE | re.DOTALL))


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    """The miniature's release, for use beside its folders."""
    folder = tmp_path_factory.mktemp("built") / "release"
    build_release(folder, miniature())
    return folder


@pytest.fixture
def offline(tmp_path) -> dict[str, str]:
    """The environment of a process with empty caches and no network."""
    caches = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    return os.environ | caches | {"HF_HUB_OFFLINE": "1"}


def test_the_same_sources_give_the_same_bytes(release, tmp_path):
    files = build_release(tmp_path / "again", miniature())
    assert hashes(tmp_path / "again") == hashes(release)
    named = {f"{name}/{file.path}": file.sha256 for name, entries in files.items() for file in entries}
    assert named == hashes(release), "the list of files is not what was built"


def test_the_folders_load_by_the_names_people_type(release, offline):
    run(LINES.format(owner=""), release, offline)


@pytest.mark.parametrize("name", KINDS)
def test_the_code_of_a_card_runs_as_it_stands_there(name, release, offline):
    code = code_of(release / name / "README.md")
    assert code
    run(code, release, offline)


def test_everything_is_pushed_and_loads_from_the_hub(loopback_hub, tmp_path, monkeypatch):
    hub = loopback_hub
    build_release(tmp_path / "release", miniature(), owner="me", tag="v1")
    hub.fail_next("PUT", "/lfs", "drop")
    with pytest.raises(InputError, match="run it again"):
        push(tmp_path / "release", "me", tag="v1")
    pushed = push(tmp_path / "release", "me", tag="v1")
    assert {one.repo_id for one in pushed} == {f"me/{name}" for name in KINDS}
    assert hub.count("POST", "/commit/") == len(KINDS)
    assert all(one.commit is None for one in push(tmp_path / "release", "me", tag="v1"))
    assert hub.count("POST", "/commit/") == len(KINDS), "a second push made a commit"

    environment = hub.environment(tmp_path / "home")
    (tmp_path / "empty").mkdir()
    run(LINES.format(owner="me/"), tmp_path / "empty", environment)
    for name in KINDS:
        run(code_of(tmp_path / "release" / name / "README.md"), tmp_path / "empty", environment)
    run(LINES.format(owner="me/"), tmp_path / "empty", environment | {"HF_HUB_OFFLINE": "1"})  # from the cache


# ----------------------------------------------------------------------------------------------------------- bad input


def test_sources_that_do_not_fit_are_one_clear_line_and_leave_nothing(tmp_path):
    tiny = miniature()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    shutil.copytree(tiny.checkpoint, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    bad = [
        (Sources(), "release", "neither of encoder and checkpoint"),
        (Sources(encoder="a/b", checkpoint="c"), "release", "got both or neither"),
        (Sources(checkpoint=tiny.checkpoint, revision="main"), "release", "with a checkpoint, which has its own"),
        (Sources(checkpoint=tmp_path / "nowhere"), "release", "nowhere"),
        (Sources(checkpoint=tmp_path / "other"), "release", "expected the folder of a GrantedModel"),
        (Sources(checkpoint=tiny.checkpoint, dtype="int3"), "release", "got dtype 'int3'"),
        (Sources(checkpoint=tiny.checkpoint, wan=tiny.lumina2), "release", "expected GrantedWanPipeline"),
        (Sources(checkpoint=tiny.checkpoint, ted=tmp_path), "release", "granted data ted"),
        (Sources(encoder="me/nowhere"), "release", "expected an encoder on the Hub"),
        (Sources(checkpoint=tiny.checkpoint), "mine", "holds thesis.txt"),
    ]
    before = sorted(os.listdir(tmp_path))
    for sources, output, message in bad:
        with pytest.raises(InputError, match=message) as caught:
            build_release(tmp_path / output, sources)
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before
