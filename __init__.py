"""GRAN-TED for Hugging Face: score, adapt and plug in the text encoders of diffusion models.

Importing the package registers its classes, so that AutoConfig and AutoModel load saved folders without remote code.
"""

from transformers import AutoConfig, AutoModel

from granted.configuration_granted import ContextAggregatorConfig, GrantedConfig
from granted.modeling_context_aggregator import ContextAggregator
from granted.modeling_granted import GrantedModel
from granted.modeling_layer_fusion import LayerFusion


__version__ = "0.1.0"
__all__ = ["ContextAggregator", "ContextAggregatorConfig", "GrantedConfig", "GrantedModel", "LayerFusion"]

for _config, _model in ((GrantedConfig, GrantedModel), (ContextAggregatorConfig, ContextAggregator)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
