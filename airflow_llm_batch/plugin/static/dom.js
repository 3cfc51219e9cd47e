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
export const clock = (time) => new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A job's progress: done, failed and what is left, and the state in words. */
export function progress(job) {
  const share = (rows) => `${(100 * rows) / Math.max(job.rows, 1)}%`;
  const good = Math.max(job.done - job.failed, 0);
  const left = job.state === "running" ? Math.max(job.rows - job.done, 0) : 0;
  return h("div", { class: "progress" },
    h("div", {
      class: "bar", role: "progressbar", "aria-valuenow": job.done, "aria-valuemax": job.rows, "aria-label": job.words,
    },
    h("i", { class: "good", width: share(good) }),
    h("i", { class: "bad", width: share(job.failed) }),
    h("i", { class: "busy", width: share(left) })),
    h("div", { class: "small quiet" },
      `${number(job.done)} / ${number(job.rows)} rows`, job.failed ? `, ${number(job.failed)} failed` : "", ` · ${job.words}`));
}

/** Which of a task's jobs: ` [3]` of a mapped one, and the second one after its input was changed. */
export function instance(job) {
  const { index, asked_model: model, generation } = job;
  const which = model ? ` · ${/^\d+$/.test(model) ? `model ${Number(model) + 1}` : model}` : "";
  return `${index === "-1" ? "" : ` [${index}]`}${which}${generation > 1 ? ` · job ${generation}, input changed` : ""}`;
}

export const badge = (state) => h("span", { class: `badge ${state}` }, state);

/** What was paid, or what it may cost at most. */
export function cost(job) {
  if (job.landed_at) return dollars(job.cost_usd);
  return job.estimated_cost_usd === null ? "unknown" : `≤ ${dollars(job.estimated_cost_usd)}`;
}
