// A landed job's rows: asked and answered, found by key, filtered, and how the answers spread.

import { ask, query, redraw, setQuery } from "./app.js";
import { copy, dollars, h, number, percent } from "./dom.js";
import { spread } from "./spread.js";

const PAGE = 10;
/** Pages that are asked for, one after the other, until one row fits. */
const MOST_LOOKS = 40;
const CHOICES = ["status", "key", "field", "value"];
const STATUSES = ["succeeded", "errored", "expired", "cancelled", "truncated", "refused", "invalid", "missing"];
const EMPTY = { status: "", key: "", field: "", value: "" };
let shown = null;

/** Rows of one kind, a page at a time. */
class Pages {
  constructor(path, filters) {
    Object.assign(this, { path, filters, starts: [{}], place: 0, rows: null, looked: 0, after: null, error: "", looking: false });
  }

  async load() {
    Object.assign(this, { rows: [], looked: 0, error: "", looking: true });
    let start = this.starts[this.place];
    try {
      for (let look = 0; look < MOST_LOOKS && start && this.rows.length < PAGE; look++) {
        const asked = new URLSearchParams(Object.entries({ ...this.filters, ...start, limit: PAGE - this.rows.length }).filter(([, value]) => value !== ""));
        const told = await ask(`${this.path}?${asked}`);
        if (shown?.rows !== this && shown?.failed !== this) return;
        this.rows.push(...told.rows);
        this.looked += told.looked;
        this.unshown = told.unshown ?? 0;
        start = this.after = told.after;
        if (look % 5 === 4) redraw();
      }
    } catch (error) {
      this.error = error.message;
    }
    this.looking = false;
    redraw();
  }

  turn(step) {
    if (step > 0) this.starts[this.place + 1] = this.after;
    this.place += step;
    this.load();
    redraw();
  }

  pager(id) {
    const first = this.place * PAGE;
    const words = this.rows.length ? `${number(first + 1)} to ${number(first + this.rows.length)}` : "";
    return h("nav", { class: "pager small", "aria-label": `Pages of ${id}` },
      this.looking ? "Looking ..." : words, this.looking && this.looked > PAGE ? ` ${number(this.looked)} rows looked at` : "",
      h("button", { id: `${id}-back`, disabled: this.place === 0 || this.looking, onclick: () => this.turn(-1) }, "Back"),
      h("button", { id: `${id}-next`, disabled: !this.after || this.looking, onclick: () => this.turn(1) }, "Next"));
  }
}

/** What is known of a job's rows; asked for when the job is first shown, and when it is landed anew. */
function rowsOf(job, path) {
  if (shown?.path === path && shown.at === job.landed_at) return shown;
  const told = query();
  const filters = Object.fromEntries(CHOICES.map((name) => [name, told[name] ?? ""]));
  shown = { path, at: job.landed_at, filters, rows: new Pages(`${path}/rows`, filters), failed: new Pages(`${path}/failed`, {}), spread: null, sent: {} };
  shown.rows.load();
  if (job.failed) shown.failed.load();
  const mine = shown;
  ask(`${path}/spread`).then((spread_) => (mine.spread = spread_), () => (mine.spread = { now: { fields: [] } })).then(redraw);
  return shown;
}

function choose(change) {
  shown.filters = { ...shown.filters, ...change };
  setQuery(shown.filters);
  shown.rows = new Pages(`${shown.path}/rows`, shown.filters);
  shown.rows.load();
  redraw();
}

export function answers(job, path) {
  if (!job.files.length) return job.landed_at ? null : [h("h2", {}, "Answers"), h("p", { class: "quiet" }, "Each row's answer, and how the answers spread, will be here when the job is landed.")];
  if (!job.may_read_rows) return [h("h2", {}, "Answers"), h("p", { class: "quiet" }, "Rows and answers are shown to those who may read the logs of this DAG's tasks, unless they are shown to nobody ([llm_batch] show_answers).")];
  const { rows, filters, spread: told } = rowsOf(job, path);
  const filtered = CHOICES.some((name) => filters[name] !== "");
  return [
    h("h2", {}, "Answers"),
    told && told.now.fields.length ? spread(told, filters, (field, value) => choose(filters.field === field && filters.value === value ? { field: "", value: "" } : { field, value })) : null,
    filterRow(job, filters, told),
    rows.error ? h("div", { class: "error", role: "alert" }, rows.error) : null,
    rows.unshown ? h("p", { class: "note" }, `${number(rows.unshown)} of the landed files are not this job's own and are not shown.`) : null,
    rows.rows?.length ? table(rows.rows) : null,
    rows.rows && !rows.rows.length && !rows.looking && !rows.error ? h("p", { class: "empty" }, filtered ? (rows.after ? `None of ${number(rows.looked)} rows that were looked at fits.` : "No row fits.") : "No rows.") : null,
    rows.pager("answers"),
  ];
}

