"""Exchange of regions with programs that paint labels, with checks on the way back.

`export_regions` writes a folder:

  manifest.json           positions and hashes of the regions, for `import_annotations`
  README.txt              how to paint, for Fiji, napari, MITK and ilastik
  images/region_000.tif   the context of a region, grey values as in the volume
  labels/EXPERT/region_000.tif
                          a label image of the same shape to paint: 0 in the core,
                          the frame everywhere else (frame.py)

Each expert has a folder. A region labelled by several experts becomes several rows of
one place in the table of regions, which training merges (config.train.consensus). Files
that an expert left out or did not change are reported, never taken for labels; a core
of 0 alone counts as unchanged, whatever 0 means in the profile.
"""
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fibjax.annotation import frame
from fibjax.annotation.experts import inter_expert_miou, staple
from fibjax.annotation.frame import BLANK, FRAME, LEAST_MARGIN_PX, MARK
from fibjax.annotation.regions import Regions, make_regions, region_mask, save_regions
from fibjax.annotation.sizes import PAPER_SIZES, Sizes
from fibjax.errors import InputError, unknown
from fibjax.formats import label_images, tiff
from fibjax.formats.label_codes import decode_labels
from fibjax.metrics import confusion
from fibjax.metrics.labels import UNLABELLED
from fibjax.system import csv_files
from fibjax.system.files import (
  check_absent,
  hash_files,
  new_folder,
  read_json,
  write_json,
  write_text,
)
from fibjax.volumes.volume import Volume, read_mirrored

_FORMAT = 'fibjax annotation 1'
_MASKS = ('.tif', '.tiff', '.npy')
_README = '''Regions to annotate

Every images/region_NNN.tif is a piece of a volume, {slices} slices of {context} x
{context} pixels. The label image of the same name in labels/EXPERT/ has the same shape.
Paint the {region} x {region} core of slice {slice} (slice {human} of {slices} in Fiji):
the square of 0 inside the frame of {frame} and {mark}. The other slices are there to
look at. Do not move, crop, rescale or turn the label image, and keep its name and
format (TIFF). The frame shows fibjax that nothing moved; a brush that runs over it does
no harm.

napari   Open both, convert the second to labels and lower its opacity; paint 1 = pore,
         2 = solid (0 is unlabelled). Import with --profile=napari.
Fiji     Open both; Analyze > Tools > Synchronize Windows. Paint 255 = solid into the
         core and leave 0 = pore. Import with --profile=fiji. A core of 0 alone counts
         as not painted: leave out a region that is all pore, or use 1 and 2.
MITK     Open the image, open the label image as segmentation, paint labels 1 and 2 and
         save it as TIFF. Import with --profile=napari.
ilastik  It does not load the label image: label the core of the image up to all of its
         edges and export the labels as TIFF (z, y, x) under the name of the label
         image. Import with --profile=ilastik.

For a second expert, copy labels/EXPERT under another name before it is painted.

fibjax regions import THIS_FOLDER --profile=NAME --out=DIR
'''


