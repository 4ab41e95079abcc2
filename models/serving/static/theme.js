// Sets light or dark before anything is drawn. A plain script, not a module, because a module runs too late: a dark
// room would be lit up while the page loads.
// Without a choice the page follows the device's setting, also when that changes.

const machine = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const chosen = localStorage.getItem("vitalake-theme");
  document.documentElement.dataset.theme = ["dark", "light"].includes(chosen) ? chosen : machine.matches ? "dark" : "light";
}

applyTheme();
machine.addEventListener("change", applyTheme);
