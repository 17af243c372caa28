"""Videos on disk -> batches of pairs of clips."""

from lacray.data.layouts import open_videos
from lacray.data.loader import Batch, FrameStore, PairLoader
from lacray.data.videoset import DataError, Video, VideoSet

__all__ = ["Batch", "DataError", "FrameStore", "PairLoader", "Video", "VideoSet", "open_videos"]
