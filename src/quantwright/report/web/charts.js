"use strict";
// The drawings. Each returns an <svg> of the given width; every length is in CSS pixels.
const unique = (values) => [...new Set(values)];

function ticks(low, high, about) {
  const rough = (high - low) / Math.max(1, about) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) found.push(Number((at * step).toPrecision(12)));
  return found;
}

function frame(width, height, label, pad) {
  const box = { left: pad.left, right: width - pad.right, top: pad.top, bottom: height - pad.bottom };
  const node = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  return { node, box };
}

function sideAxis(node, box, values, place, words) {
  for (const value of values) {
    const y = Math.round(place(value)) + 0.5;
    node.append(svg("line", { class: "rule", x1: box.left, x2: box.right, y1: y, y2: y }),
      svg("text", { x: box.left - 7, y: y + 3.5, "text-anchor": "end" }, words(value)));
  }
}

function footAxis(node, box, values, place, words) {
  node.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom + 0.5, y2: box.bottom + 0.5 }));
  for (const value of values) {
    const x = place(value);
    node.append(svg("line", { class: "axis", x1: x, x2: x, y1: box.bottom, y2: box.bottom + 4 }),
      svg("text", { x, y: box.bottom + 16, "text-anchor": "middle" }, words(value)));
  }
}

// -- error per layer, in the order of execution. rows: {name, series: [{value, kind}], text}
function errorChart(width, rows, pick) {
  const height = 214, pad = { left: 40, right: 8, top: 20, bottom: 26 };
  const wide = Math.max(width, pad.left + pad.right + rows.length * 4);
  const { node, box } = frame(wide, height, "Signal to noise ratio of every layer, in the order of execution", pad);
  const finite = rows.flatMap((row) => [row.value, row.mark, row.other].map(num)).filter(Number.isFinite);
  const high = Math.max(10, ...finite) * 1.04, low = Math.min(0, ...finite);
  const y = (value) => box.bottom - ((Math.min(value, high) - low) / (high - low)) * (box.bottom - box.top);
  const pitch = (box.right - box.left) / Math.max(1, rows.length);
  const bar = Math.max(2, Math.min(26, pitch - Math.max(1, pitch * 0.22)));
  sideAxis(node, box, ticks(low, high, 5), y, (value) => minus(String(value)));
  node.append(svg("text", { x: 2, y: 11 }, "dB, higher is better"));
  rows.forEach((row, index) => {
    const middle = box.left + (index + 0.5) * pitch, pair = row.other !== undefined;
    const draw = (value, left, size, kind) => {
      if (Number.isNaN(num(value))) return;
      const top = y(num(value)), zero = y(0);
      node.append(svg("rect", { class: `fill ${kind}`, x: left, width: size, y: Math.min(top, zero), height: Math.max(1, Math.abs(zero - top)), rx: size > 5 ? 1.5 : 0 }));
    };
    if (pair) {
      draw(row.value, middle - bar / 2, bar / 2 - 0.5, "");
      draw(row.other, middle + 0.5, bar / 2 - 0.5, "second");
    } else draw(row.value, middle - bar / 2, bar, grade(row.value));
    if (Number.isFinite(num(row.mark))) node.append(svg("line", { class: "comb", x1: middle - bar / 2, x2: middle + bar / 2, y1: y(num(row.mark)), y2: y(num(row.mark)) }));
    node.append(svg("rect", { class: pick ? "hit pick" : "hit", x: box.left + index * pitch, width: pitch, y: box.top, height: box.bottom - box.top, tip: row.text, onclick: pick ? () => pick(row) : () => {} }));
  });
  const every = Math.max(1, Math.ceil(rows.length / Math.max(2, Math.floor((box.right - box.left) / 60))));
  footAxis(node, box, rows.map((_, index) => index).filter((index) => index % every === 0), (index) => box.left + (index + 0.5) * pitch, (index) => String(index + 1));
  return node;
}

// -- the values of one point, its grid, and what is clipped
function span(one) {
  const ends = [one.low, one.high, one.grid?.low, one.grid?.high].map(num).filter(Number.isFinite);
  const low = Math.min(...ends), high = Math.max(...ends), room = (high - low || 1) * 0.03;
  return [low - room, high + room];
}

