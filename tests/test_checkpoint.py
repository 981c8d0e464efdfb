"""What a checkpoint must have to be read: all weights, a tokenizer, code that may run, a commit to find it by."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)

from granted import ContextAggregator, ContextAggregatorConfig, GrantedModel, LayerFusion
from granted.encoding.controls import random_weights, words_alone
from granted.eval_metric.generation.sampling import load_pipeline
from granted.tests.conftest import SIZE
from granted.tests.loopback_hub import OWNER, TOKEN, File, Repo
from granted.tests.test_drop_in import lumina2
from granted.tests.test_families import DECODER, T5, llava
from granted.tests.tiny_models import IMAGE_VAE
from granted.training.diffusion.loop import load_part
from granted.training.vqa.export import _load_base
from granted.utils.errors import InputError


TEXT = "a red cube on a blue sphere"


def change_weights(folder, change, file: str = "model.safetensors") -> None:
    """`change(state)` the weights of a saved model."""
    state = load_file(Path(folder) / file)
    change(state)
    save_file(state, Path(folder) / file, metadata={"format": "pt"})


def drop(*beginnings: str):
    """A change that leaves out the weights whose names begin so."""

    def change(state):
        names = [name for name in state if name.startswith(beginnings)]
        assert names, f"none of {beginnings} in {sorted(state)}"
        for name in names:
            del state[name]

    return change


def damaged(folder, tmp_path, change) -> str:
    copy = shutil.copytree(folder, tmp_path / "damaged", dirs_exist_ok=True)
    change_weights(copy, change)
    return str(copy)


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("layers.1.mlp.up_proj.weight"), r"without the weights layers\.1\.mlp\.up_proj\.weight, expected all"),
        (drop("embed_tokens"), r"without the weights embed_tokens\.weight"),
        (drop("norm.weight"), r"without the weights norm\.weight"),
        (drop("layers."), r"without the weights layers\.0\.[\w.]+, layers\.0\.[\w.]+, layers\.0\.[\w.]+ and 33 more"),
        (
            lambda state: state.update({"layers.4.mlp.up_proj.weight": torch.ones(64, 32)}),
            r"with the unknown weights layers\.4\.mlp\.up_proj\.weight",
        ),
        (
            lambda state: state.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
            r"with the unknown weights model\.layers\.0\.self_attn\.q_proj\.bias",
        ),
        (
            lambda state: state.update({"norm.weight": torch.ones(31)}),
            r"without the weights norm\.weight \(32,\)",
        ),
    ],
)
def test_an_encoder_that_would_be_filled_at_random_is_refused_by_the_names(
    tiny_encoder_folder, tmp_path, change, message
):
    with pytest.raises(ValueError, match=message):
        GrantedModel.from_encoder(damaged(tiny_encoder_folder, tmp_path, change))


def whole_models():
    """Models around a trunk, and which of their weights no feature depends on."""
    llama = {**SIZE, "num_key_value_heads": 2, "vocab_size": 99}
    return {
        "head": (LlamaForCausalLM(LlamaConfig(**llama)), ()),
        "tied head": (LlamaForCausalLM(LlamaConfig(**llama, tie_word_embeddings=True)), ()),
        "no pooler": (BertForMaskedLM(BertConfig(**SIZE, vocab_size=99, max_position_embeddings=64)), ()),
        "no tower": (LlavaForConditionalGeneration(llava()), ("vision_tower", "multi_modal_projector")),
        "no decoder": (T5ForConditionalGeneration(T5Config(**T5)), ("decoder",)),
    }


@pytest.mark.parametrize("name", ["head", "tied head", "no pooler", "no tower", "no decoder"])
def test_weights_that_no_feature_depends_on_may_be_missing_or_left_over(name, tmp_path, make_tokenizer):
    model, unread = whole_models()[name]
    model.save_pretrained(tmp_path)
    make_tokenizer("[BOS]", "[EOS]").save_pretrained(tmp_path)
    if unread:
        change_weights(tmp_path, drop(*unread))
    fused = GrantedModel.from_encoder(tmp_path)
    assert fused.encode([TEXT])[0].isfinite().all()
    assert GrantedModel.from_encoder(tmp_path).fingerprint() == fused.fingerprint(), "two loads are two encoders"
    fused.save_pretrained(tmp_path / "fused")
    assert GrantedModel.from_pretrained(tmp_path / "fused").fingerprint() == fused.fingerprint()
    if name == "no tower":
        with pytest.raises(ValueError, match="without the weights multi_modal_projector"):
            GrantedModel.from_encoder(tmp_path, keep_vision=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("fusion.weights"), r"without the weights fusion\.weights"),
        (lambda state: state.update(extra=torch.ones(2)), "with the unknown weights extra"),
        (lambda state: state.update({"fusion.weights": torch.ones(3)}), r"without the weights fusion\.weights \(4,\)"),
    ],
)
@pytest.mark.parametrize("fusion_only", [False, True])
def test_a_saved_model_with_other_weights_than_its_own_is_refused(
    tiny_encoder_folder, tmp_path, change, message, fusion_only
):
    model = GrantedModel.from_encoder(tiny_encoder_folder)
    model.config.encoder_revision = "0123abc"  # as if the folder were a Hub id
    model.save_pretrained(tmp_path / "saved", fusion_only=fusion_only)
    with pytest.raises(ValueError, match=message):
        GrantedModel.from_pretrained(damaged(tmp_path / "saved", tmp_path, change))


def test_an_aggregator_with_other_weights_than_its_own_is_refused(tmp_path):
    ContextAggregator(ContextAggregatorConfig(32, num_heads=4, context_dim=16)).save_pretrained(tmp_path / "saved")
    for change, message in (
        (drop("context_token"), "without the weights context_token"),
        (lambda state: state.update(extra=torch.ones(2)), "with the unknown weights extra"),
    ):
        with pytest.raises(ValueError, match=message):
            ContextAggregator.from_pretrained(damaged(tmp_path / "saved", tmp_path, change))


def test_every_other_loader_refuses_missing_weights_by_name(tiny_encoder_folder, tmp_path, make_tokenizer):
    base = damaged(tiny_encoder_folder, tmp_path, drop("layers.1.mlp.up_proj"))
    with pytest.raises(InputError, match=r"without the weights lm_head\.weight, model\.layers\.1\.mlp\.up_proj"):
        _load_base(base, None, {"trust_remote_code": False})
    AutoencoderKL(**IMAGE_VAE).save_pretrained(tmp_path / "vae")
    file = "diffusion_pytorch_model.safetensors"
    change_weights(tmp_path / "vae", drop("decoder.conv_in.weight"), file)
    with pytest.raises(InputError, match=r"without the weights decoder\.conv_in\.weight"):
        load_part(AutoencoderKL, str(tmp_path / "vae"), "vae")

    tokenizer = make_tokenizer("[BOS]", None)
    encoder = LlamaForCausalLM(LlamaConfig(**SIZE, num_key_value_heads=2, vocab_size=len(tokenizer))).model
    lumina2(32, encoder, tokenizer).save_pretrained(tmp_path / "pipeline")
    for part, weights, name in (
        ("text_encoder", "model.safetensors", "norm.weight"),
        ("vae", file, "decoder.conv_in"),
    ):
        copy = shutil.copytree(tmp_path / "pipeline", tmp_path / f"without_{part}")
        change_weights(copy / part, drop(name), weights)
        with pytest.raises(InputError, match=f"whose {part} lacks {name}"):
            load_pipeline(str(copy))


# ----------------------------------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("kind", [Qwen2Config, BertConfig])
def test_a_checkpoint_without_a_tokenizer_is_refused_and_none_is_made_up(kind, tmp_path, tiny_encoder_folder):
    """Of its configuration alone transformers makes a tokenizer of Qwen2 or BERT that knows no word."""
    config = kind(**SIZE, vocab_size=99, max_position_embeddings=64)
    if kind is Qwen2Config:
        config.num_key_value_heads = 2
    model = (Qwen2Model if kind is Qwen2Config else BertForMaskedLM)(config)
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain without a tokenizer, expected one beside the weights"):
        GrantedModel.from_encoder(tmp_path / "plain")


@pytest.mark.parametrize("fusion_only", [False, True])
def test_a_saved_model_without_its_tokenizer_is_refused(tiny_encoder_folder, tmp_path, fusion_only):
    model = GrantedModel.from_encoder(tiny_encoder_folder)
    model.config.encoder_revision = "0123abc"
    model.save_pretrained(tmp_path, fusion_only=fusion_only)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="without a tokenizer"):
        GrantedModel.from_pretrained(tmp_path)


# ------------------------------------------------------------------------------------------- code that comes with them


CONFIGURATION = """
from transformers import PretrainedConfig, Qwen3Config


