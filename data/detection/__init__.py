"""Finds faces in photos, and cuts them out.

`detector` opens a detector: `mtcnn`, or a file that `anchors` decodes. `photo` opens a file
whatever it holds, `choice` says which of its faces are wanted and why others are not, `cut` makes
the faces of one photo, `job` those of a folder, and `sheet` shows them.
"""
