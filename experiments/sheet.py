"""Figures, small, on one sheet."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, TITLE, MARGIN = 640, 32, 24  # pixels


def contact_sheet(pictures: Sequence[tuple[str, Path]], path: Path) -> Path:
    """Every figure, small, under its name, on one page: columns of equal width."""
    columns = min(3, max(len(pictures), 1))
    heights = [MARGIN] * columns
    placed = []
    for name, picture in pictures:
        with Image.open(picture) as opened:
            height = round(opened.height * WIDTH / opened.width)
            small = opened.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
        column = heights.index(min(heights))
        placed.append((name, small, (MARGIN + column * (WIDTH + MARGIN), heights[column])))
        heights[column] += TITLE + height + MARGIN
    sheet = Image.new("RGB", (MARGIN + columns * (WIDTH + MARGIN), max(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    for name, small, (x, y) in placed:
        pen.text((x, y), name, fill="black", font=ImageFont.load_default(size=20))
        sheet.paste(small, (x, y + TITLE))
    sheet.quantize(256).save(path, optimize=True)
    return path
