// The token reader: a cursor over tokens, layers, and labels that are saved one event at a time.
// Offsets come from the server as code points (data-s, data-e); nothing here ever counts characters.
// What is drawn as gold is what the server acknowledged; an unsaved event is shown as such until it is.
"use strict";

const page = document.getElementById("reader");
const text = document.getElementById("reader-text");
const by = (id) => document.getElementById(id);
const tokens = [...text.querySelectorAll(".tk")].map((element) => ({
  element,
  start: Number(element.dataset.s),
  end: Number(element.dataset.e),
  run: element.dataset.r ?? null,
}));
const index = new Map(tokens.map((token, i) => [token.element, i]));

let state = JSON.parse(page.dataset.state); // the newest the server told us: version, state, spans, judged, last
let cursor = 0;
let anchor = 0;

// Saving ---------------------------------------------------------------------------------------

const memory = `unsaved ${page.dataset.save}`;
let pending = JSON.parse(sessionStorage.getItem(memory) ?? "[]"); // events not yet acknowledged, oldest first
let conflict = pending.length ? "reloaded" : null;
let trouble = null; // why the newest attempt failed
let failures = 0;
let sending = false;
let leaveFor = null;

function record(event) {
  pending.push(event);
  if (conflict) draw();
  else flush();
}

async function flush() {
  if (sending || conflict) return draw();
  sending = true;
  while (pending.length && !conflict) {
    draw();
    if (!(await attempt(pending[0]))) break;
  }
  sending = false;
  draw();
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
    setTimeout(flush, Math.min(30000, 1000 * 2 ** failures++));
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

window.addEventListener("online", flush);
window.addEventListener("beforeunload", (event) => {
  if (pending.length && !leaveFor) event.preventDefault();
});
by("apply-anyway").addEventListener("click", () => { conflict = null; flush(); });
by("drop-unsaved").addEventListener("click", () => { conflict = null; pending = []; leaveFor = null; draw(); });

// Drawing --------------------------------------------------------------------------------------

function within(spans, start, end) {
  return spans.find((span) => span[0] < end && start < span[1]);
}

function mark(element, marks) {
  for (const [name, on] of Object.entries(marks)) element.classList.toggle(name, Boolean(on));
}

function draw() {
  sessionStorage.setItem(memory, JSON.stringify(pending));
  const unsaved = pending.filter((event) => event.start !== undefined).map((event) => [event.start, event.end]);
  let before = null;
  for (const element of text.children) {
    const i = index.get(element);
    if (i === undefined) continue;
    const { start, end } = tokens[i];
    const judgement = within(state.judged, start, end)?.[2];
    const marks = {
      gold: within(state.spans, start, end), unsaved: within(unsaved, start, end), selected: selected(i),
      right: judgement === "right", wrong: judgement === "wrong",
    };
    mark(element, { ...marks, cursor: i === cursor });
    const gap = element.previousElementSibling;
    if (gap && !index.has(gap)) {
      mark(gap, Object.fromEntries(Object.entries(marks).map(([name, on]) => [name, on && before?.[name]])));
    }
    before = marks;
  }
  drawStatus();
  drawCursor();
}

function describe(event) {
  const verbs = { add: "mark as forget", remove: "unmark", right: "judge right", wrong: "judge wrong", undo: "undo" };
  if (event.action === "state") return `set the document to ${event.state}`;
  return event.surface ? `${verbs[event.action]} “${event.surface.slice(0, 120)}”` : verbs[event.action];
}

function drawStatus() {
  const badge = by("state");
  badge.className = `badge state-${state.state}`;
  badge.textContent = state.state;
  const many = `${pending.length} change${pending.length === 1 ? "" : "s"}`;
  by("saved").textContent = pending.length ? (sending && !trouble ? "Saving…" : `${many} not saved`)
    : state.version ? `Saved · version ${state.version}` : "Nothing marked yet";
  by("saved").classList.toggle("bad", pending.length > 0 && !sending);
  by("span-count").textContent = state.spans.length;
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
  const token = tokens[cursor];
  if (!token) return;
  const names = { seed: "seed", grown: "grown", vetoed: "vetoed" };
  const weak = Object.keys(names).find((name) => token.element.classList.contains(name));
  by("at-text").textContent = token.element.textContent;
  by("at-offsets").textContent = `${token.start}–${token.end}`;
  if (by("at-rule")) by("at-rule").textContent = weak ?? "no";
  if (by("at-p")) by("at-p").textContent = token.element.dataset.p || "–";
  const [first, last] = selection();
  by("at-selection").textContent = last > first ? `${last - first + 1} tokens` : "–";
}

// The cursor -----------------------------------------------------------------------------------

const selection = () => [Math.min(anchor, cursor), Math.max(anchor, cursor)];
const selected = (i) => anchor !== cursor && i >= Math.min(anchor, cursor) && i <= Math.max(anchor, cursor);

function go(to, extend = false) {
  if (!tokens.length) return;
  cursor = Math.max(0, Math.min(tokens.length - 1, to));
  if (!extend) anchor = cursor;
  draw();
  tokens[cursor].element.scrollIntoView({ block: "nearest" });
}

// The token nearest below (or above) the cursor, on the next line of the page.
function vertical(step) {
  const box = (i) => tokens[i].element.getClientRects()[0];
  const here = box(cursor);
  let line = null, best = cursor, nearest = Infinity;
  for (let i = cursor + step; i >= 0 && i < tokens.length; i += step) {
    const there = box(i);
    if (!there || Math.abs(there.top - here.top) < 4) continue;
    line ??= there.top;
    if (Math.abs(there.top - line) > 4) break;
    const distance = Math.abs(there.left - here.left);
    if (distance < nearest) [best, nearest] = [i, distance];
  }
  return best;
}

// The next or previous suggestion; beyond the page's last one, the part of the document that has more.
function flagged(step) {
  const here = tokens[cursor]?.run;
  for (let i = cursor + step; i >= 0 && i < tokens.length; i += step) {
    const run = tokens[i].run;
    if (run === null || run === here) continue;
    while (i > 0 && tokens[i - 1].run === run) i--;
    return go(i);
  }
  const link = by(step > 0 ? "next-flagged-part" : "previous-flagged-part");
  if (link) link.click();
  else toast(step > 0 ? "No flagged token further on." : "No flagged token before this one.");
}

const keys = {
  ArrowRight: () => cursor + 1, ArrowLeft: () => cursor - 1, ArrowDown: () => vertical(1), ArrowUp: () => vertical(-1),
  l: () => cursor + 1, h: () => cursor - 1, j: () => vertical(1), k: () => vertical(-1),
  Home: () => 0, End: () => tokens.length - 1,
};
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select, [contenteditable], dialog")) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const move = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (move) {
    event.preventDefault();
    go(move(), event.shiftKey);
  } else if (event.key === "Escape") go(cursor);
});

