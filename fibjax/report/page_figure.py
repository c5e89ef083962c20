"""Figures as a page shows them: picture, title and caption."""
import io
from typing import NamedTuple

from fibjax.report import figures

_QUALITY = 90


class PageFigure(NamedTuple):
  """A figure as the page shows it.

  Attributes:
    stem: file name without suffix.
    title: bold start of the caption.
    caption: how to read it.
    data: the picture, a file of this kind.
    width_in: width in inches, which sets its width on the page.
    kind: 'png' or 'jpeg', also the suffix of its file.
  """
  stem: str
  title: str
  caption: str
  data: bytes
  width_in: float
  kind: str = 'png'


def page_figure(stem, title, caption, figure, *, is_photo: bool = False) -> PageFigure:
  """Renders a matplotlib Figure for the page.

  Args:
    stem, title, caption: as in PageFigure.
    figure: to render.
    is_photo: whether it is mostly grey values; their noise would make a PNG large.
  """
  data = _to_jpeg(figure) if is_photo else figures.to_png(figure)
  return PageFigure(stem, title, caption, data, float(figure.get_figwidth()),
                    'jpeg' if is_photo else 'png')


@figures.styled
def _to_jpeg(figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, format='jpeg', pil_kwargs={'quality': _QUALITY})
  return buffer.getvalue()
