// Lines of the last ten minutes, drawn as SVG. What they show is also said in words.

import { SAMPLES, SECONDS } from "./history.js";
import { h, setText, svg } from "./dom.js";

function points(values, most, width, height) {
  const left = SAMPLES - values.length;
  const x = (at) => ((left + at) / (SAMPLES - 1) * width).toFixed(1);
  const y = (value) => (height - 1 - value / Math.max(most, 1e-9) * (height - 2)).toFixed(1);
  return values.map((value, at) => `${x(at)},${y(value)}`).join(" ");
}

/** A line in a row of a table. */
export class Spark {
  constructor(what) {
    this.what = what;
    this.line = svg("polyline");
    this.element = svg("svg", { class: "spark", viewBox: "0 0 120 24", preserveAspectRatio: "none", role: "img", "aria-label": what }, this.line);
  }

  show(values) {
    const most = Math.max(0, ...values);
    const drawn = points(values, most, 120, 24);
    if (this.line.getAttribute("points") === drawn) return;
    this.line.setAttribute("points", drawn);
    this.element.setAttribute("aria-label", `${this.what}: at most ${most}`);
  }
}

/** A chart with one or two lines. `names` are theirs, `format` writes a value. */
export class Chart {
  constructor(title, names, format) {
    this.names = names;
    this.format = format;
    this.lines = names.map((_, at) => svg("polyline", at ? { class: "second" } : {}));
    this.drawing = svg("svg", { class: "chart", viewBox: "0 0 600 130", preserveAspectRatio: "none", role: "img", "aria-label": title }, ...this.lines);
    this.words = h("span", {});
    this.title = title;
    this.element = h("figure", {}, h("h2", {}, title), this.drawing,
      h("figcaption", {}, ...names.flatMap((name, at) => [h("span", { class: at ? "key second" : "key" }, name), " "]), this.words));
  }

  show(columns) {
    const most = Math.max(0, ...columns.flat());
    columns.forEach((values, at) => this.lines[at].setAttribute("points", points(values, most, 600, 130)));
    const now = columns.map((values) => this.format(values[values.length - 1] ?? 0)).join(" and ");
    const words = `last ${Math.round(SAMPLES * SECONDS / 60)} minutes, at most ${this.format(most)}, now ${now}`;
    setText(this.words, words);
    this.drawing.setAttribute("aria-label", `${this.title}, ${this.names.join(" and ")}: ${words}`);
  }
}
