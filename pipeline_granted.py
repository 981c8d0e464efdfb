"""Diffusion pipelines with the fused text encoder: text to image (Lumina 2) and text to video (Wan 2.1).

    pipe = GrantedLumina2Pipeline(transformer, scheduler, vae, text_encoder, tokenizer)
    image = pipe("a red cube on a blue sphere").images[0]
    pipe.save_pretrained("pipeline")
    pipe = DiffusionPipeline.from_pretrained("pipeline", trust_remote_code=True)  # where this package is not installed

Tiny, on CPU: tests/test_pipeline_granted.py. Without a VAE the transformer works on pixels. The prompt template, the
template tokens that are dropped and the number of tokens read come from the encoder's configuration.

Both have a denoising loop of their own: Lumina2Pipeline takes the number of channels for the number of image tokens
where it shifts the time steps, and WanPipeline has no place for masks. Neither can be put right from outside.

Ships to the Hub; imports nothing but torch, transformers and diffusers.
"""

import ast
import inspect
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.lumina2.pipeline_lumina2 import calculate_shift, retrieve_timesteps
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase


# What GenAI-Bench's own script (linzhiqiu/t2v_metrics, genai_bench/generate.py) has for `--negative-prompt`; the paper
# samples with the benchmark's default.
NEGATIVE_PROMPT = (
    "ugly, tiling, poorly drawn hands, poorly drawn feet, poorly drawn face, out of frame, extra limbs, disfigured, "
    "deformed, body out of frame, bad anatomy, watermark, signature, cut off, low contrast, underexposed, "
    "overexposed, bad art, beginner, amateur, distorted face"
)

# Where the configurations of diffusers' transformers say how wide the text features are that they read.
TEXT_WIDTHS = ("cap_feat_dim", "text_dim", "caption_channels", "joint_attention_dim")

# The encoder's code in a saved pipeline; a name of its own, as diffusers keeps all local code in one folder.
ENCODER_FILE = "granted_text_encoder"

# Embeddings (B, N, D) and mask (B, N) of the prompts, then of the negative prompts.
Conditioning = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


def check_text_width(transformer: nn.Module, width: int, hidden_states: int = 1) -> None:
    """Raise a ValueError unless a transformer reads text features of this width.

    Stock pipelines do not look; what they raise in their first step is about the shapes of two matrices.

    Args:
        transformer (`nn.Module`): of diffusers, such as `pipe.transformer`.
        width (`int`): of the features, such as `text_encoder.config.hidden_size`.
        hidden_states (`int`, defaults to 1): how many hidden states the pipeline joins; Flux 2 joins 3.
    """
    expected = next(transformer.config[name] for name in TEXT_WIDTHS if name in transformer.config)
    if width * hidden_states != expected:
        joined = f" (joined {hidden_states} times: {width * hidden_states})" if hidden_states > 1 else ""
        raise ValueError(
            f"got text features of width {width}{joined} for a transformer that reads width {expected}, expected the "
            f"same: build the encoder with projection_dim={expected // hidden_states} and train the projection with "
            "the transformer, or choose a transformer of the encoder's width"
        )


