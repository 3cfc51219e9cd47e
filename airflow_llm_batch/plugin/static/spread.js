// How the answers spread: labels as bars, numbers as a histogram, beside the run before.

import { h, number, percent } from "./dom.js";

/** A panel for each field of the answers. `choose(field, value)` shows the rows behind a bar. */
export function spread(told, filters, choose) {
  const { now, previous } = told;
  const before = new Map((previous?.fields ?? []).map((field) => [field.name, field]));
  const of = now.whole ? `all ${number(now.rows)} rows that have an answer` : `${number(now.rows)} rows, spread over ${number(now.total)}`;
  return h("section", { "aria-label": "How the answers spread" },
    h("p", { class: "small quiet" }, `How the answers spread, of ${of}.`,
      previous ? [" The thin line is the run before, ", h("span", { class: "wrap" }, told.previous_run), "."] : ""),
    h("div", { class: "spread" }, now.fields.map((field) => h("div", { class: "panel", "data-field": field.name },
      h("h3", { class: "wrap" }, field.name, h("span", { class: "quiet small" }, ` ${describe(field)}`)),
      field.kind === "numbers" ? histogram(field, before.get(field.name), filters, choose) : null,
      field.kind === "labels" ? bars(field, before.get(field.name), filters, choose) : null))));
}

function describe(field) {
  const round = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
  if (field.kind === "numbers") return `mean ${round(field.mean)}`;
  if (field.kind === "texts") return `${number(field.distinct)} different texts, ${round(field.mean)} characters on average`;
  return field.distinct > 1 ? `${number(field.distinct)} different` : "always the same";
}

const shares = (field) => new Map((field?.bars ?? []).map((bar) => [bar.label, bar.rows / Math.max(field.rows, 1)]));
const isChosen = (filters, field, bar) => filters.field === field.name && filters.value === bar.value;
const words = (field, bar, before) => `${bar.label}: ${number(bar.rows)} rows, ${percent(bar.rows, field.rows)}${before === undefined ? "" : `; ${percent(before, 1)} in the run before`}`;
/** Answers that are no objects have no field to filter by. */
const value = (field, bar) => (field.name === "answer" ? null : bar.value);

function bars(field, earlier, filters, choose) {
  const before = shares(earlier);
  const most = Math.max(...field.bars.map((bar) => bar.rows / field.rows), ...before.values());
  return h("div", { class: "ranks small" }, field.bars.map((bar) => {
    const told = words(field, bar, earlier ? before.get(bar.label) ?? 0 : undefined);
    const track = h("span", { class: "bar", title: told }, h("i", { width: `${(100 * bar.rows) / field.rows / most}%` }));
    if (earlier) track.append(h("i", { class: "before", width: `${(100 * (before.get(bar.label) ?? 0)) / most}%` }));
    const pressed = String(isChosen(filters, field, bar));
    return [
      value(field, bar) === null ? h("span", { class: "cut", title: bar.label }, bar.label) : h("button", { class: "plain cut", title: bar.label, "aria-pressed": pressed, "aria-label": told, onclick: () => choose(field.name, bar.value) }, bar.label),
      track, h("span", {}, percent(bar.rows, field.rows)),
    ];
  }));
}

function histogram(field, earlier, filters, choose) {
  const [width, height] = [280, 96];
  const before = shares(earlier?.kind === "numbers" ? earlier : null);
  const most = Math.max(...field.bars.map((bar) => bar.rows / field.rows), ...before.values());
  const step = width / field.bars.length;
  const tall = (share) => (most ? (share / most) * (height - 18) : 0);
  const ends = [field.bars[0].label.split(" to ")[0], field.bars[field.bars.length - 1].label.split(" to ")[1]];
  return h("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `${field.name}, from ${ends[0]} to ${ends[1]}` },
    h("line", { class: "grid", x1: 0, x2: width, y1: height - 16, y2: height - 16 }),
    field.bars.map((bar, place) => {
      const share = tall(bar.rows / field.rows);
      const was = before.get(bar.label);
      const follow = (event) => (event.type === "click" || event.key === "Enter") && choose(field.name, bar.value);
      return h("g", { class: isChosen(filters, field, bar) ? "pick chosen" : "pick", tabindex: 0, role: "button", "aria-label": words(field, bar, was), onclick: follow, onkeydown: follow },
        h("title", {}, words(field, bar, was)),
        h("rect", { class: "room", x: place * step, y: 0, width: step, height: height - 16 }),
        h("rect", { class: "column", x: place * step + 1, y: height - 16 - share, width: Math.max(step - 2, 1), height: share, rx: 1 }),
        was === undefined ? null : h("rect", { class: "before", x: place * step + 1, y: height - 17 - tall(was), width: Math.max(step - 2, 1), height: 2 }));
    }),
    h("text", { x: 0, y: height - 4 }, ends[0]), h("text", { x: width, y: height - 4, "text-anchor": "end" }, ends[1]));
}
