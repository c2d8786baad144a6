// Small charts in plain SVG: heat maps, steps, bars and lines. They draw what they are given, and know nothing of distributions.
"use strict";

const charts = (() => {
  const parser = document.createElement("template");
  parser.innerHTML = "<svg></svg>";
  const SVG = parser.content.firstChild.namespaceURI;
  const CHART = { width: 420, height: 250, left: 56, right: 12, top: 12, bottom: 40 };

  function add(parent, name, attributes = {}, text = "") {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== "") node.textContent = text; // the number 0 is a text too
    parent.append(node);
    return node;
  }

  function frame(svg, width, height, description) {
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", description);
  }

  // A colour between stops "#rrggbb", for a share from 0 to 1.
  function blend(stops, share) {
    const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
    const k = Math.min(Math.floor(place), stops.length - 2);
    const part = (stop, at) => parseInt(stop.slice(at, at + 2), 16);
    const mix = (at) => part(stops[k], at) + (place - k) * (part(stops[k + 1], at) - part(stops[k], at));
    return `rgb(${[1, 3, 5].map((at) => Math.round(mix(at))).join(",")})`;
  }

  const short = (v) => (v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5) ? v.toExponential(0) : String(+v.toFixed(4)));

  // About five round numbers from low to high; of a logarithmic axis the powers of ten.
  function ticks(low, high, log) {
    if (log) {
      const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
      const step = Math.max(1, Math.ceil((last - first) / 5));
      return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, k) => 10 ** (first + k * step));
    }
    const rough = (high - low) / 4 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) found.push(+v.toPrecision(12));
    return found;
  }

  // Axes with labels; returns the functions from values to places.
  function axes(svg, { x, y, xLabel, yLabel, logX = false, logY = false, description, xTicks }) {
    const { width, height, left, right, top, bottom } = CHART;
    frame(svg, width, height, description);
    const scale = ([low, high], from, to, log) => {
      const f = log ? Math.log10 : (v) => v;
      const span = f(high) - f(low) || 1;
      return (v) => from + ((f(v) - f(low)) / span) * (to - from);
    };
    const toX = scale(x, left, width - right, logX);
    const toY = scale(y, height - bottom, top, logY);
    for (const v of ticks(...y, logY)) {
      add(svg, "line", { x1: left, x2: width - right, y1: toY(v), y2: toY(v), class: "grid" });
      add(svg, "text", { x: left - 6, y: toY(v) + 4, "text-anchor": "end" }, short(v));
    }
    for (const [v, name] of xTicks || ticks(...x, logX).map((v) => [v, short(v)])) {
      add(svg, "text", { x: toX(v), y: height - bottom + 16, "text-anchor": "middle" }, name);
    }
    add(svg, "line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" });
    add(svg, "text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel);
    const middle = (top + height - bottom) / 2;
    add(svg, "text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, yLabel);
    return [toX, toY];
  }

  // Numbers where the pointer is: a strip for each of `x`, as high as the chart, with a text.
  function strips(svg, toX, { x, text }) {
    const middle = (k) => (toX(x[k]) + toX(x[k + 1])) / 2;
    x.forEach((_, k) => {
      const from = Math.max(CHART.left, k ? middle(k - 1) : CHART.left);
      const to = k + 1 < x.length ? middle(k) : CHART.width - CHART.right;
      const height = CHART.height - CHART.bottom - CHART.top;
      const strip = add(svg, "rect", { x: from, y: CHART.top, width: Math.max(to - from, 0), height, class: "strip" });
      add(strip, "title", {}, text(k));
    });
  }

  // series: [{x, y, colour, dash, area}]; steps draws every value as a bar's top; marker is a place on the x axis.
  function lines(svg, { series, steps = false, marker, hover, ...options }) {
    const [toX, toY] = axes(svg, options);
    const base = toY(options.y[0]);
    for (const { x, y, colour, dash, area, thick } of series) {
      const corners = x.flatMap((v, k) => (steps ? [[v - 0.5, y[k]], [v + 0.5, y[k]]] : [[v, y[k]]]));
      const shown = corners.filter(([, v]) => Number.isFinite(v) && v >= options.y[0]);
      const line = shown.map(([a, b]) => `${toX(a).toFixed(2)},${toY(b).toFixed(2)}`).join(" ");
      if (area) {
        const ends = [shown[0], shown[shown.length - 1]].map(([a]) => toX(a));
        add(svg, "polygon", { points: `${ends[0]},${base} ${line} ${ends[1]},${base}`, fill: colour, opacity: 0.5 });
      } else {
        add(svg, "polyline", {
          points: line, fill: "none", stroke: colour, "stroke-width": thick ? 4 : 2, "stroke-dasharray": dash || "none",
        });
      }
      if (marker !== undefined && x.includes(marker) && !area) {
        const value = y[x.indexOf(marker)];
        if (Number.isFinite(value) && value >= options.y[0]) add(svg, "circle", { cx: toX(marker), cy: toY(value), r: 4, fill: colour });
      }
    }
    if (marker !== undefined) {
      add(svg, "line", { x1: toX(marker), x2: toX(marker), y1: CHART.top, y2: CHART.height - CHART.bottom, class: "now" });
    }
    if (hover) strips(svg, toX, hover);
  }

  // Bars of values of either sign, from a line at zero.
  function columns(svg, { values, colours, hover, ...options }) {
    const [toX, toY] = axes(svg, options);
    const width = Math.max(0.5, toX(0.85) - toX(0));
    values.forEach((v, k) => {
      const [from, to] = [toY(Math.max(v, 0)), toY(Math.min(v, 0))];
      add(svg, "rect", { x: toX(k) - width / 2, y: from, width, height: to - from, fill: blend(colours, v > 0 ? 0.9 : 0.1) });
    });
    add(svg, "line", { x1: CHART.left, x2: CHART.width - CHART.right, y1: toY(0), y2: toY(0), class: "axis" });
    if (hover) strips(svg, toX, { x: values.map((_, k) => k), text: (k) => hover(values[k], k) });
  }

  // groups: [{name, bars: [{value, colour, label}]}], horizontally, below one another.
  function bars(svg, { groups, top, description }) {
    const [line, gap, left, room] = [15, 12, 92, 62];
    const rows = groups.reduce((sum, group) => sum + group.bars.length, 0);
    frame(svg, CHART.width, rows * line + groups.length * gap + 8, description);
    let y = 6;
    for (const { name, bars: own } of groups) {
      add(svg, "text", { x: left - 8, y: y + (own.length * line) / 2 + 4, "text-anchor": "end" }, name);
      for (const { value, colour, label } of own) {
        const width = (value / top) * (CHART.width - left - room);
        add(svg, "rect", { x: left, y: y + 1, width: Math.max(width, 0.5), height: line - 3, fill: colour });
        add(svg, "text", { x: left + width + 5, y: y + line - 4 }, label);
        y += line;
      }
      y += gap;
    }
  }

  // The border of a set of cells, as a path; cell (i, j) is at i to the right and j upwards.
  function border(inside, n) {
    const at = (i, j) => i >= 0 && j >= 0 && i < n && j < n && inside[i * n + j];
    let path = "";
    for (let i = 0; i <= n; i += 1) {
      for (let j = 0; j <= n; j += 1) {
        if (j < n && at(i - 1, j) !== at(i, j)) path += `M${i} ${n - j}V${n - j - 1}`;
        if (i < n && at(i, j - 1) !== at(i, j)) path += `M${i} ${n - j}H${i + 1}`;
      }
    }
    return path;
  }

  // A colour scale below a map: a bar from one end to the other, with a number at each.
  function bar(svg, { stops, ends }, { x, y, width, size }) {
    const parts = 40;
    for (let k = 0; k < parts; k += 1) {
      add(svg, "rect", { x: x + (k * width) / parts, y, width: width / parts, height: 0.7 * size, fill: blend(stops, (k + 0.5) / parts) });
    }
    add(svg, "rect", { x, y, width, height: 0.7 * size, class: "frame", "stroke-width": 0.1 * size });
    ends.forEach((text, k) => {
      add(svg, "text", { x: x + k * width, y: y + 2 * size, "text-anchor": k ? "end" : "start" }, text);
    });
  }

  const LETTERS = 5; // of a value's name at an axis

  function shortened(name) {
    const letters = [...name];
    return letters.length > LETTERS ? `${letters.slice(0, LETTERS - 1).join("")}…` : name;
  }

  // values: n x n, the first coordinate to the right; ellipses: [{mean, eigenvalues, angle, dash}] at one standard deviation;
  // hover(value, k): the numbers of a cell; scale: {stops, ends}; labels: [{text, at}].
  function heat(svg, { values, n, colour, borders, ellipses, names, hover, scale, labels = [], description }) {
    const size = 0.05 * n;
    const marks = names ? names.map(shortened) : [...Array(n).keys()].map(String);
    const longest = names ? Math.max(...marks.map((mark) => [...mark].length)) : 0;
    const [left, bottom, top] = [Math.max(0.11 * n, (longest + 0.4) * size), 0.22 * n, 0.01 * n];
    const right = names ? 1.5 * size : top; // the axis is named beyond the names of its values
    frame(svg, left + n + right, n + bottom + top, description);
    const map = add(svg, "g", { transform: `translate(${left} ${top})` });
    values.forEach((v, k) => {
      const cell = add(map, "rect", { x: Math.floor(k / n), y: n - 1 - (k % n), width: 1, height: 1, fill: colour(v) });
      add(cell, "title", {}, hover(v, k));
    });
    add(map, "rect", { width: n, height: n, class: "frame", "stroke-width": 0.006 * n });
    borders.forEach((inside, k) => {
      add(map, "path", { d: border(inside, n), class: k ? "shared" : "support", "stroke-width": 0.012 * n,
        "stroke-dasharray": k ? `${0.012 * n} ${0.022 * n}` : "none" });
    });
    for (const { mean, eigenvalues, angle, dash } of ellipses) {
      add(map, "ellipse", {
        rx: Math.sqrt(eigenvalues[0]), ry: Math.sqrt(eigenvalues[1]), class: "ellipse", "stroke-width": 0.014 * n,
        transform: `translate(${mean[0] + 0.5} ${n - mean[1] - 0.5}) rotate(${-angle})`,
        "stroke-dasharray": dash ? `${0.035 * n} ${0.025 * n}` : "none",
      });
    }
    map.style.setProperty("--size", `${size}px`);
    const write = (place, text) => add(map, "text", place, text);
    for (const { text, at: [i, j] } of labels) {
      write({ x: i + 0.5, y: n - j - 0.5 + 0.35 * size, "text-anchor": "middle", class: "label" }, text);
    }
    for (let v = 0; v < n; v += Math.max(1, Math.ceil(n / 4))) {
      write({ x: v + 0.5, y: n + 1.4 * size, "text-anchor": "middle" }, marks[v]);
      write({ x: -0.3 * size, y: n - v - 0.3, "text-anchor": "end" }, marks[v]);
    }
    write({ x: n + right - top, y: n + 1.4 * size, "text-anchor": "end" }, "x₁");
    write({ x: -0.3 * size, y: 0.8 * size, "text-anchor": "end" }, "x₂");
    bar(map, scale, { x: 0, y: n + 2 * size, width: n, size });
  }

  return { lines, columns, bars, heat, blend };
})();
