// All jobs, or those of one DAG run.

import { airflow, ask, jobPath, query, redraw, route, setQuery } from "./app.js";
import { MEANING, STATES, age, badge, clock, dollars, h, instance, link, number, progress, short, swatches, took } from "./dom.js";
import { columns, ranks } from "./plots.js";
import { costOf, follow, isOpen, keyOf, partLines, partsOfOpened, toggle } from "./sets.js";

const LIMIT = 50;
const METRICS = [
  { name: "Rows", value: (sum) => sum.rows, told: short, hint: "How many rows were asked each day will be here, from the first job on." },
  { name: "Tokens", value: (sum) => sum.tokens, told: short, hint: "The tokens of each day will be here when a job is landed." },
  { name: "Dollars", value: (sum) => sum.cost_usd, told: dollars, also: (sum) => sum.committed_usd, hint: "What each day has cost will be here when a job is landed whose price is known." },
  { name: "Saved", value: (sum) => sum.saving_usd, told: dollars, hint: "What batches have saved over single calls will be here when a job is landed." },
];
const MOST = 500;
const NOTHING = { q: "", dag_id: "", provider: "", state: "", since: "", until: "", offset: 0 };
const FILTERS = Object.keys(NOTHING).filter((name) => name !== "offset");
/** What the address says is chosen. */
let chosen = { ...NOTHING, metric: 0 };

function read() {
  const told = query();
  const place = METRICS.findIndex(({ name }) => name.toLowerCase() === told.metric);
  const known = Object.fromEntries(FILTERS.map((name) => [name, told[name] ?? ""]));
  chosen = { ...known, offset: Math.max(Number.parseInt(told.offset, 10) || 0, 0), metric: Math.max(place, 0) };
}

function choose(change) {
  const { metric, offset, ...filters } = { ...chosen, ...change };
  setQuery({ ...filters, offset: offset || "", metric: metric ? METRICS[metric].name.toLowerCase() : "" });
  // A job's page leads back to the list as it was.
  sessionStorage.setItem("llm-batches", location.search);
  redraw();
}

export async function showJobs(run) {
  read();
  if (!run) sessionStorage.setItem("llm-batches", location.search);
  const filters = run ? { dag_id: run[0], run_id: run[1] } : { ...chosen };
  delete filters.metric;
  const asked = (extra) => new URLSearchParams(Object.entries({ ...filters, ...extra }).filter(([, value]) => value !== ""));
  const [told, sums] = await Promise.all([
    ask(`jobs?${asked({ limit: run ? MOST : LIMIT, offset: run ? 0 : chosen.offset })}`),
    run ? null : ask(`totals?${asked({ offset: "" })}`),
  ]);
  const parts = await partsOfOpened(told.jobs);
  const live = told.active > 0;
  const filtered = !run && FILTERS.some((name) => chosen[name]);
  const nothing = !told.found && !filtered;
  return {
    live,
    data: [told, sums, chosen, [...parts]],
    make: () => [
      h("div", { class: "head" },
        h("h1", {}, "LLM batches"),
        run ? h("span", { class: "quiet" }, `of ${run[0]}, run ${run[1]}`) : null,
        h("div", { class: "right small quiet" }, h("span", { class: live ? "live" : "" }, live ? `${told.active} at work, live` : `as of ${new Date().toLocaleTimeString()}`))),
      told.note ? h("p", { class: "note", role: "status" }, told.note) : null,
      sums && !filtered ? totals(sums) : sums?.days.length ? totals(sums) : null,
      sums && sums.budgets.length ? budgets(sums.budgets) : null,
      run || nothing ? null : filterRow(told),
      told.found ? table(told, run, parts) : empty(run, filtered),
      run || told.found > LIMIT ? null : h("nav", { class: "pager small", "aria-label": "Earlier days" }, earlier(told)),
      told.found > LIMIT && !run ? pager(told) : null,
      told.found ? legend() : null,
      run && told.found > MOST ? h("p", { class: "small quiet" }, `The newest ${MOST} of ${number(told.found)} jobs.`) : null,
    ].filter(Boolean),
  };
}

