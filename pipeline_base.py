"""What both pipelines share: prompts to embeddings with masks, the denoising loop, a folder that loads by itself.

    class MyPipeline(GrantedPipelineMixin, WanPipeline): ...     # as in pipeline_granted.py

Tiny, on CPU: tests/test_pipeline_granted.py. Ships to the Hub as part of `pipeline_granted.py`, as one file: diffusers
fetches no second one. Imports nothing but torch, transformers and diffusers.
"""

import ast
import inspect
import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.lumina2.pipeline_lumina2 import calculate_shift, retrieve_timesteps
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from torch.nn.utils.rnn import pad_sequence

from .pipeline_blocks import check_text_outputs, check_text_width, side_by_side, text_width


# What GenAI-Bench's own script (linzhiqiu/t2v_metrics, genai_bench/generate.py) has for `--negative-prompt`; the paper
# samples with the benchmark's default.
NEGATIVE_PROMPT = (
    "ugly, tiling, poorly drawn hands, poorly drawn feet, poorly drawn face, out of frame, extra limbs, disfigured, "
    "deformed, body out of frame, bad anatomy, watermark, signature, cut off, low contrast, underexposed, "
    "overexposed, bad art, beginner, amateur, distorted face"
)

# The encoder's code in a saved pipeline; a name of its own, as diffusers keeps all local code in one folder.
ENCODER_FILE = "granted_text_encoder"

# Embeddings (B, N, D) and mask (B, N) of the prompts, then of the negative prompts.
Conditioning = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


