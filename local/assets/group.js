// One action and its calls: a heading that opens and closes, and a sequence diagram. A switch is a heading only.

import { bars, grade, row } from "./step.js";
import { active, lanes, steps } from "./steps.js";

const template = document.getElementById("group");

export class Group {
  node = template.content.firstElementChild.cloneNode(true);
  #details = this.node.querySelector("details");
  #title;
  #calls = new Map();
  #rows = new Map();
  #chosen = false; // by the reader
  #onAgain;

  /**
   * @param {{id: number, title: string, kind: "user"|"console"|"switch"|"other", began: number}} action
   * @param {(request: object) => void} onAgain
   */
  constructor({ id, title, kind, began }, onAgain) {
    this.#title = title;
    this.kind = kind;
    this.#onAgain = onAgain;
    this.node.id = `action-${id}`;
    this.node.dataset.kind = kind;
    this.node.querySelector(".title").textContent = title;
    const link = this.node.querySelector(".anchor");
    link.href = `#action-${id}`;
    link.querySelector(".unseen").textContent = ` link to “${title}”`;
    this.#setTime(began);
    this.#details.open = kind === "user" || kind === "other";
    this.node.querySelector("summary").onclick = (event) => {
      this.#chosen = true;
      if (this.#calls.size === 0) event.preventDefault(); // nothing to open
    };
  }

  get calls() {
    return [...this.#calls.values()];
  }

  open() {
    this.#chosen = true;
    this.#details.open = true;
  }

  /** Tells if an answer begins with this digit. “5” includes a request without an answer, and "" all groups. */
  has(digit) {
    return !digit || this.#answers().some((status) => (status === "none" ? "5" : String(status)[0]) === digit);
  }

  /** Closes the group for a newer one, unless the user reads it. */
  fold() {
    if (!this.#chosen && !this.node.contains(document.activeElement)) this.#details.open = false;
  }

  get isUnderWay() {
    return [...this.#calls.values()].some(({ ms }) => ms === null);
  }

  /** A summary for screen readers. */
  get summary() {
    return `${this.#title}: ${count(this.#calls.size)}, answered ${this.#answers().join(", ") || "nothing"}.`;
  }

  /** @param {import("./steps.js").Call[]} changed */
  take(changed) {
    for (const call of changed) this.#calls.set(call.id, call);
    const calls = [...this.#calls.values()].sort((one, other) => one.began - other.began);
    // if API Gateway invoked no function, the answer is its own
    const invoked = new Set(calls.filter(({ to }) => to === "function").map(({ request }) => request));
    for (const call of calls) call.refused = call.to === "API Gateway" && call.ms !== null && !invoked.has(call.request);
    this.#head(calls);
    this.#draw(calls);
  }

  #answers() {
    const answered = ({ from, to, ms }) => (to === "API Gateway" || from === "operator") && ms !== null;
    return [...this.#calls.values()].filter(answered).map(({ status }) => status || "none");
  }

  #setTime(began) {
    const time = this.node.querySelector("time");
    time.dateTime = new Date(began).toISOString();
    time.textContent = new Date(began).toLocaleTimeString("en-GB");
  }

  #head(calls) {
    this.node.querySelector(".count").textContent = count(calls.length);
    const marks = this.#answers().slice(-4).map((status) => {
      const mark = document.createElement("span");
      mark.className = `status ${grade(Number(status) || 0)}`;
      mark.textContent = status;
      return mark;
    });
    this.node.querySelector(".answers").replaceChildren(...marks);
  }

  /** Keeps existing rows: a row may have the focus, or be open. */
  #draw(calls) {
    const all = lanes(calls);
    const heads = this.node.querySelector(".heads");
    if (heads.children.length !== all.length) {
      this.#rows.clear();
      this.#details.dataset.lanes = all.length;
      heads.replaceChildren(...all.map(head));
    }
    const before = this.#rows;
    this.#rows = new Map();
    for (const step of steps(calls)) {
      const key = `${step.kind} ${step.call?.id ?? step.at} ${step.call?.ms === null} ${step.call?.refused}`;
      const item = before.get(key) ?? row(step, all, calls[0].began, this.#onAgain);
      if (step.call) bars(item, active(calls, step), all);
      this.#rows.set(key, item);
    }
    const list = this.node.querySelector(".steps");
    const wanted = [...this.#rows.values()];
    for (const item of [...list.children]) if (!wanted.includes(item)) item.remove();
    // moving a node removes its focus, so only misplaced nodes are moved
    wanted.forEach((item, place) => {
      if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
    });
  }
}

function head(name) {
  const item = document.createElement("li");
  const text = document.createElement("span");
  text.textContent = name;
  text.classList.toggle("outside", name === "Human API");
  item.append(text);
  return item;
}

const count = (calls) => `${calls} ${calls === 1 ? "call" : "calls"}`;
