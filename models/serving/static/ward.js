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

// The same words as models/serving/words.py, ago().
export function ago(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

const clock = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", timeZone: "UTC",
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

export function follow(address, handlers) {
  const line = document.getElementById("line");
  const say = (text, lost) => {
    setText(line, text);
    line.classList.toggle("lost", lost);
  };
  const source = new EventSource(address);
  source.onopen = () => say("Live", false);
  source.onerror = () => say("Connection lost: what is shown may be old. Trying again …", true);
  source.addEventListener("ward", (event) => {
    const found = JSON.parse(event.data);
    setTime(found.ward_us, found.speed);
    tick();
  });
  source.addEventListener("over", () => {
    source.close();
    say("Your session has ended: what is shown is old. Sign in again.", true);
  });
  for (const [name, handle] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => {
      const found = JSON.parse(event.data);
      setTime(found.ward_us, found.speed);
      handle(found);
      tick();
    });
  }
}

tick();
setInterval(tick, 1000);