function filterRow(job, filters, told) {
  const fields = new Set((told?.now.fields ?? []).map((field) => field.name));
  if (filters.field) fields.add(filters.field);
  const input = (name, label, hint) => {
    const set = (event) => event.target.value !== shown.filters[name] && choose({ [name]: event.target.value });
    return h("label", {}, label, h("input", { id: `answers-${name}`, type: "search", placeholder: hint, value: filters[name], onchange: set, onkeydown: (event) => event.key === "Enter" && set(event) }));
  };
  const select = (name, label, options, change) => h("label", {}, label, h("select", { id: `answers-${name}`, onchange: (event) => choose(change(event.target.value)) },
    h("option", { value: "" }, "any"), options.map((option) => h("option", { value: option, selected: filters[name] === option }, option))));
  return h("div", { class: "filters" },
    input("key", "Key", "part of it"),
    select("status", "Status", STATUSES.filter((status) => job.counts?.[status] || filters.status === status), (status) => ({ status })),
    fields.size ? select("field", "Field of the answer", [...fields].filter((name) => name !== "answer"), (field) => ({ field, value: "" })) : null,
    filters.field ? input("value", "is", "or 2..4") : null,
    h("button", { onclick: () => choose(EMPTY) }, "Clear"));
}

function table(rows) {
  return h("div", { class: "scroll" }, h("table", { class: "rows" },
    h("thead", {}, h("tr", {}, ["Key", "Asked", "Answer", "Status", "Cost"].map((name) => h("th", { class: name === "Cost" ? "number" : "" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", { "data-row": row.row },
      h("td", { class: "mono wrap" }, text(row.key), h("div", { class: "small quiet" }, `row ${number(row.row)}`)),
      h("td", { class: "small wrap" }, asked(row)),
      h("td", { class: "small wrap" }, answer(row), whole(row)),
      h("td", { class: "small" }, row.status),
      h("td", { class: "number small" }, row.cost_usd === undefined ? "unknown" : dollars(row.cost_usd)))))));
}

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const cut = (value) => (value.length > 300 ? `${value.slice(0, 300)} ...` : value);
const pairs = (object, names) => h("div", { class: "pairs" }, names.map((name) => h("span", {}, h("span", { class: "quiet" }, name, " "), cut(text(object[name] ?? null)))));

/** The row's pass-through columns, and the request as it was sent. */
function asked(row) {
  const id = row.custom_id;
  const load = (event) => {
    if (!event.target.open || shown.sent[id] !== undefined) return;
    shown.sent[id] = event.target.querySelector("pre").textContent = "Looking ...";
    const where = new URLSearchParams({ number: row.round ?? 1, shard: row.shard ?? 0, custom_id: id });
    ask(`${shown.path}/sent?${where}`).then(({ sent }) => (shown.sent[id] = sent === null ? "It is not kept here: another job has asked it." : pretty(sent)), (error) => (shown.sent[id] = error.message)).then(redraw);
  };
  return [
    row.columns.length ? pairs(row, row.columns) : null,
    h("details", { id: `sent-${id}`, ontoggle: load }, h("summary", {}, "Request as it was sent"), h("pre", {}, shown.sent[id] ?? "")),
  ];
}

function answer(row) {
  if (row.output && typeof row.output === "object" && !Array.isArray(row.output)) return pairs(row.output, Object.keys(row.output));
  const error = [row.error_code, row.error_message].filter(Boolean).join(": ");
  const said = row.text ?? (row.output === undefined ? row.embedding ?? (row.tool_calls ? text(row.tool_calls) : "") : text(row.output));
  return [said ? h("div", { class: "said" }, cut(said)) : null, error ? h("div", { class: "bad-text" }, error) : null];
}

const whole = (row) => h("details", { id: `whole-${row.custom_id}` }, h("summary", {}, "Whole record"), h("pre", {}, JSON.stringify({ ...row, columns: undefined }, null, 2)));

function pretty(line) {
  try {
    return JSON.stringify(JSON.parse(line), null, 2);
  } catch {
    return line;
  }
}

/** Every row that did not succeed, with what the vendor said. */
export function failures(job, path) {
  if (!job.files.length || !job.may_read_rows || !job.failed) return null;
  const { failed } = rowsOf(job, path);
  return [
    h("h2", {}, "Rows that failed"),
    h("p", { class: "small quiet" }, `${number(job.failed)} of ${number(job.rows)} (${percent(job.failed, job.rows)}).`),
    failed.error ? h("div", { class: "error", role: "alert" }, failed.error) : null,
    failed.rows?.length ? h("div", { class: "scroll" }, h("table", { class: "rows" },
      h("thead", {}, h("tr", {}, ["Row", "Key", "Status", "Reason and the vendor's answer"].map((name) => h("th", {}, name)))),
      h("tbody", {}, failed.rows.map((row) => h("tr", {},
        h("td", { class: "small" }, number(row.row)),
        h("td", { class: "mono wrap" }, text(row.key)),
        h("td", { class: "small" }, row.status),
        h("td", { class: "small wrap" }, [row.error_code, row.error_message].filter(Boolean).join(": "),
          row.raw ? h("details", { id: `raw-${row.row}` }, h("summary", {}, "Answer as it came"), copy(row.raw), h("pre", {}, pretty(row.raw))) : null)))))) : null,
    failed.pager("failed"),
  ];
}
