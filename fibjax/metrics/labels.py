"""The labels of a voxel, and the codes that other programs store for them.

Labels are the same in every array and file that fibjax writes. Sources of the codes:
ImageJ's binary images are 0 and 255; ilastik and napari count labels from 1 and use 0
for unlabelled; nnU-Net counts from 0, and its ignore label is the highest (its
documentation, ignore_label.md); PoreSpy's images are True in the pores.
"""
PORE, SOLID, UNLABELLED = 0, 1, 255
# Program -> {code in its files: label}.
LABEL_CODES = {
    'fibjax': {0: PORE, 1: SOLID, 255: UNLABELLED},
    'paper': {0: PORE, 1: SOLID},
    'fiji': {0: PORE, 255: SOLID},
    'ilastik': {0: UNLABELLED, 1: PORE, 2: SOLID},
    'napari': {0: UNLABELLED, 1: PORE, 2: SOLID},
    'nnunet': {0: PORE, 1: SOLID, 2: UNLABELLED},
    'porespy': {1: PORE, 0: SOLID},
}
