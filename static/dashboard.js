// A latent's page: the values of shaded tokens by keyboard. Left and right move along the tokens that fire.
"use strict";

document.addEventListener("keydown", (event) => {
  const token = event.target.closest?.(".values .tok");
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!token || !by || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = [...document.querySelectorAll(".values .tok")];
  const next = all[all.indexOf(token) + by];
  if (!next) return;
  event.preventDefault();
  token.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
