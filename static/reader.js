// The token reader: a cursor over tokens, layers, and labels that are saved one event at a time.
//
// The page holds a few chunks of the document and fetches others as the reader moves, so that a book
// costs no more than a page. Offsets come from the server as code points (data-s, data-e); nothing
// here ever counts characters. A change is drawn at once, dashed until the server has committed it.
"use strict";

const page = document.getElementById("reader");
const text = document.getElementById("reader-text");
const by = (id) => document.getElementById(id);

let state = JSON.parse(page.dataset.state); // what the server told us last: version, state, spans, judged, last
let labels = state; // what the page shows: the same with the unsaved events applied
let tokens = []; // of the chunks in the page, in text order
let cursor = null; // a token
let anchor = null; // the token at the other end of the selection; the cursor itself if there is none

// One thing after another: a key pressed while text is being fetched waits for it.
let work = Promise.resolve();
function later(action) {
  work = work.then(action).catch((error) => toast(error.message, "bad"));
}

// Labels: what an event does to them, as app/annotating.py has it -------------------------------

function joined(spans, start, end) {
  const touching = spans.filter((span) => span[0] <= end && start <= span[1]);
  const whole = [Math.min(start, ...touching.map((span) => span[0])), Math.max(end, ...touching.map((span) => span[1]))];
  return [...spans.filter((span) => !touching.includes(span)), whole].sort((a, b) => a[0] - b[0]);
}

function without(spans, start, end) {
  return spans.flatMap(([s, e]) => [[s, Math.min(e, start)], [Math.max(s, end), e]].filter(([a, b]) => a < b));
}

function applied(before, { action, start, end, state: to }) {
  if (action === "state") return { ...before, state: to };
  if (start === undefined) return before; // redo: only the server knows
  const spans = action === "add" || action === "right" ? joined(before.spans, start, end) : without(before.spans, start, end);
  if (action === "add" || action === "remove") return { ...before, spans, state: "part" };
  const others = before.judged.filter((range) => range[0] !== start || range[1] !== end);
  return { spans, judged: [...others, [start, end, action]].sort((a, b) => a[0] - b[0] || a[1] - b[1]), state: "part" };
}

function expected() {
  const past = [state];
  for (const event of pending) {
    if (event.action !== "undo") past.push(applied(past.at(-1), event));
    else if (past.length > 1) past.pop();
  }
  return conflict ? state : past.at(-1);
}

// Saving: oldest first, one at a time, kept in this browser until acknowledged ------------------

const shelf = `unsaved ${page.dataset.save} `;
let memory = null; // this tab's place on the shelf
let pending = [];
let conflict = null; // why the reader must decide before anything is sent: "newer" or "left"
let trouble = null; // why the newest attempt failed
let failures = 0;
let retry = 0;
let sending = false;
let leaveFor = null;

function remember() {
  if (pending.length) localStorage.setItem(memory, JSON.stringify(pending));
  else localStorage.removeItem(memory);
  labels = expected();
  draw();
}

function record(event) {
  pending.push(event);
  remember();
  flush();
}

async function flush() {
  clearTimeout(retry);
  if (sending || conflict) return;
  sending = true;
  while (pending.length && !conflict && (await attempt(pending[0]))) remember();
  sending = false;
  remember();
  if (!pending.length && leaveFor) location.assign(leaveFor);
}

// True once the server answered for this event, whatever the answer; false to try again later.
async function attempt(event) {
  const { tried, ...body } = event;
  let response, answer;
  try {
    response = await fetch(page.dataset.save, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify({ ...body, version: state.version }),
      signal: AbortSignal.timeout(15000),
    });
    if (response.status === 401 || response.status >= 500) throw new Error(String(response.status));
    answer = await response.json();
  } catch (error) {
    event.tried = true;
    trouble = error.message === "401" ? "You are logged out. Log in again in another tab;"
      : /^5/.test(error.message) ? `The server failed (${error.message});` : "Connection lost;";
    retry = setTimeout(flush, Math.min(30000, 1000 * 2 ** failures++));
    return false;
  }
  trouble = null;
  failures = 0;
  if (response.ok || (response.status === 409 && tried && arrived(event, answer))) {
    state = answer;
    pending.shift();
  } else if (response.status === 409) {
    state = answer;
    conflict = "newer";
  } else {
    pending.shift();
    leaveFor = null;
    toast(typeof answer.detail === "string" ? answer.detail : `Not saved (${response.status}).`, "bad");
  }
  return true;
}

