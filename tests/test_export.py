"""From a fine-tuned model or adapter to a text encoder: the same features, and nothing written for a wrong one."""

import json
import os
import shutil

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from granted import GrantedModel
from granted.training.vqa.export import export_encoder, model_fingerprint
from granted.utils.errors import InputError


PROJECTIONS = r".*language_model.*(q_proj|v_proj|up_proj|down_proj)"
RECORD = {"base_model": "org/base", "base_revision": "0123abc", "base_fingerprint": None, "steps": 3}


def tiny_config(vocab_size: int, hidden_size: int = 32, num_hidden_layers: int = 3) -> Qwen3VLConfig:
    return Qwen3VLConfig(
        text_config={
            "hidden_size": hidden_size,
            "intermediate_size": 64,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": vocab_size,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": hidden_size,
            "deepstack_visual_indexes": [0],
        },
    )


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer("[BOS]", None)


@pytest.fixture(scope="module")
def make_base(tokenizer, tmp_path_factory):
    """`make_base(seed, ...)` saves a vision-language model with random weights; returns its folder."""

    def make(seed: int = 0, model=Qwen3VLForConditionalGeneration, **size) -> str:
        folder = tmp_path_factory.mktemp("bases") / "base"
        torch.manual_seed(seed)
        config = LlamaConfig(**size) if model is LlamaForCausalLM else tiny_config(len(tokenizer), **size)
        model(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def base(make_base) -> str:
    return make_base()


@pytest.fixture
def make_run(base, tokenizer, tmp_path):
    """`make_run(peft_config, ...)` writes what the trainer's `save_model` writes; returns the folder."""

    def make(peft_config=None, on: str = base, record: dict | None = None, auto=AutoModelForImageTextToText):
        model = auto.from_pretrained(on)
        if peft_config is not None:
            model = get_peft_model(model, peft_config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:  # adapters begin as nothing: make them matter
                        parameter.add_(0.1 * torch.randn_like(parameter))
        run = tmp_path / "run"
        arguments = TrainingArguments(tmp_path / "trainer", report_to="none", use_cpu=True)
        Trainer(model, arguments, processing_class=tokenizer).save_model(run)
        if record is not None:
            (run / "training_record.json").write_text(json.dumps(record))
        return run

    return make


def lora(**options) -> LoraConfig:
    return LoraConfig(r=4, target_modules=PROJECTIONS, **options)


@torch.no_grad()
def norm_avg(model, tokenizer, sentences) -> list[torch.Tensor]:
    """Equation 1 over the hidden states of a whole model: one (N_i, D) tensor per text."""
    features = []
    for text in sentences:
        output = model.eval()(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        layers = torch.stack(output.hidden_states[1:]).float()  # (L, 1, N, D)
        features.append(F.layer_norm(layers, layers.shape[-1:]).mean(0)[0])  # (N, D)
    return features


def largest_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def assert_refused(run, tmp_path, message: str, **options) -> None:
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=message) as caught:
        export_encoder(run, tmp_path / "out", **options)
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before, "something was written"


# --------------------------------------------------------------------------------------------------- the same features


def test_a_whole_model_gives_the_features_and_ids_of_the_fine_tuned_model(make_run, tokenizer, tmp_path, sentences):
    run = make_run()
    assert export_encoder(run, tmp_path / "out") == tmp_path / "out"
    encoder = GrantedModel.from_pretrained(tmp_path / "out")
    whole = Qwen3VLForConditionalGeneration.from_pretrained(run)
    assert encoder.config.fusion == "norm_avg" and encoder.dtype == torch.float32
    assert largest_difference(encoder.encode(sentences), norm_avg(whole, tokenizer, sentences)) < 1e-5
    assert encoder.tokenize(sentences) == tokenizer(sentences)["input_ids"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"modules_to_save": ["embed_tokens"]},
        {"use_rslora": True, "bias": "lora_only"},
        {"trainable_token_indices": [7, 9]},
    ],
    ids=["lora", "dora", "modules_to_save", "rslora_bias", "tokens"],
)
def test_an_adapter_gives_the_features_and_ids_of_base_and_adapter(
    make_run, base, tokenizer, tmp_path, sentences, options
):
    run = make_run(lora(**options))
    export_encoder(run, tmp_path / "out")
    encoder = GrantedModel.from_pretrained(tmp_path / "out")
    features = encoder.encode(sentences)
    plain = norm_avg(Qwen3VLForConditionalGeneration.from_pretrained(base), tokenizer, sentences)
    assert largest_difference(features, plain) > 0.1, "the adapter changes nothing"
    unmerged = PeftModel.from_pretrained(Qwen3VLForConditionalGeneration.from_pretrained(base), run)
    assert largest_difference(features, norm_avg(unmerged, tokenizer, sentences)) < 1e-5
    merged = unmerged.merge_and_unload()
    assert largest_difference(features, norm_avg(merged, tokenizer, sentences)) < 1e-5
    assert encoder.tokenize(sentences) == tokenizer(sentences)["input_ids"]


