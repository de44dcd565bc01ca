"use strict";
// Fills the figures of every pipeline from the server's events, and fetches pictures one after another.
(() => {
  const STALE_MS = 1000, PICTURES_APART_MS = 150;
  const number = (value) => value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 1 ? 3 : 1 });
  const percent = (share) => (share * 100).toFixed(1) + "\u202f%";
  const sections = new Map(Array.from(document.querySelectorAll("section.pipeline"), (section) => [section.dataset.name, section]));

  function bytes(value) {
    if (value === null || value === undefined) return "–";
    const units = ["B", "KB", "MB", "GB", "TB"];
    let at = 0;
    for (; value >= 1000 && at + 1 < units.length; at++) value /= 1000;
    return number(value) + "\u202f" + units[at];
  }

  function reading(figures) {
    if (figures.score === null) return "too few rows so far";
    const column = figures.alarm && figures.column ? " in " + figures.column : "";
    return (figures.alarm ? "ALARM" + column : "usual") + " · score " + number(figures.score) + " of " + number(figures.threshold);
  }

  function answer(figures) {
    if (figures.label !== undefined) return figures.label + " · " + percent(figures.confidence);
    if (figures.values) return reading(figures);
    if (!figures.boxes) return "–";
    const count = figures.boxes.length;
    return count === 0 ? "nothing found" : count === 1 ? "1 box" : count + " boxes";
  }

  function state(figures) {
    if (figures.trouble) return figures.source + ": " + figures.trouble;
    if (figures.source === "live" && figures.age_ms > STALE_MS) return "no frame for " + (figures.age_ms / 1000).toFixed(0) + " s";
    return figures.source;
  }

  function show(figures) {
    const section = sections.get(figures.name);
    if (!section) return;
    const at = (selector) => section.querySelector(selector);
    at(".package").textContent = figures.package;
    at(".state").textContent = state(figures);
    at(".answer").textContent = answer(figures);
    at(".refused").textContent = figures.refused || "";
    at(".refused").hidden = !figures.refused;
    // A series has no picture.
    if (figures.values) at(".view").hidden = true;
    at(".view").classList.toggle("stale", !(figures.age_ms <= STALE_MS));
    for (const cell of section.querySelectorAll("[data-counters]")) {
      const shown = (name) => name.includes("bytes") ? bytes(figures.counters[name]) : number(figures.counters[name]);
      cell.textContent = cell.dataset.counters.split(" ").map(shown).join(" · ");
    }
  }

  function showSinks(sinks) {
    const section = document.getElementById("sinks"), names = ["sink_delivered_total", "sink_queue_depth", "sink_dropped_total"];
    section.hidden = sinks.length === 0;
    section.querySelector("tbody").replaceChildren(...sinks.map((sink) => {
      const row = document.createElement("tr"), counters = sink.counters;
      const texts = [sink.name + " (" + sink.type + ")", sink.state, ...names.map((name) => number(counters[name])), bytes(counters.sent_bytes_total)];
      for (const text of texts) row.insertCell().textContent = text;
      return row;
    }));
  }

  // The next picture is asked for when the one before is here, so a slow browser asks less often.
  function follow(section) {
    const image = section.querySelector("img");
    const next = () => section.querySelector(".view").hidden || setTimeout(() => { image.src = section.dataset.name + "/picture.jpg?" + Date.now(); }, document.hidden ? 2000 : PICTURES_APART_MS);
    image.onload = next;
    image.onerror = () => setTimeout(next, 1000);
    next();
  }

  sections.forEach(follow);
  const events = new EventSource("figures");
  events.onmessage = (event) => {
    const figures = JSON.parse(event.data);
    figures.pipelines.forEach(show);
    showSinks(figures.sinks);
    const machine = figures.machine;
    const parts = [percent(machine.cpu_share) + " of all cores", bytes(machine.resident_memory_bytes) + " resident"];
    if (machine.energy_joules_total !== undefined) parts.push(number(machine.energy_joules_total) + "\u202fJ since the start");
    document.getElementById("machine").textContent = parts.join(" · ");
  };
  events.onerror = () => {
    document.getElementById("machine").textContent = "the agent has ended or does not answer";
    document.querySelectorAll(".view").forEach((view) => view.classList.add("stale"));
  };
})();
