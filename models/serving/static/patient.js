// A patient's page: shows each new state at once, and keeps opened sections open.

import { follow } from "./live.js";

const now = document.getElementById("now");

function update(event) {
  // Keys were revoked or restored: the whole page changes, including the name. Load it again.
  if (Boolean(event.locked) !== ("locked" in now.dataset)) return void location.reload();
  if (!event.html) return;
  const open = now.querySelector("details")?.open;
  const focused = now.querySelector("summary") === document.activeElement;
  now.innerHTML = event.html; // rendered and escaped by the server's templates
  const details = now.querySelector("details");
  if (details && open !== undefined) details.open = open;
  if (details && focused) details.querySelector("summary").focus({ preventScroll: true });
}

follow(() => `/patients/${now.dataset.patient}/events`, { patient: update });
