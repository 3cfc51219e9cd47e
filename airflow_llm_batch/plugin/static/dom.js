// Everything on the page is made here: text is always text, whatever a vendor or a row says.

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = new Set(["svg", "g", "rect", "line", "text", "title"]);

/** An element. Attributes that start with "on" are listeners; children are nodes, text, or nothing. */
export function h(tag, attributes = {}, ...children) {
  const node = SHAPES.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "width" && node.tagName === "I") node.style.width = value;
    else if (name === "value" || name === "disabled" || name === "selected") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

/** A link. Only http(s) addresses become one: data from elsewhere must not bring a script along. */
export function link(href, text, attributes = {}) {
  let url;
  try {
    url = new URL(href, document.baseURI);
  } catch {
    return document.createTextNode(text);
  }
  if (!["http:", "https:"].includes(url.protocol)) return document.createTextNode(text);
  const outside = !url.href.startsWith(document.baseURI);
  const follow = (event) => {
    if (!outside || event.ctrlKey || event.metaKey || window.parent === window) return;
    event.preventDefault();
    leave(url.href, url.origin !== location.origin);
  };
  return h("a", { href: url.href, onclick: follow, rel: "noopener", ...attributes }, text);
}

/** Airflow's frame lets no link out of it; one that belongs to the page around it is followed from there. */
function leave(href, blank) {
  const around = window.parent.document;
  const anchor = around.createElement("a");
  anchor.href = href;
  anchor.rel = "noopener";
  if (blank) anchor.target = "_blank";
  around.body.append(anchor);
  anchor.click();
  anchor.remove();
}

