// The board: replaces changed rows, keeps their order, and tells screen readers when a patient becomes high.

import { follow } from "./live.js";

const table = document.getElementById("board");
const rows = document.getElementById("rows");
const announcement = document.getElementById("said");

function find(patient) {
  return rows.querySelector(`tr[data-patient="${CSS.escape(patient)}"]`);
}

function make(html) {
  const template = document.createElement("template");
  template.innerHTML = html.trim(); // rendered and escaped by the server's templates
  return template.content.firstElementChild;
}

function moveIntoOrder(row) {
  for (const other of rows.children) {
    if (other !== row && other.dataset.order > row.dataset.order) {
      if (row.nextElementSibling !== other) rows.insertBefore(row, other);
      return;
    }
  }
  if (rows.lastElementChild !== row) rows.append(row);
}

const names = new Map(); // pseudonym → name. Rows are sent without names, because not every user may see them.

function showName(row) {
  row.querySelector(".name").textContent = names.get(row.dataset.patient) ?? "";
}

for (const row of rows.children) {
  const known = row.querySelector(".name").textContent;
  if (known) names.set(row.dataset.patient, known);
}

function takeNames(event) {
  for (const [patient, known] of Object.entries(event.names)) {
    names.set(patient, known);
    const row = find(patient);
    if (row) showName(row);
  }
}

function replaceRow(change) {
  const before = find(change.patient);
  const row = make(change.html);
  showName(row);
  const focused = before && before.contains(document.activeElement);
  if (before) before.replaceWith(row);
  else rows.append(row);
  moveIntoOrder(row);
  if (focused) row.querySelector("a").focus({ preventScroll: true });
  if (before && before.dataset.total !== row.dataset.total) {
    row.classList.add("flash");
    if (row.classList.contains("high") && !before.classList.contains("high")) {
      announcement.textContent = `${row.querySelector("a").textContent.trim()}: NEWS2 now ${row.dataset.total}, high.`;
    }
  }
}

function update(event) {
  for (const change of event.rows) replaceRow(change);
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
follow((lastId) => `/board/events?after=${encodeURIComponent(lastId || first)}`, { rows: update, names: takeNames });