class OwnConfig(PretrainedConfig):
    model_type = "own_{name}"

    def __init__(self, llm_config=None, **kwargs):
        self.llm_config = Qwen3Config(**(llm_config or {{}}))
        super().__init__(**kwargs)
"""
# The shape of Ovis2.5 (`llm`) and of InternVL chat (`language_model`): a language model with its head, and a tower.
MODELING = """
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from .configuration_{name} import OwnConfig


class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "{prefix}"

    def __init__(self, config):
        super().__init__(config)
        self.{tower} = AutoModelForCausalLM.from_config(config.llm_config)
        self.vision_model = torch.nn.Linear(4, 4)
        {end}
"""


def write_own_code(folder: Path, tower: str, autos: list[str], declared: bool, works: bool) -> AutoModelForCausalLM:
    """A checkpoint with code of its own, and the language model in it."""
    name = folder.name  # transformers keeps all local code in one place, by the folder's name
    # The released code of both is of transformers 4: it calls no `post_init` and computes while it is built.
    end = "self.post_init()" if works else "self.rates = [x.item() for x in torch.linspace(0, 1, 3)]"
    folder.mkdir()
    (folder / f"configuration_{name}.py").write_text(CONFIGURATION.format(name=name))
    parts = {"name": name, "tower": tower, "prefix": "language_model" * (tower != "llm"), "end": end}
    (folder / f"modeling_{name}.py").write_text(MODELING.format(**parts))
    inner = {**DECODER, "model_type": "qwen3", **({"architectures": ["Qwen3ForCausalLM"]} if declared else {})}
    code = {"AutoConfig": f"configuration_{name}.OwnConfig"} | dict.fromkeys(autos, f"modeling_{name}.OwnModel")
    config = {"model_type": f"own_{name}", "auto_map": code, "llm_config": inner, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_config(Qwen3Config(**DECODER)).eval()
    state = {f"{tower}.{key}": tensor.clone() for key, tensor in model.state_dict().items()}
    state |= {"vision_model.weight": torch.randn(4, 4), "vision_model.bias": torch.randn(4)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return model


OVIS, INTERNVL = ("llm", ["AutoModelForCausalLM"]), ("language_model", ["AutoModel", "AutoModelForCausalLM"])


@pytest.fixture
def own_code(make_tokenizer, tmp_path):
    """`own_code(shape, ...)` writes such a checkpoint with its tokenizer; gives the folder and the language model."""
    made = []

    def make(shape, declared: bool = False, works: bool = True):
        folder = tmp_path / f"own{len(made)}_{abs(hash(str(tmp_path)))}"
        made.append(folder)
        model = write_own_code(folder, *shape, declared, works)
        make_tokenizer("[BOS]", None).save_pretrained(folder)
        return folder, model

    return make


@pytest.mark.parametrize(("declared", "works"), [(False, True), (True, False)])
@pytest.mark.parametrize("shape", [OVIS, INTERNVL], ids=["ovis", "internvl"])
def test_the_language_model_inside_an_encoder_with_code_of_its_own_is_read_and_saved_without_that_code(
    own_code, shape, declared, works, tmp_path
):
    folder, plain = own_code(shape, declared, works)
    model = GrantedModel.from_encoder(folder, trust_remote_code=True, fusion="norm_avg")
    input_ids = torch.randint(3, 90, (2, 7))
    with torch.no_grad():
        layers = plain.model(input_ids, output_hidden_states=True).hidden_states[1:]
        expected = LayerFusion("norm_avg", 3)(torch.stack(layers, dim=1))
        torch.testing.assert_close(model(input_ids).last_hidden_state, expected)
    assert not any("head" in name or "vision" in name for name in model.state_dict())
    model.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*own*.py"))
    loaded = GrantedModel.from_pretrained(tmp_path / "saved")
    assert loaded.config.encoder_config.model_type == "qwen3" and loaded.fingerprint() == model.fingerprint()
    assert torch.equal(loaded.encode([TEXT])[0], model.encode([TEXT])[0])


def test_code_that_may_not_run_or_fails_is_refused_in_one_line(own_code):
    folder, _ = own_code(OVIS)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        GrantedModel.from_encoder(folder)
    broken, _ = own_code(INTERNVL, declared=False, works=False)
    with pytest.raises(ValueError, match=r"cannot be read with transformers 5.*\(\w+Error: ") as caught:
        GrantedModel.from_encoder(broken, trust_remote_code=True)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_stays_in_code_of_its_own_is_not_saved_whole(own_code, tmp_path):
    folder, _ = own_code(OVIS)
    model = GrantedModel.from_encoder(folder, trust_remote_code=True, keep_vision=True)
    with pytest.raises(ValueError, match=r"with code of its own.*expected fusion_only=True"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# ------------------------------------------------------------------------------------------------------------- the Hub


# Runs where HF_ENDPOINT is a Hub on the loopback, with no token in its surroundings.
PROGRAM = """
import json
import os
import sys

