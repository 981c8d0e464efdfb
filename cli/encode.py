"""`granted encode` and `granted export`: features of texts, and an encoder of a fine-tuned model.

granted encode Qwen/Qwen3-VL-8B-Instruct captions.txt --output features
granted encode Qwen/Qwen3-VL-4B-Instruct captions.txt --output features --pipeline krea2
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from granted.cli.console import console
from granted.cli.registry import command
from granted.encoding.options import EncoderOptions
from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Count


@dataclass
class Encode:
    """Options of `granted encode`."""

    encoder: str = option(help="Hub id, folder or GGUF file.", positional=True)
    texts: Path = option(help="UTF-8 file, one text a line.", positional=True)
    output: Path = option(help="Folder of safetensors shards, keyed by text.")
    fusion: str | None = option(None, "norm_avg (the default), learned, avg or single; a saved model has its own.")
    layer_index: int | None = option(None, "The layer of fusion single; -1 is the last.")
    pipeline: str | None = option(
        None, "Read a plain encoder as this stock pipeline does, such as krea2: docs/pipelines.md has the names."
    )
    max_length: Count | None = option(None, "Most tokens read of a text, template included; the encoder's own limit.")
    token_budget: Count = option(8192, "Most tokens that the encoder reads at a time, padding included.")

    def __post_init__(self):
        said = [name for name in ("fusion", "layer_index", "max_length") if getattr(self, name) is not None]
        if self.pipeline is not None and said:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in said)
            raise InputError(
                f"got --pipeline {self.pipeline} with {names}, expected it alone: the pipeline says how it reads"
            )
        if self.layer_index is not None and self.fusion != "single":
            raise InputError("got --layer-index without --fusion single, expected both: it has no effect alone")


@command("encode")
def encode(settings: Encode, encoder: EncoderOptions):
    """Encode texts into features (N, D) on disk, (K, N, D) of K states. Run again to go on after an interruption."""
    from granted.encoding.feature_files import encode_file

    said = [name for name in ("template", "last_layer") if getattr(encoder, name) is not None]
    if settings.pipeline is not None and said:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in said)
        raise InputError(f"got --pipeline {settings.pipeline} with {names}, expected it alone: the pipeline says it")
    given = asdict(settings)
    files = {"spec": given.pop("encoder"), "texts_file": given.pop("texts"), "output_dir": given.pop("output")}
    count, total = encode_file(**files, **given, options=encoder)
    console.print(f"encoded {count} texts; {settings.output} holds {total}")


@dataclass
class Export:
    """Options of `granted export`."""

    run: Path = option(help="What granted train vqa wrote: a whole model or an adapter.", positional=True)
    output: Path = option(help="The folder to make.")
    fusion: str = option("norm_avg", "How the layers are fused: learned, norm_avg, avg or single.")
    dtype: str = option("auto", "Dtype of the encoder: auto, float32, bfloat16 or float16.")
    base: str | None = option(None, "Hub id or folder of an adapter's base, if it has moved.")
    revision: str | None = option(None, "Revision of that base on the Hub; the training's by default.")
    keep_vision: bool = option(False, "Keep the vision tower.")
    trust_remote_code: bool = option(False, "Run the code that comes with the model; read it first.")


@command("export")
def export(settings: Export):
    """Make a text encoder of a fine-tuned model: merge the adapter, drop the head, fuse the layers."""
    from granted.training.vqa.export import export_encoder

    folder = export_encoder(**asdict(settings))
    console.print(
        f"wrote {folder}; load it with AutoModel.from_pretrained or score it with granted evaluate ted {folder}"
    )
