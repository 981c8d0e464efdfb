"""A model built by name as the text encoder of its stock pipeline: it draws what it draws with its own encoder."""

import pytest
import torch

from granted import GrantedModel
from granted.modeling_pipeline_rules import PIPELINE_RULES, pipeline_options
from granted.tests.test_pipeline_rules import (
    CASES,
    PROMPTS,
    around,
    encoder_of,
    pipeline_of,
    tokenizer,  # noqa: F401
    without_bos,
)
from granted.tests.tiny_pipelines import DRAWINGS, draw, drawing_pipeline


# Pipelines that reach into their encoder: what of it they want, and why another encoder cannot give it.
REACHING = {
    "ideogram4": ("language_model", "no: it runs the layers of the encoder itself"),
    "joyimage-edit": ("model", "no: it hooks a layer of the encoder"),
    "qwen-image-2.1": ("model", "no: it hooks the final norm of the encoder"),
}


def test_every_rule_is_tried():
    assert DRAWINGS.keys() | REACHING.keys() == PIPELINE_RULES.keys() and not DRAWINGS.keys() & REACHING.keys()


def both(name: str, tokenizer, **options) -> tuple[torch.nn.Module, GrantedModel]:  # noqa: F811
    """A pipeline's own encoder, and a model around the same weights."""
    encoder = encoder_of(CASES[name])
    without_bos(tokenizer, encoder)
    return encoder, GrantedModel.from_loaded(around(encoder), tokenizer, **pipeline_options(name, tokenizer) | options)


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_stock_pipeline_draws_the_same_with_a_model_built_by_name(name, tokenizer, record_property):  # noqa: F811
    encoder, model = both(name, tokenizer)
    stock = drawing_pipeline(name, encoder, tokenizer)
    want, other = (draw(name, stock, prompt) for prompt in PROMPTS)
    torch.testing.assert_close(
        draw(name, drawing_pipeline(name, model, tokenizer), PROMPTS[0]), want, atol=1e-4, rtol=0
    )
    assert want.isfinite().all() and (want - other).abs().max() > 1e-3
    record_property("drops_in", "yes")


@pytest.mark.parametrize("name", REACHING)
def test_a_pipeline_that_reaches_into_its_encoder_takes_no_other(name, tokenizer, record_property):  # noqa: F811
    wanted, reason = REACHING[name]
    _, model = both(name, tokenizer)
    with pytest.raises(AttributeError, match=f"has no attribute '{wanted}'"):
        CASES[name].encode(pipeline_of(name, model, tokenizer), PROMPTS[:1])
    record_property("drops_in", reason)


def test_what_a_pipeline_does_with_padding_decides_whether_fused_states_will_do(tokenizer):  # noqa: F811
    """They are zeros at padding: Lumina 2 masks it, EasyAnimate reads it."""
    for name, same in (("lumina2", True), ("easyanimate", False)):
        encoder, model = both(name, tokenizer, fused_hidden_states=True)
        want, got = (draw(name, drawing_pipeline(name, one, tokenizer), PROMPTS[0]) for one in (encoder, model))
        assert torch.allclose(got, want, atol=1e-4) == same
