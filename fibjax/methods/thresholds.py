"""Grey thresholds (§5.1, §5.2): global, local, and a surface through the edges.

All work slice by slice on brightness alone, so a pore-back as bright as the solid
becomes solid. They are the baseline for the other methods.
"""
import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import linalg
from skimage import feature, filters, measure, segmentation, transform

from fibjax.errors import InputError
from fibjax.methods.classical_common import (
  BINS,
  check_range,
  check_volume,
  check_window,
  contrast,
  otsu_threshold,
  smooth_slices,
)
from fibjax.system.progress import say

_COARSENING = 4     # ratio of the grids of `laplace_surface`
_TOLERANCE = 1e-4   # residual per pixel at convergence, fraction of the grey range
_ALONG_PX = 3.0     # Gaussian of the mean along edges


def otsu(volume_zyx: np.ndarray, *, sigma_px: float = 1.0, bins: int = BINS,
         per_slice: bool = False) -> np.ndarray:
  """Segments by Otsu's threshold of the smoothed grey values.

  Otsu 1979, IEEE Trans. Syst. Man Cybern. 9:62. The defaults, a Gaussian of 1 px and
  256 bins, are those used to characterise the published data (§5.1).

  Args:
    volume_zyx: [z, y, x] grey values, solid brighter than pore.
    sigma_px: Gaussian in each slice, pixels.
    bins: bins of the histogram over the range of the values.
    per_slice: whether each slice has its own threshold.

  Returns:
    [z, y, x] uint8, 1 solid and 0 pore.

  Raises:
    InputError: for a bad volume or parameter, or with per_slice for a slice of a
      single grey value.
  """
  volume_zyx = check_volume(volume_zyx)
  check_range('bins', bins, 2)
  smooth_zyx = smooth_slices(volume_zyx, sigma_px)
  if not per_slice:
    return (smooth_zyx > otsu_threshold(smooth_zyx, bins)).astype(np.uint8)
  labels_zyx = np.empty(volume_zyx.shape, np.uint8)
  for z, image_yx in enumerate(smooth_zyx):
    if np.ptp(image_yx) == 0:
      raise InputError(f'volume_zyx slice z={z}', got='one grey value',
                       expected='both phases', remedy='use per_slice=False')
    labels_zyx[z] = image_yx > otsu_threshold(image_yx, bins)
  return labels_zyx


def sauvola(volume_zyx: np.ndarray, *, sigma_px: float = 1.0, window_px: int = 101,
            k: float = 0.5, range_share: float = 0.5) -> np.ndarray:
  """Segments each slice by Sauvola's local threshold.

  Sauvola & Pietikainen 2000, Pattern Recognition 33:225, for dark text on paper, here
  for dark pores in solid: T = m (1 + k (s / R - 1)) with mean m and standard deviation
  s of a window. The paper's R = 128 is half the range of its 8-bit images; here it is a
  fraction of the contrast P95 - P5 of the volume, and m is measured from P5, so that
  scale and offset of the grey values do not matter; k = 0.5 as in the paper. Window,
  smoothing and fraction are fibjax's choices. A featureless pore wider than the window
  becomes solid.

  Args:
    volume_zyx: [z, y, x] grey values, solid brighter than pore.
    sigma_px: Gaussian in each slice, pixels.
    window_px: odd width of the window, pixels.
    k: drop of the threshold below the mean where there is no contrast, fraction of the
      mean, 0 to 1.
    range_share: R as a fraction of the contrast.

  Returns:
    [z, y, x] uint8, 1 solid and 0 pore.

  Raises:
    InputError: for a bad volume or parameter.
  """
  volume_zyx = check_volume(volume_zyx)
  check_window('window_px', window_px)
  check_range('k', k, 0, 1)
  check_range('range_share', range_share, 1e-3)
  smooth_zyx = smooth_slices(volume_zyx, sigma_px)
  unit = contrast(smooth_zyx)
  low = np.percentile(smooth_zyx, 5)
  labels_zyx = np.empty(volume_zyx.shape, np.uint8)
  for z, image_yx in enumerate(smooth_zyx):
    image_yx = (image_yx - low) / unit
    threshold_yx = filters.threshold_sauvola(image_yx, window_px, k, range_share)
    labels_zyx[z] = image_yx > threshold_yx
  return labels_zyx


