// Light or dark before anything is drawn; a plain script, so that a dark ward is not lit up by a page that loads.
// What nobody has chosen follows the machine, also when that changes.

const machine = matchMedia("(prefers-color-scheme: dark)");

function dress() {
  const chosen = localStorage.getItem("vitalake-theme");
  document.documentElement.dataset.theme = ["dark", "light"].includes(chosen) ? chosen : machine.matches ? "dark" : "light";
}

dress();
machine.addEventListener("change", dress);
