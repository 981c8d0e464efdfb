"""Settings of the trainings of diffusion models. No library is loaded with them, so that `--help` shows them at once.

config = parse_settings(TextToImageConfig, ["--config", "t2i_miniature_32.yaml"], "granted train text-to-image")
"""

from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from typing import Any, Literal

from granted.encoding.options import EncoderOptions
from granted.utils.errors import InputError
from granted.utils.settings import Count, Natural, NonNegative, Positive, Seed, Share


MODES = ("norm_avg", "continuous", "two_step", "as_saved")  # of the layer weights
# Where a run is written, how it is shown, read and spread: the result does not depend on it. Encoder, VAE and data are
# known by their content instead.
APART = (
    "output_dir",
    "encoder",
    "device",
    "device_map",
    "attn_implementation",
    "trust_remote_code",
    "revision",
    "data",
    "vae",
    "data_workers",
    "recompute_layers",
    "token_budget",
    "cache",
    "cache_dir",
    "gradient_checkpointing",
    "gradient_accumulation_steps",
    "save_steps",
    "log_steps",
    "sample_steps",
    "sample_prompts",
    "sample_count",
    "num_inference_steps",
    "guidance_scale",
    "tracker",
)


@dataclass
class DiffusionTrainingConfig(EncoderOptions):
    """Settings of a diffusion model's training with the layer weights of its text encoder.

    Args:
        encoder (`str`): Hub id, folder or GGUF file of the text encoder. The fields of [`EncoderOptions`] say how it
            is loaded and where it computes.
        data (`str`): Parquet or JSON Lines files, comma-separated; a folder; or a Hub id. split (`str`): of it.
        output_dir (`str`): gets the pipeline, the record, the layer weights' trajectory, grids, checkpoints.
        caption_columns (`list[str]`): with several, each step draws one of those a row has.
        skip_broken (`bool`): leave rows out that cannot be used, instead of refusing them all.
        data_workers (`int`): processes that read pictures ahead.
        transformer (`dict`): fields of the diffusion model's configuration, as diffusers names them; widths that
            follow from encoder and VAE may be left out.
        vae (`str`): Hub id or folder, or `"none"` to train on pixels in [-1, 1].
        layer_weights (`str`): `"norm_avg"`, `"continuous"`, `"two_step"` or `"as_saved"`; freeze_at (`str`): for
            two_step a step, a fraction of the run such as `"2/3"`, or `"auto"`; freeze_window (`int`, *optional*):
            steps between two looks of auto.
        layer_weights_learning_rate (`float`, *optional*): learning_rate by default; layer_weights_schedule (`str`):
            `"constant"`, or `"cosine"` to zero at the end of the run wherever they are frozen, with which continuous
            hardly differs from two_step. The warm-up is that of the diffusion model.
        recompute_layers (`bool`): while they learn, run the trunk twice instead of keeping its layers: less memory.
        cache (`bool`): once the layer weights are fixed, encode all captions once and free the trunk; cache_dir
            (`str`, *optional*): where, `output_dir/embeddings` by default.
        max_sequence_length (`int`): most tokens read of a caption, template included; the saved pipeline keeps it, and
            the encoder its own. token_budget (`int`): most tokens encoded at a time while the cache is filled.
        batch_size (`int`): of a step, over all processes and accumulated parts; gradient_accumulation_steps (`int`).
        max_steps (`int`), learning_rate (`float`), schedule (`str`): `"constant"` or `"cosine"` (to zero at the end);
            warmup_steps (`int`): linear rise before it.
        optimizer (`str`): the diffusion model's, `"adamw"` or, for the matrices of its blocks, `"muon"`; adam_beta2
            (`float`), weight_decay (`float`), max_grad_norm (`float`): for it.
        caption_dropout (`float`): share of captions replaced by the empty one, for classifier-free guidance.
        timestep_sampling (`str`): `"uniform"` or `"logit_normal"` (of mean 0 and deviation 1); shift (`float`): the
            scheduler's, in training and sampling.
        ema_decay (`float`): of the averaged weights, which sampling and the saved pipeline use; 0 for none. Layer
            weights that learn are averaged alike, as the two belong together; frozen ones are what was frozen.
        gradient_checkpointing (`bool`), mixed_precision (`str`): `"bf16"` or `"no"`.
        seed (`int`): of initialisation, data order, noise.
        save_steps (`int`), log_steps (`int`): steps between checkpoints, and between points of the curve.
        sample_steps (`int`): steps between grids; 0 for one at the end only. sample_prompts (`str`, *optional*): a
            text file, one prompt a line, the first captions of the data by default; sample_count (`int`): how many;
            num_inference_steps (`int`), guidance_scale (`float`): of sampling.
        tracker (`str`): `"file"` (training.jsonl) or `"trackio"`.

    The defaults of batch_size, max_steps, learning_rate, freeze_at, num_inference_steps and guidance_scale are the
    paper's (Appendix C.1). It names no schedule, which we read as constant rates, and none of the others, which are
    ours.

    Raises:
        InputError: a value is of another type or out of range.
    """

    encoder: str = ""
    data: str = ""
    split: str = "train"
    output_dir: str = ""
    caption_columns: list[str] = field(default_factory=lambda: ["caption"])
    skip_broken: bool = False
    data_workers: Natural = 0
    transformer: dict = field(default_factory=dict)
    vae: str = "none"
    layer_weights: Literal[MODES] = "two_step"
    freeze_at: str = "2/3"
    freeze_window: Count | None = None
    layer_weights_learning_rate: Positive | None = None
    layer_weights_schedule: Literal["constant", "cosine"] = "constant"
    recompute_layers: bool = True
    cache: bool = True
    cache_dir: str | None = None
    max_sequence_length: Count = 256
    token_budget: Count = 8192
    batch_size: Count = 512
    gradient_accumulation_steps: Count = 1
    max_steps: Count = 144_000
    learning_rate: Positive = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: Natural = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    adam_beta2: Share = 0.999
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive = 1.0
    caption_dropout: Share = 0.1
    timestep_sampling: Literal["uniform", "logit_normal"] = "logit_normal"
    shift: Positive = 1.0
    ema_decay: Share = 0.9999
    gradient_checkpointing: bool = False
    mixed_precision: Literal["bf16", "no"] = "bf16"
    seed: Seed = 0
    save_steps: Count = 1000
    log_steps: Count = 10
    sample_steps: Natural = 0
    sample_prompts: str | None = None
    sample_count: Count = 16
    num_inference_steps: Count = 50
    guidance_scale: NonNegative = 4.0
    tracker: Literal["file", "trackio"] = "file"

    def __post_init__(self):
        self.freeze_at = str(self.freeze_at)  # a number is as good as its text
        super().__post_init__()
        for name in ("encoder", "data", "output_dir"):
            if not getattr(self, name):
                raise InputError(f"got no {name}, expected one: give --{name}")
        if self.layer_weights == "two_step" and self.freeze_at != "auto":
            freeze_step(self.freeze_at, self.max_steps)

    def encoder_options(self) -> EncoderOptions:
        """How the encoder is loaded."""
        return EncoderOptions(**{one.name: getattr(self, one.name) for one in fields(EncoderOptions)})

    def identity(self) -> dict[str, Any]:
        """The settings that the outcome depends on."""
        return {name: value for name, value in asdict(self).items() if name not in APART}


