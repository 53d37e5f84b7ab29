// The verdict queue by keyboard. Keys press what carries them (app.js); here only the note and the focus.
"use strict";

// Enter in the note leaves it, so that the next key is a verdict; it must not press the first button.
document.addEventListener("keydown", (event) => {
  if (event.target.id !== "note" || event.key !== "Enter") return;
  event.preventDefault();
  event.target.blur();
});

// The next candidate came: the button that had the focus is gone, the keys go on working from the page.
document.addEventListener("htmx:afterSwap", (event) => {
  if (document.activeElement === document.body || !document.activeElement) {
    document.getElementById("content").focus({ preventScroll: true });
  }
  const number = document.querySelector("#queue h1 a")?.textContent;
  if (event.detail.target.id === "queue" && number) document.title = `Latent ${number} · ${document.title.split(" · ").slice(-3).join(" · ")}`;
});
