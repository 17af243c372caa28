// The page: one reference video, the others in step with it, their alignments, and labels that are carried over.

import * as api from "./api.js";
import { Colours, areSame, asTable, at, free, marksOf, rows, withMark, without } from "./labels.js";
import { Player } from "./player.js";
import { frameAt, paceAt, placeAt, timeAt } from "./step.js";
import { draw as drawStrip, drag } from "./strip.js";
import { Table } from "./table.js";
import { Tile } from "./tile.js";

const STILL = 960; // Pixels of the reference's picture while there is no film.
const SHARP = 1280; // Of its picture once it has come to rest.
const REST_MS = 250;
const FOLLOW_MS = 80; // Between two looks at how far the others are off.
const POLL_MS = 500;
const REACH_S = 0.2; // Seconds to either side that the pace of a video is taken from.
const UNDONE = 100;

const $ = (id) => document.getElementById(id);
const page = {
  clips: [], tiles: [], maps: new Map(), reference: 0, partner: 1, frame: 0, isPlaying: false, colours: new Colours(),
  selection: null, live: null, undo: [], known: "", cannotSave: "",
};
const table = new Table($("table"));
let stage;

const clock = (seconds) => {
  const whole = Math.max(0, seconds);
  const minutes = Math.floor(whole / 60);
  return `${minutes}:${(whole - 60 * minutes).toFixed(2).padStart(5, "0")}`;
};
const reference = () => page.clips[page.reference];
const mapTo = (other) => page.maps.get(`${page.reference}:${other}`);
const isElsewhere = (clip) => clip.action !== reference().action; // In it something else is done: nothing corresponds.
const shortName = (name) => name.split("/").pop();

// -- Beginning.

async function begin() {
  const state = await api.state();
  document.title = `${state.root} - lacray`;
  $("root").textContent = state.root;
  $("checkpoint").textContent = `${state.videos.length} videos, ${state.checkpoint}`;
  $("checkpoint").title = state.checkpoint;
  page.cannotSave = state.cannot_save;
  page.known = state.known;
  if (page.cannotSave) { $("save").disabled = true; $("save").title = page.cannotSave; }
  page.colours.phases = [...state.phases];
  page.clips = state.videos.map((video, index) => {
    const marks = marksOf(video.marks);
    return { ...video, index, marks, saved: marks, carried: [], times: null, film: null, isFilmed: false };
  });
  showNotes(state.notes);
  page.partner = page.clips.length > 1 ? 1 : 0;
  page.tiles = page.clips.map((clip) => new Tile(clip, { onScrub: scrubTile, onScrubbed: () => follow(), onChoose: choose, onReference: (tile) => makeReference(tile.clip.index, tile.player.frame) }));
  // The shape that most of them have.
  const shapes = page.clips.map((clip) => clip.width / clip.height).sort((one, other) => one - other);
  $("grid").style.setProperty("--aspect", Math.min(Math.max(shapes[shapes.length >> 1], 0.75), 16 / 9));
  $("grid").append(...page.tiles.map((tile) => tile.root));
  watchTiles();
  stage = new Player($("film"), $("still"), reference(), STILL);
  stage.element.addEventListener("ended", pause);
  listen();
  setPhases();
  await setReference(0, 0);
  progressed(state.progress);
  poll();
  document.documentElement.dataset.ready = "yes";
}

function watchTiles() {
  const byElement = new Map(page.tiles.map((tile) => [tile.root, tile]));
  // Only what can be seen is decoded; what is near is loaded.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const tile = byElement.get(entry.target);
      tile.isVisible = entry.isIntersecting;
      if (tile.isVisible) { tile.player.load(); if (!page.isPlaying) followOne(tile, true); tile.draw(page.colours, coverageOf(tile)); } else tile.player.pause();
    }
  }, { rootMargin: "60px" });
  for (const tile of page.tiles) seen.observe(tile.root);
  new ResizeObserver(() => redraw()).observe($("grid"));
}

async function timed(clip) {
  if (clip.times === null) {
    const { times, film } = await api.times(clip.index);
    clip.times = times;
    clip.film = film;
  }
  return clip;
}

// -- What the server has made meanwhile.

let polling = null;
async function poll() {
  clearTimeout(polling);
  try {
    const progress = await api.progress(page.reference);
    await progressed(progress);
    if (progress.busy) polling = setTimeout(poll, POLL_MS);
  } catch (error) {
    $("said").textContent = api.ENDED;
    polling = setTimeout(poll, 4 * POLL_MS);
  }
}

