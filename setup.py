"""Installs fibjax: `pip install -e .[dev]`; JAX for GPUs by cuda12 or cuda13."""
from pathlib import Path

from setuptools import find_packages, setup

setup(
    name='fibjax',
    version='0.1.0',
    description='Segmentation of FIB-SEM nanotomography of porous materials in JAX',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['fibjax', 'fibjax.*']),
    package_data={'fibjax.report': ['*.html']},
    install_requires=[
        'jax>=0.10',
        'flax>=0.12',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12',
        'numpy>=2.0',
        'scipy>=1.14',
        'ml-collections>=1.0',
        'tensorstore>=0.1.80',
        'tifffile>=2024.8',
        'imagecodecs>=2024.9',
        'connected-components-3d>=3.20',
        'edt>=3.0',
        'h5py>=3.11',
        'mrcfile>=1.5',
        'pystackreg>=0.2.7',
        'PyWavelets>=1.6',
        'dask[distributed]>=2024.8',
        'matplotlib>=3.9',
        'jinja2>=3.1',
        'scikit-learn>=1.5',
        'scikit-image>=0.24',
        'tqdm>=4.66',
        'tensorboardX>=2.6',
    ],
    extras_require={
        'cuda12': ['jax[cuda12]'],
        'cuda13': ['jax[cuda13]'],
        'view': ['napari[all]', 'napari-ome-zarr'],
        'torch': ['torch'],
        'dev': ['pytest>=8', 'hypothesis>=6', 'ruff>=0.8', 'zarr>=3'],
    },
    entry_points={'console_scripts': ['fibjax = fibjax.main:main']},
)
