// One queue: its numbers and charts, its messages, and all that can be done to it.

import { Chart } from "./charts.js";
import { bytes, confirmed, count, duration, h, rate, say, setText } from "./dom.js";
import { SECONDS, ageOf, historyOf, load, note, rates } from "./history.js";
import { Messages } from "./messages.js";
import { shownRate } from "./queues.js";
import { Refused, ask, get, may, pathOf, post } from "./server.js";

const NUMBERS = {
  Ready: (queue) => count(queue.ready),
  Delayed: (queue) => count(queue.delayed),
  Leased: (queue) => count(queue.leased),
  Oldest: (queue) => (ageOf(queue) === undefined ? "–" : duration(ageOf(queue))),
  "Oldest lease": (queue) => (queue.oldest_lease_age_seconds === undefined ? "–" : duration(queue.oldest_lease_age_seconds)),
  "In a second": (queue) => shownRate(rates(queue.name).in),
  "Out a second": (queue) => shownRate(rates(queue.name).out),
  "Consumers waiting": (queue) => count(queue.waiting),
  Bytes: (queue) => bytes(queue.bytes),
  Refused: (queue) => count(queue.refused),
  "Dead-lettered": (queue) => count(queue.dead_lettered),
};

const SETTINGS = {
  visibility: "A lease lasts (30, 5m)", max_receives: "Deliveries before a message is dead", dead_letter: "Dead letters go to",
  ttl: "Messages live for (1h)", retention: "Messages are held for at most (4d)", rate: "Deliveries a second", burst: "At once after a pause",
  max_leased: "Leased at once", max_messages: "Most messages", max_bytes: "Most bytes",
};
const TEXTS = new Set(["dead_letter"]);
const DURATIONS = new Set(["visibility", "ttl", "retention"]);

/** Does something, and says what came of it; returns whether it was done. */
export async function act(what, said) {
  try {
    const outcome = await what();
    say(typeof said === "function" ? said(outcome) : said);
    return true;
  } catch (error) {
    say(error.message);
    return false;
  }
}

/** The view of one queue. */
export class Queue {
  constructor(name, { refreshSoon }) {
    this.name = name;
    this.refreshSoon = refreshSoon;
    this.beats = 0;
    this.looked = false;
    this.badge = h("span", { class: "badge" });
    this.values = Object.fromEntries(Object.keys(NUMBERS).map((title) => [title, h("dd", {}, "–")]));
    this.charts = {
      depth: new Chart("Messages", ["held", "ready"], count),
      rates: new Chart("Messages a second", ["in", "out"], rate),
      age: new Chart("Age of the oldest ready message", ["seconds"], duration),
    };
    this.missing = h("p", { hidden: true }, "There is no queue of this name. Sending it a message makes it.");
    this.messages = new Messages(name, { refreshSoon });
    this.element = h("section", {},
      h("p", {}, h("a", { href: "#/" }, "All queues")),
      h("h1", { tabindex: "-1" }, name, " ", this.badge),
      this.missing,
      may("metrics", name) ? this.figures() : null,
      may("admin", name) ? this.controls() : null,
      may("producer", name) ? this.sender() : null,
      may("admin", name) && may("metrics", name) ? this.settings() : null,
      may("consumer", name) ? this.messages.element : null);
  }

  figures() {
    return [
      h("dl", { class: "numbers" }, ...Object.entries(this.values).map(([title, value]) => h("div", {}, h("dt", {}, title), value))),
      h("div", { class: "charts" }, ...Object.values(this.charts).map((chart) => chart.element))];
  }

  controls() {
    const path = pathOf(this.name);
    this.pause = h("button", { type: "button", onclick: () => this.do(() => post(`${path}/${this.paused ? "resume" : "pause"}`),
      () => (this.paused ? "Consumers get messages again." : "Consumers get nothing from now on.")) }, "Pause");
    // There only while it can do something: see refresh().
    this.redrive = h("button", { type: "button", hidden: true, onclick: () => this.do(async () => JSON.parse(await post(`${path}/redrive`)),
      ({ moved, left }) => `${count(moved)} dead letters went back to where they failed; ${count(left)} messages are left here.`) }, "Redrive all");
    const purge = h("button", { type: "button", class: "danger", onclick: async () => {
      const sure = await confirmed(`Purge ${this.name}?`, "Every message is dropped: ready, delayed and leased ones.", { word: this.name, action: "Purge" });
      if (sure) await this.do(async () => JSON.parse(await post(`${path}/purge`)), ({ purged }) => `${count(purged)} messages are gone.`);
    } }, "Purge …");
    const remove = h("button", { type: "button", class: "danger", onclick: async () => {
      const sure = await confirmed(`Delete ${this.name}?`, "The queue is removed with its messages and its settings. Consumers that wait get 404.", { word: this.name, action: "Delete" });
      if (sure && await act(() => ask("DELETE", path), `The queue ${this.name} is deleted.`)) location.hash = "#/";
    } }, "Delete queue …");
    return h("div", { class: "row", role: "group", "aria-label": "Actions" }, this.pause, this.redrive, purge, remove);
  }

