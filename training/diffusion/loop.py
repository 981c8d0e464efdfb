"""The training loop of diffusion models with their text encoder's layer weights, for images and for videos.

`DiffusionTrainer` holds what the two share: flow matching, the layer weights' schedule, conditioning from the encoder
or the disk, averaged weights, checkpoints and exact resume, grids, the saved pipeline. `text_to_image.py` and
`text_to_video.py` say what a sample is, what the transformer is and how it is called.

A subclass is run by `TextToImageTrainer(config).run()`.
"""

import inspect
import json
import math
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast, broadcast_object_list, gather_object, set_seed
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from granted.configuration_granted import check_weights
from granted.encoding.feature_files import feature_identity
from granted.encoding.loading import load_encoder, place
from granted.modeling_granted import GrantedModel
from granted.pipeline_blocks import text_by_block
from granted.training.aggregator.training import learning_rate_factor
from granted.training.diffusion.conditioning import Conditioning
from granted.training.diffusion.data import Batch, CaptionedImages
from granted.training.diffusion.settings import CALIBRATION, DiffusionTrainingConfig
from granted.training.diffusion.two_step import LayerWeightSchedule
from granted.training.flow_matching import UNCONDITIONAL, Draw, flow_matching
from granted.training.optimizers import make_optimizers
from granted.training.run_folder import (
    RECORD,
    RUN,
    check_identity,
    checkpoints,
    clear_finished,
    hold_folder,
    leave_folder,
    remove_checkpoints,
    shared_folder,
)
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, read_json, read_texts, write_json
from granted.utils.versions import library_versions


