// What both pages make elements with. Text always goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

/** An element of `tag` with `children` (elements or texts); `tag` may name a class: "p.soft". */
export function element(tag, ...children) {
  const [name, className] = tag.split(".");
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** The text with what stands between backticks as code. */
export function prose(text) {
  return text.split(/`+([^`]+)`+/).map((part, i) => (i % 2 ? element("code", part) : part));
}

/** A shell line that sends `body` (nothing: GET) to `path` of this server; `options` go first. */
export function curl(path, body, options = "") {
  const target = `curl ${options}${location.origin}${path}`;
  if (body === undefined) return target;
  const json = JSON.stringify(body, null, 2).replaceAll("\n", "\n  ").replaceAll("'", "'\\''");
  return `${target} \\\n  -H 'Content-Type: application/json' \\\n  -d '${json}'`;
}

/** A button that copies the text of `source`; where a page may not (plain HTTP from afar) it selects it. */
export function copyButton(source) {
  const button = element("button.small", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected, now press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}
