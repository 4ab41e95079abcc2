// Light or dark before anything is drawn; a plain script, so that a dark ward is not lit up by a page that loads.

const chosen = localStorage.getItem("vitalake-theme");
if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
