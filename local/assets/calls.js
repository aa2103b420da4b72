// The latest calls between browser, gateway, functions, stores and Human API, newest first.

import * as laptop from "./laptop.js";

const EVERY_MS = 1000;
const KEPT = 200;

export class Calls {
  #scroll = document.getElementById("calls");
  #list = this.#scroll.querySelector("ol");
  #empty = this.#scroll.querySelector(".empty");
  #state = document.getElementById("calls-state");
  #template = document.getElementById("call");
  #last = 0;
  #polling = null;

  constructor() {
    document.getElementById("calls-clear").onclick = () => {
      this.#list.replaceChildren();
      this.#showEmptiness();
    };
  }

  follow() {
    setInterval(() => document.hidden || this.poll(), EVERY_MS);
    return this.poll();
  }

  /** One look at a time: two would show the same calls twice. */
  poll() {
    this.#polling ??= this.#look().finally(() => { this.#polling = null; });
    return this.#polling;
  }

  async #look() {
    try {
      const { calls, last } = await laptop.calls(this.#last);
      if (last < this.#last) this.#list.replaceChildren(); // the server was started anew
      this.#last = last;
      for (const call of calls) this.#list.prepend(this.#row(call));
      while (this.#list.children.length > KEPT) this.#list.lastElementChild.remove();
      this.#showEmptiness();
      this.#say("live", true);
    } catch {
      this.#say("no answer: is the server still running?", false);
    }
  }

  #row({ at, from, to, what, status, ms }) {
    const item = this.#template.content.firstElementChild.cloneNode(true);
    const time = item.querySelector("time");
    time.dateTime = at;
    time.textContent = clock(at);
    item.querySelector(".from").textContent = from;
    item.querySelector(".to").textContent = to;
    item.querySelector(".what").textContent = what;
    const mark = item.querySelector(".status");
    mark.textContent = status || "none";
    mark.classList.toggle("warn", status >= 400 && status < 500);
    mark.classList.toggle("bad", status >= 500 || !status);
    item.querySelector(".ms").textContent = ms == null ? "" : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
    item.classList.add("fresh");
    return item;
  }

  #showEmptiness() {
    const empty = this.#list.children.length === 0;
    this.#empty.hidden = !empty;
    this.#list.hidden = empty;
  }

  #say(text, good) {
    if (this.#state.textContent === text) return; // a live region: only news
    this.#state.textContent = text;
    this.#state.className = `badge ${good ? "good" : "bad"}`;
  }
}

function clock(at) {
  const date = new Date(at);
  return `${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}