class GrantedPipelineMixin:
    """What both pipelines share: prompts to embeddings with masks, sampling, a folder that loads by itself."""

    # They may be None but have no default: with one, DiffusionPipeline.from_pretrained(..., text_encoder=None) would
    # load the encoder all the same.
    _optional_components = ["vae", "text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def _settle_tokenizer(self, transformer, text_encoder, tokenizer):
        """The tokenizer to register. The pipeline's and the encoder's are one."""
        if text_encoder is None:
            return tokenizer
        # By name: a class loaded as remote code is not the class of the installed package.
        if text_encoder.config.model_type != "granted":
            raise ValueError(
                f"got the text encoder {type(text_encoder).__name__}, expected a GrantedModel: "
                "GrantedModel.from_encoder makes one of any encoder"
            )
        check_text_width(transformer, text_encoder.config.hidden_size)
        if tokenizer is not None:
            text_encoder.tokenizer = tokenizer
        return text_encoder.tokenizer

    # --------------------------------------------------------------------------------------------------- conditioning

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        device: torch.device | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        max_sequence_length: int | None = None,
    ) -> Conditioning:
        """Embeddings of prompts with their masks; all four go back into `__call__`. Gradients pass.

        Args:
            prompt (`str` or `list[str]`, *optional*): the encoder's template is put around each. An empty prompt, as
                of a caption dropped in training, is legal.
            do_classifier_free_guidance (`bool`, defaults to `True`): encode negative prompts as well.
            negative_prompt (`str` or `list[str]`, *optional*): GenAI-Bench's by default, as in the paper; `""` is
                what a transformer trained with dropped captions knows.
            num_images_per_prompt (`int`, defaults to 1): each row is repeated so often, one prompt after the other.
            device (`torch.device`, *optional*): where the results belong.
            prompt_embeds, negative_prompt_embeds (`torch.Tensor`, *optional*): (B, N, D) instead of texts.
            prompt_attention_mask, negative_prompt_attention_mask (`torch.Tensor`, *optional*): theirs, (B, N).
            max_sequence_length (`int`, *optional*): most tokens read of a prompt, template included; by default the
                encoder's limit, or what the transformer has positions for where that is less.

        Returns:
            `prompt_embeds` (B, N, D) in the encoder's dtype, `prompt_attention_mask` (B, N) long, and the same two of
            the negative prompts, with an N of their own, or `None` twice. Padding is on the right, with zeros.

        Raises:
            ValueError: a prompt that is no text, embeddings without a mask, a mask of another shape, another width.
        """
        prompts = self._check_text("prompt", prompt, prompt_embeds, prompt_attention_mask)
        negatives = []
        if not do_classifier_free_guidance:
            negative_prompt = negative_prompt_embeds = negative_prompt_attention_mask = None
        else:
            if negative_prompt is None and negative_prompt_embeds is None:
                negative_prompt = NEGATIVE_PROMPT
            negatives = self._check_text(
                "negative_prompt", negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask
            )
        if prompts or negatives:  # one run of the encoder, and one warning, for all of them
            embeds, masks = self._encode([*prompts, *negatives], max_sequence_length)  # (T, N, D), (T, N)
            count = len(prompts)
            if prompts:
                prompt_embeds, prompt_attention_mask = _trim(embeds[:count], masks[:count])
            if negatives:
                negative_prompt_embeds, negative_prompt_attention_mask = _trim(embeds[count:], masks[count:])
        batch_size = prompt_embeds.shape[0]
        if isinstance(negative_prompt, str):  # one for all
            negative_prompt_embeds = negative_prompt_embeds.expand(batch_size, -1, -1)  # (B, N, D)
            negative_prompt_attention_mask = negative_prompt_attention_mask.expand(batch_size, -1)  # (B, N)
        if do_classifier_free_guidance and negative_prompt_embeds.shape[0] != batch_size:
            raise ValueError(
                f"got {negative_prompt_embeds.shape[0]} negative prompts for {batch_size} prompts, expected as many: "
                "pass one for each, or one text for all"
            )
        device = device or self._execution_device
        tensors = (prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask)
        tensors = self._fit(tensors, max_sequence_length)
        # The pictures of a prompt follow one another: (B * num_images_per_prompt, ...), masks like embeddings.
        return tuple(t if t is None else t.to(device).repeat_interleave(num_images_per_prompt, 0) for t in tensors)

    def _encode(self, texts: list[str], max_sequence_length: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (T, N, D) of texts without the template tokens the configuration drops, and their mask (T, N)."""
        if self.text_encoder is None:
            raise ValueError(
                "got a prompt (or guidance, which has a negative prompt by default) and no text encoder, expected "
                "embeddings and masks of prompts and negative prompts: pass all four, or guidance_scale=1 and two"
            )
        token_ids = self.text_encoder.tokenize(texts, self._token_limit(max_sequence_length), allow_empty=True)
        device = get_module_execution_device(self.text_encoder)  # not where the weights wait when they are offloaded
        input_ids, attention_mask = (tensor.to(device) for tensor in self.text_encoder.pad(token_ids))  # (T, M) each
        features = self.text_encoder(input_ids, attention_mask).last_hidden_state  # (T, M, D)
        masks = attention_mask.bool().to(features.device)  # (T, M)
        drop = self.text_encoder.config.template_drop_tokens
        rows = [row[mask][drop:] for row, mask in zip(features, masks)]  # (N_i, D) each, whichever side was padded
        ones = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]  # (N_i,) each
        return pad_sequence(rows, batch_first=True), pad_sequence(ones, batch_first=True)

    def _token_limit(self, max_sequence_length: int | None) -> int:
        """Most tokens to read of a prompt, the template's included."""
        return self.text_encoder.config.max_sequence_length if max_sequence_length is None else max_sequence_length

    def _check_text(self, name: str, text, embeds: torch.Tensor | None, mask: torch.Tensor | None) -> list[str]:
        """The texts as a list, empty where there are embeddings; raises for what is neither or not whole."""
        mask_name = f"{name}_attention_mask"
        if (text is None) == (embeds is None):
            got = f"neither {name} nor" if text is None else f"both {name} and"
            raise ValueError(f"got {got} {name}_embeds, expected one of them")
        if (embeds is None) != (mask is None):
            got = f"{name}_embeds without {mask_name}" if mask is None else f"no {name}_embeds for the {mask_name}"
            raise ValueError(f"got {got}, expected both: pass the two that encode_prompt gave together")
        if embeds is None:
            texts = [text] if isinstance(text, str) else text
            if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
                raise ValueError(f"got {name}={text!r}, expected a text or a list of texts")
            return texts
        if embeds.ndim != 3 or mask.shape != embeds.shape[:2]:
            raise ValueError(
                f"got {name}_embeds {tuple(embeds.shape)} with {mask_name} {tuple(mask.shape)}, expected (B, N, D) "
                "with (B, N): pass the two that encode_prompt gave together"
            )
        if not mask[:, 0].all() or (mask[:, 1:].bool() & ~mask[:, :-1].bool()).any():
            raise ValueError(f"got {mask_name} with padding before a token, expected padding on the right alone")
        check_text_width(self.transformer, embeds.shape[2])
        return []

    # ------------------------------------------------------------------------------------------------------- sampling

    def _check_call(self, sizes: dict[str, tuple[int, int]], tensor_inputs: list[str], output_type: str) -> None:
        """Raise unless each size is a multiple of what the VAE and the patches make of it, and results can be made."""
        for name, (size, multiple) in sizes.items():
            if size < multiple or size % multiple:
                raise ValueError(f"got {name}={size}, expected a multiple of {multiple} (VAE factor times patch size)")
        if not set(tensor_inputs) <= set(self._callback_tensor_inputs):
            raise ValueError(f"got callback tensors {tensor_inputs}, expected some of {self._callback_tensor_inputs}")
        channels = self.transformer.config.in_channels
        if self.vae is None and output_type != "latent" and channels not in (1, 3):
            raise ValueError(
                f"got a transformer of {channels} channels and no VAE, expected pixels (1 or 3 channels): pass the "
                "VAE, or output_type='latent'"
            )

    def _start(self, shape: tuple[int, ...], device: torch.device, generator, latents: torch.Tensor | None):
        """What sampling starts from, of `shape`; in fp32 whatever the transformer's dtype, as rounding adds up."""
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"got latents {tuple(latents.shape)}, expected {shape}")
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"got {len(generator)} generators for {shape[0]} results, expected one, or one for each")
        if latents is None:
            return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        return latents.to(device, torch.float32)

    def _schedule(self, num_inference_steps: int, num_tokens: int, device: torch.device, sigmas=None) -> torch.Tensor:
        """The scheduler's time steps, shifted for `num_tokens` tokens of picture where it shifts by length."""
        config, shift = self.scheduler.config, {}
        if config.get("use_dynamic_shifting", False):
            shift["mu"] = calculate_shift(
                num_tokens,
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
                config.get("base_shift", 0.5),
                config.get("max_shift", 1.15),
            )
        timesteps, _ = retrieve_timesteps(self.scheduler, num_inference_steps, device, sigmas=sigmas, **shift)
        self.scheduler.set_begin_index(0)
        self._num_timesteps = len(timesteps)
        return timesteps

    def _denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        callback: Callable | PipelineCallback | MultiPipelineCallbacks | None,
        tensor_inputs: list[str],
        cfg_trunc_ratio: float = 1.0,
        cfg_normalization: bool = False,
    ) -> torch.Tensor:
        """From noise to latents of the same shape, in fp32."""
        prompt_embeds, mask, negative_prompt_embeds, negative_mask = conditioning
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            tensor_inputs = callback.tensor_inputs
        self._interrupt = False
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for i, t in enumerate(timesteps):
                if self._interrupt:
                    break
                velocity = self._velocity("cond", i, t, latents, prompt_embeds, mask).float()  # as latents
                if self.do_classifier_free_guidance and (i + 1) / len(timesteps) <= cfg_trunc_ratio:
                    other = self._velocity("uncond", i, t, latents, negative_prompt_embeds, negative_mask).float()
                    guided = other + self.guidance_scale * (velocity - other)  # as latents
                    if cfg_normalization:
                        norms = [torch.norm(v, dim=-1, keepdim=True) for v in (velocity, guided)]  # (..., 1) each
                        guided = guided * (norms[0] / norms[1])  # as latents
                    velocity = guided
                latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]  # as latents
                if callback is not None:
                    tensors = dict(zip(self._callback_tensor_inputs, (latents, prompt_embeds, negative_prompt_embeds)))
                    tensors |= callback(self, i, t, {name: tensors[name] for name in tensor_inputs})
                    latents, prompt_embeds, negative_prompt_embeds = tensors.values()
                progress_bar.update()
        return latents

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    # --------------------------------------------------------------------------------------------------------- saving

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write `model_index.json`, this file and the encoder's code, so that the folder loads by itself.

        `save_pretrained` ends with it.
        """
        super().save_config(save_directory)
        write_code(save_directory, type(self), None if self.text_encoder is None else type(self.text_encoder))


def write_code(folder: str | os.PathLike, pipeline_class: type, encoder_class: type | None) -> None:
    """Give a saved pipeline its code: this file, and the encoder's, which becomes one file.

    Args:
        folder (`str`): what `save_pretrained` wrote.
        pipeline_class (`type`), encoder_class (`type`, *optional*): the classes that load it.
    """
    folder, code = Path(folder), Path(inspect.getsourcefile(pipeline_class))
    index = {"_class_name": [code.stem, pipeline_class.__name__]}
    encoder = folder / "text_encoder"
    if encoder_class is not None:
        index["text_encoder"] = [ENCODER_FILE, encoder_class.__name__]
    if encoder_class is not None and encoder.is_dir():
        source = as_one_file(Path(inspect.getsourcefile(encoder_class)))
        for other in encoder.glob("*.py"):
            other.unlink()
        (encoder / f"{ENCODER_FILE}.py").write_text(source, encoding="utf-8")
        names = {"AutoConfig": encoder_class.config_class.__name__, "AutoModel": encoder_class.__name__}
        _update(encoder / "config.json", auto_map={auto: f"{ENCODER_FILE}.{name}" for auto, name in names.items()})
    _update(folder / "model_index.json", **index)
    shutil.copyfile(code, folder / code.name)


def _update(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    value = json.loads(path.read_text(encoding="utf-8")) | entries
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def as_one_file(module: Path) -> str:
    """The source of a module and of the siblings it imports, the imported ones first.

    Of a component on the Hub diffusers fetches one file of code.
    """
    imports: set[str] = set()
    bodies: dict[Path, str] = {}

    def read(path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                sibling = path.with_name(f"{node.module}.py")
                if sibling not in bodies:
                    read(sibling)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                imports.add(ast.unparse(node))
            elif not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):  # a docstring
                continue
            for number in range(node.lineno - 1, node.end_lineno):
                lines[number] = None
        bodies[path] = "\n".join(line for line in lines if line is not None).strip()

    read(module)
    head = f'"""{", ".join(path.name for path in bodies)} as one file."""'
    return "\n\n\n".join([head, "\n".join(sorted(imports)), *bodies.values()]) + "\n"


def _trim(embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the columns that are padding in every row."""
    longest = int(mask.sum(1).max())
    return embeds[:, :longest], mask[:, :longest]


