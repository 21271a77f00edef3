// Reads server-sent events as this server writes them: one line of JSON an event, `[DONE]` last.

/** Yields each event's JSON. Throws when the stream ends without `[DONE]`. */
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The connection broke before the answer was complete.");
    });
    if (done) throw new Error("The connection ended before the answer was complete.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}