import torch
from huggingface_hub import HfApi
from transformers import AutoModel
from granted import GrantedModel
from granted.encoding.loading import EncoderOptions, load_encoder

cache, token = sys.argv[1:]
found = {"token": token, "cache_dir": cache}
texts = ["a red cube on a blue sphere"]


def refused(*arguments, **options):
    try:
        GrantedModel.from_pretrained(*arguments, **options)
    except (OSError, ValueError) as error:
        return str(error)
    raise SystemExit(f"{arguments} {options} loaded")


model = GrantedModel.from_encoder("me/encoder", **found, local_files_only=False, force_download=False)
expected = model.encode(texts)[0]
model.save_pretrained("fusion", fusion_only=True, push_to_hub=True, repo_id="me/fusion", token=token)
model.save_pretrained("whole", push_to_hub=True, repo_id="me/whole", token=token)
commits = {"encoder": model.config.encoder_revision}

weights = model.encoder.embed_tokens.weight
weights.data.normal_()
model.encoder.save_pretrained("moved")  # the encoder's repository goes on
HfApi(token=token).upload_folder(repo_id="me/encoder", folder_path="moved")
for name in ("fusion", "whole"):
    again = GrantedModel.from_pretrained(f"me/{name}", **found)
    assert torch.equal(again.encode(texts)[0], expected), name
    assert again.config.encoder_revision == commits["encoder"]
    offline = AutoModel.from_pretrained(f"me/{name}", cache_dir=cache, local_files_only=True)
    assert torch.equal(offline.encode(texts)[0], expected), name
