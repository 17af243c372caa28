// From the frames of one video to the places of another, and to times.

/** Place of a frame, whole or between two, by an alignment; NaN where there is no counterpart. */
export function placeAt(places, frame) {
  const below = Math.min(Math.max(Math.floor(frame), 0), places.length - 1);
  const above = Math.min(below + 1, places.length - 1);
  const share = frame - below;
  const here = places[below];
  if (share <= 0 || Number.isNaN(here)) return here;
  const next = places[above];
  return Number.isNaN(next) ? here : here + share * (next - here);
}

/** Time of a place among frames that are shown at given times, between two frames in between. */
export function timeAt(times, place) {
  const below = Math.min(Math.max(Math.floor(place), 0), times.length - 1);
  const above = Math.min(below + 1, times.length - 1);
  return times[below] + (place - below) * (times[above] - times[below]);
}

/** The frame that is shown at a time: the last one that began. */
export function frameAt(times, time) {
  let low = 0;
  let high = times.length - 1;
  // Players round times to microseconds.
  const limit = time + 1e-5;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= limit) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** A time at which surely this frame is shown: its middle. */
export function middleOf(times, frame) {
  const last = times.length - 1;
  const step = frame < last ? times[frame + 1] - times[frame] : last > 0 ? times[last] - times[last - 1] : 0.02;
  return times[frame] + step / 2;
}

/** How fast the other video runs around a frame of this one, seconds a second; 0 where it stands still, NaN without a counterpart. */
export function paceAt(places, frame, times, otherTimes, reach) {
  const before = placeAt(places, Math.max(0, frame - reach));
  const after = placeAt(places, Math.min(places.length - 1, frame + reach));
  const here = placeAt(places, frame);
  if (Number.isNaN(here)) return NaN;
  const from = Number.isNaN(before) ? frame : Math.max(0, frame - reach);
  const to = Number.isNaN(after) ? frame : Math.min(places.length - 1, frame + reach);
  if (to - from < 0.5) return 1;
  const there = timeAt(otherTimes, Number.isNaN(after) ? here : after) - timeAt(otherTimes, Number.isNaN(before) ? here : before);
  const own = timeAt(times, to) - timeAt(times, from);
  return own > 0 ? there / own : 1;
}