@pytest.mark.parametrize("dtype", ["float32", "auto", "bfloat16"])
def test_base_and_adapter_are_added_in_fp32_and_rounded_once(make_base, tokenizer, tmp_path, dtype):
    """In bf16 a third of an adapter as small as this one would be lost to rounding."""
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    llama = make_base(0, LlamaForCausalLM, vocab_size=len(tokenizer), **size)
    LlamaForCausalLM.from_pretrained(llama, dtype=torch.bfloat16).save_pretrained(llama)
    model = LlamaForCausalLM.from_pretrained(llama, dtype="auto")
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1e-3)
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    weights = load_file(tmp_path / "run" / "adapter_model.safetensors")
    a, b = (next(w for name, w in weights.items() if part in name) for part in ("lora_A", "lora_B"))  # (4, D), (D, 4)
    whole = load_file(f"{llama}/model.safetensors")["model.layers.0.self_attn.q_proj.weight"].float() + 2 * (b @ a)
    export_encoder(tmp_path / "run", tmp_path / "out", dtype=dtype)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    (name,) = (name for name in exported if name.endswith("layers.0.self_attn.q_proj.weight"))
    assert exported[name].dtype == (torch.float32 if dtype == "float32" else torch.bfloat16)
    assert torch.equal(exported[name], whole.to(exported[name].dtype))


def test_a_text_only_base_is_merged_too(make_base, make_run, tokenizer, tmp_path, sentences):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = make_base(0, LlamaForCausalLM, vocab_size=len(tokenizer), **size)
    run = make_run(LoraConfig(r=4, target_modules=["q_proj"]), on=llama, auto=AutoModelForCausalLM)
    export_encoder(run, tmp_path / "out")
    features = GrantedModel.from_pretrained(tmp_path / "out").encode(sentences)
    unmerged = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(llama), run)
    assert largest_difference(features, norm_avg(unmerged, tokenizer, sentences)) < 1e-5


def test_the_command_exports(make_run, tmp_path, granted):
    options = ("--fusion", "avg", "--dtype", "bfloat16", "--keep-vision")
    code, shown, error = granted("export", make_run(), "--output", tmp_path / "out", *options)
    assert code == 0 and f"wrote {tmp_path / 'out'}" in shown, error
    config = GrantedModel.from_pretrained(tmp_path / "out").config
    assert (config.fusion, str(config.dtype), config.keep_vision) == ("avg", "torch.bfloat16", True)


def test_fusion_dtype_and_vision_tower_are_as_asked(make_run, tmp_path):
    run = make_run(lora())
    export_encoder(run, tmp_path / "out", fusion="single", dtype="bfloat16", keep_vision=True)
    encoder = GrantedModel.from_pretrained(tmp_path / "out")
    assert encoder.config.fusion == "single" and encoder.dtype == torch.bfloat16
    assert type(encoder.encoder).__name__ == "Qwen3VLModel"
    export_encoder(run, tmp_path / "text")
    names = load_file(tmp_path / "text" / "model.safetensors")
    assert not any("lm_head" in name or "visual" in name or "lora" in name for name in names)
    assert any("visual" in name for name in load_file(tmp_path / "out" / "model.safetensors"))


# --------------------------------------------------------------------------------------------------- what is written