// The answer to an earlier attempt got lost, yet the event is the newest one the server has.
function arrived(event, answer) {
  const last = answer.last;
  return last && answer.version === state.version + 1 && last.action === event.action
    && last.start === (event.start ?? null) && last.end === (event.end ?? null)
    && (event.action !== "state" || answer.state === event.state);
}

// A tab's lock lives as long as the tab, so what lies under a name that nobody holds was left behind.
async function takePlace() {
  let tab = sessionStorage.getItem("tab");
  const held = ((await navigator.locks?.query())?.held ?? []).map((lock) => lock.name);
  if (!tab || held.includes(`reader ${tab}`)) tab = Math.random().toString(36).slice(2); // new, or a duplicated tab
  sessionStorage.setItem("tab", tab);
  memory = shelf + tab;
  navigator.locks?.request(`reader ${tab}`, () => new Promise(() => {}));
  const left = Object.keys(localStorage).filter(
    (name) => name.startsWith(shelf) && (name === memory || !held.includes(`reader ${name.slice(shelf.length)}`)),
  );
  pending = left.flatMap((name) => JSON.parse(localStorage.getItem(name)));
  left.forEach((name) => localStorage.removeItem(name));
  conflict = pending.length ? "left" : null;
}

async function catchUp() {
  if (document.hidden || pending.length || sending) return;
  const response = await fetch(page.dataset.save, { headers: { Accept: "application/json" } }).catch(() => null);
  const answer = response?.ok ? await response.json() : null;
  if (!answer || pending.length || sending || answer.version <= state.version) return;
  state = answer;
  remember();
  toast(`Changed meanwhile by ${answer.last.author}: this is version ${answer.version}.`);
}

window.addEventListener("online", flush);
document.addEventListener("visibilitychange", catchUp);
window.addEventListener("beforeunload", (event) => {
  if (pending.length && !leaveFor) event.preventDefault();
});
by("apply-anyway").addEventListener("click", () => { conflict = null; remember(); flush(); });
by("drop-unsaved").addEventListener("click", () => { conflict = null; pending = []; leaveFor = null; remember(); });

// Chunks ---------------------------------------------------------------------------------------

const known = new WeakMap(); // element -> token: a token stays itself while chunks come and go
const fetched = new Map(); // code point -> promise of the chunk there

function collect() {
  let gap = null;
  tokens = [];
  for (const chunk of text.children) {
    for (const element of chunk.children) {
      const { s, e, r } = element.dataset;
      if (s === undefined) { gap = element; continue; }
      const token = known.get(element) ?? { element, start: Number(s), end: Number(e), run: r ? `${chunk.dataset.start} ${r}` : null };
      known.set(element, token);
      token.gap = gap;
      token.i = tokens.push(token) - 1;
      gap = null;
    }
  }
  const [first, last] = [text.firstElementChild.dataset, text.lastElementChild.dataset];
  for (const at of [last.after, last.flaggedAfter, first.before, first.flaggedBefore]) if (at) chunkAt(at).catch(() => {});
  by("shown").textContent = `${Number(first.start).toLocaleString("en")}–${Number(last.end).toLocaleString("en")}`;
  draw();
  for (const edge of [by("text-before"), by("text-after")]) { watcher.unobserve(edge); watcher.observe(edge); }
}

function chunkAt(at) {
  if (!fetched.has(at)) {
    const url = new URL(page.dataset.text, location.href);
    url.searchParams.set("at", at);
    fetched.set(at, fetch(url, { signal: AbortSignal.timeout(15000) }).then((response) => {
      if (!response.ok) throw new Error(String(response.status));
      return response.text();
    }));
    fetched.get(at).catch(() => fetched.delete(at));
    if (fetched.size > 60) fetched.delete(fetched.keys().next().value);
  }
  return fetched.get(at);
}

async function chunk(at) {
  const holder = document.createElement("template");
  try {
    holder.innerHTML = await chunkAt(String(at));
  } catch {
    throw new Error("The text there could not be fetched: no connection to the server.");
  }
  return holder.content.firstElementChild;
}

