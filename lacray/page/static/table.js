// The alignment of the reference (downwards) with another video (to the right), as a picture that can be pointed at.

import { placeAt } from "./step.js";

const mix = (from, to, share) => from.map((value, place) => value + (to[place] - value) * share);
const SCALES = {
  light: { ground: [255, 255, 255], match: [[238, 242, 240], [94, 190, 178], [6, 78, 70]], against: [214, 120, 60], within: [13, 110, 103] },
  dark: { ground: [27, 33, 32], match: [[30, 37, 36], [24, 132, 122], [160, 255, 240]], against: [196, 98, 44], within: [45, 212, 191] },
};

function palette(kind, theme) {
  const scale = SCALES[theme];
  return Array.from({ length: 256 }, (_, value) => {
    if (kind === "match") {
      const share = value / 255;
      return share < 0.5 ? mix(scale.match[0], scale.match[1], share * 2) : mix(scale.match[1], scale.match[2], share * 2 - 1);
    }
    const share = (value - 128) / 127;
    return mix(scale.ground, share < 0 ? scale.against : scale.within, Math.min(1, Math.abs(share)));
  });
}

export class Table {
  constructor(root) {
    this.canvas = root.querySelector("canvas");
    this.root = root;
    this.cross = { x: root.querySelector(".cross.x"), y: root.querySelector(".cross.y") };
    this.clear();
    new ResizeObserver(() => this.draw()).observe(root);
  }

  clear() { this.cells = null; this.map = null; this.draw(); }

  /** @param cells from `api.table`; @param map from `api.map`. */
  show(cells, map, kind) { this.cells = cells; this.map = map; this.kind = kind; this.draw(); }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.root.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.root.clientHeight * ratio));
    this.canvas.width = width;
    this.canvas.height = height;
    for (const line of Object.values(this.cross)) line.hidden = !this.map;
    if (!this.cells) return;
    const theme = document.documentElement.dataset.theme === "dark" ? "dark" : "light";
    const colours = palette(this.kind, theme);
    const context = this.canvas.getContext("2d");
    const image = new ImageData(this.cells.width, this.cells.height);
    this.cells.cells.forEach((value, place) => {
      const [red, green, blue] = colours[value];
      image.data.set([red, green, blue, 255], 4 * place);
    });
    const small = new OffscreenCanvas(image.width, image.height);
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width, height);
    const { places, back, path } = this.map;
    context.fillStyle = theme === "dark" ? "rgb(255 255 255 / .07)" : "rgb(40 60 90 / .10)";
    eachGap(places, (from, to) => context.fillRect(0, (from / places.length) * height, width, ((to - from) / places.length) * height));
    eachGap(back, (from, to) => context.fillRect((from / back.length) * width, 0, ((to - from) / back.length) * width, height));
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--cursor");
    context.lineWidth = 1.4 * ratio;
    context.beginPath();
    for (let step = 0; step < path.length; step += 2) {
      const x = ((path[step + 1] + 0.5) / back.length) * width;
      const y = ((path[step] + 0.5) / places.length) * height;
      if (step) context.lineTo(x, y);
      else context.moveTo(x, y);
    }
    context.stroke();
  }

  /** The lines through a frame of the reference and its counterpart. */
  point(frame) {
    if (!this.map) return;
    const place = placeAt(this.map.places, frame);
    this.cross.y.style.top = `${(100 * (frame + 0.5)) / this.map.places.length}%`;
    this.cross.x.style.left = `${(100 * (place + 0.5)) / this.map.back.length}%`;
    this.cross.x.hidden = Number.isNaN(place);
  }

  /** What lies under a pointer: both frames, and the value of the cell there. */
  under(event) {
    if (!this.cells) return null;
    const box = this.root.getBoundingClientRect();
    const across = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1 - 1e-9);
    const down = Math.min(Math.max((event.clientY - box.top) / box.height, 0), 1 - 1e-9);
    const row = Math.floor(down * this.cells.height);
    const column = Math.floor(across * this.cells.width);
    const value = this.cells.cells[row * this.cells.width + column];
    return { frame: down * this.map.places.length, other: across * this.map.back.length, value };
  }
}

function eachGap(places, call) {
  let start = -1;
  for (let frame = 0; frame <= places.length; frame += 1) {
    const isGap = frame < places.length && Number.isNaN(places[frame]);
    if (isGap && start < 0) start = frame;
    if (!isGap && start >= 0) { call(start, frame); start = -1; }
  }
}
