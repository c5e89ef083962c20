"""Structure of the package: floors, users of outside packages, names of methods."""
import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A package imports only from packages on a lower floor, and within itself without
# circles. `errors` is a module; every other name is a package.
FLOORS = {
    'cli': 10,
    'studies': 9,
    'pipeline': 8, 'bench': 8,
    'methods': 7,
    'report': 6, 'evaluation': 6, 'datasets': 6,
    'annotation': 5, 'inspection': 5,
    'inference': 4, 'preparation': 4, 'analysis': 4, 'formats': 4,
    'training': 3, 'volumes': 3, 'simulation': 3,
    'models': 2, 'metrics': 2, 'config': 2, 'system': 2,
    'errors': 1}
TOP_MODULES = {'__init__', '__main__', 'errors'}
# Each outside package and the packages or modules that may import it.
OUTSIDERS = {
    'ml_collections': {'config'}, 'tensorstore': {'volumes.volume'},
    'tifffile': {'formats.tiff'}, 'imagecodecs': {'formats.png'},
    'h5py': {'formats.hdf5', 'datasets.keras_weights'}, 'mrcfile': {'formats.mrc'},
    'flax': {'models'}, 'optax': {'training'}, 'orbax': {'training.checkpoint'},
    'cc3d': {'inference.small_objects'}, 'dask': {'system.cluster'},
    'distributed': {'system.cluster'}, 'torch': {'bench.torch_peer'},
    'sklearn': {'methods.forest'},
    'skimage': {'methods', 'inspection.statistics', 'preparation.brightness'},
    'edt': {'analysis.pore_size'}, 'pystackreg': {'preparation.alignment'},
    'pywt': {'preparation.destripe'}, 'matplotlib': {'report'},
    'jinja2': {'report.page'}, 'napari': {'report.viewer'}, 'argparse': {'cli'},
    'filelock': {'system'}, 'psutil': {'system'},
    'safetensors': {'methods.shared'}, 'onnx': {'models.onnx_graph'},
    'onnxruntime': {'methods.shared'}, 'tqdm': {'system.progress'},
    'tensorboardX': {'training.single'}, 'mlflow': {'training.metrics_log'}}
# Where the names of METHODS may stand: the methods themselves, their networks, the
# default of config.model.name, file names, and figures that measure one method.
METHOD_PACKAGES = ('methods', 'models', 'config.settings', 'system.run_folder', 'bench')


def _name(path: Path) -> str:
  """Dotted name of a module below fibjax: 'volumes.volume'; of a package: 'volumes'."""
  parts = path.relative_to(ROOT / 'fibjax').with_suffix('').parts
  return '.'.join(parts).removesuffix('.__init__')


MODULES = {_name(path): path for path in sorted((ROOT / 'fibjax').rglob('*.py'))}


@functools.cache
def parse(path: Path) -> ast.Module:
  return ast.parse(path.read_text(encoding='utf-8'))


