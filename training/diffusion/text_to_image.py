"""Text to image: a Lumina 2 transformer from scratch, with the layer weights of its text encoder (Section 3.5, C.1).

    granted train text-to-image --config training/configs/t2i_paper.yaml --encoder ENCODER --data DATA --output-dir run
    accelerate launch --config_file training/configs/accelerate_ddp.yaml -m granted.cli train text-to-image ...

Tiny, on CPU: the same with `t2i_miniature_32.yaml`, whose first lines say how to make its data. Run the command again
to go on after an interruption. The outcome is `run/pipeline`, which `DiffusionPipeline.from_pretrained` loads.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from diffusers import AutoencoderKL, Lumina2Transformer2DModel, ModelMixin
from diffusers.utils import make_image_grid

from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.modeling_fingerprint import weights_hash
from granted.modeling_granted import GrantedModel
from granted.pipeline_granted import GrantedLumina2Pipeline
from granted.training.diffusion.data import Batch, CaptionedImages, StreamedImages, bucket_shapes, load_rows
from granted.training.diffusion.loop import DiffusionTrainer, block_count
from granted.training.diffusion.settings import TextToImageConfig
from granted.training.flow_matching import UNCONDITIONAL
from granted.training.run_folder import data_fingerprint, stream_fingerprint
from granted.utils.errors import InputError
from granted.utils.files import atomic_path


LEAST = 96  # pixels of height in a grid, which smaller images are enlarged to by a whole factor


class TextToImageTrainer(DiffusionTrainer):
    """Trains a `Lumina2Transformer2DModel` on images or on their latents."""

    kind = "text_to_image"
    config: TextToImageConfig

    def __init__(self, config: TextToImageConfig, show_progress: bool = True):
        super().__init__(config, show_progress)
        self.vae = self.load_vae(AutoencoderKL)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae else 1
        patch = config.transformer.get("patch_size", 2)
        rows = load_rows(
            config.data, config.split, config.image_column, config.caption_columns, streaming=config.streaming
        )
        common = {
            "buckets": bucket_shapes(config.resolution, factor * patch, config.aspect_buckets),
            "seed": config.seed,
            "skip_broken": config.skip_broken,
        }
        columns = (config.image_column, config.caption_columns)
        if config.streaming:
            self.images = StreamedImages(
                rows,
                *columns,
                batch_size=self.part,
                window=config.stream_window,
                rank=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
                **common,
            )
        else:
            with self.accelerator.main_process_first():
                self.images = CaptionedImages(
                    rows, *columns, batch_size=config.batch_size, workers=config.data_workers, **common
                )
        self.latents: EmbeddingCache | None = None
        self.sample_shape = (
            self.vae.config.latent_channels if self.vae else 3,
            config.resolution // factor,
            config.resolution // factor,
        )

    def make_transformer(self) -> Lumina2Transformer2DModel:
        """A transformer of the configured shape, for this encoder's width and these samples."""
        channels, side, _ = self.sample_shape
        lengths = self.config.transformer.get("axes_lens", (300, 512, 512))
        most = self.conditioning.max_sequence_length - self.encoder.config.template_drop_tokens
        if lengths[0] <= most:
            raise InputError(
                f"got axes_lens={list(lengths)} for captions of up to {most} tokens, expected at least {most + 1} as "
                "the first: raise it, or lower max_sequence_length"
            )
        follows = {"in_channels": channels, "sample_size": side, "cap_feat_dim": self.encoder.config.hidden_size}
        different = {
            name: value for name, value in follows.items() if self.config.transformer.get(name, value) != value
        }
        if different:
            given = {name: self.config.transformer[name] for name in different}
            raise InputError(
                f"got a transformer with {given}, expected {different} as encoder and images have it: leave these "
                "fields out"
            )
        try:
            return Lumina2Transformer2DModel(**self.config.transformer | follows)
        except (TypeError, ValueError, AssertionError) as error:
            raise InputError(
                f"got a transformer that cannot be built ({error}): see Lumina2Transformer2DModel"
            ) from error

    def num_blocks(self) -> int:
        return block_count(Lumina2Transformer2DModel, self.config.transformer)

    def content(self) -> dict[str, Any]:
        if isinstance(self.images, StreamedImages):
            data = stream_fingerprint(self.config.data)
        else:
            data = data_fingerprint(self.config.data, self.images.rows)
        return {"data": data, "vae": self.vae and weights_hash(self.vae)}

    def captions(self) -> Iterator[str]:
        return self.images.captions()

    def remaining_captions(self, first: int) -> Iterator[str]:
        if isinstance(self.images, StreamedImages):
            yield from self.captions()
            return
        for step, rows in zip(range(first, self.config.max_steps), self.images.order(first)):
            yield from self.drawn_captions(step, self.images, rows)

    def batches(self, first: int, state: dict[str, Any] | None) -> Iterator[Batch]:
        if isinstance(self.images, StreamedImages):
            return self.images.batches(state or None)
        return self.images.batches(first, self.shares(self.config.batch_size))

    @torch.no_grad()
    def samples(self, batch: Batch) -> torch.Tensor:
        if self.vae is None or self.latents is not None:
            return batch.samples.to(self.accelerator.device)  # (B, 3, H, W), or (B, C, H/f, W/f)
        return self.encode(batch.samples)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) to latents (B, C, H/f, W/f) fp32, scaled as the pipeline scales them."""
        pixels = pixels.to(self.accelerator.device, self.vae.dtype)  # (B, 3, H, W)
        latents = self.vae.encode(pixels).latent_dist.mode().float()  # (B, C, H/f, W/f)
        return (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def prepare_data(self) -> None:
        """Latents of all images, once; streams are encoded as they come."""
        if self.vae is None or not self.config.cache or isinstance(self.images, StreamedImages):
            return
        identity = self.content() | {"columns": [self.config.image_column, *self.config.caption_columns]}
        identity |= {"split": self.config.split, "resolution": self.config.resolution}
        folder = Path(self.config.cache_dir or self.output) / "latents" / identity_hash(identity)
        with self.accelerator.main_process_first():
            cache = EmbeddingCache(folder, identity)
        self.accelerator.wait_for_everyone()  # each has read what is there before any adds to it
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.images.fill(cache, self.encode, rank, processes, at_a_time=self.part)
        self.accelerator.wait_for_everyone()
        self.latents = self.images.latents = EmbeddingCache(folder, identity)

    def predict(self, noisy: torch.Tensor, sigmas: torch.Tensor, embeds: torch.Tensor, mask: torch.Tensor):
        """Lumina 2 counts time from noise (0) to image (1) and predicts `x - noise`."""
        return -self.transformer(noisy, 1 - sigmas, embeds, mask, return_dict=False)[0]  # (B, C, H, W)

    def sample(self, prompts: Sequence[str], seed: int = 0) -> torch.Tensor:
        """Images (len(prompts), 3, H, W) in [0, 1], from the weights as they are."""
        embeds, mask = self.conditioning.embed([*prompts, UNCONDITIONAL])  # (P + 1, N, D), (P + 1, N)
        size = {"height": self.config.resolution, "width": self.config.resolution}
        return self.draw(embeds, mask, seed, **size).images  # (P, 3, H, W)

    def save_grid(self, prompts: list[str], path: Path) -> None:
        images = self.sample(prompts)  # (P, 3, H, W)
        if self.accelerator.is_main_process:
            save_grid(images, path)

    def pipeline(self, transformer: ModelMixin, encoder: GrantedModel | None) -> GrantedLumina2Pipeline:
        """The pipeline of a transformer; it reads as much of a prompt as the transformer has seen of captions."""
        tokenizer = encoder and encoder.tokenizer
        limit = self.conditioning.max_sequence_length
        return GrantedLumina2Pipeline(transformer, self.scheduler, self.vae, encoder, tokenizer, limit)


def save_grid(images: torch.Tensor, path: Path, columns: int = 8) -> None:
    """Write images (P, 3, H, W) in [0, 1] as one PNG, small ones enlarged.

    Args:
        images (`torch.Tensor` of shape `(P, 3, H, W)`): in [0, 1].
        path (`Path`): the file.
        columns (`int`, defaults to 8): of the grid.
    """
    arrays = images.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()  # (P, H, W, 3)
    scale = max(1, -(-LEAST // arrays.shape[1]))
    size = (arrays.shape[2] * scale, arrays.shape[1] * scale)
    tiles = [PIL.Image.fromarray(array).resize(size, PIL.Image.Resampling.NEAREST) for array in arrays]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    tiles += [PIL.Image.new("RGB", size, "white")] * (rows * columns - len(tiles))
    with atomic_path(path) as temporary:
        make_image_grid(tiles, rows, columns).save(temporary, format="PNG")


def train(config: TextToImageConfig) -> str:
    """Train; what is to be shown at the end."""
    return f"wrote {TextToImageTrainer(config).run() / 'pipeline'}"
