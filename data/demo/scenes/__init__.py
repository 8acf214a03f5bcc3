"""Photos of the demo's people in larger scenes, with known landmarks: something to detect in.

`figure` draws a person and says where the landmarks are, `scene` puts several before a background,
`folder` writes a folder of photos, one sub-folder per person.
"""
