"""Pictures outside the embedded pair's training data, by class: drawn here, or shipped with packages."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from cuecard.demo import boards

mpl.use("Agg")
import matplotlib.pyplot as plt

DATA = Path(mpl.get_data_path())
FONTS = sorted((DATA / "fonts" / "ttf").glob("DejaVuS*.ttf"))
WORDS = ["total", "milk", "bread", "invoice", "date", "amount", "tax", "paid", "cash", "thank you", "annual", "figure"]
WORDS += ["results", "market", "street", "number", "customer", "order", "price", "3.99", "12.50", "7", "42", "2024"]
DIGITS = boards.SCAN_PIXELS
Picture = Image.Image


def chart(rng: Random, kind: str) -> Picture:
    """A Matplotlib figure: bars, lines, scatter, pie, histogram or heat map."""
    numbers = np.random.default_rng(rng.getrandbits(31))
    side, count = rng.choice((1.28, 2.56, 4.0)), rng.randint(3, 9)
    style = rng.choice(("default", "default", "ggplot", "seaborn-v0_8", "dark_background"))
    with plt.style.context(style):
        figure, axes = plt.subplots(figsize=(side, side), dpi=100)
        match kind:
            case "bars":
                axes.bar(range(count), numbers.random(count), color=rng.choice(("C0", "red", "green", "teal", "gray")))
            case "lines":
                axes.plot(numbers.normal(size=(30, rng.randint(1, 4))).cumsum(0))
            case "scatter":
                axes.scatter(*numbers.normal(size=(2, 60)), c=numbers.random(60))
            case "pie":
                axes.pie(numbers.random(count) + 0.1)
            case "histogram":
                axes.hist(numbers.normal(size=200), bins=20)
            case _:
                axes.imshow(numbers.random((count, count)), cmap=rng.choice(("viridis", "gray", "hot")))
        if rng.random() < 0.5:
            axes.set_title("Sales by year")
        file = io.BytesIO()
        figure.savefig(file, format="png")
        plt.close(figure)
    return Image.open(file).convert("RGB")


def charts(rng: Random, count: int) -> list[Picture]:
    kinds = ("bars", "lines", "scatter", "pie", "histogram", "heat map")
    return [chart(rng, kinds[index % len(kinds)]) for index in range(count)]


def photos(rng: Random, count: int) -> list[Picture]:
    """The sample photos of scikit-learn and Matplotlib, then crops of them, some in gray."""
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    names = ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png")
    whole += [Image.open(DATA / "sample_data" / name).convert("RGB") for name in names]
    made = list(whole)
    while len(made) < count:
        photo = rng.choice(whole[:3])
        side = rng.randint(40, min(photo.size))
        left, top = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
        crop = photo.crop((left, top, left + side, top + side))
        made.append(crop.convert("L").convert("RGB") if rng.random() < 0.2 else crop)
    return made[:count]


def document(rng: Random) -> Picture:
    """A receipt or page of text."""
    width, height = rng.choice(((128, 128), (256, 256), (300, 420), (200, 500)))
    paper, ink = rng.choice(
        [((255, 255, 255), (10, 10, 10)), ((250, 248, 240), (40, 40, 60)), ((20, 20, 24), (220,) * 3)]
    )
    page, size = Image.new("RGB", (width, height), paper), rng.choice((9, 12, 16, 24))
    pen, font, y = ImageDraw.Draw(page), ImageFont.truetype(rng.choice(FONTS), size), rng.randint(2, 20)
    while y < height - 8:
        pen.text((rng.randint(2, 16), y), " ".join(rng.choices(WORDS, k=rng.randint(1, 8))), ink, font)
        y += size + rng.randint(1, 8)
        if rng.random() < 0.1:
            pen.line((4, y, width - 4, y), ink)
    return page


def screenshot(rng: Random) -> Picture:
    """A window with a bar, a list at its left, text and buttons."""
    width, height = rng.choice(((128, 128), (320, 320), (640, 480)))
    colours = rng.choice(
        [((245, 246, 248), (30, 30, 30), (210, 215, 225)), ((30, 30, 34), (210, 210, 210), (50, 50, 60))]
    )
    ground, ink, bar = colours
    window, font = (
        Image.new("RGB", (width, height), ground),
        ImageFont.truetype(rng.choice(FONTS), rng.choice((9, 11, 13))),
    )
    pen, top, left = ImageDraw.Draw(window), height // 12, width // 4
    pen.rectangle((0, 0, width, top), bar)
    pen.rectangle((0, top, left, height), tuple((a + b) // 2 for a, b in zip(ground, bar, strict=True)))
    for place, colour in enumerate(((255, 95, 86), (255, 189, 46), (39, 201, 63))):
        pen.ellipse((4 + 10 * place, 3, 11 + 10 * place, 10), colour)
    for line in range(8):
        pen.text((4, top + 4 + 16 * line), rng.choice(WORDS), ink, font)
    for y in range(top + 6, height - 14, 20):
        if rng.random() < 0.2:
            colour = rng.choice(((0, 110, 230), (200, 60, 60), (40, 160, 90)))
            pen.rounded_rectangle((left + 8, y, left + 8 + width // 5, y + 16), 4, colour)
            pen.text((left + 12, y + 2), rng.choice(WORDS), (255, 255, 255), font)
        else:
            pen.text((left + 8, y), " ".join(rng.choices(WORDS, k=rng.randint(1, 7))), ink, font)
    return window


def blank(rng: Random, number: int) -> Picture:
    """One colour: black, white and grays, then any colour."""
    colour = (round(number * 255 / 16),) * 3 if number <= 16 else tuple(rng.randrange(256) for _ in range(3))
    return Image.new("RGB", (128, 128), colour)


def noise(rng: Random, number: int) -> Picture:
    """Noise: in colour, in gray, coarse, or Gaussian."""
    numbers = np.random.default_rng(rng.getrandbits(31))
    shapes = ((128, 128, 3), (128, 128, 1), (16, 16, 3))
    if number % 4 == 3:
        values = numbers.normal(rng.randint(20, 235), rng.randint(5, 60), shapes[0]).clip(0, 255)
    else:
        values = numbers.integers(0, 256, shapes[number % 4])
    values = np.broadcast_to(values, (*values.shape[:2], 3)).astype(np.uint8)
    return Image.fromarray(values).resize((128, 128), Image.Resampling.BICUBIC)


def gradient(rng: Random, number: int) -> Picture:
    """A gradient: horizontal, vertical, diagonal, or radial."""
    y, x = np.mgrid[0:128, 0:128] / 127
    part = (x, y, (x + y) / 2, np.hypot(x - 0.5, y - 0.5).clip(0, 1))[number % 4][..., None]
    one, other = (np.array([rng.randrange(256) for _ in range(3)]) for _ in range(2))
    return Image.fromarray((one * (1 - part) + other * part).astype(np.uint8))


def layout(rng: Random, side: int) -> Picture:
    """A board with another number of cells than the exam's, drawn in the same way."""
    cell = boards.CELL_PIXELS
    board = np.zeros((side * cell, side * cell, 3), np.uint8)
    board[::cell], board[:, ::cell] = 40, 40
    for place in range(side * side):
        scan, tint = rng.choice(boards.scans_of("test")[rng.randrange(10)]), rng.choice(list(boards.TINTS.values()))
        y, x = place // side * cell + rng.randint(2, 6), place % side * cell + rng.randint(2, 6)
        ink = np.asarray(boards.enlarged(scan))[..., None].astype(np.uint16) * np.array(tint, np.uint16) // 255
        board[y : y + DIGITS, x : x + DIGITS] = ink
    return Image.fromarray(board)


