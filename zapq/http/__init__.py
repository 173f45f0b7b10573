"""HTTP as Quart sees it: the only package that imports quart."""
