// Shows /openapi.json as a page: routes by tag, an example to paste, fields with types, defaults and bounds, errors.

import { $, copyButton, curl, element, prose } from "./dom.js";

const main = $("reference");
const opened = await fetch("/openapi.json").then((response) => response.json()).catch(() => null);

const resolve = (schema) => (schema?.$ref ? opened.components.schemas[schema.$ref.split("/").pop()] : schema);
const present = (schema) => (schema.anyOf ?? schema.oneOf ?? [schema]).filter((each) => each.type !== "null");

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.anyOf ?? schema.oneOf) return [...new Set(present(schema).map(typeOf))].join(", or ");
  if (schema.type === "array") return `list of ${schema.items ? several(schema.items) : "anything"}`;
  if (schema.type === "object" && schema.additionalProperties?.type) return `object of ${several(schema.additionalProperties)}`;
  return schema.type ?? "anything";
}

const several = (schema) => typeOf(schema).replace(/^(list|string|integer|number|boolean|object)\b/, "$1s");

/** The bounds of a schema in words; numbers that JavaScript cannot hold exactly are left out. */
function boundsOf(schema) {
  const bounds = present(schema)[0] ?? schema;
  const shown = (key) => (Number.isInteger(bounds[key]) && !Number.isSafeInteger(bounds[key]) ? undefined : bounds[key]?.toLocaleString("en"));
  const range = (lowKey, highKey, unit) => {
    const [low, high] = [shown(lowKey), shown(highKey)];
    if (low !== undefined && high !== undefined) return `${low} to ${high}${unit}`;
    if (low !== undefined) return `at least ${low}${unit}`;
    return high !== undefined && `at most ${high}${unit}`;
  };
  return [
    shown("exclusiveMinimum") !== undefined && `above ${shown("exclusiveMinimum")}`,
    range("minimum", "maximum", ""),
    range("minLength", "maxLength", " characters"),
    range("minItems", "maxItems", " items"),
    range("minProperties", "maxProperties", " entries"),
  ].filter(Boolean);
}

const descriptionOf = (field) => field.description ?? present(field)[0]?.description ?? "";

/** A row a field, first those that a request must have, last those it may as well leave out; an answer's fields have no defaults. */
function fieldTable(schema, isRequest) {
  const isNeeded = (name) => isRequest && schema.required?.includes(name);
  const rank = ([name, field]) => (isNeeded(name) ? 0 : descriptionOf(field).startsWith("Ignored") ? 2 : 1);
  const fields = Object.entries(schema.properties ?? {}).sort((a, b) => rank(a) - rank(b));
  const rows = fields.map(([name, field]) => {
    const head = element("th", element("code", name));
    head.scope = "row";
    const facts = [typeOf(field), ...boundsOf(field)];
    if (isRequest && !isNeeded(name) && field.default != null) facts.push(`default ${JSON.stringify(field.default)}`);
    const cell = element("td", element("span.soft", facts.join(" · ")));
    if (isNeeded(name)) cell.append(" ", element("span.needed", "required"));
    cell.append(element("div", ...prose(descriptionOf(field))));
    return element("tr", head, cell);
  });
  return element("table.fieldtable", element("tbody", ...rows));
}

/** Name and schema of every object that a schema reaches by reference. */
function partsOf(schema, found = new Map()) {
  for (const [key, value] of Object.entries(schema ?? {})) {
    if (key === "$ref") {
      const name = value.split("/").pop();
      const target = opened.components.schemas[name];
      if (target.properties && !found.has(name)) partsOf(target, found.set(name, target));
    } else if (value && typeof value === "object") partsOf(value, found);
  }
  return found;
}

function fieldsView(schema, isRequest) {
  const parts = [...partsOf(resolve(schema))].flatMap(([name, part]) => [element("h4", name), fieldTable(part, isRequest)]);
  return [fieldTable(resolve(schema), isRequest), ...parts];
}

function folded(title, ...children) {
  return element("details", element("summary", title), ...children);
}

function operationView(path, method, operation) {
  const summary = element("summary", element("span.method", method.toUpperCase()), element("code.path", path), element("span.soft", operation.summary));
  const box = element("details", summary);
  box.id = operation.operationId;
  const body = operation.requestBody?.content["application/json"]?.schema;
  if (resolve(body)?.description) box.append(element("p", ...prose(resolve(body).description)));
  const example = element("pre.box", curl(path.replace(/\{(\w+)\}/g, (_, name) => name.toUpperCase()), resolve(body)?.examples?.[0]));
  example.tabIndex = 0;
  box.append(element("div.title", element("h3", "Example"), copyButton(example)), example);
  if (body) box.append(element("h3", "Body"), ...fieldsView(body, true));
  if (operation.parameters?.length) {
    const rows = operation.parameters.map((each) => {
      const facts = element("span.soft", [`in the ${each.in}`, typeOf(each.schema), ...boundsOf(each.schema)].join(" · "));
      const head = Object.assign(element("th", element("code", each.name)), { scope: "row" });
      return element("tr", head, element("td", facts, element("div", ...prose(each.description ?? ""))));
    });
    box.append(element("h3", "Parameters"), element("table.fieldtable", element("tbody", ...rows)));
  }
  const content = operation.responses["200"]?.content ?? {};
  const answer = content["application/json"]?.schema;
  if (answer?.$ref) box.append(folded("Fields of the answer", ...fieldsView(answer, false)));
  const events = content["text/event-stream"]?.example;
  if (events) box.append(folded("A streamed answer", element("pre.box", events.trim())));
  const errors = Object.entries(operation.responses).filter(([status]) => status !== "200");
  if (errors.length) box.append(folded("Errors", element("ul", ...errors.map(([status, response]) => element("li", `${status}: ${response.description}`)))));
  return box;
}

function openLinked() {
  const linked = document.getElementById(location.hash.slice(1));
  if (linked?.tagName !== "DETAILS") return;
  linked.open = true;
  linked.scrollIntoView();
}

if (!opened?.paths) {
  main.replaceChildren(element("p.error", opened?.error?.message ?? "The server cannot be reached. It may have been stopped; start it, then reload this page."));
} else {
  const byTag = new Map();
  for (const [path, methods] of Object.entries(opened.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? "other";
      byTag.set(tag, [...(byTag.get(tag) ?? []), operationView(path, method, operation)]);
    }
  }
  const sections = [...byTag].map(([tag, views]) => element("section", element("h2", tag[0].toUpperCase() + tag.slice(1)), ...views));
  const paragraphs = opened.info.description.split("\n\n").map((text) => element("p", ...prose(text)));
  main.replaceChildren(...paragraphs, element("p.hint", `Version ${opened.info.version}`), ...sections);
  openLinked();
  addEventListener("hashchange", openLinked);
}
main.setAttribute("aria-busy", "false");
