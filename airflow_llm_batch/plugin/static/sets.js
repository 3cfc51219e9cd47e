// A partitioned task: one line that opens to a map of its partitions, sums by state, and a line each.

import { ask, jobPath, redraw, route } from "./app.js";
import { ADVICE, STATES, age, badge, clock, cost, dollars, h, number, progress, took } from "./dom.js";

const MOST = 500;
/** The sets that somebody has opened -> the state whose partitions are listed, "" for all that are not simply landed. */
const opened = new Map();

export const keyOf = (job) => `${job.dag_id}/${job.run_id}/${job.task_id}/${job.map_index}${job.asked_model ?? ""}`;
export const isOpen = (job) => opened.has(keyOf(job));

/** Open a partitioned task to its partitions, or close it. */
export const toggle = (job) => () => {
  if (!opened.delete(keyOf(job))) opened.set(keyOf(job), "");
  redraw();
};

/** The partitions of every set that is open, by its key. */
export async function partsOfOpened(jobs) {
  const open = jobs.filter((job) => job.partitions && isOpen(job));
  return new Map(await Promise.all(open.map(async (job) => [keyOf(job), await partsOf(job, chosenOf(job))])));
}

/** The state that is listed, where the set has any in it still. */
function chosenOf(job) {
  const chosen = opened.get(keyOf(job));
  return job.states.some(({ state }) => state === chosen) ? chosen : "";
}

/** A set's partitions in their order: the first of all for the map, and those that are listed. */
async function partsOf(job, chosen) {
  const { dag_id, run_id, task_id } = job;
  const read = async (state) => {
    const asked = new URLSearchParams({ dag_id, run_id, task_id, state, partitions: "true", limit: MOST });
    const { jobs, found } = await ask(`jobs?${asked}`);
    const isOurs = (part) => part.state !== "replaced" && part.asked_model === job.asked_model && part.partition.endsWith(`/${job.partitions}`);
    const parts = jobs.filter(isOurs);
    // Of several models' partitions fewer are among the first.
    return { parts, seen: found > jobs.length ? numberOf(jobs.at(-1)) : MOST };
  };
  const { parts: all, seen } = await read("");
  if (chosen) return { chosen, all, seen, listed: job.planned > all.length ? (await read(chosen)).parts : all.filter(({ state }) => state === chosen) };
  const listed = job.states.length > 1 ? all.filter(({ state }) => state !== "landed") : all;
  return { chosen, all, seen, listed };
}

/** What stands below a set's line. */
export function partLines(job, parts, run) {
  if (!parts) return [];
  const wide = run ? 7 : 8;
  const shown = parts.chosen ? job.states.find(({ state }) => state === parts.chosen).partitions : null;
  const left = parts.chosen ? shown > parts.listed.length : job.planned > parts.all.length;
  return [
    h("tr", { class: "inside" }, h("td", { colspan: wide }, map(job, parts), sums(job, parts))),
    ...parts.listed.map((part) => partLine(part, run)),
    left ? h("tr", { class: "inside" }, h("td", { colspan: wide, class: "small quiet" }, `Of ${number(shown ?? job.planned)}, what is among the first ${number(parts.chosen ? parts.listed.length : parts.all.length)} is listed. A state lists its own.`)) : null,
  ].filter(Boolean);
}

const numberOf = (part) => Number.parseInt(part.partition, 10);
const told = (part) => `partition ${part.partition}: ${STATES[part.state] ?? part.state}, ${number(part.done)} of ${number(part.rows)} rows, ${cost(part)}`;

/** A cell for every partition, in their order, coloured by its state. */
function map(job, { all, seen }) {
  const known = new Map(all.map((part) => [numberOf(part), part]));
  const count = Math.min(job.partitions, seen);
  return h("div", { class: "map", role: "group", "aria-label": `Partitions by number${count < job.partitions ? `, the first ${number(count)}` : ""}` },
    Array.from({ length: count }, (_, place) => {
      const part = known.get(place);
      return part
        ? route(jobPath(part), String(place), { class: `cell ${part.state}`, title: told(part), "aria-label": told(part) })
        : h("span", { class: "cell none", title: `partition ${place}/${job.partitions}: no job` }, String(place));
    }));
}

