"""What the report of a run opens with: each volume at a glance, and its key quantities.

Only central boxes and evenly spaced slices are read, so the size of the volumes does
not matter.
"""
from typing import NamedTuple

from fibjax.report import cuts, intervals, slider
from fibjax.report.page_figure import PageFigure, page_figure
from fibjax.report.slider import Slider
from fibjax.report.sources import Film


class VolumeBlock(NamedTuple):
  """One volume at the top of the page.

  Attributes:
    name: of the volume.
    size: its voxels and their size, a phrase.
    figures: cuts, and the view in 3-D where there is a segmentation.
    sentence: key quantities for a paper, '' where they were not measured.
    slider: its slices, None without a segmentation.
  """
  name: str
  size: str
  figures: tuple[PageFigure, ...]
  sentence: str
  slider: Slider | None


class Opening(NamedTuple):
  """Top of the page of a run.

  Attributes:
    volumes: in the order of their names.
    quantities: figure of the key quantities, None where nothing was measured.
    remarks: sentences about the quantities.
  """
  volumes: tuple[VolumeBlock, ...]
  quantities: PageFigure | None
  remarks: tuple[str, ...]

  @property
  def figures(self) -> list[PageFigure]:
    """All figures, which are also written as files."""
    shown = [figure for volume in self.volumes for figure in volume.figures]
    return shown + ([] if self.quantities is None else [self.quantities])

  @property
  def has_sliders(self) -> bool:
    """Whether any volume has a slider."""
    return any(volume.slider is not None for volume in self.volumes)


def make_opening(films: list[Film], analysis: dict) -> Opening:
  """Reads what the page opens with.

  Args:
    films: volumes of the run.
    analysis: content of analysis.json, {} without one.
  """
  limit = min(slider.VOLUME_BYTES, slider.PAGE_BYTES // max(len(films), 1))
  volumes = []
  for i, film in enumerate(films):
    if film.image is None:
      continue
    content = intervals.measured(analysis).get(film.name)
    volumes.append(VolumeBlock(
        film.name, _size(film.image), _pictures(i + 1, film),
        intervals.key_sentence(film.name, content) if content else '',
        slider.make_slider(film, limit)))
  figure = intervals.intervals_figure(analysis)
  return Opening(tuple(volumes), None if figure is None else page_figure(
      'key_quantities', 'Key quantities of the volumes.',
      _caption(analysis), figure), tuple(intervals.remarks(analysis)))


def _caption(analysis: dict) -> str:
  volumes = intervals.measured(analysis).values()
  text = ('Circle: measured in the segmentation, in the central box that the tables of '
          'physical quantities name.')
  if any('intervals' in content for content in volumes):
    text += (' Dot: corrected for the bias of the segmentation. Thick bar: interval of '
             'this volume; thin bar: of the material, with the sampling error of a '
             'finite volume.')
  if any('truth' in content for content in volumes):
    text += ' Cross: ground truth of the same box.'
  return text


def _size(image) -> str:
  shape = ' × '.join(map(str, image.shape))
  size = image.voxel_size_zyx_nm
  if size is None:
    return f'{shape} voxels (z, y, x) of unknown size'
  return f'{shape} voxels of {" × ".join(f"{s:g}" for s in size)} nm (z, y, x)'


def _pictures(number: int, film: Film) -> tuple[PageFigure, ...]:
  outline = ('' if film.segmentation is None
             else 'Orange: outline of the solid in the segmentation. ')
  pictures = [page_figure(
      f'cuts_{number}', f'Three cuts through {film.name}.',
      f'{outline}Dashed: where the cuts meet. Shown is '
      f'{cuts.cuts_box(film.image).describe()}, to scale.',
      cuts.cuts_figure(film.image, film.segmentation), is_photo=True)]
  if film.segmentation is not None:
    pictures.append(page_figure(
        f'view_{number}', f'Solid of {film.name}.',
        'The segmentation from the first slice, the top and the right; pale where it '
        f'is cut by the box. Shown is {cuts.view_box(film.segmentation).describe()}.',
        cuts.view_figure(film.segmentation)))
  return tuple(pictures)
