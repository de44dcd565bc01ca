"use strict";
// Fills the figures from the server's events. A picture that is old is shown as such.
(() => {
  const STALE_MS = 1000, ROWS = 8;
  const at = (id) => document.getElementById(id);
  const percent = (share) => (share * 100).toFixed(1) + "\u202f%";
  const number = (value) => value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 1 ? 3 : 1 });

  function row(label, text, share) {
    const line = document.createElement("tr");
    const [name, value, cell] = [0, 0, 0].map(() => line.appendChild(document.createElement("td")));
    name.textContent = label;
    value.textContent = text;
    value.className = "number";
    cell.className = "bars";
    if (share === undefined) return line;
    const svg = cell.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    svg.setAttribute("class", "bar");
    svg.setAttribute("aria-hidden", "true");
    const bar = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
    bar.setAttribute("width", (share * 100).toFixed(1) + "%");
    bar.setAttribute("height", "100%");
    bar.setAttribute("rx", "1.5");
    return line;
  }

  // Label, text and share of each class, or of each box; of a series the values, which are no shares.
  function rows(figures) {
    if (figures.values) return Object.entries(figures.values).map(([name, value]) => [name, number(value)]);
    const shares = figures.boxes
      ? figures.boxes.map((box) => [box.label, box.confidence])
      : Object.entries(figures.scores || {}).sort((a, b) => b[1] - a[1]);
    return shares.map(([label, share]) => [label, percent(share), share]);
  }

  function reading(figures) {
    if (figures.score === null) return "too few rows so far";
    const column = figures.alarm && figures.column ? " in " + figures.column : "";
    return (figures.alarm ? "ALARM" + column : "usual") + " · score " + number(figures.score) + " of " + number(figures.threshold);
  }

  function answer(figures) {
    if (figures.values) return reading(figures);
    if (figures.label !== undefined) return figures.label + "  " + percent(figures.confidence);
    if (!figures.boxes) return "–";
    const count = figures.boxes.length;
    return count === 0 ? "nothing found" : count === 1 ? "1 box" : count + " boxes";
  }

  function state(figures) {
    if (figures.ended) return "ended";
    if (figures.trouble) return figures.trouble;
    if (figures.age_ms === undefined) return "waiting for the first frame";
    if (figures.age_ms > STALE_MS) return "no frame for " + (figures.age_ms / 1000).toFixed(0) + " s";
    return "frame " + number(figures.frame);
  }

  function show(figures) {
    for (const id of ["fps", "ms", "latency_ms", "seen", "skipped", "broken"]) at(id).textContent = number(figures[id]);
    at("answer").textContent = answer(figures);
    at("scores").replaceChildren(...rows(figures).slice(0, ROWS).map((cells) => row(...cells)));
    at("state").textContent = state(figures);
    if (figures.values) {
      // A series has no picture.
      at("view").hidden = true;
      at("picture").removeAttribute("src");
    }
    at("view").classList.toggle("stale", figures.ended || !(figures.age_ms <= STALE_MS));
  }

  const events = new EventSource("figures");
  events.onmessage = (event) => {
    const figures = JSON.parse(event.data);
    show(figures);
    if (figures.ended) events.close();
  };
  events.onerror = () => {
    at("state").textContent = "the program has ended or does not answer";
    at("view").classList.add("stale");
  };
})();
