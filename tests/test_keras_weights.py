"""The authors' weights: a file as Keras writes it against the network written out."""
import h5py
import jax
import numpy as np
import pytest

from fibjax import models
from fibjax.datasets import keras_weights
from fibjax.errors import InputError
from tests import tiny_archive

N_XY, N_Z = 33, 3


@pytest.fixture(scope='module')
def model():
  return models.make_model({'name': 'patch_cnn', 'n_xy': N_XY, 'n_z': N_Z,
                            'padding': 'same'})


@pytest.fixture(scope='module')
def like(model):
  return models.empty_params(model)


@pytest.fixture(scope='module')
def params(like):
  """Random weights and biases of every layer."""
  rng = np.random.default_rng(0)
  return {layer: {kind: rng.normal(0, 0.2 if kind == 'bias' else
                                   np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape
                                   ).astype(np.float32)
                  for kind, leaf in part.items()}
          for layer, part in like.items() if layer != 'input'}


@pytest.fixture
def file(params, tmp_path):
  path = tmp_path / 'model.h5'
  tiny_archive.write_weights(path, params)
  return path


def elu(x):
  return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def keras_logit(file, patch_yxc):
  """The published network as Keras computes it, from the file, in float64.

  Layers in the order of layer_names; zero padding, floor pooling, channels_last
  flatten.
  """
  x = np.asarray(patch_yxc, float)
  with h5py.File(file) as opened:
    group = opened['model_weights']
    weights = [[np.asarray(group[name][w], float)
                for w in (group[name].attrs['weight_names'])]
               for name in (n.decode() for n in group.attrs['layer_names'])]
  for i, (kernel, bias) in enumerate(weights[:8]):
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    windows_yxckk = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))
    x = elu(np.einsum('yxckl,klco->yxo', windows_yxckk, kernel, optimize=True) + bias)
    if i % 2:
      h, w = x.shape[0] // 2, x.shape[1] // 2
      x = x[:2 * h, :2 * w].reshape(h, 2, w, 2, -1).max((1, 3))
  x = x.ravel()
  for kernel, bias in weights[8:10]:
    x = elu(x @ kernel + bias)
  kernel, bias = weights[10]
  return float((x @ kernel + bias)[0])


def test_scores_are_those_of_the_keras_network(model, like, file):
  patches = np.random.default_rng(1).random((3, N_XY, N_XY, N_Z)).astype(np.float32)
  found = keras_weights.read_weights(file, like)
  logits = jax.jit(model.apply)(found, patches)
  expected = [keras_logit(file, patch) for patch in patches]
  assert np.ptp(expected) > 0.05
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def check_equal(found, params):
  assert found['input'] == {'mean': 0, 'deviation': 1}
  assert found.keys() == {'input', *params}
  for layer, part in params.items():
    for kind, values in part.items():
      assert found[layer][kind].dtype == np.float32
      np.testing.assert_array_equal(found[layer][kind], values)


@pytest.mark.parametrize('names', ['keras', 'counted on', 'own'])
@pytest.mark.parametrize('prefix', ['model_weights/', ''])
def test_layout_and_names_do_not_matter(params, like, tmp_path, prefix, names):
  renamed = {'keras': None, 'counted on': {
      ours: f'conv2d_{k + 8}' if k < 8 else f'dense_{k - 5}'
      for k, ours in enumerate(tiny_archive.KERAS_NAMES)}, 'own': {
          ours: f'layer_{(7 * k) % 11}' for k, ours in enumerate(
              tiny_archive.KERAS_NAMES)}}[names]
  path = tmp_path / 'model.h5'
  tiny_archive.write_weights(path, params, prefix=prefix, names=renamed)
  check_equal(keras_weights.read_weights(path, like), params)


