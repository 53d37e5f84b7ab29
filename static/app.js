// Corner messages, and keys that press whatever carries the matching data-key. Everything else is htmx.
"use strict";

function toast(message, tone = "") {
  const box = document.createElement("div");
  box.className = `toast ${tone}`;
  box.textContent = message;
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), 6000);
}

document.addEventListener("toast", (event) => toast(event.detail.value ?? event.detail));
document.addEventListener("htmx:sendError", () => toast("The server does not answer.", "bad"));
document.addEventListener("htmx:responseError", (event) => {
  if (!event.detail.xhr.getResponseHeader("HX-Trigger")) toast(`The server answered ${event.detail.xhr.status}.`, "bad");
});

// <a data-key="j">, <button data-key="y">: the key clicks the first visible one.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (typing && event.key === "Escape") typing.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const wanted = [...document.querySelectorAll("[data-key]")].find(
    (element) => element.dataset.key.split(" ").includes(event.key) && element.offsetParent !== null,
  );
  if (!wanted) return;
  event.preventDefault();
  if (wanted.matches("input, textarea, select")) wanted.focus();
  else wanted.click();
});

// <select data-submit>, <input data-submit>: a change sends its form (filters, what-if controls).
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

// <input type="range" data-show="id">: shows its value beside itself while it moves.
document.addEventListener("input", (event) => {
  const output = event.target.dataset.show && document.getElementById(event.target.dataset.show);
  if (output) output.textContent = event.target.value;
});

// <form data-confirm="…">: asks before it is sent.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.confirm && !confirm(event.target.dataset.confirm)) event.preventDefault();
}, true);
