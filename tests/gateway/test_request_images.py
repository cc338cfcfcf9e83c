"""Images in requests: those over the memory or time limits are rejected, and the error names the setting."""

from __future__ import annotations

import asyncio
import io
import resource
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from gateways import agreeing, gateway
from PIL import Image as PilImage

import pictures
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.gateway.config import ImageSettings, read
from cuecard.gateway.wire import body as taking
from cuecard.models.images import images
from cuecard.models.images.images import DECODER, QUICK_DECODER

MIB = 2**20
KINDS = pictures.every_kind()
HUGE_WEBPS = pictures.huge_webps(16)


def asked(*given: bytes) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": Image(data).data_url}} for data in given]
    return {
        "model": "cuecard",
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "How many cats are there?"}]}],
    }


async def refusal(limits: ImageSettings, *given: bytes) -> tuple[int, str]:
    async with gateway(images=limits) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**asked(*given))
    assert isinstance(caught.value.body, dict)
    return caught.value.status_code, caught.value.body["message"]


async def got(*given: bytes, limits: ImageSettings | None = None) -> tuple[bytes, ...]:
    """The images that both models of a gateway receive for a request with the given images."""
    models = agreeing()
    async with gateway(models, images=limits) as client:
        await client.chat.completions.create(**asked(*given))
    seen = {tuple(image.data for image in each.prompts[0].images) for each in models.values()}
    (one,) = seen
    return one


async def test_images_of_very_many_pixels_together_are_refused_and_take_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for limits, words in ((ImageSettings(), "decode_mib"), (ImageSettings(decode_mib=8192), "200 megapixels (")):
        status, message = await refusal(limits, *HUGE_WEBPS)
        assert (status, words in message) == (413, True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize(
    ("limits", "kinds", "words"),
    [
        (ImageSettings(most=1), ["GIF", "BMP"], "more than 1 images .*most under"),
        (
            ImageSettings(most_megapixels=0.003),
            ["GIF"],
            r"0.003 megapixels \(it has 64x48.*most_megapixels under \[images\]",
        ),
        (ImageSettings(most_megapixels=0.003), ["PNG RGB 0"], r"0.003 megapixels \(it has 64x48.*most_megapixels"),
        (ImageSettings(most_megapixels=0.003), ["WEBP animated"], "0.003 megapixels .*most_megapixels"),
        (ImageSettings(request_megapixels=0.008), ["GIF", "BMP", "TIFF"], "0.008 megapixels .*request_megapixels"),
        (ImageSettings(request_megapixels=0.008), ["PNG RGB 0", "JPEG RGB 0", "WEBP RGB 0"], "request_megapixels"),
        (ImageSettings(request_megapixels=0.008), ["PNG transparent", "JPEG RGB 0", "TIFF"], "request_megapixels"),
    ],
)
async def test_what_is_too_large_is_named_with_its_limit_and_setting(
    limits: ImageSettings, kinds: list[str], words: str
) -> None:
    status, message = await refusal(limits, *(KINDS[kind] for kind in kinds))
    assert status == 413
    with pytest.raises(BadInput, match=words):
        raise BadInput(message)


async def test_what_needs_much_memory_is_refused() -> None:
    status, message = await refusal(ImageSettings(), HUGE_WEBPS[0])
    assert (status, "768 MiB" in message, "7000x7000" in message, "decode_mib" in message) == (413, True, True, True)
    deep = pictures.encoded(PilImage.new("RGBA", (5000, 5000)), compress_level=1)
    status, message = await refusal(ImageSettings(decode_mib=64), KINDS["GIF"], deep)
    assert (status, "image 2 needs more than 64 MiB" in message) == (413, True)


async def test_a_slow_image_is_given_up_while_others_are_answered() -> None:
    slow = pictures.gif_of_comments(7_000_000)
    async with gateway(images=ImageSettings(decode_s=0.5), most_mib=20) as client:
        waiting = asyncio.create_task(client.chat.completions.create(**asked(slow)))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await client.chat.completions.create(**asked(KINDS["PNG transparent"], KINDS["JPEG RGB 6"]))
        async with aiohttp.ClientSession() as session:
            assert (await session.get(str(client.base_url).replace("/v1/", "/health"))).status == 200
        assert time.monotonic() - began < 10
        with pytest.raises(openai.BadRequestError, match=r"longer than 0.5 s to be decoded.*decode_s"):
            await waiting
        await client.chat.completions.create(**asked(KINDS["GIF"]))


async def test_a_tiff_in_tiles_of_one_pixel_is_refused() -> None:
    status, message = await refusal(ImageSettings(), pictures.tiff_of_tiles(200))
    assert (status, "too many pieces" in message) == (400, True)


@pytest.mark.parametrize("kind", KINDS)
async def test_models_see_of_an_image_what_they_see_in_a_process_of_ones_own(kind: str) -> None:
    assert await got(KINDS[kind]) == (images.load(KINDS[kind]).data,)


async def test_a_jpeg_without_its_last_bytes_is_read_and_made_whole() -> None:
    (seen,) = await got(pictures.cut_jpeg())
    with PilImage.open(io.BytesIO(seen)) as picture:
        picture.load()
        assert picture.size == (640, 480)


async def test_plain_images_reach_the_models_without_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise AssertionError("it is decoded")

    for decoder in (DECODER, QUICK_DECODER):
        monkeypatch.setattr(decoder, "_worker", None)
    monkeypatch.setattr(PilImage, "open", fail)
    photo = pictures.encoded(pictures.noise(1200, 900), "JPEG", quality=50, exif=pictures.exif(1))
    plain = (photo, KINDS["PNG RGB 0"], KINDS["WEBP RGB 0"], KINDS["PNG with XMP"])
    assert await got(*plain) == plain


async def test_images_wait_for_those_before_them_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on, taken = threading.Event(), threading.Event(), DECODER.taken

    def slow(*args: Any) -> Any:
        started.set()
        go_on.wait(20)
        return taken(*args)

    monkeypatch.setattr(DECODER, "taken", slow)
    monkeypatch.setattr(taking, "WAIT_S", 0.1)
    async with gateway() as client:
        waiting = asyncio.create_task(client.chat.completions.create(**asked(KINDS["BMP"])))
        await asyncio.to_thread(started.wait, 20)
        with pytest.raises(openai.RateLimitError, match=r"waited 0\.1 s for other images"):
            await client.chat.completions.create(**asked(KINDS["GIF"]))
        waiting.cancel()  # the slot is released when the decode ends
        await asyncio.gather(waiting, return_exceptions=True)
        monkeypatch.setattr(taking, "WAIT_S", 20)
        behind = asyncio.create_task(client.chat.completions.create(**asked(KINDS["GIF"])))
        await asyncio.sleep(0.1)
        go_on.set()
        await behind


def test_the_limits_stand_in_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "cuecard.toml"
    rest = 'version = 1\n[small]\nmodel = "demo-small"\n[large]\nmodel = "demo-large"\n[images]\n'
    file.write_text(rest + "most_megapixels = 20\nrequest_megapixels = 60.5\ndecode_mib = 256\ndecode_s = 2\n")
    limits = read(file).images
    assert (limits.most_megapixels, limits.request_megapixels) == (20, 60.5)
    assert (limits.decode_mib, limits.decode_s) == (256, 2)
    file.write_text(rest + "most_megapixels = 0\n")
    with pytest.raises(BadInput, match="most_megapixels"):
        read(file)
