// One job.

import { answers, failures } from "./answers.js";
import { airflow, ask, redraw, route } from "./app.js";
import { MEANING, OUTCOMES, age, badge, clock, copy, cost, dollars, h, instance, isAtWork, link, number, progress, short, swatches, took } from "./dom.js";
import { timeline } from "./plots.js";

export async function showJob(names) {
  const path = `job/${names.map(encodeURIComponent).join("/")}`;
  const job = await ask(path);
  const task = `dags/${encodeURIComponent(job.dag_id)}/runs/${encodeURIComponent(job.run_id)}/tasks/${encodeURIComponent(job.task_id)}` +
    (job.index === "-1" ? "" : `/mapped/${encodeURIComponent(job.index)}`);
  return {
    live: isAtWork(job),
    data: job,
    make: () => [
      h("div", { class: "head" },
        route(`./${sessionStorage.getItem("llm-batches") ?? ""}`, "LLM batches"), h("span", { class: "quiet" }, "/"),
        h("h1", { class: "wrap" }, job.dag_id), h("span", { class: "quiet" }, job.task_id, instance(job)), badge(job.state),
        h("div", { class: "right" },
          link(airflow(task), "Task and logs"),
          link(airflow(`dags/${encodeURIComponent(job.dag_id)}/runs/${encodeURIComponent(job.run_id)}`), "DAG run"),
          job.may_cancel ? cancelButton(job, path) : null)),
      job.refusal ? h("p", { class: "note", role: "status" }, job.refusal) : null,
      h("div", { class: "panel" }, progress(job), h("p", { class: "small quiet" }, `${MEANING[job.state][0].toUpperCase()}${MEANING[job.state].slice(1)}.`), facts(job)),
      job.counts ? [h("h2", {}, "Rows"), statuses(job)] : null,
      answers(job, path),
      job.tried ? tried(job.tried) : null,
      h("h2", {}, "Batches"),
      job.timeline.length ? [h("div", { class: "panel" }, timeline(job.timeline.slice(0, 60), Boolean(job.landed_at), job.state === "cancelling"), kinds(job)), batches(job)] : h("p", { class: "quiet" }, "Nothing was left to ask: no batch was made."),
      failures(job, path),
      job.comparison ? compared(job.comparison) : null,
      job.usage.length ? usage(job) : null,
      job.files.length ? files(job) : null,
      h("h2", {}, "What was asked"),
      job.request ? h("details", {}, h("summary", {}, "Request template"), h("pre", {}, JSON.stringify(job.request, null, 2))) : h("p", { class: "small quiet" }, "The rows were batch input lines."),
      checks(job.rules),
    ].flat().filter(Boolean),
  };
}

function facts(job) {
  const fact = (name, value, more) => value === null ? null : h("div", { class: String(value).length > 40 ? "wide" : "" }, h("dt", {}, name), h("dd", {}, value, more ? h("small", {}, more) : null));
  const estimate = job.estimated_cost_usd;
  return h("dl", { class: "facts" },
    fact("Run", job.run_id),
    fact("Provider", job.provider, job.models.join(", ")),
    fact("Connection", job.conn_id),
    fact("Lane", job.lane),
    fact("Planned", clock(job.created_at), `${age(job.created_at)} ago`),
    fact("Landed", job.landed_at ? clock(job.landed_at) : "not yet", job.landed_at ? took(job) : ""),
    fact("Rounds", job.rounds > 1 ? number(job.rounds) : null, `${number(job.requests)} requests`),
    fact("Cost", cost(job), job.landed_at && estimate !== null ? `estimated at most ${dollars(estimate)}` : job.landed_at ? "" : "estimate, at most"),
    fact("The same called one by one", job.sync_cost_usd === null ? null : dollars(job.sync_cost_usd), job.saving_usd ? `${dollars(job.saving_usd)} saved` : ""),
    fact("Tokens", job.tokens ? short(job.tokens) : null, inputError(job)),
    fact("Read from caches", job.cached_tokens || job.cache_write_tokens ? share(job.cached_tokens, job.input_tokens) : null, caches(job)),
    fact("Not asked", spared(job) ? `${number(spared(job))} rows` : null, notAsked(job)),
    fact("Rows from", job.sources.length ? job.sources.slice(0, 3).join(", ") : null, job.sources.length > 3 ? `and ${job.sources.length - 3} more` : ""));
}

function inputError(job) {
  if (job.input_error_percent === null) return "";
  const sign = job.input_error_percent > 0 ? "+" : "";
  return `input estimated at ${sign}${job.input_error_percent.toFixed(1)} %, ${job.estimate_basis}`;
}

function share(part, whole) {
  return `${whole ? Math.round(100 * part / whole) : 0} % of the input`;
}

