"""Videos on disk -> batches of pairs of clips."""

from lacray.data.layouts import DataError, Video, VideoSet, open_videos
from lacray.data.loader import Batch, FrameStore, PairLoader

__all__ = ["Batch", "DataError", "FrameStore", "PairLoader", "Video", "VideoSet", "open_videos"]
