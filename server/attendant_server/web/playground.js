// The playground: one form a task, made from a table, sent to this server's own HTTP API.

const $ = (id) => document.getElementById(id);
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const number = (text) => (text === "" ? undefined : Number(text));

const SAMPLING = [
  { id: "max_tokens", label: "Most tokens", kind: "number", value: "64", min: 1 },
  { id: "temperature", label: "Temperature", kind: "number", value: "0.7", min: 0, max: 2, step: "any" },
  { id: "seed", label: "Seed (empty: any)", kind: "number", value: "" },
];
const sampling = (f) => ({ max_tokens: number(f.max_tokens), temperature: number(f.temperature), seed: number(f.seed) });

const TASKS = [
  {
    id: "complete",
    label: "Complete",
    task: "completion",
    path: "/v1/completions",
    streams: true,
    fields: [{ id: "prompt", label: "Prompt", kind: "text", value: "Once upon a time" }, ...SAMPLING],
    body: (f) => ({ prompt: f.prompt, ...sampling(f) }),
    piece: (choice) => choice.text,
  },
  {
    id: "chat",
    label: "Chat",
    task: "chat",
    path: "/v1/chat/completions",
    streams: true,
    fields: [
      { id: "system", label: "System (may be empty)", kind: "line", value: "" },
      { id: "user", label: "Your message", kind: "text", value: "Hello!" },
      ...SAMPLING,
    ],
    body: (f) => ({
      messages: [...(f.system ? [{ role: "system", content: f.system }] : []), { role: "user", content: f.user }],
      ...sampling(f),
    }),
    piece: (choice) => choice.delta.content ?? "",
  },
  {
    id: "embed",
    label: "Embed",
    task: "embedding",
    path: "/v1/embeddings",
    fields: [{ id: "input", label: "Texts, one a line", kind: "text", value: "A cat sat on the mat.\nA dog lay on the rug.\nStocks fell sharply." }],
    body: (f) => ({ input: lines(f.input) }),
    show: (answer, f) => similarities(lines(f.input), answer.data.map((entry) => entry.embedding)),
  },
  {
    id: "classify",
    label: "Classify",
    task: "classification",
    path: "/v1/classify",
    fields: [{ id: "input", label: "Texts, one a line", kind: "text", value: "What a lovely film." }],
    body: (f) => ({ input: lines(f.input) }),
    show: (answer, f) => probabilities(lines(f.input), answer.data),
  },
  {
    id: "few-shot",
    label: "Few-shot",
    task: "few-shot",
    path: "/v1/few-shot",
    fields: [
      { id: "instruction", label: "Instruction", kind: "line", value: "Say whether the text is happy or sad." },
      { id: "examples", label: "Examples, one a line: input => output", kind: "text", value: "What a lovely day! => happy\nThe dog died. => sad" },
      { id: "labels", label: "Labels, one a line (none: generate an answer)", kind: "text", value: "happy\nsad" },
      { id: "queries", label: "Queries, one a line", kind: "text", value: "She smiled and danced." },
    ],
    body: (f) => ({
      instruction: f.instruction || undefined,
      examples: lines(f.examples).map((line) => {
        const [input, ...output] = line.split("=>");
        return { input: input.trim(), output: output.join("=>").trim() };
      }),
      labels: lines(f.labels).length ? lines(f.labels) : undefined,
      queries: lines(f.queries),
    }),
    show: (answer, f) =>
      answer.data[0]?.probs ? probabilities(lines(f.queries), answer.data) : element("div", ...answer.data.map((a) => element("p", a.text))),
  },
];

let current = TASKS[0];
let models = [];
let running = null;

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

function probabilities(inputs, data) {
  const rows = data.map((entry) => {
    const cell = element("td");
    for (const [label, p] of Object.entries(entry.probs)) {
      const meter = document.createElement("meter");
      meter.value = p;
      meter.title = label;
      cell.append(element("div", meter, ` ${label} ${(100 * p).toFixed(1)} %`));
    }
    return element("tr", element("td", inputs[entry.index] ?? ""), element("td", entry.label), cell);
  });
  return table(["Input", "Label", "Probabilities"], rows);
}

function similarities(inputs, vectors) {
  const norm = (v) => Math.hypot(...v) || 1;
  const cosine = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0) / norm(a) / norm(b);
  const rows = vectors.map((a, i) =>
    element("tr", element("td", inputs[i]), ...vectors.map((b) => element("td", cosine(a, b).toFixed(3)))),
  );
  return element("div", element("p", `${vectors[0].length} numbers a text; cosine similarity:`), table(["", ...inputs], rows));
}