function caches(job) {
  const saved = job.cache_saving_usd;
  const worth = saved === null ? "" : saved < 0 ? `, ${dollars(-saved)} paid for nothing` : `, ${dollars(saved)} saved`;
  return `${short(job.cache_write_tokens)} tokens written${worth}`;
}

/** Rows that had an answer already. */
function spared(job) {
  return Object.values(job.spared).reduce((sum, rows) => sum + rows, 0);
}

function notAsked(job) {
  const why = [job.spared.known ? `${number(job.spared.known)} answered to earlier jobs` : null, job.spared.copy ? `${number(job.spared.copy)} ask what others ask` : null];
  return [...why, job.spared_usd === null ? null : `${dollars(job.spared_usd)} saved`].filter(Boolean).join(", ");
}

function statuses(job) {
  return h("div", { class: "statuses" },
    Object.entries(job.counts).map(([status, rows]) => h("span", { class: rows ? "" : "zero" }, h("b", {}, number(rows)), ` ${status}`)),
    job.reasons.length ? h("ul", { class: "small" }, job.reasons.map((reason) =>
      h("li", { class: "wrap" }, `${number(reason.rows)} × ${reason.code ?? reason.status}: ${reason.message ?? "no message"}`))) : null);
}

/** The colours of the timeline that it shows. */
function kinds(job) {
  const running = job.state === "cancelling" ? "cancelling" : "running";
  const found = new Set(job.timeline.map((shard) => (shard.state === "ended" ? shard.outcome ?? "completed" : shard.created_at ? running : "planned")));
  const words = { ...OUTCOMES, cancelling: "being cancelled" };
  return swatches(["planned", ...[...found].filter((kind) => kind !== "planned")].map((kind) => [kind, words[kind]]));
}

function batches(job) {
  const counted = (shard) => shard.succeeded === null ? "" : `${number(shard.succeeded + (shard.failed ?? 0))} done${shard.failed ? `, ${number(shard.failed)} failed` : ""}`;
  const tried = (shard) => [...shard.tries.map((reason) => `try: ${reason}`), ...shard.errors].join("; ");
  return h("div", { class: "scroll" }, h("table", { class: "rows" },
    h("thead", {}, h("tr", {}, ["Batch", "Vendor's id", "State", "Rows", "Tokens, about", ""].map((name) => h("th", {}, name)))),
    h("tbody", {}, job.timeline.map((shard) => h("tr", {},
      h("td", { class: "small" }, shard.round > 1 ? `round ${shard.round}, ` : "", number(shard.index + 1)),
      h("td", { class: "mono" }, shard.is_tried ? h("span", { class: "quiet" }, "tried first, one by one") : shard.batch_id ? [shard.batch_id, " ", copy(shard.batch_id)] : h("span", { class: "quiet" }, shard.state === "planned" ? "not created yet" : "")),
      h("td", { class: "small" }, OUTCOMES[shard.outcome] ?? shard.status ?? OUTCOMES[shard.state], tried(shard) ? h("div", { class: "quiet wrap" }, tried(shard)) : null),
      h("td", { class: "small" }, number(shard.rows), h("div", { class: "quiet" }, counted(shard))),
      h("td", { class: "small" }, short(shard.tokens)),
      h("td", { class: "small" }, shard.console_url ? link(shard.console_url, "Vendor's console") : null))))));
}

function tried(first) {
  const likely = Object.entries(first.estimate).filter(([, estimate]) => estimate.tried).map(([model, estimate]) =>
    `${model}: prompts of ${estimate.ratio.toFixed(2)} times the tokens that were estimated, likely ${dollars(estimate.likely_usd)}, at most ${dollars(estimate.cost_usd)}`);
  return [
    h("h2", {}, "Tried first"),
    likely.length ? h("p", { class: "small quiet" }, likely.join("; ")) : null,
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Row", "Status", "Tokens", "Cost", "Sent and answered"].map((name) => h("th", {}, name)))),
      h("tbody", {}, first.rows.map((row) => h("tr", {},
        h("td", { class: "small" }, number(row.row)),
        h("td", { class: "small" }, row.status),
        h("td", { class: "small" }, row.input_tokens === null ? "" : `${number(row.input_tokens)} in, ${number(row.output_tokens ?? 0)} out`),
        h("td", { class: "small" }, dollars(row.cost_usd)),
        h("td", { class: "small wrap" },
          h("details", {}, h("summary", {}, "Request as it was sent"), h("pre", {}, row.sent)),
          row.status === "succeeded" ? row.answer : [row.error_code, row.error_message || row.answer].filter(Boolean).join(": "))))))),
  ].filter(Boolean);
}

