"use strict";
// Small things the pages share: elements, numbers in words, tooltip, theme, tables that sort. Text is set as text, never
// as markup, whatever a layer is called.
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "tip") tipOn(node, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

function replace(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

// -- numbers: "inf" is how JSON says infinite, null is not measured
const num = (value) => (value === null || value === undefined ? NaN : value === "inf" ? Infinity : value === "-inf" ? -Infinity : Number(value));
const minus = (text) => text.replace(/-/g, "\u2212");
const count = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");

function decibel(value) {
  const x = num(value);
  return Number.isNaN(x) ? "\u2013" : x === Infinity ? "equal" : minus(x.toFixed(1));
}

function decibelWithUnit(value) {
  return Number.isFinite(num(value)) ? `${decibel(value)} dB` : decibel(value);
}

function errorShare(value) {
  const x = num(value);
  if (Number.isNaN(x)) return "\u2013";
  return percent(10 ** (-x / 20));
}

function percent(part) {
  const x = 100 * part;
  if (x === 0) return "0 %";
  return (x >= 10 ? x.toFixed(1) : x >= 0.1 ? x.toFixed(2) : x >= 0.001 ? x.toFixed(4) : "< 0.001") + " %";
}

function short(value) {
  const x = num(value);
  if (Number.isNaN(x)) return "\u2013";
  if (!Number.isFinite(x) || x === 0) return String(x);
  const size = Math.abs(x);
  return minus(size >= 1e5 || size < 1e-4 ? x.toExponential(2) : String(Number(x.toPrecision(4))));
}

function grade(value) {
  const x = num(value);
  return x < 10 ? "bad" : x < 20 ? "warm" : "";
}

// -- tooltip
const TIP = el("div", { id: "tip", role: "status" });
document.body.append(TIP);

function tipOn(node, text) {
  const show = (event) => {
    TIP.textContent = typeof text === "function" ? text(event) : text;
    const box = TIP.getBoundingClientRect();
    const target = node.getBoundingClientRect();
    const x = event.clientX ?? target.left, y = event.clientY ?? target.bottom;
    TIP.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
    TIP.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 16) + "px";
    TIP.style.visibility = "visible";
  };
  node.addEventListener("pointermove", show);
  node.addEventListener("focus", show);
  for (const name of ["pointerleave", "blur"]) node.addEventListener(name, () => { TIP.style.visibility = "hidden"; });
}

// -- theme: follows the system until somebody chooses
(function theme() {
  const root = document.documentElement, button = $("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; button.title = `Show the page in ${dark() ? "light" : "dark"} colours`; };
  const kept = keep("quantwright-theme");
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    keep("quantwright-theme", root.dataset.theme);
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
})();

function keep(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch (refused) { // a browser may refuse storage to local files
    return null;
  }
}

// -- the section one is in, in the navigation
(function where() {
  const links = [...document.querySelectorAll("nav a")];
  const sections = links.map((link) => $(link.hash.slice(1)));
  const mark = () => {
    let at = 0;
    sections.forEach((section, index) => { if (section.getBoundingClientRect().top < 120) at = index; });
    if (innerHeight + scrollY >= document.documentElement.scrollHeight - 4) at = sections.length - 1;
    links.forEach((link, index) => link.classList.toggle("here", index === at));
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();

// -- tables. columns: {title, number, sort: row => value, cell: row => text or node, className, tip}
function table(host, columns, options) {
  const state = { rows: [], by: options.by ?? null, down: options.down ?? false, limit: options.limit ?? 15, open: null };
  const body = el("tbody"), more = el("button", { class: "more", type: "button" });
  const heads = columns.map((column, index) => el("th", { class: classes(column), scope: "col", tip: column.tip || null },
    column.sort ? el("button", { type: "button", onclick: () => order(index) }, column.title) : column.title));
  replace(host, el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, heads)), body)), more);
  more.addEventListener("click", () => { state.limit = Infinity; draw(); });

  function classes(column) {
    return [column.number ? "num" : "", column.className || ""].join(" ").trim() || null;
  }
  function order(index) {
    state.down = state.by === index ? !state.down : Boolean(columns[index].number);
    state.by = index;
    draw();
  }
  function sorted() {
    if (state.by === null) return state.rows;
    const value = columns[state.by].sort, sign = state.down ? -1 : 1;
    const empty = (x) => x === null || x === undefined || Number.isNaN(x);
    return [...state.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (empty(x) || empty(y)) return Number(empty(x)) - Number(empty(y)); // what is not known comes last, always
      return x < y ? -sign : x > y ? sign : 0;
    });
  }
  function draw() {
    heads.forEach((head, index) => index === state.by
      ? head.setAttribute("aria-sort", state.down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    const rows = sorted();
    replace(body, rows.slice(0, state.limit).map(line));
    if (!rows.length) body.append(el("tr", {}, el("td", { colspan: columns.length, class: "muted" }, options.empty || "Nothing matches.")));
    more.hidden = rows.length <= state.limit;
    more.textContent = `Show all ${rows.length}`;
  }
  function line(row) {
    const node = el("tr", {}, columns.map((column) => el("td", { class: classes(column) }, column.cell(row))));
    if (!options.pick) return node;
    node.classList.add("pick");
    node.tabIndex = 0;
    const pick = () => options.pick(row, node);
    node.addEventListener("click", pick);
    node.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target === node) pick(); });
    return node;
  }
  return { show(rows) { state.rows = rows; draw(); } };
}

function meter(part, kind, mark) {
  const at = (x) => `${(100 * Math.max(0, Math.min(1, x))).toFixed(1)}%`;
  return el("span", { class: "meter" }, el("i", { class: kind || null, style: `width:${at(part)}` }),
    Number.isFinite(mark) ? el("b", { style: `left:${at(mark)}` }) : null);
}

function options(select, values, first) {
  replace(select, el("option", { value: "" }, first), values.map((value) => el("option", { value }, value)));
}

// A dotted name that may break after its dots.
function dotted(name) {
  return name.split(/(?<=[.:_/])/).flatMap((part, index) => (index ? [document.createElement("wbr"), part] : [part]));
}

function matches(text, query) {
  const low = text.toLowerCase();
  return query.toLowerCase().split(/\s+/).every((word) => low.includes(word));
}

// Draws now, and again whenever the width changes.
function drawn(host, draw) {
  let width = 0;
  const again = () => {
    const now = Math.floor(host.clientWidth);
    if (now && now !== width) { width = now; replace(host, draw(now)); }
  };
  if (host.watcher) host.watcher.disconnect();
  host.watcher = new ResizeObserver(again);
  host.watcher.observe(host);
  again();
}
