// The playground: a panel a task, which keeps what was typed and answered; requests go to this server's own HTTP API.

import { $, copyButton, curl, element, prose } from "./dom.js";
import { readEvents } from "./events.js";
import { TASKS } from "./tasks.js";

const UNREACHABLE = "The server cannot be reached. It may have been stopped; start it, then send again.";

let models = [];
let failure = "This server has no model.";
let current = null;

/** What one task shows and holds; `running` is the request under way. */
function makePanel(task) {
  const numbers = element("div.row", ...task.fields.filter((field) => field.kind === "number").map((field) => makeField(task, field)));
  const others = task.fields.filter((field) => field.kind !== "number").map((field) => makeField(task, field));
  const fields = element("div.fields", ...others, ...(numbers.children.length ? [numbers] : []));
  const tab = element("button", task.label);
  Object.assign(tab, { type: "button", id: `tab-${task.id}` });
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", "panel");
  const panel = { task, tab, fields, answer: element("div"), facts: element("p.hint"), running: null };
  panel.answer.append(element("p.soft", "Nothing sent yet."));
  tab.addEventListener("click", () => select(panel));
  return panel;
}

function makeField(task, field) {
  const input = document.createElement(field.kind === "text" ? "textarea" : "input");
  if (field.kind === "number") input.type = "number";
  for (const name of ["min", "max", "step", "rows", "placeholder"]) if (name in field) input[name] = field[name];
  Object.assign(input, { id: `${task.id}-${field.id}`, value: field.value, autocomplete: "off" });
  return element("label", field.label, input);
}

