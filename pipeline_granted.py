"""Diffusion pipelines with the fused text encoder: text to image (Lumina 2) and text to video (Wan 2.1).

    pipe = GrantedLumina2Pipeline(transformer, scheduler, vae, text_encoder, tokenizer)
    image = pipe("a red cube on a blue sphere").images[0]
    pipe.save_pretrained("pipeline")
    pipe = DiffusionPipeline.from_pretrained("pipeline", trust_remote_code=True)  # where this package is not installed

Tiny, on CPU: tests/test_pipeline_granted.py. Without a VAE the transformer works on pixels. The prompt template and
the template tokens that are dropped come from the encoder's configuration; how many tokens are read is the pipeline's.

Both have a denoising loop of their own: Lumina2Pipeline takes the number of channels for the number of image tokens
where it shifts the time steps, and WanPipeline has no place for masks. Neither can be put right from outside.

Ships to the Hub; imports nothing but torch, transformers and diffusers.
"""

import math
from collections.abc import Callable, Mapping
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
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from diffusers.video_processor import VideoProcessor
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .pipeline_base import Conditioning, GrantedPipelineMixin
from .pipeline_blocks import text_by_block


class GrantedLumina2Pipeline(GrantedPipelineMixin, Lumina2Pipeline):
    """Text to image: [`Lumina2Pipeline`] with a [`GrantedModel`], which may be absent when embeddings are given.

    Args:
        transformer (`Lumina2Transformer2DModel`): reads text features of width `cap_feat_dim`.
        scheduler (`FlowMatchEulerDiscreteScheduler`): or another flow-matching one.
        vae (`AutoencoderKL` or `None`): without one the transformer makes pixels in [-1, 1].
        text_encoder (`GrantedModel` or `None`): its `hidden_size` is the `cap_feat_dim` of the transformer.
        tokenizer (`PreTrainedTokenizerBase` or `None`): the encoder's own where it is `None`.
        max_sequence_length (`int`, *optional*): most tokens read of a prompt unless a call says otherwise, as the
            transformer has seen of captions; the encoder's limit by default. Saved with the pipeline.

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
        max_sequence_length: int | None = None,
    ):
        tokenizer = self._resolve_tokenizer(transformer, text_encoder, tokenizer)
        super().__init__(transformer, scheduler, vae, text_encoder, tokenizer)
        self.register_to_config(max_sequence_length=max_sequence_length)
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
        return self.transformer.config.axes_lens[0] - 1  # the image's position is the one after the last token

    def _token_limit(self, max_sequence_length: int | None) -> int:
        most = self._text_positions + self.text_encoder.config.template_drop_tokens
        if max_sequence_length is not None and max_sequence_length > most:
            raise ValueError(
                f"got max_sequence_length={max_sequence_length}, expected at most {most}: the transformer has no "
                "positions for more (axes_lens)"
            )
        return min(super()._token_limit(max_sequence_length), most)

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
        layer_weights: torch.Tensor | None = None,
        emphasis: Mapping[str, float] | bool = False,
    ) -> ImagePipelineOutput | tuple:
        """Make images.

        Args:
            prompt, negative_prompt, num_images_per_prompt, prompt_embeds, negative_prompt_embeds,
                prompt_attention_mask, negative_prompt_attention_mask, max_sequence_length,
                layer_weights, emphasis: see `encode_prompt`.
            width, height (`int`, *optional*): in pixels; the transformer's `sample_size` by default.
            num_inference_steps (`int`, defaults to 50), guidance_scale (`float`, defaults to 4.0): as in the paper.
            sigmas (`list[float]`, *optional*): noise levels before the scheduler's shift; equal steps by default.
            generator (`torch.Generator` or a list of them, one per image, *optional*), latents (`torch.Tensor`,
                *optional*): the noise (B, C, H, W) to start from.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict, attention_kwargs, callback_on_step_end, callback_on_step_end_tensor_inputs, cfg_trunc_ratio,
                cfg_normalization: as in [`Lumina2Pipeline`].

        Returns:
            [`ImagePipelineOutput`], the images of a prompt together, or a tuple.
        """
        height, width = height or self.default_image_size, width or self.default_image_size
        factor, patch = self.vae_scale_factor, self.transformer.config.patch_size
        sizes = {"height": (height, factor * patch), "width": (width, factor * patch)}
        self._check_inputs(sizes, callback_on_step_end_tensor_inputs, output_type)
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
            layer_weights,
            emphasis,
        )
        count, channels = conditioning[0].shape[0], self.transformer.config.in_channels
        shape = (count, channels, height // factor, width // factor)
        latents = self._prepare_latents(shape, device, generator, latents)  # (B, C, H, W)
        num_tokens = math.prod(shape[2:]) // patch**2
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps) if sigmas is None else sigmas
        timesteps = self._prepare_timesteps(num_inference_steps, num_tokens, device, sigmas)
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
        """d latents / d sigma. Lumina counts time from noise to image, schedulers the other way."""
        dtype = self.transformer.dtype
        timestep = 1 - t / self.scheduler.config.num_train_timesteps
        with text_by_block(self.transformer, embeds.to(dtype), mask) as embeds:  # (B, N, D)
            return -self.transformer(
                hidden_states=latents.to(dtype),
                timestep=timestep.expand(latents.shape[0]),  # (B,)
                encoder_hidden_states=embeds,
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
        max_sequence_length (`int`, *optional*): most tokens read of a prompt unless a call says otherwise, as the
            transformer has seen of captions; the encoder's limit by default. Saved with the pipeline.

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
        max_sequence_length: int | None = None,
    ):
        tokenizer = self._resolve_tokenizer(transformer, text_encoder, tokenizer)
        super(WanPipeline, self).__init__()  # the parent's own would register the second transformer of Wan 2.2
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler
        )
        self.register_to_config(max_sequence_length=max_sequence_length)
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
        layer_weights: torch.Tensor | None = None,
        emphasis: Mapping[str, float] | bool = False,
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
            layer_weights,
            emphasis,
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
        layer_weights: torch.Tensor | None = None,
        emphasis: Mapping[str, float] | bool = False,
    ) -> WanPipelineOutput | tuple:
        """Make videos.

        Args:
            prompt, negative_prompt, num_videos_per_prompt, prompt_embeds, negative_prompt_embeds,
                prompt_attention_mask, negative_prompt_attention_mask, max_sequence_length,
                layer_weights, emphasis: see `encode_prompt`.
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
        self._check_inputs(sizes, callback_on_step_end_tensor_inputs, output_type)
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
            layer_weights,
            emphasis,
        )
        count, channels = conditioning[0].shape[0], self.transformer.config.in_channels
        shape = (count, channels, latent_frames + 1, height // factor, width // factor)
        latents = self._prepare_latents(shape, device, generator, latents)  # (B, C, T, H, W)
        timesteps = self._prepare_timesteps(num_inference_steps, math.prod(shape[2:]) // math.prod(patch), device)
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
        by_block = text_by_block(self.transformer, embeds.to(dtype), mask)
        with self.transformer.cache_context(branch, **place), by_block as embeds:  # (B, N, D)
            return self.transformer(
                hidden_states=latents.to(dtype),
                timestep=t.expand(latents.shape[0]),  # (B,)
                encoder_hidden_states=embeds,
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
            )[0]  # (B, C, T, H, W)