function compared(comparison) {
  const percent = (part) => part === null || part === undefined ? "" : `${(100 * part).toFixed(1)} %`;
  const cells = (values) => values.map((value) => h("td", { class: "number" }, value));
  const table = (heads, rows, texts = 1) => h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((name, place) => h("th", { class: place < texts ? "" : "number" }, name)))),
    h("tbody", {}, rows)));
  const other = (shares) => Math.max(1 - ["succeeded", "invalid", "refused"].reduce((sum, status) => sum + (shares[status] ?? 0), 0), 0);
  const agreements = (who, fields) => fields.map((field) => h("tr", {},
    h("td", {}, who), h("td", {}, field.field || "answer"),
    cells([number(field.rows), percent(field.share), field.kappa === null ? "" : field.kappa.toFixed(3)])));
  const columns = comparison.models[0].accuracy.map((found) => `Right, by ${found.column}`);
  return [
    h("h2", {}, "Models compared"),
    table(["Model", "Succeeded", "Invalid", "Refused", "Other", "Cost", "Seconds", ...columns],
      comparison.models.map((model) => h("tr", {}, h("td", {}, model.name), cells([
        percent(model.shares.succeeded ?? 0), percent(model.shares.invalid ?? 0), percent(model.shares.refused ?? 0), percent(other(model.shares)),
        dollars(model.cost_usd), model.seconds === null ? "" : number(Math.round(model.seconds)),
        ...model.accuracy.map((found) => `${percent(found.share)} of ${number(found.rows)}`)])))),
    comparison.fields.length ? table(["Models", "Field", "Rows that they answered", "The same", "Kappa"], [
      ...agreements("all", comparison.fields), ...comparison.pairs.flatMap((pair) => agreements(pair.models.join(" and "), pair.fields))], 2) : null,
    comparison.answered ? h("p", { class: "small quiet wrap" }, `They disagree about ${number(comparison.disagreed)} of ${number(comparison.answered)} rows.`,
      comparison.disagreements ? [" ", comparison.disagreements, " ", copy(comparison.disagreements)] : null) : null,
  ].filter(Boolean);
}

function checks(rules) {
  const named = [rules.output_class ? `valid as ${rules.output_class}` : null, ...rules.checks].filter(Boolean);
  return named.length ? h("p", { class: "small wrap" }, "Answers have to be, or pass: ", named.map((name) => [h("code", {}, name), " "])) : null;
}

function usage(job) {
  const heads = ["Model", "Status", "Requests", "Tokens in", "cached", "Tokens out", "Cost", "Called one by one"];
  return [
    h("h2", {}, "Tokens and dollars"),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, heads.map((name, place) => h("th", { class: place > 1 ? "number" : "" }, name)))),
      h("tbody", {}, job.usage.map((line) => h("tr", {},
        h("td", {}, line.model || "unknown"), h("td", {}, line.status),
        [line.requests, line.input_tokens, line.cached_tokens, line.output_tokens].map((value) => h("td", { class: "number" }, number(value))),
        [line.cost_usd, line.sync_cost_usd].map((value) => h("td", { class: "number" }, dollars(value)))))))),
  ];
}

function files(job) {
  return [
    h("h2", {}, "Landed files"),
    h("p", { class: "small quiet wrap" }, job.destination_url ? link(job.destination_url, job.destination) : job.destination, " ", copy(job.destination)),
    h("ul", { class: "mono" }, job.files.slice(0, 100).map((file) => h("li", { class: "wrap" }, file, " ", copy(file)))),
    job.files.length > 100 ? h("p", { class: "small quiet" }, `and ${number(job.files.length - 100)} more`) : null,
  ].filter(Boolean);
}

function cancelButton(job, path) {
  const left = job.timeline.filter((shard) => shard.state !== "ended").length;
  const told = h("p", { role: "status" });
  const ask_ = h("dialog", { "aria-label": "Cancel the job" },
    h("strong", {}, `Cancel ${number(left)} ${left === 1 ? "batch" : "batches"} of ${job.dag_id}?`),
    h("p", {}, "What the vendor has finished by then stays billed and is landed by the waiting task. Rows that are cancelled are not billed."),
    told,
    h("div", { class: "buttons" },
      h("button", { onclick: () => ask_.close() }, "Keep running"),
      h("button", { class: "danger", id: "confirm-cancel", onclick: confirm }, "Cancel the batches")));
  async function confirm(event) {
    event.target.disabled = true;
    told.textContent = "Asking the vendor ...";
    try {
      told.textContent = (await ask(`${path}/cancel`, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" })).message;
      setTimeout(() => {
        ask_.close();
        redraw();
      }, 1500);
    } catch (error) {
      told.textContent = error.message;
      event.target.disabled = false;
    }
  }
  return [h("button", { class: "danger", id: "cancel-job", onclick: () => ask_.showModal() }, "Cancel job ..."), ask_];
}
