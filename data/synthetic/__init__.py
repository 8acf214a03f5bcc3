"""Procedural face-like identities: `render_identity` and what it is made of."""