async function progressed(progress) {
  if (progress.busy) $("said").textContent = progress.said;
  $("said").classList.toggle("busy", progress.busy);
  for (const [number, text] of Object.entries(progress.trouble)) page.tiles[number].trouble(text);
  for (const number of progress.films) {
    const clip = page.clips[number];
    if (clip.isFilmed) continue;
    await timed(clip);
    clip.isFilmed = true;
    if (page.tiles[number].isVisible) page.tiles[number].player.load();
    if (number === page.reference) stage.load();
  }
  if (progress.reference !== page.reference) return;
  const wanted = page.reference;
  const missing = progress.aligned.filter((other) => !page.maps.has(`${wanted}:${other}`));
  await Promise.all(missing.map(async (other) => {
    const [map] = await Promise.all([api.map(wanted, other), timed(page.clips[other])]);
    page.maps.set(`${wanted}:${other}`, map);
    const tile = page.tiles[other];
    tile.draw(page.colours, coverageOf(tile));
    if (wanted === page.reference && !page.isPlaying) followOne(tile);
  }));
  if (missing.includes(page.partner)) showTable();
  if (!progress.busy) $("said").textContent = `${page.clips.length} videos in step`;
}

// -- The reference, and the others in step with it.

async function setReference(index, frame) {
  pause();
  endLive();
  page.reference = index;
  page.frame = frame;
  page.selection = null;
  if (isElsewhere(page.clips[page.partner])) page.partner = page.clips.findIndex((clip) => clip.index !== index && !isElsewhere(clip));
  if (page.partner < 0) page.partner = index;
  const clip = await timed(page.clips[index]);
  if (page.reference !== index) return;
  stage.unload();
  stage.clip = clip;
  stage.pictureOf = -1;
  stage.hasSought = false;
  stage.load();
  $("title").textContent = reference().name;
  $("title").title = reference().name;
  roles();
  // Where it is by now: the pointer may have gone on.
  scrub(page.frame);
  redraw();
  showTable();
}

async function makeReference(index, frame) {
  if (index === page.reference) return;
  const before = page.reference;
  if (page.partner === index) page.partner = before;
  await setReference(index, frame);
  poll();
}

function roles() {
  for (const tile of page.tiles) tile.role(tile.clip.index === page.reference ? "reference" : tile.clip.index === page.partner ? "partner" : "");
}

/** Stand at a frame of the reference. */
function scrub(frame) {
  page.frame = Math.min(Math.max(Math.round(frame), 0), reference().frames - 1);
  if (stage.clip !== reference()) return;
  stage.show(page.frame);
  follow();
  sharpen();
}

/** The video's own picture in place of its small copy's, once nothing moves any more. */
let resting = null;
function sharpen() {
  const picture = $("sharp");
  clearTimeout(resting);
  picture.hidden = true;
  const [clip, frame] = [reference(), page.frame];
  if (page.isPlaying || !clip.isFilmed || Math.max(clip.height, clip.width) <= stage.element.videoWidth) return;
  resting = setTimeout(() => {
    picture.onload = () => { picture.hidden = page.isPlaying || clip !== reference() || frame !== page.frame; };
    picture.src = api.picture(clip.index, frame, SHARP);
  }, REST_MS);
}

function scrubTile(tile, frame) {
  pause();
  if (tile.clip.index === page.reference) { scrub(frame); return; }
  // The one that is scrubbed leads: it becomes the reference, at once.
  makeReference(tile.clip.index, frame);
}

function follow() {
  for (const tile of page.tiles) followOne(tile);
  pointed();
}

function placeOf(tile) {
  if (tile.clip.index === page.reference) return page.frame;
  if (isElsewhere(tile.clip)) return NaN;
  const map = mapTo(tile.clip.index);
  return map ? placeAt(map.places, page.frame) : undefined;
}

function followOne(tile, isNew = false) {
  const place = placeOf(tile);
  tile.root.classList.toggle("is-waiting", place === undefined);
  if (place === undefined) { if (isNew) tile.player.show(tile.player.wanted); return; }
  point(tile, place);
  if (!tile.isVisible) return;
  if (Number.isNaN(place)) { tile.player.pause(); if (isNew) tile.player.show(tile.player.wanted); return; }
  tile.player.show(place);
}

