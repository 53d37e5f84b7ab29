// <input type="range" data-mirror="id">: a slider and the number field it belongs to say the same.
"use strict";

document.addEventListener("input", (event) => {
  const from = event.target;
  if (from.dataset.mirror) document.getElementById(from.dataset.mirror).value = from.value;
  else {
    const slider = document.querySelector(`[data-mirror="${CSS.escape(from.id)}"]`);
    if (slider) slider.value = from.value;
  }
}, true); // before htmx sends the form