def export_regions(named: Mapping[str, Volume], places: Sequence[Mapping], out,
                   *, sizes: Sizes | None = None,
                   experts: Sequence[str] = ('expert1',)) -> dict:
  """Writes images and empty label images of regions into a new folder.

  A context that leaves its volume is mirrored at the faces; a region must lie inside.

  Args:
    named: volumes by name; uint8, uint16 or float32.
    places: rows {volume, z, y, x}, e.g. of `proposals.load_places`.
    out: folder to make.
    sizes: sizes of a region and its context; None takes those of the paper.
    experts: names of the folders to paint in.

  Returns:
    The manifest.

  Raises:
    InputError: when out exists, for a place outside of its volume or an unknown
      volume, a context with too little room for the frame, or a bad name.
  """
  sizes = sizes or PAPER_SIZES
  _check_export(named, places, sizes, experts)
  manifest = {
      'format': _FORMAT, **sizes._asdict(), 'core_start_zyx': list(sizes.core_zyx),
      'codes': {'blank': BLANK, 'frame': FRAME, 'mark': MARK},
      'volumes': {name: {'hash': hash_files(volume.path),
                         'shape_zyx': list(volume.shape),
                         'voxel_size_zyx_nm': volume.voxel_size_zyx_nm}
                  for name, volume in named.items()},
      'regions': []}
  blank_zyx = frame.blank_label(sizes)
  with new_folder(out) as partial:
    for folder in ('images', *(f'labels/{expert}' for expert in experts)):
      (partial / folder).mkdir(parents=True)
    for k, place in enumerate(places):
      volume, file = named[place['volume']], f'region_{k:03d}.tif'
      start = [place[a] - c for a, c in zip('zyx', sizes.core_zyx, strict=True)]
      stop = [a + n for a, n in zip(start, sizes.context_zyx, strict=True)]
      image_zyx = read_mirrored(volume, start, stop)
      _write(partial / 'images' / file, image_zyx, volume)
      for expert in experts:
        _write(partial / 'labels' / expert / file, blank_zyx, volume)
      manifest['regions'].append({
          'file': file, **{key: place[key] for key in ('volume', 'z', 'y', 'x')},
          'image_sha256': _sha256(partial / 'images' / file)})
    z = sizes.core_zyx[0]
    write_text(partial / 'README.txt', _README.format(
        slices=sizes.context_slices, context=sizes.context_px, region=sizes.region_px,
        slice=z, human=z + 1, frame=FRAME, mark=MARK))
    write_json(partial / 'manifest.json', manifest, checked=False)
  return manifest


def import_annotations(folder, profile: str, out) -> dict:
  """Makes a folder of regions from the label images that experts painted.

  Args:
    folder: folder that `export_regions` made.
    profile: key of labels.LABEL_CODES, the same for all experts.
    out: folder to make: regions.csv, masks.npy, and annotation.json with the returned
      dict, the expert, file and hash of each row, and the hashes of the volumes.

  Returns:
    JSON-able dict: places and rows, their numbers; experts: name -> number of rows;
    left_out: files that are missing or unchanged; over_the_edge: file -> voxels painted
    on the frame, which do not count; changed_images: images that differ from the
    export; agreement: see `agreement`, None without a place with two experts.

  Raises:
    InputError: for a folder that is not an export, an unexpected file, a mask that was
      moved, cropped, rescaled or turned, codes unknown to the profile, or nothing
      painted.
  """
  folder = Path(folder)
  check_absent(out)
  decode_labels((), profile)
  manifest = _read_manifest(folder)
  sizes = Sizes(*(manifest[name] for name in Sizes._fields))
  painted, left_out, over = [], [], {}
  for expert, files in _label_files(folder, manifest).items():
    for k, file in enumerate(files):
      name = file and str(file.relative_to(folder))
      core = file and _read_core(file, sizes, profile, name)
      if core is None:
        left_out.append(name or f'labels/{expert}/{manifest["regions"][k]["file"]}')
        continue
      labels_yx, n_over = core
      painted.append((k, expert, labels_yx, {
          'expert': expert, 'file': name, 'sha256': _sha256(file)}))
      if n_over:
        over[name] = n_over
  if not painted:
    raise InputError(str(folder), got='no label image that was painted',
                     expected='paint in labels/EXPERT/*.tif', remedy='see README.txt '
                     'there; save the label images under the same names')
  painted.sort(key=lambda row: row[:2])
  rows = [manifest['regions'][k] for k, *_ in painted]
  regions = make_regions([row['volume'] for row in rows],
                         [[row[axis] for axis in 'zyx'] for row in rows],
                         [labels_yx for _, _, labels_yx, _ in painted])
  names = [expert for _, expert, *_ in painted]
  summary = {
      'places': len({k for k, *_ in painted}), 'rows': len(painted),
      'experts': {name: names.count(name) for name in sorted(set(names))},
      'left_out': left_out, 'over_the_edge': over,
      'changed_images': _changed_images(folder, manifest),
      'agreement': agreement(regions, names)}
  with new_folder(out) as partial:
    save_regions(partial, regions)
    write_json(partial / 'annotation.json', {
        'profile': profile, 'volumes': manifest['volumes'],
        'row_files': [entry for *_, entry in painted], **summary}, checked=False)
  return summary


