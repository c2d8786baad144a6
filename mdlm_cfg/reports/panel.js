// The panel: a slider over the guidance strength, switches of class and kind, and everything that they move.
// The distributions lie in the page as float32 in base64; every number shown is computed from them here.
"use strict";

(() => {
  const root = document.getElementById("panel");
  if (!root) return;
  const data = JSON.parse(root.querySelector("script").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const { dims, n, titles } = data;
  const places = Array.from({ length: n }, (_, k) => k);
  const state = { ...data.start };

  const classes = new Map(data.classes.map((one) => [one.id, {
    ...one, law: floats(one.law), region: new Int8Array(bytes(one.region).buffer),
  }]));
  const decoded = new Map();
  const lawsOf = (id, kind) => {
    const key = `${id}/${kind}`;
    if (!decoded.has(key)) {
      decoded.set(key, data.laws[key].map((entry) => ({
        ...Object.fromEntries(Object.entries(entry.laws).map(([name, text]) => [name, floats(text)])),
        class: classes.get(id).law, still: entry.still_masked,
      })));
    }
    return decoded.get(key);
  };

  // Mathematics of distributions.
  const less = (p, q) => Array.from(p, (v, k) => v - q[k]);
  const tv = (p, q) => (p && q ? 0.5 * p.reduce((sum, v, k) => sum + Math.abs(v - q[k]), 0) : undefined);
  const largest = (values) => values.reduce((top, v) => Math.max(top, Math.abs(v)), 0);
  function moments(p) {
    const mean = Array(dims).fill(0);
    const square = Array.from({ length: dims }, () => Array(dims).fill(0));
    p.forEach((v, k) => {
      const x = dims === 1 ? [k] : [Math.floor(k / n), k % n];
      x.forEach((a, i) => {
        mean[i] += v * a;
        x.forEach((b, j) => { square[i][j] += v * a * b; });
      });
    });
    return { mean, covariance: square.map((row, i) => row.map((v, j) => v - mean[i] * mean[j])) };
  }
  function eigenvalues([[a, b = 0], [, d] = []]) {
    if (dims === 1) return [a];
    const [half, span] = [(a + d) / 2, Math.hypot((a - d) / 2, b)];
    return [half + span, half - span];
  }
  function masses(p, { region, regions }) {
    const found = regions.map(() => 0);
    p.forEach((v, k) => { if (region[k] >= 0) found[region[k]] += v; });
    return found;
  }

  // Numbers as the tables of the page have them.
  function format(v, digits = 4) {
    if (v === undefined || v === null) return "-";
    if (Math.abs(v) < 1e-7) return "0"; // float32
    return Math.abs(v) < 0.5 * 10 ** (1 - digits) ? v.toExponential(1) : v.toFixed(digits);
  }

  // Places that are filled: built once, drawn again at every move.
  function element(parent, name, attributes = {}, text = "") {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    parent.append(node);
    return node;
  }
  const figures = new Map();
  function figure(name, parent, title, legend = []) {
    if (!figures.has(name)) {
      const node = element(parent, "figure", { "data-figure": name });
      const caption = element(node, "figcaption");
      node.insertAdjacentHTML("beforeend", "<svg></svg>");
      figures.set(name, { caption, svg: node.lastChild });
    }
    const { caption, svg } = figures.get(name);
    caption.textContent = title;
    for (const [label, colour, dash] of legend) {
      const key = element(caption, "span", { class: "key" }, label);
      key.style.setProperty("--key", colour);
      if (dash) key.classList.add("dashed");
    }
    return svg;
  }
  const nameOf = (v) => (data.value_names ? data.value_names[v] : v);
  const stateOf = (k) => (dims === 1 ? `x = ${nameOf(k)}` : `x₁ = ${nameOf(Math.floor(k / n))}, x₂ = ${nameOf(k % n)}`);
  function note(name, text) {
    const { svg } = figures.get(name);
    const under = svg.nextElementSibling || element(svg.parentNode, "p", { class: "note" });
    under.textContent = text;
  }
  const inOrder = (names) => data.order.filter((name) => names.includes(name));
  const keys = (names) => names.map((name) => [titles[name], data.colours.laws[name], name === "tilted"]);

  const COMPARED = [["exact", "class"], ["exact", "tilted"], ["learned", "exact"]];
  const scales = new Map(); // one for every class and kind, so that colours can be compared as w moves
  function scaleOf(first, second) {
    const key = [state.class, state.kind, first, second].join("/");
    if (!scales.has(key)) {
      const all = lawsOf(state.class, state.kind).filter((laws) => laws[first] && (!second || laws[second]));
      scales.set(key, Math.max(...all.map((laws) => largest(second ? less(laws[first], laws[second]) : laws[first])), 1e-6)); // below is float32
    }
    return scales.get(key);
  }

  function drawMaps(views, laws, names) {
    const { region, regions } = classes.get(state.class);
    const top = Math.max(...names.map((name) => scaleOf(name)));
    const support = Array.from(region, (part) => part >= 0);
    const shared = Array.from(region, (part) => part >= 0 && regions[part].shared);
    const ellipse = (name, dash) => ({ ...moments(laws[name]), dash });
    const hover = (v, k) => `${stateOf(k)}: ${format(v, 6)}${region[k] >= 0 ? `, region ${regions[region[k]].name}` : ""}`;
    const common = { n, borders: [support, shared], names: data.value_names, hover };
    for (const name of names) {
      const apart = name === "exact" ? "" : `, TV to exact ${format(tv(laws[name], laws.exact))}`;
      charts.heat(figure(name, views, `${titles[name]}${apart}`), {
        ...common, values: laws[name], colour: (v) => charts.blend(data.colours.probability, v / top),
        scale: { stops: data.colours.probability, ends: ["0", format(top)] },
        labels: name === "class" ? centres(region, regions) : [],
        ellipses: name === "class" ? [ellipse("class", true)] : [ellipse("class", true), ellipse(name, false)],
        description: `Heat map of the distribution “${titles[name]}” of ${where()}${apart}; darkest is ${format(top)}.`,
      });
    }
    for (const [first, second] of COMPARED.filter((pair) => pair.every((name) => laws[name]))) {
      const scale = scaleOf(first, second);
      const title = `${titles[first]} − ${titles[second]}`;
      charts.heat(figure(`${first}-${second}`, views, title), {
        ...common, values: less(laws[first], laws[second]), ellipses: [],
        colour: (v) => charts.blend(data.colours.difference, 0.5 + v / scale / 2),
        scale: { stops: data.colours.difference, ends: [`−${format(scale)}`, `+${format(scale)}`] },
        description: `Heat map of ${title}, of ${where()}; colours from −${format(scale)} to ${format(scale)}.`,
      });
    }
  }

  // The names of the regions, each at the state that is nearest to the middle of its states.
  function centres(region, regions) {
    return regions.map(({ name }, part) => {
      const states = [...region.keys()].filter((k) => region[k] === part).map((k) => [Math.floor(k / n), k % n]);
      const middle = [0, 1].map((i) => states.reduce((sum, state) => sum + state[i], 0) / states.length);
      const away = ([a, b]) => (a - middle[0]) ** 2 + (b - middle[1]) ** 2;
      return { text: name, at: states.reduce((best, state) => (away(state) < away(best) ? state : best)) };
    });
  }

  function drawBars(views, laws, names) {
    const top = Math.max(...names.map((name) => scaleOf(name)));
    const step = Math.max(1, Math.ceil(n / 8));
    const axis = {
      x: [-0.5, n - 0.5], xLabel: "value x",
      xTicks: places.filter((v) => v % step === 0).map((v) => [v, data.value_names ? data.value_names[v] : v]),
    };
    const series = names.map((name) => ({
      x: places, y: Array.from(laws[name]), colour: data.colours.laws[name], area: name === "class",
      dash: name === "tilted" ? "6 4" : "", thick: name === "exact",
    }));
    charts.lines(figure("laws", views, "", keys(names)), {
      ...axis, series, steps: true, y: [0, 1.05 * top], yLabel: "probability",
      hover: { x: places, text: (k) => `${stateOf(k)}: ${names.map((name) => `${titles[name]} ${format(laws[name][k])}`).join(", ")}` },
      description: `The distributions ${names.map((name) => titles[name]).join(", ")} of ${where()}, over one another.`,
    });
    for (const [first, second] of COMPARED.filter((pair) => pair.every((name) => laws[name]))) {
      const scale = 1.05 * scaleOf(first, second);
      const title = `${titles[first]} − ${titles[second]}`;
      charts.columns(figure(`${first}-${second}`, views, title), {
        ...axis, values: less(laws[first], laws[second]), y: [-scale, scale], yLabel: "difference",
        hover: (v, k) => `${stateOf(k)}: ${format(v)}`,
        colours: data.colours.difference, description: `Bars of ${title}, of ${where()}.`,
      });
    }
  }

  function drawRegions(views, laws, names) {
    const own = classes.get(state.class);
    const found = new Map(names.map((name) => [name, masses(laws[name], own)]));
    const groups = own.regions.map(({ name }, k) => ({
      name,
      bars: names.map((law) => ({
        value: found.get(law)[k], colour: data.colours.laws[law], label: format(found.get(law)[k]),
      })),
    }));
    charts.bars(figure("regions", views, "Mass of each region of the class's support", keys(names)), {
      groups, top: 1, description: `Masses of the regions of ${where()}: ${groups.map(
        ({ name, bars }) => `${name} ${bars.map((bar, k) => `${titles[names[k]]} ${bar.label}`).join(", ")}`).join("; ")}.`,
    });
    note("regions", own.regions.map(({ name, meaning }) => `${name}: ${meaning}`).join("; ") + ".");
  }

  function drawDistances(views) {
    const all = lawsOf(state.class, state.kind);
    const numbers = placesOfNumbers();
    if (numbers.length < 2) return;
    const w = numbers.map((k) => data.w[k]);
    const series = COMPARED.map(([first, second]) => ({
      name: data.distances[`${first}-${second}`], x: w, y: numbers.map((k) => tv(all[k][first], all[k][second])),
      colour: data.colours.laws[second === "class" ? "class" : first === "learned" ? "learned" : "tilted"],
    })).filter(({ y }) => y.some((v) => v > 1e-7));
    const shown = series.flatMap(({ y }) => y).filter((v) => v > 1e-7);
    const low = 10 ** Math.floor(Math.log10(Math.min(...shown, 0.1)));
    charts.lines(figure("distances", views, "Total variation against w", series.map((s) => [s.name, s.colour])), {
      series, x: [w[0], w[w.length - 1]], y: [low, 1], logY: true, xLabel: "guidance strength w", yLabel: "TV",
      marker: data.w[state.strength] ?? undefined,
      hover: { x: w, text: (k) => `w = ${w[k]}: ${series.map((one) => `${one.name} ${format(one.y[k])}`).join(", ")}` },
      description: `Total variation against w: ${series.map(({ name }) => name).join(", ")}, of ${where()}.`,
    });
  }
  const placesOfNumbers = () => data.w.map((w, k) => (w === null ? -1 : k)).filter((k) => k >= 0);

  function drawDecay(views, laws) {
    const start = lawsOf(state.class, state.kind)[data.w.indexOf(0)];
    if (!laws.still) return;
    const blue = data.colours.laws.exact;
    const series = [
      { x: data.tau, y: start.still, colour: data.colours.laws.class, thick: true }, { x: data.tau, y: laws.still, colour: blue },
    ];
    const legend = [["w = 0", data.colours.laws.class], [`w = ${data.strengths[state.strength]}`, blue]];
    charts.lines(figure("decay", views, "TV to the terminal distribution on the way (exact conditionals)", legend), {
      series, x: [data.tau[0], data.tau[data.tau.length - 1]], y: [0, 1], logX: true,
      xLabel: "clock time τ", yLabel: "P(still masked)",
      hover: { x: data.tau, text: (k) => `τ = ${format(data.tau[k], 2)}: ${legend.map(([name], j) => `${name} ${format(series[j].y[k])}`).join(", ")}` },
      description: `Probability that something is still masked against the clock, of ${where()} beside w = 0.`,
    });
  }

  function fillNumbers(laws, names) {
    const body = root.querySelector("tbody");
    body.replaceChildren();
    const row = (label, cells) => {
      const line = element(body, "tr");
      element(line, "th", { scope: "row" }, label);
      names.forEach((name) => element(line, "td", { "data-law": name, "data-value": cells[name]?.[1] ?? "" }, cells[name]?.[0] ?? "-"));
    };
    const each = (f) => Object.fromEntries(names.map((name) => [name, f(name)]));
    row("TV to exact guided", each((name) => { const v = tv(laws[name], laws.exact); return [format(v), v]; }));
    const found = each((name) => moments(laws[name]));
    const list = (values) => [values.map((v) => format(v, 3)).join(", "), values.join(" ")];
    row("mean", each((name) => list(found[name].mean)));
    row(dims === 1 ? "variance" : "eigenvalues of the covariance", each((name) => list(eigenvalues(found[name].covariance))));
  }

  function where() {
    return `class ${classes.get(state.class).name}, kind ${state.kind}, w = ${data.strengths[state.strength]}`;
  }

  function draw() {
    const laws = lawsOf(state.class, state.kind)[state.strength];
    const names = inOrder(Object.keys(laws).filter((name) => laws[name] && name !== "still"));
    for (const [name, { svg }] of figures) svg.parentNode.hidden = name.split("-").some((part) => part in titles && !laws[part]);
    const [views, others] = root.querySelectorAll(".views");
    (dims === 1 ? drawBars : drawMaps)(views, laws, names);
    drawRegions(others, laws, names);
    drawDistances(others);
    drawDecay(others, laws);
    const head = root.querySelector("thead tr");
    head.replaceChildren();
    ["", ...names.map((name) => titles[name])].forEach((name) => element(head, "th", { scope: "col" }, name));
    fillNumbers(laws, names);
    root.querySelector("output").textContent = data.strengths[state.strength];
    root.querySelector("input").setAttribute("aria-valuetext", `w = ${data.strengths[state.strength]}`);
    root.querySelector("[aria-live]").textContent = `Shown: ${where()}.`;
  }

  function control(form, title, name, options, read) {
    if (options.length < 2) return;
    const label = element(form, "label", {}, `${title} `);
    const select = element(label, "select", { name });
    for (const [value, text] of options) element(select, "option", { value }, text);
    select.value = state[name];
    select.addEventListener("input", () => { state[name] = read(select.value); draw(); });
  }

  if (dims === 1) root.querySelector(".views").classList.add("wide");
  const form = root.querySelector("form");
  const label = element(form, "label", { class: "slider", for: "strength" }, "guidance strength w = ");
  element(label, "output");
  const slider = element(label, "input", { type: "range", id: "strength", min: 0, max: data.strengths.length - 1, step: 1 });
  slider.value = state.strength;
  slider.addEventListener("input", () => { state.strength = Number(slider.value); draw(); });
  control(form, "class", "class", [...classes.values()].map(({ id, name }) => [id, name]), Number);
  control(form, "kind", "kind", data.kinds.map((kind) => [kind, kind]), String);
  form.addEventListener("submit", (event) => event.preventDefault());
  root.hidden = false;
  draw();
})();
