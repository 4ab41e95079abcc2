// A patient's page: shows the newest state as soon as it is there, and keeps what was opened open.

import { follow } from "./ward.js";

const now = document.getElementById("now");

function update(event) {
  // Keys were taken away, or given back: the whole page is another one, its name too.
  if (Boolean(event.locked) !== ("locked" in now.dataset)) return void location.reload();
  if (!event.html) return;
  const open = now.querySelector("details")?.open;
  const focused = now.querySelector("summary") === document.activeElement;
  now.innerHTML = event.html; // made and escaped by the server's templates
  const details = now.querySelector("details");
  if (details && open !== undefined) details.open = open;
  if (details && focused) details.querySelector("summary").focus({ preventScroll: true });
}

follow(() => `/patients/${now.dataset.patient}/events`, { patient: update });
