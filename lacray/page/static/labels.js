// Segments of videos: made, carried, undone. A frame has one phase.

const PALETTE = ["#3b76b5", "#e07b26", "#4c9a48", "#cf4446", "#9166b0", "#2fa3a0", "#c9a30f", "#d8629a", "#8a6547", "#6b7a8f"];

export class Colours {
  constructor() { this.phases = []; }

  /** A phase's colour; a new phase gets the next one. */
  of(phase) {
    let place = this.phases.indexOf(phase);
    if (place < 0) place = this.phases.push(phase) - 1;
    return PALETTE[place % PALETTE.length];
  }
}

/** Segments with one more, which takes its frames from the others; neighbours of its phase are joined. */
export function withMark(marks, added) {
  const rest = without(marks, added.start, added.stop);
  let { start, stop } = added;
  const others = rest.filter((mark) => {
    const isJoined = mark.phase === added.phase && (mark.stop === start || mark.start === stop);
    if (isJoined) { start = Math.min(start, mark.start); stop = Math.max(stop, mark.stop); }
    return !isJoined;
  });
  return [...others, { start, stop, phase: added.phase }].sort((one, other) => one.start - other.start);
}

/** Segments without the frames from start to stop. */
export function without(marks, start, stop) {
  return marks.flatMap((mark) => {
    if (mark.stop <= start || mark.start >= stop) return [mark];
    const left = { ...mark, stop: start };
    const right = { ...mark, start: stop };
    return [left, right].filter((part) => part.start < part.stop);
  });
}

/** The parts of a segment in which there are no others yet. */
export function free(marks, start, stop) {
  let parts = [{ start, stop }];
  for (const mark of marks) parts = without(parts, mark.start, mark.stop);
  return parts;
}

export const at = (marks, frame) => marks.find((mark) => mark.start <= frame && frame < mark.stop);

/** Segments as they are sent, and back. */
export const rows = (marks) => marks.map(({ start, stop, phase }) => [start, stop, phase]);
export const marksOf = (rows) => rows.map(([start, stop, phase]) => ({ start, stop, phase }));
export const areSame = (one, other) => JSON.stringify(rows(one)) === JSON.stringify(rows(other));

/** Labels of all videos as a segments.csv has them. */
export function asTable(clips) {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const lines = clips.flatMap((clip) => rows(clip.marks).map((row) => [clip.name, ...row].map(cell).join(",")));
  return ["video,start_frame,end_frame,phase", ...lines, ""].join("\n");
}
