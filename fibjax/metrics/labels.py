"""The labels of a voxel, the same in every array and file that fibjax writes."""
PORE, SOLID, UNLABELLED = 0, 1, 255
