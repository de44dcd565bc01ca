
// Draws every element with a data-chart attribute. Colours come from the page's style, so a chart is drawn again when the
// colour scheme changes and before it is printed.
(() => {
  "use strict";
  const HEIGHT = 264;
  const WHOLE = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (i) => style(`--series-${(i % 6) + 1}`);
  const font = (size) => `${size}px ${style("--plain")}`;

  const short = (v) => {
    const size = Math.abs(v);
    if (size !== 0 && (size < 1e-4 || size >= 1e7)) return v.toExponential(1).replace("e+", "e").replace(".0e", "e");
    return String(Number(v.toPrecision(6)));
  };
  const tick = (form) => (v) => v === null ? "" : form === "percent" ? short(v * 100) + "%" : short(v);
  const exact = (form) => (v) => {
    if (v === null || v === undefined) return "–";
    if (form === "percent") return (v * 100).toFixed(1) + "%";
    if (form === "time") return new Date(v * 1000).toLocaleString();
    return String(Number(v.toPrecision(4)));
  };

  // Lines fill the width; points keep away from the edges, where their labels need room.
  const range = (margin, form) => (u, min, max) => {
    const isShare = form === "percent";
    const pad = min !== max ? (max - min) * margin : isShare ? 0.05 : Math.abs(min) / 2 || 1;
    // No share is below nothing or above all.
    const [least, most] = isShare ? [Math.min(min, 0), Math.max(max, 1)] : [-Infinity, Infinity];
    return [Math.max(min - pad, least), Math.min(max + pad, most)];
  };

  function scale(axis, isX, lines) {
    if (axis.log) return { time: false, distr: 3 };
    if (isX) return { time: axis.form === "time", range: range(lines ? 0 : 0.08, axis.form) };
    return lines ? { time: false } : { time: false, range: range(0.12, axis.form) };
  }

  // Of a logarithmic axis, only the powers of ten, where there are enough of them.
  const powers = (u, splits) => {
    const power = (v) => v > 0 && Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9;
    return splits.filter(power).length < 3 ? splits : splits.map((v) => (power(v) ? v : null));
  };

  // As wide as its longest label.
  function width(u, values, axis, cycle) {
    const { size, gap, ticks, font } = u.axes[axis];
    if (cycle > 1) return u.axes[axis]._size;
    const longest = (values ?? []).reduce((a, b) => (String(b ?? "").length > a.length ? String(b ?? "") : a), "");
    u.ctx.font = font[0];
    return Math.ceil((ticks.size ?? 0) + gap + u.ctx.measureText(longest).width / uPlot.pxRatio) + 2;
  }

  function axis(description, isX) {
    const common = {
      stroke: style("--soft"),
      font: font(12),
      grid: { stroke: style("--line"), width: 1, show: !isX },
      ticks: { stroke: style("--line"), width: 1, size: isX ? 4 : 0 },
      border: { show: isX, stroke: style("--soft"), width: 1 },
    };
    if (description.form !== "time") common.values = (u, splits) => splits.map(tick(description.form));
    if (description.form === "whole") common.incrs = WHOLE;
    if (description.log) common.filter = common.grid.filter = common.ticks.filter = powers;
    const size = description.form === "time" ? 40 : 26;
    if (isX) return { ...common, size, label: description.label, labelSize: 16, labelGap: 0, labelFont: font(12), gap: 4 };
    return { ...common, size: width, gap: 6 };
  }

  function series(description, i, form) {
    const common = { label: description.label, stroke: colour(i), value: (u, v) => exact(form)(v), spanGaps: true };
    if (description.line) return { ...common, width: 2, points: { size: 5, width: 0, fill: colour(i) } };
    return { ...common, paths: () => null, points: { show: true, size: 8, width: 0, fill: colour(i) } };
  }

  function drawMarks(u, marks) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.font = `${11.5 * uPlot.pxRatio}px ${style("--plain")}`;
    ctx.textBaseline = "top";
    for (const mark of marks) {
      const x = u.valToPos(mark.x, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = style("--soft");
      ctx.lineWidth = uPlot.pxRatio;
      ctx.setLineDash([3 * uPlot.pxRatio, 3 * uPlot.pxRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const left = x + 40 * uPlot.pxRatio > bbox.left + bbox.width;
      ctx.textAlign = left ? "right" : "left";
      ctx.fillText(mark.label, x + (left ? -5 : 5) * uPlot.pxRatio, bbox.top);
    }
    ctx.restore();
  }

  // Labels of single points, each on the first side of its point where it covers no other label.
  function drawLabels(u, chart) {
    const { ctx, bbox } = u;
    const r = uPlot.pxRatio, size = 11.5 * r, taken = [];
    ctx.save();
    ctx.font = `${size}px ${style("--plain")}`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    ctx.fillStyle = style("--ink");
    chart.labels.forEach((text, row) => {
      const at = text && chart.series.findIndex((s, i) => s.values[row] !== null && u.series[i + 1].show);
      if (!text || at < 0) return;
      const x = u.valToPos(chart.at[row], "x", true), y = u.valToPos(chart.series[at].values[row], "y", true);
      const w = ctx.measureText(text).width, gap = 7 * r;
      const places = [[x + gap, y], [x - gap - w, y], [x - w / 2, y - 1.4 * size], [x - w / 2, y + 1.4 * size]];
      const free = ([left, middle]) =>
        left >= bbox.left && left + w <= bbox.left + bbox.width &&
        !taken.some((t) => left < t[0] + t[2] && t[0] < left + w && Math.abs(middle - t[1]) < size);
      const place = places.find(free);
      if (!place) return;
      taken.push([...place, w]);
      ctx.fillText(text, ...place);
    });
    ctx.restore();
  }

  // While nothing is pointed at, the legend shows the values at the mark, or the last ones.
  function resting(u, chart) {
    if (u.cursor.idx !== null && u.cursor.idx !== undefined) return;
    const marked = chart.marks.length ? chart.at.indexOf(chart.marks[0].x) : -1;
    u.setLegend({ idx: marked < 0 ? chart.at.length - 1 : marked }, false);
  }

  function draw(element, chart, available) {
    const hooks = {
      draw: [(u) => drawMarks(u, chart.marks), (u) => drawLabels(u, chart)],
      setCursor: [(u) => resting(u, chart)],
      ready: [(u) => resting(u, chart)],
    };
    const lines = chart.series.some((s) => s.line);
    const options = {
      width: available,
      height: HEIGHT,
      padding: [8, 12, 0, 0],
      legend: { show: chart.series.length > 0, live: lines, markers: { width: 0, fill: (u, i) => colour(i - 1) } },
      cursor: { y: !lines, points: { size: 7, width: 0 } },
      scales: { x: scale(chart.x, true, lines), y: scale(chart.y, false, lines) },
      axes: [axis(chart.x, true), axis(chart.y, false)],
      series: [
        { label: chart.x.label, value: (u, v) => exact(chart.x.form)(v) },
        ...chart.series.map((s, i) => series(s, i, chart.y.form)),
      ],
      hooks,
    };
    return new uPlot(options, [chart.at, ...chart.series.map((s) => s.values)], element);
  }

  const drawn = [...document.querySelectorAll("[data-chart]")].map((element) => {
    const chart = JSON.parse(element.dataset.chart);
    let plot = null;
    const again = () => {
      plot?.destroy();
      plot = chart.at.length ? draw(element, chart, element.clientWidth) : null;
    };
    again();
    new ResizeObserver(() => {
      if (plot && element.clientWidth > 0) plot.setSize({ width: element.clientWidth, height: HEIGHT });
    }).observe(element);
    return again;
  });
  const all = () => drawn.forEach((again) => again());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  matchMedia("print").addEventListener("change", all);
})();