function point(tile, place) {
  const { times } = tile.clip;
  tile.root.dataset.place = place;
  tile.point(place, times && !Number.isNaN(place) ? clock(timeAt(times, place)) : "");
}

/** What says where the reference is. */
function pointed() {
  const clip = reference();
  $("strip").querySelector(".cursor").style.transform = `translateX(${(100 * (page.frame + 0.5)) / clip.frames}%)`;
  if (clip.times) $("clock").textContent = `${clock(clip.times[page.frame])} / ${clock(clip.end)}   frame ${page.frame}`;
  document.querySelector(".stage").dataset.frame = page.frame;
  const mark = at(clip.marks, page.frame) ?? at(clip.carried, page.frame);
  $("now-phase").textContent = mark ? mark.phase : "";
  if (mark) $("now-phase").style.setProperty("--phase", page.colours.of(mark.phase));
  table.point(page.frame);
  showSelection();
}

// -- Playing.

let ticking = null;
function play() {
  if (!stage.isReady) { toast("The reference is still being prepared for the browser."); return; }
  if (page.frame >= reference().frames - 1) scrub(0);
  page.isPlaying = true;
  sharpen();
  $("play").classList.add("playing");
  $("play").setAttribute("aria-label", "pause");
  stage.element.playbackRate = Number($("speed").value);
  stage.element.play().catch(() => pause());
  ticking = setInterval(inStep, FOLLOW_MS);
  inStep();
  requestAnimationFrame(moved);
}

function pause() {
  if (!page.isPlaying) return;
  page.isPlaying = false;
  $("play").classList.remove("playing");
  $("play").setAttribute("aria-label", "play");
  clearInterval(ticking);
  stage.pause();
  for (const tile of page.tiles) tile.player.pause();
  // Those that follow stand exactly where they belong.
  scrub(stage.frame);
}

function moved() {
  if (!page.isPlaying) return;
  const frame = stage.frame;
  if (frame !== page.frame) {
    page.frame = frame;
    for (const tile of page.tiles) {
      if (!tile.isVisible) continue;
      const place = placeOf(tile);
      if (place !== undefined) point(tile, place);
    }
    pointed();
  }
  requestAnimationFrame(moved);
}

function inStep() {
  const clip = reference();
  const now = stage.element.currentTime;
  const speed = stage.element.playbackRate;
  const frame = frameAt(clip.film, now);
  const share = frame + 1 < clip.frames ? (now - clip.film[frame]) / (clip.film[frame + 1] - clip.film[frame]) : 0;
  const exact = frame + Math.min(Math.max(share, 0), 1);
  const reach = Math.max(1, REACH_S * clip.rate);
  for (const tile of page.tiles) {
    if (!tile.isVisible) continue;
    if (tile.clip.index === page.reference) { tile.player.follow(exact, speed); continue; }
    const map = mapTo(tile.clip.index);
    const place = map ? placeAt(map.places, exact) : NaN;
    if (Number.isNaN(place)) { tile.player.pause(); continue; }
    tile.player.follow(place, speed * paceAt(map.places, exact, clip.film, tile.clip.film, reach));
  }
}

// -- Strips, table, nearest moments.

function coverageOf(tile) {
  if (tile.clip.index === page.reference) return null;
  return mapTo(tile.clip.index)?.back ?? null;
}

function redraw() {
  for (const tile of page.tiles) if (tile.isVisible) tile.draw(page.colours, coverageOf(tile));
  drawStrip($("strip").querySelector("canvas"), reference(), page.colours, { names: true, coverage: mapTo(page.partner)?.places ?? null });
}

function choose(tile) {
  if (tile.clip.index === page.reference) return;
  page.partner = tile.clip.index;
  roles();
  redraw();
  showTable();
  if (!$("panel-nearest").hidden) showNearest(tile.clip.index, tile.player.frame);
}

async function showTable() {
  const [a, b] = [page.reference, page.partner];
  $("axis-y").textContent = `${shortName(reference().name)} ↓`;
  $("axis-x").textContent = `${shortName(page.clips[b].name)} →`;
  table.clear();
  $("table-facts").textContent = "";
  if (a === b) { $("table-waiting").textContent = "An alignment needs a second video."; return; }
  if (isElsewhere(page.clips[b])) { $("table-waiting").textContent = "Another action: nothing is aligned."; return; }
  const map = mapTo(b);
  $("table-waiting").textContent = map ? "" : "being aligned ...";
  if (!map) return;
  const kind = document.querySelector("input[name=kind]:checked").value;
  const cells = await api.table(a, b, kind);
  if (a !== page.reference || b !== page.partner) return;
  table.show(cells, map, kind);
  table.point(page.frame);
  tableFacts(map);
  redraw();
}

