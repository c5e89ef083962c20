"""Figure of a slice before and after preparation, with its row means."""
import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from fibjax.report import figures
from fibjax.report.figures import COLOURS, styled

_TITLES = ('as acquired', 'prepared')
_PROFILE_WIDTH = 0.6  # width of the row means, relative to an image


@styled
def preparation_figure(name: str, z: int, raw_yx: np.ndarray, prepared_yx: np.ndarray,
                       voxel_size_yx_nm=None) -> Figure:
  """Draws a slice as acquired and as prepared, with the mean of each row.

  Args:
    name: of the volume.
    z: of the slice.
    raw_yx: grey values as acquired.
    prepared_yx: float values that the methods use; same shape.
    voxel_size_yx_nm: in-plane voxel size or None.
  """
  height, width = raw_yx.shape
  aspect = height / width
  if voxel_size_yx_nm is not None:
    aspect *= voxel_size_yx_nm[0] / voxel_size_yx_nm[1]
  figure = Figure(figsize=(8.2, min(7., 1.2 + 3.1 * aspect)), layout='constrained')
  axes = figure.subplots(1, 3, width_ratios=(1, 1, _PROFILE_WIDTH))
  for ax, image_yx, title in zip(axes, (raw_yx, prepared_yx), _TITLES, strict=False):
    figures.show(ax, figures.stretch(image_yx), voxel_size_yx_nm)
    ax.set_title(title)
    ax.set_xlabel(f'x ({figures.unit(voxel_size_yx_nm)})')
  axes[0].set_ylabel(f'y ({figures.unit(voxel_size_yx_nm)})')
  bottom, top = axes[0].get_ylim()
  rows_y = (np.arange(height) + 0.5) / height * (bottom - top) + top
  for image_yx, title, colour in zip((raw_yx, prepared_yx), _TITLES,
                                     (COLOURS[1], COLOURS[0]), strict=True):
    axes[2].plot(_deviation(image_yx), rows_y, color=colour, label=title)
  axes[2].set(ylim=(bottom, top), yticks=[], title='row means',
              xlabel='deviation, % of contrast')
  axes[2].set_box_aspect(aspect / _PROFILE_WIDTH)
  figure.legend(*axes[2].get_legend_handles_labels(), loc='outside lower right',
                ncols=2)
  figure.suptitle(f'{name}, slice {z}', fontsize=9.5, parse_math=False)
  return figure


def _deviation(image_yx: np.ndarray) -> np.ndarray:
  """Returns [y] smoothed row means minus the mean, in % of the contrast.

  A moving average over 1/20 of the rows shows the trend without the structure.
  """
  low, high = np.percentile(image_yx, (1, 99))
  means_y = ndimage.uniform_filter1d(image_yx.mean(1, dtype=np.float64),
                                     len(image_yx) // 20 | 1, mode='nearest')
  return 100 * (means_y - means_y.mean()) / max(float(high - low), 1e-12)
