"""The house: modules import only from rooms above them; each has its own outsiders."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Top to bottom; a package stands for all its modules, in the order given where it is.
ROOMS = (
    'checks', 'geometry', 'workdir', 'progress', 'signals', 'config_rules',
    'config', 'data.voxel_size', 'data.ome_zarr', 'data.volume', 'data.slice_names',
    'data.labels', 'data.formats', 'data.tiff', 'data.hdf5', 'data.mat5', 'data.mat',
    'data.mrc', 'data.raw', 'data.npy', 'data.foreign_zarr', 'data.stacks',
    'data.regions', 'data.flyem', 'data.unzip', 'data.zenodo', 'data.keras_weights',
    'prep.intensity', 'prep.brightness', 'prep.alignment', 'prep.destripe',
    'prep.steps', 'prep.chain', 'simulate.fields', 'simulate.formulas',
    'simulate.structure', 'simulate.microscope', 'simulate.artefacts',
    'simulate.annotator', 'simulate.films', 'cluster', 'data.slice_statistics',
    'data.stack_findings', 'data.inspect', 'shards', 'datasets', 'patches',
    'parallel', 'augment', 'models.filtering', 'models.conv', 'models.patch_cnn',
    'models.dense', 'models.exact_plan', 'models.exact', 'models.layers',
    'models.resunet', 'models.unet', 'models', 'losses', 'metrics', 'calibration',
    'experts', 'data.proposals', 'data.annotation_frame', 'data.annotation',
    'optim', 'state', 'checkpoint', 'sampling', 'train', 'members', 'infer',
    'segment_speed', 'baselines.scale_space', 'baselines.forest',
    'baselines.forest_run', 'objects', 'baselines.common', 'baselines.thresholds',
    'baselines.level_set', 'baselines.profiles', 'baselines.watershed',
    'baselines.optical_flow', 'baselines.classical', 'postprocess', 'segment',
    'analysis.porosity', 'analysis.two_point', 'analysis.uncertainty',
    'analysis.coverage', 'analysis.comparison', 'analysis.phases',
    'analysis.chords', 'analysis.connectivity', 'analysis.pore_size',
    'analysis.profiles', 'analysis.specific_surface', 'analysis.transport',
    'analysis.physics', 'evaluate', 'region_scores', 'report.tables',
    'report.figures', 'report.inspect_figure', 'report.sources',
    'report.sweep_figures', 'report.sweep_tables', 'report.published',
    'report.prose', 'report.preparation', 'report.physics', 'report.page',
    'report.sweep_page', 'training_slices', 'report.compare_page',
    'report.study_page', 'methods', 'analyse', 'run', 'compare', 'sweep', 'study',
    'ensemble', 'view', 'torch_peer', 'bench_segment', 'bench', 'bench_members',
    'main_data', 'main')
OUTSIDERS = {
    'ml_collections': {'config'}, 'tensorstore': {'data.volume'},
    'tifffile': {'data.tiff'}, 'imagecodecs': {'data.tiff'},
    'h5py': {'data.hdf5', 'data.keras_weights'}, 'mrcfile': {'data.mrc'},
    'flax': {'models.patch_cnn', 'models.dense', 'models.exact', 'models.layers',
             'models.resunet', 'models.unet'},
    'optax': {'losses', 'optim'}, 'orbax': {'checkpoint'}, 'cc3d': {'objects'},
    'dask': {'cluster'}, 'distributed': {'cluster'}, 'torch': {'torch_peer'},
    'sklearn': {'baselines.forest'},
    'skimage': {'baselines.common', 'baselines.thresholds', 'baselines.level_set',
                'baselines.profiles', 'baselines.watershed', 'baselines.optical_flow',
                'data.slice_statistics', 'prep.brightness'},
    'edt': {'analysis.pore_size'}, 'pystackreg': {'prep.alignment'},
    'pywt': {'prep.destripe'},
    'matplotlib': {'report.figures', 'report.inspect_figure', 'report.physics',
                   'report.preparation', 'report.sweep_figures', 'report.study_page'},
    'jinja2': {'report.page'}, 'napari': {'view'}, 'argparse': {'main', 'main_data'},
    'tqdm': {'progress'}, 'tensorboardX': {'members'}}


def modules():
  for path in sorted((ROOT / 'fibjax').rglob('*.py')):
    name = '.'.join(path.relative_to(ROOT / 'fibjax').with_suffix('').parts)
    name = name.removesuffix('.__init__')
    if name != '__init__' and path.read_text().strip():
      yield name, path


def imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        yield full if full.removeprefix('fibjax.') in ROOMS else node.module


MODULES = dict(modules())


@pytest.mark.parametrize('name', MODULES)
def test_a_module_imports_only_from_rooms_above_it(name):
  if '.' not in name and name not in ROOMS:  # a package that only has a docstring
    assert not list(imports(MODULES[name]))
    return
  above = ROOMS[:ROOMS.index(name)]
  inner = {i.removeprefix('fibjax.') for i in imports(MODULES[name])
           if i.startswith('fibjax.')}
  used = {room for room in ROOMS if room in inner}
  assert used <= set(above), f'{name} imports {used - set(above)} from below'


@pytest.mark.parametrize('name', MODULES)
def test_each_outside_package_has_one_user(name):
  tops = {i.split('.')[0] for i in imports(MODULES[name]) if i}
  for package, users in OUTSIDERS.items():
    assert package not in tops or name in users, f'{name} imports {package}'


@pytest.mark.parametrize('name', MODULES)
def test_modules_are_short_and_say_what_they_are(name):
  text = MODULES[name].read_text()
  assert text.count('\n') <= 400
  tree = ast.parse(text)
  assert ast.get_docstring(tree)
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 70, f'{name}.{node.name} is long'
      if not node.name.startswith('_') and node in tree.body:
        assert ast.get_docstring(node), f'{name}.{node.name} has no docstring'


def test_no_config_default_hides_in_code():
  for name, path in MODULES.items():
    text = path.read_text()
    for word in ('config.get(', 'getattr(config', 'hasattr(config'):
      assert word not in text, f'{name} uses {word}'


def test_every_config_key_is_read_somewhere():
  from fibjax.config import base
  trees = [ast.parse(path.read_text()) for name, path in MODULES.items()
           if name not in ('config', 'config_rules')]
  used = {node.attr for tree in trees for node in ast.walk(tree)
          if isinstance(node, ast.Attribute)}
  used |= {node.arg for tree in trees for node in ast.walk(tree)
           if isinstance(node, ast.arg)}  # passed on by name, e.g. Hyper._fields
  used |= {node.target.id for tree in trees for node in ast.walk(tree)
           if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
  used |= {node.value for tree in trees for node in ast.walk(tree)
           if isinstance(node, ast.Constant)}  # settings[name] for names in a tuple
  for section, keys in base().items():
    for key in (keys if hasattr(keys, 'items') else (section,)):
      assert key in used, f'nothing reads config.{section}.{key}'
