// What the page can do more with a script: open what a link leads to, and all for printing.
"use strict";
function reveal() {
  const found = document.getElementById(location.hash.slice(1));
  if (!found) return;
  for (let e = found; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
  const own = found.querySelector(":scope > details");
  if (own) own.open = true;
  found.scrollIntoView();
}
// On paper, everything is open that a reader could open.
const MOST = 400;
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  if (opened.length > MOST) opened = [];
  for (const e of opened) e.open = true;
});
addEventListener("afterprint", () => {
  for (const e of opened) e.open = false;
});
addEventListener("hashchange", reveal);
addEventListener("DOMContentLoaded", reveal);
