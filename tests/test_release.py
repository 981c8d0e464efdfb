"""The release as a whole: built from the miniature, loaded by the names people type, pushed, and loaded back."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import load_dataset
from diffusers import FlowMatchEulerDiscreteScheduler
from filelock import FileLock
from huggingface_hub import ModelCard, parse_eval_result_entries
from safetensors.torch import load_file

from granted import GrantedConfig, GrantedModel
from granted.dataset_builders.caption_pairs.pairs import CaptionPair, write_pairs
from granted.dataset_builders.construction.card import ExportSettings, training_card
from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.reading import load_sample
from granted.model_cards.kinds import KINDS, REPOSITORIES
from granted.pipeline_granted import GrantedWanPipeline
from granted.publishing.build import build_release, miniature
from granted.publishing.sources import Sources
from granted.tests.fresh_process import offline, run_without_package
from granted.tests.loopback_hub import OWNER, TOKEN, File, LoopbackHub, Repo
from granted.tests.tiny_models import video_transformer
from granted.utils.errors import InputError


ROOT = Path(__file__).parents[1]


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

assert len(load_dataset("{owner}training-data", "pairs", split="train")) == 3

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


def kind_of(name: str) -> str:
    """As the loopback Hub keeps it."""
    return f"{KINDS[REPOSITORIES[name]].repo_type}s"


def code_of(card: Path) -> str:
    """The Python code of a card, as it stands there."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", card.read_text(), flags=re.MULTILINE | re.DOTALL))


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of all files of the repositories."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent != folder]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Sources:
    """The miniature's, and a pipeline for videos whose weights are random."""
    folder = tmp_path_factory.mktemp("sources")
    tiny = miniature()
    encoder = GrantedModel.from_pretrained(tiny.checkpoint)
    transformer = video_transformer(text_dim=encoder.config.hidden_size)
    wan = GrantedWanPipeline(transformer, FlowMatchEulerDiscreteScheduler(), None, encoder, None)
    wan.save_pretrained(folder / "granted-wan")
    scores = Path(shutil.copytree(tiny.scores, folder / "scores"))
    (scores / "granted-wan").mkdir()
    for name in ("grid.png", "training_record.json"):
        shutil.copy(ROOT / "results" / "stage2" / "video" / name, scores / "granted-wan")
    given = {"wan": folder / "granted-wan", "scores": scores, "results": tiny.scores, "leaderboard": tiny.scores}
    return replace(tiny, **given, training_data=training_data(folder / "data"))


def training_data(folder: Path) -> Path:
    """What `granted data construct` exports for training, of three pairs."""
    texts = ["A red cube lies on a blue ball.", "Two cats sleep.", "A dog runs over the wet street."]
    pair = {"media": "image", "source": "construct"}
    pairs = [CaptionPair(id=str(i), caption_a=text, caption_b=f"Seen: {text}", **pair) for i, text in enumerate(texts)]
    write_pairs(pairs, folder / "pairs.parquet")
    settings = ExportSettings(license="cc-by-4.0", source_license="apache-2.0")
    (folder / "README.md").write_text(training_card(folder, settings, "By hand."))
    return folder


@pytest.fixture(scope="session")
def release(sources, tmp_path_factory) -> Path:
    """A whole release, for use beside its folders."""
    folder = tmp_path_factory.mktemp("built") / "release"
    build_release(folder, sources)
    return folder


def test_the_same_sources_give_the_same_bytes_and_every_step_is_told(release, sources, tmp_path):
    killed, running = tmp_path / ".again.x.tmp", tmp_path / ".again.y.tmp"  # what builds leave when they are killed
    for one in (killed, running):
        (one / "again").mkdir(parents=True)
        (one / "granted.lock").touch()
    (tmp_path / ".again.z.tmp").mkdir()  # somebody else's
    lines = []
    with FileLock(running / "granted.lock"):
        files = build_release(tmp_path / "again", sources, report=lines.append)
        assert sorted(os.listdir(tmp_path)) == [".again.y.tmp", ".again.z.tmp", "again"]
    assert hashes(tmp_path / "again") == hashes(release)
    named = {f"{name}/{file.path}": file.sha256 for name, entries in files.items() for file in entries}
    assert named == hashes(release), "the list of files is not what was built"
    for name in REPOSITORIES:
        assert f"building {name}" in lines and f"checking and hashing {name}" in lines


# Every card by itself, as if nothing had been run before it.
CARDS = """
import sys
from pathlib import Path

for card in sys.argv[1:]:
    exec(compile(Path(card).read_text(), card, "exec"), {"__name__": "__main__"})
"""