/** What a number is of, where there is no room for a head above it. */
const unit = (count, name) => h("span", { class: "unit" }, ` ${name}${count === 1 ? "" : "s"}`);

/** What was paid for what is landed, and what the rest may cost. */
export function costOf(job) {
  if (job.landed_at || !job.landed) return cost(job);
  return [dollars(job.cost_usd), job.committed_usd === 0 ? null : h("div", { class: "small" }, `and ≤ ${dollars(job.committed_usd)} at work`)];
}

/** A line for every state: how many partitions, rows and dollars, and what is to be done. */
function sums(job, { chosen }) {
  const pick = (state) => () => {
    opened.set(keyOf(job), state === chosen ? "" : state);
    redraw();
  };
  const missing = job.partitions - job.planned;
  const dollarsOf = (sum) => {
    const parts = [sum.landed ? dollars(sum.cost_usd) : "", sum.landed < sum.partitions ? `≤ ${dollars(sum.estimated_cost_usd)}` : ""];
    return parts.filter(Boolean).join(" and ");
  };
  return h("div", { class: "scroll" }, h("table", { class: "sums small" },
    h("thead", {}, h("tr", {}, ["State", "Partitions", "Rows", "Cost", "What it means"].map((name, place) => h("th", { class: place > 0 && place < 4 ? "number" : "" }, name)))),
    h("tbody", {},
      job.states.map((sum) => h("tr", {},
        h("td", {}, h("button", { id: `only-${keyOf(job)}-${sum.state}`, class: "pick", "aria-pressed": String(sum.state === chosen), title: "List these alone", onclick: pick(sum.state) }, badge(sum.state))),
        h("td", { class: "number" }, number(sum.partitions), unit(sum.partitions, "partition")),
        h("td", { class: "number" }, number(sum.rows), unit(sum.rows, "row"), sum.failed > sum.cancelled ? h("div", { class: "bad-text" }, `${number(sum.failed - sum.cancelled)} failed`) : null),
        h("td", { class: "number" }, dollarsOf(sum)),
        h("td", { class: "wrap quiet" }, ADVICE[sum.state], sum.refusal ? h("div", {}, `One of them: ${sum.refusal}`) : null))),
      missing ? h("tr", {},
        h("td", { class: "quiet" }, "no job"), h("td", { class: "number" }, number(missing), unit(missing, "partition")), h("td", {}), h("td", {}),
        h("td", { class: "wrap quiet" }, "their tasks have not planned anything: they have not run yet, were refused before (their logs say why), or have no rows")) : null)));
}

function partLine(part, run) {
  return h("tr", { class: "follow part", "data-job": `${part.dag_id}/${part.run_id}/${part.task_id}/${part.map_index}`, onclick: follow },
    h("td", {}, route(jobPath(part), `partition ${part.partition}`, { class: "name" })),
    h("td", {}, badge(part.state)),
    h("td", { class: "small quiet", colspan: run ? 1 : 2 }, part.rounds > 1 ? `${part.rounds} rounds` : ""),
    h("td", { class: "number wide" }, number(part.shards)),
    h("td", {}, progress(part)),
    h("td", { class: "small time", title: clock(part.created_at) }, age(part.created_at), h("div", { class: "quiet" }, took(part))),
    h("td", { class: "number" }, cost(part), part.saving_usd ? h("div", { class: "small quiet" }, `${dollars(part.saving_usd)} saved`) : null));
}

/** A click anywhere in a row is one on its job, unless it is one on something else, or selects text. */
export function follow(event) {
  if (event.target.closest("a, button") || !getSelection().isCollapsed) return;
  event.currentTarget.querySelector(".name").click();
}
