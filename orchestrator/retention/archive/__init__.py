"""The files of the archive: what stands in them, and the folder or bucket that they are in."""