function binPath(one, x, y, bottom) {
  const { start, width, counts } = one.histogram;
  const steps = counts.map((value, index) => {
    const left = x(start + index * width), right = x(start + (index + 1) * width);
    return value ? `M${left.toFixed(1)} ${bottom}V${y(value).toFixed(1)}H${Math.max(right, left + 0.8).toFixed(1)}V${bottom}Z` : "";
  });
  return steps.join("");
}

function countScale(counts, bottom, top, log) {
  const most = Math.max(1, ...counts);
  if (!log) return (value) => bottom - (value / most) * (bottom - top);
  const full = Math.log10(most) + 0.35;
  return (value) => bottom - ((value > 0 ? Math.log10(value) + 0.35 : 0) / full) * (bottom - top); // one value is still seen
}

function histogramChart(width, one, log) {
  const height = 268, pad = { left: 52, right: 14, top: 22, bottom: 52 };
  const { node, box } = frame(width, height, `Histogram of ${one.point}`, pad);
  const [low, high] = span(one);
  const x = (value) => box.left + ((value - low) / (high - low)) * (box.right - box.left);
  const counts = one.histogram.counts, y = countScale(counts, box.bottom, box.top, log), most = Math.max(...counts);
  const marks = log ? Array.from({ length: Math.floor(Math.log10(most)) + 1 }, (_, power) => 10 ** power) : ticks(0, most, 4);
  const grid = one.grid;
  const clipped = (from, to) => svg("rect", { class: "fill clip", x: from, width: Math.max(0, to - from), y: box.top, height: box.bottom - box.top });
  if (grid) node.append(clipped(box.left, x(num(grid.low))), clipped(x(num(grid.high)), box.right));
  sideAxis(node, box, marks.filter((_, index) => marks.length < 7 || index % 2 === 0), y, (value) => (value >= 1e6 ? `${value / 1e6}M` : value >= 1e3 ? `${value / 1e3}k` : String(value)));
  node.append(svg("text", { x: 2, y: 11 }, log ? "values per bin, logarithmic" : "values per bin"));
  node.append(svg("path", { class: "fill", d: binPath(one, x, y, box.bottom) }));
  footAxis(node, { ...box, bottom: box.bottom + 12 }, ticks(low, high, Math.max(3, width / 110)), x, short);
  if (grid) comb(node, box, grid, x);
  const bins = one.histogram;
  node.append(svg("rect", { class: "hit", style: "fill-opacity:0", x: box.left, width: box.right - box.left, y: box.top, height: box.bottom - box.top, tip: (event) => {
    const at = low + ((event.clientX - node.getBoundingClientRect().left - box.left) / (box.right - box.left)) * (high - low);
    const index = Math.floor((at - bins.start) / bins.width);
    const from = bins.start + index * bins.width;
    return `${short(from)} to ${short(from + bins.width)}\n${count(bins.counts[index] || 0)} of ${count(one.values)} values`;
  } }));
  node.append(svg("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, "value of the float network"));
  return node;
}

// The grid under the histogram: a tick per step where there is room, else a band; dashed lines where it ends.
function comb(node, box, grid, x) {
  const low = num(grid.low), high = num(grid.high), step = (high - low) / grid.steps;
  const left = x(low), right = x(high), top = box.bottom + 3, bottom = box.bottom + 9;
  if (((right - left) / grid.steps) >= 2.4) {
    let path = "";
    for (let at = 0; at <= grid.steps; at += 1) path += `M${x(low + at * step).toFixed(1)} ${top}V${bottom}`;
    node.append(svg("path", { class: "comb", d: path }));
  } else node.append(svg("rect", { class: "fill soft", x: left, width: right - left, y: top, height: bottom - top, rx: 1 }));
  for (const [at, anchor, value] of [[left, "start", low], [right, "end", high]]) {
    node.append(svg("line", { class: "stroke limit", x1: at, x2: at, y1: box.top, y2: bottom }),
      svg("text", { class: "strong", x: at + (anchor === "start" ? 4 : -4), y: box.top + 10, "text-anchor": anchor }, short(value)));
  }
}

function miniHistogram(one) {
  const width = 140, height = 40, [low, high] = span(one), x = (value) => ((value - low) / (high - low)) * width;
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (one.grid) node.append(svg("rect", { class: "fill clip", x: 0, width: x(num(one.grid.low)), y: 0, height }), svg("rect", { class: "fill clip", x: x(num(one.grid.high)), width: width - x(num(one.grid.high)), y: 0, height }));
  node.append(svg("path", { class: "fill", d: binPath(one, x, countScale(one.histogram.counts, height, 2, true), height) }));
  return node;
}

// -- the weights of one layer: range per channel over what its grid reaches
function channelChart(width, one) {
  const { low, high, count: total, pool } = one.channels;
  const limits = [one.channels.grid_low, one.channels.grid_high];
  const height = 258, pad = { left: 58, right: 10, top: 22, bottom: 40 };
  const wide = Math.max(width, pad.left + pad.right + Math.min(low.length * 2, 1200));
  const { node, box } = frame(wide, height, `Range of every channel of ${one.point}`, pad);
  const at = (limit, index) => (limit ? num(limit[limit.length === 1 ? 0 : index]) : NaN);
  const ends = [...low, ...high, ...limits.flatMap((limit) => limit || [])].map(num).filter(Number.isFinite);
  const bottom = Math.min(0, ...ends), top = Math.max(0, ...ends), room = (top - bottom || 1) * 0.04;
  const y = (value) => box.bottom - ((value - bottom + room) / (top - bottom + 2 * room)) * (box.bottom - box.top);
  const pitch = (box.right - box.left) / low.length, bar = Math.max(1, Math.min(14, pitch * 0.62));
  const steps = low.map((_, index) => {
    const left = (box.left + index * pitch).toFixed(1), right = (box.left + (index + 1) * pitch).toFixed(1);
    const upper = y(at(limits[1], index)), lower = y(at(limits[0], index));
    return Number.isFinite(upper) && Number.isFinite(lower) ? `M${left} ${lower.toFixed(1)}V${upper.toFixed(1)}H${right}V${lower.toFixed(1)}Z` : "";
  });
  node.append(svg("path", { class: "fill soft", d: steps.join("") }));
  sideAxis(node, box, ticks(bottom, top, 5), y, short);
  node.append(svg("text", { x: 2, y: 11 }, "weight"));
  low.forEach((value, index) => {
    const middle = box.left + (index + 0.5) * pitch;
    node.append(svg("rect", { class: "fill", x: middle - bar / 2, width: bar, y: y(num(high[index])), height: Math.max(1, y(num(value)) - y(num(high[index]))) }));
    const from = index * pool, to = Math.min(total, from + pool) - 1;
    const reach = used(one, index);
    const words = [pool > 1 ? `channels ${from} to ${to}` : `channel ${from}`, `values ${short(value)} to ${short(high[index])}`];
    if (Number.isFinite(at(limits[0], index))) words.push(`grid ${short(at(limits[0], index))} to ${short(at(limits[1], index))}`, `uses ${percent(reach)} of its reach`);
    node.append(svg("rect", { class: "hit", x: box.left + index * pitch, width: pitch, y: box.top, height: box.bottom - box.top, tip: words.join("\n") }));
  });
  const place = (channel) => box.left + (channel / pool + 0.5) * pitch;
  footAxis(node, box, ticks(0, Math.max(1, total - 1), Math.max(3, wide / 100)).filter(Number.isInteger), place, String);
  node.append(svg("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, pool > 1 ? `output channel, ${pool} neighbours per bar` : "output channel"));
  return node;
}

function used(one, index) {
  const { low, high, grid_low: lower, grid_high: upper } = one.channels;
  if (!lower || !upper) return NaN;
  const at = (limit) => num(limit[limit.length === 1 ? 0 : index]);
  const parts = [num(low[index]) / at(lower), num(high[index]) / at(upper)].filter((part) => Number.isFinite(part) && part > 0);
  return Math.max(0, ...parts);
}