def imports(path: Path):
  """Yields the full name of everything a file imports, at its top or in a function."""
  for node in ast.walk(parse(path)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: a relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def inner_imports(name: str) -> set[str]:
  """The modules of fibjax that one of them imports; a package stands for itself."""
  found = set()
  for full in imports(MODULES[name]):
    if full == 'fibjax' or full.startswith('fibjax.'):
      inner = full.removeprefix('fibjax').removeprefix('.')
      while inner and inner not in MODULES:  # a function or a record of a module
        inner = inner.rpartition('.')[0]
      found.add(inner or '__init__')
  return found


def package(name: str) -> str:
  return name.partition('.')[0]


def is_in(name: str, rooms) -> bool:
  return any(name == room or name.startswith(f'{room}.') for room in rooms)


def test_every_package_has_a_floor_and_no_module_stands_outside_one():
  tops = {package(name) for name in MODULES} - TOP_MODULES
  assert tops == set(FLOORS) - TOP_MODULES
  assert all((ROOT / 'fibjax' / name / '__init__.py').exists() for name in tops)
  assert all(name.count('.') <= 1 for name in MODULES), 'packages within packages'


@pytest.mark.parametrize('name', [n for n in MODULES if package(n) in FLOORS])
def test_imports_point_to_a_lower_floor(name):
  floor = FLOORS[package(name)]
  others = {other for other in inner_imports(name) if package(other) != package(name)}
  upwards = {other for other in others if FLOORS.get(package(other), floor) >= floor}
  assert not upwards, f'fibjax.{name} (floor {floor}) imports {upwards}'


@pytest.mark.parametrize('room', sorted(set(FLOORS) - {'errors'}))
def test_no_circle_among_the_modules_of_a_package(room):
  graph = {name: {other for other in inner_imports(name) if package(other) == room}
           for name in MODULES if package(name) == room}
  path = find_circle(graph)
  assert not path, ' imports '.join(path)


def find_circle(graph: dict[str, set[str]]) -> list[str]:
  """Nodes of a circle in a directed graph, the first one repeated; [] without one."""
  finished: set[str] = set()

  def visit(name, path):
    if name in path:
      return [*path[path.index(name):], name]
    if name in finished:
      return []
    for other in sorted(graph[name]):
      circle = visit(other, [*path, name])
      if circle:
        return circle
    finished.add(name)
    return []

  return next(filter(None, (visit(name, []) for name in graph)), [])


def test_a_circle_is_found():
  assert find_circle({'a': {'b'}, 'b': {'c'}, 'c': {'b'}, 'd': set()}) == [
      'b', 'c', 'b']
  assert find_circle({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) == []


@pytest.mark.parametrize('name', MODULES)
def test_each_outside_package_has_one_user(name):
  tops = {full.partition('.')[0] for full in imports(MODULES[name])}
  for outsider, users in OUTSIDERS.items():
    assert outsider not in tops or is_in(name, users), f'{name} imports {outsider}'


def test_only_one_module_maps_over_devices():
  users = {name for name, path in MODULES.items() for node in ast.walk(parse(path))
           if isinstance(node, ast.Attribute) and node.attr == 'pmap'}
  assert users == {'system.devices'}


def test_the_users_of_outside_packages_exist():
  for users in OUTSIDERS.values():
    assert users <= set(MODULES), users - set(MODULES)


@pytest.mark.parametrize('name', MODULES)
def test_modules_are_short_and_have_docstrings(name):
  text = MODULES[name].read_text(encoding='utf-8')
  assert text.count('\n') <= 400
  tree = parse(MODULES[name])
  assert ast.get_docstring(tree) and 'TODO' not in text
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 70, f'{name}.{node.name} is long'
      if not node.name.startswith('_') and node in tree.body:
        assert ast.get_docstring(node), f'{name}.{node.name} has no docstring'


SOURCES = [*MODULES.values(), *sorted((ROOT / 'tests').glob('*.py')),
           *sorted((ROOT / 'configs').glob('*.py'))]


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_has_a_second_name(path):
  renamed = []
  for node in ast.walk(parse(path)):
    if isinstance(node, ast.Import):
      renamed += [alias.name for alias in node.names
                  if alias.asname and package(alias.name) == 'fibjax']
    elif isinstance(node, ast.ImportFrom) and package(node.module) == 'fibjax':
      renamed += [full for alias in node.names if alias.asname
                  and (full := f'{node.module}.{alias.name}'.removeprefix('fibjax.'))
                  in MODULES]
  assert not renamed, f'{path.relative_to(ROOT)} renames {renamed}'


def test_no_config_default_hides_in_code():
  for name, path in MODULES.items():
    text = path.read_text(encoding='utf-8')
    for word in ('config.get(', 'getattr(config', 'hasattr(config'):
      assert word not in text, f'{name} uses {word}'


def docstrings(tree: ast.Module) -> set[int]:
  """Identities of the nodes that are docstrings."""
  owners = (ast.Module, ast.FunctionDef, ast.ClassDef)
  return {id(node.body[0].value) for node in ast.walk(tree)
          if isinstance(node, owners) and ast.get_docstring(node) is not None}


def method_names_in(path: Path, methods) -> set[str]:
  """'line: name' for each string that is the name of a method, docstrings aside.

  So does an import of a method's module from fibjax.methods.
  """
  tree = parse(path)
  skipped = docstrings(tree)
  found = {f'{node.lineno}: {node.value!r}' for node in ast.walk(tree)
           if isinstance(node, ast.Constant) and isinstance(node.value, str)
           and id(node) not in skipped and node.value in methods}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module:
      full = {f'{node.module}.{alias.name}' for alias in node.names}
      found |= {f'{node.lineno}: import of {name}' for name in full
                if name.startswith('fibjax.methods.')
                and name.split('.')[2] in methods}
  return found


def registered_methods() -> tuple[str, ...]:
  from fibjax.methods import registry
  return tuple(registry.METHODS)


@pytest.mark.parametrize('name', [n for n in MODULES if not is_in(n, METHOD_PACKAGES)])
def test_no_method_is_named_outside_the_registry(name):
  places = method_names_in(MODULES[name], registered_methods())
  assert not places, f'fibjax/{name.replace(".", "/")}.py names methods: {places}'
