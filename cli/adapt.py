"""`granted adapt`: a new text encoder for a diffusion model that was trained with an old one.

granted adapt old=./pipeline/text_encoder new=Qwen/Qwen3-0.6B --texts captions.txt --output adapted
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from granted.cli.console import console
from granted.cli.registry import command
from granted.encoding.options import EncoderOptions
from granted.utils.errors import InputError
from granted.utils.options import option


@dataclass
class Adapt:
    """Options of `granted adapt`."""

    old: str = option(help="Encoder that the diffusion model was trained with.", positional=True)
    new: str = option(help="Encoder to take its place: Hub id, folder or GGUF file, as the old one.", positional=True)
    texts: Path = option(help="UTF-8 file of captions, one a line: a few thousand.")
    output: Path = option(help="The folder to make: the adapted encoder and adapt.json.")
    old_feature: str | None = option(None, "What the diffusion model reads; norm_avg. A saved model has its own.")
    new_feature: str | None = option(
        None, "What is mapped: last, penultimate, layer_N, avg, norm_avg_first_N or norm_avg, the default."
    )
    new_layers: list[str] = option(
        [], "Instead: layers joined along the channels, such as embeddings,9,19,29 (0 is the first)."
    )
    new_template: str | None = option(None, "Text with {prompt} in it, put around every text for the new encoder.")
    controls: list[Literal["random", "words"]] = option(
        ["words"], "Also fitted, to compare: its random weights, its words without context."
    )


@command("adapt", without=("template", "last_layer"))
def adapt(settings: Adapt, encoder: EncoderOptions):
    """Put one text encoder in the place of another without training the diffusion model.

    A linear map from the features of the new encoder to those of the old one is fitted on texts alone and becomes the
    projection of a saved encoder, whose features have the old width.
    """
    if settings.output.exists():
        raise InputError(f"got {settings.output}, which exists, expected a new folder: choose another or remove it")
    from granted.encoding.adaptation import adapt, load_feature, save
    from granted.encoding.loading import check_encoders
    from granted.utils.files import read_texts

    check_encoders([settings.old, settings.new] if settings.old != settings.new else [settings.old])
    texts = read_texts(settings.texts)
    old_name, old = load_feature(settings.old, settings.old_feature, encoder)
    new_options = replace(encoder, template=settings.new_template)
    new_name, new = load_feature(settings.new, settings.new_feature, new_options, settings.new_layers)
    found = adapt(old, new, texts, settings.controls, shown=f"from {new_name} to {old_name}")
    names = {"old": old_name, "new": new_name, "texts": settings.texts.name}
    save(found, settings.output, names)
    shares = {name: one["mean over channels"] for name, one in found.report["explained_variance"].items()}
    rest = ", ".join(f"{name} {share:.2f}" for name, share in shares.items() if name != "map")
    console.print(
        f"{new_name} explains {shares['map']:.2f} of what {old_name} says of tokens of unseen texts ({rest}; their "
        f"mean alone 0); wrote {settings.output}"
    )