def threshold_surface(volume_zyx: np.ndarray, *, sigma_px: float = 2.0,
                      percentile: float = 90.0, min_edge: float = 0.0) -> np.ndarray:
  """Segments each slice by a threshold surface through the grey values of its edges.

  Blayvas, Bruckstein & Kimmel 2006, Pattern Recognition 39:89, after Yanowitz &
  Bruckstein 1989: the threshold equals the image at points of steep gradient and is
  smooth in between. Between those points Laplace's equation is solved, as by Yanowitz &
  Bruckstein; the later paper sums basis functions from coarse to fine. Finding the
  points by Canny's thinning, the smoothing and the percentile are fibjax's choices. A
  slice without edges takes Otsu's threshold of the volume, which is reported on stderr.

  Args:
    volume_zyx: [z, y, x] grey values, solid brighter than pore.
    sigma_px: Gaussian in each slice, before finding edges and thresholding, pixels.
    percentile: percentile of the gradient magnitude above which its ridges are edges.
    min_edge: validation (Yanowitz & Bruckstein): objects whose outline has a mean
      gradient below this fraction of the mean at edges change phase; 0 keeps all.

  Returns:
    [z, y, x] uint8, 1 solid and 0 pore.

  Raises:
    InputError: for a bad volume or parameter.
  """
  volume_zyx = check_volume(volume_zyx)
  check_range('percentile', percentile, 0, 100)
  check_range('min_edge', min_edge, 0)
  smooth_zyx = smooth_slices(volume_zyx, sigma_px)
  quantile = percentile / 100
  labels_zyx = np.empty(volume_zyx.shape, np.uint8)
  without_edges = []
  for z, image_yx in enumerate(volume_zyx):
    edge_yx = feature.canny(image_yx, sigma_px, quantile, quantile, mode='nearest',
                            use_quantiles=True)
    if not edge_yx.any():
      without_edges.append(z)
      continue
    surface_yx = laplace_surface(_along_edges(smooth_zyx[z], edge_yx), edge_yx)
    labels_zyx[z] = smooth_zyx[z] > surface_yx
    if min_edge:
      labels_zyx[z] = _validated(labels_zyx[z], smooth_zyx[z], edge_yx, min_edge)
  if without_edges:
    threshold = otsu_threshold(smooth_zyx)
    labels_zyx[without_edges] = smooth_zyx[without_edges] > threshold
    say(f"threshold surface: no edges in slices {without_edges}; Otsu's threshold "
        f'{threshold:g} of the volume is used there')
  return labels_zyx


def _along_edges(smooth_yx, edge_yx):
  """Means of the grey values along edges, [y, x], valid on the edges.

  With the grey value of the pixel itself as support, every edge pixel would equal its
  threshold and become pore, a shift by half a pixel. The mean along the edge is the
  grey value of its middle.
  """
  weight_yx = ndimage.gaussian_filter(edge_yx.astype(np.float32), _ALONG_PX)
  total_yx = ndimage.gaussian_filter(np.where(edge_yx, smooth_yx, 0), _ALONG_PX)
  return total_yx / np.maximum(weight_yx, np.finfo(np.float32).tiny)


