"""What a model is shown of images and videos, and what curation measures on them."""

import base64
import io
import re

import av
import numpy as np
import PIL.Image
import pytest

from granted.dataset_builders.construction.media import frame_data_urls, image_data_url, kind_of, measure
from granted.dataset_builders.visual_vqa.rows import RowError
from granted.tests.tiny_media import noise, video


def shown(url: str) -> PIL.Image.Image:
    kind, content = re.fullmatch(r"data:image/(\w+);base64,([A-Za-z0-9+/]+=*)", url).groups()
    image = PIL.Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.format == kind.upper()
    return image


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_file_that_models_take_is_sent_byte_for_byte(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    noise(0, (40, 30)).save(path)
    assert base64.b64decode(image_data_url(path).partition(",")[2]) == path.read_bytes()


def test_what_models_may_misread_is_sent_upright_in_rgb_and_not_too_large(tmp_path):
    path = tmp_path / "a.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    noise(0, (40, 30)).save(path, exif=exif)
    assert shown(image_data_url(path)).size == (30, 40)
    clear = PIL.Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert shown(image_data_url(tmp_path / "clear.png")).getpixel((5, 5)) == (255, 255, 255)
    noise(0, (2000, 500)).save(tmp_path / "wide.png")
    assert shown(image_data_url(tmp_path / "wide.png")).size == (1536, 384)
    noise(0, (40, 30)).save(tmp_path / "a.bmp")
    assert shown(image_data_url(tmp_path / "a.bmp")).format == "JPEG"


def test_frames_are_those_seen_at_equal_distances_in_time(tmp_path):
    greys = [0, 40, 80, 120, 160, 200]
    path = tmp_path / "a.mp4"
    path.write_bytes(video([PIL.Image.new("RGB", (64, 48), (grey,) * 3) for grey in greys], fps=2))
    frames = [np.asarray(shown(url)).mean() for url in frame_data_urls(path, 3)]
    assert frames == pytest.approx([0, 80, 160], abs=3)
    assert len(frame_data_urls(path, 20)) == 6, "a video has no more frames than it has"


def test_what_a_file_is_does_not_depend_on_its_name():
    buffer = io.BytesIO()
    noise(0, (8, 8)).save(buffer, "JPEG")
    assert kind_of(buffer.getvalue()) == ("image", ".jpg")
    assert kind_of(video([noise(i) for i in range(3)])) == ("video", ".mp4")
    moving = io.BytesIO()
    noise(0).save(moving, "GIF", save_all=True, append_images=[noise(1)])
    assert kind_of(moving.getvalue()) == ("video", ".gif")
    sound = io.BytesIO()
    with av.open(sound, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    for content in (b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", sound.getvalue()):
        assert kind_of(content) is None


def test_an_image_is_measured():
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (40, 20), (10, 20, 30)).save(buffer, "PNG")
    found = measure(buffer.getvalue(), "image")
    assert (found.media, found.width, found.height, found.seconds, found.motion) == ("image", 40, 20, None, None)
    assert found.colours == [10, 20, 30] * 16 and len(found.hashes) == 1 and len(found.hashes[0]) == 16


def test_motion_is_the_mean_change_from_frame_to_frame():
    grey = [PIL.Image.new("RGB", (64, 64), (0 if i % 2 else 51,) * 3) for i in range(8)]
    found = measure(video(grey, fps=4), "video")
    assert found.motion == pytest.approx(0.2, abs=0.01) and found.seconds == pytest.approx(2.0)
    assert len(found.hashes) == 8
    still = measure(video([noise(0, (64, 64))] * 8), "video").motion
    moved = measure(video([noise(0, (64, 64)).rotate(3 * i) for i in range(8)]), "video").motion
    assert still < 0.001 < 0.02 < moved


def test_damaged_media_are_refused():
    content = video([noise(i) for i in range(8)])
    for damaged, media in ((content[: len(content) // 2], "video"), (b"GIF89a", "image")):
        with pytest.raises(RowError):
            measure(damaged, media)


def test_media_that_would_take_all_memory_are_refused_before_they_are_decoded():
    image = io.BytesIO()
    PIL.Image.new("1", (20_000, 20_000)).save(image, "PNG")
    for content, said in ((image.getvalue(), "image that is too large"), (video([noise(0, (8192, 4624))]), "pixels")):
        with pytest.raises(RowError, match=said):
            kind_of(content)


def test_a_file_that_names_other_files_or_addresses_is_no_video():
    described = "v=0\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    for text in (described, "ffconcat version 1.0\nfile /etc/hostname\n", "#EXTM3U\n#EXTINF:1,\nhttp://x/a.ts\n"):
        assert kind_of(text.encode()) is None
