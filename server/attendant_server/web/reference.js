// Shows /openapi.json as a page: routes by tag, their fields with types, defaults and bounds, an example to paste, errors.

const main = document.getElementById("reference");
const opened = await fetch("/openapi.json").then((response) => response.json()).catch(() => null);

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

const code = (text) => element("code", text);
const resolve = (schema) => (schema?.$ref ? opened.components.schemas[schema.$ref.split("/").pop()] : schema);

function typeOf(schema) {
  if (!schema) return "anything";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return [...new Set(several.filter((each) => each.type !== "null").map(typeOf))].join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) return `object of ${typeOf(schema.additionalProperties)}`;
  return schema.type ?? "anything";
}

function boundsOf(schema) {
  const inner = (schema.anyOf ?? [schema]).find((each) => each.type !== "null") ?? schema;
  const words = { minimum: "at least", exclusiveMinimum: "above", maximum: "at most", exclusiveMaximum: "below", minItems: "items at least", maxItems: "items at most", minLength: "characters at least", maxLength: "characters at most" };
  return Object.entries(words).filter(([key]) => key in inner).map(([key, word]) => `${word} ${inner[key]}`).join(", ");
}

function fieldTable(schema) {
  const heads = ["Field", "Type", "Default", "Bounds and notes"].map((text) => element("th", text));
  heads.forEach((cell) => (cell.scope = "col"));
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const needed = schema.required?.includes(name);
    const fallback = needed ? "required" : field.default === undefined || field.default === null ? "none" : JSON.stringify(field.default);
    return element("tr", element("td", code(name)), element("td", typeOf(field)), element("td", fallback), element("td", [boundsOf(field), field.description].filter(Boolean).join("; ")));
  });
  return element("table", element("thead", element("tr", ...heads)), element("tbody", ...rows));
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

function schemaView(title, schema) {
  const view = element("div", element("h3", title), fieldTable(resolve(schema)));
  for (const [name, part] of partsOf(resolve(schema))) view.append(element("h4", name), fieldTable(part));
  return view;
}

function operationView(path, method, operation) {
  const box = element("details", element("summary", Object.assign(element("span", method.toUpperCase()), { className: "method" }), ` ${path} `, Object.assign(element("span", operation.summary ?? ""), { className: "soft" })));
  const body = operation.requestBody?.content["application/json"]?.schema;
  const example = resolve(body)?.examples?.[0];
  if (body) box.append(element("p", resolve(body).description ?? ""), schemaView("Body", body));
  if (operation.parameters?.length) box.append(element("p", "Parameters: ", ...operation.parameters.flatMap((each) => [code(each.name), ` (${each.in}) ${each.description ?? ""} `])));
  const target = `${location.origin}${path}`;
  box.append(element("pre", example ? `curl ${target} -H 'Content-Type: application/json' -d '${JSON.stringify(example)}'` : `curl ${target}`));
  const answer = operation.responses["200"]?.content?.["application/json"]?.schema;
  if (answer?.$ref) box.append(schemaView("Answer", answer));
  const errors = Object.entries(operation.responses).filter(([status]) => status !== "200");
  if (errors.length) box.append(element("h3", "Errors"), element("ul", ...errors.map(([status, response]) => element("li", `${status}: ${response.description}`))));
  return box;
}

if (opened === null) {
  main.replaceChildren(Object.assign(element("p", "The document cannot be read; the server does not answer, or asks for an API key."), { className: "error" }));
} else {
  const byTag = new Map();
  for (const [path, methods] of Object.entries(opened.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? "other";
      byTag.set(tag, [...(byTag.get(tag) ?? []), operationView(path, method, operation)]);
    }
  }
  const sections = [...byTag].map(([tag, views]) => element("section", element("h2", tag[0].toUpperCase() + tag.slice(1)), ...views));
  main.replaceChildren(element("p", `${opened.info.title} ${opened.info.version}. ${opened.info.description}`), ...sections);
}
main.setAttribute("aria-busy", "false");
