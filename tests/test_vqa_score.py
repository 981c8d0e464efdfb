"""VQAScore by real Qwen3-VL, LLaVA, InstructBLIP and BLIP-2 in miniature, against probabilities computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3VLForConditionalGeneration,
    T5Config,
)

from granted.encoding.loading import LoadingOptions
from granted.eval_metric.generation.settings import JudgeSettings
from granted.eval_metric.generation.vqa_score import Judge, rating_agreement, score_prompts, vqa_score_report
from granted.examples.miniature.model import CHAT_TEMPLATE, miniature_config, miniature_processor, miniature_tokenizer
from granted.utils.errors import InputError


FP32 = LoadingOptions(dtype="float32")


def qwen3_vl(folder):
    tokenizer = miniature_tokenizer(500, 20)
    config = miniature_config(tokenizer)
    config.text_config.update({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3})
    config.vision_config.update({"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64})
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    miniature_processor(tokenizer).save_pretrained(folder)


def llava(folder):
    tokenizer = miniature_tokenizer(500, 20)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=8)
    text = LlamaConfig(**small, num_key_value_heads=2, max_position_embeddings=4096, vocab_size=len(tokenizer))
    LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>")
        )
    ).save_pretrained(folder)
    sides = {"height": 32, "width": 32}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=sides, crop_size=sides),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def blip(folder, make_tokenizer, model, text):
    """InstructBLIP or BLIP-2 with the configuration of a language model."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=miniature_tokenizer(500, 20).backend_tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    looked_up = make_tokenizer("[CLS]", "[SEP]")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if text is T5Config:
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    else:
        sizes = small | {"bos_token_id": tokenizer.eos_token_id}
    kind = InstructBlipConfig if model is InstructBlipForConditionalGeneration else Blip2Config
    config = kind(
        # So large that the score depends on the image.
        vision_config=small | {"image_size": 32, "patch_size": 8, "initializer_range": 0.5},
        qformer_config=small | {"vocab_size": len(looked_up)},
        text_config=text(vocab_size=len(tokenizer), **sizes, **ends),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    built = model(config)
    torch.nn.init.normal_(built.query_tokens)
    built.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    if model is InstructBlipForConditionalGeneration:
        InstructBlipProcessor(images, tokenizer, looked_up, num_query_tokens=4).save_pretrained(folder)
    else:
        Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)


@pytest.fixture(scope="module", params=[qwen3_vl, llava])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param.__name__) / "judge"
    request.param(path)
    return str(path)


@pytest.fixture(scope="module")
def judge(folder):
    return Judge.load(folder, FP32)


def noise(size, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)  # (H, W, 3)
    return Image.fromarray(values)


PROMPTS = ["a red star", "three small blue circles to the left of a large green square", "a ring"]


