"""Networks as ONNX graphs, for programs without JAX.

A graph maps 'image', grey values as the network is given them ([batch, slice, y, x]
float32), to 'score', P(solid) of every voxel whose neighbourhood lies in the image
([batch, 1, y, x] float32). Sides are free; those of U-Nets are multiples of their cell.

Each network builds its own graph from the operations of `Graph` (models.NETWORKS).
`onnx` is imported when a graph is written, since it is an extra.
"""
import numpy as np

OPSET, _IR = 17, 8
_EPSILON = 1e-5


class Graph:
  """A graph under construction; every operation returns the name of its result.

  Maps are [batch, channel, y, x]. Kernels come as fibjax has them, [y, x, input,
  output].
  """

  def __init__(self, n_z: int):
    self.n_z = n_z
    self.nodes: list = []
    self.constants: list = []

  def add(self, operation: str, *inputs: str, **attributes) -> str:
    """Appends a node of any operation."""
    from onnx import helper
    name = f'{operation.lower()}_{len(self.nodes)}'
    self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
    return name

  def constant(self, array, dtype=np.float32) -> str:
    """Stores an array."""
    from onnx import numpy_helper
    name = f'constant_{len(self.constants)}'
    self.constants.append(numpy_helper.from_array(
        np.ascontiguousarray(array, dtype), name))
    return name

  def standardise(self, maps: str, params: dict) -> str:
    """Takes out the mean and deviation of the input."""
    mean, deviation = (float(params['input'][key]) for key in ('mean', 'deviation'))
    centred = self.add('Sub', maps, self.constant(mean))
    return self.add('Div', centred, self.constant(deviation))

  def conv(self, maps: str, layer: dict, *, pads=(0, 0, 0, 0), stride: int = 1,
           dilation: int = 1) -> str:
    """Convolution with bias; pads before y, x and after y, x."""
    kernel_foyx = np.transpose(np.asarray(layer['kernel']), (3, 2, 0, 1))
    return self.add('Conv', maps, self.constant(kernel_foyx),
                    self.constant(layer['bias']), pads=list(pads), strides=[stride] * 2,
                    dilations=[dilation] * 2)

  def pool(self, maps: str, stride: int = 2, dilation: int = 1) -> str:
    """Largest of 2 x 2 pixels."""
    return self.add('MaxPool', maps, kernel_shape=[2, 2], strides=[stride] * 2,
                    dilations=[dilation] * 2)

  def crop(self, maps: str, margin: int) -> str:
    """Maps without so many pixels on every side."""
    bounds = [self.constant(values, np.int64) for values in (
        [margin] * 2, [-margin] * 2, [2, 3])]
    return self.add('Slice', maps, *bounds)

  def upsample(self, maps: str) -> str:
    """Every pixel 2 x 2 times."""
    return self.add('Resize', maps, '', self.constant([1, 1, 2, 2]), mode='nearest',
                    coordinate_transformation_mode='asymmetric', nearest_mode='floor')

  def affine(self, maps: str, scale_c, shift_c) -> str:
    """Factor and shift per channel."""
    scaled = self.add('Mul', maps, self.constant(np.reshape(scale_c, (-1, 1, 1))))
    return self.add('Add', scaled, self.constant(np.reshape(shift_c, (-1, 1, 1))))

  def normalise_pixels(self, maps: str, channels: int, groups: int) -> str:
    """Mean 0 and variance 1 of each pixel over groups of channels."""
    # The mean of a group, in each of its channels, is a 1 x 1 convolution.
    mean_cc = np.kron(np.eye(groups), np.ones((channels // groups,) * 2))
    mean = {'kernel': mean_cc[None, None] * groups / channels,
            'bias': np.zeros(channels)}
    centred = self.add('Sub', maps, self.conv(maps, mean))
    variance = self.conv(self.add('Mul', centred, centred), mean)
    deviation = self.add('Sqrt', self.add('Add', variance, self.constant(_EPSILON)))
    return self.add('Div', centred, deviation)

  def normalise_channels(self, maps: str, mean_c, variance_c) -> str:
    """Takes out fixed means and variances of the channels."""
    scale_c = 1 / np.sqrt(np.asarray(variance_c, np.float64) + _EPSILON)
    return self.affine(maps, scale_c, -np.asarray(mean_c) * scale_c)

  def finish(self, score: str, name: str) -> bytes:
    """The graph that ends with `score`, as a file."""
    import onnx
    from onnx import TensorProto, helper
    image = helper.make_tensor_value_info(
        'image', TensorProto.FLOAT, ['batch', self.n_z, 'y', 'x'])
    self.nodes.append(helper.make_node('Identity', [score], ['score']))
    out = helper.make_tensor_value_info(
        'score', TensorProto.FLOAT, ['batch', 1, 'y_out', 'x_out'])
    graph = helper.make_graph(self.nodes, name, [image], [out], self.constants)
    model = helper.make_model(graph, producer_name='fibjax', ir_version=_IR,
                              opset_imports=[helper.make_opsetid('', OPSET)])
    onnx.checker.check_model(model)
    return model.SerializeToString()
