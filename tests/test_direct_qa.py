"""Language models that answer TED directly: an oracle trained here, random weights, prompts and letters."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3VLForConditionalGeneration,
)

from granted import cli
from granted.dataset_builders.ted_6k.records import caption_text, fingerprint, validate_records
from granted.encoding.loading import LoadingOptions, load_language_model
from granted.eval_metric.direct_qa.answering import Answerer, with_exact_head
from granted.eval_metric.direct_qa.evaluation import Asked, evaluate, markdown, sentences
from granted.eval_metric.direct_qa.prompts import LETTERS, PromptForm, other_captions, question_text, read_letter
from granted.eval_metric.overview.collection import collect
from granted.eval_metric.report import html_report, markdown_table, table_rows
from granted.eval_metric.results import load_all
from granted.eval_metric.seed_groups import best_of_encoders, group_seeds, within_encoders
from granted.examples.miniature.model import miniature_config, miniature_processor, miniature_tokenizer
from granted.tests.ted_results import RECORDS as OTHER_RECORDS
from granted.tests.ted_results import make
from granted.utils.errors import InputError
from granted.utils.files import read_json


COLOURS = ("red", "blue", "green", "black")
THINGS = ("cube", "ball", "door", "dog")
ORDERS = list(itertools.permutations(COLOURS))
CHAT = (
    "{% for m in messages %}{{ '<' + m.role + '>\n' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def instance(thing, colour, order, category="OCR", media="image"):
    """Which colour a thing has, by its caption."""
    return {
        "id": f"{thing}_{colour}/{category.lower()}",
        "caption_id": f"{thing}_{colour}",
        "caption": f"the {thing} is {colour}",
        "media": media,
        "category": category,
        "question": "",
        "statements": [f"it is {one}" for one in order],
        "label": order.index(colour),
        "source": "test",
    }


def make_records():
    """Of each thing and colour two instances, the options in any order."""
    pairs = itertools.product(THINGS, COLOURS, ("OCR", "Adjective"))
    return [instance(*one[:2], ORDERS[7 * i % 24], one[2]) for i, one in enumerate(pairs)]


RECORDS = make_records()
validate_records(RECORDS)
INFO = {"config": "custom", "fingerprint": fingerprint(RECORDS)}


def line_tokenizer(chat_template=None):
    """Every line of a prompt is a token."""
    shown = [instance(*one) for one in itertools.product(THINGS, COLOURS, ORDERS)]
    lines = {line for one in shown for line in question_text(one, caption_text(one)).split("\n")}
    words = ["[PAD]", "[UNK]", "[EOS]", *sorted(lines - {""}), "Answer:", "<user>", "<assistant>"]
    words += [f" {letter}" for letter in LETTERS] + list(LETTERS)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    split = (
        pre_tokenizers.Split("\n", "removed"),
        pre_tokenizers.Split(Regex("(?<=^Answer:|<assistant>)"), "isolated"),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(split))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        eos_token="[EOS]",
        chat_template=chat_template,
    )


def new_model(tokenizer, **options):
    torch.manual_seed(0)
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    return LlamaForCausalLM(
        LlamaConfig(**small | ends | {"max_position_embeddings": 64} | options, vocab_size=len(tokenizer))
    )


@pytest.fixture(scope="module")
def tokenizer():
    return line_tokenizer()


@pytest.fixture(scope="module")
def oracle_folder(tokenizer, tmp_path_factory):
    """A model that has learned to find the option which its caption states, and to stop after the letter."""
    folder, form, model = tmp_path_factory.mktemp("oracle") / "model", PromptForm.of(tokenizer), new_model(tokenizer)
    asked = [instance(*one) for one in itertools.product(THINGS, COLOURS, ORDERS)]
    letters = torch.tensor([form.letters[record["label"]] for record in asked])  # (n,)
    prompts = torch.tensor([form.token_ids(question_text(record, caption_text(record))) for record in asked])
    ends = torch.full_like(letters, tokenizer.eos_token_id)
    inputs = torch.cat([prompts, letters[:, None]], 1)  # (n, N + 1)
    wanted = torch.stack([letters, ends], 1)  # (n, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    for _ in range(600):
        batch = torch.randint(len(inputs), (128,))
        logits = model(input_ids=inputs[batch], logits_to_keep=2).logits  # (128, 2, V)
        loss = F.cross_entropy(logits.transpose(1, 2), wanted[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.02:
            break
    assert loss.item() < 0.02, "the oracle has learned"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def random_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("random") / "model"
    new_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def answered(oracle_folder, random_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("answered")
    found = evaluate([f"oracle={oracle_folder}", f"random={random_folder}"], RECORDS, INFO, output)
    return output, {(row["model"], row["context"], row["answers"]): row for row in found["rows"]}, found


# ----------------------------------------------------------------------------------------------- prompts and letters


def test_a_question_has_its_caption_its_options_and_nothing_else():
    record = instance("cube", "blue", COLOURS) | {"question": "Which colour?"}
    assert question_text(record, caption_text(record)) == (
        "Caption Type: image\nCaption: the cube is blue\n\nQuestion: Which colour?\nA. it is red\nB. it is blue\n"
        "C. it is green\nD. it is black\nAnswer with the letter of the true statement alone."
    )
    turned = question_text(record | {"question": " "}, None, rotation=1)
    assert turned.split("\n")[:4] == ["A. it is blue", "B. it is green", "C. it is black", "D. it is red"]
    assert "cube" not in turned and "Question" not in turned


def test_shuffled_captions_are_all_used_and_none_is_ones_own():
    records = [record | {"media": "video" if "dog" in record["id"] else "image"} for record in RECORDS]
    own = [caption_text(record) for record in records]
    for seed in range(5):
        other = other_captions(records, seed)
        assert sorted(other) == sorted(own)
        assert not any(one == two for one, two in zip(own, other))
        assert all(one.split("\n")[0] == two.split("\n")[0] for one, two in zip(own, other)), "of the same medium"
        assert other == other_captions(records[::-1], seed)[::-1]
    assert other_captions(records, 0) != other_captions(records, 1)


def test_a_single_video_gets_the_caption_of_an_image_and_a_single_caption_is_refused():
    records = [instance("dog", "red", COLOURS, media="video"), *RECORDS[:4]]
    other = other_captions(records, 0)
    assert set(other) == set(map(caption_text, records)) and "image" in other[0]
    assert not any(one == caption_text(record) for one, record in zip(other, records))
    with pytest.raises(InputError, match="one caption, expected two or more"):
        other_captions(RECORDS[:2], 0)


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        (" B\n\nQuestion: more", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B. it is blue", "B"),
        ("B) it is", "B"),
        ("B: it is", "B"),
        ("D.", "D"),
        ("E", None),  # no such option
        ("b", None),
        ("", None),
        ("A cube", None),
        ("AB", None),
        ("The answer is B", None),
        ("B or C", None),
        ("B.5", None),
    ],
)
def test_a_letter_is_read_strictly(said, letter):
    assert read_letter(said, 4) == letter


def test_a_plain_prompt_ends_in_answer_and_its_letters_have_the_space_before_them(tokenizer):
    form = PromptForm.of(tokenizer)
    assert form.kind == "plain" and form.written("Why?") == "Why?\nAnswer:"
    assert tokenizer.convert_ids_to_tokens(form.letters) == [f" {letter}" for letter in LETTERS]


@pytest.mark.parametrize("content", ["m.content", "(m.content | map(attribute='text') | join)"])
def test_a_chat_template_is_used_whether_it_takes_texts_or_parts(content):
    template = CHAT.replace("m.content", content)
    form = PromptForm.of(line_tokenizer(template))
    assert form.kind == "chat" and form.parts == ("map" in content)
    assert form.written("Why?") == "<user>\nWhy?\n<assistant>"
    assert form.tokenizer.convert_ids_to_tokens(form.letters) == list(LETTERS)


def test_tokenizers_that_cannot_name_a_letter_or_ask_the_question_are_refused(make_tokenizer):
    with pytest.raises(InputError, match="'A' behind a prompt is not one token of its own"):
        PromptForm.of(make_tokenizer("[BOS]", None))  # knows no letters
    with pytest.raises(InputError, match="'A' behind a prompt is not one token of its own"):
        PromptForm.of(make_tokenizer("[CLS]", "[SEP]"))  # closes a text
    with pytest.raises(InputError, match="leaves out what the user says"):
        PromptForm.of(line_tokenizer("<user>\n<assistant>"))
    with pytest.raises(InputError, match="think before it answers"):
        PromptForm.of(line_tokenizer(CHAT.replace("<assistant>", "<assistant><think>\n")))


# -------------------------------------------------------------------------------------------------------- answering


@torch.no_grad()
def test_answers_are_those_of_prompts_asked_one_by_one(oracle_folder, tokenizer, tmp_path):
    _, model, _ = load_language_model(oracle_folder)
    form = PromptForm.of(tokenizer)
    questions = [question_text(record, caption_text(record) if i % 2 else None) for i, record in enumerate(RECORDS)]
    answers = Answerer(model, form).answers(questions, tmp_path, new_tokens=3)
    for question, log_probs, said in zip(questions, answers.log_probs, answers.said):
        ids = form.token_ids(question)
        plain = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)  # (V,)
        torch.testing.assert_close(log_probs, plain[form.letters], atol=1e-4, rtol=1e-4)
        written = []
        for _ in range(3):
            token = int(model(torch.tensor([ids + written])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            written.append(token)
        assert said == tokenizer.decode(written, skip_special_tokens=True)
    assert answers.said[1] == f" {LETTERS[RECORDS[1]['label']]}", "it stops where the model ends its answer"
    assert answers.tokens == sum(len(form.token_ids(question)) for question in set(questions))


@torch.no_grad()
def test_letters_are_told_apart_in_fp32_where_the_model_runs_in_bfloat16(random_folder, tokenizer, tmp_path):
    _, model, _ = load_language_model(random_folder, LoadingOptions(dtype="bfloat16"))
    form, question = PromptForm.of(tokenizer), question_text(RECORDS[0], None)
    weight = model.lm_head.weight.float()  # (V, D)
    hidden = model.model(torch.tensor([form.token_ids(question)])).last_hidden_state[0, -1].float()  # (D,)
    answers = Answerer(with_exact_head(model), form).answers([question], tmp_path, new_tokens=1)
    expected = (weight @ hidden).log_softmax(-1)[form.letters]
    torch.testing.assert_close(answers.log_probs[0], expected, atol=1e-6, rtol=1e-6)
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16


def test_a_killed_run_goes_on_and_repeats_nothing(oracle_folder, tokenizer, tmp_path):
    answerer = Answerer(load_language_model(oracle_folder)[1], PromptForm.of(tokenizer))
    questions = [question_text(record, caption_text(record)) for record in RECORDS]
    whole = answerer.answers(questions, tmp_path, new_tokens=2, token_budget=80)
    shards = sorted(tmp_path.rglob("*.safetensors"))
    assert len(shards) > 3
    shards[0].unlink()
    kept = {path: path.stat().st_mtime_ns for path in shards[1:]}
    again = answerer.answers(questions, tmp_path, new_tokens=2, token_budget=80)
    assert {path: path.stat().st_mtime_ns for path in shards[1:]} == kept
    torch.testing.assert_close(again.log_probs, whole.log_probs)
    assert again.said == whole.said


def test_a_prompt_longer_than_the_model_reads_is_refused(tokenizer, tmp_path):
    answerer = Answerer(new_model(tokenizer, max_position_embeddings=9).eval(), PromptForm.of(tokenizer))
    questions = [question_text(record, caption_text(record)) for record in RECORDS]
    answerer.answers(questions[:1], tmp_path, new_tokens=1)
    with pytest.raises(InputError, match=r"got 32 questions that are longer than the 9 tokens.*longest of 8 tokens"):
        answerer.answers(questions, tmp_path, new_tokens=2)


def test_nothing_but_the_end_of_a_text_is_kept_of_a_checkpoints_way_to_generate(random_folder, tmp_path, tokenizer):
    model = new_model(tokenizer)
    model.generation_config = GenerationConfig(repetition_penalty=9.0, do_sample=True, top_k=3, eos_token_id=[2, 5])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    name, loaded, _ = load_language_model(f"it={tmp_path}")
    assert name == "it" and not loaded.training
    assert loaded.generation_config.eos_token_id == [2, 5]
    assert loaded.generation_config.repetition_penalty in (None, 1.0) and not loaded.generation_config.do_sample


def test_a_model_without_a_head_is_refused(tiny_encoder_folder):
    with pytest.raises(InputError, match="lm_head"):
        load_language_model(tiny_encoder_folder)


def test_a_multimodal_model_answers_without_an_image(tmp_path):
    tokenizer = miniature_tokenizer(500, 20)
    config = miniature_config(tokenizer)
    config.text_config.update({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3})
    config.vision_config.update({"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64})
    Qwen3VLForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    miniature_processor(tokenizer).save_pretrained(tmp_path / "model")
    _, model, tokenizer = load_language_model(str(tmp_path / "model"))
    form = PromptForm.of(tokenizer)
    assert form.kind == "chat"
    questions = [question_text(record, caption_text(record)) for record in RECORDS[:3]]
    answers = Answerer(model, form).answers([*questions, questions[0]], tmp_path / "cache", new_tokens=2)
    assert answers.log_probs.shape == (4, len(LETTERS)) and (answers.log_probs < 0).all()
    assert torch.equal(answers.log_probs[0], answers.log_probs[3])


# ------------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def test_a_statement_scores_the_mean_log_probability_of_its_letter_over_all_rotations(
    random_folder, tokenizer, tmp_path
):
    answerer = Answerer(load_language_model(random_folder)[1], PromptForm.of(tokenizer))
    records = [RECORDS[0], RECORDS[1] | {"statements": RECORDS[1]["statements"][:3], "label": 1}]
    items, work, seen = Asked(answerer, records, [None, None], tmp_path, "").likelihood()
    assert work["texts"] == 4 + 3
    likeliest = []
    for record, item in zip(records, items):
        total, count = {}, len(record["statements"])
        for turn in range(count):
            turned = record["statements"][turn:] + record["statements"][:turn]
            asked = record | {"statements": turned}
            ids = torch.tensor([answerer.form.token_ids(question_text(asked, None))])
            log_probs = answerer.model(ids).logits[0, -1].log_softmax(-1)[answerer.form.letters]  # (8,)
            likeliest.append(LETTERS[int(log_probs[:count].argmax())])
            for statement, value in zip(turned, log_probs.tolist()):
                total[statement] = total.get(statement, 0) + value / count
        assert item["scores"] == pytest.approx([total[one] for one in record["statements"]], abs=1e-4)
    assert seen["letters"] == {one: likeliest.count(one) / 7 for one in LETTERS[: LETTERS.index(max(likeliest)) + 1]}


def test_an_oracle_needs_the_caption_and_random_weights_are_at_chance(answered):
    _, rows, found = answered
    for way in ("likelihood", "generation"):
        assert rows["oracle", "caption", way]["accuracy"] == 1
        low, high = rows["random", "caption", "likelihood"]["ci95"]
        assert low <= 0.25 <= high
    assert rows["oracle", "caption", "generation"]["no_letter"] == 0
    # With another caption it says what that one states.
    right = [
        [
            other.split()[-1] == record["caption"].split()[-1]
            for record, other in zip(RECORDS, other_captions(RECORDS, seed))
        ]
        for seed in range(5)
    ]
    for way in ("likelihood", "generation"):
        row = rows["oracle", "shuffled", way]
        assert row["seeds"] == 5 and row["accuracy"] == pytest.approx(sum(map(sum, right)) / 5 / len(RECORDS))
        assert rows["oracle", "none", way]["accuracy"] < 0.5
    assert found["baselines"]["chance"] == 0.25 and set(found["baselines"]) >= {"word_overlap", "statement_only"}
    assert rows["oracle", "caption", "likelihood"]["letters"] == pytest.approx(dict.fromkeys("ABCD", 0.25))
    added = {(one["model"], one["answers"], one["without"]): one for one in found["differences"]}
    assert added["oracle", "likelihood", "shuffled"]["p"] < 0.01
    assert added["oracle", "likelihood", "shuffled"]["ci95"][0] > 0.5
    doubtful = [line for line in sentences(found) if "not above chance" in line]
    assert doubtful and all(line.startswith("random") for line in doubtful)


def test_what_is_no_letter_is_counted_and_never_right(answered):
    output, rows, _ = answered
    result = next(
        one
        for one in load_all(output / "results")
        if (one.encoder, one.feature, one.pooling) == ("random", "none", "generation")
    )
    silent = [item for item in result.items if not any(item["scores"])]
    assert rows["random", "none", "generation"]["no_letter"] == len(silent) / len(RECORDS) > 0
    assert result.ties == len(silent)
    assert result.provenance["parameters"]["encoder"] == new_model(line_tokenizer()).num_parameters()


def test_running_again_changes_no_result_and_another_model_joins_the_table(
    answered, random_folder, oracle_folder, tmp_path
):
    output = tmp_path / "own"
    evaluate([f"a={random_folder}"], RECORDS, INFO, output, contexts=["none"], answers=["generation"])
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    evaluate([f"a={random_folder}"], RECORDS, INFO, output, contexts=["none"], answers=["generation"])
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    found = evaluate([f"b={random_folder}"], RECORDS, INFO, output, contexts=["none"], answers=["generation"])
    assert [row["model"] for row in found["rows"]] == ["a", "b"]
    assert (output / "direct_qa.md").read_text() == markdown(found)
    with pytest.raises(InputError, match=r"got b, whose answers in .* are of other weights .* name it otherwise"):
        evaluate([f"b={oracle_folder}"], RECORDS, INFO, output, contexts=["caption"], answers=["generation"])
    with pytest.raises(InputError, match="another benchmark"):
        evaluate([f"b={random_folder}"], RECORDS, INFO | {"fingerprint": "f00"}, output, contexts=["none"])


@pytest.mark.parametrize("wrong", [{"contexts": ["captions"]}, {"answers": []}, {"seeds": [1, 1]}])
def test_choices_that_there_are_not_are_refused(random_folder, tmp_path, wrong):
    with pytest.raises(InputError, match="expected"):
        evaluate([random_folder], RECORDS, INFO, tmp_path, **wrong)


def test_a_direct_answer_is_never_ranked_among_encoders(tmp_path):
    scored = [make("tiny", "last", quality=0.5), make("tiny", "last", seed=None, quality=0.1, pooling="mean")]
    direct = [make("tiny", "caption", seed=None, quality=9.0, pooling="likelihood")]
    groups = group_seeds([*scored, *direct])
    assert [one.direct for one in groups] == [True, False, False]
    assert groups[0].label == "tiny · caption · likelihood"
    assert best_of_encoders(groups)["tiny"].feature == "last"
    assert [[one.pooling for one in pair] for pair in within_encoders(groups)] == [["aggregator", "mean"]]
    rows = table_rows([*scored, *direct])
    assert [row.baseline for row in rows][:2] == [False, True] and rows[0].feature == "last"
    assert "*likelihood*" in markdown_table([*scored, *direct])
    html_report([*scored, *direct], OTHER_RECORDS, tmp_path / "page.html")
    for one in [*scored, *direct]:
        one.save(tmp_path / "mixed")
    direct[0].save(tmp_path / "direct")
    evaluations, apart = collect(tmp_path)
    assert [one.path for one in evaluations] == ["mixed"]
    assert set(evaluations[0].headline.by_arm) == {"tiny · last", "tiny · last · mean"}
    assert {path for path, reason in apart if "language models" in reason} == {"mixed", "direct"}


def test_the_command_prints_what_no_model_is_needed_for(oracle_folder, tmp_path, monkeypatch, capsys):
    words = (
        f"granted evaluate qa oracle={oracle_folder} --context none --answers generation --output {tmp_path}".split()
    )
    monkeypatch.setattr("sys.argv", words)
    cli.main()
    shown = capsys.readouterr().out
    assert "TED answered directly, sample, 101 instances" in shown
    baselines = read_json(tmp_path / "direct_qa.json")["baselines"]
    assert set(baselines) == {"chance", "word_overlap", "tfidf_cosine", "statement_only"}
    monkeypatch.setattr("sys.argv", [*words, "--seeds", "3"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "without shuffled captions" in capsys.readouterr().err