assert "me/encoder" in refused("me/fusion", cache_dir=cache + "_other")  # private, and no token

own = GrantedModel.from_encoder("me/own", trust_remote_code=True, **found)
expected = own.encode(texts)[0]
own.save_pretrained("own", fusion_only=True)
HfApi(token=token).upload_file(
    repo_id="me/own", path_in_repo="configuration_own.py", path_or_fileobj=b"raise SystemExit('the newest code ran')"
)
assert "trust_encoder_code=True" in refused("own", trust_remote_code=True, **found)
again = GrantedModel.from_pretrained("own", trust_encoder_code=True, token=token, cache_dir=cache + "_fresh")
assert torch.equal(again.encode(texts)[0], expected)
os.environ["HF_TOKEN"] = token  # which a command takes from there
_, again = load_encoder("own", EncoderOptions(trust_encoder_code=True))
assert torch.equal(again.encode(texts)[0], expected)
print(json.dumps(commits))
"""


def put(hub, repo_id: str, folder: str | Path, private: bool) -> Repo:
    repo = hub.repos["models", repo_id] = Repo("models", repo_id, private, None)
    files = {path.name: path for path in Path(folder).iterdir()}
    repo.commit(
        "upload", {name: File(path.read_bytes(), name.endswith("safetensors")) for name, path in files.items()}
    )
    return repo


def test_an_encoder_from_the_hub_is_pinned_and_found_again_with_the_options_it_was_fetched_with(
    loopback_hub, tiny_encoder_folder, make_tokenizer, tmp_path
):
    encoder = put(loopback_hub, f"{OWNER}/encoder", tiny_encoder_folder, private=True)
    commit = encoder.head.oid
    write_own_code(tmp_path / "own", *OVIS, declared=True, works=False)
    make_tokenizer("[BOS]", None).save_pretrained(tmp_path / "own")
    put(loopback_hub, f"{OWNER}/own", tmp_path / "own", private=False)
    (tmp_path / "work").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "cache"), TOKEN],
        env=loopback_hub.environment(tmp_path),
        cwd=tmp_path / "work",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == {"encoder": commit}
    # All that was sent or written down is free of the token, and a push is one commit with the tokenizer in it.
    written = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert written and not any(TOKEN.encode() in path.read_bytes() for path in written)
    for path in written:
        if path.name == "tokenizer_config.json":
            assert not {"local_files_only", "cache_dir", "token"} & json.loads(path.read_text()).keys(), path
    for name in ("fusion", "whole"):
        repo = loopback_hub.repos["models", f"{OWNER}/{name}"]
        sent = [commit for commit in repo.commits if "config.json" in commit.files]
        assert (
            len(sent) == 1 and {"tokenizer.json", "model.safetensors", "modeling_granted.py"} <= sent[0].files.keys()
        )
        assert not any(TOKEN.encode() in file.content for file in sent[0].files.values())


def test_a_dispatched_encoder_is_read_where_it_lies(tiny_encoder_folder, tmp_path, sentences):
    expected = GrantedModel.from_encoder(tiny_encoder_folder).encode(sentences)
    parts = {"embed_tokens": "cpu", "norm": "cpu", "rotary_emb": "cpu"}
    parts |= {f"layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
    spread = GrantedModel.from_encoder(tiny_encoder_folder, device_map=parts, offload_folder=tmp_path / "offloaded")
    assert (
        any(parameter.is_meta for parameter in spread.parameters()) and os.listdir(tmp_path / "offloaded") is not None
    )
    assert all(map(torch.equal, spread.encode(sentences), expected))
    assert spread.fingerprint() == GrantedModel.from_encoder(tiny_encoder_folder).fingerprint()


@pytest.mark.parametrize("control", [words_alone, random_weights])
def test_a_control_is_saved_and_loaded_as_any_model(control, tiny_bert_folder, tmp_path):
    model = control(GrantedModel.from_encoder(tiny_bert_folder, fusion="norm_avg"))
    model.save_pretrained(tmp_path)
    assert torch.equal(GrantedModel.from_pretrained(tmp_path).encode([TEXT])[0], model.encode([TEXT])[0])


def test_what_would_be_read_as_another_class_is_refused_before_it_is_saved(make_tokenizer):
    for model, kept in ((T5Model(T5Config(**T5)), "T5Stack"), (whole_models()["no pooler"][0], "BertForMaskedLM")):
        with pytest.raises(ValueError, match=f"got a {kept}, expected a .*: give that one, without a head"):
            GrantedModel.from_loaded(model, make_tokenizer("[BOS]", "[EOS]"))


def test_a_tokenizer_that_gives_no_mask_is_padded_with_one(tiny_bert_folder, sentences):
    model = GrantedModel.from_encoder(tiny_bert_folder, fusion="norm_avg")
    expected = model.encode(sentences)
    model.tokenizer.model_input_names = ["input_ids"]  # as SigLIP's
    assert all(map(torch.equal, model.encode(sentences), expected))
