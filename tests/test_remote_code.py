"""A saved folder works by itself: a process that cannot import this package loads it with trust_remote_code."""

import os

import torch

from granted import ContextAggregator, ContextAggregatorConfig, GrantedModel
from granted.tests.fresh_process import run_without_package


# Runs in a folder that holds a checkpoint called `granted`, isolated from this repository.
PROGRAM = """
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

texts = ["a red cube on a blue sphere", "an old man"]
config = AutoConfig.from_pretrained("granted", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("granted", trust_remote_code=True)
model = AutoModel.from_pretrained("granted", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
assert config.model_type == "granted" and config.num_hidden_layers == 4 and not model.training
inputs = tokenizer(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    features = model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
encoded = model.encode(texts)

model.save_pretrained("again")
again = AutoModel.from_pretrained("again", trust_remote_code=True)
aggregator = AutoModel.from_pretrained("aggregator", trust_remote_code=True)
with torch.no_grad():
    embedding = aggregator(features, attention_mask=inputs["attention_mask"]).context_embedding
fusion = AutoModel.from_pretrained("fusion", trust_remote_code=True)
torch.save({
    "features": features, "encoded": encoded, "again": again.encode(texts), "embedding": embedding,
    "fusion": fusion.encode(texts), "blocked": "granted" not in sys.modules,
}, "answer.pt")
"""


def test_a_saved_folder_loads_by_remote_code_where_the_package_is_not_installed(
    tiny_encoder_folder, tmp_path, monkeypatch
):
    model = GrantedModel.from_encoder(tiny_encoder_folder)
    torch.nn.init.normal_(model.fusion.weights)
    model.save_pretrained(tmp_path / "granted")
    aggregator = ContextAggregator(ContextAggregatorConfig(32, num_heads=4, context_dim=16)).eval()
    aggregator.save_pretrained(tmp_path / "aggregator")
    model.config.encoder_revision = "0123abc"  # as if the encoder's folder were a Hub id
    model.save_pretrained(tmp_path / "fusion", fusion_only=True)
    run_without_package(PROGRAM, tmp_path)

    answer = torch.load(tmp_path / "answer.pt")
    texts = ["a red cube on a blue sphere", "an old man"]
    inputs = model.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        features = model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        embedding = aggregator(features, attention_mask=inputs["attention_mask"]).context_embedding
    encoded = model.encode(texts)
    assert answer["blocked"]
    assert torch.equal(answer["features"], features)
    assert torch.equal(answer["embedding"], embedding)
    for name in ("encoded", "again", "fusion"):
        assert all(map(torch.equal, answer[name], encoded)), name

    modules = ("fingerprint", "granted", "layer_fusion", "text_trunk")
    code = {"configuration_granted.py", *(f"modeling_{name}.py" for name in modules)}
    assert code <= set(os.listdir(tmp_path / "granted"))
    assert code <= set(os.listdir(tmp_path / "again")), "a re-saved folder lost its code"
    assert {"modeling_context_aggregator.py", "configuration_granted.py", "modeling_layer_fusion.py"} <= set(
        os.listdir(tmp_path / "aggregator")
    )
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(os.listdir(tmp_path / "again"))