// One more chunk on this side; those far out of sight on the other go. What is being read stays in place.
async function slide(step) {
  const edge = step > 0 ? text.lastElementChild : text.firstElementChild;
  const at = step > 0 ? edge.dataset.after : edge.dataset.before;
  if (at === undefined) return false;
  const next = await chunk(at);
  const fixed = edge.children[edge.children.length >> 1] ?? edge;
  const top = fixed.getBoundingClientRect().top;
  if (step > 0) text.append(next);
  else text.prepend(next);
  const far = (box) => (step > 0 ? box.bottom < -1.5 * innerHeight : box.top > 2.5 * innerHeight);
  const other = () => (step > 0 ? text.firstElementChild : text.lastElementChild);
  while (other() !== edge && far(other().getBoundingClientRect())) other().remove();
  scrollBy(0, fixed.getBoundingClientRect().top - top);
  collect();
  return true;
}

// The chunk around a code point, alone: its neighbours follow when it is on the screen.
async function jump(at) {
  text.replaceChildren(await chunk(at));
  collect();
}

// The cursor's chunk may have been scrolled away; a key brings it back.
async function present() {
  if (!cursor || cursor.element.isConnected) return;
  const { start } = cursor;
  await jump(start);
  const selecting = anchor !== cursor;
  cursor = nearest(start);
  if (!selecting) anchor = cursor;
}

const nearest = (at) => tokens.find((token) => token.end > at) ?? tokens.at(-1) ?? null;

// No key waits for this: the chunk is fetched first, and only then is its turn.
async function approach(step) {
  const at = step > 0 ? text.lastElementChild.dataset.after : text.firstElementChild.dataset.before;
  if (at === undefined || !(await chunkAt(at).catch(() => null))) return;
  later(() => (step > 0 ? text.lastElementChild.dataset.after : text.firstElementChild.dataset.before) === at && slide(step));
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) approach(entry.target.id === "text-after" ? 1 : -1);
}, { rootMargin: "100% 0px" });

// Drawing --------------------------------------------------------------------------------------

const MARKS = ["gold", "unsaved", "right", "wrong", "selected", "cursor"];
const painted = new WeakMap(); // element -> the marks it bears, as bits

function paint(element, bits) {
  const changed = bits ^ (painted.get(element) ?? 0);
  if (!changed) return;
  MARKS.forEach((name, i) => changed & (1 << i) && element.classList.toggle(name, Boolean(bits & (1 << i))));
  painted.set(element, bits);
}

// Asked in text order of ranges sorted by start: the one that touches the token.
function sweep(ranges) {
  let i = 0;
  return (token) => {
    while (i < ranges.length && ranges[i][1] <= token.start) i++;
    return i < ranges.length && ranges[i][0] < token.end ? ranges[i] : null;
  };
}

function draw() {
  const ranges = pending.filter((event) => event.start !== undefined).map((event) => [event.start, event.end]);
  const [gold, judged, unsaved] = [labels.spans, labels.judged, ranges.sort((a, b) => a[0] - b[0])].map(sweep);
  const [first, last] = cursor ? selection() : [];
  let before = 0, spanBefore = null;
  for (const token of tokens) {
    const span = gold(token), verdict = judged(token)?.[2];
    const inside = anchor !== cursor && token.start >= first.start && token.end <= last.end;
    const bits = [span, unsaved(token), verdict === "right", verdict === "wrong", inside]
      .reduce((sum, on, i) => sum | (on ? 1 << i : 0), 0);
    paint(token.element, bits | (token === cursor ? 32 : 0));
    if (token.gap) paint(token.gap, bits & before & (span === spanBefore ? ~0 : ~1)); // two spans stay two
    [before, spanBefore] = [bits, span];
  }
  drawStatus();
  drawCursor();
}

function describe(event) {
  const verbs = { add: "mark as forget", remove: "unmark", right: "judge right", wrong: "judge wrong", undo: "undo", redo: "redo" };
  if (event.action === "state") return `set the document to ${event.state}`;
  if (event.start === undefined) return verbs[event.action];
  return `${verbs[event.action]} ${event.surface ? `“${event.surface.slice(0, 120)}”` : `${event.start}–${event.end}`}`;
}