function tableFacts(map) {
  const share = (places) => Math.round((100 * places.filter((place) => !Number.isNaN(place)).length) / places.length);
  const chance = map.p < 0.001 ? "< 0.001" : map.p.toFixed(3);
  $("table-facts").replaceChildren(
    strong(`${share(map.places)} %`), " of the reference and ", strong(`${share(map.back)} %`), ` of ${shortName(page.clips[page.partner].name)} have a counterpart; score `,
    strong(map.score.toFixed(0)), " nats, by chance ", strong(chance),
  );
}

const strong = (text) => Object.assign(document.createElement("strong"), { textContent: text });

async function showNearest(video, frame) {
  openTab("nearest");
  const clip = await timed(page.clips[video]);
  $("nearest-facts").textContent = "searching ...";
  const found = await api.nearest(video, frame);
  $("nearest-facts").replaceChildren("Most like ", strong(shortName(clip.name)), ` at ${clock(clip.times[frame])}, nearest first:`);
  const isAlone = page.clips.every((other) => other === clip || other.action !== clip.action);
  if (!found.length) $("nearest-facts").textContent = isAlone ? "There is no other video of its action." : "The videos are still being embedded.";
  $("nearest").replaceChildren(...found.map((moment) => nearestEntry(moment)));
}

function nearestEntry({ video, frame, distance }) {
  const clip = page.clips[video];
  const entry = document.createElement("li");
  entry.innerHTML = `<button><img alt="" loading="lazy"><span></span><span></span></button>`;
  const button = entry.firstChild;
  button.firstChild.src = api.picture(video, frame, 240);
  button.children[1].textContent = shortName(clip.name);
  button.children[2].textContent = `${clip.times ? clock(clip.times[frame]) : `frame ${frame}`}, distance ${distance.toFixed(2)}`;
  button.title = `${clip.name}, frame ${frame}: make it the reference there`;
  button.addEventListener("click", () => (video === page.reference ? scrub(frame) : makeReference(video, frame)));
  return entry;
}

function openTab(name) {
  for (const one of ["table", "nearest"]) {
    $(`tab-${one}`).setAttribute("aria-selected", String(one === name));
    $(`panel-${one}`).hidden = one !== name;
  }
}

// -- Labels.

function setPhases() {
  const bar = $("phases");
  bar.replaceChildren(...page.colours.phases.map((phase, place) => {
    const button = document.createElement("button");
    button.dataset.key = place < 9 ? String(place + 1) : "·";
    button.dataset.phase = phase;
    button.style.setProperty("--phase", page.colours.of(phase));
    button.append(phase);
    button.title = "label the selection; without one, begin here";
    button.addEventListener("click", () => label(phase));
    return button;
  }));
  const add = document.createElement("button");
  add.className = "add";
  add.id = "add-phase";
  add.textContent = "+ phase";
  add.addEventListener("click", () => nameInput(add));
  bar.append(add);
}

function nameInput(button) {
  const input = document.createElement("input");
  input.placeholder = "name, then Enter";
  input.maxLength = 200;
  input.setAttribute("aria-label", "name of the new phase");
  button.replaceWith(input);
  input.focus();
  let isOver = false;
  const end = (isKept) => {
    if (isOver) return;
    isOver = true;
    const name = input.value.trim();
    if (isKept && name) page.colours.of(name);
    setPhases();
  };
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
  });
  input.addEventListener("blur", () => end(true));
}

function remember() {
  page.undo.push(page.clips.map((clip) => clip.marks));
  if (page.undo.length > UNDONE) page.undo.shift();
}

const isChanged = (clip) => !areSame(clip.marks, clip.saved);
const isCarried = () => page.clips.some((clip) => clip.carried.length);

function changed() {
  $("save").classList.toggle("dirty", page.clips.some(isChanged));
  $("undo").disabled = !page.undo.length;
  $("accept").hidden = !isCarried();
  $("drop").hidden = !isCarried();
  redraw();
  pointed();
}

