"""Two processes give the features and gradients of one: DDP and FSDP2 over a frozen trunk, on CPU with gloo."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig

from granted import GrantedConfig, GrantedModel
from granted.modeling_text_trunk import find_text_trunk


def build() -> tuple[GrantedModel, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A model, a joined batch of 4 texts, its mask and dL/dc; the same in every process."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, vocab_size=99
    )
    model = GrantedModel(GrantedConfig(encoder_config=config))
    model.encoder.requires_grad_(False)
    torch.nn.init.normal_(model.fusion.weights)
    attention_mask = torch.ones(4, 6, dtype=torch.long)  # (4, 6)
    attention_mask[1, 3:] = 0
    attention_mask[2, :2] = 0
    return model, torch.randint(3, 99, (4, 6)), attention_mask, torch.randn(4, 6, 32)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def average(parameter: torch.Tensor) -> None:
    dist.all_reduce(parameter.grad)
    parameter.grad /= 2


def worker() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=600))
    rank = dist.get_rank()
    model, input_ids, attention_mask, upstream = build()
    expected = model(input_ids, attention_mask).last_hidden_state
    (expected * upstream).sum().backward()
    joined = model.fusion.weights.grad.clone()
    mine = slice(2 * rank, 2 * rank + 2)

    def check(wrapped, weights, what: str) -> None:
        for _ in range(2):  # a second step too: nothing of the first may be left
            model.zero_grad()
            features = wrapped(input_ids[mine], attention_mask[mine]).last_hidden_state
            torch.testing.assert_close(features, expected[mine], atol=1e-6, rtol=1e-5, msg=what)
            (features * upstream[mine]).sum().backward()
            # Both average over the processes.
            torch.testing.assert_close(2 * plain(weights.grad), joined, atol=1e-5, rtol=1e-5, msg=what)

    ddp = DistributedDataParallel(model)
    check(ddp, model.fusion.weights, "DDP")

    for root in ("model", "encoder"):
        model = build()[0]
        trunk, layers = find_text_trunk(model.encoder)
        for layer in layers:
            fully_shard(layer, reshard_after_forward=True)
        fully_shard(model if root == "model" else trunk, reshard_after_forward=True)
        assert all(hasattr(p, "full_tensor") for p in model.encoder.parameters()), "nothing was sharded"
        if root == "encoder":  # its layer weights are not sharded, so they are averaged by hand
            model.fusion.weights.register_post_accumulate_grad_hook(average)
        check(model, model.fusion.weights, f"FSDP2 from the {root}")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")
def test_ddp_and_fsdp2_give_the_features_and_gradients_of_one_process(forked):
    forked.both_done("from granted.tests.test_distributed_encoder import worker; worker()")
