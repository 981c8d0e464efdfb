"""One arm of the drawing probe: a small text-to-image model, trained from scratch on one feature of one encoder.

    arm = DrawingArm(config, feature_encoder(encoder, "norm_avg"), prompts, {})
    arm.run()                                 # config.output_dir/images, scores.json; run again to go on

It is the training of `granted train text-to-image` in the latent space of [`CellCodec`], and it ends in images of the
test prompts instead of a pipeline.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from granted.dataset_builders.scenes.shapes.drawing import GRID, Drawing, render_image
from granted.dataset_builders.scenes.shapes.reader import ReadFigure, read_image
from granted.dataset_builders.scenes.shapes.varied_scenes import single_figures
from granted.eval_metric.drawing.codec import CHANNELS, CellCodec
from granted.eval_metric.drawing.scenes import Prompt
from granted.modeling_granted import GrantedModel
from granted.training.diffusion.data import Batch
from granted.training.diffusion.settings import TextToImageConfig
from granted.training.diffusion.text_to_image import TextToImageTrainer
from granted.training.flow_matching import UNCONDITIONAL
from granted.training.run_folder import RECORD, RUN, remove_checkpoints
from granted.utils.files import atomic_path, read_json, write_json
from granted.utils.versions import library_versions


PROPERTIES = ("shape", "colour", "position", "look", "all", "figure")
LOGGED = ("look", "position")  # during the training
SAMPLED_TOGETHER = 60


class DrawingArm(TextToImageTrainer):
    """Trains, draws the test prompts, reads the images and writes what was right.

    Args:
        config ([`TextToImageConfig`]): of the training; `num_inference_steps` and `guidance_scale` also of the test.
        encoder ([`GrantedModel`]): its output is what the diffusion model reads. Its trunk is let go once the captions
            are encoded.
        prompts (`list[Prompt]`): of the test.
        about (`dict`): what is stored beside the scores.
    """

    kind = "drawing"

    def __init__(
        self, config: TextToImageConfig, encoder: GrantedModel, prompts: Sequence[Prompt], about: dict[str, Any]
    ):
        self._encoder, self._prompts, self._about = encoder, prompts, about
        super().__init__(config)
        images = [render_image(drawing, config.resolution) for drawing in single_figures(held_out=False)]
        self.codec = CellCodec.of(torch.stack([to_tensor(image) for image in images])).to(self.accelerator.device)
        self.sample_shape = (CHANNELS, GRID, GRID)

    def load_encoder(self) -> tuple[str, GrantedModel]:
        return "", self._encoder

    def remaining_captions(self, first: int) -> Iterator[str]:
        yield from super().remaining_captions(first)
        yield from (prompt.text for prompt in self._prompts)  # encoded now, while the trunk is here

    def train(self) -> float:
        if self.schedule.learning:  # captions are drawn again and again, and the trunk takes most of a step
            texts = [UNCONDITIONAL, *self.remaining_captions(self.step)]
            self.conditioning.store_layers(texts, self.config.cache_dir or self.output / "embeddings")
        return super().train()

    @torch.no_grad()
    def samples(self, batch: Batch) -> torch.Tensor:
        return self.codec.encode(super().samples(batch))  # (B, C, 3, 3)

    def sample(self, prompts: Sequence[str], seed: int = 0) -> torch.Tensor:
        embeds, mask = self.conditioning.embed([*prompts, UNCONDITIONAL])  # (P + 1, N, D), (P + 1, N)
        latents = self.draw(embeds, mask, seed, output_type="latent", height=GRID, width=GRID).images  # (P, C, 3, 3)
        return (self.codec.decode(latents) + 1) / 2  # (P, 3, H, W)

    def sample_grid(self) -> None:
        """Which share of the first prompts is right at this step joins the log; no grid is written."""
        first = self._prompts[0].wording
        prompts = [prompt for prompt in self._prompts[:SAMPLED_TOGETHER] if prompt.wording == first]
        figures = map(largest_figure, self.draw_prompts(prompts))
        scores = [compare(prompt.drawing, figure) for prompt, figure in zip(prompts, figures)]
        self.log[-1] |= {name: round(sum(one[name] for one in scores) / len(scores), 4) for name in LOGGED}

    def finish(self, seconds: float) -> None:
        with self.averaged_weights():
            images = self.draw_prompts(self._prompts)
        items = []
        for number, (prompt, image) in enumerate(zip(self._prompts, images)):
            seen, other = largest_figure(image), self._prompts[number - 1]  # of the same wording, but for the first
            item = {"wording": prompt.wording, "prompt": number, "score": compare(prompt.drawing, seen)}
            items.append(item | {"control": compare(other.drawing, seen)})
        with atomic_path(self.output / "images") as temporary:
            temporary.mkdir()
            for number, image in enumerate(images):
                image.save(temporary / f"{number:04d}.png")
        if self.schedule.mode != "as_saved":
            self.schedule.save(self.output)
        weights = self.encoder.layer_weights.double().cpu().numpy()  # (L,) or (K, L)
        scores = self._about | {"layer_weights": np.round(weights, 4).tolist()}
        scores |= {"items": items, "log": self.log, "seconds_of_last_start": round(seconds, 1)}
        scores |= {"device": str(self.accelerator.device), "fingerprint": read_json(self.output / RUN)["encoder"]}
        scores |= {"versions": library_versions("granted", "torch", "transformers", "diffusers")}
        write_json(self.output / "scores.json", scores)
        write_json(self.output / RECORD, {"steps": self.step})
        remove_checkpoints(self.output)

    def draw_prompts(self, prompts: Sequence[Prompt]) -> list[PIL.Image.Image]:
        """An image of each prompt, from the weights as they are."""
        images: list[PIL.Image.Image] = []
        for start in range(0, len(prompts), SAMPLED_TOGETHER):
            part = [prompt.text for prompt in prompts[start : start + SAMPLED_TOGETHER]]
            pixels = self.sample(part, seed=start)  # (P, 3, H, W)
            arrays = pixels.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()  # (P, H, W, 3)
            images += [PIL.Image.fromarray(array) for array in arrays]
        return images


def to_tensor(image: PIL.Image.Image) -> torch.Tensor:
    """(3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def largest_figure(image: PIL.Image.Image) -> ReadFigure | None:
    """The largest figure that the reader finds in an image."""
    return max(read_image(image).figures, key=lambda figure: figure.height, default=None)


def compare(drawing: Drawing, seen: ReadFigure | None) -> dict[str, float]:
    """Whether a figure has the shape, the colour and the place asked for.

    `look` is shape and colour together, `figure` all three; `all` is the share of the three that is right.
    """
    asked = drawing.figures[0]
    right = {
        "shape": seen is not None and seen.shape == asked.shape,
        "colour": seen is not None and seen.colour == asked.colour,
        "position": seen is not None and seen.cell == asked.cell,
    }
    share = sum(right.values()) / len(right)
    right |= {"look": right["shape"] and right["colour"], "figure": all(right.values())}
    return {name: float(value) for name, value in right.items()} | {"all": share}
