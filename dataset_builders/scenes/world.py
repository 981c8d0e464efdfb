"""The everyday world as data: the synthetic TED-6K, caption pairs to learn from, and hard negatives.

    records = list(synthetic_ted())                          # 6,641 instances in TED-6K's composition
    records = list(synthetic_ted(600, difficulty="lexical"))
    pairs = world_pairs(1000, hard_negatives=2)              # streamed; any number

Benchmark and pairs never share a scene: a scene belongs to one of them by its content, whatever its name.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from granted.dataset_builders.caption_pairs.pairs import CaptionPair
from granted.dataset_builders.scenes.everyday.captions import WORDS, Caption, write_caption
from granted.dataset_builders.scenes.everyday.sampling import sample_scene
from granted.dataset_builders.scenes.everyday.statements import EverydayAsker
from granted.dataset_builders.scenes.scene import Scene
from granted.dataset_builders.scenes.statements import DIFFICULTIES, Question, ask
from granted.dataset_builders.ted_6k.records import (
    MEDIA,
    OFFICIAL_COUNTS,
    OFFICIAL_INSTANCES,
    SYNTHETIC,
    TedRecord,
    snake_case,
)
from granted.utils.errors import InputError


PER_CAPTION = 4
SPLITS = ("benchmark", "training")
ATTEMPTS = 200


def split_of(scene: Scene) -> str:
    """`"benchmark"` or `"training"`: where a scene belongs, decided by its content."""
    return SPLITS[int(scene.fingerprint()[-1], 16) % 2]


def described_scene(
    name: str, split: str, media: str, categories: tuple[str, ...], tellings: tuple[str, ...], words: tuple[int, int]
) -> tuple[Scene, list[Caption]]:
    """The first scene of this name that belongs to the split and whose captions keep to the number of words.

    Args:
        name, media, categories: as in `sample_scene`.
        split (`str`): one of `SPLITS`.
        tellings (`tuple[str, ...]`): the seeds of the captions, one for each.
        words (`tuple[int, int]`): the fewest and the most of each caption.

    Raises:
        InputError: no scene is found, because the most is too little.
    """
    for attempt in range(ATTEMPTS):
        scene = sample_scene(f"{name}/{attempt}", media, categories)
        if split_of(scene) != split:
            continue
        captions = [write_caption(scene, telling, words) for telling in tellings]
        if all(words[0] <= len(caption.text.split()) <= words[1] for caption in captions):
            return scene, captions
    raise InputError(
        f"got no scene about {' and '.join(categories)} in {words[0]} to {words[1]} words, expected one "
        f"among {ATTEMPTS}: widen the range or ask for fewer categories"
    )


def plan(instances: int, rng: random.Random, per_caption: int = PER_CAPTION) -> list[tuple[str, tuple[str, ...]]]:
    """For each caption its medium and the categories asked about it, in TED-6K's composition.

    Args:
        instances (`int`): how many in all; counts are scaled and rounded by largest remainder.
        rng (`random.Random`): decides ties and the order.
        per_caption (`int`, defaults to 4): about how many categories a caption has.
    """
    cells = [(category, i) for category in OFFICIAL_COUNTS for i in range(len(MEDIA)) if OFFICIAL_COUNTS[category][i]]
    exact = {cell: OFFICIAL_COUNTS[cell[0]][cell[1]] * instances / OFFICIAL_INSTANCES for cell in cells}
    counts = {cell: int(share) for cell, share in exact.items()}
    by_remainder = sorted(cells, key=lambda cell: counts[cell] - exact[cell])
    for cell in by_remainder[: instances - sum(counts.values())]:
        counts[cell] += 1
    captions = []
    for i, media in enumerate(MEDIA):
        left = {category: counts[category, i] for category, index in cells if index == i}
        # As many captions as the commonest category needs, if not more.
        for remaining in range(max(-(-sum(left.values()) // per_caption), *left.values()), 0, -1):
            size = -(-sum(left.values()) // remaining)
            # Those of which most are left come first, so that the counts come out exactly.
            chosen = sorted(left, key=lambda category: (-left[category], rng.random()))[:size]
            chosen = [category for category in chosen if left[category]]
            for category in chosen:
                left[category] -= 1
            captions.append((media, tuple(chosen)))
    rng.shuffle(captions)
    return captions


def synthetic_ted(
    instances: int = OFFICIAL_INSTANCES,
    *,
    seed: int = 0,
    difficulty: str = "compositional",
    per_caption: int = PER_CAPTION,
    words: tuple[int, int] = WORDS,
) -> Iterator[TedRecord]:
    """A benchmark in the layout and composition of TED-6K whose truth is known by construction.

    Args:
        instances (`int`, defaults to 6641): how many.
        seed (`int`, defaults to 0): another seed, another benchmark.
        difficulty (`str`, defaults to `"compositional"`): `"compositional"` or `"lexical"` negatives.
        per_caption (`int`, defaults to 4): about how many questions share a caption; with 1, captions can be short.
        words (`tuple[int, int]`, defaults to `(150, 250)`): the fewest and the most words of a caption.

    Raises:
        InputError: a number is out of its range, the difficulty is none, or no scene can be described in so few words.
    """
    questions = synthetic_questions(instances, seed=seed, difficulty=difficulty, per_caption=per_caption, words=words)
    for record, _, _ in questions:
        yield record


def synthetic_questions(
    instances: int = OFFICIAL_INSTANCES,
    *,
    seed: int = 0,
    difficulty: str = "compositional",
    per_caption: int = PER_CAPTION,
    words: tuple[int, int] = WORDS,
) -> Iterator[tuple[TedRecord, Scene, Question]]:
    """As `synthetic_ted`, each record with the scene and the claims behind it.

    Args:
        instances, seed, difficulty, per_caption, words: as of [`synthetic_ted`].
    """
    if instances < 1:
        raise InputError(f"got {instances} instances, expected at least 1: give a number")
    if difficulty not in DIFFICULTIES:
        raise InputError(f"got difficulty {difficulty!r}, expected one of {', '.join(DIFFICULTIES)}")
    _check_length(per_caption, words)
    for number, (media, categories) in enumerate(plan(instances, random.Random(f"ted/{seed}"), per_caption)):
        name = f"ted/{seed}/{number}"
        scene, (caption,) = described_scene(name, "benchmark", media, categories, ("caption",), words)
        for category in categories:
            rng = random.Random(f"{name}/{category}/{difficulty}")
            question = ask(EverydayAsker(caption, rng), category, difficulty)
            order = rng.sample(range(len(question.options)), len(question.options))
            source = f"{SYNTHETIC} {difficulty}"
            yield as_record(name, media, caption.text, category, question, order, source), scene, question


def _check_length(categories: int, words: tuple[int, int]) -> None:
    if not 1 <= categories <= PER_CAPTION or not 0 < words[0] <= words[1]:
        raise InputError(
            f"got captions of {categories} categories and {words[0]} to {words[1]} words, expected 1 to {PER_CAPTION} "
            "and a range of at least 1 word"
        )


def as_record(
    name: str, media: str, caption: str, category: str, question: Question, order: list[int], source: str
) -> TedRecord:
    """The TED record of a question, its options in the given order.

    Args:
        name (`str`): the id of the caption.
        media, caption, category (`str`): as in the record.
        question (`Question`): with the true statement first.
        order (`list[int]`): which statement stands at each place.
        source (`str`): how it was made.
    """
    return TedRecord(
        id=f"{name}/{snake_case(category)}",
        caption_id=name,
        caption=caption,
        media=media,
        category=category,
        question=question.text,
        statements=[question.options[i][0] for i in order],
        label=order.index(0),
        source=source,
    )


def world_pairs(
    count: int,
    *,
    seed: int = 0,
    hard_negatives: int = 0,
    categories: int = PER_CAPTION,
    words: tuple[int, int] = WORDS,
) -> Iterator[CaptionPair]:
    """Stream pairs of captions of one scene, in different words.

    Args:
        count (`int`): how many.
        seed (`int`, defaults to 0): another seed, other scenes. None is a scene of any synthetic benchmark.
        hard_negatives (`int`, defaults to 0): captions added to each pair that differ from its second caption in one
            fact: two values of one table are swapped.
        categories (`int`, defaults to 4): how many of TED's categories a scene has something to say about; fewer give
            shorter captions.
        words (`tuple[int, int]`, defaults to `(150, 250)`): the fewest and the most words of a caption.

    Raises:
        InputError: a number is out of its range, or no scene can be described in so few words.
    """
    if count < 1 or hard_negatives < 0:
        raise InputError(f"got {count} pairs and {hard_negatives} hard negatives, expected at least 1 and 0")
    _check_length(categories, words)
    shares = {media: [OFFICIAL_COUNTS[category][i] for category in OFFICIAL_COUNTS] for i, media in enumerate(MEDIA)}
    for number in range(count):
        name = f"pairs/{seed}/{number}"
        rng = random.Random(name)
        media = rng.choices(MEDIA, [sum(shares[media]) for media in MEDIA])[0]
        chosen: dict[str, None] = {}
        while len(chosen) < categories:
            chosen[rng.choices(list(OFFICIAL_COUNTS), shares[media])[0]] = None
        scene, (one, other) = described_scene(name, "training", media, tuple(chosen), ("a", "b"), words)
        pair = CaptionPair(
            id=name,
            media=media,
            caption_a=one.text,
            caption_b=other.text,
            source="scenes",
        )
        if hard_negatives:
            changed = (with_one_fact_changed(scene, rng) for _ in range(hard_negatives))
            pair["negatives"] = [write_caption(wrong, "b", words).text for wrong in changed]
        yield pair


def with_one_fact_changed(scene: Scene, rng: random.Random) -> Scene:
    """The same scene with two values of one table swapped: two scarves' colours, two events' turns."""
    relation, subjects = rng.choice(list(scene.tables.values()))
    one, other = rng.sample(subjects, 2)
    swap = {one: other, other: one}
    orders = scene.orders
    if relation in orders:
        orders = orders | {relation: tuple(swap.get(member, member) for member in orders[relation])}
    values = scene.facts[relation]
    swapped = {subject: values[swap.get(subject, subject)] for subject in values}
    return replace(scene, orders=orders, facts=scene.facts | {relation: swapped})
