"""Contrastive training of context aggregators on caption pairs (Section 3.3), all requested features at once.

    granted train aggregator --encoder Qwen/Qwen3-VL-8B-Instruct --pairs pairs.parquet --features last,norm_avg
    accelerate launch -m granted.cli train aggregator --config training/configs/aggregator_paper.yaml ...

Tiny, on CPU: `granted train aggregator --encoder FOLDER --pairs FILE --output out --batch-size 4 --max-steps 10`.

One run of the frozen encoder per batch serves an aggregator for every feature and learning rate. They share nothing
else: each has its own loss and gradient clipping, so one comes out the same whatever is trained beside it.
"""

import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from granted.encoding.embedding_cache import EmbeddingCache
from granted.encoding.features import (
    expand_features,
    feature_encoder,
    feature_label,
    new_aggregator,
    read_layer_weights,
    reading_of,
)
from granted.encoding.token_features import cache_features
from granted.modeling_context_aggregator import ContextAggregator
from granted.modeling_granted import GrantedModel
from granted.training.aggregator.contrastive import AggregatorGroup, batch_loss, contrastive_loss, text_id
from granted.training.aggregator.settings import AggregatorTrainingConfig
from granted.training.run_folder import checkpoints, clear_finished, hold_folder, leave_folder, remove_checkpoints
from granted.utils.errors import InputError, refusing
from granted.utils.files import atomic_path, read_json, write_json


CALIBRATION = 600  # captions from which channels are standardised