def digit(rng: Random, number: int) -> Picture:
    """One digit in MNIST's layout: white on black, black on white, or tinted."""
    canvas = np.zeros((28, 28), np.uint8)
    scan = boards.enlarged(rng.choice(boards.scans_of("test")[rng.randrange(10)]))
    canvas[4:24, 4:24] = np.asarray(scan.resize((20, 20), Image.Resampling.BILINEAR))
    tint = np.array(rng.choice(list(boards.TINTS.values())) if number % 3 == 2 else (255,) * 3, np.uint16)
    picture = (canvas[..., None].astype(np.uint16) * tint // 255).astype(np.uint8)
    return Image.fromarray(255 - picture if number % 3 == 1 else picture)


def several_shapes(rng: Random) -> Picture:
    """Three to seven small shapes on a light ground; easy-VQA's images show one."""
    picture = Image.new("RGB", (64, 64), tuple(rng.randint(225, 255) for _ in range(3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randint(3, 7)):
        x, y, side = rng.randint(0, 50), rng.randint(0, 50), rng.randint(6, 20)
        rng.choice((pen.ellipse, pen.rectangle))(
            (x, y, x + side, y + side), tuple(rng.randrange(256) for _ in range(3))
        )
    return picture


def altered_board(rng: Random, number: int) -> Picture:
    """A board: its negative, in gray, or shifted by half a cell."""
    board = boards.draw(boards.make_board(rng, "test"))
    gray = np.broadcast_to(board.max(-1, keepdims=True), board.shape)
    return Image.fromarray((255 - board, gray, np.roll(board, (16, 16), (0, 1)))[number % 3])


def each(draw: Callable[[Random, int], Picture]) -> Callable[[Random, int], list[Picture]]:
    return lambda rng, count: [draw(rng, number) for number in range(count)]


CLASSES: dict[str, Callable[[Random, int], list[Picture]]] = {
    "charts": charts,
    "photos": photos,
    "receipts and documents": each(lambda rng, _: document(rng)),
    "screenshots": each(lambda rng, _: screenshot(rng)),
    "blank": each(blank),
    "noise": each(noise),
    "gradients": each(gradient),
    "boards of 3×3": each(lambda rng, _: layout(rng, 3)),
    "boards of 5×5": each(lambda rng, _: layout(rng, 5)),
    "single digits": each(digit),
    "several shapes": each(lambda rng, _: several_shapes(rng)),
    "altered boards": each(altered_board),
}
"""Class -> function (rng, count) -> pictures of any size."""
