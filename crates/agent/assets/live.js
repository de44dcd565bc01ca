"use strict";
// Fills the figures from the server's events. A picture that is old is shown as such.
(() => {
  const STALE_MS = 1000, ROWS = 8;
  const at = (id) => document.getElementById(id);
  const percent = (share) => (share * 100).toFixed(1) + "\u202f%";
  const number = (value) => value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: 1 });

  function row(label, share) {
    const line = document.createElement("tr");
    const [name, value, cell] = [0, 0, 0].map(() => line.appendChild(document.createElement("td")));
    name.textContent = label;
    value.textContent = percent(share);
    value.className = "number";
    cell.className = "bars";
    const svg = cell.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    svg.setAttribute("class", "bar");
    svg.setAttribute("aria-hidden", "true");
    const bar = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
    bar.setAttribute("width", (share * 100).toFixed(1) + "%");
    bar.setAttribute("height", "100%");
    bar.setAttribute("rx", "1.5");
    return line;
  }

  // Label and share of each class, or of each box.
  function rows(figures) {
    if (figures.boxes) return figures.boxes.map((box) => [box.label, box.confidence]);
    return Object.entries(figures.scores || {}).sort((a, b) => b[1] - a[1]);
  }

  function answer(figures) {
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
    at("scores").replaceChildren(...rows(figures).slice(0, ROWS).map(([label, share]) => row(label, share)));
    at("state").textContent = state(figures);
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