def learning_rate_factor(step: int, total: int, schedule: str, warmup_steps: int) -> float:
    """What the peak learning rate is multiplied by at `step` (counted from 0) of `total`.

    Args:
        step, total (`int`): counted from 0, and how many there are.
        schedule (`str`): `"constant"` or `"cosine"`.
        warmup_steps (`int`): of linear rise.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def batch_indices(num_pairs: int, batch: int, epochs: int, seed: int, first: int) -> Iterator[list[int]]:
    """Batches of pair numbers from step `first` on; step s is the same whether or not the run was interrupted.

    Args:
        num_pairs, batch (`int`): how many there are, and how many a step takes.
        epochs (`int`): passes over the pairs.
        seed (`int`): of their order, which differs from pass to pass.
        first (`int`): the step to begin with.
    """
    per_epoch = num_pairs // batch
    for step in range(first, epochs * per_epoch):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == first:
            order = torch.randperm(num_pairs, generator=torch.Generator().manual_seed(seed * 100_003 + epoch)).tolist()
        yield order[place * batch : (place + 1) * batch]


def pair_texts(pairs: Sequence[dict], indices: list[int], hard_negatives: int = 0) -> tuple[list[str], torch.Tensor]:
    """Texts and their numbers: captions a, captions b, then `hard_negatives` a pair (number -1 for missing ones)."""
    rows = [pairs[i] for i in indices]
    texts = [row["caption_a"] for row in rows] + [row["caption_b"] for row in rows]
    ids = [text_id(text) for text in texts]
    for row in rows if hard_negatives else []:
        own = _negatives(row, hard_negatives)
        missing = hard_negatives - len(own)
        texts += own + [row["caption_a"]] * missing
        ids += [text_id(text) for text in own] + [-1] * missing
    return texts, torch.tensor(ids)  # (texts,)


def _negatives(row: dict, count: int) -> list[str]:
    return list(row.get("negatives") or [])[:count]


def train_context_aggregators(
    encoder: GrantedModel,
    pairs: Sequence[dict],
    output_dir: str | os.PathLike,
    config: AggregatorTrainingConfig | None = None,
    *,
    encoder_name: str | None = None,
    show_progress: bool = True,
) -> dict[str, Path]:
    """Train an aggregator for every feature of a frozen encoder; go on where an interrupted run stopped.

    Args:
        encoder ([`GrantedModel`]): only its layers are read, its own fusion is not. The aggregators train on
            its device.
        pairs (`Sequence[dict]`): rows with `caption_a`, `caption_b` and, for hard negatives, `negatives`.
        output_dir (`str`): gets one folder per feature, loadable by `ContextAggregator.from_pretrained`, with
            `training.json` (settings and held-out figures) in it; while it runs also `checkpoint-STEP`.
        config ([`AggregatorTrainingConfig`], *optional*): the paper's settings by default.
        encoder_name (`str`, *optional*): what to call the encoder in files and messages.

    Returns:
        The folder of every feature, by its label.

    Raises:
        InputError: too few pairs, an unknown feature, or `output_dir` holds another run.
    """
    config = config or AggregatorTrainingConfig()
    # Accelerate keeps one precision for the life of a process; runs of one process may differ, see `autocast`.
    accelerator = Accelerator(
        mixed_precision="no",
        log_with="trackio" if config.tracker == "trackio" else None,
        project_dir=str(output_dir),
    )
    encoder.requires_grad_(False).eval()
    set_seed(config.seed)
    run = _Run(encoder, pairs, Path(output_dir), config, encoder_name, accelerator)
    if run.is_finished():
        clear_finished(run.output, with_checkpoints=True)
        return run.folders
    run.plan()
    run.build()
    lock = hold_folder(run.output)
    run.train(show_progress)
    if accelerator.is_main_process:
        run.write()
    accelerator.wait_for_everyone()
    # Not `end_training`, which also ends the process group: the next seed or encoder of this process needs it.
    for tracker in accelerator.trackers:
        tracker.finish()
    leave_folder(lock)
    return run.folders


class _Run:
    """One training, in the order of its methods. Attributes are set by the method that decides them."""

    def __init__(
        self,
        encoder: GrantedModel,
        pairs: Sequence[dict],
        output: Path,
        config: AggregatorTrainingConfig,
        encoder_name: str | None,
        accelerator: Accelerator,
    ):
        self.encoder, self.pairs, self.output = encoder, pairs, output
        self.config, self.accelerator = config, accelerator
        self.encoder_name = encoder_name or encoder.config.encoder_name_or_path or encoder.config._name_or_path
        self.features = expand_features(config.features, encoder.config.num_hidden_layers)
        self.folders = {feature_label(feature): output / feature_label(feature) for feature in self.features}
        self.fingerprint = encoder.fingerprint()
        self.identity = run_identity(config, encoder, self.fingerprint, pairs)

    def is_finished(self) -> bool:
        """Whether all aggregators are there; raises if one of them is of another run."""
        records = [folder / "training.json" for folder in self.folders.values()]
        finished = [path for path in records if path.exists()]
        for path in finished:
            _check_identity(path, self.identity)
        return len(finished) == len(records)

    def plan(self) -> None:
        """Which pairs, how many steps, how many hard negatives a pair."""
        config, pairs = self.config, self.pairs
        self.held_out, self.training = split_pairs(len(pairs), config)
        self.step_pairs = config.batch_size * self.accelerator.num_processes
        total = config.epochs * (len(self.training) // self.step_pairs)
        self.total = min(total, config.max_steps) if config.max_steps else total
        if self.total == 0:
            raise InputError(
                f"got {len(self.training)} pairs to train on, expected at least one batch of {self.step_pairs}: "
                "give more pairs or lower batch_size"
            )
        negatives = max((len(pairs[i].get("negatives") or []) for i in range(len(pairs))), default=0)
        if config.hard_negatives and negatives == 0:
            raise InputError("got hard_negatives=True and pairs without any, expected a 'negatives' column: add it")
        self.negatives = negatives if config.hard_negatives else 0
        if self.step_pairs == 1 and self.negatives == 0:
            raise InputError(
                "got one pair a step, expected at least two: a text has no negatives then, raise batch_size"
            )

    def build(self) -> None:
        """An aggregator of every feature and learning rate, and their optimizer."""
        config, encoder = self.config, self.encoder
        self.names = {  # aggregator -> (feature, learning rate)
            f"{feature_label(feature)}@{rate:.6e}".replace(".", "_"): (feature, rate)
            for feature in self.features
            for rate in config.learning_rates
        }
        own = (self.encoder_name, self.fingerprint, config.seed, config.aggregator_width, config.standardize)
        made = {name: new_aggregator(feature, encoder, *own) for name, (feature, _) in self.names.items()}
        if config.standardize:
            self._calibrate(made)
        self.group = AggregatorGroup(made).train().to(encoder.input_device)
        self.optimizer = torch.optim.AdamW(
            [{"params": list(made[name].parameters()), "lr": rate} for name, (_, rate) in self.names.items()],
            weight_decay=config.weight_decay,
        )

    def _calibrate(self, made: dict[str, ContextAggregator]) -> None:
        """Mean and deviation of every channel over captions to train on; of learned layer weights as they begin."""
        captions = [self.pairs[i]["caption_a"] for i in self.training[:CALIBRATION]]
        for feature in self.features:
            model = feature_encoder(self.encoder, feature)
            model.calibrate(captions)
            for name, (one, _) in self.names.items():
                if one == feature:
                    made[name].standardization.load_state_dict(model.standardization.state_dict())

    def train(self, show_progress: bool) -> None:
        """All steps that an interrupted run has not done."""
        config, accelerator = self.config, self.accelerator
        self.model = accelerator.prepare_model(self.group, device_placement=False)
        main = accelerator.is_main_process
        if main:  # warns of texts that are cut: once, of the first pairs
            first_pairs = islice(self.pairs, 5_000)
            self.encoder.tokenize([text for pair in first_pairs for text in (pair["caption_a"], pair["caption_b"])])
        self.cache = self._fill_cache(show_progress and main) if config.feature_cache else None
        first, self.log, seconds = resume(self.output, self.identity, self.group, self.optimizer, self.step_pairs)
        if config.tracker == "trackio":
            accelerator.init_trackers("granted-aggregator", config=asdict(config) | {"encoder": self.encoder_name})
        self.started = time.perf_counter() - seconds
        batches = batch_indices(len(self.training), self.step_pairs, config.epochs, config.seed, first)
        shown = f"aggregators of {self.encoder_name}"
        with tqdm(total=self.total, initial=first, desc=shown, disable=not (show_progress and main)) as bar:
            for step, batch in zip(range(first, self.total), batches):
                losses = self._step(step, batch)
                bar.update()
                if (step + 1) % config.log_steps == 0 or step + 1 == self.total:
                    bar.set_postfix(loss=self._logged(step, losses))
                if (step + 1) % config.save_steps == 0 and step + 1 < self.total:
                    self._save(step)

    def _fill_cache(self, show_progress: bool) -> EmbeddingCache:
        """The features of all texts on the disk; one process encodes, the others then read."""
        texts = [
            text
            for pair in self.pairs
            for text in (pair["caption_a"], pair["caption_b"], *_negatives(pair, self.negatives))
        ]
        options = (self.config.feature_cache, self.config.token_budget)
        shown = f"encoding by {self.encoder_name}" if show_progress else ""
        with self.accelerator.main_process_first(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `train` has warned once of texts that are cut
            return cache_features(self.encoder, self.features, texts, *options, shown)

    def _factor(self, step: int) -> float:
        return learning_rate_factor(step, self.total, self.config.schedule, self.config.warmup_steps)

    def _step(self, step: int, batch: list[int]) -> dict[str, torch.Tensor]:
        """One step of every aggregator; their losses."""
        config, accelerator = self.config, self.accelerator
        mine = batch[accelerator.process_index * config.batch_size :][: config.batch_size]
        texts, ids = pair_texts(self.pairs, [self.training[i] for i in mine], self.negatives)
        for group, (_, rate) in zip(self.optimizer.param_groups, self.names.values()):
            group["lr"] = rate * self._factor(step)
        with autocast(self.encoder, config):
            embeddings = self.model(self.encoder, texts, config.token_budget, config.recompute_layers, self.cache)
        losses = {
            name: batch_loss(rows, ids.to(rows.device), len(mine), config.temperature, accelerator)
            for name, rows in embeddings.items()
        }
        accelerator.backward(torch.stack(list(losses.values())).sum())
        for name in self.names:
            nn.utils.clip_grad_norm_(self.group.heads[name].parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _logged(self, step: int, losses: dict[str, torch.Tensor]) -> str:
        """Add a point to the curve; the mean loss, to be shown."""
        row = {f"loss/{name}": loss.item() / self.accelerator.num_processes for name, loss in losses.items()}
        for name, value in row.items():
            if not math.isfinite(value):
                raise InputError(
                    f"got {name} = {value} at step {step + 1}, expected a finite loss: lower the learning rate, or "
                    "load the encoder in float32"
                )
        self.log.append({"step": step + 1, "learning_rate_factor": self._factor(step), **row})
        if self.config.tracker == "trackio":
            self.accelerator.log(row, step=step + 1)
        return f"{sum(row.values()) / len(row):.3f}"

    def _save(self, step: int) -> None:
        state = {
            "step": step + 1,
            "pairs_per_step": self.step_pairs,
            "identity": self.identity,
            "log": self.log,
            "seconds": time.perf_counter() - self.started,
        }
        save_checkpoint(self.output, state, self.group, self.optimizer, self.accelerator)

    def write(self) -> None:
        """Of every feature the aggregator that is best on held-out pairs, with the record; then no checkpoints."""
        figures = evaluate_aggregators(
            self.group.eval(), self.encoder, self.pairs, self.held_out, self.config, self.cache
        )
        report = {
            "identity": self.identity,
            "encoder": self.encoder_name,
            "settings": {name: value for name, value in asdict(self.config).items() if name != "feature_cache"},
            "reading": reading_of(self.encoder),
            "pairs": {"training": len(self.training), "held_out": len(self.held_out)},
            "steps": self.total,
            "processes": self.accelerator.num_processes,
            "seconds": round(time.perf_counter() - self.started, 1),
        }
        with atomic_path(self.output / "training.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.log))
        for feature in self.features:
            candidates = {name: figures[name] for name, (one, _) in self.names.items() if one == feature}
            # Ranked by held-out loss; without held-out pairs there is one rate only (checked in split_pairs).
            best = min(candidates, key=lambda name: candidates[name].get("loss", 0.0))
            chosen = {"learning_rate": self.names[best][1], "held_out": candidates[best]}
            tried = {f"{self.names[name][1]:g}": figure for name, figure in candidates.items()}
            with atomic_path(self.folders[feature_label(feature)]) as temporary:
                self.group.heads[best].save_pretrained(temporary)
                write_json(temporary / "training.json", report | chosen | {"learning_rates_tried": tried})
        remove_checkpoints(self.output)


def autocast(encoder: GrantedModel, config: AggregatorTrainingConfig) -> torch.autocast:
    """The precision in which the aggregators train."""
    return torch.autocast(encoder.input_device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16")


def split_pairs(count: int, config: AggregatorTrainingConfig) -> tuple[list[int], list[int]]:
    """Numbers of the held-out pairs and of the training pairs; the split is the same for every seed."""
    held_out = min(config.held_out, count // 10)
    if held_out == 0 and len(config.learning_rates) > 1:
        raise InputError("got several learning_rates and no held-out pairs, expected pairs to choose by: set held_out")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(20251)).tolist()
    return sorted(order[:held_out]), sorted(order[held_out:])


@torch.no_grad()
def evaluate_aggregators(
    heads: AggregatorGroup,
    encoder: GrantedModel,
    pairs: Sequence[dict],
    held_out: list[int],
    config: AggregatorTrainingConfig,
    cache: EmbeddingCache | None = None,
) -> dict[str, dict[str, float]]:
    """Loss and retrieval accuracy of every head on held-out pairs, in fp32 and groups of 64 (chance: 1 in 127).

    Args:
        heads ([`AggregatorGroup`]), encoder ([`GrantedModel`]): what is measured.
        pairs (`Sequence[dict]`), held_out (`list[int]`): all pairs, and the numbers of those held out.
        config ([`AggregatorTrainingConfig`]): temperature and token budget.
        cache ([`EmbeddingCache`], *optional*): of features, in place of the encoder.
    """
    group = 64
    totals: dict[str, list[tuple[float, float, int]]] = {name: [] for name in heads.heads}
    for start in range(0, len(held_out), group):
        indices = held_out[start : start + group]
        if len(indices) < group and start:
            break  # a smaller group would be easier
        texts, ids = pair_texts(pairs, indices)
        with torch.autocast(encoder.input_device.type, enabled=False):
            embeddings = heads(encoder, texts, config.token_budget, cache=cache)
        for name, rows in embeddings.items():
            loss = contrastive_loss(rows, ids.to(rows.device), len(indices), config.temperature).item()
            z = F.normalize(rows.float(), dim=-1)  # (2B, D)
            similarity = (z @ z.T).fill_diagonal_(-torch.inf)  # (2B, 2B)
            partner = torch.arange(len(z), device=z.device).roll(len(indices))  # (2B,)
            right = (similarity.argmax(-1) == partner).float().mean().item()
            totals[name].append((loss, right, len(indices)))
    figures = {}
    for name, parts in totals.items():
        pairs_seen = sum(part[2] for part in parts)
        if pairs_seen:
            figures[name] = {
                "loss": sum(part[0] * part[2] for part in parts) / pairs_seen,
                "retrieval_accuracy": sum(part[1] * part[2] for part in parts) / pairs_seen,
                "pairs": pairs_seen,
            }
        else:
            figures[name] = {}
    return figures


# --------------------------------------------------------------------------------------------------------- checkpoints


def run_identity(
    config: AggregatorTrainingConfig, encoder: GrantedModel, fingerprint: str, pairs: Sequence[dict]
) -> dict[str, str]:
    """What makes two runs the same: every setting that changes the weights, the encoder, how it reads, the pairs.

    Args:
        config ([`AggregatorTrainingConfig`]): the settings.
        encoder ([`GrantedModel`]), fingerprint (`str`): what reads the texts, and the hash of its weights.
        pairs (`Sequence[dict]`): what is trained on.
    """
    settings = asdict(config)
    for feature in config.features:
        if feature.startswith("weights:"):  # the file may change under its name
            weights = read_layer_weights(feature.removeprefix("weights:"), encoder.config.num_hidden_layers)
            settings[feature] = weights.tolist()
    for name in ("feature_cache", "save_steps", "log_steps", "tracker"):
        del settings[name]
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps([pair["caption_a"], pair["caption_b"], pair.get("negatives") or []]).encode())
    reading = {name.replace("_", " "): json.dumps(value) for name, value in reading_of(encoder).items()}
    settings = json.dumps(settings, sort_keys=True)
    return {"settings": settings, "encoder": fingerprint, "pairs": digest.hexdigest()} | reading


def _check_identity(path: Path, identity: dict[str, str]) -> None:
    with refusing(f"{path}", "what a training of aggregators wrote: remove its folder and train again"):
        found = dict(read_json(path)["identity"])
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        raise InputError(
            f"got {path.parent}, which holds a run with other {' and '.join(different)}, expected this run's: "
            "choose another output folder or remove it"
        )


def save_checkpoint(output_dir: Path, described: dict, heads, optimizer, accelerator) -> None:
    """Write `checkpoint-STEP` whole, then remove the older ones.

    Args:
        output_dir (`Path`): the folder of the run.
        described (`dict`): step, log, seconds, identity: goes into `state.json`.
        heads, optimizer, accelerator: what is saved, by the main process.
    """
    if not accelerator.is_main_process:
        return
    state = optimizer.state_dict()["state"]
    moments = {f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}
    target = output_dir / f"checkpoint-{described['step']}"
    with atomic_path(target) as temporary:
        temporary.mkdir()
        save_file({k: v.contiguous() for k, v in heads.state_dict().items()}, temporary / "heads.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", described)
    remove_checkpoints(output_dir, but=target)


def resume(output_dir: Path, identity, heads, optimizer, step_pairs: int) -> tuple[int, list[dict], float]:
    """Load the newest checkpoint, if any; the step to go on from, the log and the seconds so far.

    Args:
        output_dir (`Path`): the folder of the run.
        identity (`dict[str, str]`): of [`run_identity`].
        heads, optimizer: get the saved state.
        step_pairs (`int`): pairs of a step over all processes.

    Raises:
        InputError: the checkpoint is damaged, of another run, or of one with another number of processes.
    """
    found = checkpoints(output_dir)
    if not found:
        return 0, [], 0.0
    folder = found[-1]
    _check_identity(folder / "state.json", identity)
    with refusing(f"the checkpoint {folder}", "a whole one: remove it and run again"):
        state = read_json(folder / "state.json")
        step, log, seconds = int(state["step"]), list(state["log"]), float(state["seconds"])
        if state["pairs_per_step"] != step_pairs:
            raise InputError(
                f"got {folder} of a run with {state['pairs_per_step']} pairs a step, expected {step_pairs}: go on "
                "with as many processes as it began with, or remove it"
            )
        heads.load_state_dict(load_file(folder / "heads.safetensors"))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(folder / "optimizer.safetensors").items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step, log, seconds