// A click puts the cursor on a token; a drag selects whole tokens.
document.addEventListener("mouseup", (event) => {
  const drag = getSelection();
  if (!drag.rangeCount || (drag.isCollapsed && !text.contains(event.target))) return;
  const range = drag.getRangeAt(0);
  if (!text.contains(range.startContainer)) return;
  const touched = tokens.flatMap((token, i) => (range.intersectsNode(token.element) ? [i] : []));
  if (!touched.length) return;
  if (drag.isCollapsed) return go(touched[0]);
  const holds = (i, node, offset) => tokens[i].element.contains(node) && offset;
  if (touched.length > 1 && holds(touched[0], range.startContainer, range.startOffset === tokens[touched[0]].element.textContent.length)) touched.shift();
  if (touched.length > 1 && holds(touched.at(-1), range.endContainer, range.endOffset === 0)) touched.pop();
  drag.removeAllRanges();
  anchor = touched[0];
  go(touched.at(-1), true);
});

// What the buttons do (app.js presses them by key) ----------------------------------------------

function ranged(action, first, last) {
  const range = document.createRange();
  range.setStartBefore(tokens[first].element);
  range.setEndAfter(tokens[last].element);
  record({ action, start: tokens[first].start, end: tokens[last].end, surface: range.toString() });
}

function judge(action) {
  let [first, last] = selection();
  const run = tokens[cursor]?.run ?? null;
  if (first === last) {
    if (run === null) return toast("No suggestion under the cursor. Go to one with n, or select tokens and press m.");
    while (first > 0 && tokens[first - 1].run === run) first--;
    while (last + 1 < tokens.length && tokens[last + 1].run === run) last++;
  }
  ranged(action, first, last);
  cursor = anchor = last;
  if (tokens.some((token, i) => i > last && token.run !== null && token.run !== run)) flagged(1);
}

function remove() {
  const [first, last] = selection();
  if (first !== last) return ranged("remove", first, last);
  const token = tokens[cursor];
  const span = token && within(state.spans, token.start, token.end);
  if (!span) return toast("No forget span under the cursor.");
  record({ action: "remove", start: span[0], end: span[1] }); // may reach beyond this part, hence no surface
}

const actions = {
  right: () => judge("right"),
  wrong: () => judge("wrong"),
  mark: () => { ranged("add", ...selection()); anchor = cursor; draw(); },
  remove,
  undo: () => record({ action: "undo" }),
  "next-flagged": () => flagged(1),
  "previous-flagged": () => flagged(-1),
  help: () => by("help").showModal(),
  why: () => tokens.length && htmx.ajax("GET", `${page.dataset.why}?start=${tokens[cursor].start}`, { target: "#why" }),
};
page.addEventListener("click", (event) => {
  const button = event.target.closest("button, a");
  if (!button || button.closest("dialog")) return;
  if (by("help").open) return event.preventDefault();
  const { action, state: to, layer, leave } = button.dataset;
  if (action) actions[action]();
  else if (to) record({ action: "state", state: to });
  else if (layer) toggle(layer);
  else if (leave !== undefined && pending.length) {
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

const opened = new URLSearchParams(location.search).get("at");
const start = opened === null ? -1 : tokens.findIndex((token) => token.end > Number(opened));
const first = tokens.findIndex((token) => token.run !== null);
go(start >= 0 ? start : Math.max(0, first));