def test_the_folder_loads_with_remote_code_and_holds_no_pickle_and_no_path_of_this_machine(
    make_run, tmp_path, sentences
):
    run = make_run(lora())
    assert (run / "training_args.bin").exists()  # which every trainer writes, and nothing here reads
    export_encoder(run, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "modeling_granted.py",
        "training_record.json",
    } <= files
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".safetensors", ".json", ".py", ".jinja"}
    for path in (tmp_path / "out").glob("*.json"):
        assert str(tmp_path.parent) not in path.read_text(), path.name
    shutil.move(tmp_path / "out", tmp_path / "moved")
    loaded = AutoModel.from_pretrained(tmp_path / "moved", trust_remote_code=True)
    assert loaded.encode(sentences)[0].isfinite().all()
    assert sorted(os.listdir(tmp_path)) == ["moved", "run", "trainer"], "something temporary was left"


@pytest.mark.parametrize("adapter", [False, True])
def test_the_training_record_travels_and_says_what_was_exported(make_run, base, tmp_path, adapter):
    fingerprint = model_fingerprint(Qwen3VLForConditionalGeneration.from_pretrained(base))
    record = RECORD | {"base_fingerprint": fingerprint, "settings": {"lr": 1e-4}}
    export_encoder(make_run(lora() if adapter else None, record=record), tmp_path / "out", dtype="bfloat16")
    written = json.loads((tmp_path / "out" / "training_record.json").read_text())
    exported = written.pop("exported")
    assert written == record
    assert exported.pop("granted_version")
    assert exported == {"fusion": "norm_avg", "dtype": "bfloat16", "keep_vision": False, "merged_adapter": adapter}


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(("revision", "name"), [("0123abc", "org/base"), (None, None)], ids=["hub", "local"])
def test_the_encoder_is_named_by_its_hub_id_or_not_at_all_and_never_by_a_revision_that_has_other_weights(
    make_run, base, tmp_path, adapter, revision, name
):
    fingerprint = model_fingerprint(Qwen3VLForConditionalGeneration.from_pretrained(base))
    record = RECORD | {"base_fingerprint": fingerprint, "base_revision": revision}
    export_encoder(make_run(lora() if adapter else None, record=record), tmp_path / "out")
    encoder = GrantedModel.from_pretrained(tmp_path / "out")
    assert encoder.config.encoder_name_or_path == name and encoder.config.encoder_revision is None
    with pytest.raises(ValueError, match="save the whole model"):
        encoder.save_pretrained(tmp_path / "fusion", fusion_only=True)


def test_a_base_on_the_hub_is_read_at_the_revision_of_the_training_and_named(
    make_run, base, make_base, tokenizer, tmp_path, sentences, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--org--base"
    trained_on, newest = "a" * 40, "b" * 40
    shutil.copytree(base, cached / "snapshots" / trained_on)
    shutil.copytree(make_base(seed=1), cached / "snapshots" / newest)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(newest)
    run = make_run(lora(), record=RECORD | {"base_revision": trained_on})
    named = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps(named | {"base_model_name_or_path": "org/base"}))
    export_encoder(run, tmp_path / "out")
    encoder = GrantedModel.from_pretrained(tmp_path / "out")
    assert encoder.config.encoder_name_or_path == "org/base" and encoder.config.encoder_revision is None
    unmerged = PeftModel.from_pretrained(Qwen3VLForConditionalGeneration.from_pretrained(base), run)
    assert largest_difference(encoder.encode(sentences), norm_avg(unmerged, tokenizer, sentences)) < 1e-5


def test_an_adapters_base_may_have_moved(make_run, base, tokenizer, tmp_path, sentences):
    run = make_run(lora())
    shutil.copytree(base, tmp_path / "moved")
    named = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps(named | {"base_model_name_or_path": str(tmp_path / "gone")}))
    assert_refused(run, tmp_path, "got the base .*gone, which cannot be loaded .*expected a model in safetensors")
    (run / "adapter_config.json").write_text(json.dumps(named | {"base_model_name_or_path": None}))
    assert_refused(run, tmp_path, "names no base, expected one: pass the base")
    export_encoder(run, tmp_path / "out", base=str(tmp_path / "moved"))
    assert GrantedModel.from_pretrained(tmp_path / "out").config.encoder_name_or_path is None