def test_the_folders_load_by_the_names_people_type_and_the_code_of_a_card_runs_as_it_stands_there(release, tmp_path):
    for name in REPOSITORIES:
        code = code_of(release / name / "README.md")
        assert code, name
        (tmp_path / f"{name}.py").write_text(code)
    cards = [tmp_path / f"{name}.py" for name in REPOSITORIES]
    run_without_package(LINES.format(owner="") + CARDS, release, *cards, environment=offline(tmp_path))


def test_the_hub_finds_the_results_of_the_model_under_the_task_of_the_benchmark(release):
    (path,) = (release / "granted" / ".eval_results").iterdir()
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    card = ModelCard.load(release / "granted" / "README.md")
    (shown,) = (one for one in card.data.eval_results if "aggregator" in one.metric_name)
    (task,) = yaml.safe_load((release / "ted-6k" / "eval.yaml").read_text())["tasks"]
    assert (path.name, entry.dataset_id, entry.task_id) == ("ted-6k.yaml", "ted-6k", task["id"])
    assert entry.value == shown.metric_value and shown.dataset_args["fingerprint"] in entry.notes
    load_dataset(str(release / "ted-6k"), task["config"], split=task["split"])


COMMANDS = """
import contextlib, io, json, sys
from granted import cli

ran = []
for arguments in json.loads(sys.argv[1]):
    out, error, code = io.StringIO(), io.StringIO(), 0
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    ran.append([code, out.getvalue(), error.getvalue()])
print(json.dumps(ran))
"""


def run_commands(*commands: tuple[object, ...], environment: dict[str, str]) -> list[tuple[int, str, str]]:
    """Run commands one after the other, in one process that knows the loopback Hub alone; code, stdout and stderr."""
    given = json.dumps([[*map(str, command)] for command in commands])
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, given], env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_everything_is_pushed_by_one_command_and_loads_from_the_hub(release, sources, loopback_hub, tmp_path):
    hub = loopback_hub
    owner = hub.environment(tmp_path / "owner", TOKEN)
    command = ("push", "--to", OWNER, "--public", "--tag", "v1", "--output", tmp_path / "release")
    for name in ("checkpoint", "aggregator", "lumina2", "wan", "training_data", "leaderboard", "scores", "license"):
        command = (*command, f"--{name.replace('_', '-')}", getattr(sources, name))
    command = (*command, "--results", sources.results, "--ted", release / "ted-6k")
    hub.fail_next("POST", "/api/models/.*lumina2/commit/", 500)  # once: it goes on by itself
    hub.fail_next("POST", "/api/datasets/.*/commit/", 402)
    runs = run_commands(command, command, command, environment=owner)
    assert [code for code, *_ in runs] == [2, 0, 0], runs
    (_, begun, error), (_, done, _), (_, again, _) = runs
    assert error.count("\n") == 1 and "HTTP 402" in error
    assert set(hub.repos) == {(kind_of(name), f"{OWNER}/{name}") for name in REPOSITORIES}
    assert all(f"{OWNER}/{name}: " in done for name in REPOSITORIES)
    assert "HTTP 500 (planned) from the Hub; trying again" in begun + done
    assert again.count("nothing had changed") == len(REPOSITORIES)
    released = [path for path in (tmp_path / "release").rglob("*") if path.is_file()]
    assert released and not any(TOKEN.encode() in path.read_bytes() for path in released)
    missing = len(REPOSITORIES) + 2
    assert hub.count("POST", "/commit/") == missing, "a rerun made more than the commits that were missing"

    reader = hub.environment(tmp_path / "reader")  # empty caches, no token
    (tmp_path / "empty").mkdir()
    cards = [code_of(tmp_path / "release" / name / "README.md") for name in REPOSITORIES]
    run_without_package(LINES.format(owner=f"{OWNER}/") + "\n".join(cards), tmp_path / "empty", environment=reader)
    # Offline, datasets asks which of the configurations in its cache is meant, and diffusers asks the Hub all the same
    # for the code of a pipeline: its folder, from snapshot_download, is what loads then.
    cached = LINES.format(owner=f"{OWNER}/").replace('ted-6k", split', 'ted-6k", "default", split')
    cached = cached[: cached.index("for name, options")]
    run_without_package(cached, tmp_path / "empty", environment=reader | {"HF_HUB_OFFLINE": "1"})


def test_a_dry_run_lists_every_file_and_sends_nothing(granted, hub, tmp_path):
    command = ("push", "--preset", "tiny", "--to", OWNER, "--dry-run", "--output", tmp_path / "release")
    code, listed, error = granted(*command)
    assert code == 0, error
    for path, sha256 in hashes(tmp_path / "release").items():
        size = (tmp_path / "release" / path).stat().st_size
        assert re.search(rf"{sha256[:16]} +{size:,}  {re.escape(path.split('/', 1)[1])}$", listed, flags=re.MULTILINE)
    assert not hub.log


