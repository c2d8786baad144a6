// The panel: a slider over the guidance strength, switches of class and kind, and everything that they move.
// The distributions and their differences lie in the page as float32 in base64. Every number shown is looked up: Python computed it.
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

  const arrays = new Map(); // decoded when they are first shown
  const arrayAt = (place) => {
    if (!arrays.has(place)) arrays.set(place, floats(data.arrays[place]));
    return arrays.get(place);
  };
  const classes = new Map(data.classes.map((one) => [one.id, { ...one, region: new Int8Array(bytes(one.region).buffer) }]));
  const entriesOf = (id, kind) => data.laws[`${id}/${kind}`]; // one for each strength
  const largest = (name) => Math.max(data.largest[`${state.class}/${state.kind}`][name], 1e-6); // below is float32

  // What is shown at one strength: the class's own distribution among the others.
  function entryOf(id, kind, strength) {
    const entry = entriesOf(id, kind)[strength];
    const own = classes.get(id);
    const laws = { class: own.law, ...entry.laws };
    return {
      ...entry, laws, names: data.order.filter((name) => name in laws),
      moments: { class: own.moments, ...entry.moments }, masses: { class: own.masses, ...entry.masses },
      pairs: data.pairs.filter((pair) => pair.join("-") in entry.differences),
    };
  }
  const toExact = ({ tv }, name) => tv[`exact-${name}`] ?? tv[`${name}-exact`] ?? (name === "exact" ? 0 : undefined);

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
  const keys = (names) => names.map((name) => [titles[name], data.colours.laws[name], name === "tilted"]);

  function drawMaps(views, entry) {
    const { region, regions } = classes.get(state.class);
    const top = Math.max(...entry.names.map(largest));
    const support = Array.from(region, (part) => part >= 0);
    const shared = Array.from(region, (part) => part >= 0 && regions[part].shared);
    const ellipse = (name, dash) => ({ ...entry.moments[name], dash });
    const hover = (v, k) => `${stateOf(k)}: ${format(v, 6)}${region[k] >= 0 ? `, region ${regions[region[k]].name}` : ""}`;
    const common = { n, borders: [support, shared], names: data.value_names, hover };
    for (const name of entry.names) {
      const apart = name === "exact" ? "" : `, TV to exact ${format(toExact(entry, name))}`;
      charts.heat(figure(name, views, `${titles[name]}${apart}`), {
        ...common, values: arrayAt(entry.laws[name]), colour: (v) => charts.blend(data.colours.probability, v / top),
        scale: { stops: data.colours.probability, ends: ["0", format(top)] },
        labels: name === "class" ? regions.map((part) => ({ text: part.name, at: part.middle })) : [],
        ellipses: name === "class" ? [ellipse("class", true)] : [ellipse("class", true), ellipse(name, false)],
        description: `Heat map of the distribution “${titles[name]}” of ${where()}${apart}; darkest is ${format(top)}.`,
      });
    }
    for (const [first, second] of entry.pairs) {
      const scale = largest(`${first}-${second}`);
      const title = `${titles[first]} − ${titles[second]}`;
      charts.heat(figure(`${first}-${second}`, views, title), {
        ...common, values: arrayAt(entry.differences[`${first}-${second}`]), ellipses: [],
        colour: (v) => charts.blend(data.colours.difference, 0.5 + v / scale / 2),
        scale: { stops: data.colours.difference, ends: [`−${format(scale)}`, `+${format(scale)}`] },
        description: `Heat map of ${title}, of ${where()}; colours from −${format(scale)} to ${format(scale)}.`,
      });
    }
  }

  function drawBars(views, { names, laws, pairs, differences }) {
    const top = Math.max(...names.map(largest));
    const step = Math.max(1, Math.ceil(n / 8));
    const axis = {
      x: [-0.5, n - 0.5], xLabel: "value x",
      xTicks: places.filter((v) => v % step === 0).map((v) => [v, nameOf(v)]),
    };
    const series = names.map((name) => ({
      x: places, y: Array.from(arrayAt(laws[name])), colour: data.colours.laws[name], area: name === "class",
      dash: name === "tilted" ? "6 4" : "", thick: name === "exact",
    }));
    charts.lines(figure("laws", views, "", keys(names)), {
      ...axis, series, steps: true, y: [0, 1.05 * top], yLabel: "probability",
      hover: { x: places, text: (k) => `${stateOf(k)}: ${names.map((name, j) => `${titles[name]} ${format(series[j].y[k])}`).join(", ")}` },
      description: `The distributions ${names.map((name) => titles[name]).join(", ")} of ${where()}, over one another.`,
    });
    for (const [first, second] of pairs) {
      const scale = 1.05 * largest(`${first}-${second}`);
      const title = `${titles[first]} − ${titles[second]}`;
      charts.columns(figure(`${first}-${second}`, views, title), {
        ...axis, values: arrayAt(differences[`${first}-${second}`]), y: [-scale, scale], yLabel: "difference",
        hover: (v, k) => `${stateOf(k)}: ${format(v)}`,
        colours: data.colours.difference, description: `Bars of ${title}, of ${where()}.`,
      });
    }
  }

  function drawRegions(views, { names, masses }) {
    const own = classes.get(state.class);
    const groups = own.regions.map(({ name }, k) => ({
      name,
      bars: names.map((law) => ({ value: masses[law][k], colour: data.colours.laws[law], label: format(masses[law][k]) })),
    }));
    charts.bars(figure("regions", views, "Mass of each region of the class's support", keys(names)), {
      groups, top: 1, description: `Masses of the regions of ${where()}: ${groups.map(
        ({ name, bars }) => `${name} ${bars.map((bar, k) => `${titles[names[k]]} ${bar.label}`).join(", ")}`).join("; ")}.`,
    });
    note("regions", own.regions.map(({ name, meaning }) => `${name}: ${meaning}`).join("; ") + ".");
  }

  function drawDistances(views) {
    const all = entriesOf(state.class, state.kind);
    const numbers = data.w.map((w, k) => (w === null ? -1 : k)).filter((k) => k >= 0);
    if (numbers.length < 2) return;
    const w = numbers.map((k) => data.w[k]);
    const series = data.pairs.map(([first, second]) => ({
      name: data.distances[`${first}-${second}`], x: w, y: numbers.map((k) => all[k].tv[`${first}-${second}`]),
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

  function drawDecay(views, entry) {
    if (!entry.still_masked) return;
    const start = entriesOf(state.class, state.kind)[data.w.indexOf(0)];
    const blue = data.colours.laws.exact;
    const series = [
      { x: data.tau, y: start.still_masked, colour: data.colours.laws.class, thick: true },
      { x: data.tau, y: entry.still_masked, colour: blue },
    ];
    const legend = [["w = 0", data.colours.laws.class], [`w = ${data.strengths[state.strength]}`, blue]];
    charts.lines(figure("decay", views, "TV to the terminal distribution over time (exact conditionals)", legend), {
      series, x: [data.tau[0], data.tau[data.tau.length - 1]], y: [0, 1], logX: true,
      xLabel: "clock time τ", yLabel: "P(still masked)",
      hover: { x: data.tau, text: (k) => `τ = ${format(data.tau[k], 2)}: ${legend.map(([name], j) => `${name} ${format(series[j].y[k])}`).join(", ")}` },
      description: `Probability that something is still masked against the clock, of ${where()} beside w = 0.`,
    });
  }

  function fillNumbers(entry) {
    const { names, moments } = entry;
    const body = root.querySelector("tbody");
    body.replaceChildren();
    const row = (label, valuesOf, digits) => {
      const line = element(body, "tr");
      element(line, "th", { scope: "row" }, label);
      for (const name of names) {
        const values = valuesOf(name);
        const text = values.map((v) => format(v, digits)).join(", ");
        element(line, "td", { "data-law": name, "data-value": values.join(" ") }, text);
      }
    };
    row("TV to exact guided", (name) => [toExact(entry, name)], 4);
    row("mean", (name) => moments[name].mean, 3);
    row(dims === 1 ? "variance" : "eigenvalues of the covariance", (name) => moments[name].eigenvalues, 3);
  }

  function where() {
    return `class ${classes.get(state.class).name}, kind ${state.kind}, w = ${data.strengths[state.strength]}`;
  }

  function draw() {
    const entry = entryOf(state.class, state.kind, state.strength);
    for (const [name, { svg }] of figures) svg.parentNode.hidden = name.split("-").some((part) => part in titles && !(part in entry.laws));
    const [views, others] = root.querySelectorAll(".views");
    (dims === 1 ? drawBars : drawMaps)(views, entry);
    drawRegions(others, entry);
    drawDistances(others);
    drawDecay(others, entry);
    const head = root.querySelector("thead tr");
    head.replaceChildren();
    ["", ...entry.names.map((name) => titles[name])].forEach((name) => element(head, "th", { scope: "col" }, name));
    fillNumbers(entry);
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
