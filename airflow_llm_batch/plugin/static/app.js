// Which page it is, the refresh, and Airflow's light or dark.

import { h } from "./dom.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";

const page = document.getElementById("page");
const base = new URL(document.baseURI).pathname;
let timer = 0;
let turn = 0;
let drawn = "";
let forced = false;
let touched = 0;

/** The API's answer. */
export async function ask(path, options = {}) {
  const response = await fetch(`api/${path}`, { credentials: "same-origin", ...options });
  if (response.ok) return response.json();
  if (response.status === 401) throw new Error("Your session has ended. Log in to Airflow again, then reload this page.");
  let told = `Airflow answered HTTP ${response.status}.`;
  try {
    const { detail } = await response.json();
    if (typeof detail === "string") told = detail;
  } catch { /* not JSON */ }
  throw new Error(told);
}

/** A link to another page of ours: a real one, which Airflow's own address bar follows. */
export const route = (path, text, attributes = {}) => h("a", { href: path || base, ...attributes }, text);

/** What the address chooses: filters, say. */
export const query = () => Object.fromEntries(new URLSearchParams(location.search));

/** Choose something else; the address says so, Airflow's own too where it follows its frame's. */
export function setQuery(change) {
  const kept = Object.entries({ ...query(), ...change }).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(kept).toString();
  history.replaceState(null, "", location.pathname + (text ? `?${text}` : ""));
  try {
    const around = window.parent;
    const [before, after] = around.location.pathname.split("/plugin/llm-batches/");
    if (around !== window && after !== undefined) around.history.replaceState(around.history.state, "", `${before}/plugin/llm-batches${location.pathname}${location.search}`);
  } catch { /* framed by somebody else */ }
}

export const jobPath = (job) => `job/${[job.dag_id, job.run_id, job.task_id, job.map_index].map(encodeURIComponent).join("/")}`;
export const airflow = (path) => base.replace(/llm-batches\/$/, "") + path;

/** Draw the page that the address names, and again in a few seconds while something runs. */
export async function draw() {
  clearTimeout(timer);
  const mine = ++turn;
  let pause = 10000;
  try {
    const { data, make, live } = await show();
    if (mine !== turn) return;
    const told = `${new Date().getMinutes()} ${page.clientWidth} ${JSON.stringify(data)}`;
    if (isBusy()) pause = 1500;
    else {
      forced = false;
      // A page that would look the same is left alone.
      if (told !== drawn) keepPlace(() => page.replaceChildren(...make()));
      drawn = told;
      pause = live ? 3000 : 10000;
    }
  } catch (error) {
    if (mine !== turn) return;
    drawn = "";
    page.replaceChildren(h("div", { class: "error", role: "alert" }, h("strong", {}, "This cannot be shown. "), error.message),
      h("p", {}, h("button", { onclick: draw }, "Try again")));
  }
  timer = setTimeout(function again() {
    if (document.hidden) timer = setTimeout(again, 1500);
    else draw();
  }, pause);
}

/** Draw at once, whatever the page looks like now, and though somebody has just chosen something. */
export function redraw() {
  drawn = "";
  forced = true;
  return draw();
}

function show() {
  let names;
  try {
    names = location.pathname.slice(base.length).split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    throw new Error("The address is not one of a job.");
  }
  const [kind, ...rest] = names;
  return kind === "job" ? showJob(rest) : showJobs(kind === "run" ? rest : null);
}

/** Whether somebody is in the middle of something that a new page would take away. */
function isBusy() {
  const typing = ["SELECT", "INPUT"].includes(document.activeElement?.tagName) && Date.now() - touched < 5000;
  const selecting = !getSelection().isCollapsed && page.contains(getSelection().anchorNode);
  return Boolean(document.querySelector("dialog[open]")) || (!forced && (typing || selecting));
}

/** Focus, what is being typed, scrolling and opened details stay as they are when the page is drawn anew. */
function keepPlace(change) {
  const like = (node) => [...page.querySelectorAll(node.tagName)].filter((other) => other.id === node.id && (node.id || other.textContent === node.textContent));
  const held = page.contains(document.activeElement) ? document.activeElement : null;
  const place = held ? like(held).indexOf(held) : -1;
  const typed = held?.tagName === "INPUT" ? held.value : null;
  const open = [...page.querySelectorAll("details[open]")];
  const [left, top] = [scrollX, scrollY];
  change();
  for (const details of open) {
    const same = details.id ? document.getElementById(details.id) : [...page.querySelectorAll("details:not([id])")].find((other) => other.firstChild.textContent === details.firstChild.textContent);
    if (same) same.open = true;
  }
  const again = held ? like(held)[place] ?? (held.id ? document.getElementById(held.id) : null) : null;
  if (again && typed !== null && again.type !== "date") again.value = typed;
  again?.focus({ preventScroll: true });
  scrollTo(left, top);
}

/** Light or dark as the page around says, and its very background. */
function dress() {
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  try {
    const around = window.parent !== window ? window.parent.document.documentElement : null;
    if (around) {
      dark = around.classList.contains("dark") || around.dataset.theme === "dark";
      const behind = getComputedStyle(around.ownerDocument.body);
      if (behind.backgroundColor !== "rgba(0, 0, 0, 0)") document.documentElement.style.setProperty("--page", behind.backgroundColor);
      document.body.style.fontFamily = behind.fontFamily;
    } else {
      const chosen = localStorage.getItem("theme");
      if (chosen === "dark" || chosen === "light") dark = chosen === "dark";
    }
  } catch { /* framed by somebody else */ }
  document.documentElement.classList.toggle("dark", dark);
}

dress();
try {
  if (window.parent !== window) new MutationObserver(dress).observe(window.parent.document.documentElement, { attributes: true });
} catch { /* framed by somebody else */ }
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
for (const kind of ["keydown", "pointerdown"]) document.addEventListener(kind, () => (touched = Date.now()), true);
window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(draw, 200);
});
draw();
