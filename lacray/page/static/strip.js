// A video as a line: its phases, what was carried to it, and where the alignment has a counterpart.

/** Draw a strip; nothing in it moves, the cursor is an element of its own. */
export function draw(canvas, clip, colours, { coverage = null, names = false } = {}) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  const x = (frame) => (frame / clip.frames) * width;
  const style = getComputedStyle(document.documentElement);
  const foot = coverage ? Math.round((names ? 6 : 4) * ratio) : 0;
  const body = height - foot;
  for (const mark of clip.marks) {
    context.fillStyle = colours.of(mark.phase);
    context.fillRect(x(mark.start), 0, Math.max(ratio, x(mark.stop) - x(mark.start)), body);
  }
  for (const mark of clip.carried) {
    const left = x(mark.start);
    const wide = Math.max(2 * ratio, x(mark.stop) - left);
    context.save();
    context.beginPath();
    context.rect(left, 0, wide, body);
    context.clip();
    context.globalAlpha = 0.35;
    context.fillStyle = colours.of(mark.phase);
    context.fillRect(left, 0, wide, body);
    context.globalAlpha = 1;
    context.strokeStyle = colours.of(mark.phase);
    context.lineWidth = 1.5 * ratio;
    for (let step = left - body; step < left + wide; step += 6 * ratio) {
      context.beginPath();
      context.moveTo(step, body);
      context.lineTo(step + body, 0);
      context.stroke();
    }
    context.strokeRect(left + ratio, ratio, wide - 2 * ratio, body - 2 * ratio);
    context.restore();
  }
  if (coverage) {
    context.fillStyle = style.getPropertyValue("--accent");
    context.globalAlpha = 0.75;
    let start = -1;
    for (let frame = 0; frame <= clip.frames; frame += 1) {
      const isThere = frame < clip.frames && !Number.isNaN(coverage[frame]);
      if (isThere && start < 0) start = frame;
      if (!isThere && start >= 0) { context.fillRect(x(start), body + ratio, x(frame) - x(start), foot - ratio); start = -1; }
    }
    context.globalAlpha = 1;
  }
  if (names) {
    context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    for (const mark of [...clip.marks, ...clip.carried]) {
      const wide = x(mark.stop) - x(mark.start);
      if (wide < 26 * ratio) continue;
      context.save();
      context.beginPath();
      context.rect(x(mark.start), 0, wide - 3 * ratio, body);
      context.clip();
      context.fillStyle = "#fff";
      context.shadowColor = "rgb(0 0 0 / .6)";
      context.shadowBlur = 3 * ratio;
      context.fillText(mark.phase, x(mark.start) + 7 * ratio, body / 2);
      context.restore();
    }
  }
}

/** Frames under a pointer that is pressed on an element, until it is let go. */
export function drag(element, frames, { start, move, end }) {
  const at = (event) => {
    const box = element.getBoundingClientRect();
    return Math.min(Math.max(((event.clientX - box.left) / box.width) * frames(), 0), frames() - 1e-6);
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    event.preventDefault();
    start?.(at(event), event);
    move(at(event), event);
    const onMove = (moved) => move(at(moved), moved);
    const onEnd = (ended) => {
      element.removeEventListener("pointermove", onMove);
      element.removeEventListener("pointerup", onEnd);
      element.removeEventListener("pointercancel", onEnd);
      end?.(at(ended), ended);
    };
    element.addEventListener("pointermove", onMove);
    element.addEventListener("pointerup", onEnd);
    element.addEventListener("pointercancel", onEnd);
  });
}