def by_hand(folder, image, prompt, answer, end=""):
    """Write the answer after the question, one forward pass, and read off what the model gave its tokens."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    question = f'Does this figure show "{prompt}"? Please answer yes or no.'
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    wanted = processor.tokenizer(answer + end, add_special_tokens=False)["input_ids"]
    batch = processor(text=[text], images=[image], return_tensors="pt", add_special_tokens=False)
    length = batch["input_ids"].shape[1]
    for name, values in list(batch.items()):
        if values.shape == (1, length):
            more = {"input_ids": wanted, "attention_mask": [1] * len(wanted)}.get(name, [0] * len(wanted))
            batch[name] = torch.cat([values, torch.tensor([more])], 1)  # (1, N + len(wanted))
    with torch.no_grad():
        logits = model(**batch).logits[0]  # (N + len(wanted), V)
    chosen = [logits[length - 1 + i].softmax(-1)[token] for i, token in enumerate(wanted)]
    return torch.stack(chosen).log().mean().exp().item(), len(wanted)


@pytest.mark.parametrize(("answer", "tokens"), [("Yes", 2), ("Y", 1), ("a red star", 4)])
def test_the_score_is_the_probability_of_the_answer(folder, judge, answer, tokens):
    asked = Judge(judge.model, judge.processor, answer=answer)
    image = noise(64)
    expected, count = by_hand(folder, image, PROMPTS[1], answer)
    assert count >= min(tokens, 2)
    assert asked.score([[image]], [PROMPTS[1]]) == pytest.approx([expected], rel=1e-4)


def test_answer_and_end_is_the_mean_log_likelihood_of_the_answer_and_the_end_of_its_turn(folder, judge):
    judge.model.generation_config.eos_token_id = [0, 2]  # Gemma 3 stops at two tokens, too, and ends its turns by one
    asked = Judge(judge.model, judge.processor, measure="answer_and_end")
    expected, count = by_hand(folder, noise(64), PROMPTS[1], "Yes", "<|im_end|>")
    assert count == 3
    asking = [[noise(64)]], [PROMPTS[1]]
    assert asked.score(*asking) == pytest.approx([expected], rel=1e-4)
    assert asked.score(*asking) != pytest.approx(judge.score(*asking), rel=0.01)


@pytest.mark.parametrize("model", [InstructBlipForConditionalGeneration, Blip2ForConditionalGeneration])
@pytest.mark.parametrize("text", [T5Config, LlamaConfig])
def test_judges_that_are_asked_in_plain_text_give_the_authors_score(make_tokenizer, tmp_path, model, text):
    """The published VQAScore is exp(-cross-entropy), averaged over the tokens of "Yes" and the end."""
    blip(tmp_path / "judge", make_tokenizer, model, text)
    asked = Judge.load(str(tmp_path / "judge"), FP32, measure="answer_and_end")
    processor = AutoProcessor.from_pretrained(tmp_path / "judge")
    question = f'Does this figure show "{PROMPTS[1]}"? Please answer yes or no.'
    batch = processor(images=[noise(64)], text=[question], return_tensors="pt")
    labels = torch.tensor([processor.tokenizer("Yes<|im_end|>", add_special_tokens=False)["input_ids"]])  # (1, n)
    if text is LlamaConfig:  # the answer follows the question
        for name, more in (("input_ids", labels), ("attention_mask", torch.ones_like(labels))):
            batch[name] = torch.cat([batch[name], more], 1)  # (1, N + n)
    with torch.no_grad():
        logits = asked.model(**batch, **({"labels": labels} if text is T5Config else {})).logits
    logits = logits if text is T5Config else logits[:, -labels.shape[1] - 1 : -1]  # (1, n, V)
    expected = F.cross_entropy(logits[0], labels[0]).neg().exp().item()
    assert asked.score([[noise(64)]], [PROMPTS[1]]) == pytest.approx([expected], rel=1e-4)
    media = [[noise(32, 1)], [noise(64)]]
    together = asked.score(media, PROMPTS[:2])
    assert together == pytest.approx([asked.score(media[:1], PROMPTS[:1])[0], expected], rel=1e-4)
    assert asked.score(media[::-1], PROMPTS[:2]) != pytest.approx(together, rel=1e-6)
    with pytest.raises(InputError, match="takes one image"):
        asked.score([[noise(32), noise(32)]], PROMPTS[:1])


def test_a_batch_has_the_scores_of_its_images_and_videos_one_by_one(judge):
    media = [[noise(32, 1)], [noise(64, 2)], [noise(32, 3)], [noise(32, seed) for seed in range(6)]]
    prompts, fps = [*PROMPTS, PROMPTS[0]], [None, None, None, 8.0]
    alone = [judge.score([one], [prompt], [rate])[0] for one, prompt, rate in zip(media, prompts, fps)]
    together = judge.score(media, prompts, fps)
    assert together == pytest.approx(alone, rel=1e-4)
    videos = [media[3], media[3][:4]]
    both = judge.score(videos, prompts[:2], [8.0, 4.0])
    assert both == pytest.approx(
        [judge.score([c], [p], [f])[0] for c, p, f in zip(videos, prompts, (8.0, 4.0))], rel=1e-4
    )


def test_the_score_depends_on_the_image_the_order_of_frames_and_the_prompt(judge):
    frames = [noise(32, seed) for seed in range(4)]
    scores = judge.score([[frames[0]], [frames[1]]], PROMPTS[:1] * 2)
    scores += judge.score([[frames[0]]], PROMPTS[1:2])
    scores += judge.score([frames], PROMPTS[:1], [8.0]) + judge.score([frames[::-1]], PROMPTS[:1], [8.0])
    assert len({round(score, 9) for score in scores}) == 5 and all(0 < score < 1 for score in scores)


def test_a_long_video_is_seen_from_its_first_to_its_last_frame_and_no_more_often(judge):
    frames = [noise(32, seed) for seed in range(9)]
    few = Judge(judge.model, judge.processor, max_frames=3)
    assert few.score([frames], PROMPTS[:1], [9.0]) == pytest.approx(
        judge.score([[frames[0], frames[4], frames[8]]], PROMPTS[:1], [3.0]), rel=1e-5
    )


def test_scores_are_kept_by_image_prompt_and_judge(judge, tmp_path, monkeypatch):
    for i in range(3):
        noise(32, i).save(tmp_path / f"{i}.png")
    rows = [
        {"id": str(i), "prompt_id": str(i), "prompt": prompt, "media": "image", "file": f"{i}.png"}
        for i, prompt in enumerate(PROMPTS)
    ]
    first = score_prompts(judge, rows[:2], tmp_path, tmp_path / "cache", batch_size=2)
    assert [item["score"] for item in first] == pytest.approx(
        judge.score([[noise(32, 0)], [noise(32, 1)]], PROMPTS[:2]), rel=1e-6
    )
    asked = []
    original = Judge.score
    monkeypatch.setattr(
        Judge, "score", lambda self, media, prompts, fps: asked.extend(prompts) or original(self, media, prompts, fps)
    )
    again = score_prompts(judge, rows, tmp_path, tmp_path / "cache", batch_size=2)
    assert asked == PROMPTS[2:] and again[:2] == first
    noise(32, 9).save(tmp_path / "0.png")
    assert score_prompts(judge, rows, tmp_path, tmp_path / "cache")[0]["score"] != first[0]["score"]
    assert asked == [PROMPTS[2], PROMPTS[0]]
    for changed in ({"question": 'Is this "{}"?'}, {"measure": "answer_and_end"}):
        other = Judge(judge.model, judge.processor, **changed)
        assert score_prompts(other, rows, tmp_path, tmp_path / "cache")[1]["score"] != first[1]["score"]


def test_the_report_is_the_mean_of_each_group_and_skill():
    def item(number, score, skills=(), group=None):
        return {"id": str(number), "prompt_id": str(number), "score": score, "skills": list(skills), "group": group}

    items = [
        item(0, 0.2, ["scene"], "basic"),
        item(1, 0.4, ["scene", "attribute"], "basic"),
        item(2, 0.9, ["counting", "scene"], "advanced"),
        item(3, 1.0),
    ]
    report = vqa_score_report(items)
    found = {name: (round(figures["score"], 6), figures["n"]) for name, figures in report.items()}
    assert found == {
        "all": (0.625, 4),
        "tagged": (0.5, 3),
        "basic": (0.3, 2),
        "advanced": (0.9, 1),
        "scene": (0.5, 3),
        "attribute": (0.4, 1),
        "counting": (0.9, 1),
    }
    low, high = report["all"]["ci95"]
    assert 0.2 <= low < 0.625 < high <= 1
    assert set(vqa_score_report([item(0, 0.5)])) == {"all"}


def test_agreement_with_ratings_is_over_the_rated_images():
    items = [{"score": s, "rating": r} for s, r in ((0.1, 1), (0.2, 2), (0.3, 3), (0.4, 5), (0.9, None))]
    found = rating_agreement(items)
    assert (found["n"], found["spearman"], found["kendall"]) == (4, pytest.approx(1), pytest.approx(1))
    assert found["pearson"] == pytest.approx(np.corrcoef([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 5])[0, 1])
    assert rating_agreement(items[1:]) is None


def test_what_is_no_judge_is_refused_in_one_line(folder, judge, tmp_path, tiny_encoder_folder):
    for path in (tiny_encoder_folder, str(tmp_path / "nothing")):
        with pytest.raises(InputError, match="expected a vision-language model"):
            Judge.load(path)
    for wrong, said in (({"question": "Is this right?"}, "for the prompt"), ({"measure": "yes"}, "answer_and_end")):
        with pytest.raises(InputError, match=said):
            Judge(judge.model, judge.processor, **wrong)
    processor = AutoProcessor.from_pretrained(folder)
    processor.chat_template = None
    with pytest.raises(InputError, match="without a chat template"):
        Judge(judge.model, processor)


def test_the_default_question_is_the_original_one():
    assert JudgeSettings.question == 'Does this figure show "{}"? Please answer yes or no.'
    assert JudgeSettings.answer == "Yes"


def test_images_of_one_prompt_are_drawn_together():
    def items(images):
        return [
            {"id": f"{prompt}/{i}", "prompt_id": f"{prompt}", "score": prompt % 7 / 7, "skills": [], "group": "basic"}
            for prompt in range(40)
            for i in range(images)
        ]

    one, four = (vqa_score_report(items(images))["all"]["ci95"] for images in (1, 4))
    assert four == pytest.approx(one)


def test_the_interval_of_an_agreement_is_fishers():
    rng = np.random.default_rng(0)
    ratings = rng.integers(1, 6, 50)  # (I,)
    noise = rng.normal(0, 0.2, 50)  # (I,)
    found = rating_agreement([{"score": 0.1 * one + error, "rating": int(one)} for one, error in zip(ratings, noise)])
    ends = np.arctanh(found["pearson"]) + np.array([-1, 1]) * 1.96 / np.sqrt(47)  # (2,)
    assert found["ci95"] == pytest.approx(np.tanh(ends), abs=1e-4)