# --------------------------------------------------------------------------------------------------- what is refused


def test_an_adapter_for_a_base_of_another_width_is_refused(make_run, make_base, tmp_path):
    other = make_base(hidden_size=48)
    message = "the adapter in .*which cannot be loaded .*size mismatch.*trained on"
    assert_refused(make_run(lora()), tmp_path, message, base=other)


@pytest.mark.parametrize("layers", [2, 4])
def test_an_adapter_for_a_base_of_other_depth_is_refused(make_run, make_base, tmp_path, layers):
    other = make_base(num_hidden_layers=layers)
    assert_refused(make_run(lora()), tmp_path, "weights have no place in the other", base=other)


def test_an_adapter_for_a_base_with_other_module_names_is_refused(make_run, make_base, tokenizer, tmp_path):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    other = make_base(0, LlamaForCausalLM, num_key_value_heads=2, vocab_size=len(tokenizer), **size)
    assert_refused(make_run(lora()), tmp_path, "which cannot be loaded .*not found in the base model", base=other)
    plain_names = LoraConfig(r=4, target_modules=["q_proj"])  # found in both, under other prefixes
    assert_refused(make_run(plain_names), tmp_path, "have no place in the other", base=other)


def test_an_adapter_for_a_base_of_the_same_shapes_and_other_weights_is_refused(make_run, base, make_base, tmp_path):
    fingerprint = model_fingerprint(Qwen3VLForConditionalGeneration.from_pretrained(base))
    run = make_run(lora(), record=RECORD | {"base_fingerprint": fingerprint})
    assert_refused(run, tmp_path, "other weights than the adapter.*was trained on", base=make_base(seed=1))
    export_encoder(run, tmp_path / "out")


def test_the_fingerprint_is_of_the_weights_and_not_of_the_dtype_they_are_loaded_in(base, make_base, tmp_path):
    rounded = Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
    fingerprint = model_fingerprint(rounded)
    assert model_fingerprint(Qwen3VLForConditionalGeneration.from_pretrained(base)) == fingerprint
    assert model_fingerprint(rounded.float()) == fingerprint
    with torch.no_grad():
        rounded.lm_head.weight[3, 4] += 0.1
    assert model_fingerprint(rounded) != fingerprint


def test_an_adapter_that_lost_a_weight_is_refused(make_run, tmp_path):
    run = make_run(lora())
    weights = load_file(run / "adapter_model.safetensors")
    del weights[sorted(weights)[3]]
    save_file(weights, run / "adapter_model.safetensors")
    assert_refused(run, tmp_path, "of .* 1 weights have no place in the other")


def test_an_adapter_with_nan_and_a_model_with_nan_are_refused(make_run, tmp_path):
    run = make_run(lora())
    weights = load_file(run / "adapter_model.safetensors")
    weights[next(name for name in weights if "lora_B" in name)][0, 0] = torch.nan
    save_file(weights, run / "adapter_model.safetensors")
    assert_refused(run, tmp_path, "which cannot be loaded .*NaN.*expected one with finite weights")
    shutil.rmtree(run)
    run = make_run()
    weights = load_file(run / "model.safetensors")
    weights[next(name for name in weights if "language_model.layers.1" in name)].view(-1)[0] = torch.nan
    save_file(weights, run / "model.safetensors", {"format": "pt"})
    assert_refused(run, tmp_path, "got NaN or infinite weights .*take another checkpoint")


def test_a_base_that_is_quantised_and_a_base_that_lost_a_weight_are_refused(make_run, base, tmp_path):
    run = make_run(lora())
    shutil.copytree(base, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "layers.1.mlp.up" not in n}, tmp_path / "base/model.safetensors")
    assert_refused(run, tmp_path, "without .*layers.1.mlp.up_proj.weight, expected all", base=str(tmp_path / "base"))
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    assert_refused(run, tmp_path, "got the quantised base .*the model it was made from", base=str(tmp_path / "base"))


