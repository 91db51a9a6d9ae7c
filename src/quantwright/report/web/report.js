"use strict";
// The page of one run: what is drawn where, and what a click does.
const POINT = new Map(DATA.points.map((point) => [point.name, point]));
const VERIFIED = new Map(DATA.verified.map((row) => [row.point, row]));
const format = (name) => POINT.get(name)?.format ?? "float"; // what has no point in the plan was not quantized
const clippedShare = (one) => (one.grid && one.values ? (one.below + one.above) / one.values : NaN);

// -- error per layer
(function errors() {
  if (!DATA.activations.length) return;
  const rows = [
    ...DATA.activations.map((one) => ({ ...one, name: one.point, kind: "activations" })),
    ...DATA.parameters.map((one) => ({ ...one, name: one.point, kind: one.role === "weight" ? "weights" : "biases" })),
  ];
  const most = Math.max(10, ...rows.filter((row) => row.kind === "activations").flatMap((row) => [num(row.sqnr_db), num(row.alone_db)]).filter(Number.isFinite));
  const level = (row) => num(row.kind === "activations" ? row.sqnr_db : row.alone_db);
  const list = table($("layers-table"), [
    { title: "Point", cell: (row) => dotted(row.name), sort: (row) => row.name, className: "name" },
    { title: "Format", cell: (row) => format(row.name), sort: (row) => format(row.name), className: "hide-narrow" },
    { title: "", cell: (row) => (Number.isNaN(level(row)) ? "" : meter(level(row) / most, grade(level(row)), num(row.alone_db) / most)), className: "hide-narrow" },
    { title: "SQNR, dB", number: true, cell: (row) => decibel(row.sqnr_db ?? (row.kind === "activations" ? null : row.alone_db)), sort: level, tip: "Float against simulated, both run from the network's input. For parameters: their own rounding." },
    { title: "Alone, dB", number: true, cell: (row) => decibel(row.alone_db), sort: (row) => num(row.alone_db), tip: "This quantizer alone: everything before it in float." },
    { title: "Error", number: true, cell: (row) => errorShare(level(row)), sort: (row) => -level(row), tip: "Root mean square of the error over that of the signal." },
    { title: "Clipped", number: true, cell: (row) => (Number.isNaN(clippedShare(row)) ? "\u2013" : percent(clippedShare(row))), sort: clippedShare, className: "hide-narrow", tip: "Values more than half a step outside the grid." },
  ], { by: 3, limit: 12, pick: (row) => (row.kind === "activations" ? showPoint(row.point, true) : showWeight(row.point, true)) });
  const filter = () => {
    const kind = $("layers-kind").value, query = $("layers-search").value;
    const shown = rows.filter((row) => (!kind || row.kind === kind) && matches(`${row.name} ${format(row.name)}`, query));
    $("layers-count").textContent = `${shown.length} of ${rows.length}`;
    list.show(shown);
  };
  $("layers-kind").addEventListener("change", filter);
  $("layers-search").addEventListener("input", filter);
  filter();
  const bars = DATA.activations.map((one) => ({ name: one.point, value: one.sqnr_db, mark: one.alone_db,
    text: `${one.point}\n${decibelWithUnit(one.sqnr_db)} (error ${errorShare(one.sqnr_db)} of the signal)\nalone ${decibelWithUnit(one.alone_db)}` }));
  drawn($("layers-chart"), (width) => errorChart(width, bars, (row) => showPoint(row.name, true)));
})();

// -- values of one point
const SHOWN = DATA.activations.filter((one) => one.histogram);
let logarithmic = true, current = 0;

function showPoint(name, scroll) {
  const index = SHOWN.findIndex((one) => one.point === name);
  if (index < 0) return;
  current = index;
  const one = SHOWN[index], point = POINT.get(name), grid = one.grid;
  $("values-select").value = name;
  drawn($("values-chart"), (width) => histogramChart(width, one, logarithmic));
  const said = (title, value) => el("div", {}, el("dt", {}, title), el("dd", {}, value));
  const parts = [said("Values", `${short(one.low)} to ${short(one.high)}`)];
  if (grid) {
    const several = grid.scales > 1;
    const within = Math.min(num(one.high), num(grid.high)) - Math.max(num(one.low), num(grid.low));
    const reach = Math.max(0, within / (num(grid.high) - num(grid.low)));
    parts.push(said("Grid", `${short(grid.low)} to ${short(grid.high)}`), said(several ? `Largest of ${count(grid.scales)} steps` : "Step", short(grid.scale)));
    if (!several) parts.push(said("Zero point", String(grid.zero_point)));
    parts.push(said("Range in use", percent(reach)), said("Clipped", `${count(one.below + one.above)} of ${count(one.values)}`));
  }
  parts.push(said("SQNR", decibelWithUnit(one.sqnr_db)), said("Alone", decibelWithUnit(one.alone_db)));
  if (point) parts.push(el("div", { class: "all" }, el("dt", {}, "Decided"), el("dd", {}, [point.summary, point.note].filter(Boolean).join("; "))));
  replace($("values-facts"), parts);
  for (const button of $("values-all").children) button.setAttribute("aria-pressed", String(button.dataset.point === name));
  if (scroll) $("values").scrollIntoView({ behavior: "smooth" });
}

