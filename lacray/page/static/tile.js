// A video in the grid: its picture, its strip, its name.

import { Player } from "./player.js";
import { draw, drag } from "./strip.js";

const PICTURE = 320; // Pixels of a single picture's longer side.

export class Tile {
  constructor(clip, { onScrub, onScrubbed, onChoose, onReference }) {
    this.clip = clip;
    this.isVisible = false;
    this.root = document.createElement("article");
    this.root.className = "tile";
    this.root.tabIndex = 0;
    this.root.dataset.index = clip.index;
    this.root.setAttribute("aria-label", clip.name);
    this.root.innerHTML = `<div class="picture"><img alt=""><video class="unready" muted playsinline disablepictureinpicture preload="auto"></video>
      <span class="absent">no counterpart here</span><span class="absent waits">being aligned</span><span class="flag"></span><button class="make-reference" title="make this the reference">reference</button></div>
      <div class="strip"><canvas aria-hidden="true"></canvas><div class="cursor"></div></div><p class="name"><b></b><span></span></p>`;
    const find = (selector) => this.root.querySelector(selector);
    this.canvas = find("canvas");
    this.cursor = find(".cursor");
    this.flag = find(".flag");
    this.time = find(".name span");
    // A mark that keeps what is written from right to left in order: the end of a long path is what tells.
    find(".name b").textContent = `\u200e${clip.name}`;
    find(".name b").title = clip.name;
    this.player = new Player(find("video"), find("img"), clip, PICTURE);
    find(".picture").addEventListener("click", () => onChoose(this));
    find(".picture").addEventListener("dblclick", () => onReference(this));
    find(".make-reference").addEventListener("click", (event) => { event.stopPropagation(); onReference(this); });
    drag(find(".strip"), () => clip.frames, { move: (frame) => onScrub(this, Math.floor(frame)), end: () => onScrubbed(this) });
  }

  /** What it is to the page. */
  role(name) {
    this.root.classList.toggle("reference", name === "reference");
    this.root.classList.toggle("partner", name === "partner");
    this.flag.textContent = name === "reference" ? "reference" : name === "partner" ? "in the table" : "";
  }

  draw(colours, coverage) { draw(this.canvas, this.clip, colours, { coverage }); }

  /** Put the cursor to a place; NaN: there is none. */
  point(place, time) {
    const isAbsent = Number.isNaN(place);
    if (isAbsent !== this.isAbsent) { this.isAbsent = isAbsent; this.root.classList.toggle("is-absent", isAbsent); }
    this.cursor.hidden = isAbsent;
    if (isAbsent) return;
    this.cursor.style.transform = `translateX(${(100 * (place + 0.5)) / this.clip.frames}%)`;
    if (time !== this.said) { this.said = time; this.time.textContent = time; }
  }

  trouble(text) {
    if (this.root.querySelector(".trouble")) return;
    const told = document.createElement("p");
    told.className = "trouble";
    told.textContent = text;
    this.root.querySelector(".picture").append(told);
  }
}
