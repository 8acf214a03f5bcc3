"""RecordIO: the format, files of it here and far away, their indexes and labels."""
