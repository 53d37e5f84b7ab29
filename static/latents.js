// The list of latents by keyboard: j and k move, y n u judge and move on, Enter opens the evidence.
"use strict";

let current = null; // id of the chosen row: htmx replaces the element

const rows = () => [...document.querySelectorAll("tr.latent")];

function choose(row) {
  if (!row) return;
  for (const other of rows()) other.classList.toggle("selected", other === row);
  current = row.id;
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const all = rows();
  const at = all.findIndex((row) => row.id === current);
  choose(all[at < 0 ? 0 : Math.min(Math.max(at + by, 0), all.length - 1)]);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const row = current && document.getElementById(current);
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "Enter" && row && event.target === row) row.querySelector("a").click();
  else if ("ynu".includes(event.key) && row) {
    row.querySelector(`[data-verdict="${event.key}"]`).click();
    step(1);
  } else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  const row = event.target.closest("tr.latent");
  if (row && !event.target.closest("a, button")) choose(row);
});

// The row that was judged came back as a new element: keep the chosen one chosen.
document.addEventListener("htmx:afterSwap", () => {
  const row = current && document.getElementById(current);
  if (row && !row.classList.contains("selected")) row.classList.add("selected");
});
