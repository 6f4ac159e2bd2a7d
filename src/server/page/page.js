// The page at "/": a chat with streaming, and what /metrics says of the engine. Text of the model only
// ever becomes text nodes, so nothing that it writes can become markup.

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const headers = () => {
  const key = $("key").value;
  return key ? { Authorization: `Bearer ${key}` } : {};
};

// ---- Markdown: blocks, then spans, into nodes -------------------------------------------------------------------

const SPAN = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/;

function spans(text, into) {
  for (let found; (found = SPAN.exec(text)); text = text.slice(found.index + found[0].length)) {
    into.append(text.slice(0, found.index));
    const [, code, strong, em, label, url] = found;
    if (code !== undefined) into.append(make("code", "", code));
    else if (url !== undefined) {
      const link = make("a", "", label);
      link.href = url;
      link.rel = "noopener noreferrer";
      link.target = "_blank";
      into.append(link);
    } else spans(strong ?? em, into.appendChild(make(strong !== undefined ? "strong" : "em")));
  }
  into.append(text);
}

const LINE = {
  heading: /^(#{1,6}) +(.*)$/,
  bullet: /^ *[-*+] +(.*)$/,
  number: /^ *\d+[.)] +(.*)$/,
  quote: /^> ?(.*)$/,
};

function markdown(text) {
  const out = document.createDocumentFragment();
  let open = null; // the block that the next line may continue
  let kind = "";
  const block = (name, tag) => {
    if (kind !== name) open = out.appendChild(make(tag));
    kind = name;
    return open;
  };
  for (const line of text.split("\n")) {
    if (/^ *```/.test(line)) {
      if (kind === "code") kind = "";
      else {
        kind = "code";
        open = out.appendChild(make("pre")).appendChild(make("code"));
      }
    } else if (kind === "code") open.append(line + "\n");
    else if (line.trim() === "") kind = "";
    else {
      const [name, found] = Object.entries(LINE).map(([n, r]) => [n, r.exec(line)]).find(([, f]) => f) ?? ["text"];
      if (name === "heading") {
        kind = "";
        spans(found[2], out.appendChild(make(found[1].length < 3 ? "h3" : "h4")));
      } else if (name === "bullet" || name === "number") {
        spans(found[1], block(name, name === "bullet" ? "ul" : "ol").appendChild(make("li")));
      } else {
        const paragraph = block(name, name === "quote" ? "blockquote" : "p");
        if (paragraph.hasChildNodes()) paragraph.append("\n");
        spans(found ? found[1] : line, paragraph);
      }
    }
  }
  return out;
}

// ---- Chat -------------------------------------------------------------------------------------------------------

const history = [];
let running = null; // AbortController of the answer under way

function request() {
  const system = $("system").value.trim();
  const body = {
    messages: system ? [{ role: "system", content: system }, ...history] : [...history],
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"])
    if ($(name).value !== "") body[name] = Number($(name).value);
  return body;
}

async function failure(response) {
  if (response.status === 401) {
    $("settings").open = true;
    return "This server needs an API key: enter it under Settings.";
  }
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answers ${response.status}`;
  }
}

/** Calls `take` with every event's JSON; returns at [DONE] or the connection's end. */
async function events(response, take) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection was cut off");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new Error(event.error.message);
      take(event);
    }
  }
}

function speed(tokens, firstMs, sentMs) {
  const seconds = (performance.now() - firstMs) / 1000;
  const rate = tokens > 1 && seconds > 0 ? `${((tokens - 1) / seconds).toFixed(1)} tok/s, ` : "";
  $("speed").textContent = `${rate}${tokens} ${tokens === 1 ? "token" : "tokens"}, first after ${Math.round(firstMs - sentMs)} ms`;
}

async function answer() {
  const messages = $("messages");
  const bubble = messages.appendChild(make("div", "message assistant", "…"));
  let text = "";
  let tokens = 0;
  let drawn = false; // a redraw waits for the next frame
  const sent = performance.now();
  let first = sent;
  const draw = () => {
    drawn = false;
    const atEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 80;
    bubble.replaceChildren(markdown(text));
    if (atEnd) messages.scrollTop = messages.scrollHeight;
  };
  running = new AbortController();
  $("speed").textContent = "";
  $("send").disabled = true;
  $("stop").disabled = false;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify(request()),
      signal: running.signal,
    });
    if (!response.ok) throw new Error(await failure(response));
    await events(response, (event) => {
      if (event.choices.length) {
        if (tokens++ === 0) first = performance.now();
        text += event.choices[0].delta.content ?? "";
        speed(tokens, first, sent);
      }
      if (event.usage) speed((tokens = event.usage.completion_tokens), first, sent);
      if (!drawn) requestAnimationFrame(draw);
      drawn = true;
    });
  } catch (error) {
    // fetch() throws a TypeError, in the browser's own words, when there is no answer at all.
    const why = error instanceof TypeError ? "The server cannot be reached." : error.message;
    if (error.name !== "AbortError") messages.append(make("p", "error", why));
  }
  running = null;
  draw();
  if (text === "") bubble.remove();
  else history.push({ role: "assistant", content: text });
  $("send").disabled = false;
  $("stop").disabled = true;
  messages.scrollTop = messages.scrollHeight;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || running) return;
  $("empty")?.remove();
  // After a failed answer the last message is the user's: templates want the two to alternate.
  if (history.at(-1)?.role === "user") history.pop();
  history.push({ role: "user", content: text });
  $("messages").append(make("div", "message user", text));
  $("messages").scrollTop = $("messages").scrollHeight;
  $("prompt").value = "";
  answer();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  history.length = 0;
  $("messages").replaceChildren();
  $("speed").textContent = "";
  $("prompt").focus();
});
