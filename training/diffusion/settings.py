"""Settings of the trainings of diffusion models. No library is loaded with them, so that `--help` shows them at once.

TextToImageConfig(encoder="checkpoints/tiny/granted", data="data.parquet", output_dir="run", resolution=32)
"""

from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar, Literal

from granted.encoding.options import EncoderOptions
from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Count, Natural, NonNegative, Positive, Seed, Share


MODES = ("norm_avg", "continuous", "two_step", "per_block", "signed", "as_saved")  # of the layer weights
FREEZING = ("two_step", "per_block", "signed")  # learned with the diffusion model until they are frozen
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


CALIBRATION = 300  # captions


@dataclass
class DiffusionTrainingConfig(EncoderOptions):
    """Settings of a diffusion model's training with the layer weights of its text encoder.

    The defaults of batch_size, max_steps, learning_rate, freeze_at, num_inference_steps and guidance_scale are the
    paper's (Appendix C.1). It names no schedule, which we read as constant rates, and none of the others, which are
    ours.

    Raises:
        InputError: a value is of another type or out of range.
    """

    help_groups: ClassVar[tuple[str, ...]] = ("Data", "Diffusion model", "Layer weights", "Training", "Progress")

    encoder: str = option("", "Text encoder: Hub id, folder or GGUF file.", group="Data")
    data: str = option("", "Parquet or JSON Lines files, with commas; a folder; or a Hub id.", group="Data")
    split: str = option("train", "Split of the data.", group="Data")
    output_dir: str = option(
        "", "Gets the pipeline, the record, the layer weights' trajectory, grids and checkpoints.", group="Data"
    )
    caption_columns: list[str] = option(
        ["caption"], "With several, each step draws one of those that a row has.", group="Data"
    )
    skip_broken: bool = option(
        False, "Leave out rows that cannot be used, instead of refusing them all.", group="Data"
    )
    data_workers: Natural = option(0, "Processes that read images ahead.", group="Data")
    transformer: dict = option(
        {},
        "Fields of the diffusion model's configuration, as diffusers names them; widths that follow from encoder and "
        "VAE may be left out.",
        group="Diffusion model",
    )
    vae: str = option("none", "Hub id or folder; none trains on pixels in [-1, 1].", group="Diffusion model")
    layer_weights: Literal[MODES] = option(
        "two_step",
        "Equal (norm_avg), the encoder's (as_saved), or learned: to the end (continuous), or until freeze_at, one row "
        "for all blocks of the diffusion model (two_step), one for each (per_block), or of any sign (signed).",
        group="Layer weights",
    )
    freeze_at: str = option(
        "2/3",
        "When they are frozen: a step, a fraction of the run such as 2/3, or auto.",
        group="Layer weights",
    )
    freeze_window: Count | None = option(None, "Steps between two looks of auto.", group="Layer weights")
    layer_weights_learning_rate: Positive | None = option(
        None, "Learning rate of the layer weights; that of the diffusion model by default.", group="Layer weights"
    )
    layer_weights_schedule: Literal["constant", "cosine"] = option(
        "constant",
        "Cosine ends at zero with the run wherever they are frozen: continuous hardly differs from two_step then.",
        group="Layer weights",
    )
    standardize: bool = option(
        False,
        f"Standardise every channel of the text features by the first {CALIBRATION} captions; the encoder keeps it.",
        group="Layer weights",
    )
    recompute_layers: bool = option(
        True,
        "While they learn, run the trunk twice instead of keeping its layers: less memory.",
        group="Layer weights",
    )
    cache: bool = option(
        True, "Once they are fixed, encode all captions once and free the trunk.", group="Layer weights"
    )
    cache_dir: str | None = option(None, "Where; embeddings in output_dir by default.", group="Layer weights")
    max_sequence_length: Count = option(
        256,
        "Most tokens read of a caption, template included; the saved pipeline keeps it, the encoder its own.",
        group="Training",
    )
    token_budget: Count = option(8192, "Most tokens encoded at a time while the cache is filled.", group="Training")
    batch_size: Count = option(512, "Of a step, over all processes and accumulated parts.", group="Training")
    gradient_accumulation_steps: Count = option(1, "Parts of a step.", group="Training")
    max_steps: Count = option(144_000, "Steps of the run.", group="Training")
    learning_rate: Positive = option(1e-4, "Peak learning rate.", group="Training")
    schedule: Literal["constant", "cosine"] = option(
        "constant", "Of the learning rate; cosine ends at zero.", group="Training"
    )
    warmup_steps: Natural = option(0, "Steps of linear rise of the learning rate.", group="Training")
    optimizer: Literal["adamw", "muon"] = option("adamw", "Muon is for the matrices of blocks.", group="Training")
    adam_beta2: Share = option(0.999, "AdamW beta2.", group="Training")
    weight_decay: NonNegative = option(0.0, "AdamW weight decay.", group="Training")
    max_grad_norm: Positive = option(1.0, "Gradient clipping.", group="Training")
    caption_dropout: Share = option(
        0.1, "Share of captions replaced by the empty one, for classifier-free guidance.", group="Training"
    )
    timestep_sampling: Literal["uniform", "logit_normal"] = option(
        "logit_normal", "Of mean 0 and deviation 1.", group="Training"
    )
    shift: Positive = option(1.0, "Shift of the scheduler, in training and sampling.", group="Training")
    ema_decay: Share = option(
        0.9999,
        "Of the averaged weights, which sampling and the saved pipeline use; 0 for none. Layer weights that learn are "
        "averaged alike.",
        group="Training",
    )
    gradient_checkpointing: bool = option(False, "Least memory, not least time.", group="Training")
    mixed_precision: Literal["bf16", "no"] = option("bf16", "Precision of the matrix products.", group="Training")
    seed: Seed = option(0, "Seed of initialisation, data order and noise.", group="Training")
    save_steps: Count = option(1000, "Steps between checkpoints.", group="Progress")
    log_steps: Count = option(10, "Steps between points of the curve.", group="Progress")
    sample_steps: Natural = option(0, "Steps between grids of images; 0 for one at the end only.", group="Progress")
    sample_prompts: str | None = option(
        None, "A text file, one prompt a line; the data's first captions by default.", group="Progress"
    )
    sample_count: Count = option(16, "Images of a grid.", group="Progress")
    num_inference_steps: Count = option(50, "Denoising steps of a sample.", group="Progress")
    guidance_scale: NonNegative = option(4.0, "Scale of classifier-free guidance of a sample.", group="Progress")
    tracker: Literal["file", "trackio"] = option("file", "Where curves go; file is training.jsonl.", group="Progress")

    def __post_init__(self):
        self.freeze_at = str(self.freeze_at)  # a number is as good as its text
        super().__post_init__()
        for name in ("encoder", "data", "output_dir"):
            if not getattr(self, name):
                raise InputError(f"got no {name}, expected one: give --{name.replace('_', '-')}")
        if self.layer_weights in FREEZING and self.freeze_at != "auto":
            freeze_step(self.freeze_at, self.max_steps)

    def encoder_options(self) -> EncoderOptions:
        """How the encoder is loaded."""
        return EncoderOptions(**{one.name: getattr(self, one.name) for one in fields(EncoderOptions)})

    def identity(self) -> dict[str, Any]:
        """The settings that the outcome depends on; as of runs that were begun before there was `standardize`."""
        apart = APART if self.standardize else (*APART, "standardize")
        return {name: value for name, value in asdict(self).items() if name not in apart}


