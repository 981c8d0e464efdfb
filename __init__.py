"""GRAN-TED for Hugging Face: score, adapt and plug in the text encoders of diffusion models.

Importing the package registers its classes, so that AutoConfig and AutoModel load saved folders without remote code.
"""

import os.path
import sys


__version__ = "0.1.0"
__all__ = ["ContextAggregator", "ContextAggregatorConfig", "GrantedConfig", "GrantedModel", "LayerFusion"]


def register() -> None:
    """Make the public names available here, and the classes known to AutoConfig and AutoModel."""
    from transformers import AutoConfig, AutoModel

    from granted.configuration_granted import ContextAggregatorConfig, GrantedConfig
    from granted.modeling_context_aggregator import ContextAggregator
    from granted.modeling_granted import GrantedModel
    from granted.modeling_layer_fusion import LayerFusion

    for one in (ContextAggregator, ContextAggregatorConfig, GrantedConfig, GrantedModel, LayerFusion):
        globals()[one.__name__] = one
    for config, model in ((GrantedConfig, GrantedModel), (ContextAggregatorConfig, ContextAggregator)):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return globals()[name]


def _is_command() -> bool:
    name = os.path.basename(sys.argv[0])
    if name != "-m":
        return name in ("granted", "granted.exe")
    words = sys.orig_argv  # argv[0] is "-m" until the module that is run, of any package, has been found
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return module.partition(".")[0] == "granted"


# The command line shows its help at once, and can be interrupted from its first moment: it registers when its work
# begins.
if not _is_command():
    register()