function budgets(all) {
  const share = (dollars_, budget) => `${budget.limit_usd ? Math.min(100, 100 * dollars_ / budget.limit_usd).toFixed(1) : 100}%`;
  return h("section", { class: "budgets", "aria-label": "Budgets" },
    h("h2", {}, "Budgets"),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Budget", "", "Spent", "Reserved", "Left", "Of"].map((name, place) => h("th", { class: place > 1 ? "number" : "" }, name)))),
      h("tbody", {}, all.map((budget) => h("tr", {},
        h("td", { class: "small wrap" }, budget.name),
        h("td", {}, h("div", { class: "bar budget", role: "img", "aria-label": `${share(budget.spent_usd, budget)} spent, ${share(budget.reserved_usd, budget)} reserved` },
          h("i", { class: "spent", width: share(budget.spent_usd, budget) }),
          h("i", { class: "reserved", width: share(budget.reserved_usd, budget) }))),
        [budget.spent_usd, budget.reserved_usd, Math.max(budget.left_usd, 0), budget.limit_usd].map((value) => h("td", { class: "number" }, dollars(value)))))))));
}

function totals(sums) {
  const metric = METRICS[chosen.metric];
  const sum = (value) => sums.days.reduce((all, day) => all + value(day), 0);
  const unknown = sum((day) => day.unknown);
  return h("section", { class: "totals", "aria-label": "Totals" },
    h("div", { class: "panel" },
      h("div", { class: "metrics" }, METRICS.map(({ name, value, told, also }, place) =>
        h("button", { id: `metric-${name}`, "aria-pressed": String(place === chosen.metric), onclick: () => choose({ metric: place }) },
          h("strong", {}, told(sum(value))), name,
          also && sum(also) ? h("span", { class: "small quiet" }, ` and ≤ ${told(sum(also))} at work`) : null))),
      sum(metric.value) || (metric.also && sum(metric.also)) ? columns(sums.days, metric) : h("p", { class: "empty" }, metric.hint),
      metric.also && sum(metric.also) ? swatches([["brand", "spent"], ["committed", "may be billed at most for jobs that are not landed yet"]]) : null,
      unknown ? h("p", { class: "small quiet" }, `Without ${number(unknown)} jobs whose price is not known.`) : null),
    h("div", { class: "panel" }, h("h2", {}, `${metric.name} per DAG`), sum(metric.value) ? ranks(sums.dags, metric.value, metric.told) : h("p", { class: "quiet small" }, "The DAGs with the most will be here.")));
}

function filterRow(told) {
  const set = (name) => (event) => choose({ [name]: event.target.value, offset: 0 });
  // A year that is being typed goes through 2, 20 and 202.
  const typed = (name) => (event) => {
    const { value } = event.target;
    if (value !== chosen[name] && (value === "" || value >= "2000")) choose({ [name]: value, offset: 0 });
  };
  const select = (name, label, options) => h("label", {}, label,
    h("select", { id: `filter-${name}`, onchange: set(name) },
      h("option", { value: "" }, "all"),
      options.map(([value, text]) => h("option", { value, selected: chosen[name] === value }, text))));
  const day = (name, label) => h("label", {}, label, h("input", { id: `filter-${name}`, type: "date", value: chosen[name], onblur: typed(name), onkeydown: (event) => event.key === "Enter" && typed(name)(event), onchange: typed(name) }));
  const clear = () => choose(NOTHING);
  const names = (list) => list.map((name) => [name, name]);
  const search = (event) => event.target.value !== chosen.q && choose({ q: event.target.value, offset: 0 });
  return h("div", { class: "filters" },
    h("label", {}, "Search", h("input", { id: "filter-q", type: "search", placeholder: "DAG, run, task, model", value: chosen.q, onchange: search, onsearch: search })),
    select("dag_id", "DAG", names(told.dags)),
    select("provider", "Provider", names(told.providers)),
    select("state", "State", [["active", "not landed yet"], ...Object.entries(STATES)]),
    day("since", "From (UTC)"), day("until", "To (UTC)"),
    h("button", { onclick: clear }, "Clear"),
    h("span", { class: "small quiet" }, `${number(told.found)} ${told.found === 1 ? "job" : "jobs"}`));
}