function mark(start, stop, phase) {
  remember();
  reference().marks = withMark(reference().marks, { start, stop, phase });
  changed();
}

/** A phase for the selection; without one it begins here, and what had begun ends here. */
function label(phase) {
  if (page.selection) {
    const { start, stop } = page.selection;
    page.selection = null;
    mark(start, stop, phase);
    return;
  }
  const begun = page.live;
  endLive();
  if (begun?.phase !== phase) page.live = { phase, start: page.frame };
  pointed();
}

/** What has begun ends here. */
function endLive() {
  const begun = page.live;
  if (!begun) return;
  page.live = null;
  const stop = page.frame === reference().frames - 1 ? page.frame + 1 : page.frame;
  if (stop > begun.start) mark(begun.start, stop, begun.phase);
}

function select(start, stop) {
  endLive();
  page.selection = { start: Math.min(start, stop - 1), stop: Math.max(stop, start + 1) };
  showSelection();
}

function showSelection() {
  const clip = reference();
  const range = page.selection ?? (page.live ? { start: Math.min(page.live.start, page.frame), stop: Math.max(page.live.start, page.frame) + 1 } : null);
  const box = $("strip").querySelector(".selection");
  box.hidden = !range;
  if (range) {
    box.style.left = `${(100 * range.start) / clip.frames}%`;
    box.style.width = `${(100 * (range.stop - range.start)) / clip.frames}%`;
  }
  for (const button of $("phases").querySelectorAll("[data-phase]")) button.classList.toggle("open", button.dataset.phase === page.live?.phase);
  const here = at(clip.marks, page.frame);
  $("carry").disabled = !here;
  $("remove").disabled = !here;
  const length = (one) => (clip.times ? ` (${((one.stop < clip.frames ? clip.times[one.stop] : clip.end) - clip.times[one.start]).toFixed(2)} s)` : "");
  let told = "shift and drag over the strip, or I and O, select; a digit labels";
  if (here) told = `${here.phase}: frames ${here.start} to ${here.stop - 1}${length(here)}`;
  if (page.live) told = `${page.live.phase} since frame ${page.live.start}; its digit ends it, another one goes on`;
  if (page.selection) told = `selected: frames ${range.start} to ${range.stop - 1}${length(range)}; a digit labels it`;
  if ($("selected").textContent !== told) $("selected").textContent = told;
}

async function carry() {
  const segment = at(reference().marks, page.frame);
  if (!segment) { toast("Put the cursor into a segment first: that one is carried."); return; }
  $("carry").disabled = true;
  $("carry").textContent = "carrying ...";
  try {
    const from = page.reference;
    const { carried, whole } = await api.carry(from, segment.start, segment.stop);
    let [num, lacking, taken] = [0, 0, 0];
    for (const one of carried) {
      const clip = page.clips[one.video];
      if (one.start === undefined) { lacking += 1; continue; }
      const parts = free(clip.marks, one.start, one.stop);
      if (!parts.length) { taken += 1; continue; }
      // Carried anew it takes the place of what was; the same phase, done again elsewhere, stays.
      const isOther = (old) => old.phase !== segment.phase || old.stop <= one.start || old.start >= one.stop;
      clip.carried = [...clip.carried.filter(isOther), ...parts.map((part) => ({ ...part, phase: segment.phase }))];
      num += 1;
    }
    const told = [`“${segment.phase}” carried to ${num} videos: Keep or Drop`];
    if (lacking) told.push(`${lacking} have no counterpart of it`);
    if (taken) told.push(`${taken} have labels there already`);
    if (!whole) told.push("not all videos are aligned yet");
    toast(told.join("; "));
    changed();
  } catch (error) {
    toast(error.message, { isTrouble: true });
  } finally {
    $("carry").textContent = "Carry to all";
    showSelection();
  }
}

function keep() {
  if (!isCarried()) return;
  remember();
  for (const clip of page.clips) {
    // What was labelled by hand since it was carried stays.
    const own = clip.marks;
    for (const one of clip.carried) for (const part of free(own, one.start, one.stop)) clip.marks = withMark(clip.marks, { ...part, phase: one.phase });
    clip.carried = [];
  }
  changed();
}

function drop() {
  for (const clip of page.clips) clip.carried = [];
  changed();
}

function remove() {
  const segment = at(reference().marks, page.frame);
  if (!segment) return;
  remember();
  reference().marks = without(reference().marks, segment.start, segment.stop);
  changed();
}

