// The board: puts changed rows where they belong, and says aloud when somebody gets worse.

import { follow } from "./ward.js";

const table = document.getElementById("board");
const rows = document.getElementById("rows");
const said = document.getElementById("said");

function find(patient) {
  return rows.querySelector(`tr[data-patient="${CSS.escape(patient)}"]`);
}

function make(html) {
  const template = document.createElement("template");
  template.innerHTML = html.trim(); // made and escaped by the server's templates
  return template.content.firstElementChild;
}

function place(row) {
  for (const other of rows.children) {
    if (other !== row && other.dataset.order > row.dataset.order) {
      if (row.nextElementSibling !== other) rows.insertBefore(row, other);
      return;
    }
  }
  if (rows.lastElementChild !== row) rows.append(row);
}

const names = new Map(); // of patients on this board; rows come without, for not everybody may see them

function name(row) {
  row.querySelector(".name").textContent = names.get(row.dataset.patient) ?? "";
}

for (const row of rows.children) {
  const known = row.querySelector(".name").textContent;
  if (known) names.set(row.dataset.patient, known);
}

function learn(event) {
  for (const [patient, known] of Object.entries(event.names)) {
    names.set(patient, known);
    const row = find(patient);
    if (row) name(row);
  }
}

function take(change) {
  const before = find(change.patient);
  const row = make(change.html);
  name(row);
  const focused = before && before.contains(document.activeElement);
  if (before) before.replaceWith(row);
  else rows.append(row);
  place(row);
  if (focused) row.querySelector("a").focus({ preventScroll: true });
  if (before && before.dataset.total !== row.dataset.total) {
    row.classList.add("flash");
    if (row.classList.contains("high") && !before.classList.contains("high")) {
      said.textContent = `${row.querySelector("a").textContent.trim()}: NEWS2 now ${row.dataset.total}, high.`;
    }
  }
}

function update(event) {
  for (const change of event.rows) take(change);
  if (event.whole) {
    const there = new Set(event.rows.map((row) => row.patient));
    for (const row of [...rows.children]) if (!there.has(row.dataset.patient)) row.remove();
  }
  for (const patient of event.gone) {
    find(patient)?.remove();
    names.delete(patient);
  }
  const count = rows.children.length;
  document.getElementById("count").textContent = count === 1 ? "1 patient" : `${count} patients`;
  document.getElementById("empty").hidden = rows.children.length > 0;
}

const first = table.dataset.after;
follow((place) => `/board/events?after=${encodeURIComponent(place || first)}`, { rows: update, names: learn });