function table(told, run, parts) {
  const heads = ["Job", "State", run ? null : "Run", "Provider, model", "Batches", "Progress", "Age", "Cost"];
  const lines = told.jobs.flatMap((job) => [line(job, run), ...partLines(job, parts.get(keyOf(job)), run)]);
  return h("div", { class: "scroll" }, h("table", { class: "jobs" },
    h("thead", {}, h("tr", {}, heads.filter(Boolean).map((name) => h("th", { class: ["Batches", "Cost"].includes(name) ? "number" : "" }, name)))),
    h("tbody", {}, lines)));
}

function line(job, run) {
  const name = job.partitions
    ? h("button", { id: `set-${keyOf(job)}`, class: "name plain", "aria-expanded": String(isOpen(job)), title: isOpen(job) ? "Close" : "Show its partitions", onclick: toggle(job) }, `${isOpen(job) ? "▾" : "▸"}\u00a0${job.dag_id}`)
    : route(jobPath(job), job.dag_id, { class: "name wrap" });
  const which = job.partitions ? ` · ${number(job.partitions)} partitions, ${number(job.landed)} landed` : "";
  return h("tr", { class: "follow", "data-job": `${job.dag_id}/${job.run_id}/${job.task_id}/${job.map_index}`, onclick: follow },
    h("td", {}, name,
      h("div", { class: "small quiet" }, job.task_id, instance(job), which, job.lane === "batch" ? "" : ` · ${job.lane}`, job.rounds > 1 ? ` · ${job.rounds} rounds` : "")),
    h("td", {}, badge(job.state)),
    run ? null : h("td", { class: "small cut", title: job.run_id }, link(airflow(`dags/${encodeURIComponent(job.dag_id)}/runs/${encodeURIComponent(job.run_id)}`), job.run_id)),
    h("td", { class: "small" }, job.provider, h("div", { class: "quiet wrap" }, job.models.join(", "))),
    h("td", { class: "number wide" }, number(job.shards)),
    h("td", {}, progress(job)),
    h("td", { class: "small time", title: clock(job.created_at) }, age(job.created_at), h("div", { class: "quiet" }, took(job))),
    h("td", { class: "number" }, costOf(job), job.saving_usd ? h("div", { class: "small quiet" }, `${dollars(job.saving_usd)} saved`) : null));
}

function legend() {
  return h("details", { class: "small" }, h("summary", {}, "What the states and colours mean"),
    h("dl", { class: "states" }, Object.entries(MEANING).map(([state, words]) => [h("dt", {}, badge(state)), h("dd", {}, words)])),
    swatches([["good", "rows with a good answer"], ["bad", "rows that failed"], ["cancelled", "rows that were cancelled"], ["busy", "rows at the vendor"]]),
    h("p", { class: "quiet" }, `Times are those of ${Intl.DateTimeFormat().resolvedOptions().timeZone}; days are UTC. Costs with ≤ are estimates, at most.`));
}

function pager(told) {
  const move = (offset) => () => choose({ offset });
  const last = Math.min(chosen.offset + LIMIT, told.found);
  return h("nav", { class: "pager small", "aria-label": "Pages" },
    `${number(chosen.offset + 1)} to ${number(last)} of ${number(told.found)}`,
    h("button", { disabled: chosen.offset === 0, onclick: move(Math.max(chosen.offset - LIMIT, 0)) }, "Newer"),
    h("button", { disabled: last >= told.found, onclick: move(chosen.offset + LIMIT) }, "Older"),
    earlier(told));
}

/** What was planned before the first day that is shown. */
function earlier(told) {
  const before = new Date(Date.parse(`${told.since}T00:00:00Z`) - 864e5).toISOString().slice(0, 10);
  return h("button", { title: `Jobs planned until ${before}`, onclick: () => choose({ since: "", until: before, offset: 0 }) }, `Before ${told.since}`);
}

function empty(run, filtered) {
  if (filtered) return h("div", { class: "empty" }, "No job fits these filters.");
  return h("div", { class: "empty" },
    h("p", {}, run ? "This run has not submitted any LLM batches." : "No LLM batches yet."),
    run ? null : h("p", { class: "small" }, "They appear here as soon as a SubmitBatchOperator or LLMBatchOperator has planned a job in a DAG that you may read. Jobs of airflow_llm_batch.run are listed by python -m airflow_llm_batch list."));
}