function undo() {
  const marks = page.undo.pop();
  if (!marks) return;
  page.clips.forEach((clip, place) => { clip.marks = marks[place]; });
  changed();
}

async function save(anyway = false) {
  if (page.cannotSave) { toast(page.cannotSave, { isTrouble: true }); return; }
  endLive();
  pointed();
  const formats = ["csv", ...($("as-boris").checked ? ["boris"] : []), ...($("as-elan").checked ? ["elan"] : [])];
  const marks = Object.fromEntries(page.clips.filter(isChanged).map((clip) => [clip.name, rows(clip.marks)]));
  const sent = page.clips.map((clip) => clip.marks);
  try {
    const answer = await api.save(marks, formats, page.known, anyway);
    page.known = answer.known;
    answer.marks.forEach((own, place) => taken(page.clips[place], sent[place], marksOf(own)));
    changed();
    const more = answer.written.length > 3 ? ` and ${answer.written.length - 3} more` : "";
    const told = [`Saved: ${answer.written.slice(0, 3).join(", ")}${more}`, ...answer.problems];
    if (isCarried()) told.push("what was carried is not: Keep or Drop");
    toast(told.join("; "), { isTrouble: answer.problems.length > 0 });
  } catch (error) {
    const ways = { 409: ["Save all the same", () => save(true)], 0: ["Keep them as a file", download] };
    const [button, run] = ways[error.status] ?? ["", null];
    toast(error.message ?? String(error), { isTrouble: true, button, run });
  }
}

/** All labels as a segments.csv of the browser's downloads: nobody is there who could save them. */
function download() {
  const link = Object.assign(document.createElement("a"), { download: "segments.csv" });
  link.href = URL.createObjectURL(new Blob([asTable(page.clips)], { type: "text/csv" }));
  link.click();
  URL.revokeObjectURL(link.href);
}

/** What is on disk of a video now, which may be something else's work; what was done on the page meanwhile stays. */
function taken(clip, sent, marks) {
  if (clip.marks === sent && !areSame(sent, marks)) {
    clip.marks = marks;
    page.undo = [];
    marks.forEach((mark) => page.colours.of(mark.phase));
    setPhases();
  }
  clip.saved = marks;
}

// -- What is said, and what is pressed.

let toasting = null;
function toast(text, { isTrouble = false, button = "", run = null } = {}) {
  clearTimeout(toasting);
  $("toast").hidden = false;
  $("toast").classList.toggle("trouble", isTrouble);
  $("toast").querySelector("p").textContent = text;
  $("toast-do").hidden = !button;
  $("toast-do").textContent = button;
  $("toast-do").onclick = () => { $("toast").hidden = true; run?.(); };
  if (!isTrouble) toasting = setTimeout(() => { $("toast").hidden = true; }, 6000);
}

function showNotes(notes) {
  $("notes-button").hidden = !notes.length;
  $("notes-button").textContent = `${notes.length} note${notes.length > 1 ? "s" : ""}`;
  $("notes").querySelector("ul").replaceChildren(...notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("lacray-theme", theme); } catch { /* a browser may keep nothing */ }
  if (page.clips.length) { redraw(); table.draw(); }
}

function otherTheme() { setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); }

function nextPartner(step) {
  const number = page.clips.length;
  if (number < 2) return;
  let next = page.partner;
  do next = (next + step + number) % number; while (next === page.reference);
  choose(page.tiles[next]);
  page.tiles[next].root.scrollIntoView({ block: "nearest" });
}

function stepBy(frames) { pause(); scrub(page.frame + frames); }
const second = () => Math.max(1, Math.round(reference().rate));

const KEYS = {
  " ": () => (page.isPlaying ? pause() : play()),
  ArrowLeft: (event) => stepBy(event.shiftKey ? -second() : -1),
  ArrowRight: (event) => stepBy(event.shiftKey ? second() : 1),
  Home: () => { pause(); scrub(0); },
  End: () => { pause(); scrub(reference().frames - 1); },
  ArrowUp: () => nextPartner(-1),
  ArrowDown: () => nextPartner(1),
  Enter: (event) => {
    const focused = event.target.closest(".tile");
    const tile = page.tiles[focused ? Number(focused.dataset.index) : page.partner];
    makeReference(tile.clip.index, tile.player.frame);
  },
  i: () => select(page.frame, Math.max(page.selection?.stop ?? 0, page.frame + 1)),
  o: () => select(Math.min(page.selection?.start ?? page.frame, page.frame), page.frame + 1),
  c: carry,
  a: keep,
  n: () => showNearest(page.reference, page.frame),
  t: otherTheme,
  Delete: remove,
  Backspace: remove,
  Escape: () => { page.selection = null; page.live = null; $("toast").hidden = true; drop(); },
  "?": () => $("help").showModal(),
};

