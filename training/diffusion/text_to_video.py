"""Text to video: Wan fine-tuned on images and videos in turn, with the layer weights of its text encoder (C.1).

    granted train text-to-video --config training/configs/t2v_paper.yaml --encoder ENCODER --data CLIPS \\
        --image-data IMAGES --output-dir run

Tiny, on CPU: the same with `t2v_miniature.yaml`, whose first lines say how to make its data. Of any ten steps in a row
seven are of images, and three of videos. Run the command again to go on after an interruption. The outcome is
`run/pipeline`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, ModelMixin, WanTransformer3DModel
from torch import nn

from granted.modeling_fingerprint import weights_hash
from granted.modeling_granted import GrantedModel
from granted.pipeline_granted import GrantedWanPipeline
from granted.training.diffusion.data import Batch, CaptionedImages, load_rows
from granted.training.diffusion.loop import DiffusionTrainer, block_count, load_part
from granted.training.diffusion.settings import TextToVideoConfig
from granted.training.diffusion.text_to_image import save_grid
from granted.training.flow_matching import UNCONDITIONAL
from granted.training.run_folder import data_fingerprint
from granted.utils.errors import InputError


def is_image_step(step: int, image_steps: int) -> bool:
    """Whether a step is of images: `image_steps` of any ten in a row, evenly spread."""
    return step * image_steps % 10 < image_steps


class TextToVideoTrainer(DiffusionTrainer):
    """Trains a `WanTransformer3DModel` on videos and images, or on their latents."""

    kind = "text_to_video"
    config: TextToVideoConfig

    def __init__(self, config: TextToVideoConfig, show_progress: bool = True):
        self.pretrained = None
        if config.pretrained:
            self.pretrained = load_part(
                WanTransformer3DModel, config.pretrained, "transformer", torch_dtype=torch.float32
            )
        super().__init__(config, show_progress)
        self.vae = self.load_vae(AutoencoderKLWan)
        patch = (self.pretrained.config if self.pretrained else config.transformer).get("patch_size", (1, 2, 2))
        space = self.vae.config.scale_factor_spatial if self.vae else 1
        time = self.vae.config.scale_factor_temporal if self.vae else 1
        if config.height % (space * patch[1]) or config.width % (space * patch[2]) or (config.num_frames - 1) % time:
            raise InputError(
                f"got videos of {config.num_frames} frames of {config.height} x {config.width}, expected sides "
                f"divisible by {space * patch[1]} and {space * patch[2]}, and one frame more than a multiple of "
                f"{time}: change them"
            )
        self.sample_shape = (
            self.vae.config.z_dim if self.vae else 3,
            (config.num_frames - 1) // time + 1,
            config.height // space,
            config.width // space,
        )
        self.videos = self.load(config.data, config.frames_column, config.batch_size, config.num_frames)
        self.images = None
        if config.image_steps:
            self.images = self.load(config.image_data, config.image_column, config.image_batch_size, None)

    def load(self, source: str, column: str, batch_size: int, frames: int | None) -> CaptionedImages:
        """Videos, or images without a number of frames.

        Args:
            source (`str`), column (`str`): the data and its column of media.
            batch_size (`int`): over all processes.
            frames (`int`, *optional*): of a video.
        """
        config = self.config
        self.part_of(batch_size)
        rows = load_rows(source, config.split, column, config.caption_columns, streaming=False)
        with self.accelerator.main_process_first():
            return CaptionedImages(
                rows,
                column,
                config.caption_columns,
                buckets=[(config.height, config.width)],
                batch_size=batch_size,
                seed=config.seed,
                skip_broken=config.skip_broken,
                workers=config.data_workers,
                frames=frames,
            )

    def make_transformer(self) -> WanTransformer3DModel:
        """The pre-trained transformer with new text-embedding layers, or a new one."""
        channels = self.sample_shape[0]
        if self.pretrained is not None:
            if self.pretrained.config.in_channels != channels:
                raise InputError(
                    f"got a transformer of {self.pretrained.config.in_channels} channels for samples of {channels}, "
                    "expected the same: give its VAE"
                )
            renew_text_embedding(self.pretrained, self.encoder.config.hidden_size)
            return self.pretrained
        follows = {"in_channels": channels, "out_channels": channels, "text_dim": self.encoder.config.hidden_size}
        try:
            return WanTransformer3DModel(**self.config.transformer | follows)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"got a transformer that cannot be built ({error}), expected fields of WanTransformer3DModel: correct "
                "them"
            ) from error

    def num_blocks(self) -> int:
        given = self.pretrained.config if self.pretrained else self.config.transformer
        return block_count(WanTransformer3DModel, given)

    def content(self) -> dict[str, Any]:
        return {
            "data": data_fingerprint(self.config.data, self.videos.rows),
            "image_data": data_fingerprint(self.config.image_data, self.images.rows) if self.images else None,
            "vae": self.vae and weights_hash(self.vae),
            "pretrained": self.pretrained and weights_hash(without_text_embedding(self.pretrained)),
        }

    def prepare_data(self) -> None:
        """Nothing: latents are made as videos come."""

    def captions(self) -> Iterator[str]:
        return chain(self.videos.captions(), self.images.captions() if self.images else [])

    def remaining_captions(self, first: int) -> Iterator[str]:
        images = self.image_steps_before(first)
        videos, image_rows = self.videos.order(first - images), self.images and self.images.order(images)
        for step in range(first, self.config.max_steps):
            if is_image_step(step, self.config.image_steps):
                yield from self.drawn_captions(step, self.images, next(image_rows))
            else:
                yield from self.drawn_captions(step, self.videos, next(videos))

    def image_steps_before(self, step: int) -> int:
        """How many steps of images there are before a step."""
        return sum(is_image_step(number, self.config.image_steps) for number in range(step))

    def batches(self, first: int, state: dict[str, Any] | None) -> Iterator[Batch]:
        config = self.config
        images = self.image_steps_before(first)
        videos = self.videos.batches(first - images, self.shares(config.batch_size))
        image_batches = self.images and self.images.batches(images, self.shares(config.image_batch_size))
        for step in count(first):
            for _ in range(config.gradient_accumulation_steps):
                yield next(image_batches if is_image_step(step, config.image_steps) else videos)

    @torch.no_grad()
    def samples(self, batch: Batch) -> torch.Tensor:
        pixels = batch.samples.to(self.accelerator.device)  # (B, 3, T, H, W), images without T
        if pixels.ndim == 4:
            pixels = pixels.unsqueeze(2)  # (B, 3, 1, H, W)
        if self.vae is None:
            return pixels
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()  # (B, C, t, h, w)
        mean, deviation = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)  # (1, C, 1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return (latents - mean) / deviation

    def padded(self, embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """With zeros up to the length that Wan, which takes no mask, always reads."""
        missing = self.conditioning.max_sequence_length - self.encoder.config.template_drop_tokens - embeds.shape[1]
        pad = nn.functional.pad
        return pad(embeds, (0, 0, 0, missing)), pad(mask, (0, missing))  # (B, N, D or K * D), (B, N)

    def predict(self, noisy: torch.Tensor, sigmas: torch.Tensor, embeds: torch.Tensor, mask: torch.Tensor):
        """Wan counts time in the scheduler's steps from image to noise and predicts `noise - x`."""
        timesteps = sigmas * self.scheduler.config.num_train_timesteps  # (B,)
        return self.transformer(noisy, timesteps, embeds, return_dict=False)[0]  # (B, C, T, H, W)

    def sample(self, prompts: Sequence[str], seed: int = 0) -> torch.Tensor:
        """Videos (len(prompts), T, 3, H, W) in [0, 1], from the weights as they are."""
        embeds, mask = self.padded(*self.conditioning.embed([*prompts, UNCONDITIONAL]))  # (P + 1, N, D), (P + 1, N)
        size = {name: getattr(self.config, name) for name in ("height", "width", "num_frames")}
        return self.draw(embeds, mask, seed, **size).frames  # (P, T, 3, H, W)

    def save_grid(self, prompts: list[str], path: Path) -> None:
        """A row of frames for each prompt."""
        videos = self.sample(prompts)  # (P, T, 3, H, W)
        if self.accelerator.is_main_process:
            save_grid(videos.flatten(0, 1).float(), path, columns=videos.shape[1])

    def pipeline(self, transformer: ModelMixin, encoder: GrantedModel | None) -> GrantedWanPipeline:
        """The pipeline of a transformer; it reads as much of a prompt as the transformer has seen of captions."""
        tokenizer = encoder and encoder.tokenizer
        limit = self.conditioning.max_sequence_length
        return GrantedWanPipeline(transformer, self.scheduler, self.vae, encoder, tokenizer, limit)


def renew_text_embedding(transformer: WanTransformer3DModel, text_dim: int) -> None:
    """Give a transformer new layers that bring text features of width `text_dim` to its own width."""
    embedder = transformer.condition_embedder.text_embedder
    embedder.linear_1 = nn.Linear(text_dim, embedder.linear_1.out_features)
    embedder.linear_2.reset_parameters()
    transformer.register_to_config(text_dim=text_dim)


def without_text_embedding(transformer: WanTransformer3DModel) -> nn.Module:
    """The parts of a transformer that are kept, for a fingerprint."""
    kept = {name: part for name, part in transformer.named_children() if name != "condition_embedder"}
    inner = transformer.condition_embedder.named_children()
    return nn.ModuleDict(kept | {f"condition_{name}": part for name, part in inner if name != "text_embedder"})


def train(config: TextToVideoConfig) -> str:
    """Train; what is to be shown at the end."""
    return f"wrote {TextToVideoTrainer(config).run() / 'pipeline'}"
