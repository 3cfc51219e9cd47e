// The plots: columns per day, bars per DAG, and each batch's way through the vendor.

import { OUTCOMES, clock, duration, h, short } from "./dom.js";

/** A plot is drawn for the room it has, so that its text stays as small as the text around it. */
const room = (share) => Math.max(Math.round((document.getElementById("page").clientWidth - 40) * share), 280);

/** One column per day, days without jobs included; what is only committed stands on top of it. */
export function columns(sums, { value, told, also = () => 0 }) {
  const height = 150;
  const width = room(document.body.clientWidth > 900 ? 0.58 : 0.96);
  const days = everyDay(sums);
  const most = Math.max(...days.map((day) => value(day) + also(day)), 0);
  const step = width / Math.max(days.length, 1);
  const scale = most ? (height - 34) / most : 0;
  const every = Math.ceil(days.length / 8);
  const wide = Math.min(step * 0.7, 46);
  const bar = (kind, place, from, amount) => {
    const tall = Math.max(amount * scale, amount ? 1 : 0);
    return h("rect", { class: kind, x: place * step + (step - wide) / 2, y: height - 18 - from * scale - tall, width: wide, height: tall, rx: 2 });
  };
  return h("svg", { width, height, role: "img", "aria-label": `Per day, UTC: ${days.map((day) => `${day.name} ${told(value(day))}`).join(", ")}` },
    h("line", { class: "grid", x1: 0, x2: width, y1: height - 18, y2: height - 18 }),
    most ? h("text", { x: 0, y: 10 }, `most in a day (UTC): ${told(most)}`) : null,
    days.map((day, place) => h("g", {},
      h("title", {}, `${day.name}: ${told(value(day))}${also(day) ? ` and at most ${told(also(day))} at work` : ""}, ${short(day.jobs)} jobs`),
      bar("column", place, 0, value(day)), bar("column committed", place, value(day), also(day)),
      place % every ? null : h("text", { x: place * step + step / 2, y: height - 5, "text-anchor": "middle" }, day.name.slice(5)))));
}

function everyDay(sums) {
  if (!sums.length) return [];
  const known = new Map(sums.map((sum) => [sum.name, sum]));
  const last = new Date(`${sums[sums.length - 1].name}T00:00:00Z`);
  const first = new Date(Math.max(new Date(`${sums[0].name}T00:00:00Z`), last - 59 * 86400000));
  const days = [];
  for (let day = first; day <= last; day = new Date(day.getTime() + 86400000)) {
    const name = day.toISOString().slice(0, 10);
    days.push(known.get(name) ?? { name, jobs: 0, rows: 0, tokens: 0, cost_usd: 0, committed_usd: 0, saving_usd: 0 });
  }
  return days;
}

/** One bar per DAG, the largest first. */
export function ranks(sums, value, told) {
  const sorted = [...sums].sort((one, other) => value(other) - value(one)).slice(0, 8);
  const most = Math.max(...sorted.map(value), 0) || 1;
  return h("div", { class: "ranks small" }, sorted.map((sum) => [
    h("span", { class: "cut", title: sum.name }, sum.name),
    h("span", { class: "bar" }, h("i", { width: `${(100 * value(sum)) / most}%` })),
    h("span", {}, told(value(sum))),
  ]));
}

/** A line per batch: planned, created, ended. */
export function timeline(shards, landed, cancelling) {
  const times = shards.flatMap((shard) => [shard.planned_at, shard.created_at, shard.ended_at]).filter(Boolean).map((t) => +new Date(t));
  const from = Math.min(...times);
  const running = !landed && shards.some((shard) => shard.state !== "ended");
  const to = Math.max(running ? Date.now() : 0, ...times, from + 1000);
  const left = 92;
  const width = room(0.98);
  const x = (time) => left + ((time - from) / (to - from)) * (width - left - 4);
  const row = 18;
  const height = shards.length * row + 22;
  const segment = (kind, start, end, y, told) => start === null || end <= start ? null :
    h("rect", { class: kind, x: x(start), y, width: Math.max(x(end) - x(start), 2), height: row - 7, rx: 2 }, h("title", {}, told));
  return h("svg", { width, height, role: "img", "aria-label": "Timeline of the batches" },
    shards.map((shard, place) => {
      const y = place * row + 3;
      const planned = +new Date(shard.planned_at);
      const created = shard.created_at ? +new Date(shard.created_at) : null;
      const ended = shard.ended_at ? +new Date(shard.ended_at) : null;
      const name = shard.round > 1 ? `round ${shard.round}, ${shard.index + 1}` : `batch ${shard.index + 1}`;
      const kind = shard.state === "ended" ? shard.outcome ?? "completed" : cancelling ? "cancelling" : "running";
      return h("g", {},
        h("text", { class: "label", x: 0, y: y + 9 }, name),
        segment("planned", planned, created ?? ended ?? to, y, `waiting to be sent since ${clock(planned)}`),
        segment(kind, created, ended ?? to, y, created ? `${OUTCOMES[kind] ?? kind}: created ${clock(created)}${ended ? `, ended ${clock(ended)}` : ""}` : ""));
    }),
    h("text", { x: left, y: height - 4 }, clock(from)),
    h("text", { x: width, y: height - 4, "text-anchor": "end" }, `${running ? "now" : clock(to)} (${duration((to - from) / 1000)})`));
}