/** A button that copies a text. */
export function copy(text) {
  const button = h("button", { class: "icon", title: "Copy", "aria-label": `Copy ${text}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = h("textarea", { value: text });
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1200);
  });
  return button;
}

const whole = new Intl.NumberFormat("en-US");
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
export const number = (value) => whole.format(value);
export const short = (value) => (value < 10000 ? whole.format(value) : compact.format(value));

/** Dollars: cents where there are dollars, more digits where there are none. */
export function dollars(value) {
  if (value === null || value === undefined) return "unknown";
  const digits = value === 0 || value >= 1 ? 2 : value >= 0.01 ? 4 : 6;
  return `$${value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

/** How long ago, or how long: "3 min". */
export function duration(seconds) {
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${name}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

export const age = (time) => duration((Date.now() - new Date(time)) / 1000);
export const seconds = (from, to) => (new Date(to) - new Date(from)) / 1000;
const WHEN = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" };
/** A moment where whoever looks is, with the name of their zone. */
export const clock = (time) => new Date(time).toLocaleString(undefined, WHEN);

/** A job's progress: done, failed and what is left, and while it is at work the state in words. */
export function progress(job) {
  const share = (rows) => `${(100 * rows) / Math.max(job.rows, 1)}%`;
  const bad = job.failed - job.cancelled;
  const left = ["running", "cancelling"].includes(job.state) ? Math.max(job.rows - job.done, 0) : 0;
  const words = [`${number(job.done - job.cancelled)} / ${number(job.rows)} rows`];
  if (bad) words.push(`${number(bad)} failed (${percent(bad, job.done)})`);
  if (job.cancelled) words.push(`${number(job.cancelled)} cancelled`);
  return h("div", { class: "progress" },
    h("div", {
      class: "bar", role: "progressbar", "aria-valuenow": job.done, "aria-valuemax": job.rows, "aria-label": job.words,
    },
    h("i", { class: "good", width: share(Math.max(job.done - job.failed, 0)) }),
    h("i", { class: "bad", width: share(bad) }),
    h("i", { class: "off", width: share(job.cancelled) }),
    h("i", { class: "busy", width: share(left) })),
    h("div", { class: "small quiet" }, words.join(", "), isAtWork(job) || isUnsent(job) ? ` · ${job.words}` : ""));
}

/** A share, never rounded to none or to all where it is neither. */
export function percent(part, whole_) {
  const share = whole_ ? (100 * part) / whole_ : 0;
  const shown = share < 10 ? share.toFixed(1) : Math.round(share);
  if (part && Number(shown) === 0) return "< 0.1 %";
  return part < whole_ && Number(shown) === 100 ? "> 99 %" : `${shown} %`;
}

/** Which of a task's jobs: ` [3]` of a mapped one, and the second one after its input was changed. */
export function instance(job) {
  const { index, asked_model: model, generation } = job;
  const which = model ? ` · ${/^\d+$/.test(model) ? `model ${Number(model) + 1}` : model}` : "";
  return `${index === "-1" ? "" : ` [${index}]`}${which}${generation > 1 ? ` · job ${generation}, input changed` : ""}`;
}

/** A job's states as people call them; `MEANING` says what each is. */
export const STATES = {
  planned: "planned", over_budget: "over budget", running: "running", cancelling: "cancelling", ended: "ended", cancelled: "cancelled",
  landed: "landed", with_failures: "landed with failures", failed: "failed", replaced: "replaced",
};
export const MEANING = {
  planned: "requests are written, and nothing was sent",
  over_budget: "nothing was sent: the estimate is above max_cost, or above what is left of a budget",
  running: "batches are with the vendor, or wait for room in its queue",
  cancelling: "the vendor was asked to cancel what runs; it takes up to ten minutes",
  ended: "every batch has ended, and its answers are about to be landed",
  cancelled: "cancelled: what had finished is landed and billed, the other rows are not billed",
  landed: "every row has its answer",
  with_failures: "landed, and some rows have no good answer",
  failed: "landed, and no row has a good answer",
  replaced: "the task's input has changed since, and another job has taken its place",
};
/** The same of several jobs, and what to do about it. */
export const ADVICE = {
  ...MEANING,
  planned: "requests are written, and nothing was sent yet: there is no room, or their tasks have failed since; their logs say why",
  ended: "every batch has ended, and its answers are landed by the task that waits for them; if that has failed, clear it",
  over_budget: "nothing was sent: make room as is said here, and clear their tasks",
  with_failures: "some rows have no good answer: open one for the reasons, and ask these rows again by FailedRows",
  failed: "no row has a good answer: open one for the reasons, and ask again by FailedRows when they are mended",
};
export const badge = (state) => h("span", { class: `badge ${state}`, title: MEANING[state] ?? "" }, STATES[state] ?? state);
const isUnsent = (job) => ["planned", "over_budget"].includes(job.state);
export const isAtWork = (job) => ["running", "cancelling", "ended"].includes(job.state) || (job.state === "cancelled" && !job.landed_at);

/** What a batch ended as, and what it is before that. */
export const OUTCOMES = {
  planned: "waiting to be sent", creating: "being sent", running: "at the vendor", ended: "ended", completed: "completed",
  partial: "completed, some rows failed", failed: "failed as a whole", expired: "not finished in time", cancelled: "cancelled",
};
/** How long a job has taken so far, or took: from planning to its landing. */
export function took(job) {
  const sent = !isUnsent(job) && job.state !== "replaced";
  const end = job.ended_at ?? (sent ? Date.now() : null);
  return end === null ? "" : `${job.ended_at ? "took" : "for"} ${duration(seconds(job.created_at, end))}`;
}

/** What the colours mean: swatches and words. */
export const swatches = (pairs) => h("ul", { class: "legend small quiet" }, pairs.map(([kind, words]) => h("li", {}, h("i", { class: `swatch ${kind}` }), words)));

/** What was paid, or what it may cost at most. */
export function cost(job) {
  if (job.landed_at) return dollars(job.cost_usd);
  return job.estimated_cost_usd === null ? "unknown" : `≤ ${dollars(job.estimated_cost_usd)}`;
}