def agreement(regions: Regions, experts: Sequence[str]) -> dict | None:
  """Measures the agreement of experts, a ceiling for any model.

  Args:
    regions: rows of one place are labels of different experts.
    experts: name of the expert of each row.

  Returns:
    None without a place that two experts labelled. Otherwise a JSON-able dict: places,
    the number of those with two experts or more; miou, the mean over pairs of experts;
    pairs: list of {experts, miou, n_voxels, porosities} over the voxels that both
    labelled; staple: name -> {sensitivity, specificity} against the truth estimated
    from all (`experts.staple`), None for fewer than three experts.

  Raises:
    InputError: when the lengths differ or an expert labelled one place twice.
  """
  if len(experts) != len(regions.volume):
    raise InputError('experts', got=f'{len(experts)} names',
                     expected=f'one for each of {len(regions.volume)} rows',
                     remedy='give the expert of each row')
  places: dict[tuple, dict[str, np.ndarray]] = {}
  for r, expert in enumerate(experts):
    place = (regions.volume[r], *(int(axis[r]) for axis in (
        regions.z, regions.y, regions.x, regions.heights, regions.widths)))
    votes = places.setdefault(place, {})
    if expert in votes:
      raise InputError(f'region at {place[:4]}', got=f'two masks of {expert}',
                       expected='one per expert', remedy='leave one out')
    votes[expert] = region_mask(regions, r)
  shared = [votes for votes in places.values() if len(votes) > 1]
  if not shared:
    return None
  names = sorted({name for votes in shared for name in votes})
  votes_jn = np.stack([np.concatenate([
      votes.get(name, np.full_like(next(iter(votes.values())), UNLABELLED)).ravel()
      for votes in shared]) for name in names])
  return {'places': len(shared), 'miou': inter_expert_miou(votes_jn),
          'pairs': _pairs(names, votes_jn), 'staple': _qualities(names, votes_jn)}


def _pairs(names, votes_jn) -> list[dict]:
  pairs = []
  for (name_a, a), (name_b, b) in itertools.combinations(
      zip(names, votes_jn, strict=True), 2):
    both = (a != UNLABELLED) & (b != UNLABELLED)
    if both.any():
      scores = confusion.summarise(confusion.confusion(a[both], b[both]))
      pairs.append({'experts': [name_a, name_b], 'miou': scores['miou'],
                    'n_voxels': int(both.sum()),
                    'porosities': [float(np.mean(v[both] == 0)) for v in (a, b)]})
  return pairs


def _qualities(names, votes_jn) -> dict | None:
  """Quality of each expert; two experts leave it undetermined (`experts.staple`)."""
  if len(names) < 3:
    return None
  estimate = staple(votes_jn)
  return {name: {key: float(value) if np.isfinite(value) else None for key, value in
                 (('sensitivity', p), ('specificity', q))}
          for name, p, q in zip(names, estimate.sensitivity_j, estimate.specificity_j,
                                strict=True)}


def _check_export(named, places, sizes: Sizes, experts) -> None:
  for volume in named.values():
    if volume.dtype.name not in ('uint8', 'uint16', 'float32'):
      raise InputError(str(volume.path), got=f'dtype {volume.dtype}',
                       expected='uint8, uint16 or float32', remedy='convert it first')
  margin = sizes.context_px - sizes.region_px - sizes.core_zyx[1]  # narrower side
  if sizes.region_px < 1 or sizes.context_slices < 1 or margin < LEAST_MARGIN_PX:
    raise InputError('context',
                     got=f'{sizes.context_px} px around {sizes.region_px} px',
                     expected=f'{LEAST_MARGIN_PX} px more on every side, for the frame',
                     remedy='raise context_px or lower region_px')
  bad = [name for name in experts if not re.fullmatch(r'[A-Za-z0-9_-][\w.-]*', name)]
  if bad or not experts or len(set(experts)) < len(experts):
    raise InputError('experts', got=list(experts),
                     expected='different names of letters, digits, _ and -',
                     remedy='for example anna,ben')
  for k, place in enumerate(places):
    name = place['volume']
    if name not in named:
      raise unknown(f'place {k}: volume', name, sorted(named),
                    'give that volume too, or correct the table')
    shape = named[name].shape
    start = [place[axis] for axis in 'zyx']
    size = (1, sizes.region_px, sizes.region_px)
    if any(a < 0 or a + n > total for a, n, total in zip(start, size, shape,
                                                         strict=True)):
      raise InputError(f'place {k}', got=f'z, y, x = {start}', expected='a region of '
                       f'{sizes.region_px} px inside {name} of shape {shape}',
                       remedy='correct the table or the sizes')


