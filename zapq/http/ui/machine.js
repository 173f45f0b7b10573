// The server itself, and its snapshots.

import { bytes, confirmed, count, duration, h } from "./dom.js";
import { act } from "./queue.js";
import { ask, get, may, post } from "./server.js";

const milliseconds = (seconds) => `${(seconds * 1000).toFixed(1)} ms`;

/** Writes a number and its cap. Over an engine the cap is that of each queue, and the number of all. */
const capped = (format, cap) => (number, metrics) => ("engine" in metrics ? format(number) : `${format(number)} of ${format(metrics[cap])}`);

/** Where messages are. */
function place(metrics) {
  if ("engine" in metrics) return `in the engine (${metrics.engine_durability})`;
  return "storage_available" in metrics ? "on the disk" : "in memory only";
}

/** What is shown of /metrics: a title, and how to write it; what there is none of is left out. */
const NUMBERS = {
  Running: ["uptime_sec", duration], Connections: ["connections", count], "Requests waiting": ["waiting", count],
  Queues: ["queues", count], Messages: ["queue_length", capped(count, "queue_max_msgs")], "Bytes held": ["queue_bytes", capped(bytes, "queue_max_bytes")],
  "Messages are kept": ["queue_length", (_, metrics) => place(metrics)],
  "Descriptors open": ["open_fds", count], "Descriptors at most": ["max_fds", count], Tasks: ["goroutines", count],
  "Commit, median": ["journal_commit_p50_seconds", milliseconds], "Commit, 99 of 100": ["journal_commit_p99_seconds", milliseconds],
  "Changes not written yet": ["journal_pending", count], "Engine calls": ["engine_calls", count], "Engine reachable": ["engine_reachable", (part) => `${Math.round(part * 100)} %`],
};

const REFUSALS = {
  "Messages refused (full)": "enqueues_refused", "Connections refused": "connections_refused", "Requests refused unread": "wire_refusals",
  "Connections that failed": "connection_errors", "Commits that failed": "journal_failures", "Deliveries uncertain": "delivery_uncertain",
  "Snapshots that failed": "snapshots_failed", "Log lines dropped": "log_lines_dropped", "Engine refusals": "engine_refusals",
};

function numbers(shown) {
  return shown.map(([title, text]) => h("div", {}, h("dt", {}, title), h("dd", {}, text)));
}

/** The name of a problem, with a link to what it means; codes that only SQS has are explained elsewhere. */
function explained(problem) {
  return /^[a-z0-9-]+$/.test(problem) ? h("a", { href: `/problems/${problem}` }, problem) : problem;
}

/** The view of the server. */
export class Server {
  constructor() {
    this.figures = h("dl", { class: "numbers" });
    this.volatile = h("p", { class: "soft", hidden: true }, "When the server ends, messages in memory are gone, except those in a snapshot. With --durable they are kept.");
    this.refusals = h("dl", { class: "numbers" });
    this.problems = h("tbody");
    this.table = h("table", { hidden: true }, h("caption", {}, "Requests refused, by problem"), h("thead", {}, h("tr", {},
      h("th", { scope: "col" }, "Problem"), h("th", { scope: "col", class: "number" }, "Requests"))), this.problems);
    this.last = h("tbody");
    this.lastTable = h("table", { hidden: true }, h("caption", {}, "The last refusals"), h("thead", {}, h("tr", {},
      h("th", { scope: "col" }, "Time"), h("th", { scope: "col" }, "Problem"), h("th", { scope: "col" }, "Request"),
      h("th", { scope: "col", class: "number wide" }, "Status"), h("th", { scope: "col", class: "wide" }, "Trace id"))), this.last);
    this.shownLast = "";
    this.resident = null;
    this.beats = 0;
    this.element = h("section", {}, h("h1", { tabindex: "-1" }, "Server"), this.figures, this.volatile,
      may("admin") ? h("div", { class: "row", role: "group", "aria-label": "Actions" }, this.drain()) : null,
      h("h2", {}, "Refused and failed, since it started"), this.refusals, this.table, this.lastTable);
  }

  drain() {
    return h("button", { type: "button", class: "danger", onclick: async () => {
      const sure = await confirmed("Drain the server?", "It takes no new messages until it is started again. What it holds is still given to consumers.", { word: "drain", action: "Drain" });
      if (sure) await act(() => post("/drain"), "The server takes no new messages from now on.");
    } }, "Drain …");
  }