function table(heads, rows) {
  const cells = heads.map((text) => element("th", text));
  cells.forEach((cell) => (cell.scope = "col"));
  return element("table", element("thead", element("tr", ...cells)), element("tbody", ...rows));
}

function selectTask(task) {
  current = task;
  for (const tab of $("tabs").children) {
    const selected = tab.id === `tab-${task.id}`;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
  }
  $("form").setAttribute("aria-labelledby", `tab-${task.id}`);
  const row = element("div");
  row.className = "row";
  $("fields").replaceChildren(...task.fields.filter((field) => field.kind !== "number").map(makeField), row);
  row.append(...task.fields.filter((field) => field.kind === "number").map(makeField));
  const able = models.filter((model) => model.tasks.includes(task.task));
  $("model").replaceChildren(...able.map((model) => element("option", model.id)));
  $("send").disabled = able.length === 0;
  $("model-hint").textContent = able.length ? "" : `No served model does ${task.label.toLowerCase()}.`;
  showCurl();
}

function makeField(field) {
  const input = document.createElement(field.kind === "text" ? "textarea" : "input");
  if (field.kind === "number") {
    input.type = "number";
    for (const name of ["min", "max", "step"]) if (name in field) input[name] = field[name];
  }
  input.id = `field-${field.id}`;
  input.value = field.value;
  return element("label", `${field.label} `, input);
}

function readBody() {
  const values = Object.fromEntries(current.fields.map((field) => [field.id, $(`field-${field.id}`).value]));
  const body = { model: $("model").value, ...current.body(values) };
  if (current.streams) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  return [body, values];
}

function showCurl() {
  const json = JSON.stringify(readBody()[0], null, 1).replaceAll("'", "'\\''");
  $("curl").textContent = `curl -N ${location.origin}${current.path} -H 'Content-Type: application/json' -d '${json}'`;
}

function showFacts(usage, startedMs) {
  const seconds = (performance.now() - startedMs) / 1000;
  const parts = [`${seconds.toFixed(2)} s`];
  if (usage) {
    parts.push(`${usage.prompt_tokens} prompt tokens`);
    const cached = usage.cached_tokens ?? usage.prompt_tokens_details?.cached_tokens;
    if (cached) parts.push(`${cached} of them cached`);
    if (usage.completion_tokens) parts.push(`${usage.completion_tokens} generated`, `${(usage.completion_tokens / seconds).toFixed(1)} tokens/s`);
  }
  $("facts").textContent = parts.join(" · ");
}

async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function send() {
  const [body, values] = readBody();
  const answer = $("answer");
  const startedMs = performance.now();
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  answer.className = "";
  answer.replaceChildren();
  answer.setAttribute("aria-busy", "true");
  $("facts").textContent = "";
  try {
    const response = await fetch(current.path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    if (!current.streams) {
      const result = await response.json();
      answer.replaceChildren(current.show(result, values));
      showFacts(result.usage, startedMs);
      return;
    }
    let usage = null;
    for await (const chunk of readEvents(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      usage = chunk.usage ?? usage;
      for (const choice of chunk.choices) answer.append(current.piece(choice));
    }
    showFacts(usage, startedMs);
  } catch (error) {
    if (error.name !== "AbortError") {
      answer.className = "error";
      answer.append(error.message);
    }
  } finally {
    running = null;
    answer.setAttribute("aria-busy", "false");
    $("send").disabled = false;
    $("stop").disabled = true;
  }
}

function moveTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = TASKS[(TASKS.indexOf(current) + step + TASKS.length) % TASKS.length];
  selectTask(next);
  $(`tab-${next.id}`).focus();
}

for (const task of TASKS) {
  const tab = element("button", task.label);
  tab.type = "button";
  tab.id = `tab-${task.id}`;
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", "form");
  tab.addEventListener("click", () => selectTask(task));
  $("tabs").append(tab);
}
$("tabs").addEventListener("keydown", moveTab);
$("stop").addEventListener("click", () => running?.abort());
$("form").addEventListener("input", showCurl);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});

try {
  models = (await (await fetch("/v1/models")).json()).data;
} catch {
  $("answer").className = "error";
  $("answer").textContent = "The server does not answer.";
}
selectTask(TASKS.find((task) => models.some((model) => model.tasks.includes(task.task))) ?? TASKS[0]);
