"""lacray: frame-wise video embeddings by differentiable local alignment."""

__version__ = "0.1.0"