(function values() {
  if (!SHOWN.length) return;
  replace($("values-select"), SHOWN.map((one) => el("option", { value: one.point }, one.point)));
  $("values-select").addEventListener("change", (event) => showPoint(event.target.value));
  const step = (by) => showPoint(SHOWN[(current + by + SHOWN.length) % SHOWN.length].point);
  $("values-before").addEventListener("click", () => step(-1));
  $("values-after").addEventListener("click", () => step(1));
  $("values-log").addEventListener("click", (event) => {
    logarithmic = !logarithmic;
    event.currentTarget.setAttribute("aria-pressed", String(logarithmic));
    showPoint(SHOWN[current].point);
  });
  replace($("values-all"), SHOWN.map((one) => el("button", { type: "button", class: "mini", "data-point": one.point, title: one.point, onclick: () => showPoint(one.point) },
    el("span", { class: "name" }, el("bdi", {}, one.point)), miniHistogram(one))));
  const worst = SHOWN.reduce((a, b) => (num(b.sqnr_db) < num(a.sqnr_db) ? b : a));
  showPoint(worst.point);
})();

// -- weights by channel
const WEIGHTS = DATA.parameters.filter((one) => one.channels);
const leastUsed = (one) => Math.min(...one.channels.low.map((_, index) => used(one, index)));

function showWeight(name, scroll) {
  const one = WEIGHTS.find((weight) => weight.point === name);
  if (!one) return;
  $("weights-title").textContent = name;
  drawn($("weights-chart"), (width) => channelChart(width, one));
  if (scroll) $("weights").scrollIntoView({ behavior: "smooth" });
}

(function weights() {
  if (!WEIGHTS.length) return;
  const size = (one) => one.shape.reduce((a, b) => a * b, 1);
  const list = table($("weights-table"), [
    { title: "Weight", cell: (one) => dotted(one.point), sort: (one) => one.point, className: "name" },
    { title: "Shape", cell: (one) => one.shape.join(" \u00d7 "), sort: size, className: "hide-narrow" },
    { title: "Format", cell: (one) => format(one.point), sort: (one) => format(one.point) },
    { title: "Scales", number: true, cell: (one) => count(one.scales), sort: (one) => one.scales },
    { title: "SQNR, dB", number: true, cell: (one) => decibel(one.alone_db), sort: (one) => num(one.alone_db), tip: "Rounding of the weights themselves." },
    { title: "Narrowest channel", number: true, cell: (one) => (Number.isFinite(leastUsed(one)) ? percent(leastUsed(one)) : "\u2013"), sort: leastUsed, className: "hide-narrow", tip: "How much of its grid's reach the narrowest channel uses: small where one scale serves channels of different size." },
  ], { by: 4, limit: 8, pick: (one) => showWeight(one.point, true) });
  const filter = () => list.show(WEIGHTS.filter((one) => matches(`${one.point} ${format(one.point)}`, $("weights-search").value)));
  $("weights-search").addEventListener("input", filter);
  filter();
  showWeight(WEIGHTS.reduce((a, b) => (num(b.alone_db) < num(a.alone_db) ? b : a)).point);
})();

