"""Use of trained networks: any file of one as a function from faces to embeddings."""

from recognition.inference.embedder import FaceEmbedder, FaceError
from recognition.inference.networks import Network, load_network
from recognition.inference.pixels import PixelFormat

__all__ = ["FaceEmbedder", "FaceError", "Network", "PixelFormat", "load_network"]
