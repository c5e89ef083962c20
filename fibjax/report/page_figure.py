"""Figures as a page shows them: picture, title and caption."""
from typing import NamedTuple

from fibjax.report import figures


class PageFigure(NamedTuple):
  """A figure as the page shows it.

  Attributes:
    stem: file name without suffix.
    title: bold start of the caption.
    caption: how to read it.
    png: the picture.
    width_in: width in inches, which sets its width on the page.
  """
  stem: str
  title: str
  caption: str
  png: bytes
  width_in: float


def page_figure(stem, title, caption, figure) -> PageFigure:
  """Renders a matplotlib Figure for the page."""
  return PageFigure(stem, title, caption, figures.to_png(figure),
                    float(figure.get_figwidth()))