def _validated(labels_yx, smooth_yx, edge_yx, min_edge):
  """Moves objects with a weak outline to the other phase, pores first."""
  gradient_yx = filters.sobel(smooth_yx)
  limit = min_edge * gradient_yx[edge_yx].mean()
  # One phase after the other: of two neighbours with a weak common outline only one
  # may change phase, or they would swap.
  for phase in (0, 1):
    objects_yx = measure.label(labels_yx == phase, connectivity=1)
    outline_yx = segmentation.find_boundaries(objects_yx, mode='inner')
    numbers = objects_yx[outline_yx]
    count = np.bincount(numbers, minlength=objects_yx.max() + 1)
    total = np.bincount(numbers, gradient_yx[outline_yx], len(count))
    weak = (count > 0) & (total < limit * count)
    weak[0] = False  # background of the labelling: the other phase
    labels_yx = labels_yx ^ weak[objects_yx]
  return labels_yx


def laplace_surface(image_yx: np.ndarray, support_yx: np.ndarray, *,
                    direct_px: int = 40_000) -> np.ndarray:
  """Solves Laplace's equation between support points.

  Five-point stencil, no flux through the borders. Conjugate gradients start from the
  solution on a grid four times coarser, recursively, down to a grid that is solved
  directly: they remove short-range errors in few iterations, but long-range ones only
  in as many as the image has pixels along a side.

  Args:
    image_yx: [y, x] float, used at the support points only.
    support_yx: [y, x] bool, at least one True.
    direct_px: largest image solved directly, pixels; up to this size a sparse
      factorisation is faster.

  Returns:
    [y, x] float64, equal to image_yx at the support points.

  Raises:
    InputError: without support points.
  """
  if not support_yx.any():
    raise InputError('support_yx', got='no support point', expected='at least one',
                     remedy='lower the percentile')
  surface_yx = np.where(support_yx, image_yx, 0).astype(np.float64)
  free = np.flatnonzero(~support_yx)
  if not free.size:
    return surface_yx
  laplacian = _laplacian(support_yx.shape)
  matrix = laplacian[free][:, free].tocsc()
  # Free pixels are 0 here, so this is the contribution of the support points alone.
  right = -(laplacian[free] @ surface_yx.ravel())
  if support_yx.size <= direct_px:
    surface_yx.flat[free] = linalg.spsolve(matrix, right)
    return surface_yx
  count_yx = measure.block_reduce(support_yx.astype(float), _COARSENING, np.sum)
  total_yx = measure.block_reduce(surface_yx, _COARSENING, np.sum)
  coarse_yx = laplace_surface(total_yx / np.maximum(count_yx, 1), count_yx > 0)
  guess_yx = transform.resize(coarse_yx, support_yx.shape, order=1, mode='edge',
                              anti_aliasing=False)
  # Solved for the difference from the median, so that the tolerance refers to the range
  # of the grey values and not to their offset.
  level = float(np.median(surface_yx[support_yx]))
  spread = float(np.ptp(surface_yx[support_yx]))
  start = guess_yx.flat[free] - level
  right = right - level * (matrix @ np.ones(free.size))
  # Stops at a residual of _TOLERANCE of the spread per pixel, far below the noise.
  solution, failed_iterations = linalg.cg(
      matrix, right, start, rtol=0, atol=_TOLERANCE * spread * free.size ** 0.5,
      M=sparse.diags(1 / matrix.diagonal()))
  if failed_iterations:
    say(f'threshold surface: not converged after {failed_iterations} iterations')
  surface_yx.flat[free] = solution + level
  return surface_yx


def _laplacian(shape_yx):
  """Sparse graph Laplacian of a grid, degree minus adjacency, [pixel, pixel].

  The Kronecker sum of the Laplacians of two paths. Border pixels have fewer neighbours,
  which is the condition of no flux.
  """
  ny, nx = shape_yx

  def path(n):
    degree = np.full(n, 2.0)
    degree[[0, -1]] -= 1
    return sparse.diags([degree, -np.ones(n - 1), -np.ones(n - 1)], [0, 1, -1])

  return sparse.csr_array(sparse.kronsum(path(nx), path(ny)))
