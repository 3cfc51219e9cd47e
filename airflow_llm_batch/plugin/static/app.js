// Which page it is, the refresh, and Airflow's light or dark.

import { h } from "./dom.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";

const page = document.getElementById("page");
const base = new URL(document.baseURI).pathname;
let timer = 0;
let turn = 0;

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

/** Go to another page of ours. */
export function go(path) {
  history.pushState(null, "", path);
  draw();
}

/** A link to another page of ours. */
export function route(path, text, attributes = {}) {
  const follow = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(path);
  };
  return h("a", { href: path, onclick: follow, ...attributes }, text);
}

export const jobPath = (job) => `job/${[job.dag_id, job.run_id, job.task_id, job.map_index].map(encodeURIComponent).join("/")}`;
export const airflow = (path) => base.replace(/llm-batches\/$/, "") + path;

/** Draw the page that the address names, and again in a few seconds while something runs. */
export async function draw() {
  clearTimeout(timer);
  const mine = ++turn;
  const [kind, ...names] = location.pathname.slice(base.length).split("/").filter(Boolean).map(decodeURIComponent);
  let pause = 10000;
  try {
    const { nodes, live } = kind === "job" ? await showJob(names) : await showJobs(kind === "run" ? names : null);
    if (mine !== turn) return;
    keepFocus(() => page.replaceChildren(...nodes));
    pause = live ? 3000 : 10000;
  } catch (error) {
    if (mine !== turn) return;
    page.replaceChildren(h("div", { class: "error", role: "alert" }, h("strong", {}, "This cannot be shown. "), error.message),
      h("p", {}, h("button", { onclick: draw }, "Try again")));
  }
  timer = setTimeout(function again() {
    // Nobody types into a field that is replaced, and nobody looks at a hidden page.
    const busy = document.hidden || document.querySelector("dialog[open]") || ["SELECT", "INPUT"].includes(document.activeElement?.tagName);
    if (busy) timer = setTimeout(again, 1500);
    else draw();
  }, pause);
}

function keepFocus(change) {
  const id = document.activeElement?.id;
  const [left, top] = [scrollX, scrollY];
  change();
  if (id) document.getElementById(id)?.focus({ preventScroll: true });
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
window.addEventListener("popstate", draw);
window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(draw, 200);
});
draw();
