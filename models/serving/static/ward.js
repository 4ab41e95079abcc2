// The ward's time, and ages that count on with it. Shared by the board and a patient's page.

const body = document.body;
let wardUs = Number(body.dataset.wardUs);
let speed = Number(body.dataset.speed);
let since = performance.now();
const staleSeconds = Number(body.dataset.staleSeconds);

export function setTime(us, rate) {
  wardUs = us;
  speed = rate;
  since = performance.now();
}

export function nowUs() {
  return wardUs + (performance.now() - since) * 1000 * speed;
}

// The same words as models/serving/formatting.py, ago().
export function ago(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

const zone = body.dataset.zone || "UTC";
const clock = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", timeZone: zone, timeZoneName: "short",
});
const second = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone: zone, timeZoneName: "short",
});

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function tick(root = document) {
  const now = nowUs();
  for (const element of root.querySelectorAll("time.age")) {
    const words = ago((now - Number(element.dataset.us)) / 1e6);
    setText(element, element.classList.contains("brief") ? words.split(" ").slice(0, 2).join(" ") : words);
  }
  for (const element of root.querySelectorAll("[data-newest-us]")) {
    const newest = element.dataset.newestUs;
    element.classList.toggle("stale", newest === "" || (now - Number(newest)) / 1e6 > staleSeconds);
  }
  for (const element of document.querySelectorAll("time.ward-clock")) {
    setText(element, clock.format(new Date(now / 1000)).replace(",", ""));
  }
}

// -- the line to the server ---------------------------------------------------------------------------------------

// The server sends a beat every five seconds while it watches the ward. Silence means that it does not, or that the
// line is dead, which no browser notices by itself.
const SILENT_MS = 15_000;
const MISSING = new Set(["stream-silent", "stream-ended", "care-store-replaced"]);
const AGAIN_MS = [2_000, 5_000, 10_000];

const line = document.getElementById("line");
const alarm = document.getElementById("alarm");
const title = document.title;

// Both clocks: the one stands still in some browsers while a machine sleeps, the other may be set back.
let heard = { wall: Date.now(), running: performance.now() };
let troubles = [];
let why = "";
let connected = false;

function silence() {
  return Math.max(Date.now() - heard.wall, performance.now() - heard.running);
}

function hear() {
  heard = { wall: Date.now(), running: performance.now() };
  connected = true;
  why = "";
}

function show() {
  const lost = why !== "" || silence() > SILENT_MS;
  const failing = lost || troubles.some((trouble) => trouble.failing);
  const texts = troubles.map((trouble) => trouble.text);
  if (failing) texts.unshift(`NOT UPDATED since ${second.format(new Date(heard.wall))}.${why ? ` ${why}` : ""}`);
  const locked = document.querySelector("[data-locked]") !== null || troubles.some((trouble) => trouble.code === "locked");
  const missing = troubles.some((trouble) => MISSING.has(trouble.code));
  body.classList.toggle("not-live", failing);
  body.classList.toggle("locked", locked);
  line.classList.toggle("live", connected && !locked && texts.length === 0);
  line.classList.toggle("lost", failing || locked);
  const state = missing ? "Values may be missing" : texts.length ? "Live, but see above" : connected ? "Live" : "Connecting …";
  setText(line, lost ? "Not live" : locked ? "Locked" : failing ? "Not live" : state);
  setText(alarm.querySelector("span"), texts.join(" "));
  alarm.hidden = texts.length === 0;
  alarm.classList.toggle("loud", failing);
  alarm.querySelector("a").hidden = !why.includes("Sign in");
  document.title = failing ? `⚠ Not updated · ${title}` : title;
}

// Calls with each event's data; comes back by itself when the server does, or when somebody has signed in.
export function follow(address, handlers) {
  let source = null;
  let place = "";
  let tries = 0;
  let again = 0;

  function open() {
    source?.close();
    source = new EventSource(address(place));
    listen("ward", (found) => {
      if (found.build && found.build !== body.dataset.build) location.reload(); // rows of another version do not fit
      troubles = found.troubles;
    });
    listen("over", () => end("Your session has ended. Sign in again."));
    for (const [name, handle] of Object.entries(handlers)) listen(name, handle);
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) refused();
      else if (silence() > SILENT_MS / 3) why = "The connection is lost. Trying again …";
      show();
    };
  }

  function listen(name, handle) {
    source.addEventListener(name, (event) => {
      const found = JSON.parse(event.data);
      if (event.lastEventId) place = event.lastEventId;
      if (name !== "over") {
        hear();
        tries = 0;
        setTime(found.ward_us, found.speed);
      }
      handle(found);
      tick();
      show();
    });
  }

  function end(text) {
    source.close();
    why = text;
    show();
    plan();
  }

  function plan() {
    clearTimeout(again);
    const pause = AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)];
    tries += 1;
    again = setTimeout(look, pause * (0.75 + Math.random() / 2)); // not all boards of a house in the same moment
  }

  // An event stream that is refused does not say why.
  async function look() {
    try {
      const answer = await fetch("/session", { cache: "no-store", headers: { accept: "application/json" } });
      if (answer.status === 401) return end("You are not signed in any more. Sign in again.");
      if (!answer.ok) return end("The server refuses. Trying again …");
    } catch {
      return end("The server does not answer. Trying again …");
    }
    open();
  }

  function refused() {
    why ||= "The server refuses. Trying again …";
    look();
  }

  function watchdog() {
    if (silence() > SILENT_MS && source.readyState !== EventSource.CLOSED) end("Nothing comes any more. Trying again …");
    show();
  }

  open();
  show();
  setInterval(watchdog, 1000);
  document.addEventListener("visibilitychange", watchdog);
}

// -- day and night ------------------------------------------------------------------------------------------------

const night = document.getElementById("night");
const prefers = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return document.documentElement.dataset.theme === "dark"; // set by theme.js
}

function label() {
  if (night) night.setAttribute("aria-pressed", String(isDark()));
}

night?.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("vitalake-theme", theme);
  label();
});
prefers.addEventListener("change", label);
label();

tick();
setInterval(tick, 1000);