function drawStatus() {
  by("state").className = `badge state-${labels.state}`;
  by("state").textContent = labels.state;
  const many = `${pending.length} change${pending.length === 1 ? "" : "s"}`;
  by("saved").textContent = pending.length ? (sending && !trouble ? "Saving…" : `${many} not saved`)
    : state.version ? `Saved · version ${state.version}` : "Nothing marked yet";
  by("saved").classList.toggle("bad", pending.length > 0 && !sending);
  by("span-count").textContent = labels.spans.length.toLocaleString("en");
  by("judged-count").textContent = labels.judged.length.toLocaleString("en");
  const shown = Boolean(pending.length && (conflict || trouble));
  by("unsaved").hidden = !shown;
  if (!shown) return;
  by("unsaved-why").textContent = conflict === "newer"
    ? `Changed meanwhile by ${state.last?.author ?? "somebody"}: the page now shows version ${state.version}, and your change is not in it.`
    : conflict ? "This was not saved when the page was left." : `${trouble} ${many} not saved yet. The page keeps trying.`;
  by("unsaved-events").replaceChildren(...pending.map((event) => {
    const item = document.createElement("li");
    item.textContent = describe(event);
    return item;
  }));
  by("apply-anyway").hidden = by("drop-unsaved").hidden = !conflict;
}

