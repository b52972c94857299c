"""Files that are no plain files of this machine: by URL, in a tar, in a row of a Parquet file."""

from padim.places.copies import copy_here
from padim.places.place import FAR_THREADS, Place, find_place, is_far, join, require_here

__all__ = [
    "FAR_THREADS",
    "Place",
    "copy_here",
    "find_place",
    "is_far",
    "join",
    "require_here",
]
