// Elements, made of text: nothing a server says is ever read as HTML.

/** Makes an element. `given` has its properties and attributes, and functions for events (`onclick`). */
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Makes an element of a drawing. */
export function svg(tag, given = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets a text if it is another one: what stays the same costs the browser nothing. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Lets `parent` have exactly these children in this order; those that are there already keep their focus. */
export function setChildren(parent, children) {
  const focused = document.activeElement;
  children.forEach((child, at) => {
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
  while (parent.children.length > children.length) parent.lastElementChild.remove();
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus();
}

let hush;

/** Says what has been done, also to screen readers. */
export function say(text) {
  const said = document.getElementById("said");
  said.textContent = text;
  clearTimeout(hush);
  hush = setTimeout(() => { said.textContent = ""; }, 6000);
}

/**
 * Asks for consent in a dialog, and returns whether it was given. With `word`, that must be typed first.
 */
export function confirmed(title, text, { word = "", action = "OK" } = {}) {
  return new Promise((resolve) => {
    const button = h("button", { type: "submit", class: "danger", disabled: word !== "" }, action);
    const input = h("input", { autocomplete: "off", oninput: () => { button.disabled = input.value !== word; } });
    const form = h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); dialog.close("yes"); } },
      h("h2", { id: "asked" }, title),
      h("p", {}, text),
      word ? h("label", {}, `Type ${word} to confirm`, input) : null,
      h("div", { class: "row" }, button, h("button", { type: "button", onclick: () => dialog.close("") }, "Cancel")));
    const dialog = h("dialog", { "aria-labelledby": "asked", onclose: () => { dialog.remove(); resolve(dialog.returnValue === "yes"); } }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

const whole = new Intl.NumberFormat("en");

export const count = (number) => whole.format(number);

export const rate = (number) => (number >= 100 ? whole.format(Math.round(number)) : number.toFixed(1).replace(/\.0$/, ""));

export function bytes(number) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (number < 1024 || unit === "GiB") return `${unit === "B" ? number : number.toFixed(1)} ${unit}`;
    number /= 1024;
  }
  return "";
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
}
