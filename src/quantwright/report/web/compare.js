"use strict";
// The page of two runs: error per layer of both, and the decisions that differ.
const GAP = (row) => num(row.b) - num(row.a);

(function errors() {
  if (!DATA.errors.length) return;
  const bars = DATA.errors.map((row) => ({ value: row.a ?? null, other: row.b ?? null,
    text: `${row.point}\n${DATA.names[0]}: ${decibelWithUnit(row.a)}\n${DATA.names[1]}: ${decibelWithUnit(row.b)}` }));
  drawn($("layers-chart"), (width) => errorChart(width, bars, null));
  const signed = (x) => (Number.isFinite(x) ? (x > 0 ? "+" : "") + decibel(x) : "\u2013");
  const list = table($("layers-table"), [
    { title: "Point", cell: (row) => dotted(row.point), sort: (row) => row.point, className: "name" },
    { title: "First", number: true, cell: (row) => decibel(row.a), sort: (row) => num(row.a) },
    { title: "Second", number: true, cell: (row) => decibel(row.b), sort: (row) => num(row.b) },
    { title: "Change", number: true, cell: (row) => signed(GAP(row)), sort: (row) => (Number.isFinite(GAP(row)) ? GAP(row) : NaN), tip: "Second minus first: above 0 the second is closer to float." },
  ], { by: 3, limit: 15 });
  const filter = () => {
    const shown = DATA.errors.filter((row) => matches(row.point, $("layers-search").value));
    $("layers-count").textContent = `${shown.length} of ${DATA.errors.length}`;
    list.show(shown);
  };
  $("layers-search").addEventListener("input", filter);
  filter();
})();

(function changes() {
  if (!DATA.changes.length) return;
  const list = table($("changes-table"), [
    { title: "Point", cell: (row) => dotted(row.point), sort: (row) => row.point, className: "name" },
    { title: "Field", cell: (row) => row.field, sort: (row) => row.field },
    { title: "First \u2192 second", cell: (row) => `${row.before} \u2192 ${row.after}`, sort: (row) => row.before },
    { title: "Decided by", cell: (row) => (row.why[0] === row.why[1] ? row.why[0] : [row.why[0] || "\u2013", " \u2192 ", row.why[1] || "\u2013"]), sort: (row) => row.why[1], className: "hide-narrow", tip: "What decided the value in the first and in the second plan." },
  ], { limit: 25 });
  options($("changes-field"), unique(DATA.changes.map((row) => row.field)).sort(), "every field");
  const inputs = ["changes-search", "changes-field"].map($);
  const filter = () => {
    const [query, field] = inputs.map((input) => input.value);
    const shown = DATA.changes.filter((row) => (!field || row.field === field) && matches(`${row.point} ${row.before} ${row.after} ${row.why.join(" ")}`, query));
    $("changes-count").textContent = `${shown.length} of ${DATA.changes.length}`;
    list.show(shown);
  };
  inputs.forEach((input) => input.addEventListener(input.tagName === "SELECT" ? "change" : "input", filter));
  filter();
})();