@pytest.fixture(scope="module")
def of_the_hub(release, tiny_encoder_folder, tmp_path_factory) -> SimpleNamespace:
    """Two models of an encoder on a Hub, each released: one of a folder by its weights alone, one of the encoder."""
    folder = tmp_path_factory.mktemp("of_the_hub")
    files = {path.name: File(path.read_bytes()) for path in Path(tiny_encoder_folder).iterdir()}
    with LoopbackHub() as hub:
        base = hub.repos["models", f"{OWNER}/base"] = Repo("models", f"{OWNER}/base", private=False, sdk=None)
        base.commit("first", files)
        pinned = base.head.oid
        of_a_folder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="learned")
        settings = {"prompt_template": "describe {prompt}", "template_drop_tokens": 2, "max_sequence_length": 9}
        of_the_encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="learned", **settings, layers=[1, 2])
        of_the_encoder.config.encoder_name_or_path = f"{OWNER}/base"
        of_the_encoder.config.encoder_revision = pinned
        models = {"of_a_folder": of_a_folder, "of_the_encoder": of_the_encoder}
        for name, model in models.items():
            torch.nn.init.normal_(model.fusion.weights)
            model.save_pretrained(folder / name)
        environment = hub.environment(folder / "owner")
        command = ("push", "--encoder", f"{OWNER}/base", "--license", "mit", "--build-only")
        command = (*command, "--ted", release / "ted-6k", "--layer-weights")
        runs = run_commands(
            (*command, folder / "of_a_folder" / "model.safetensors", "--output", folder / "release"),
            (*command, folder / "of_a_folder", "--output", folder / "no"),
            (*command, folder / "of_the_encoder", "--output", folder / "whole"),
            environment=environment,
        )
        base.commit("second", {"config.json": File(b"{}")})  # the branch moves on
        yield SimpleNamespace(**models, folder=folder, pinned=pinned, runs=runs, environment=environment)


def test_an_encoder_on_the_hub_is_released_as_its_fusion_and_a_pinned_revision(of_the_hub, sentences):
    folder, (done, failed, _) = of_the_hub.folder, of_the_hub.runs
    assert done[0] == 0, done
    names = {path.name for path in (folder / "release" / "granted").iterdir()}
    assert (folder / "release" / "granted" / "model.safetensors").stat().st_size < 1000, "it holds the encoder"
    assert {"README.md", "config.json", "modeling_granted.py", "tokenizer.json"} <= names
    assert failed[0] == 2 and "release it whole as checkpoint" in failed[2] and not (folder / "no").exists()
    program = f"""
from safetensors.torch import save_file
from transformers import AutoModel

model = AutoModel.from_pretrained("granted", trust_remote_code=True)
assert model.config.encoder_revision == "{of_the_hub.pinned}"
save_file({{str(i): row for i, row in enumerate(model.encode({sentences!r}))}}, "{folder}/features.safetensors")
"""
    run_without_package(program, folder / "release", environment=of_the_hub.environment)
    features = load_file(folder / "features.safetensors")
    for i, expected in enumerate(of_the_hub.of_a_folder.encode(sentences)):
        torch.testing.assert_close(features[str(i)], expected)


def test_a_saved_model_of_an_encoder_on_the_hub_gives_all_its_settings(of_the_hub):
    model, done = of_the_hub.of_the_encoder, of_the_hub.runs[2]
    assert done[0] == 0, done
    config = GrantedConfig.from_pretrained(of_the_hub.folder / "whole" / "granted")
    assert config.fusion_options() == model.config.fusion_options()
    weights = load_file(of_the_hub.folder / "whole" / "granted" / "model.safetensors")
    assert weights.keys() == {"fusion.weights"} and torch.equal(weights["fusion.weights"], model.fusion.weights)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (None, "weights_fingerprint", "0" * 64),
        ("settings", "prompt_template", "Describe: {prompt}"),
        ("settings", "template_drop_tokens", 2),
    ],
)
def test_scores_of_another_encoder_are_not_put_into_a_card(release, tmp_path, part, name, value):
    tiny = miniature()
    scores = Path(shutil.copytree(tiny.scores, tmp_path / "scores"))
    path = sorted((scores / "ted").glob("*.json"))[0]
    result = json.loads(path.read_text())
    where = result["provenance"]
    (where[part] if part else where)[name] = value
    path.write_text(json.dumps(result))
    sources = Sources(checkpoint=tiny.checkpoint, scores=scores, ted=release / "ted-6k", license="apache-2.0")
    with pytest.raises(InputError, match=f"{path.name} with (the )?{name} "):
        build_release(tmp_path / "release", sources)
    assert not (tmp_path / "release").exists()


