"""RecordIO files: their format, indexes and labels, on disks and in object stores."""
