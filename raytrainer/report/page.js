"use strict";
(() => {
  const byTime = () => document.querySelector("input[name=axis]:checked")?.value === "time";
  const number = (value) => Number(value.toPrecision(5)).toLocaleString("en-US", { maximumSignificantDigits: 5 });
  const place = (axis, step, seconds) => (axis ? (seconds === null ? null : seconds / DATA.unit[1]) : step);

  // Over wall time a curve is interrupted where the workers started again.
  const part = (starts, curve, i, axis) =>
    axis && curve.n !== "workers" ? starts.filter((start) => start <= curve.t[i]).length : 0;

  function rows(key, axis) {
    const found = [];
    for (const curve of DATA.points[key] || []) {
      const starts = DATA.attempts.filter((one) => one.run === curve.r).map((one) => one.t);
      curve.s.forEach((step, i) => {
        const lost = Boolean(curve.l[i]);
        const x = place(axis, step, curve.t[i]);
        if (x !== null && (axis || !lost)) found.push({ x, y: curve.v[i], name: curve.n, run: curve.r, lost, part: part(starts, curve, i, axis) });
      });
    }
    return found;
  }

  function tell(spec, view, plot, output, points, axis) {
    const curves = new Map();
    for (const row of points) {
      if (row.lost) continue;
      const key = row.run + "\u0000" + row.name;
      if (!curves.has(key)) curves.set(key, []);
      curves.get(key).push(row);
    }
    const several = new Set(points.map((row) => row.run)).size > 1;
    plot.onpointermove = (event) => {
      const svg = plot.querySelector("svg");
      if (!svg) return;
      const at = view.scale("x").invert(event.clientX - svg.getBoundingClientRect().left - view.origin()[0]);
      const near = [...curves.values()].map((curve) => {
        let low = 0, high = curve.length - 1;
        while (low < high) {
          const middle = (low + high) >> 1;
          if (curve[middle].x < at) low = middle + 1; else high = middle;
        }
        return low > 0 && at - curve[low - 1].x < curve[low].x - at ? curve[low - 1] : curve[low];
      });
      if (!near.length) return;
      const where = axis ? number(near[0].x) + " " + DATA.unit[0] : "step " + near[0].x.toLocaleString("en-US");
      output.textContent = where + ": " +
        near.map((row) => (several ? row.run + " " : "") + row.name + " " + number(row.y)).join(" · ");
    };
    plot.onpointerleave = () => { output.textContent = ""; };
  }

  async function draw(index, axis) {
    const { key, step, time } = SPECS[index];
    const plot = document.getElementById("plot-" + index);
    const points = rows(key, axis);
    const marks = DATA.marks.map((mark) => ({ ...mark, x: place(axis, mark.s, mark.t) }));
    const attempts = DATA.attempts.map((row) => ({
      ...row, x: place(axis, row.s, row.t), x2: place(axis, row.s2, row.t2),
    }));
    if (axis && key in DATA.points && !points.length) {
      plot.textContent = "The record of this curve has no times.";
      return;
    }
    try {
      const spec = { ...(axis ? time : step), datasets: { points, marks, attempts } };
      const { view } = await vegaEmbed(plot, spec, { actions: false, renderer: "svg", tooltip: { theme: "light" } });
      if (points.length) tell(spec, view, plot, document.getElementById("value-" + index), points, axis);
    } catch (error) {
      plot.classList.add("failed");
      plot.textContent = "This chart could not be drawn: " + error.message;
    }
  }

  async function drawAll() {
    for (let index = 0; index < SPECS.length; index++) await draw(index, byTime());
    document.documentElement.dataset.drawn = String(Math.round(performance.now()));
  }

  const wanted = document.querySelector("input[name=axis][value='" + CSS.escape(location.hash.slice(1)) + "']");
  if (wanted) wanted.checked = true; // report.html#time
  document.querySelectorAll("input[name=axis]").forEach((input) => input.addEventListener("change", drawAll));
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = one.querySelectorAll("tr").length < 60; }));
  drawAll();
})();