// -- the plan with its reasons
(function plan() {
  const deciding = (point) => unique(DATA.chains[point.chain].map(([, steps]) => DATA.sources[steps[steps.length - 1][1]]));
  const candidates = (point) => unique(DATA.chains[point.chain].flatMap(([, steps]) => steps.map(([, source]) => DATA.sources[source])));
  const texts = new Map(DATA.points.map((point) => [point, [point.name, point.role, point.summary, point.note, point.state, ...candidates(point)].join(" ")]));
  const list = table($("plan-table"), [
    { title: "Point", cell: (point) => [...dotted(point.name), point.note ? el("span", { class: "under" }, dotted(point.note)) : ""], sort: (point) => point.name, className: "name" },
    { title: "Role", cell: (point) => point.role, sort: (point) => point.role, className: "hide-narrow" },
    { title: "Format", cell: (point) => point.format, sort: (point) => point.format },
    { title: "State", cell: (point) => el("span", { class: "tag" }, point.state), sort: (point) => point.state },
    { title: "Decision", cell: (point) => (point.summary === "float" ? "" : point.summary), className: "hide-narrow" },
  ], { limit: 25, pick: open });

  function open(point, line) {
    const next = line.nextElementSibling;
    if (next && next.classList.contains("opened")) {
      next.remove();
      line.classList.remove("chosen");
      return;
    }
    const fields = DATA.chains[point.chain].map(([field, steps]) => el("tr", {}, el("td", { class: "mono" }, field),
      el("td", {}, [...steps].reverse().map(([value, source], index) => el("div", { class: "step" }, el("b", {}, value), ` ${DATA.sources[source]}`,
        index || steps.length < 2 ? null : el("span", { class: "tag won" }, "won"))))));
    const inner = fields.length ? el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, fields))) : "No setting was looked up for this tensor.";
    line.classList.add("chosen");
    line.after(el("tr", { class: "opened" }, el("td", { colspan: 5 }, el("div", { class: "chain" }, el("p", {}, point.summary), inner))));
  }

  options($("plan-role"), unique(DATA.points.map((point) => point.role)), "every role");
  options($("plan-format"), unique(DATA.points.map((point) => point.format)).sort(), "every format");
  options($("plan-source"), unique(DATA.points.flatMap(deciding)).sort(), "decided anywhere");
  const inputs = ["plan-search", "plan-role", "plan-format", "plan-source"].map($);
  const filter = () => {
    const [query, role, kind, source] = inputs.map((input) => input.value);
    const shown = DATA.points.filter((point) => (!role || point.role === role) && (!kind || point.format === kind)
      && (!source || deciding(point).includes(source)) && matches(texts.get(point), query));
    $("plan-count").textContent = `${shown.length} of ${DATA.points.length}`;
    list.show(shown);
  };
  inputs.forEach((input) => input.addEventListener(input.tagName === "SELECT" ? "change" : "input", filter));
  filter();
})();

// -- the places settings came from: rules, defaults, target
(function origins() {
  const list = table($("origins-table"), [
    { title: "Source", cell: (row) => [row.text, row.file ? el("span", { class: "under" }, row.lines.length ? `${row.file}:${row.lines.join(", ")}` : row.file) : ""], sort: (row) => row.text },
    { title: "Settings decided", number: true, cell: (row) => count(row.decided), sort: (row) => row.decided },
    { title: "Of tensors", number: true, cell: (row) => count(row.tensors), sort: (row) => row.tensors, className: "hide-narrow" },
    { title: "Overridden", number: true, cell: (row) => count(row.lost), sort: (row) => row.lost, tip: "Settings it offered and another source decided." },
  ], { limit: 25, pick: (row) => {
    $("plan-search").value = row.text;
    $("plan-search").dispatchEvent(new Event("input"));
    $("plan").scrollIntoView({ behavior: "smooth" });
  } });
  list.show(DATA.origins);
})();

// -- verification, point by point
(function verification() {
  if (!DATA.verified.length) return;
  const list = table($("verified-table"), [
    { title: "Point", cell: (row) => dotted(row.point), sort: (row) => row.point, className: "name" },
    { title: "Differing", number: true, cell: (row) => (row.differing ? `${count(row.differing)} of ${count(row.values)}` : "0"), sort: (row) => row.differing / row.values, tip: "Values that differ between simulation and file, differences of earlier points included." },
    { title: "Largest, LSB", number: true, cell: (row) => short(row.max_lsb), sort: (row) => num(row.max_lsb) },
    { title: "Mean, LSB", number: true, cell: (row) => short(row.mean_lsb), sort: (row) => num(row.mean_lsb), className: "hide-narrow" },
    { title: "Alone, LSB", number: true, cell: (row) => short(row.local_max_lsb), sort: (row) => num(row.local_max_lsb), tip: "The same when this point is computed from the file's own values before it." },
  ], { by: 2, down: true, limit: 8 });
  list.show(DATA.verified);
})();
