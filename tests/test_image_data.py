"""Captioned images as batches: shapes, order, rows that cannot be used, streams that go on."""

import json
from itertools import islice

import datasets
import pytest
import torch
from PIL import Image as PILImage

from granted.training.diffusion.data import CaptionedImages, StreamedImages, bucket_shapes, load_rows, to_pixels
from granted.utils.errors import InputError


SIZES = ((16, 16), (32, 16), (16, 32), (31, 16))  # width, height
SHAPES = [(16, 16), (12, 24), (24, 12)]  # height, width


@pytest.fixture(scope="module")
def mixed(write_images, tmp_path_factory) -> str:
    """40 images of three shapes."""
    return write_images(tmp_path_factory.mktemp("mixed") / "images.parquet", count=40, sizes=SIZES)


def read(path: str, streaming: bool = False):
    return load_rows(path, "train", "image", ["caption", "short"], streaming)


def new(path: str, **changes) -> CaptionedImages:
    return CaptionedImages(read(path), "image", ["caption", "short"], **{"buckets": SHAPES, "batch_size": 4} | changes)


def stream(path: str, **changes) -> StreamedImages:
    options = {"buckets": SHAPES, "batch_size": 4, "window": 16} | changes
    return StreamedImages(read(path, streaming=True), "image", ["caption", "short"], **options)


def test_an_image_of_the_right_size_is_not_changed_and_others_are_cut_in_the_middle():
    image = PILImage.effect_noise((6, 4), 80).convert("RGB")
    pixels = to_pixels(image, (4, 6))
    assert pixels.shape == (3, 4, 6)
    restored = pixels.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy().tobytes()
    assert restored == image.tobytes()
    striped = PILImage.new("RGB", (12, 4), "white")
    striped.paste("black", (4, 0, 8, 4))
    assert to_pixels(striped, (4, 4)).eq(-1).all()  # the black square in the middle


def test_buckets_are_the_square_or_shapes_of_its_area():
    assert bucket_shapes(32, 4, several=False) == [(32, 32)]
    shapes = bucket_shapes(64, 8, several=True)
    assert (64, 64) in shapes and len(shapes) > 5
    assert all(h % 8 == w % 8 == 0 and 0.7 < h * w / 64**2 < 1.3 for h, w in shapes)
    with pytest.raises(InputError, match="resolution 36, expected a multiple of 8"):
        bucket_shapes(36, 8, several=True)


def test_a_batch_has_one_shape_and_an_epoch_every_image_at_most_once(mixed):
    images = new(mixed)
    counts = {shape: sum(own == shape for own in images.bucket.values()) for shape in SHAPES}
    assert counts == {(16, 16): 10, (12, 24): 20, (24, 12): 10}  # 31 x 16 goes with 32 x 16
    epoch = list(islice(images.order(0), 9))  # 2 + 5 + 2 whole batches
    assert all(len({images.bucket[row] for row in rows}) == 1 for rows in epoch)
    rows = [row for batch in epoch for row in batch]
    assert len(rows) == len(set(rows)) == 36
    second = list(islice(images.order(9), 9))
    assert sorted(map(sorted, second)) != sorted(map(sorted, epoch))
    left_out = set(range(40)) - set(rows) - {row for batch in second for row in batch}
    assert len(left_out) < 4  # other ones are left out in another epoch
    shapes = {tuple(batch.samples.shape[2:]) for batch in islice(images.batches(0, [slice(0, 4)]), 9)}
    assert shapes == set(SHAPES)


def test_a_step_is_the_same_however_it_is_reached(mixed):
    images = new(mixed)
    whole = list(islice(images.order(0), 30))
    for first in (1, 8, 9, 17):
        assert list(islice(images.order(first), 30 - first)) == whole[first:]
    assert list(islice(new(mixed, seed=1).order(0), 9)) != whole[:9]


def test_shares_of_a_step_are_its_batch(mixed):
    images = new(mixed)
    whole = list(islice(images.batches(3, [slice(0, 4)]), 2))
    parts = list(islice(images.batches(3, [slice(0, 2), slice(2, 4)]), 4))
    assert [part.rows for part in parts] == [rows for batch in whole for rows in (batch.rows[:2], batch.rows[2:])]
    assert torch.equal(torch.cat([part.samples for part in parts[:2]]), whole[0].samples)


def test_reading_ahead_changes_nothing(mixed):
    one, other = (list(islice(new(mixed, workers=workers).batches(2, [slice(0, 4)]), 5)) for workers in (0, 1))
    assert [batch.rows for batch in one] == [batch.rows for batch in other]
    assert all(torch.equal(a.samples, b.samples) for a, b in zip(one, other))


def test_a_shape_with_too_few_images_joins_the_nearest(mixed):
    images = new(mixed, batch_size=12)
    assert set(images.bucket.values()) < set(SHAPES) and len(images.bucket) == 40
    with pytest.raises(InputError, match="got 40 images, expected at least one batch of 41"):
        new(mixed, batch_size=41)


def test_captions_of_a_row_are_those_it_has(mixed):
    batch = next(new(mixed).batches(0, [slice(0, 4)]))
    for row, captions in zip(batch.rows, batch.captions):
        assert len(captions) == (2 if row % 2 else 1), row
        assert captions[0].endswith(f" {row}")
    assert len(list(new(mixed).captions())) == 60