def _write(path, array_zyx, volume) -> None:
  tiff.write_tiff(path, [array_zyx], array_zyx.shape, array_zyx.dtype,
                  volume.voxel_size_zyx_nm)


def _sha256(path: Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _read_manifest(folder: Path) -> dict:
  manifest = read_json(folder / 'manifest.json')
  if not isinstance(manifest, dict) or manifest.get('format') != _FORMAT or not (
      _is_whole(manifest)):
    raise InputError(str(folder / 'manifest.json'), got='another file',
                     expected=f'a manifest of format {_FORMAT!r}',
                     remedy='give the folder that fibjax regions export made')
  return manifest


def _is_whole(manifest: dict) -> bool:
  """Whether a manifest has everything that `import_annotations` reads, typed right."""
  regions = manifest.get('regions')
  return (isinstance(regions, list) and regions and 'volumes' in manifest
          and all(_is_count(manifest.get(key), 1) for key in Sizes._fields)
          and all(isinstance(region, dict)
                  and all(_is_count(region.get(key), 0) for key in 'zyx')
                  and all(isinstance(region.get(key), str)
                          for key in ('file', 'volume', 'image_sha256'))
                  and Path(region['file']).name == region['file']
                  for region in regions))


def _is_count(value, least: int) -> bool:
  return type(value) is int and least <= value <= csv_files.MAX_WHOLE


def _label_files(folder: Path, manifest) -> dict[str, list[Path | None]]:
  """Expert -> file of each region of the manifest, None for a missing one."""
  labels = folder / 'labels'
  stems = [Path(region['file']).stem for region in manifest['regions']]
  files_of_experts = {}
  for expert in sorted(labels.iterdir() if labels.is_dir() else ()):
    if expert.name.startswith('.'):
      continue
    if not expert.is_dir():
      raise InputError(str(expert), got='a file', expected='one folder per expert',
                       remedy='move it into labels/EXPERT')
    files = {}
    for file in sorted(f for f in expert.iterdir() if f.name[0] != '.'):
      if file.stem not in stems or file.suffix.lower() not in _MASKS or (
          file.stem in files):
        raise InputError(str(file), got='a file that was not exported, or a second one',
                         expected='label images under their names, as TIFF',
                         remedy='rename it or move it out')
      files[file.stem] = file
    files_of_experts[expert.name] = [files.get(stem) for stem in stems]
  return files_of_experts


def _read_core(file: Path, sizes: Sizes, profile: str, name: str):
  """Labels of the core and number of voxels painted on the frame; None if unchanged."""
  mask_zyx = label_images.read_masks(file)
  if mask_zyx.ndim == 2 and sizes.context_slices == 1:
    mask_zyx = mask_zyx[None]
  core_yx, n_over = frame.cut_core(mask_zyx, sizes, profile, name)
  if (core_yx == BLANK).all():
    return None
  labels_yx = decode_labels(core_yx, profile, name)
  return None if (labels_yx == UNLABELLED).all() else (labels_yx, n_over)


def _changed_images(folder: Path, manifest) -> list[str]:
  """Images that are present but differ from the export."""
  return [region['file'] for region in manifest['regions']
          if (folder / 'images' / region['file']).is_file()
          and _sha256(folder / 'images' / region['file']) != region['image_sha256']]