def test_an_adapter_that_cannot_be_merged_is_refused(make_base, make_run, tokenizer, tmp_path):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = make_base(0, LlamaForCausalLM, vocab_size=len(tokenizer), **size)
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    run = make_run(prompt, on=llama, auto=AutoModelForCausalLM)
    assert_refused(run, tmp_path, "type PROMPT_TUNING .*expected one that can be merged")
    shutil.rmtree(run)  # merging layers that share their weights would add to the shared ones
    replicated = LoraConfig(target_modules=["q_proj"], layer_replication=[(0, 2), (1, 2)])
    run = make_run(replicated, on=llama, auto=AutoModelForCausalLM)
    assert_refused(run, tmp_path, "replicated layers .*expected one that can be merged")


@pytest.mark.parametrize("adapter", [False, True])
def test_pickled_weights_are_refused(make_run, tmp_path, adapter):
    run = make_run(lora() if adapter else None)
    name = "adapter_model" if adapter else "model"
    weights = load_file(run / f"{name}.safetensors")
    (run / f"{name}.safetensors").unlink()
    assert_refused(run, tmp_path, "got no weights in .*expected safetensors")
    torch.save(weights, run / ("adapter_model.bin" if adapter else "pytorch_model.bin"))
    assert_refused(run, tmp_path, r"got pickled weights \(.bin\) alone in .*, expected safetensors")


@pytest.mark.parametrize("text", ["[]", '{"model_type": "qwen3_vl", "text_config": {"hidden_size": "wide"}}', "{"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "adapter_config.json", "trainer_state.json"])
def test_damaged_files_are_refused_in_one_line(make_run, tmp_path, file, text):
    run = make_run(lora() if file == "adapter_config.json" else None)
    if file == "trainer_state.json":  # what makes a folder a checkpoint
        (tmp_path / "run.json").write_text("{}")
    (run / file).write_text(text)
    assert_refused(run, tmp_path, "expected")


@pytest.mark.parametrize("adapter", [False, True])
def test_weights_that_are_cut_off_are_refused(make_run, tmp_path, adapter):
    run = make_run(lora() if adapter else None)
    (weights,) = run.glob("*model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert_refused(run, tmp_path, "loaded.*incomplete")


def test_a_run_that_is_missing_or_unfinished_or_without_a_tokenizer_is_refused(make_run, tmp_path):
    assert_refused(tmp_path / "nowhere", tmp_path, "which is no folder")
    run = make_run()
    (run / "tokenizer_config.json").unlink()
    assert_refused(run, tmp_path, "without a tokenizer, expected one")
    shutil.rmtree(run)
    run.mkdir()
    assert_refused(run, tmp_path, "without config.json or adapter_config.json")
    for step in (5, 10):
        (run / f"checkpoint-{step}").mkdir()
    assert_refused(run, tmp_path, "holds checkpoints but no model.*finish it, or pass a checkpoint such as .*-10$")


def test_an_output_that_exists_is_refused_and_left_as_it_was(make_run, tmp_path):
    run = make_run()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert_refused(run, tmp_path, "got the output .*out, which exists, expected a new or empty folder")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    (tmp_path / "out" / "mine.txt").unlink()
    export_encoder(run, tmp_path / "out")


def test_options_that_are_not_legal_are_refused_before_anything_is_loaded(make_run, tmp_path, base):
    run = make_run()
    assert_refused(tmp_path / "nowhere", tmp_path, "got fusion='mean', expected one of", fusion="mean")
    assert_refused(tmp_path / "nowhere", tmp_path, "got dtype='int8', expected one of", dtype="int8")
    assert_refused(run, tmp_path, "which holds a whole model, expected none: leave the base out", base=base)
    (run / "training_record.json").write_text("[1]")
    assert_refused(run, tmp_path, "without an object in it")


def test_tokens_of_the_runs_own_tokenizer_are_kept(make_run, tmp_path, sentences):
    run = make_run(lora())
    own = AutoTokenizer.from_pretrained(run)
    own.add_tokens(["cube on"])
    own.save_pretrained(run)
    export_encoder(run, tmp_path / "out")
    assert GrantedModel.from_pretrained(tmp_path / "out").tokenize(sentences) == own(sentences)["input_ids"]