def test_rows_that_cannot_be_used_are_named_and_counted_and_left_out_if_asked(write_images, tmp_path):
    path = write_images(tmp_path / "images.parquet", count=12, broken=(3, 8))
    with pytest.raises(InputError, match=r"got 2 of 12 rows that cannot be used \(row 3: .*; row 8: "):
        new(path, buckets=[(16, 16)])
    images = new(path, buckets=[(16, 16)], skip_broken=True)
    assert sorted(images.broken) == [3, 8]
    rows = {row for batch in islice(images.order(0), 20) for row in batch}
    assert rows == set(range(12)) - {3, 8}

    with pytest.raises(InputError, match="got a row of the stream that cannot be used"):
        list(islice(stream(path, buckets=[(16, 16)]).batches(), 3))
    streamed = stream(path, buckets=[(16, 16)], skip_broken=True)
    with pytest.warns(UserWarning, match="left out a row of the stream: "):
        whole = {captions[0] for batch in islice(streamed.batches(), 20) for captions in batch.captions}
    assert sorted(int(caption.split()[-1]) for caption in whole) == sorted(rows)


def test_a_row_without_a_caption_cannot_be_used(write_images, tmp_path):
    path = write_images(tmp_path / "images.parquet")
    with pytest.raises(InputError, match=r"5 of 10 rows.*row 0: no caption"):
        CaptionedImages(
            load_rows(path, "train", "image", ["short"], False), "image", ["short"], buckets=[(16, 16)], batch_size=2
        )


def write_rows(folder, *rows: dict) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


@pytest.mark.parametrize("name", ["plain", "a[1]*?,b=c"])
def test_relative_paths_begin_in_the_folder_of_the_rows_whatever_its_name(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    (tmp_path / "a1").mkdir()  # what the name would mean as a pattern
    PILImage.new("RGB", (16, 16), "white").save(tmp_path / name / "0.png")
    source = write_rows(tmp_path / name, *[{"image": "0.png", "caption": "white"}] * 2)
    monkeypatch.chdir("/")
    options = {"buckets": [(16, 16)], "batch_size": 2}
    for read in (
        CaptionedImages(load_rows(source, "train", "image", ["caption"], False), "image", ["caption"], **options),
        StreamedImages(load_rows(source, "train", "image", ["caption"], True), "image", ["caption"], **options),
    ):
        whole = read.batches(0, [slice(0, 2)]) if isinstance(read, CaptionedImages) else read.batches()
        assert next(whole).samples.eq(1).all()


def test_images_that_change_in_their_place_are_looked_at_again(tmp_path):
    source = write_rows(tmp_path, *[{"image": "0.png", "caption": "it"}] * 2)

    def seen() -> tuple[int, str]:
        rows = load_rows(source, "train", "image", ["caption"], False)
        images = CaptionedImages(rows, "image", ["caption"], buckets=[(16, 16)], batch_size=2)
        return images[0][0].max().item(), images.latents_key(0)

    (tmp_path / "0.png").write_bytes(b"half an image")
    with pytest.raises(InputError, match="2 of 2 rows that cannot be used"):
        seen()
    found = []
    for colour in ("white", "black"):
        PILImage.new("RGB", (16, 16), colour).save(tmp_path / "0.png")
        found.append(seen())
    assert [brightest for brightest, _ in found] == [1, -1]
    assert found[0][1] != found[1][1], "latents of the earlier image would be taken"


@pytest.mark.parametrize("files", [1, 3])
def test_a_stream_goes_on_where_it_stood(mixed, write_images, tmp_path, monkeypatch, files):
    # Whenever a stream of several files is closed, datasets waits five seconds for the threads of pyarrow.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    if files > 1:
        parts = [write_images(tmp_path / f"{i}.parquet", count=14, sizes=SIZES) for i in range(files)]
        mixed = ",".join(parts)
    whole = list(islice(stream(mixed).batches(), 20))  # more than an epoch
    assert all(len(batch.captions) == 4 for batch in whole)
    assert len({batch.state["epoch"] for batch in whole}) > 1
    assert len({tuple(batch.samples.shape) for batch in whole}) == 3
    for stop in (0, 4, 11):
        again = list(islice(stream(mixed).batches(whole[stop].state), 19 - stop))
        assert [batch.captions for batch in again] == [batch.captions for batch in whole[stop + 1 :]], stop
        once_more = list(islice(stream(mixed).batches(again[2].state), 16 - stop))
        assert [batch.captions for batch in once_more] == [batch.captions for batch in whole[stop + 4 :]], stop


def test_processes_share_a_stream(mixed):
    def first_epoch(rank: int, processes: int) -> set[str]:
        own = stream(mixed, rank=rank, processes=processes, buckets=[(16, 16)], batch_size=2)
        found = set()
        for batch in own.batches():
            if batch.state["epoch"]:
                return found
            found |= {captions[0] for captions in batch.captions}

    one, other = first_epoch(0, 2), first_epoch(1, 2)
    assert not one & other and one | other == first_epoch(0, 1) and len(one) == 20


def test_a_stream_without_a_batch_is_refused(mixed):
    with pytest.raises(InputError, match="without a whole batch of 30"):
        next(stream(mixed, batch_size=30, window=40).batches())
    with pytest.raises(InputError, match="stream_window=16, expected at least a batch of 30"):
        stream(mixed, batch_size=30)


def test_a_stream_none_of_whose_windows_holds_a_batch_is_refused(write_images, tmp_path):
    path = write_images(tmp_path / "images.parquet", count=4, sizes=((64, 32), (32, 64)))
    seen = []

    def count(row: dict) -> dict:
        seen.append(row["caption"])
        assert len(seen) <= 4, "a stream without a batch is read again and again"
        return row

    options = {"buckets": [(64, 32), (32, 64)], "batch_size": 2}
    rows = read(path, streaming=True).map(count)
    with pytest.raises(InputError, match=r"without a whole batch of 2 .* or raise stream_window"):
        next(StreamedImages(rows, "image", ["caption"], window=2, **options).batches())
    assert next(stream(path, window=4, **options).batches()).samples.shape[0] == 2
