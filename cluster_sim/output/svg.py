"""SVG as text: a canvas with boxes, lines and words, each with a title that shows on hovering."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

FONT = "DejaVu Sans, Verdana, Arial, sans-serif"


class Canvas:
    """Collects shapes; the size is known at the end."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.width = self.height = 0.0

    def _grow(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)

    def _add(self, tag: str, attributes: str, title: str) -> None:
        inside = f"><title>{escape(title)}</title></{tag}>" if title else "/>"
        self.parts.append(f"<{tag} {attributes}{inside}")

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "none",
        stroke: str = "#555",
        round_by: float = 3,
        thick: float = 1,
        title: str = "",
        dashed: bool = False,
    ) -> None:
        """A rectangle."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._grow(x + width, y + height)
        self._add(
            "rect",
            f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="{round_by:g}" fill="{fill}" stroke="{stroke}" stroke-width="{thick:g}"{dash}',
            title,
        )

    def line(
        self,
        start: tuple[float, float],
        stop: tuple[float, float],
        *,
        stroke: str = "#888",
        thick: float = 1,
        opacity: float = 1,
        title: str = "",
    ) -> None:
        """A straight line."""
        self._add(
            "line",
            f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{stop[0]:.1f}" y2="{stop[1]:.1f}" '
            f'stroke="{stroke}" stroke-width="{thick:.2f}" stroke-opacity="{opacity:g}"',
            title,
        )

    def arc(
        self,
        start: tuple[float, float],
        stop: tuple[float, float],
        rise: float,
        *,
        stroke: str = "#888",
        thick: float = 1,
        opacity: float = 1,
        title: str = "",
    ) -> None:
        """A curve that rises above both ends."""
        middle = ((start[0] + stop[0]) / 2, min(start[1], stop[1]) - rise)
        self._add(
            "path",
            f'd="M{start[0]:.1f} {start[1]:.1f}Q{middle[0]:.1f} {middle[1]:.1f} '
            f'{stop[0]:.1f} {stop[1]:.1f}" fill="none" stroke="{stroke}" '
            f'stroke-width="{thick:.2f}" stroke-opacity="{opacity:g}"',
            title,
        )

    def shape(self, points: Sequence[tuple[float, float]], *, fill: str, title: str = "") -> None:
        """A filled polygon without an outline."""
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add("polygon", f'points="{corners}" fill="{fill}"', title)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        anchor: str = "start",
        fill: str = "#222",
        bold: bool = False,
    ) -> None:
        """Words; ``anchor`` is start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        if anchor == "start":
            self._grow(x + 0.62 * size * len(words), y + size / 2)
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" '
            f'fill="{fill}"{weight}>{escape(words)}</text>'
        )

    def svg(self, name: str) -> str:
        """The picture as a document."""
        width, height = round(self.width + 24), round(self.height + 24)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" font-family={quoteattr(FONT)}>',
                f"<title>{escape(name)}</title>",
                f'<rect width="{width}" height="{height}" fill="#fff"/>',
                *self.parts,
                "</svg>\n",
            ]
        )


def page(name: str, picture: str) -> str:
    """An HTML page around a picture; titles show on hovering."""
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>\n'
        "<style>body{margin:0;background:#fff}svg{max-width:100%;height:auto}"
        "line:hover,path:hover{stroke-opacity:1;stroke-width:3}"
        "rect:hover{stroke-width:2.5}</style></head>\n"
        f"<body>{picture}</body></html>\n"
    )
