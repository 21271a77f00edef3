// How answers that come in one piece are shown: probabilities as bars, vectors as a picture and by how alike they are.

import { element } from "./dom.js";

const MAX_LABELS = 10;
const NUM_SHOWN_VALUES = 4;

/** One block an input: its label, and its most probable labels with a bar each. */
export function probabilities(inputs, data) {
  return blocks(data, (entry) => {
    const ranked = Object.entries(entry.probs).sort((a, b) => b[1] - a[1]);
    const rows = ranked.slice(0, MAX_LABELS).map(([label, p]) => {
      const name = element("th", label);
      name.scope = "row";
      return element("tr", name, element("td.wide", bar(p)), element("td.number", `${(100 * p).toFixed(1)} %`));
    });
    const caption = element("caption", element("span", inputs[entry.index]), element("strong", entry.label));
    const numMore = ranked.length - rows.length;
    const more = numMore > 0 ? [element("p.soft", `and ${numMore} less probable labels`)] : [];
    return element("div", element("table.bars", caption, element("tbody", ...rows)), ...more);
  });
}

/** One block an input: the input and the text that came for it. */
export function texts(inputs, data) {
  return blocks(data, (entry) => element("div", element("p.soft", inputs[entry.index]), element("p.said", entry.text.trim() || "(nothing)")));
}

/** A picture of each vector, and where there are several, how alike they are. */
export function embeddings(inputs, data) {
  const vectors = data.map((entry) => entry.embedding);
  const shown = blocks(data, (entry) => {
    const [vector, label] = [entry.embedding, `${entry.index + 1}. ${inputs[entry.index]}`];
    const values = vector.slice(0, NUM_SHOWN_VALUES).map((value) => value.toFixed(3));
    return element("div", element("p", label), picture(vector), element("p.soft", `${vector.length} numbers: ${values.join(", ")}, …`));
  });
  if (vectors.length > 1) shown.append(similarities(inputs, vectors));
  return shown;
}

function blocks(data, show) {
  return element("div.blocks", ...data.map(show));
}

function bar(p) {
  const filled = element("div.filled");
  // Through the object model, since the page's policy allows no style attributes.
  filled.style.width = `${100 * p}%`;
  return element("div.bar", filled);
}

/** The vector's numbers as bars up and down from a middle line. */
function picture(vector) {
  const largest = Math.max(...vector.map(Math.abs)) || 1;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", vector.map((value, i) => `M${i + 0.5} 1V${(1 - value / largest).toFixed(3)}`).join(""));
  svg.setAttribute("viewBox", `0 0 ${vector.length} 2`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `the numbers as bars, the largest ${largest.toFixed(3)}`);
  svg.append(path);
  return svg;
}

function similarities(inputs, vectors) {
  const norm = (v) => Math.hypot(...v) || 1;
  const cosine = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0) / norm(a) / norm(b);
  const head = (text, scope) => Object.assign(element("th", text), { scope });
  const rows = vectors.map((a, i) => {
    const cells = vectors.map((b) => {
      const cell = element("td.number", cosine(a, b).toFixed(3));
      cell.style.backgroundColor = `color-mix(in srgb, var(--accent) ${Math.round(40 * Math.max(0, cosine(a, b)))}%, transparent)`;
      return cell;
    });
    return element("tr", head(`${i + 1}`, "row"), ...cells);
  });
  const heads = element("tr", element("td"), ...inputs.map((_, i) => head(`${i + 1}`, "col")));
  const table = element("table.matrix", element("thead", heads), element("tbody", ...rows));
  return element("div", element("p", "How alike they are (cosine similarity)"), element("div.scroll", table));
}