function select(panel) {
  if (current) history.replaceState(null, "", `#${panel.task.id}`);
  current = panel;
  for (const each of panels) {
    each.tab.setAttribute("aria-selected", each === panel);
    each.tab.tabIndex = each === panel ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", panel.tab.id);
  const able = models.filter((model) => model.tasks.includes(panel.task.task));
  $("model").replaceChildren(...able.map((model) => element("option", model.id)));
  if (able.some((model) => model.id === panel.model)) $("model").value = panel.model;
  $("try").hidden = able.length === 0;
  $("missing").hidden = able.length > 0;
  if (able.length === 0) $("missing").replaceChildren(...missing(panel.task));
  $("fields").replaceChildren(panel.fields);
  $("answer").replaceChildren(panel.answer);
  $("facts").replaceChildren(panel.facts);
  showRequest();
  showState();
}

/** Says why no model does the task and what to do. */
function missing(task) {
  const loading = models.filter((model) => !model.is_ready).map((model) => model.id);
  if (!models.length) return [element("p.error", failure)];
  if (loading.length) return [element("p", `Not ready yet: ${loading.join(", ")}. Reload this page in a moment.`)];
  const reference = element("a", "The API reference");
  reference.href = `/docs#${task.operation}`;
  return [
    element("p", element("strong", `No served model can ${task.verb}.`), ` It takes ${task.needs}.`),
    element("p", ...prose("Start the server with one: `attendant serve path/to/checkpoint`. "), reference, " shows how it is then called."),
  ];
}

function readBody() {
  const values = Object.fromEntries(current.task.fields.map((field) => [field.id, $(`${current.task.id}-${field.id}`).value]));
  return [{ model: $("model").value, ...current.task.body(values) }, values];
}

/** Shows the request as it would be sent now, and the chosen model. */
function showRequest() {
  current.model = $("model").value;
  const model = models.find((each) => each.id === current.model);
  if (!model) return;
  const parts = [model.family, `up to ${model.max_model_len} tokens`, `${model.quantization === "none" ? model.dtype : model.quantization} on ${model.device_kind}`];
  $("model-facts").textContent = model.is_ready ? parts.join(" · ") : `Not ready: ${model.status}.`;
  $("curl").textContent = curl(current.task.path, readBody()[0], current.task.streams ? "-N " : "");
}

function showState() {
  const isRunning = current.running !== null;
  // Not disabled: a disabled button would lose the keyboard's focus.
  $("send").setAttribute("aria-disabled", isRunning);
  $("stop").hidden = !isRunning;
  $("answer").setAttribute("aria-busy", isRunning);
}

function describe(usage, { startedMs, firstMs, finishReason }) {
  const seconds = (performance.now() - startedMs) / 1000;
  const parts = [`${seconds.toFixed(2)} s`];
  if (firstMs) parts.push(`first token after ${Math.round(firstMs - startedMs)} ms`);
  if (usage) {
    const cached = usage.cached_tokens ?? usage.prompt_tokens_details?.cached_tokens;
    parts.push(`${usage.prompt_tokens} prompt tokens${cached ? `, ${cached} from cache` : ""}`);
    if (usage.completion_tokens) parts.push(`${usage.completion_tokens} generated, ${Math.round(usage.completion_tokens / seconds)} a second`);
  }
  if (finishReason === "length") parts.push("cut at the token limit");
  return parts.join(" · ");
}

async function post(task, body, signal) {
  let response;
  try {
    response = await fetch(task.path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(UNREACHABLE);
  }
  if (response.ok) return response;
  const told = (await response.json().catch(() => null))?.error;
  const facts = [`HTTP ${response.status}`, told?.code, told?.param && `field ${told.param}`];
  throw Object.assign(new Error(told?.message ?? "The server refused the request without saying why."), { facts: facts.filter(Boolean).join(" · ") });
}

async function stream(panel, response, values, times) {
  const said = element("p.said", element("span.soft", panel.task.before(values)));
  panel.answer.replaceChildren(said);
  let usage = null;
  for await (const chunk of readEvents(response)) {
    if (chunk.error) throw new Error(chunk.error.message);
    times.firstMs ??= performance.now();
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      said.append(panel.task.piece(choice));
      times.finishReason = choice.finish_reason ?? times.finishReason;
    }
  }
  panel.facts.textContent = describe(usage, times);
}

async function send() {
  const panel = current;
  if (panel.running || $("try").hidden) return;
  const [body, values] = readBody();
  const times = { startedMs: performance.now() };
  panel.running = new AbortController();
  panel.answer.replaceChildren(element("p.soft", "Waiting for the server."));
  panel.facts.textContent = "";
  showState();
  try {
    const response = await post(panel.task, body, panel.running.signal);
    if (panel.task.streams) {
      await stream(panel, response, values, times);
    } else {
      const answer = await response.json();
      panel.answer.replaceChildren(panel.task.show(answer, body));
      panel.facts.textContent = describe(answer.usage, times);
    }
  } catch (error) {
    const wasStopped = error.name === "AbortError";
    if (!times.firstMs) panel.answer.replaceChildren();
    panel.answer.append(wasStopped ? element("p.soft", "Stopped.") : element("p.error", error.message));
    panel.facts.textContent = error.facts ?? "";
  } finally {
    panel.running = null;
    showState();
  }
}

function moveTab(event) {
  const at = panels.indexOf(current);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  select(panels.at(to % panels.length));
  current.tab.focus();
}

const panels = TASKS.map(makePanel);
$("tabs").append(...panels.map((panel) => panel.tab));
$("tabs").addEventListener("keydown", moveTab);
$("copy").replaceWith(copyButton($("curl")));
$("stop").addEventListener("click", () => {
  current.running?.abort();
  $("send").focus();
});
$("form").addEventListener("input", showRequest);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});

try {
  const listed = await (await fetch("/v1/models")).json();
  models = listed.data ?? [];
  failure = listed.error?.message ?? failure;
} catch {
  failure = UNREACHABLE;
}
const isAble = (panel) => models.some((model) => model.tasks.includes(panel.task.task));
select(panels.find((panel) => location.hash === `#${panel.task.id}`) ?? panels.find(isAble) ?? panels[0]);