class DiffusionTrainer(ABC):
    """One training, from settings to a saved pipeline. Run again, it goes on where it stopped.

    Args:
        config ([`DiffusionTrainingConfig`]): the settings.
        show_progress (`bool`, defaults to `True`): progress bars on the main process.

    Raises:
        InputError: encoder, data or settings cannot be used, or the folder holds another run. Nothing is written then.
    """

    kind = ""  # "text_to_image", "text_to_video"

    def __init__(self, config: DiffusionTrainingConfig, show_progress: bool = True):
        self.config = config
        self.output = Path(config.output_dir)
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with="trackio" if config.tracker == "trackio" else None,
            project_dir=str(self.output),
        )
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.accelerator.num_processes:  # as with FSDP on a CPU; they would share one folder
            raise InputError(
                f"got {launched} processes that do not know of one another, expected one group: start them with a "
                "configuration of accelerate for this hardware"
            )
        if config.optimizer == "muon" and self.sharded:
            raise InputError("got optimizer muon with FSDP, expected adamw: Muon needs whole matrices, use DDP")
        self.show = show_progress and self.accelerator.is_main_process
        self.part = self.part_of(config.batch_size)  # samples of a process at a time
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=config.shift)
        _, self.encoder = self.load_encoder()
        if config.standardize and self.encoder.config.projection_dim is not None:
            raise InputError(
                "got standardize with an encoder that has a projection, which was trained on features as they are, "
                "expected one without: leave the option out"
            )
        self.schedule = LayerWeightSchedule(
            self.encoder,
            mode=config.layer_weights,
            freeze_at=config.freeze_at,
            total_steps=config.max_steps,
            blocks=self.num_blocks(),
            learning_rate=config.layer_weights_learning_rate or config.learning_rate,
            window=config.freeze_window,
            record_steps=config.log_steps,
        )
        self.conditioning = Conditioning(
            self.encoder,
            self.accelerator,
            max_sequence_length=config.max_sequence_length,
            recompute=config.recompute_layers,
            token_budget=config.token_budget,
        )

    # ----------------------------------------------------------------------------------- what a kind of training says

    @abstractmethod
    def make_transformer(self) -> ModelMixin:
        """The diffusion model, freshly initialised or loaded."""

    @abstractmethod
    def num_blocks(self) -> int:
        """How many blocks of the diffusion model can read text of their own. Asked before it is made."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Fingerprints of what the run reads, for its identity."""

    @abstractmethod
    def prepare_data(self) -> None:
        """Whatever is done to the data once, before the first step."""

    @abstractmethod
    def captions(self) -> Iterator[str]:
        """Every caption of the data."""

    @abstractmethod
    def remaining_captions(self, first: int) -> Iterator[str]:
        """Captions drawn from step `first` to the end, by all processes; at least these."""

    @abstractmethod
    def batches(self, first: int, state: dict[str, Any] | None) -> Iterator[Batch]:
        """This process's parts of the steps from `first` on, `gradient_accumulation_steps` of them a step."""

    @abstractmethod
    def samples(self, batch: Batch) -> torch.Tensor:
        """What the diffusion model learns to make: pixels or latents (B, C, ...), on the device."""

    def padded(self, embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and mask of captions at the length that the transformer reads: as they are, if it takes any."""
        return embeds, mask

    @abstractmethod
    def predict(self, noisy: torch.Tensor, sigmas: torch.Tensor, embeds: torch.Tensor, mask: torch.Tensor):
        """The transformer's velocity `noise - x` (B, C, ...) in its own conventions of time and sign.

        Args:
            noisy (`torch.Tensor` of shape `(B, C, ...)`): noised pixels or latents.
            sigmas (`torch.Tensor` of shape `(B,)`): the share of noise, 0 to 1.
            embeds (`torch.Tensor` of shape `(B, N, D)` or `(B, K, N, D)`): features of the captions.
            mask (`torch.Tensor` of shape `(B, N)`): their tokens.
        """

    @abstractmethod
    def save_grid(self, prompts: list[str], path: Path) -> None:
        """Sample with the weights as they are and, on the main process, write a PNG."""

    @abstractmethod
    def pipeline(self, transformer: ModelMixin, encoder: GrantedModel | None) -> DiffusionPipeline:
        """The pipeline of a transformer, with an encoder or for embedded prompts."""

    # ------------------------------------------------------------------------------------------------------- the run

    def run(self) -> Path:
        """Train, and write pipeline, record, trajectory and last grid into the output folder, which is returned."""
        config, accelerator = self.config, self.accelerator
        identity = self.identity()
        if check_identity(self.output, identity) and (self.output / RECORD).exists():
            clear_finished(self.output, with_checkpoints=True)
            return self.output
        accelerator.wait_for_everyone()  # all have looked before anything is written
        lock = hold_folder(self.output)
        if accelerator.is_main_process:
            write_json(self.output / RUN, identity)
        self.prepare_data()
        if config.standardize:  # before a resumed run has its learned weights again
            self.calibrate()
        set_seed(config.seed)
        self.transformer = self.make_transformer()
        if config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        optimizers = make_optimizers(self.transformer, config)
        self.transformer, *self.optimizers = accelerator.prepare(self.transformer.train(), *optimizers)
        self.parameters = list(self.transformer.parameters())
        self.averaged = [*self.parameters, *self.encoder.fusion.parameters()]
        self.ema = None
        if config.ema_decay:  # operations on whole lists take no sharded weights beside the layer weights
            self.ema = EMAModel(self.averaged, decay=config.ema_decay, foreach=not self.sharded)
        self.step, self.log, self.stream_state = 0, [], None
        self.loss_sum = torch.zeros((), device=accelerator.device)  # (), since the last point of the curve
        self.resume()
        if config.tracker == "trackio":
            accelerator.init_trackers(f"granted-{self.kind}", config=asdict(config))
        self.prompts = self.sample_prompts()
        self.conditioning.warn_truncation(islice(self.captions(), 10_000))
        if not self.schedule.learning:
            self.freeze_conditioning()
        seconds = self.train()
        self.finish(seconds)
        for tracker in accelerator.trackers:  # not `end_training`, which also ends the process group
            tracker.finish()
        leave_folder(lock)
        return self.output

    def train(self) -> float:
        """All steps that are left; seconds they took."""
        config, accelerator = self.config, self.accelerator
        batches = self.batches(self.step, self.stream_state)
        started = time.perf_counter()
        with tqdm(total=config.max_steps, initial=self.step, desc=self.kind, disable=not self.show) as bar:
            for step in range(self.step, config.max_steps):
                if self.schedule.begin(step):
                    self.freeze_conditioning()
                factor = learning_rate_factor(step, config.max_steps, config.schedule, config.warmup_steps)
                for group in chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers):
                    group["lr"] = config.learning_rate * factor
                self.loss_sum += self.train_step(step, batches)
                accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                factor = learning_rate_factor(
                    step, config.max_steps, config.layer_weights_schedule, config.warmup_steps
                )
                self.schedule.update(accelerator, factor)
                if self.ema:
                    self.ema.step(self.averaged)
                self.step = step + 1
                self.schedule.observe(self.step)
                bar.update()
                self.after_step(bar)
        return time.perf_counter() - started

    def train_step(self, step: int, batches: Iterator[Batch]) -> torch.Tensor:
        """Gradients of one step; the mean loss of this process."""
        config, accelerator = self.config, self.accelerator
        total = torch.zeros((), device=accelerator.device)
        for number in range(config.gradient_accumulation_steps):
            batch = next(batches)
            self.stream_state = batch.state
            size = len(batch.captions)
            first = (number * accelerator.num_processes + accelerator.process_index) * size
            last = number + 1 == config.gradient_accumulation_steps
            synchronised = nullcontext() if last else accelerator.no_sync(self.transformer)
            # Blocks that are run again for their gradients read their own text again.
            with synchronised, ExitStack() as until_backward:
                loss = self.loss(batch, [Draw(config, step, first + i) for i in range(size)], until_backward)
                accelerator.backward(loss / config.gradient_accumulation_steps)
            total += loss.detach() / config.gradient_accumulation_steps
        return total

    def loss(self, batch: Batch, draws: list[Draw], until_backward: ExitStack) -> torch.Tensor:
        """The flow-matching loss of a batch, the mean over its elements; what must last to its end is entered."""
        device = self.accelerator.device
        samples = self.samples(batch)  # (B, C, ...)
        captions = [draw.caption(captions) for draw, captions in zip(draws, batch.captions)]
        sigmas = torch.cat([draw.sigma() for draw in draws]).to(device)  # (B,)
        noise = torch.stack([draw.noise(samples.shape[1:]) for draw in draws]).to(device)  # (B, C, ...)
        noisy, velocity = flow_matching(samples, noise, sigmas)  # (B, C, ...) each
        embeds, mask = self.padded(*self.conditioning.embed(captions))  # (B, N, D) or (B, N, K * D), (B, N)
        plain = self.accelerator.unwrap_model(self.transformer)
        embeds = until_backward.enter_context(text_by_block(plain, embeds, mask))  # (B, N, D)
        predicted = self.predict(noisy, sigmas, embeds, mask)  # (B, C, ...)
        return F.mse_loss(predicted.float(), velocity)

    def after_step(self, bar: tqdm) -> None:
        """Curve, grid and checkpoint, each where it is due."""
        config, accelerator = self.config, self.accelerator
        done = self.step == config.max_steps
        if self.step % config.log_steps == 0 or done:
            since = self.step - (self.log[-1]["step"] if self.log else 0)
            loss = accelerator.reduce(self.loss_sum / since, reduction="mean").item()
            self.loss_sum.zero_()
            if not math.isfinite(loss):
                raise InputError(
                    f"got a loss of {loss} at step {self.step}, expected a finite one: lower the learning rate, or "
                    "load the encoder in float32"
                )
            self.log.append({"step": self.step, "loss": loss})
            bar.set_postfix(loss=f"{loss:.3f}")
            accelerator.log({"loss": loss}, step=self.step)
        if config.sample_steps and self.step % config.sample_steps == 0 and not done:
            with self.averaged_weights():
                self.sample_grid()
        if self.step % config.save_steps == 0 and not done:
            self.save_checkpoint()

    def freeze_conditioning(self) -> None:
        """The layer weights are fixed: from here on captions come from the disk, and the trunk is freed."""
        if self.config.cache:
            texts = chain([UNCONDITIONAL], self.prompts, self.remaining_captions(self.step))
            self.conditioning.freeze(texts, self.config.cache_dir or self.output / "embeddings")

    def drawn_captions(self, step: int, data: CaptionedImages, rows: list[int]) -> Iterator[str]:
        """The captions that a step draws for its batch."""
        for position, row in enumerate(rows):
            yield Draw(self.config, step, position).caption(data.captions_of_row(row))

    def part_of(self, batch_size: int) -> int:
        """How many samples of a step a process takes at a time.

        Raises:
            InputError: the batch cannot be divided evenly.
        """
        parts = self.accelerator.num_processes * self.config.gradient_accumulation_steps
        if batch_size % parts:
            raise InputError(
                f"got batch_size={batch_size}, expected a multiple of {parts}, the number of processes times "
                "gradient_accumulation_steps: change one of them"
            )
        return batch_size // parts

    def shares(self, batch_size: int) -> list[slice]:
        """Which samples of a step's batch are this process's, part by part."""
        part = self.part_of(batch_size)
        parts = range(self.config.gradient_accumulation_steps)
        starts = [(i * self.accelerator.num_processes + self.accelerator.process_index) * part for i in parts]
        return [slice(start, start + part) for start in starts]

    def calibrate(self) -> None:
        """Standardise the encoder's features by the first captions, the same in all processes to the last bit."""
        captions, config = islice(self.captions(), CALIBRATION), self.config
        limits = {"max_sequence_length": config.max_sequence_length, "token_budget": config.token_budget}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*are longer than")  # that is said once, of all captions
            self.encoder.calibrate(captions, **limits)
        for values in self.encoder.standardization.buffers():
            values.copy_(broadcast(values))

    def load_encoder(self) -> tuple[str, GrantedModel]:
        """The encoder and its display name."""
        with self.accelerator.local_main_process_first():
            return load_encoder(self.config.encoder, self.config.encoder_options())

    def load_vae(self, kind: type[ModelMixin]) -> ModelMixin | None:
        """The frozen VAE on the device of the run; none for samples that are pixels."""
        if self.config.vae == "none":
            return None
        return place(load_part(kind, self.config.vae, "vae"), self.accelerator.device).eval().requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same."""
        settings = self.config.identity() | {"kind": self.kind}
        return {"settings": settings, **feature_identity(self.encoder), **self.content()}

    def sample_prompts(self) -> list[str]:
        """The prompts of the grids."""
        if self.config.sample_prompts is None:
            return list(islice(dict.fromkeys(self.captions()), self.config.sample_count))
        return read_texts(self.config.sample_prompts)[: self.config.sample_count]

    def sample_grid(self) -> None:
        """A PNG of the prompts' samples at this step, and beside it the prompts, one a line."""
        folder = self.output / "grids"
        self.save_grid(self.prompts, folder / f"step_{self.step:06d}.png")
        if self.accelerator.is_main_process:
            with atomic_path(folder / "prompts.txt") as temporary:
                temporary.write_text("".join(f"{prompt}\n" for prompt in self.prompts), encoding="utf-8")

    def draw(
        self, embeds: torch.Tensor, mask: torch.Tensor, seed: int, *, output_type: str = "pt", **size: int
    ) -> Any:
        """What the pipeline of the weights as they are makes of embedded prompts.

        Args:
            embeds (`torch.Tensor`): (P + 1, N, D) or (P + 1, N, K * D), the last of them of no caption, for guidance.
            mask (`torch.Tensor`): (P + 1, N).
            seed (`int`): of the noise, which is drawn on the CPU.
            output_type (`str`, defaults to `"pt"`): as of the pipeline; `"latent"` for what is decoded elsewhere.
            **size: `height`, `width` and, of videos, `num_frames`.
        """
        pipeline = self.pipeline(self.accelerator.unwrap_model(self.transformer), None)
        pipeline.set_progress_bar_config(disable=True)
        count = len(embeds) - 1
        noise = torch.randn(count, *self.sample_shape, generator=torch.Generator().manual_seed(seed))
        return pipeline(
            prompt_embeds=embeds[:-1],
            prompt_attention_mask=mask[:-1],
            negative_prompt_embeds=embeds[-1:].expand(count, -1, -1),
            negative_prompt_attention_mask=mask[-1:].expand(count, -1),
            latents=noise.to(self.accelerator.device),
            num_inference_steps=self.config.num_inference_steps,
            guidance_scale=self.config.guidance_scale,
            output_type=output_type,
            **size,
        )

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The transformer and the layer weights that it reads, both averaged alike, in evaluation mode."""
        self.transformer.eval()
        if self.ema:
            self.ema.store(self.averaged)
            self.ema.copy_to(self.averaged)
        try:
            with torch.no_grad():
                yield
        finally:
            if self.ema:
                self.ema.restore(self.averaged)
            self.transformer.train()

    def finish(self, seconds: float) -> None:
        """Last grid, trajectory, pipeline and, when all is there, the record; then the checkpoints go."""
        accelerator, config = self.accelerator, self.config
        with self.averaged_weights():
            self.sample_grid()
            state = accelerator.get_state_dict(self.transformer)  # whole, where the weights are spread
            plain = accelerator.unwrap_model(self.transformer)
            transformer = type(plain).from_config(plain.config)
            if accelerator.is_main_process:
                transformer.load_state_dict(state)
                encoder = self.encoder_to_save()
                layer_weights = encoder.layer_weights.tolist()
                with atomic_path(self.output / "pipeline") as temporary:
                    self.pipeline(transformer.eval(), encoder).save_pretrained(temporary)
        if accelerator.is_main_process:
            self.schedule.save(self.output)
            with atomic_path(self.output / "training.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in self.log))
            record = {
                "kind": self.kind,
                "settings": asdict(config),
                "identity": read_json(self.output / RUN),
                "parameters": sum(parameter.numel() for parameter in transformer.parameters()),
                "layer_weights": layer_weights,
                "frozen_at": self.schedule.frozen_at,
                "loss": self.log[-1]["loss"],
                "steps": self.step,
                "seconds_of_last_start": round(seconds, 1),
                "processes": accelerator.num_processes,
                "device": str(accelerator.device),
                "versions": library_versions("granted", "torch", "transformers", "diffusers", "accelerate"),
            }
            write_json(self.output / RECORD, record)
            remove_checkpoints(self.output)
        accelerator.wait_for_everyone()

    def encoder_to_save(self) -> GrantedModel:
        """The encoder with the layer weights of this run; loaded anew if its trunk was freed."""
        if self.conditioning.cache is None:
            return self.encoder
        _, encoder = load_encoder(self.config.encoder, self.config.encoder_options())
        encoder.config = self.encoder.config
        encoder.fusion = self.encoder.fusion
        if encoder.config.standardize:
            encoder.standardization = self.encoder.standardization
        return encoder

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def save_checkpoint(self) -> None:
        """Write `checkpoint-STEP` whole, by all processes, then remove the older ones."""
        accelerator = self.accelerator
        target = self.output / f"checkpoint-{self.step}"
        streams = gather_object([self.stream_state])
        losses = gather_object([self.loss_sum.item()])
        with shared_folder(accelerator, target) as folder:
            accelerator.save_state(folder)
            if self.ema and (accelerator.is_main_process or self.sharded):
                shadow = {f"{i}": local(tensor).contiguous() for i, tensor in enumerate(self.ema.shadow_params)}
                save_file(shadow, folder / f"ema_{accelerator.process_index}.safetensors")
            if accelerator.is_main_process:
                state = {
                    "step": self.step,
                    "processes": accelerator.num_processes,
                    "schedule": self.schedule.state(),
                    "log": self.log,
                    "loss_sums": losses,
                    "streams": streams,
                }
                write_json(folder / "state.json", state)
        if accelerator.is_main_process:
            remove_checkpoints(self.output, but=target)

    def resume(self) -> None:
        """Load the newest checkpoint, if any.

        Raises:
            InputError: it was written by another number of processes.
        """
        accelerator = self.accelerator
        found = checkpoints(self.output)[-1:] or [None]
        broadcast_object_list(found)
        if found[0] is None:
            return
        state = read_json(found[0] / "state.json")
        if state["processes"] != accelerator.num_processes:
            raise InputError(
                f"got {found[0]} of {state['processes']} processes, expected {accelerator.num_processes}: go on with "
                "as many as it began with, or remove it"
            )
        accelerator.load_state(str(found[0]))
        rank = accelerator.process_index
        self.step, self.log = state["step"], state["log"]
        self.loss_sum.fill_(state["loss_sums"][rank])
        self.stream_state = state["streams"][rank]
        self.schedule.load_state(state["schedule"])
        if self.ema:
            shadow = load_file(found[0] / f"ema_{rank if self.sharded else 0}.safetensors")
            for i, tensor in enumerate(self.ema.shadow_params):
                local(tensor).copy_(shadow[f"{i}"])
            self.ema.optimization_step = self.step

    @property
    def sharded(self) -> bool:
        """Whether every process holds a part of the weights only."""
        return self.accelerator.distributed_type == DistributedType.FSDP


def load_part(kind: type[ModelMixin], source: str, name: str, **options: Any) -> ModelMixin:
    """A model of diffusers from a Hub id or folder: of a pipeline, whose part of that name it is, or its own.

    Raises:
        InputError: there is none, it lacks weights, or it has unknown ones.
    """
    problems = []
    for subfolder in (name, None):
        try:
            model, loaded = kind.from_pretrained(source, subfolder=subfolder, output_loading_info=True, **options)
        except (OSError, ValueError, RuntimeError) as error:
            problems.append(" ".join(str(error).split())[:200])
            continue
        try:
            check_weights(source, loaded["missing_keys"], loaded["unexpected_keys"])
        except ValueError as error:
            raise InputError(str(error)) from error
        return model
    raise InputError(
        f"got {name} {source!r}, which cannot be loaded ({problems[-1]}), expected a {kind.__name__}: check the path"
    )


def block_count(kind: type[ModelMixin], config: Mapping[str, Any]) -> int:
    """The number of blocks of a transformer from the fields of its configuration that are given."""
    return config.get("num_layers", inspect.signature(kind.__init__).parameters["num_layers"].default)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
