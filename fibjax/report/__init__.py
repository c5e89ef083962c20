"""Report pages, tables, figures and the napari viewer."""