@pytest.mark.parametrize('n_xy', [33, 49, 65, 81, 97, 113])
@pytest.mark.parametrize('n_z', [1, 11])
def test_every_layer_has_a_kernel_of_its_own_shape(n_xy, n_z):
  """What reading by shape rests on."""
  network = models.make_model({'name': 'patch_cnn', 'n_xy': n_xy, 'n_z': n_z,
                               'padding': 'same'})
  shapes = [part['kernel'].shape for name, part in models.empty_params(network).items()
            if name != 'input']
  assert len(set(shapes)) == len(shapes) == 11


@pytest.mark.parametrize('n_xy, n_z, message', [
    (49, 3, r'layer fc1: got 0 kernels of its shape in .*of shape \(720, 128\)'),
    (33, 5, r'layer conv1a: got 0 kernels of its shape .*of shape \(3, 3, 5, 16\)')])
def test_another_size_is_named(file, n_xy, n_z, message):
  other = models.make_model({'name': 'patch_cnn', 'n_xy': n_xy, 'n_z': n_z,
                             'padding': 'same'})
  with pytest.raises(InputError, match=message):
    keras_weights.read_weights(file, models.empty_params(other))


def edit(file, function):
  with h5py.File(file, 'r+') as opened:
    function(opened['model_weights'])


def replace(group, name, values):
  del group[name]
  group.create_dataset(name, data=values)


BROKEN = {
    'no bias': (lambda g: g.__delitem__('dense/dense/bias:0'),
                'model_weights/dense/dense: got a kernel or a bias alone'),
    'no layer': (lambda g: g.__delitem__('conv2d_3'),
                 'layer conv2b: got 0 kernels of its shape'),
    'two of a shape': (lambda g: g.copy('dense_1', 'dense_7'),
                       'layer fc2: got 2 kernels of its shape'),
    'one more': (lambda g: [g.create_dataset('more/kernel:0', data=np.zeros((5, 5))),
                            g.create_dataset('more/bias:0', data=np.zeros(5))],
                 'got 12 layers with weights, expected 11'),
    'short bias': (lambda g: replace(g, 'conv2d/conv2d/bias:0', np.zeros(15)),
                   r'conv2d/bias:0: got shape \(15,\), float64, expected .*16'),
    'NaN': (lambda g: replace(g, 'dense_2/dense_2/bias:0', np.array([np.nan])),
            'dense_2/bias:0: got NaN'),
    'text': (lambda g: replace(g, 'dense_2/dense_2/bias:0', np.array([b'x'])),
             r'dense_2/bias:0: got shape \(1,\), \|S1'),
    'normalised': (lambda g: g.create_dataset('bn/gamma:0', data=np.ones(16)),
                   'weights model_weights/bn/gamma:0, expected kernels and biases'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_what_does_not_fit_is_named(file, like, case):
  function, message = BROKEN[case]
  edit(file, function)
  with pytest.raises(InputError, match=message):
    keras_weights.read_weights(file, like)


def test_a_damaged_file_is_named(file, like):
  whole = file.read_bytes()
  for length in (0, 7, 100, 3000, len(whole) // 2, len(whole) - 1):
    file.write_bytes(whole[:length])
    with pytest.raises(InputError, match=r'model\.h5'):
      keras_weights.read_weights(file, like)
  with pytest.raises(InputError, match='no such file'):
    keras_weights.read_weights(file.with_name('other.h5'), like)


def test_flipped_bits_of_metadata_are_an_error_or_harmless(file, like):
  tiny_archive.write_weights(file, like)  # weights are 0: what is not, is metadata
  whole = file.read_bytes()
  metadata = np.flatnonzero(np.frombuffer(whole, np.uint8))
  rng = np.random.default_rng(0)
  refused = 0
  for at in np.concatenate([metadata[:60], rng.choice(metadata, 240)]):
    damaged = bytearray(whole)
    damaged[at] ^= 1 << int(rng.integers(8))
    file.write_bytes(damaged)
    try:
      keras_weights.read_weights(file, like)
    except InputError as error:
      assert 'model.h5' in str(error)
      refused += 1
  assert 100 < refused < 300
