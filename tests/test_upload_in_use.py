"""What was pushed, in use: the libraries load it in a process that knows this Hub alone, and no file holds a token."""

import shutil
import subprocess
import sys
from pathlib import Path

from datasets import Dataset

from granted.publishing.upload import push_folder
from granted.tests import loopback_hub as loopback
from granted.tests.fresh_process import run_without_package
from granted.tests.loopback_hub import OWNER, TOKEN, File


PROGRAM = """
import os
import evaluate
import torch
from datasets import load_dataset
from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoTokenizer

owner = sys.argv[1]
for kind in ("private", "public"):
    if kind == "public":
        del os.environ["HF_TOKEN"]
    first = snapshot_download(f"{owner}/tiny_{kind}", revision="v1")
    assert open(f"{first}/note.txt").read() == "first"
    last = snapshot_download(f"{owner}/tiny_{kind}")
    assert open(f"{last}/note.txt").read() == "second"

    model = AutoModel.from_pretrained(f"{owner}/tiny_{kind}", revision="v1")
    tokens = AutoTokenizer.from_pretrained(f"{owner}/tiny_{kind}")("a red cube", return_tensors="pt")
    state = model(**tokens).last_hidden_state
    assert state.shape[-1] == 32 and torch.isfinite(state).all()

    rows = load_dataset(f"{owner}/rows_{kind}", "even", split="test")
    assert rows["n"] == [0, 2], rows["n"]
    assert load_dataset(f"{owner}/rows_{kind}", split="test")["n"] == [0, 2, 1, 3]
    assert next(iter(load_dataset(f"{owner}/rows_{kind}", split="test", streaming=True)))["n"] == 0

    metric = evaluate.load(f"{owner}/same_{kind}")
    assert metric.compute(predictions=[1, 2, 3], references=[1, 2, 4]) == {"same": 2}
"""
METRIC = """
import datasets
import evaluate


class Same(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"same": sum(a == b for a, b in zip(predictions, references))}
"""
CARD = """---
configs:
- config_name: default
  data_files: [{split: test, path: data/*.parquet}]
- config_name: even
  data_files: [{split: test, path: data/even.parquet}]
---
"""


def test_what_was_pushed_is_loaded_by_transformers_datasets_and_evaluate(hub, tmp_path, tiny_encoder_folder):
    """Private repositories with the token, then public ones without."""
    tiny = tmp_path / "tiny"
    shutil.copytree(tiny_encoder_folder, tiny)
    rows = tmp_path / "rows"
    Dataset.from_dict({"n": [0, 2]}).to_parquet(rows / "data" / "even.parquet")
    Dataset.from_dict({"n": [1, 3]}).to_parquet(rows / "data" / "odd.parquet")
    (rows / "README.md").write_text(CARD)
    for kind in ("private", "public"):
        options = {"message": "Release", "private": kind == "private"}
        for tag, note in (("v1", "first"), ("v2", "second")):
            (tiny / "note.txt").write_text(note)
            push_folder(tiny, f"{OWNER}/tiny_{kind}", "model", tag=tag, **options)
        push_folder(rows, f"{OWNER}/rows_{kind}", "dataset", **options)
        metric = tmp_path / f"same_{kind}"
        metric.mkdir()
        (metric / f"same_{kind}.py").write_text(METRIC)
        (metric / "README.md").write_text("---\nsdk: static\n---\n")
        push_folder(metric, f"{OWNER}/same_{kind}", "space", space_sdk="static", **options)
    run_without_package(PROGRAM, tmp_path, OWNER, environment=hub.environment(tmp_path, TOKEN))


WAYS = """
import os
import sys
from pathlib import Path

from huggingface_hub import constants

from granted import GrantedModel
from granted.publishing.upload import push_folder

token, root = sys.argv[1], Path(sys.argv[2])


def save(way, **options):
    model = GrantedModel.from_encoder("me/base", fusion="norm_avg", **options)
    model.save_pretrained(root / way)
    model.save_pretrained(root / f"{way}_fusion", fusion_only=True)


save("argument", token=token)
os.environ["HF_TOKEN"] = token
save("environment")
push_folder(root / "argument", "me/argument", "model", message="Release")
del os.environ["HF_TOKEN"]
Path(constants.HF_TOKEN_PATH).write_text(token)  # as hf auth login does
save("file")
push_folder(root / "environment_fusion", "me/file", "model", message="Release")
"""


def test_nothing_that_is_saved_or_pushed_holds_the_token_however_it_was_given(
    loopback_hub, tiny_encoder_folder, tmp_path
):
    hub = loopback_hub
    base = hub.repos["models", f"{OWNER}/base"] = loopback.Repo("models", f"{OWNER}/base", private=True, sdk=None)
    base.commit("first", {path.name: File(path.read_bytes()) for path in Path(tiny_encoder_folder).iterdir()})
    saved, environment = tmp_path / "saved", hub.environment(tmp_path / "home")
    (tmp_path / "home" / "hf_home").mkdir(parents=True)
    command = [sys.executable, "-c", WAYS, TOKEN, str(saved)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert TOKEN not in ran.stdout + ran.stderr
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert len({path.parent for path in files}) == 6 and len(hub.repos) == 3
    sent = [request.body for request in hub.log] + [request.path.encode() for request in hub.log]
    sent += [file.content for repo in hub.repos.values() for file in repo.head.files.values()]
    for content in [*(path.read_bytes() for path in files), *sent]:
        assert TOKEN.encode() not in content