  async do(what, said) {
    const done = await act(what, said);
    if (done && may("consumer", this.name)) await this.messages.look();
    this.refreshSoon();
    return done;
  }

  sender() {
    const body = h("textarea", { name: "body", spellcheck: "false" });
    const type = h("input", { name: "type", value: "text/plain", spellcheck: "false" });
    const priority = h("input", { class: "short", type: "number", min: "0", max: "9", value: "0" });
    const delay = h("input", { class: "short", value: "0", spellcheck: "false" });
    const group = h("input", { class: "short", spellcheck: "false" });
    const send = async (event) => {
      event.preventDefault();
      const query = { priority: priority.value === "0" ? "" : priority.value, delay: delay.value === "0" ? "" : delay.value, group: group.value };
      const headers = type.value ? { "Content-Type": type.value } : {};
      const done = await this.do(
        () => ask("POST", `${pathOf(this.name)}/messages`, { body: new TextEncoder().encode(body.value), headers, query }),
        (answer) => `Sent: message ${answer.headers.get("Zapq-Message-Id")}.`);
      if (done) body.value = "";
    };
    return h("details", {}, h("summary", {}, "Send a message"), h("form", { onsubmit: send },
      h("label", {}, "Body", body),
      h("div", { class: "row" }, h("label", {}, "Type", type), h("label", {}, "Priority (0 to 9)", priority), h("label", {}, "Delay (20, 5m)", delay), h("label", {}, "Group", group)),
      h("div", { class: "row" }, h("button", { type: "submit", class: "main" }, "Send"))));
  }

  settings() {
    this.inputs = Object.fromEntries(Object.keys(SETTINGS).map((name) => [name, h("input", { spellcheck: "false", autocomplete: "off" })]));
    this.fair = h("input", { type: "checkbox" });
    const save = async (event) => {
      event.preventDefault();
      if (!this.filled) return;
      const changes = {};
      for (const [name, input] of Object.entries(this.inputs)) {
        if (input.value === this.filled[name]) continue;
        const text = input.value.trim();
        const plain = TEXTS.has(name) || (DURATIONS.has(name) && !/^[0-9.]+$/.test(text));
        changes[name] = text === "" ? null : plain || Number.isNaN(Number(text)) ? text : Number(text);
      }
      if (this.fair.checked !== this.filled.fair) changes.fair = this.fair.checked;
      await this.do(async () => {
        const answer = await ask("PATCH", pathOf(this.name), { body: JSON.stringify(changes) });
        this.filled = null;
        this.fill((await answer.json()).settings);
      }, "The settings hold from now on.");
    };
    this.form = h("details", {}, h("summary", {}, "Settings"), h("form", { onsubmit: save },
      h("p", { class: "soft" }, "An empty field means the default."),
      h("div", { class: "row" }, ...Object.entries(SETTINGS).map(([name, title]) => h("label", {}, title, this.inputs[name])),
        h("label", { class: "check" }, this.fair, "Groups take turns (fair)")),
      h("div", { class: "row" }, h("button", { type: "submit", class: "main" }, "Save settings"))));
    return this.form;
  }

  /** Writes the settings into their fields, unless somebody may be at it. */
  fill(settings) {
    if (!this.inputs || (this.filled && this.form.open)) return;
    this.filled = { fair: settings.fair };
    this.fair.checked = settings.fair;
    for (const [name, input] of Object.entries(this.inputs)) input.value = this.filled[name] = settings[name] === null ? "" : String(settings[name]);
  }

  async refresh() {
    if (may("consumer", this.name) && !this.looked) {
      this.looked = true;
      await this.messages.look();
    }
    if (!may("metrics", this.name)) return;
    let queue;
    try {
      queue = await get(pathOf(this.name));
    } catch (error) {
      if (!(error instanceof Refused && error.problem === "queue-not-found")) throw error;
      this.missing.hidden = false;
      return;
    }
    this.missing.hidden = true;
    this.paused = queue.paused;
    setText(this.badge, queue.paused ? "paused" : "");
    if (this.pause) setText(this.pause, queue.paused ? "Resume" : "Pause");
    // Without the role to look, the page does not know.
    if (this.redrive) this.redrive.hidden = may("consumer", this.name) && !this.messages.failed && !queue.redriven;
    note([queue]);
    if (this.beats++ % SECONDS === 0) await load([this.name]);
    for (const [title, value] of Object.entries(this.values)) setText(value, NUMBERS[title](queue));
    this.fill(queue.settings);
    const past = historyOf(this.name);
    this.charts.depth.show([past.messages, past.ready]);
    this.charts.rates.show([past.in.map((each) => each / SECONDS), past.out.map((each) => each / SECONDS)]);
    this.charts.age.element.hidden = ageOf(queue) === undefined;
    this.charts.age.show([past.age]);
  }
}