class GrantedLumina2Pipeline(GrantedPipelineMixin, Lumina2Pipeline):
    """Text to image: [`Lumina2Pipeline`] with a [`GrantedModel`], which may be absent when embeddings are given.

    Args:
        transformer (`Lumina2Transformer2DModel`): reads text features of width `cap_feat_dim`.
        scheduler (`FlowMatchEulerDiscreteScheduler`): or another flow-matching one.
        vae (`AutoencoderKL` or `None`): without one the transformer makes pixels in [-1, 1].
        text_encoder (`GrantedModel` or `None`): its `hidden_size` is the `cap_feat_dim` of the transformer.
        tokenizer (`PreTrainedTokenizerBase` or `None`): the encoder's own where it is `None`.

    Raises:
        ValueError: the encoder is no [`GrantedModel`], or of another width than the transformer reads.
    """

    def __init__(
        self,
        transformer: Lumina2Transformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL | None,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ):
        tokenizer = self._settle_tokenizer(transformer, text_encoder, tokenizer)
        super().__init__(transformer, scheduler, vae, text_encoder, tokenizer)
        # The parent says 8 whatever the VAE is, and patches of 2 whatever the transformer has.
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
        self.default_image_size = self.default_sample_size * self.vae_scale_factor
        self.image_processor = VaeImageProcessor(self.vae_scale_factor * transformer.config.patch_size)

    def _fit(self, conditioning: Conditioning, max_sequence_length: int | None) -> Conditioning:
        """Embeddings and masks as they are, if the transformer has positions for them."""
        longest = max(tensor.shape[1] for tensor in conditioning if tensor is not None)
        if longest > self._text_positions:
            raise ValueError(
                f"got text features of {longest} tokens, expected at most {self._text_positions}: the transformer has "
                "no positions for more (axes_lens)"
            )
        return conditioning

    @property
    def _text_positions(self) -> int:
        return self.transformer.config.axes_lens[0] - 1  # the picture's position is the one after the last token

    def _token_limit(self, max_sequence_length: int | None) -> int:
        config = self.text_encoder.config
        most = self._text_positions + config.template_drop_tokens
        if max_sequence_length is not None and max_sequence_length > most:
            raise ValueError(
                f"got max_sequence_length={max_sequence_length}, expected at most {most}: the transformer has no "
                "positions for more (axes_lens)"
            )
        return min(config.max_sequence_length, most) if max_sequence_length is None else max_sequence_length

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        negative_prompt: str | list[str] | None = None,
        sigmas: list[float] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
        cfg_trunc_ratio: float = 1.0,
        cfg_normalization: bool = True,
        max_sequence_length: int | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Make pictures.

        Args:
            prompt, negative_prompt, num_images_per_prompt, prompt_embeds, negative_prompt_embeds,
                prompt_attention_mask, negative_prompt_attention_mask, max_sequence_length: see `encode_prompt`.
            width, height (`int`, *optional*): in pixels; the transformer's `sample_size` by default.
            num_inference_steps (`int`, defaults to 50), guidance_scale (`float`, defaults to 4.0): as in the paper.
            sigmas (`list[float]`, *optional*): noise levels before the scheduler's shift; equal steps by default.
            generator (`torch.Generator` or a list of them, one per picture, *optional*), latents (`torch.Tensor`,
                *optional*): the noise (B, C, H, W) to start from.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict, attention_kwargs, callback_on_step_end, callback_on_step_end_tensor_inputs, cfg_trunc_ratio,
                cfg_normalization: as in [`Lumina2Pipeline`].

        Returns:
            [`ImagePipelineOutput`], the pictures of a prompt together, or a tuple.
        """
        height, width = height or self.default_image_size, width or self.default_image_size
        factor, patch = self.vae_scale_factor, self.transformer.config.patch_size
        sizes = {"height": (height, factor * patch), "width": (width, factor * patch)}
        self._check_call(sizes, callback_on_step_end_tensor_inputs, output_type)
        for (name, (size, multiple)), positions in zip(sizes.items(), self.transformer.config.axes_lens[1:]):
            if size > positions * multiple:
                raise ValueError(f"got {name}={size}, expected at most {positions * multiple}: axes_lens has no more")
        self._guidance_scale, self._attention_kwargs = guidance_scale, attention_kwargs

        device = self._execution_device
        conditioning = self.encode_prompt(
            prompt,
            self.do_classifier_free_guidance,
            negative_prompt,
            num_images_per_prompt,
            device,
            prompt_embeds,
            negative_prompt_embeds,
            prompt_attention_mask,
            negative_prompt_attention_mask,
            max_sequence_length,
        )
        count, channels = conditioning[0].shape[0], self.transformer.config.in_channels
        shape = (count, channels, height // factor, width // factor)
        latents = self._start(shape, device, generator, latents)  # (B, C, H, W)
        num_tokens = math.prod(shape[2:]) // patch**2
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps) if sigmas is None else sigmas
        timesteps = self._schedule(num_inference_steps, num_tokens, device, sigmas)
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        image = self._denoise(latents, timesteps, conditioning, *callback, cfg_trunc_ratio, cfg_normalization)
        if output_type != "latent":
            if self.vae is not None:
                config = self.vae.config
                image = image.to(self.vae.dtype) / config.scaling_factor + (config.shift_factor or 0)  # (B, C, H, W)
                image = self.vae.decode(image, return_dict=False)[0]  # (B, 3, height, width)
            image = self.image_processor.postprocess(image, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=image) if return_dict else (image,)

    def _velocity(self, branch: str, step: int, t: torch.Tensor, latents, embeds, mask) -> torch.Tensor:
        """d latents / d sigma. Lumina counts time from noise to picture, schedulers the other way."""
        dtype = self.transformer.dtype
        timestep = 1 - t / self.scheduler.config.num_train_timesteps
        return -self.transformer(
            hidden_states=latents.to(dtype),
            timestep=timestep.expand(latents.shape[0]),  # (B,)
            encoder_hidden_states=embeds.to(dtype),
            encoder_attention_mask=mask,
            attention_kwargs=self.attention_kwargs,
            return_dict=False,
        )[0]  # (B, C, H, W)


class GrantedWanPipeline(GrantedPipelineMixin, WanPipeline):
    """Text to video: [`WanPipeline`] (2.1) with a [`GrantedModel`], which may be absent when embeddings are given.

    Wan's transformer takes no mask. It reads a fixed number of tokens, `max_sequence_length` less the template tokens
    that are dropped, with zeros after the prompt; `encode_prompt` gives them so.

    Args:
        transformer (`WanTransformer3DModel`): reads text features of width `text_dim`.
        scheduler (`FlowMatchEulerDiscreteScheduler`): or another flow-matching one, such as UniPC.
        vae (`AutoencoderKLWan` or `None`): without one the transformer makes frames in [-1, 1].
        text_encoder (`GrantedModel` or `None`): its `hidden_size` is the `text_dim` of the transformer.
        tokenizer (`PreTrainedTokenizerBase` or `None`): the encoder's own where it is `None`.

    Raises:
        ValueError: the encoder is no [`GrantedModel`], or of another width than the transformer reads.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKLWan | None,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ):
        tokenizer = self._settle_tokenizer(transformer, text_encoder, tokenizer)
        super(WanPipeline, self).__init__()  # the parent's own would register the second transformer of Wan 2.2
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler
        )
        self.vae_scale_factor_temporal = vae.config.scale_factor_temporal if vae is not None else 1
        self.vae_scale_factor_spatial = vae.config.scale_factor_spatial if vae is not None else 1
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor_spatial)

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        max_sequence_length: int | None = None,
        device: torch.device | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
    ) -> Conditioning:
        """As [`GrantedPipelineMixin.encode_prompt`], but all embeddings and masks are of the length Wan reads.

        Given embeddings are padded to it. Without a text encoder and without `max_sequence_length`, it is the length
        of the longest given.
        """
        return super().encode_prompt(
            prompt,
            do_classifier_free_guidance,
            negative_prompt,
            num_videos_per_prompt,
            device,
            prompt_embeds,
            negative_prompt_embeds,
            prompt_attention_mask,
            negative_prompt_attention_mask,
            max_sequence_length,
        )

    def _fit(self, conditioning: Conditioning, max_sequence_length: int | None) -> Conditioning:
        """Embeddings (B, length, D) with zeros after the prompt, and masks (B, length)."""
        longest = max(tensor.shape[1] for tensor in conditioning if tensor is not None)
        length = longest if max_sequence_length is None else max_sequence_length
        if self.text_encoder is not None:
            length = self._token_limit(max_sequence_length) - self.text_encoder.config.template_drop_tokens
        if longest > length:
            raise ValueError(
                f"got text features of {longest} tokens, expected at most {length}: raise max_sequence_length"
            )
        fitted = []
        for embeds, mask in (conditioning[:2], conditioning[2:]):
            if embeds is not None:
                more = length - mask.shape[1]
                embeds = nn.functional.pad(embeds * mask.unsqueeze(-1), (0, 0, 0, more))  # (B, length, D)
                mask = nn.functional.pad(mask, (0, more))  # (B, length)
            fitted += [embeds, mask]
        return tuple(fitted)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int = 480,
        width: int = 832,
        num_frames: int = 81,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
        max_sequence_length: int | None = None,
    ) -> WanPipelineOutput | tuple:
        """Make videos.

        Args:
            prompt, negative_prompt, num_videos_per_prompt, prompt_embeds, negative_prompt_embeds,
                prompt_attention_mask, negative_prompt_attention_mask, max_sequence_length: see `encode_prompt`.
            height (`int`, defaults to 480), width (`int`, defaults to 832): in pixels.
            num_frames (`int`, defaults to 81): one more than a multiple of the VAE's factor in time.
            num_inference_steps (`int`, defaults to 50), guidance_scale (`float`, defaults to 5.0): as in the paper.
            generator (`torch.Generator` or a list of them, one per video, *optional*), latents (`torch.Tensor`,
                *optional*): the noise (B, C, T, H, W) to start from.
            output_type (`str`, defaults to `"np"`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict, attention_kwargs, callback_on_step_end, callback_on_step_end_tensor_inputs: as in
                [`WanPipeline`].

        Returns:
            [`WanPipelineOutput`], the videos of a prompt together, or a tuple.
        """
        factor, patch = self.vae_scale_factor_spatial, self.transformer.config.patch_size
        sizes = {"height": (height, factor * patch[1]), "width": (width, factor * patch[2])}
        self._check_call(sizes, callback_on_step_end_tensor_inputs, output_type)
        latent_frames, rest = divmod(num_frames - 1, self.vae_scale_factor_temporal)
        if rest or num_frames < 1 or (latent_frames + 1) % patch[0]:
            raise ValueError(
                f"got num_frames={num_frames}, expected one more than a multiple of {self.vae_scale_factor_temporal} "
                f"(the VAE's factor in time), and latent frames in patches of {patch[0]}"
            )
        most, time = self.transformer.config.rope_max_seq_len, self.vae_scale_factor_temporal
        limits = {"num_frames": (most * patch[0] - 1) * time + 1}
        limits |= {name: multiple * most for name, (_, multiple) in sizes.items()}
        for name, value in (("num_frames", num_frames), ("height", height), ("width", width)):
            if value > limits[name]:
                raise ValueError(
                    f"got {name}={value}, expected at most {limits[name]}, for which this transformer has positions"
                )
        self._guidance_scale, self._attention_kwargs = guidance_scale, attention_kwargs

        device = self._execution_device
        conditioning = self.encode_prompt(
            prompt,
            negative_prompt,
            self.do_classifier_free_guidance,
            num_videos_per_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            max_sequence_length,
            device,
            prompt_attention_mask,
            negative_prompt_attention_mask,
        )
        count, channels = conditioning[0].shape[0], self.transformer.config.in_channels
        shape = (count, channels, latent_frames + 1, height // factor, width // factor)
        latents = self._start(shape, device, generator, latents)  # (B, C, T, H, W)
        timesteps = self._schedule(num_inference_steps, math.prod(shape[2:]) // math.prod(patch), device)
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        video = self._denoise(latents, timesteps, conditioning, *callback)  # (B, C, T, H, W)
        if output_type != "latent":
            if self.vae is not None:
                values = (self.vae.config.latents_mean, self.vae.config.latents_std)
                video = video.to(self.vae.dtype)
                mean, deviation = (torch.tensor(v).view(1, -1, 1, 1, 1).to(video) for v in values)  # (1, C, 1, 1, 1)
                video = self.vae.decode(video * deviation + mean, return_dict=False)[0]  # (B, 3, T, height, width)
            video = self.video_processor.postprocess_video(video, output_type=output_type)
        self.maybe_free_model_hooks()
        return WanPipelineOutput(frames=video) if return_dict else (video,)

    def _velocity(self, branch: str, step: int, t: torch.Tensor, latents, embeds, mask) -> torch.Tensor:
        """d latents / d sigma; the mask is in the zeros of the embeddings."""
        dtype, sigma = self.transformer.dtype, float(self.scheduler.sigmas[step])
        # diffusers' feature caches ask where in the loop they are.
        place = {"step_index": step, "sigma": sigma, "num_inference_steps": self._num_timesteps}
        with self.transformer.cache_context(branch, **place):
            return self.transformer(
                hidden_states=latents.to(dtype),
                timestep=t.expand(latents.shape[0]),  # (B,)
                encoder_hidden_states=embeds.to(dtype),
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
            )[0]  # (B, C, T, H, W)
