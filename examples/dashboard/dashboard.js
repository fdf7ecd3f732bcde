// A live chart of flight delays by airport.
//
// The totals and the place in the stream are one value, kept by one write: after a reload, a crash of
// the browser or a restart of the server each delay is counted once. What cannot be known is shown.

const SERVER = new URLSearchParams(location.search).get("server") ?? "http://127.0.0.1:9401";
const STREAM = `${SERVER}/v1/streams/delays`;
const { Wirefall } = await import(`${SERVER}/v1/wirefall.js`);

const KEPT_AS = "wirefall.dashboard";
const AIRPORTS_MAX = 12;
const KEEP_MS = 1000;
const ROW = 28, LABEL = 48, FIGURES = 190;

const anew = () => ({ place: null, since: Date.now(), count: 0, lost: 0, isLostKnown: true, airports: {} });
const kept = localStorage.getItem(KEPT_AS);
let totals = kept ? JSON.parse(kept) : anew();
let isDue = false;

const at = id => document.getElementById(id);
const number = value => Math.round(value).toLocaleString("en");

function subscribe() {
  return new Wirefall(STREAM, {
    place: totals.place,
    from: "earliest",                      // where there is no place yet
    onrecord: ({ data, place }) => {
      const { to, delay } = JSON.parse(data);
      const airport = totals.airports[to] ??= { flights: 0, minutes: 0 };
      airport.flights += 1;
      airport.minutes += delay;
      totals.count += 1;
      totals.place = place;                // together with what was made of the record
      changed();
    },
    ongap: ({ lost, place }) => {
      if (lost === null) totals.isLostKnown = false;
      else totals.lost += lost;
      totals.place = place;
      changed();
    },
    onstate: ({ state, error }) => {
      at("state").textContent = state === "open" ? "live" : error ? `${state}: ${error.message}` : state;
    },
  });
}

let client = subscribe();

/** Draws once a frame at most, however many records come. */
function changed() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => { isDue = false; draw(); });
}

function draw() {
  at("count").textContent = number(totals.count);
  at("since").textContent = new Date(totals.since).toLocaleTimeString();
  const missing = [
    totals.lost > 0 && `${number(totals.lost)} delays are missing: the stream no longer had them.`,
    !totals.isLostKnown && "The server numbered its stream anew: delays may be missing, or counted twice.",
  ].filter(Boolean);
  at("lost").hidden = missing.length === 0;
  at("lost").textContent = missing.join(" ");
  const airports = Object.entries(totals.airports).sort(([, a], [, b]) => b.minutes - a.minutes).slice(0, AIRPORTS_MAX);
  const most = airports[0]?.[1].minutes ?? 1;
  const chart = at("chart");
  const width = chart.clientWidth - LABEL - FIGURES;
  chart.setAttribute("height", AIRPORTS_MAX * ROW);
  while (chart.childElementCount < airports.length) chart.append(bar(chart.childElementCount));
  while (chart.childElementCount > airports.length) chart.lastElementChild.remove();
  airports.forEach(([name, { flights, minutes }], index) => {
    const [label, rect, figures] = chart.children[index].children;
    const length = Math.max(0, width * minutes / most);
    label.textContent = name;
    rect.setAttribute("width", length);
    figures.setAttribute("x", LABEL + length + 8);
    figures.textContent = `${number(minutes)} min · mean ${number(minutes / flights)}`;
  });
}

function bar(index) {
  const make = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const row = make("g", { transform: `translate(0 ${index * ROW})` });
  row.append(
    make("text", { x: 0, y: ROW / 2 }),
    make("rect", { x: LABEL, y: 4, height: ROW - 8, rx: 3 }),
    make("text", { class: "soft", y: ROW / 2 }),
  );
  return row;
}

const keep = () => localStorage.setItem(KEPT_AS, JSON.stringify(totals));
setInterval(keep, KEEP_MS);
addEventListener("pagehide", keep);
addEventListener("resize", changed);
at("reset").onclick = () => {
  client.close();
  totals = anew();
  keep();
  client = subscribe();
  changed();
};
draw();
