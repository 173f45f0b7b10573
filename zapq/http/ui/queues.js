// All queues: what each holds, and how fast it moves. The server sorts and searches, and sends what is shown.

import { Spark } from "./charts.js";
import { count, duration, h, rate, setChildren, setText } from "./dom.js";
import { ageOf, historyOf, load, note, rates } from "./history.js";
import { ask, me } from "./server.js";

const SHOWN = 50;

const COLUMNS = [
  { sort: "name", title: "Queue" },
  { sort: "ready", title: "Ready", of: (queue) => count(queue.ready) },
  { sort: "delayed", title: "Delayed", wide: true, of: (queue) => count(queue.delayed) },
  { sort: "leased", title: "Leased", of: (queue) => count(queue.leased) },
  { sort: "age", title: "Oldest", of: (queue) => (ageOf(queue) === undefined ? "–" : duration(ageOf(queue))) },
  { title: "In/s", wide: true, of: (queue) => shownRate(rates(queue.name).in) },
  { title: "Out/s", wide: true, of: (queue) => shownRate(rates(queue.name).out) },
];

export const shownRate = (value) => (value === null ? "–" : rate(value));

/** A search that does not mind the case, as a pattern of the server's. */
function patternOf(text) {
  const plain = text.trim().replace(/[^A-Za-z0-9._-]/g, "?");
  return plain ? `*${plain.replace(/[A-Za-z]/g, (letter) => `[${letter.toLowerCase()}${letter.toUpperCase()}]`)}*` : "";
}

class Row {
  constructor(name) {
    this.name = name;
    this.badge = h("span", { class: "badge" });
    this.cells = COLUMNS.slice(1).map((column) => h("td", { class: column.wide ? "number wide" : "number" }));
    this.spark = new Spark(`Messages of ${name} in ten minutes`);
    this.element = h("tr", {},
      h("th", { scope: "row" }, h("a", { href: `#/queues/${encodeURIComponent(name)}` }, name), " ", this.badge),
      ...this.cells, h("td", { class: "wide" }, this.spark.element));
  }

  show(queue) {
    setText(this.badge, queue.paused ? "paused" : "");
    COLUMNS.slice(1).forEach((column, at) => setText(this.cells[at], column.of(queue)));
    this.spark.show(historyOf(this.name).messages);
  }
}

/** The list of queues. Shown until `close`; `refresh` asks the server. */
export class Queues {
  constructor({ refreshSoon }) {
    // A credential for some queues sees those in the list.
    this.listed = me.roles.includes("metrics");
    this.rows = new Map();
    this.sort = "name";
    this.pages = [""];
    this.beats = 0;
    this.refreshSoon = refreshSoon;
    this.search = h("input", { type: "search", autocomplete: "off", spellcheck: "false", oninput: () => this.again() });
    this.caption = h("caption", {}, "Asking the server …");
    this.heads = COLUMNS.map((column) => this.head(column));
    this.body = h("tbody");
    this.back = h("button", { type: "button", onclick: () => this.turn(-1) }, "Back");
    this.next = h("button", { type: "button", onclick: () => this.turn(1) }, "Next");
    const table = h("table", {}, this.caption,
      h("thead", {}, h("tr", {}, ...this.heads, h("th", { scope: "col", class: "wide" }, "Last ten minutes"))), this.body);
    this.element = h("section", {},
      h("h1", { tabindex: "-1" }, "Queues"),
      this.listed ? [
        h("div", { class: "row" }, h("label", { class: "grow" }, "Search", this.search)), table,
        h("div", { class: "row" }, this.back, this.next)] : h("p", {}, "This credential may not list queues."),
      this.opener());
    this.turned();
  }

  head(column) {
    const given = { scope: "col", class: [column.title === "Queue" ? "" : "number", column.wide ? "wide" : ""].join(" ").trim() };
    if (!column.sort) return h("th", given, column.title);
    return h("th", given, h("button", { type: "button", onclick: () => this.sortBy(column.sort) }, column.title));
  }

  opener() {
    const name = h("input", { name: "queue", autocomplete: "off", spellcheck: "false", required: true });
    return h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); location.hash = `#/queues/${encodeURIComponent(name.value)}`; } },
      h("label", {}, "Open a queue by its name", name), h("button", { type: "submit" }, "Open"));
  }

  sortBy(sort) {
    this.sort = this.sort === sort ? `-${sort}` : sort;
    this.again();
  }

  again() {
    this.pages = [""];
    this.refreshSoon();
  }

  turn(step) {
    if (step < 0) this.pages.pop();
    else this.pages.push(this.after);
    this.refreshSoon();
  }

  turned() {
    this.back.hidden = this.pages.length < 2;
    this.next.hidden = !this.after;
    COLUMNS.forEach((column, at) => {
      const mine = column.sort && this.sort.replace("-", "") === column.sort;
      const upwards = (this.sort === "name") || (this.sort.startsWith("-") && this.sort !== "-name");
      if (mine) this.heads[at].setAttribute("aria-sort", upwards ? "ascending" : "descending");
      else this.heads[at].removeAttribute("aria-sort");
    });
  }

  async refresh() {
    if (!this.listed) return;
    const query = { queue: patternOf(this.search.value), sort: this.sort, limit: SHOWN, after: this.pages[this.pages.length - 1] };
    const answer = await ask("GET", "/queues", { query });
    const queues = await answer.json();
    const total = Number(answer.headers.get("Zapq-Total"));
    this.after = answer.headers.get("Zapq-Next");
    note(queues);
    const names = queues.map((queue) => queue.name);
    if (this.beats++ % 5 === 0 || names.some((name) => !this.rows.has(name))) await load(names);
    for (const name of this.rows.keys()) if (!names.includes(name)) this.rows.delete(name);
    const rows = queues.map((queue) => {
      if (!this.rows.has(queue.name)) this.rows.set(queue.name, new Row(queue.name));
      const row = this.rows.get(queue.name);
      row.show(queue);
      return row.element;
    });
    setChildren(this.body, rows);
    const first = (this.pages.length - 1) * SHOWN;
    setText(this.caption, total ? `${count(first + 1)} to ${count(first + queues.length)} of ${count(total)}` : "No queue has such a name.");
    this.turned();
  }
}
