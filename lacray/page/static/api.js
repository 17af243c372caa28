// What the page asks of its server. All addresses are relative: they carry the token that the page's own has.

export class Refused extends Error {
  constructor(problems, status) {
    super(problems.join("\n"));
    this.status = status;
  }
}

async function answer(response) {
  if (response.ok) return response;
  const kind = response.headers.get("Content-Type") ?? "";
  const problems = kind.includes("json") ? (await response.json()).problems : [await response.text()];
  throw new Refused(problems, response.status);
}

export const ENDED = "lacray.view has ended: nothing can be loaded or saved any more";

/** Browsers have words of their own for a server that is gone, which say nothing to who labels. */
async function asked(path, options) {
  try { return await fetch(path, options); } catch { throw new Refused([ENDED], 0); }
}

const get = async (path) => answer(await asked(path));
const post = async (path, body) =>
  (await answer(await asked(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }))).json();

export const state = async () => (await get("api/state")).json();
export const progress = async (reference) => (await get(`api/progress?reference=${reference}`)).json();
export const nearest = async (video, frame) => (await get(`api/nearest/${video}/${frame}`)).json();
export const carry = (video, start, stop) => post("api/carry", { video, start, stop });
export const save = (marks, formats, known, anyway) => post("api/save", { marks, formats, known, anyway });
export const film = (video) => `film/${video}.mp4`;
export const picture = (video, frame, size) => `picture/${video}/${frame}/${size}.jpg`;

/** Of each frame: its time in the video, and in the film that the browser plays, in seconds. */
export async function times(video) {
  const all = new Float64Array(await (await get(`api/times/${video}`)).arrayBuffer());
  return { times: all.subarray(0, all.length / 2), film: all.subarray(all.length / 2) };
}

/** The alignment of a with b. */
export async function map(a, b) {
  const all = new Float32Array(await (await get(`api/map/${a}/${b}`)).arrayBuffer());
  const [score, p, n, m, l] = all;
  return { score, p, places: all.subarray(5, 5 + n), back: all.subarray(5 + n, 5 + n + m), path: all.subarray(5 + n + m, 5 + n + m + 2 * l) };
}

/** A picture of that alignment's table, a byte a cell. */
export async function table(a, b, kind) {
  const content = await (await get(`api/table/${a}/${b}/${kind}`)).arrayBuffer();
  const [height, width] = new Uint16Array(content, 0, 2);
  return { height, width, cells: new Uint8Array(content, 4) };
}