class GrantedPipelineMixin:
    """What both pipelines share: prompts to embeddings with masks, sampling, a folder that loads by itself."""

    # They may be None but have no default: with one, DiffusionPipeline.from_pretrained(..., text_encoder=None) would
    # load the encoder all the same.
    _optional_components = ["vae", "text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def _resolve_tokenizer(self, transformer, text_encoder, tokenizer):
        """The tokenizer to register. The pipeline's and the encoder's are one."""
        if text_encoder is None:
            return tokenizer
        # By name: a class loaded as remote code is not the class of the installed package.
        if text_encoder.config.model_type != "granted":
            raise ValueError(
                f"got the text encoder {type(text_encoder).__name__}, expected a GrantedModel: "
                "GrantedModel.from_encoder makes one of any encoder"
            )
        stacked = text_encoder.fusion.arrangement == "stack"
        check_text_outputs(transformer, text_encoder.fusion.options.output_count() if stacked else 1)
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
        layer_weights: torch.Tensor | None = None,
        emphasis: Mapping[str, float] | bool = False,
    ) -> Conditioning:
        """Embeddings of prompts with their masks; all four go back into `__call__`. Gradients pass.

        Args:
            prompt (`str`, or a list or column of them, *optional*): the encoder's template is put around each. An
                empty prompt, as of a caption dropped in training, is legal.
            do_classifier_free_guidance (`bool`, defaults to `True`): encode negative prompts as well.
            negative_prompt (`str` or `list[str]`, *optional*): GenAI-Bench's by default, as in the paper; `""` is
                what a transformer trained with dropped captions knows.
            num_images_per_prompt (`int`, defaults to 1): each row is repeated so often, one prompt after the other.
            device (`torch.device`, *optional*): where the results belong.
            prompt_embeds, negative_prompt_embeds (`torch.Tensor`, *optional*): (B, N, D) instead of texts, or
                (B, N, K * D): features of its own for each of the transformer's K blocks, beside each other.
            prompt_attention_mask, negative_prompt_attention_mask (`torch.Tensor`, *optional*): theirs, (B, N).
            max_sequence_length (`int`, *optional*): most tokens read of a prompt, template included; by default the
                pipeline's limit, which is the one it was trained with, or else the encoder's, or what the transformer
                has positions for where that is less.

        Returns:
            `prompt_embeds` (B, N, D) in the encoder's dtype, (B, N, K * D) where the encoder has a fusion for each of
            the transformer's K blocks, `prompt_attention_mask` (B, N) long, and the same two of
            the negative prompts, with an N of their own, or `None` twice. Padding is on the right, with zeros.

        Raises:
            ValueError: a prompt that is no text, or whose features are NaN or infinite; embeddings without a mask, a
                mask of another shape, another width.
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
        for name, given in (("layer_weights", layer_weights is not None), ("emphasis", emphasis)):
            if given and not prompts:
                raise ValueError(f"got {name} with prompt_embeds, expected it with a prompt: embeddings are made")
        if prompts or negatives:  # one run of the encoder, and one warning, for all of them
            count = len(prompts)
            prompts, spans = self.text_encoder.read_emphasis(prompts, emphasis)
            negatives, negative_spans = self.text_encoder.read_emphasis(negatives, emphasis is True)
            texts, spans = [*prompts, *negatives], [*spans, *negative_spans]
            embeds, masks = self._encode(texts, max_sequence_length, layer_weights, spans)  # (T, N, D), (T, N)
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
        # The images of a prompt follow one another: (B * num_images_per_prompt, ...), masks like embeddings.
        return tuple(t if t is None else t.to(device).repeat_interleave(num_images_per_prompt, 0) for t in tensors)

    def _encode(
        self, texts: list[str], max_sequence_length: int | None, layer_weights: torch.Tensor | None, spans: list[list]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (T, N, D) of texts without the template tokens the configuration drops, and their mask (T, N)."""
        token_ids = self.text_encoder.tokenize(texts, self._token_limit(max_sequence_length), allow_empty=True)
        device = get_module_execution_device(self.text_encoder)  # not where the weights wait when they are offloaded
        input_ids, attention_mask = (tensor.to(device) for tensor in self.text_encoder.pad(token_ids))  # (T, M) each
        with nullcontext() if layer_weights is None else self.text_encoder.mixing(layer_weights):
            features = self.text_encoder(input_ids, attention_mask).last_hidden_state  # (T, [K,] M, D)
        masks = attention_mask.bool().to(features.device)  # (T, M)
        self.text_encoder.check_finite(features, masks, texts.__getitem__)
        kept = self.text_encoder.kept_tokens(masks)  # (T, M)
        # (N_i, D) or (N_i, K * D) each, whichever side was padded
        rows = [row[own] for row, own in zip(side_by_side(features), kept)]
        if any(spans):
            factors = self.text_encoder.emphasis_factors(texts, spans, token_ids)
            rows = [self.text_encoder.emphasized(row, own) if own else row for row, own in zip(rows, factors)]
        ones = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]  # (N_i,) each
        return pad_sequence(rows, batch_first=True), pad_sequence(ones, batch_first=True)

    def _token_limit(self, max_sequence_length: int | None) -> int:
        """Most tokens to read of a prompt, template included: as asked, else the pipeline's, else the encoder's."""
        limits = (max_sequence_length, self.config.max_sequence_length, self.text_encoder.config.max_sequence_length)
        return next(limit for limit in limits if limit is not None)

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
            if self.text_encoder is None:
                raise ValueError(
                    "got a prompt (or guidance, which has a negative prompt by default) and no text encoder, expected "
                    "embeddings and masks of prompts and negative prompts: pass all four, or guidance_scale=1 and two"
                )
            texts = [text] if isinstance(text, str) else text
            try:
                texts = self.text_encoder.as_texts(texts, allow_empty=True)
            except ValueError as error:
                got = " ".join(repr(text).split())[:60]
                raise ValueError(f"got {name}={got}, expected a text or a list of texts: {error}") from None
            if not texts:
                raise ValueError(f"got {name}={text!r}, expected a text or a list of texts")
            return texts
        if embeds.ndim != 3 or mask.shape != embeds.shape[:2]:
            raise ValueError(
                f"got {name}_embeds {tuple(embeds.shape)} with {mask_name} {tuple(mask.shape)}, expected (B, N, D) "
                "with (B, N): pass the two that encode_prompt gave together"
            )
        if not mask[:, 0].all() or (mask[:, 1:].bool() & ~mask[:, :-1].bool()).any():
            raise ValueError(f"got {mask_name} with padding before a token, expected padding on the right alone")
        width = text_width(self.transformer)
        if embeds.shape[2] % width:
            check_text_width(self.transformer, embeds.shape[2])
        check_text_outputs(self.transformer, embeds.shape[2] // width)
        return []

    # ------------------------------------------------------------------------------------------------------- sampling

    def _check_inputs(self, sizes: dict[str, tuple[int, int]], tensor_inputs: list[str], output_type: str) -> None:
        """Raise unless each size is a multiple of what the VAE and the patches make of it, and results can be made."""
        for name, (size, multiple) in sizes.items():
            if size < multiple or size % multiple:
                raise ValueError(f"got {name}={size}, expected a multiple of {multiple} (VAE factor times patch size)")
        if not set(tensor_inputs or ()) <= set(self._callback_tensor_inputs):
            raise ValueError(f"got callback tensors {tensor_inputs}, expected some of {self._callback_tensor_inputs}")
        channels = self.transformer.config.in_channels
        if self.vae is None and output_type != "latent" and channels not in (1, 3):
            raise ValueError(
                f"got a transformer of {channels} channels and no VAE, expected pixels (1 or 3 channels): pass the "
                "VAE, or output_type='latent'"
            )

    def _prepare_latents(self, shape: tuple[int, ...], device: torch.device, generator, latents: torch.Tensor | None):
        """What sampling starts from, of `shape`; in fp32 whatever the transformer's dtype, as rounding adds up."""
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"got latents {tuple(latents.shape)}, expected {shape}")
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"got {len(generator)} generators for {shape[0]} results, expected one, or one for each")
        if latents is None:
            return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        return latents.to(device, torch.float32)

    def _prepare_timesteps(
        self, num_inference_steps: int, num_tokens: int, device: torch.device, sigmas=None
    ) -> torch.Tensor:
        """The scheduler's time steps, shifted for `num_tokens` tokens of image where it shifts by length."""
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
                    tensors |= callback(self, i, t, {name: tensors[name] for name in tensor_inputs or ()})
                    latents, *others = (tensors[name] for name in self._callback_tensor_inputs)
                    prompt_embeds, negative_prompt_embeds = others
                progress_bar.update()
        return latents

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    # --------------------------------------------------------------------------------------------------------- saving

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write `model_index.json` and the code of pipeline and encoder, so that the folder loads by itself.

        `save_pretrained` ends with it.
        """
        super().save_config(save_directory)
        write_code(save_directory, type(self), None if self.text_encoder is None else type(self.text_encoder))


def write_code(folder: str | os.PathLike, pipeline_class: type, encoder_class: type | None) -> None:
    """Give a saved pipeline its code and the encoder's, each as one file.

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
    (folder / code.name).write_text(as_one_file(code), encoding="utf-8")


def _update(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    value = json.loads(path.read_text(encoding="utf-8")) | entries
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def as_one_file(module: Path) -> str:
    """The source of a module and of the siblings it imports, the imported ones first; one without is as it was.

    diffusers fetches one file of a pipeline's code from the Hub, and one of each component's.
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
    source = module.read_text(encoding="utf-8")
    if len(bodies) == 1:
        return source
    docstring = ast.get_docstring(ast.parse(source), clean=False).rstrip()
    head = f'"""{docstring}\n\nAs one file: {", ".join(path.name for path in bodies)}.\n"""'
    return "\n\n\n".join([head, "\n".join(sorted(imports)), *bodies.values()]) + "\n"


def _trim(embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the columns that are padding in every row."""
    longest = int(mask.sum(1).max())
    return embeds[:, :longest], mask[:, :longest]