@dataclass
class TextToImageConfig(DiffusionTrainingConfig):
    """Settings of a text-to-image training."""

    image_column: str = option("image", "Column of the images.", group="Data")
    resolution: Count = option(256, "Side of an image in pixels; 256 as in the paper.", group="Data")
    aspect_buckets: bool = option(
        False, "Instead of the square, shapes from 1:2 to 2:1 of the same area.", group="Data"
    )
    streaming: bool = option(False, "Read the data as it comes.", group="Data")
    stream_window: Count = option(1024, "Rows of a process that are shuffled among each other then.", group="Data")


@dataclass
class TextToVideoConfig(DiffusionTrainingConfig):
    """Settings of a text-to-video training; `data` are videos, `batch_size` is theirs.

    The defaults of image_batch_size and image_steps are the paper's; height, width, num_frames, shift and
    max_sequence_length are Wan 2.1's. ema_decay is 0: the paper names no average, and one over 20,000 steps of
    fine-tuning would keep much of their beginning.
    """

    pretrained: str | None = option(
        None,
        "Hub id or folder of the Wan transformer that is fine-tuned, or of a pipeline with one; its text-embedding "
        "layers begin anew. Without it a transformer of the configured shape is trained from scratch.",
        group="Diffusion model",
    )
    frames_column: str = option("frames", "Column of the videos: lists of images, or videos.", group="Data")
    num_frames: Count = option(81, "Evenly spread frames taken of each video.", group="Data")
    height: Count = option(480, "Height in pixels.", group="Data")
    width: Count = option(832, "Width in pixels.", group="Data")
    image_data: str = option("", "Images, given as data is.", group="Data")
    image_column: str = option("image", "Column of the images.", group="Data")
    image_batch_size: Count = option(512, "Images of a step.", group="Data")
    image_steps: Natural = option(
        7, "Of any ten steps in a row those of images; 0 trains on videos alone.", group="Data"
    )
    batch_size: Count = option(128, "Videos of a step.", group="Training")
    max_steps: Count = option(20_000, "Steps of the run.", group="Training")
    freeze_at: str = option(
        "0.6", "When they are frozen: a step, a fraction of the run such as 0.6, or auto.", group="Layer weights"
    )
    max_sequence_length: Count = option(512, "Most tokens read of a caption, template included.", group="Training")
    ema_decay: Share = option(0.0, "Of the averaged weights; 0 for none.", group="Training")
    shift: Positive = option(3.0, "Shift of the scheduler, in training and sampling.", group="Training")
    guidance_scale: NonNegative = option(5.0, "Scale of classifier-free guidance of a sample.", group="Progress")
    sample_count: Count = option(4, "Videos of a grid.", group="Progress")

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.image_steps < 10 or bool(self.image_steps) != bool(self.image_data):
            raise InputError(
                f"got image_steps={self.image_steps} with image_data {self.image_data!r}, expected 1 to 9 of ten "
                "steps with images, or 0 without: set both"
            )


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
