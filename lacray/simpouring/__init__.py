"""SimPouring: 84 drawn videos of a hand that pours, with the exact progress of every frame.

The stand-in for the Pouring data set where no data can be had: five phases (approach, lift and tilt, pour, put back,
retreat) between an irrelevant lead-in and lead-out. Nothing is shipped: the videos are rendered into a cache on first
use. What differs between two videos is everything but the order of events: viewpoint, mirroring, shapes, colours,
light, noise, shake, tempo, pauses. Approach and retreat (and lift and put-back) look alike but for the liquid, so a
frame's appearance alone tells little, and its position in the video less.

On disk, the plain layout of this project and the ground truth beside it:

    videos/train_000.mp4 ...  H.264, 25 frames per second
    segments.csv              video,start_frame,end_frame,phase (end exclusive); the five phases, in order
    splits.csv                video,split
    progress/train_000.npy    float32 (frames,): phase index + share of that phase's ACTION done, in [0, 5);
                              NaN in lead-in and lead-out. A pause holds it.
    simpouring.json           the parameters, the codec

Lead-in and lead-out frames stand in no segment: their label is -1, and evaluation drops frames with a label < 0.

Nothing here imports torch or Ray: the renderer's worker processes start in a tenth of a second.
"""

from lacray.simpouring.files import ensure
from lacray.simpouring.paint import render
from lacray.simpouring.story import PHASES, VideoSpec, draw_spec

__all__ = ["PHASES", "VideoSpec", "draw_spec", "ensure", "render"]