function drawCursor() {
  if (!cursor) return;
  const said = ["seed", "grown", "vetoed"].find((name) => cursor.element.classList.contains(name));
  const shown = cursor.element.textContent;
  by("at-text").textContent = cursor.element.classList.contains("unseen")
    ? [...shown].map((character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`).join(" ") : shown;
  by("at-offsets").textContent = `${cursor.start}–${cursor.end}`;
  if (by("at-rule")) by("at-rule").textContent = said ?? "no";
  if (by("at-p")) by("at-p").textContent = cursor.element.dataset.p || "–";
  const [first, last] = selection();
  const count = tokens.filter((token) => token.start >= first.start && token.end <= last.end).length;
  by("at-selection").textContent = anchor !== cursor ? `${count} tokens` : "–";
  by("outline-here")?.setAttribute("x", String((1000 * cursor.start) / Number(page.dataset.characters)));
}

// The cursor -----------------------------------------------------------------------------------

const selection = () => (anchor.start <= cursor.start ? [anchor, cursor] : [cursor, anchor]);

function go(token, extend = false) {
  if (!token) return;
  cursor = token;
  if (!extend) anchor = token;
  draw();
  cursor.element.scrollIntoView({ block: "nearest" });
  rest();
}

async function neighbour(token, step) {
  if (!tokens[token.i + step]) await slide(step);
  return tokens[token.i + step] ?? null;
}

// In a right-to-left paragraph the next token lies to the left.
function ahead() {
  let i = cursor.i;
  while (i > 0 && !tokens[i].gap?.textContent.includes("\n")) i--;
  while (i < tokens.length - 1 && !/\p{L}/u.test(tokens[i].element.textContent)) i++;
  return /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u.test(tokens[i].element.textContent) ? -1 : 1;
}

// The token nearest below (or above) the cursor, on the next line of the page.
async function vertical(step) {
  const box = (token) => token.element.getClientRects()[0];
  const here = box(cursor);
  let line = null, best = null, nearest = Infinity;
  for (let token = cursor; (token = await neighbour(token, step)); ) {
    const there = box(token);
    if (!there || Math.abs(there.top - box(cursor).top) < 4) continue;
    line ??= there.top - box(cursor).top;
    if (Math.abs(there.top - box(cursor).top - line) > 4) break;
    const distance = Math.abs(there.left - here.left);
    if (distance < nearest) [best, nearest] = [token, distance];
  }
  return best;
}

async function end(of) {
  if (of < 0 ? text.firstElementChild.dataset.before : text.lastElementChild.dataset.after) await jump(of < 0 ? 0 : page.dataset.last);
  return of < 0 ? tokens[0] : tokens.at(-1);
}

const moves = {
  ArrowRight: () => neighbour(cursor, ahead()), ArrowLeft: () => neighbour(cursor, -ahead()),
  ArrowDown: () => vertical(1), ArrowUp: () => vertical(-1),
  l: () => neighbour(cursor, 1), h: () => neighbour(cursor, -1), j: () => vertical(1), k: () => vertical(-1),
  Home: () => end(-1), End: () => end(1),
};

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.target.closest("input, textarea, select, [contenteditable]") || busy()) return;
  if ((event.ctrlKey || event.metaKey) && !event.altKey && /^[zy]$/i.test(event.key)) {
    event.preventDefault();
    return press(event.key === "z" ? "undo" : "redo");
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const move = moves[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (move) {
    event.preventDefault();
    later(async () => { await present(); if (cursor) go(await move(), event.shiftKey); });
  } else if (event.key === "Escape") later(() => go(cursor));
});

// A click puts the cursor on a token; a drag (or Shift and a click) selects whole tokens and marks nothing.
function under(event) {
  const element = event.target.closest("#reader-text .chunk > span");
  return element && (known.get(element) ?? known.get(element.nextElementSibling) ?? null);
}

text.addEventListener("mousedown", (event) => {
  const token = event.button === 0 && under(event);
  if (!token) return;
  event.preventDefault(); // the browser's own selection knows no tokens
  text.focus({ preventScroll: true });
  go(token, event.shiftKey);
});
text.addEventListener("mousemove", (event) => {
  const token = event.buttons === 1 && under(event);
  if (token && token !== cursor) go(token, true);
});
document.addEventListener("copy", (event) => {
  if (!cursor || !getSelection().isCollapsed || event.target.closest?.("input, textarea")) return;
  const [first, last] = selection();
  event.clipboardData.setData("text/plain", surface(first.start, last.end) ?? "");
  event.preventDefault();
});

// Suggestions ----------------------------------------------------------------------------------

const touching = (ranges, token) => ranges.find((range) => range[0] < token.end && token.start < range[1]);
const unjudged = (token) => !touching(labels.judged, token);

// First and last token of the suggestion under a token; the token itself if there is none.
function bounds(token) {
  if (token.run === null) return [token, token];
  const run = tokens.filter((other) => other.run === token.run);
  return [run[0], run.at(-1)];
}

// The next or previous suggestion's first token, wherever in the document it is.
async function suggestion(step, wanted = () => true) {
  const here = cursor.run;
  for (let i = cursor.i; ; ) {
    for (i += step; tokens[i]; i += step) {
      if (tokens[i].run !== null && tokens[i].run !== here && wanted(tokens[i])) return bounds(tokens[i])[0];
    }
    const edge = step > 0 ? text.lastElementChild.dataset.flaggedAfter : text.firstElementChild.dataset.flaggedBefore;
    if (edge === undefined) break;
    await jump(edge);
    i = step > 0 ? -1 : tokens.length;
  }
  await present();
  return null;
}

async function flagged(step) {
  const found = await suggestion(step);
  if (found) go(found);
  else toast(step > 0 ? "No suggestion further on." : "No suggestion before this one.");
}

async function judge(verdict) {
  if (anchor === cursor && cursor.run === null) return toast("No suggestion under the cursor. Go to one with n, or select tokens and press m.");
  const [first, last] = anchor === cursor ? bounds(cursor) : selection();
  ranged(verdict, first.start, last.end);
  go(last);
  const next = await suggestion(1, unjudged);
  if (next) go(next);
  else toast("No suggestion is left further on.");
}

// Spans ----------------------------------------------------------------------------------------

// What the page shows at a range, for the server to compare; undefined if it lies across no token borders here.
function surface(start, end) {
  const first = tokens.find((token) => token.start === start || token.end === start);
  const last = tokens.findLast((token) => token.end === end || token.start === end);
  if (!first || !last) return undefined;
  const range = document.createRange();
  if (first.start === start) range.setStartBefore(first.element);
  else range.setStartAfter(first.element);
  if (last.end === end) range.setEndAfter(last.element);
  else range.setEndBefore(last.element);
  return range.toString();
}

function ranged(action, start, end) {
  record({ action, start, end, surface: surface(start, end) });
}

function mark() {
  const [first, last] = selection();
  const others = labels.spans.filter((span) => span[0] <= last.end && first.start <= span[1]);
  if (others.some((span) => span[0] <= first.start && last.end <= span[1])) return toast("This is marked already.");
  ranged("add", first.start, last.end);
  if (others.length) toast(others.length > 1 ? `Joined with ${others.length} spans.` : "Joined with the span there.");
  go(cursor);
}

function remove() {
  if (anchor !== cursor) {
    const [first, last] = selection();
    return ranged("remove", first.start, last.end);
  }
  const span = touching(labels.spans, cursor);
  if (span) ranged("remove", ...span);
  else toast("No forget span under the cursor.");
}

// Move one end by a token: of the selection, else of the span under the cursor, else of the suggestion
// there, which becomes the selection to judge or mark.
async function resize(which, step) {
  const span = anchor === cursor ? touching(labels.spans, cursor) : null;
  if (span) return resizeSpan(span, which, step);
  const ends = anchor === cursor ? bounds(cursor) : selection();
  const at = which === "start" ? 0 : 1;
  const moved = await neighbour(ends[at], step);
  if (!moved || (at ? moved.start < ends[0].start : moved.start > ends[1].start)) return;
  anchor = ends[1 - at];
  go(moved, true);
}

async function resizeSpan([start, end], which, step) {
  const at = which === "start" ? start : end;
  if (at < tokens[0].start || at > tokens.at(-1).end) await jump(at);
  const edge = which === "start" ? tokens.find((token) => token.end > start) : tokens.findLast((token) => token.start < end);
  const next = await neighbour(edge, step);
  if (which === "start" && step < 0) {
    const to = edge.start < start ? edge : next;
    if (to) { ranged("add", to.start, start); go(to); }
  } else if (which === "end" && step > 0) {
    const to = edge.end > end ? edge : next;
    if (to) { ranged("add", end, to.end); go(to); }
  } else if (!next || next.start >= end || next.end <= start) {
    toast("A span keeps one token; r removes it.");
  } else {
    if (which === "start") ranged("remove", start, next.start);
    else ranged("remove", next.end, end);
    go(next);
  }
}

// What the buttons do (app.js presses them by key) ----------------------------------------------

const actions = {
  right: () => judge("right"),
  wrong: () => judge("wrong"),
  mark,
  remove,
  undo: () => record({ action: "undo" }),
  redo: () => record({ action: "redo" }),
  "next-flagged": () => flagged(1),
  "previous-flagged": () => flagged(-1),
  "start-earlier": () => resize("start", -1),
  "start-later": () => resize("start", 1),
  "end-earlier": () => resize("end", -1),
  "end-later": () => resize("end", 1),
};

const busy = () => document.querySelector("dialog[open]") !== null;

function press(action) {
  if (action === "help") return by("help").showModal();
  if (action === "why") return explain();
  later(async () => { await present(); if (cursor) await actions[action](); });
}

page.addEventListener("click", (event) => {
  const button = event.target.closest("button, a");
  if (!button || button.closest("dialog")) return;
  if (busy()) return event.preventDefault();
  const { action, state: to, layer, at, leave } = button.dataset;
  if (action) press(action);
  else if (to) later(() => record({ action: "state", state: to }));
  else if (layer) toggle(layer);
  else if (at !== undefined) {
    event.preventDefault();
    later(async () => { await jump(at); go(nearest(Number(at))); });
  } else if (leave !== undefined && pending.length) {
    event.preventDefault();
    leaveFor = button.href;
    flush();
  }
  if (button.matches("button")) button.blur();
});

// Layers ---------------------------------------------------------------------------------------

function toggle(layer, on = page.classList.contains(`no-${layer}`)) {
  page.classList.toggle(`no-${layer}`, !on);
  page.querySelector(`[data-layer="${layer}"]`)?.setAttribute("aria-pressed", String(on));
  localStorage.setItem(`layer ${layer}`, on ? "on" : "off");
}
for (const layer of ["weak", "p", "gold"]) toggle(layer, localStorage.getItem(`layer ${layer}`) !== "off");

// Once the cursor rests on a suggestion, what speaks for it is shown; the address leads back here.
let resting = 0;
function rest() {
  clearTimeout(resting);
  resting = setTimeout(() => {
    const here = new URL(location.href);
    here.searchParams.set("at", cursor.start);
    history.replaceState(history.state, "", here);
    if (cursor.run !== null) explain();
  }, 250);
}

async function explain() {
  const token = cursor;
  if (!by("why") || !token) return;
  const response = await fetch(`${page.dataset.why}?start=${token.start}`, { headers: { "HX-Request": "true" } }).catch(() => null);
  if (!response?.ok || token !== cursor) return;
  by("why").innerHTML = await response.text();
  htmx.process(by("why"));
}

// Begin ----------------------------------------------------------------------------------------

later(async () => {
  fetched.set(text.firstElementChild.dataset.start, Promise.resolve(text.innerHTML)); // before anything is drawn on it
  await takePlace();
  remember();
  collect();
  const asked = new URLSearchParams(location.search).get("at");
  go(asked === null ? tokens.find((token) => token.run !== null) ?? tokens[0] : nearest(Number(asked)));
  page.dataset.ready = "true";
  for (const at of ["0", page.dataset.last]) chunkAt(at).catch(() => {}); // Home and End
});
