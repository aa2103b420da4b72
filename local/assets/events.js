// The connection events, newest first, as they reach the event bus.

import * as localStack from "./local-stack.js";

const EVERY_MS = 1000;
const KEPT = 200;

export class Events {
  #list = document.getElementById("events");
  #empty = document.getElementById("events-empty");
  #row = document.getElementById("event-row");
  #last = 0;
  #onPick;

  /** @param {(clientUserId: string) => void} onPick called with the user of an event */
  constructor(onPick) {
    this.#onPick = onPick;
  }

  async follow() {
    for (;;) {
      if (!document.hidden) await this.#poll().catch(() => {}); // the calls' list says that the server is gone
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
  }

  async #poll() {
    const events = await localStack.events(this.#last);
    for (const event of events) {
      this.#last = event.number;
      this.#list.prepend(this.#entry(event));
    }
    while (this.#list.children.length > KEPT) this.#list.lastElementChild.remove();
    this.#empty.hidden = this.#list.children.length > 0;
  }

  #entry({ detailType, detail }) {
    const row = this.#row.content.firstElementChild.cloneNode(true);
    row.querySelector(".event-type").textContent = detailType;
    const user = row.querySelector("button");
    user.textContent = detail.clientUserId;
    user.onclick = () => this.#onPick(detail.clientUserId);
    row.querySelector("pre").textContent = JSON.stringify(detail, null, 2);
    return row;
  }
}
