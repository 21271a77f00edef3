// The tasks of the playground: their fields, the request that the fields make, and how its answer is shown.

import { embeddings, probabilities, texts } from "./results.js";

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const number = (text) => (text === "" ? undefined : Number(text));

const SAMPLING = [
  { id: "max_tokens", label: "Max tokens", kind: "number", value: "64", min: 1 },
  { id: "temperature", label: "Temperature", kind: "number", value: "0.7", min: 0, max: 2, step: "any" },
  { id: "seed", label: "Seed", kind: "number", value: "", placeholder: "any" },
];
const sampling = (f) => ({ max_tokens: number(f.max_tokens), temperature: number(f.temperature), seed: number(f.seed) });
const STREAM = { stream: true, stream_options: { include_usage: true } };

function readExample(line) {
  const [input, ...output] = line.split("=>");
  return { input: input.trim(), output: output.join("=>").trim() };
}

export const TASKS = [
  {
    id: "complete",
    label: "Complete",
    verb: "complete text",
    task: "completion",
    needs: "a decoder, such as a GPT-2 or a Llama",
    operation: "createCompletion",
    path: "/v1/completions",
    streams: true,
    fields: [{ id: "prompt", label: "Prompt", kind: "text", rows: 5, value: "Once upon a time" }, ...SAMPLING],
    body: (f) => ({ prompt: f.prompt, ...sampling(f), ...STREAM }),
    before: (f) => f.prompt,
    piece: (choice) => choice.text,
  },
  {
    id: "chat",
    label: "Chat",
    verb: "chat",
    task: "chat",
    needs: "a decoder with a chat template",
    operation: "createChatCompletion",
    path: "/v1/chat/completions",
    streams: true,
    fields: [
      { id: "system", label: "System (optional)", kind: "line", value: "" },
      { id: "user", label: "Your message", kind: "text", rows: 4, value: "Hello!" },
      ...SAMPLING,
    ],
    body: (f) => ({
      messages: [...(f.system ? [{ role: "system", content: f.system }] : []), { role: "user", content: f.user }],
      ...sampling(f),
      ...STREAM,
    }),
    before: () => "",
    piece: (choice) => choice.delta.content ?? "",
  },
  {
    id: "embed",
    label: "Embed",
    verb: "embed texts",
    task: "embedding",
    needs: "an encoder, such as a sentence-transformers model",
    operation: "createEmbedding",
    path: "/v1/embeddings",
    fields: [{ id: "input", label: "Texts, one per line", kind: "text", rows: 5, value: "A cat sat on the mat.\nA dog lay on the rug.\nStocks fell sharply." }],
    body: (f) => ({ input: lines(f.input) }),
    show: (answer, body) => embeddings(body.input, answer.data),
  },
  {
    id: "classify",
    label: "Classify",
    verb: "classify texts",
    task: "classification",
    needs: "an encoder with a classification head",
    operation: "classify",
    path: "/v1/classify",
    fields: [{ id: "input", label: "Texts, one per line", kind: "text", rows: 5, value: "What a lovely film.\nI want my money back." }],
    body: (f) => ({ input: lines(f.input) }),
    show: (answer, body) => probabilities(body.input, answer.data),
  },
  {
    id: "few-shot",
    label: "Few-shot",
    verb: "do tasks from examples",
    task: "few-shot",
    needs: "a decoder, such as a GPT-2 or a Llama",
    operation: "fewShot",
    path: "/v1/few-shot",
    fields: [
      { id: "instruction", label: "Instruction", kind: "line", value: "Say whether the text is happy or sad." },
      { id: "examples", label: "Examples, one per line: input => output", kind: "text", rows: 3, value: "What a lovely day! => happy\nThe dog died. => sad" },
      { id: "labels", label: "Labels, one per line (leave empty to generate an answer)", kind: "text", rows: 3, value: "happy\nsad" },
      { id: "queries", label: "Queries, one per line", kind: "text", rows: 3, value: "She smiled and danced.\nHe lost his ball." },
    ],
    body: (f) => ({
      instruction: f.instruction || undefined,
      examples: lines(f.examples).map(readExample),
      labels: lines(f.labels).length ? lines(f.labels) : undefined,
      queries: lines(f.queries),
    }),
    show: (answer, body) => (body.labels ? probabilities(body.queries, answer.data) : texts(body.queries, answer.data)),
  },
];
