// What the theme leaves out for the keyboard: what scrolls sideways can be focused, and the search has a name.
window.addEventListener("load", () => {
  document.querySelector("[data-md-component=search]").setAttribute("aria-label", "Search");
  for (const one of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) one.tabIndex = 0;
});