@dataclass
class TextToImageConfig(DiffusionTrainingConfig):
    """Settings of a text-to-image training.

    Args:
        image_column (`str`): the pictures.
        resolution (`int`): side of a picture in pixels, 256 as in the paper by default; aspect_buckets (`bool`):
            instead of the square only, shapes from 1:2 to 2:1 of the same area.
        streaming (`bool`): read the data as it comes, in windows of stream_window (`int`) rows a process.

    Those of every diffusion training:
    """

    image_column: str = "image"
    resolution: Count = 256
    aspect_buckets: bool = False
    streaming: bool = False
    stream_window: Count = 1024


TextToImageConfig.__doc__ += DiffusionTrainingConfig.__doc__.partition("Args:")[2]


@dataclass
class TextToVideoConfig(DiffusionTrainingConfig):
    """Settings of a text-to-video training.

    `data` are clips, `batch_size` is theirs. The defaults of image_batch_size and image_steps are the paper's; height,
    width, num_frames, shift and max_sequence_length are Wan 2.1's. ema_decay is 0: the paper names no average, and one
    over 20,000 steps of fine-tuning would keep much of their beginning.

    Args:
        pretrained (`str`, *optional*): Hub id or folder of the Wan transformer, or of a pipeline with one, that is
            fine-tuned; its text-embedding layers are initialised anew for this encoder. Without it a transformer of
            the configured shape is trained from scratch.
        frames_column (`str`): the clips, as lists of pictures or as videos; num_frames (`int`): evenly spread frames
            taken of each; height (`int`), width (`int`): in pixels.
        image_data (`str`): pictures, given as `data` is; image_column (`str`): in them; image_batch_size (`int`).
        image_steps (`int`): of any ten steps in a row, those of pictures; 0 trains on clips alone.

    Those of every diffusion training:
    """

    pretrained: str | None = None
    frames_column: str = "frames"
    num_frames: Count = 81
    height: Count = 480
    width: Count = 832
    image_data: str = ""
    image_column: str = "image"
    image_batch_size: Count = 512
    image_steps: Natural = 7
    batch_size: Count = 128
    max_steps: Count = 20_000
    freeze_at: str = "0.6"
    max_sequence_length: Count = 512
    ema_decay: Share = 0.0
    shift: Positive = 3.0
    guidance_scale: NonNegative = 5.0
    sample_count: Count = 4

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.image_steps < 10 or bool(self.image_steps) != bool(self.image_data):
            raise InputError(
                f"got image_steps={self.image_steps} with image_data {self.image_data!r}, expected 1 to 9 of ten "
                "steps with pictures, or 0 without: set both"
            )


TextToVideoConfig.__doc__ += DiffusionTrainingConfig.__doc__.partition("Args:")[2]


def freeze_step(freeze_at: str, total_steps: int) -> int:
    """The step before which the weights are frozen.

    Args:
        freeze_at (`str`): a number of steps, or a fraction of the run below 1, such as `"2/3"` or `"0.6"`.
        total_steps (`int`): length of the run.

    Raises:
        InputError: it is neither, or not within the run.
    """
    try:
        value = Fraction(freeze_at)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    step = round(value * total_steps) if value < 1 else value
    if not 0 < step < total_steps or step != int(step):
        raise InputError(
            f"got freeze_at={freeze_at!r}, expected a step between 1 and {total_steps - 1}, a fraction of the run "
            "such as 2/3, or auto: correct it, or use continuous"
        )
    return int(step)