def test_sources_that_do_not_fit_are_one_clear_line_and_leave_nothing(tmp_path):
    tiny = miniature()
    (tmp_path / "ted").mkdir()
    ted = export_dataset(load_sample(), tmp_path / "ted" / "ted-6k", config_name="sample", source_note=".")
    good = {"checkpoint": tiny.checkpoint, "license": "apache-2.0", "ted": ted}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    shutil.copytree(tiny.checkpoint, tmp_path / "runs" / "granted")  # called as a released folder is, and none
    for name, file, content in (
        ("other", "config.json", '{"model_type": "bert"}'),
        ("record", "training_record.json", "[]"),
        ("linked", "vocab.json", None),
    ):
        shutil.copytree(tiny.checkpoint, tmp_path / name)
        if content is None:
            (tmp_path / name / file).symlink_to(tmp_path / "mine" / "thesis.txt")
        else:
            (tmp_path / name / file).write_text(content)
    bad = [
        (Sources(license="mit"), "release", "neither of encoder and checkpoint"),
        (Sources(encoder="a/b", checkpoint="c"), "release", "got both or neither"),
        (Sources(**good, revision="main"), "release", "with a checkpoint, which has its own"),
        (Sources(checkpoint=tiny.checkpoint), "release", "got no license"),
        (Sources(**good | {"checkpoint": tmp_path / "nowhere"}), "release", "nowhere"),
        (Sources(**good | {"checkpoint": tmp_path / "other"}), "release", "expected the folder of a GrantedModel"),
        (Sources(**good | {"checkpoint": tmp_path / "record"}), "release", "expected the record of a training"),
        (Sources(**good | {"checkpoint": tmp_path / "linked"}), "release", "vocab.json, which is a link"),
        (Sources(**good, dtype="int3"), "release", "got dtype 'int3'"),
        (Sources(encoder="a/b", dtype="float16", license="mit"), "release", "got a dtype with an encoder that is"),
        (Sources(**good, scores=tmp_path / "nowhere"), "release", "nowhere for the scores"),
        (Sources(**good, scores=tmp_path / "mine"), "release", "mine without one of ted/"),
        (Sources(**good, aggregator=tmp_path / "nowhere"), "release", "expected the folder of a context aggregator"),
        (Sources(**good, wan=tiny.lumina2), "release", "expected GrantedWanPipeline"),
        (Sources(**good | {"ted": tmp_path}), "release", "expected"),
        (Sources(encoder="me/nowhere", license="mit", ted=ted), "release", "expected a plain encoder on the Hub"),
        (Sources(**good), "mine", "holds thesis.txt"),
        (Sources(**good), "runs", "runs, which holds granted/"),
    ]
    before = sorted(os.listdir(tmp_path))
    for sources, output, message in bad:
        with pytest.raises(InputError, match=message) as caught:
            build_release(tmp_path / output, sources)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "runs" / "granted" / "model.safetensors").exists()
    assert sorted(os.listdir(tmp_path)) == before


def test_weights_are_cast_and_folders_of_this_machine_left_out_of_records(release, sentences, tmp_path):
    tiny = miniature()
    shutil.copytree(tiny.checkpoint, tmp_path / "checkpoint")
    model = GrantedModel.from_pretrained(tiny.checkpoint)
    model.calibrate(sentences)
    model.save_pretrained(tmp_path / "checkpoint")
    record = json.loads((tmp_path / "checkpoint" / "training_record.json").read_text())
    record["settings"]["output_dir"] = "/home/somebody/run"
    (tmp_path / "checkpoint" / "training_record.json").write_text(json.dumps(record))
    sources = Sources(checkpoint=tmp_path / "checkpoint", license="mit", dtype="float16", ted=release / "ted-6k")
    build_release(tmp_path / "release", sources)
    assert not (tmp_path / "release" / "granted" / ".eval_results").exists(), "it has results and none were given"
    weights = load_file(tmp_path / "release" / "granted" / "model.safetensors")
    original = load_file(tmp_path / "checkpoint" / "model.safetensors")
    exact = {name for name, tensor in weights.items() if tensor.dtype == torch.float32}
    assert exact == {"fusion.weights", "standardization.mean", "standardization.deviation"}, "the fusion was rounded"
    assert {tensor.dtype for name, tensor in weights.items() if name not in exact} == {torch.float16}
    assert all(torch.equal(weights[name], original[name].to(weights[name].dtype)) for name in original)
    released = json.loads((tmp_path / "release" / "granted" / "training_record.json").read_text())
    assert released["settings"]["output_dir"] == "run" and released["steps"] == record["steps"]
