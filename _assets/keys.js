/* What the theme leaves out for the keyboard. The arrow keys turn the page: left to the one before, right to the one after. */
document.addEventListener("keydown", function (event) {
  "use strict";
  const way = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (!way || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.defaultPrevented) return;
  // Not where the key has work of its own: in fields, on widgets, and in what scrolls sideways.
  if (event.target.closest("input, textarea, select, button, [contenteditable], [role=slider], .jupyter-widgets, dialog")) return;
  for (let element = event.target; element; element = element.parentElement) {
    if (element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== "visible"
      && element !== document.documentElement && element !== document.body) return;
  }
  // A page that was enlarged is moved sideways by these keys.
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth + 1) return;
  const link = document.querySelector(`head link[rel="${way}"]`);
  if (link) window.location.href = link.href;
});

// What scrolls gets the focus by Tab. The theme looks for it when the window changes, and has to look again when something
// is unfolded.
(function () {
  "use strict";
  const look = function () { window.dispatchEvent(new Event("resize")); };
  document.addEventListener("toggle", look, true);
  document.addEventListener("click", function (event) { if (event.target.closest(".toggle-button, .admonition-title")) look(); });
})();
