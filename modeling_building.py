"""Building a fused encoder from a plain checkpoint, and saving and loading it: whole, or the fusion alone.

    encoder = GrantedModel.from_encoder("Qwen/Qwen3-VL-8B-Instruct", fusion="norm_avg")
    encoder.save_pretrained("granted", fusion_only=True)        # the encoder stays where it is

Tiny: tests/test_modeling_granted.py. Ships to the Hub; imports nothing but torch, transformers and its sibling files.
"""

import copy
import inspect
import os

import torch
from transformers import PreTrainedModel

from .configuration_granted import COMPARED, check_names, missing_and_unexpected
from .modeling_checkpoint import (
    HUB_OPTIONS,
    check_read_weights,
    find_file,
    has_own_code,
    load_added_weights,
    load_config,
    load_plain_encoder,
    load_tokenizer,
    locate,
)
from .modeling_pipeline_rules import pipeline_options, pipeline_rule
from .modeling_text_trunk import find_text_trunk, input_embeddings, usable_positions


# Fields of the configuration that decide what is read of an encoder's states.
READ = {"fusion", "layer_index", "layers", "layer_norm", "embeddings", "num_outputs", "last_layer", "projection_dim"}


class Building:
    """How a [`GrantedModel`] is made of an encoder, saved and loaded, its tokenizer with it."""

    _tokenizer = None

    @classmethod
    def from_encoder(
        cls,
        name_or_path: str | os.PathLike,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        proxies: dict[str, str] | None = None,
        trust_remote_code: bool = False,
        dtype: str | torch.dtype = "auto",
        device_map: str | dict | None = None,
        max_memory: dict | None = None,
        offload_folder: str | os.PathLike | None = None,
        quantization_config=None,
        attn_implementation: str | None = None,
        **config_options,
    ) -> PreTrainedModel:
        """Build a fused encoder from a plain checkpoint.

        Args:
            name_or_path (`str`): Hub id, folder, or GGUF file.
            revision (`str`, *optional*): branch, tag or commit on the Hub; its commit is recorded.
            token, cache_dir, local_files_only, force_download, proxies: how files are fetched, as any
                `from_pretrained` takes it; never saved.
            trust_remote_code (`bool`, defaults to `False`): let code run that ships with the encoder.
            dtype (defaults to the checkpoint's), device_map, max_memory, offload_folder, quantization_config,
                attn_implementation: passed on to `from_pretrained` of the encoder. With `device_map="meta"` no
                weights are read.
            config_options: fields of [`GrantedConfig`], such as `fusion="norm_avg"`, or `fusion="single",
                layer_index=-1`.

        Raises:
            OSError, ValueError: the checkpoint cannot be loaded, lacks a tokenizer or weights of its text trunk, has
                no text trunk, or an option is not legal.
        """
        if config_options.get("standardize"):
            raise ValueError("got standardize=True without texts to calibrate on: afterwards use calibrate(texts)")
        own = inspect.signature(cls.from_encoder).parameters.keys() - {"name_or_path", "config_options"}
        check_names(config_options, own.union(cls.config_class.option_names()))
        source = locate(
            name_or_path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            proxies=proxies,
        )
        encoder_config = load_config(source)
        if encoder_config.model_type == cls.config_class.model_type:
            raise ValueError(f"got {name_or_path}, a fused encoder, expected a plain one: use from_pretrained")
        if not has_own_code(encoder_config):  # wrong options are refused before weights are fetched
            cls.config_class(encoder_config=encoder_config, **config_options)
        load = {
            "dtype": dtype,
            "device_map": device_map,
            "max_memory": max_memory,
            "offload_folder": offload_folder,
            "quantization_config": quantization_config,
            "attn_implementation": attn_implementation,
        }
        load = {key: value for key, value in load.items() if value is not None}
        tokenizer = load_tokenizer(source, encoder_config)
        encoder = load_plain_encoder(source, encoder_config, config_options.get("keep_vision", False), **load)
        return cls.from_loaded(
            encoder,
            tokenizer,
            encoder_name_or_path=os.fspath(name_or_path),
            encoder_revision=source.get("revision"),
            **config_options,
        )

    @classmethod
    def for_pipeline(cls, pipeline: str, name_or_path: str | os.PathLike, **options) -> PreTrainedModel:
        """Build an encoder whose output is what a stock pipeline of diffusers makes of a positive prompt.

        It can also be the `text_encoder` of that pipeline, which then reads it as its own. So where the pipeline joins
        several states, or reads padding, `hidden_states` are the encoder's (`fused_hidden_states=False`), unless
        `options` change what is read.

        Args:
            pipeline (`str`): its name in `modeling_pipeline_rules.PIPELINE_RULES`, such as `"krea2"` or `"flux2"`.
            name_or_path (`str`): the pipeline's encoder, or another to be read in the same way.
            options: as of [`~GrantedModel.from_encoder`]; fields of the configuration replace the rule's.

        Raises:
            OSError, ValueError: an unknown pipeline, an encoder without the layers that it reads, or as there.
        """
        if READ & options.keys():
            options = {"fused_hidden_states": True} | options
        model = cls.from_encoder(name_or_path, **pipeline_rule(pipeline).options | options)
        for name, value in pipeline_options(pipeline, model.tokenizer).items():
            if name not in options:
                setattr(model.config, name, value)
        model.config.check()
        return model

    @classmethod
    def from_loaded(cls, encoder: PreTrainedModel, tokenizer, **config_options) -> PreTrainedModel:
        """Build a fused encoder around a model that is in memory, such as one in training; its weights are shared.

        Args:
            encoder (`PreTrainedModel`): a model without a language-modelling head.
            tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
            config_options: as in [`~GrantedModel.from_encoder`].

        Raises:
            ValueError: there is no text trunk, or an option is not legal.
        """
        check_names(config_options, [*cls.config_class.option_names(), "encoder_name_or_path", "encoder_revision"])
        trunk, _ = find_text_trunk(encoder)
        # Of an encoder with code of its own nothing but its trunk is kept, which may well be a class of transformers.
        bare = has_own_code(encoder) and not has_own_code(trunk) and not config_options.get("keep_vision", False)
        encoder_config = copy.deepcopy((trunk if bare else encoder).config)
        config = cls.config_class(encoder_config=encoder_config, **config_options)
        positions = usable_positions(trunk) or getattr(trunk.config, "max_position_embeddings", None)
        limits = [positions, tokenizer.model_max_length]
        if "max_sequence_length" not in config_options:
            limits = [limit for limit in limits if limit and limit > 0]  # XLNet says -1 where it has no end
            config.max_sequence_length = min([config.max_sequence_length, *limits])
        config.dtype = encoder.dtype

        with torch.device("meta"):  # nothing is initialised that is about to be replaced
            model = cls(config)
        kept = encoder if config.keep_vision else trunk
        if not isinstance(kept, type(model.encoder)):  # classes of FSDP2 are subclasses
            raise ValueError(
                f"got a {type(kept).__name__}, expected a {type(model.encoder).__name__}, as which a saved model is "
                "read: give that one, without a head"
            )
        model.encoder = kept
        device = input_embeddings(trunk).weight.device
        device = "cpu" if device.type == "meta" else device  # embeddings on meta are offloaded
        model.fusion.to_empty(device=device).reset_parameters()
        if config.standardize:  # their values are about to be loaded
            model.standardization.to_empty(device=device).reset_parameters()
        if config.projection_dim is not None:
            model.projection.to_empty(device=device).to(encoder.dtype).reset_parameters()
        for name in ("hf_quantizer", "quantization_method", "is_quantized", "hf_device_map"):
            if hasattr(encoder, name):
                setattr(model, name, getattr(encoder, name))
        model._tokenizer = tokenizer
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, trust_encoder_code: bool = False, **kwargs):
        """Load a saved model; a fusion-only checkpoint fetches its encoder at the revision it was saved with.

        Args:
            pretrained_model_name_or_path (`str`): Hub id or folder.
            trust_encoder_code (`bool`, defaults to `False`): let code run that ships with the encoder of a fusion-only
                checkpoint, as it was at the recorded revision. The encoder is another repository than the one given,
                so `trust_remote_code=True` does not cover it.
            kwargs: as any `from_pretrained` takes them; how files are fetched holds for the encoder, too.

        Raises:
            OSError, ValueError: there is no such model, it lacks weights or has unknown ones, or it has no tokenizer.
        """
        if "torch_dtype" in kwargs:  # transformers takes its older name, too
            kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
        with_info = kwargs.pop("output_loading_info", False)
        hub_options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        source = locate(
            pretrained_model_name_or_path,
            revision=kwargs.pop("revision", None),
            subfolder=kwargs.pop("subfolder", None),
            trust_remote_code=kwargs.pop("trust_remote_code", None) or False,
            **hub_options,
        )
        config = kwargs.get("config") or cls.config_class.from_pretrained(**source)
        if isinstance(config, str | os.PathLike):
            config = kwargs["config"] = cls.config_class.from_pretrained(config)
        # Of a pipeline on the Hub diffusers fetches no tokenizer beside the encoder: the pipeline hands its own over.
        in_pipeline = os.path.isfile(os.path.join(pretrained_model_name_or_path, os.pardir, "model_index.json"))
        handed_over = in_pipeline and find_file(source, "tokenizer_config.json") is None
        tokenizer = None if handed_over else load_tokenizer(source, config.encoder_config)
        if config.encoder_in_checkpoint:
            name = source.pop("pretrained_model_name_or_path")
            model, loaded = super().from_pretrained(name, *model_args, **kwargs | source | COMPARED)
            check_read_weights(name, model, *missing_and_unexpected(model, loaded))
            model._tokenizer = tokenizer
        else:
            kwargs.pop("config", None)
            model = cls._around_its_encoder(config, tokenizer, trust_encoder_code, hub_options, kwargs)
            load_added_weights(model, find_file(source, "model.safetensors", required=True))
            loaded = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, loaded) if with_info else model

    @classmethod
    def _around_its_encoder(cls, config, tokenizer, trust_encoder_code: bool, hub_options: dict, kwargs: dict):
        """The model of a fusion-only checkpoint, with its encoder and with what was added to it as that starts."""
        options = config.fusion_options()
        options |= {name: kwargs.pop(name) for name in options.keys() & kwargs.keys()}
        source = locate(
            config.encoder_name_or_path,
            revision=config.encoder_revision,
            trust_remote_code=trust_encoder_code,
            **hub_options,
        )
        if trust_encoder_code and "revision" in source:
            source["code_revision"] = source["revision"]  # code in yet another repository is not found at it
        try:
            encoder_config = load_config(source)
        except ValueError as error:
            if trust_encoder_code or "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"got the encoder {config.encoder_name_or_path}, which runs code of its own, expected "
                f"trust_encoder_code=True: read that code at revision {config.encoder_revision} first"
            ) from error
        load = {"dtype": config.dtype or "auto"} | kwargs
        return cls.from_loaded(
            load_plain_encoder(source, encoder_config, options["keep_vision"], **load),
            tokenizer,
            encoder_name_or_path=config.encoder_name_or_path,
            encoder_revision=source.get("revision"),
            **options,
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *, fusion_only: bool = False, **kwargs) -> None:
        """Save weights, configuration, code and tokenizer.

        Args:
            save_directory (`str`): the folder.
            fusion_only (`bool`, defaults to `False`): save only what was added to the encoder, and the encoder's Hub
                id and revision.
            kwargs: as any `save_pretrained` takes them; `push_to_hub=True` uploads all of it in one commit.

        Raises:
            ValueError: `fusion_only` for an encoder that has no Hub id and revision to be found again by, or an
                encoder with code of its own without it.
        """
        if not fusion_only:
            if has_own_code(self.encoder) or has_own_code(self.config.encoder_config):
                raise ValueError(
                    f"got the encoder {self.config.encoder_name_or_path!r} with code of its own, which a saved model "
                    "does not carry, expected fusion_only=True: it leaves the encoder where it is"
                )
            super().save_pretrained(save_directory, **kwargs)
        else:
            if None in (self.config.encoder_name_or_path, self.config.encoder_revision):
                raise ValueError(
                    f"got fusion_only=True for the encoder {self.config.encoder_name_or_path!r} without a Hub "
                    "revision, expected one from the Hub: save the whole model"
                )
            state = {key: value for key, value in self.state_dict().items() if not key.startswith("encoder.")}
            self.config.encoder_in_checkpoint = False
            try:
                super().save_pretrained(save_directory, state_dict=state, **kwargs)
            finally:
                self.config.encoder_in_checkpoint = True
        if kwargs.get("is_main_process", True) and not kwargs.get("push_to_hub", False):
            self._save_tokenizer(save_directory)

    def _upload_modified_files(self, working_dir: str | os.PathLike, *args, **kwargs):
        # The last step of `push_to_hub=True` in transformers: the tokenizer belongs into the same commit.
        self._save_tokenizer(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def _save_tokenizer(self, folder: str | os.PathLike) -> None:
        if self._tokenizer is None:
            return
        processor_class = getattr(self._tokenizer, "_processor_class", None)
        if not self.config.keep_vision:
            self._tokenizer._set_processor_class(None)  # or AutoProcessor would ask for one that reads images
        try:
            self._tokenizer.save_pretrained(folder)
        finally:
            self._tokenizer._set_processor_class(processor_class)

    @property
    def tokenizer(self):
        """The encoder's tokenizer."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise ValueError(
                "got a model without a tokenizer, expected the encoder's: set model.tokenizer to it, or build the "
                "model with from_encoder"
            )
        if tokenizer.pad_token is None:
            # Padding is masked, so any token does.
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        return tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer) -> None:
        self._tokenizer = tokenizer
