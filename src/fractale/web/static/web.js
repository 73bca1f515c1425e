// The keys of the pages, times that go on, and attempts that are loaded when they are opened.
// Everything else works without a script: links and forms.
"use strict";

const find = (selector, root = document) => [...root.querySelectorAll(selector)];
const typing = (it) => it && (it.matches("input:not([type=checkbox]), textarea, select") || it.isContentEditable);

// -- attempts: their contents are loaded when they are opened, and again when they have changed

const loaded = new WeakMap();

function load(details) {
  for (const into of find(":scope > .inside > [data-src]", details)) {
    if (loaded.get(into) === into.dataset.stamp) continue;
    loaded.set(into, into.dataset.stamp);
    htmx.ajax("GET", into.dataset.src, {target: into, source: into, swap: "innerMorph"});
  }
}

// What a person has opened or closed stays so when the page is updated.
const touched = new WeakSet();
document.addEventListener("click", (event) => {
  const summary = event.target.closest && event.target.closest("summary");
  if (summary) touched.add(summary.parentElement);
}, true);
htmx.registerExtension("fractale", {
  htmx_before_morph_attr: (it, {attrName}) => !(attrName === "open" && touched.has(it)),
});

document.addEventListener("toggle", (event) => {
  if (event.target.open && event.target.matches("details")) load(event.target);
}, true);

function refresh() {
  find(".visit > details[open]").forEach(load);
  find("pre[data-follow]").forEach((it) => { it.scrollTop = it.scrollHeight; });
  tick();
}
document.addEventListener("htmx:after:swap", refresh);

// A link to an attempt opens it.
function openTarget() {
  let it = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!it) return;
  if (!it.matches("details")) it = it.querySelector("details") || it.closest("details") || it;
  if (it.matches("details")) { it.open = true; it.querySelector("summary")?.focus(); }
  it.scrollIntoView({block: "start"});
}
addEventListener("hashchange", openTarget);

// -- times that go on

function tick() {
  for (const it of find("time[data-since]")) {
    const seconds = Math.max(0, Math.floor(Date.now() / 1000 - Number(it.dataset.since)));
    const two = (n) => String(n).padStart(2, "0");
    const text = `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
    if (it.textContent !== text) it.textContent = text;
  }
}
setInterval(tick, 1000);

// -- the stream: say so if it is lost

function say(text) {
  const it = document.getElementById("stream");
  if (it && it.textContent !== text) it.textContent = text;
}
document.addEventListener("htmx:sse:error", () => say("the server does not answer: what you see may be old"));
document.addEventListener("htmx:sse:after:connection", () => say(""));

// -- keys

function move(by) {
  const rows = find("a.row, .visit > details > summary").filter((it) => it.checkVisibility());
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  next.focus();
  next.scrollIntoView({block: "nearest"});
}

// The page changes while it is looked at. For a moment after a card has appeared, moved or gone, no
// card takes a click, an Enter or a key: it was meant for what was there before. Where the cards are
// is compared at the click itself, too.
const QUIET = 500, NEAR = 4; // milliseconds, pixels: scrolling moves a card by parts of a pixel
let places = [], changed = 0;
const same = (one, other) => one.length === other.length && one.every(([id, left, top], n) =>
  id === other[n][0] && Math.abs(left - other[n][1]) < NEAR && Math.abs(top - other[n][2]) < NEAR);

function settling() {
  const now = find("[data-question]").map((it) => {
    const at = it.getBoundingClientRect();
    return [it.dataset.question, at.left + scrollX, at.top + scrollY];
  });
  if (!same(now, places)) { places = now; changed = performance.now(); }
  const is = now.length > 0 && performance.now() - changed < QUIET;
  document.documentElement.toggleAttribute("data-settling", is);
  return is;
}
setInterval(settling, 50);
document.addEventListener("htmx:after:swap", settling);
addEventListener("pageshow", () => { places = []; settling(); });

// Whether it is too early for an answer; says so for a while.
let unsaid = 0;
function early() {
  const is = settling(), it = document.getElementById("held");
  if (is && it) {
    it.textContent = "the questions have just changed: look again";
    clearTimeout(unsaid);
    unsaid = setTimeout(() => { it.textContent = ""; }, 3000);
  }
  return is;
}

for (const kind of ["click", "submit"]) {
  document.addEventListener(kind, (event) => {
    const it = event.target.closest && event.target.closest("[data-question]");
    if (!it || (kind === "click" && !event.target.closest("button"))) return;
    if (early()) { event.preventDefault(); event.stopImmediatePropagation(); }
  }, true);
}

function answer(card, key) {
  const it = find("[data-key]", card).find((each) => each.dataset.key === key);
  if (!it) return false;
  if (early()) return true;
  if (it.matches("details")) {
    it.open = true;
    it.querySelector("textarea, input:not([type=hidden])")?.focus();
  } else {
    it.click();
  }
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const it = document.activeElement;
  if (event.key === "Escape" && typing(it)) { it.blur(); return; }
  if (typing(it) || document.querySelector("dialog[open]")) return;
  const card = it && it.closest("[data-question]");
  if (card && !event.repeat && answer(card, event.key)) { event.preventDefault(); return; }
  const acts = {
    "/": () => document.getElementById("q")?.focus(),
    "?": () => document.getElementById("keys").showModal(),
    "j": () => move(1),
    "k": () => move(-1),
    "q": () => document.querySelector("[data-question]")?.focus(),
    "Escape": () => { if (location.pathname !== "/") location.assign("/"); },
  };
  if (it === document.body || it.matches("a, summary, main")) {
    acts.ArrowDown = () => move(1);
    acts.ArrowUp = () => move(-1);
  }
  const act = acts[event.key];
  if (act) { event.preventDefault(); act(); }
});

// A form is sent once.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target.dataset.sent) { event.preventDefault(); return; }
  event.target.dataset.sent = "1";
});
addEventListener("pageshow", () => find("form[data-sent]").forEach((it) => delete it.dataset.sent));

addEventListener("DOMContentLoaded", () => { openTarget(); refresh(); });
