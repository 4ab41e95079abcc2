// The ward's time, the ages that count up with it, and the connection to the server. Used by the board and a
// patient's page.

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

// Must give the same words as ago() in models/serving/formatting.py.
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

// -- the connection to the server ---------------------------------------------------------------------------------------

// The server sends a heartbeat every five seconds while it follows the ward. Three missing heartbeats mean that it does
// not, or that the connection is dead, which a browser does not notice by itself.
const SILENT_MS = 15_000;
const MISSING = new Set(["stream-silent", "stream-ended", "care-store-replaced"]);
const RETRY_MS = [2_000, 5_000, 10_000];

const line = document.getElementById("line");
const alarm = document.getElementById("alarm");
const title = document.title;

// Two clocks: performance.now() stands still in some browsers while the device sleeps, Date.now() can be set back.
let lastHeard = { wall: Date.now(), running: performance.now() };
let troubles = [];
let why = "";
let connected = false;

function silence() {
  return Math.max(Date.now() - lastHeard.wall, performance.now() - lastHeard.running);
}

function hear() {
  lastHeard = { wall: Date.now(), running: performance.now() };
  connected = true;
  why = "";
}

function show() {
  const lost = why !== "" || silence() > SILENT_MS;
  const failing = lost || troubles.some((trouble) => trouble.failing);
  const texts = troubles.map((trouble) => trouble.text);
  if (failing) texts.unshift(`NOT UPDATED since ${second.format(new Date(lastHeard.wall))}.${why ? ` ${why}` : ""}`);
  const locked = document.querySelector("[data-locked]") !== null || troubles.some((trouble) => trouble.code === "locked");
  const missing = troubles.some((trouble) => MISSING.has(trouble.code));
  body.classList.toggle("not-live", failing);
  body.classList.toggle("locked", locked);
  line.classList.toggle("live", connected && !locked && texts.length === 0);
  line.classList.toggle("lost", failing || locked);
  const state = missing ? "Values may be missing" : texts.length ? "Live: see the alert above" : connected ? "Live" : "Connecting …";
  setText(line, lost ? "Not live" : locked ? "Locked" : failing ? "Not live" : state);
  setText(alarm.querySelector("span"), texts.join(" "));
  alarm.hidden = texts.length === 0;
  alarm.classList.toggle("loud", failing);
  alarm.querySelector("a").hidden = !why.includes("Sign in");
  document.title = failing ? `⚠ Not updated · ${title}` : title;
}

// Calls the handler of each event with its data. Reconnects when the server is back, or when somebody has signed in.
export function follow(address, handlers) {
  let source = null;
  let lastId = "";
  let tries = 0;
  let timer = 0;

  function open() {
    source?.close();
    source = new EventSource(address(lastId));
    listen("ward", (found) => {
      if (found.build && found.build !== body.dataset.build) location.reload(); // rows of another version do not fit this page
      troubles = found.troubles;
    });
    listen("over", () => end("Your session has ended. Sign in again."));
    for (const [name, handle] of Object.entries(handlers)) listen(name, handle);
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) refused();
      else if (silence() > SILENT_MS / 3) why = "Connection lost. Reconnecting …";
      show();
    };
  }

  function listen(name, handle) {
    source.addEventListener(name, (event) => {
      const found = JSON.parse(event.data);
      if (event.lastEventId) lastId = event.lastEventId;
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
    reconnectLater();
  }

  function reconnectLater() {
    clearTimeout(timer);
    const pause = RETRY_MS[Math.min(tries, RETRY_MS.length - 1)];
    tries += 1;
    timer = setTimeout(checkSession, pause * (0.75 + Math.random() / 2)); // so that the boards of a hospital do not all reconnect at the same moment
  }

  // A refused event stream does not tell the reason; an ordinary request does.
  async function checkSession() {
    try {
      const answer = await fetch("/session", { cache: "no-store", headers: { accept: "application/json" } });
      if (answer.status === 401) return end("You are no longer signed in. Sign in again.");
      if (!answer.ok) return end("The server refused the request. Retrying …");
    } catch {
      return end("The server does not answer. Retrying …");
    }
    open();
  }

  function refused() {
    why ||= "The server refused the request. Retrying …";
    checkSession();
  }

  function watchdog() {
    if (silence() > SILENT_MS && source.readyState !== EventSource.CLOSED) end("No updates received. Reconnecting …");
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