  async tellLast() {
    const last = await get("/refusals", { limit: 20 });
    const text = JSON.stringify(last);
    if (text === this.shownLast) return;
    this.shownLast = text;
    this.lastTable.hidden = last.length === 0;
    this.last.replaceChildren(...last.map((each) => h("tr", {}, h("td", {}, new Date(each.time).toLocaleTimeString("en-GB")),
      h("td", {}, explained(each.problem)), h("td", { class: "path" }, each.method ? `${each.method} ${each.path}` : "–"),
      h("td", { class: "number wide" }, each.status), h("td", { class: "wide path" }, each.trace_id))));
  }

  tell(refusals) {
    const most = refusals.filter(([, number]) => number).sort(([, one], [, other]) => other - one);
    this.table.hidden = most.length === 0;
    this.problems.replaceChildren(...most.map(([problem, number]) => h("tr", {},
      h("th", { scope: "row" }, explained(problem)), h("td", { class: "number" }, count(number)))));
  }

  async refresh() {
    const metrics = await get("/metrics");
    await this.tellLast();
    if (this.beats++ % 5 === 0) {
      const text = await (await ask("GET", "/metrics/prometheus")).text();
      this.resident = Number(/^process_resident_memory_bytes (\S+)/m.exec(text)?.[1] ?? NaN);
      this.tell([...text.matchAll(/^zapq_refusals_total\{problem="([^"]+)"\} (\S+)/gm)].map(([, problem, number]) => [problem, Number(number)]));
      this.version = /^zapq_build_info\{[^}]*version="([^"]*)"/m.exec(text)?.[1];
    }
    const shown = Object.entries(NUMBERS).filter(([, [name]]) => name in metrics).map(([title, [name, format]]) => [title, format(metrics[name], metrics)]);
    this.volatile.hidden = place(metrics) !== "in memory only";
    if (this.resident) shown.push(["Memory", bytes(this.resident)]);
    if (this.version) shown.push(["Version", this.version]);
    this.figures.replaceChildren(...numbers(shown));
    this.refusals.replaceChildren(...numbers(Object.entries(REFUSALS).filter(([, name]) => name in metrics).map(([title, name]) => [title, count(metrics[name])])));
  }
}

/** The view of snapshots. */
export class Snapshots {
  constructor({ refreshSoon }) {
    this.refreshSoon = refreshSoon;
    this.body = h("tbody");
    this.none = h("p", { class: "soft", hidden: true }, "There is none yet.");
    const name = h("input", { value: "page.msgpack", spellcheck: "false", autocomplete: "off", required: true });
    const save = (event) => {
      event.preventDefault();
      this.do(() => post("/persist", { file: name.value }), `Saved as ${name.value}.`);
    };
    this.element = h("section", {}, h("h1", { tabindex: "-1" }, "Snapshots"),
      h("p", { class: "soft" }, "A .msgpack file holds every queue; a .json file the bodies of the default queue."),
      h("form", { class: "row", onsubmit: save }, h("label", {}, "File", name), h("button", { type: "submit", class: "main" }, "Save")),
      h("table", {}, h("caption", {}, "In the data directory"), h("thead", {}, h("tr", {},
        h("th", { scope: "col" }, "File"), h("th", { scope: "col", class: "number" }, "Size"), h("th", { scope: "col", class: "number wide" }, "Messages"),
        h("th", { scope: "col", class: "wide" }, "Saved"), h("th", { scope: "col" }, "Action"))), this.body), this.none);
    this.shown = "";
  }

  async do(what, said) {
    await act(what, said);
    this.refreshSoon();
  }

  async load(file) {
    const sure = await confirmed(`Load ${file}?`, "It takes the place of what the queues hold now.", { word: file, action: "Load" });
    if (sure) await this.do(() => post("/load", { file }), `Loaded ${file}.`);
  }

  async refresh() {
    const files = await get("/snapshots");
    const text = JSON.stringify(files);
    if (text === this.shown) return;
    this.shown = text;
    this.none.hidden = files.length > 0;
    this.body.replaceChildren(...files.map((file) => h("tr", {}, h("th", { scope: "row" }, file.name),
      h("td", { class: "number" }, bytes(file.bytes)), h("td", { class: "number wide" }, file.messages === undefined ? "–" : count(file.messages)),
      h("td", { class: "wide" }, new Date(file.modified).toLocaleString("en-GB")),
      h("td", {}, may("admin") ? h("button", { type: "button", class: "danger", "aria-label": `Load ${file.name}`, onclick: () => this.load(file.name) }, "Load …") : ""))));
  }
}

