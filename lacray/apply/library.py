"""The moments of many videos on disk, searched at once: in memory while they are few, else by an index in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lacray.apply import kept
from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.folders import Item, Told
from lacray.apply.index import EXACT, Nearest, write_index
from lacray.apply.model import Model
from lacray.apply.retrieval import Moments, prepared
from lacray.apply.scoring import Measure
from lacray.cache import cached


def moments_of(
    model: Model,
    items: Sequence[Item],
    videos: Mapping[str, EmbeddedVideo],
    measure: Measure,
    *,
    told: Told | None = None,
) -> Moments:
    """All frames of some videos, ready to be searched.

    Args:
        items: of the videos, which say whether an index that was made before is still of these.
        videos: by name.

    Raises:
        UserError: there are more than EXACT frames, and faiss is not installed.
    """
    own = [videos[item.name] for item in items if item.name in videos]
    num = sum(map(len, own))
    if num <= EXACT:
        return Moments(own, measure)
    keys = "\n".join(kept.key_of(model, item.path) for item in items if item.name in videos)
    folder = cached(f"moments/{hashlib.sha256(keys.encode(errors='surrogateescape')).hexdigest()[:32]}")
    if not folder.is_dir():

        def pieces() -> Iterator[NDArray[np.float32]]:
            for video in own:
                yield prepared(video.embeddings, measure)

        write_index(folder, num, model.config.encoder.embedding, pieces, told=told)
    return Moments(own, measure, Nearest.on_disk(folder))