function pressed(event) {
  if (document.querySelector("dialog[open]") || event.target.closest("input:not([type]), select")) return;
  if (event.ctrlKey || event.metaKey) {
    const run = { s: () => save(), z: undo }[event.key.toLowerCase()];
    if (run) { event.preventDefault(); run(); }
    return;
  }
  if (event.altKey) return;
  // A button that has the focus takes what presses buttons.
  if (event.target.closest("button, input") && (event.key === " " || event.key === "Enter" || event.key.startsWith("Arrow"))) return;
  const phase = /^[1-9]$/.test(event.key) ? page.colours.phases[Number(event.key) - 1] : undefined;
  const run = phase ? () => label(phase) : KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!run) return;
  event.preventDefault();
  run(event);
}

function listen() {
  document.addEventListener("keydown", pressed);
  // After a click the keys are the page's again.
  document.addEventListener("click", (event) => { if (event.detail > 0) event.target.closest("button, input[type]")?.blur(); });
  $("play").addEventListener("click", () => (page.isPlaying ? pause() : play()));
  $("back").addEventListener("click", () => stepBy(-1));
  $("forward").addEventListener("click", () => stepBy(1));
  $("speed").addEventListener("change", () => { stage.element.playbackRate = Number($("speed").value); $("speed").blur(); });
  for (const [id, run] of Object.entries({ carry, accept: keep, drop, remove, undo, theme: otherTheme, save: () => save() })) $(id).addEventListener("click", () => run());
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("notes-button").addEventListener("click", () => $("notes").showModal());
  $("toast-close").addEventListener("click", () => { $("toast").hidden = true; });
  $("tab-table").addEventListener("click", () => openTab("table"));
  $("tab-nearest").addEventListener("click", () => openTab("nearest"));
  for (const radio of document.querySelectorAll("input[name=kind]")) radio.addEventListener("change", () => { radio.blur(); showTable(); });
  $("screen").addEventListener("click", () => { pause(); showNearest(page.reference, page.frame); });
  let isSelecting = false;
  let first = 0;
  drag($("strip"), () => reference().frames, {
    start: (frame, event) => { pause(); isSelecting = event.shiftKey; first = Math.floor(frame); },
    move: (frame) => {
      const here = Math.floor(frame);
      if (isSelecting) select(Math.min(first, here), Math.max(first, here) + 1);
      scrub(here);
    },
  });
  drag($("table"), () => 1, { start: pause, move: (_, event) => { const found = table.under(event); if (found) scrub(Math.floor(found.frame)); } });
  $("table").addEventListener("pointermove", hovered);
  $("table").addEventListener("pointerleave", () => { const map = mapTo(page.partner); if (map) tableFacts(map); });
  window.addEventListener("beforeunload", (event) => { if (page.live || isCarried() || page.clips.some(isChanged)) event.preventDefault(); });
}

function hovered(event) {
  const found = table.under(event);
  if (!found || !reference().times) return;
  const [frame, other] = [Math.floor(found.frame), Math.floor(found.other)];
  const place = placeAt(table.map.places, frame);
  const there = page.clips[page.partner].times;
  const value = table.kind === "match" ? `probability ${((found.value / 255) ** 2).toFixed(2)}` : `log-odds ${(((found.value - 128) / 127) * 6).toFixed(1)}`;
  const counterpart = Number.isNaN(place) ? "no counterpart" : `counterpart ${clock(timeAt(there, place))}`;
  $("table-facts").replaceChildren(strong(clock(reference().times[frame])), " with ", strong(clock(there[other])), `: ${value}; ${counterpart}`);
}

let theme = null;
try { theme = localStorage.getItem("lacray-theme"); } catch { /* nothing is kept */ }
setTheme(theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
begin().catch((error) => {
  $("said").textContent = "";
  toast(`The page cannot be shown: ${error.message}`, { isTrouble: true });
});
