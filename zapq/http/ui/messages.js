// Messages as a look at them shows them. A body may hold anything: it is shown as text, and nothing in it is obeyed.

import { bytes, confirmed, count, duration, h, say, setText } from "./dom.js";
import { ask, get, may, pathOf, post } from "./server.js";

const LOOKED_AT = 20;
const TEXT_SHOWN = 64 * 1024;
const HEX_SHOWN = 4 * 1024;

// What cannot be seen, or turns the order of what is around it: shown by its number, so that nobody is deceived.
// eslint-disable-next-line no-control-regex
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

export const visible = (text) => text.replace(HIDDEN, (each) => (each === "\r" ? "" : `⟦U+${each.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧`));

function bytesOf(base64) {
  const text = atob(base64);
  const data = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) data[at] = text.charCodeAt(at);
  return data;
}

function textOf(data) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    return null;
  }
}

function hexOf(data) {
  const lines = [];
  for (let at = 0; at < Math.min(data.length, HEX_SHOWN); at += 16) {
    const part = [...data.subarray(at, at + 16)];
    const hex = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    const text = part.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex}  ${text}`);
  }
  return lines.join("\n");
}

/** The ways in which this body can be shown, the best one last. */
function waysOf(data) {
  const ways = { Hex: () => hexOf(data) };
  // The last character of a part may be cut.
  const text = textOf(data) ?? null;
  if (text === null) return ways;
  ways.Text = () => visible(text.slice(0, TEXT_SHOWN));
  if (data.length <= TEXT_SHOWN) {
    try {
      const value = JSON.parse(text);
      if (typeof value === "object" && value !== null) ways.JSON = () => visible(JSON.stringify(value, null, 2));
    } catch { /* It is no JSON. */ }
  }
  return ways;
}

function note(way, size) {
  const most = way === "Hex" ? HEX_SHOWN : TEXT_SHOWN;
  return way !== "JSON" && size > most ? `The first ${bytes(most)} of ${bytes(size)}.` : "";
}

function body(data, id) {
  const ways = waysOf(data);
  const shown = h("pre", { tabindex: "0", "aria-label": `Body of message ${id}`, role: "region" });
  const cut = h("p", { class: "soft" });
  const buttons = Object.keys(ways).reverse().map((way) => h("button", { type: "button", onclick: () => show(way) }, way));
  function show(way) {
    setText(shown, ways[way]());
    setText(cut, note(way, data.length));
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === way));
  }
  show(buttons[0].textContent);
  return [h("div", { class: "row", role: "group", "aria-label": `Show message ${id} as` }, ...buttons), shown, cut];
}

function facts(message) {
  const rows = {
    Type: message.content_type, Priority: message.priority || null, Group: message.group, Key: message.unique, "Sent to": message.origin,
    ...Object.fromEntries(Object.entries(message.headers ?? {}).map(([name, text]) => [`Header ${name}`, text])),
  };
  return h("table", {}, h("caption", {}, "What is known of it"), h("tbody", {},
    ...Object.entries(rows).filter(([, text]) => text !== null && text !== undefined)
      .map(([name, text]) => h("tr", {}, h("th", { scope: "row" }, visible(name)), h("td", { class: "name" }, visible(String(text)))))));
}

/** Says where a dead letter failed, and why it is here. */
function failure(message) {
  const times = message.receive_count === 1 ? "once" : `${count(message.receive_count)} times`;
  const first = message.origin ? ` Its producer sent it as message ${message.origin.split("/")[1]} of ${message.origin.split("/")[0]}.` : "";
  return `It failed in ${message.failed_in}: it was delivered ${times} and never acknowledged, as often as max_receives allows there.${first}`;
}

/** The messages of a queue: looking at them takes none. */
export class Messages {
  constructor(queue, { refreshSoon }) {
    this.queue = queue;
    this.state = "ready";
    /** Whether a dead letter was seen when the ready messages were looked at last. */
    this.failed = false;
    this.refreshSoon = refreshSoon;
    this.list = h("div");
    this.count = h("p", { class: "soft" });
    this.states = ["ready", "delayed", "leased"].map((state) => h("button", { type: "button", onclick: () => this.look(state) }, state));
    const id = h("input", { class: "short", inputmode: "numeric", pattern: "[0-9]+", autocomplete: "off", required: true });
    this.element = h("section", { "aria-labelledby": "messages" },
      h("h2", { id: "messages" }, "Messages"),
      h("div", { class: "row" },
        h("div", { class: "row", role: "group", "aria-label": "State" }, ...this.states),
        h("button", { type: "button", onclick: () => this.look() }, "Look again"),
        h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); this.find(id.value); } },
          h("label", {}, "Id of a message", id), h("button", { type: "submit" }, "Show"))),
      this.count, this.list);
  }

  async look(state = this.state) {
    this.state = state;
    for (const button of this.states) button.setAttribute("aria-pressed", String(button.textContent === state));
    let messages;
    try {
      messages = await get(`${pathOf(this.queue)}/messages`, { state, limit: LOOKED_AT });
    } catch (error) {
      setText(this.count, error.problem === "queue-not-found" ? "There is none." : error.message);
      this.list.replaceChildren();
      return;
    }
    if (state === "ready") this.failed = messages.some((message) => message.failed_in);
    setText(this.count, `The first that are ${state}, at most ${LOOKED_AT} and 8 MiB: ${messages.length}. Looking takes nothing away.`);
    this.list.replaceChildren(...messages.map((message) => this.one(message)));
  }

  async find(id) {
    try {
      const one = this.one(await get(`${pathOf(this.queue)}/messages/${id}`));
      setText(this.count, `Message ${id}. Looking takes nothing away.`);
      this.list.replaceChildren(one);
      one.open = true;
    } catch (error) {
      setText(this.count, error.message);
      this.list.replaceChildren();
    }
  }

  one(message) {
    const data = bytesOf(message.body);
    const begin = textOf(data.subarray(0, 400))?.slice(0, 80) ?? `${data.length ? "bytes " : ""}${hexOf(data.subarray(0, 16)).slice(8, 55).trim()}`;
    const when = message.visible_in === undefined ? "" : `, ready in ${duration(message.visible_in)}`;
    const often = message.receive_count ? `, received ${message.receive_count}×` : "";
    const summary = h("summary", {}, `${message.id}: ${visible(begin).slice(0, 120)}`,
      h("span", { class: "soft" }, `${bytes(data.length)}${often}${when}${message.failed_in ? `, failed in ${message.failed_in}` : ""}`));
    const details = h("details", {}, summary);
    // What is not looked at costs nothing.
    details.addEventListener("toggle", () => details.append(
      message.failed_in ? h("p", {}, failure(message)) : "", ...body(data, message.id), facts(message), this.actions(message)), { once: true });
    return details;
  }

  actions(message) {
    const row = h("div", { class: "row" });
    if (message.state === "leased" || !may("admin", this.queue)) return row;
    const act = async (what, said) => {
      try {
        await what();
        say(said);
      } catch (error) {
        say(error.message);
      }
      await this.look();
      this.refreshSoon();
    };
    if (message.failed_in && may("admin", message.failed_in)) {
      row.append(h("button", { type: "button", onclick: () => act(
        () => post(`${pathOf(this.queue)}/redrive`, { id: message.id }), `Message ${message.id} went back to ${message.failed_in}.`) }, "Redrive"));
    }
    row.append(h("button", { type: "button", class: "danger", onclick: async () => {
      const sure = await confirmed(`Delete message ${message.id}?`, "It is gone for good then.", { action: "Delete" });
      if (sure) await act(() => ask("DELETE", `${pathOf(this.queue)}/messages/${message.id}`), `Message ${message.id} is deleted.`);
    } }, "Delete"));
    return row;
  }
}
