// One video element that shows given frames, or follows another one's clock.

import * as api from "./api.js";
import { frameAt, middleOf, timeAt } from "./step.js";

const FAR = 0.35; // Seconds off at which a follower jumps; less is made up for by its pace.
const SLOWEST = 0.0625; // Browsers play no slower.
const FASTEST = 8;

export class Player {
  /** @param clip the video; `clip.film` are its frames' times in the film, once they are known. */
  constructor(element, still, clip, pictureSize) {
    this.element = element;
    this.still = still;
    this.clip = clip;
    this.pictureSize = pictureSize;
    this.wanted = 0;
    this.isSeeking = false;
    this.pictureOf = -1;
    this.isLoading = false;
    this.isLoaded = false;
    element.addEventListener("seeked", () => this.settled());
    element.addEventListener("loadeddata", () => { this.reveal(); this.show(this.wanted); });
    element.addEventListener("error", () => { if (element.getAttribute("src")) this.isBroken = true; });
    still.addEventListener("load", () => this.pictured());
    still.addEventListener("error", () => this.pictured());
  }

  /** Whether the film can be shown; while it seeks, too. */
  get isReady() { return this.clip.film !== null && this.isLoaded; }

  /** Load the film, if it is made; the video element holds nothing before. */
  load() {
    if (this.clip.isFilmed && !this.element.getAttribute("src")) this.element.src = api.film(this.clip.index);
  }

  unload() {
    if (!this.element.getAttribute("src")) return;
    this.element.pause();
    this.element.removeAttribute("src");
    this.element.load();
    this.element.classList.add("unready");
    this.still.hidden = false;
    this.isSeeking = false;
    this.isLoaded = false;
  }

  reveal() {
    this.isLoaded = true;
    this.element.classList.remove("unready");
    this.still.hidden = true;
  }

  /** The frame that is on the screen. */
  get frame() {
    return this.isReady ? frameAt(this.clip.film, this.element.currentTime) : this.wanted;
  }

  /** Show a frame; of many that are asked for while one is sought, the last. */
  show(frame) {
    this.wanted = Math.min(Math.max(Math.round(frame), 0), this.clip.frames - 1);
    if (!this.isReady) { this.picture(); return; }
    if (!this.element.paused) this.pause();
    if (this.isSeeking) return;
    if (frameAt(this.clip.film, this.element.currentTime) === this.wanted && this.hasSought) return;
    this.hasSought = true;
    this.isSeeking = true;
    this.element.currentTime = middleOf(this.clip.film, this.wanted);
  }

  settled() {
    this.isSeeking = false;
    if (this.element.paused && (!this.hasSought || frameAt(this.clip.film, this.element.currentTime) !== this.wanted)) this.show(this.wanted);
    this.onSettled?.();
  }

  /** A single picture, while there is no film; one is on its way at a time. */
  picture() {
    if (this.isLoading || this.pictureOf === this.wanted) return;
    this.isLoading = true;
    this.pictureOf = this.wanted;
    this.still.src = api.picture(this.clip.index, this.wanted, this.pictureSize);
  }

  pictured() {
    this.isLoading = false;
    if (!this.isReady && this.pictureOf !== this.wanted) this.picture();
  }

  /** Be at a place now, and go on at a pace; called a few times a second while the reference plays. */
  follow(place, pace) {
    this.wanted = Math.min(Math.max(Math.round(place), 0), this.clip.frames - 1);
    if (!this.isReady) { this.picture(); return; }
    const target = timeAt(this.clip.film, place);
    const off = this.element.currentTime - target;
    if (Math.abs(off) > FAR) {
      if (!this.isSeeking) { this.isSeeking = true; this.element.currentTime = target; }
    }
    // What is off is made up for within half a second.
    const rate = pace - 2 * off;
    if (rate < SLOWEST / 2) { this.pause(); return; }
    const wanted = Math.min(Math.max(rate, SLOWEST), FASTEST);
    if (Math.abs(wanted - this.element.playbackRate) > 0.03 * this.element.playbackRate) this.element.playbackRate = wanted;
    if (this.element.paused && !this.isSeeking) this.element.play().catch(() => {});
  }

  pause() {
    if (!this.element.paused) this.element.pause();
    // Its clock may be a frame ahead of its picture: only what was sought is sure.
    this.hasSought = false;
  }
}
