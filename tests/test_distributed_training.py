"""Two processes give the loss, the gradients and the trained weights of one process on the joined batch."""

import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from granted.modeling_granted import GrantedModel
from granted.training.aggregator.contrastive import batch_loss, contrastive_loss
from granted.training.aggregator.settings import AggregatorTrainingConfig
from granted.training.aggregator.training import train_context_aggregators


NUM_PAIRS = 3  # a process


def loss_inputs(negatives: int):
    """Inputs (2, 2B + K, 5) and text numbers (2, 2B + K) of two processes; texts repeat within and across them."""
    generator = torch.Generator().manual_seed(3)
    size = 2 * NUM_PAIRS + negatives
    inputs = torch.randn(2, size, 5, generator=generator)  # (2, 2B + K, 5)
    ids = torch.arange(2 * size).view(2, size)  # (2, 2B + K)
    ids[1, 1] = ids[0, 0]
    ids[0, 2] = ids[0, 4]
    if negatives:
        ids[1, -1], ids[0, -2] = -1, ids[1, 3]
    return inputs, ids


def new_layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 4)


def make_pairs(negatives: bool):
    words = ("red", "blue", "green", "yellow", "black", "old", "small", "wet", "wooden", "three")
    rows = [
        {"caption_a": f"a {one} {two} cube", "caption_b": f"the {two} {one} ball"} for one in words for two in words
    ]
    rows = [row for row in rows if len(set(row["caption_a"].split())) == 4]
    for i, row in enumerate(rows if negatives else []):
        row["negatives"] = ["a dog near the river", f"the {words[i % 10]} door"][: 1 + i % 2]
    return rows


def train(folder, out, batch_size: int, hard_negatives: bool) -> None:
    config = AggregatorTrainingConfig(
        features=["last", "learned"],
        learning_rates=[1e-3],
        batch_size=batch_size,
        max_steps=3,
        hard_negatives=hard_negatives,
        mixed_precision="no",
    )
    encoder = GrantedModel.from_encoder(folder)
    train_context_aggregators(encoder, make_pairs(hard_negatives), out, config, show_progress=False)


def worker(folder: str, out: str) -> None:
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    found = {}
    for negatives in (0, 2):
        inputs, ids = loss_inputs(negatives)
        layer = accelerator.prepare(new_layer())
        rank = accelerator.process_index
        loss = batch_loss(layer(inputs[rank]), ids[rank], NUM_PAIRS, 0.1, accelerator)
        accelerator.backward(loss)
        weight, bias = layer.module.weight.grad, layer.module.bias.grad
        found[negatives] = [loss.detach() / accelerator.num_processes, weight, bias]
    torch.save(found, f"{out}/found{rank}.pt")
    for hard_negatives in (False, True):
        train(folder, f"{out}/{hard_negatives}", 2, hard_negatives)


@pytest.fixture(scope="module")
def two_processes(tiny_encoder_folder, tmp_path_factory):
    """The folder in which two processes, started as users start them, left losses, gradients and aggregators."""
    out = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "granted.tests.test_distributed_training", tiny_encoder_folder, str(out)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.parametrize("negatives", [0, 2])
def test_loss_and_gradients_of_two_processes_are_those_of_one_on_the_joined_batch(two_processes, negatives):
    inputs, ids = loss_inputs(negatives)
    layer = new_layer()

    def joined(rows):  # all captions a, all captions b, all further negatives
        parts = rows[:, :NUM_PAIRS], rows[:, NUM_PAIRS : 2 * NUM_PAIRS], rows[:, 2 * NUM_PAIRS :]
        return torch.cat([part.flatten(0, 1) for part in parts])

    loss = contrastive_loss(layer(joined(inputs)), joined(ids), 2 * NUM_PAIRS, 0.1)
    loss.backward()
    for rank in (0, 1):
        found = torch.load(two_processes / f"found{rank}.pt")[negatives]
        torch.testing.assert_close(found, [loss.detach(), layer.weight.grad, layer.bias.grad], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("hard_negatives", [False, True])
def test_two_processes_of_half_the_batch_train_the_weights_of_one(
    two_processes, tiny_encoder_folder, tmp_path, hard_negatives
):
    train(tiny_encoder_folder, tmp_path, 4, hard_negatives)
    for feature in ("last", "learned"):
        one = load_file(tmp_path / feature / "model.safetensors")
        two = load_file(two_processes / str(hard_negatives) / feature / "model.safetensors")
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)


if __name__ == "__main__":
    worker(*sys.argv[1:])
