// Follows the calls and puts each into the group of the action that caused it, newest group first.

import { Group } from "./group.js";
import * as localStack from "./local-stack.js";

const SOON_MS = 200; // while a call is in flight
const LATER_MS = 1000;
const QUIET_MS = 3000; // after this time without news, the page polls slowly again
const KEPT = 40;

export class Calls {
  #region = document.getElementById("calls");
  #list = document.getElementById("groups");
  #empty = document.getElementById("calls-empty");
  #state = document.getElementById("calls-state");
  #said = document.getElementById("calls-said");
  #actions = []; // {title, after, until}: calls with these ids belong to the action
  #groups = new Map();
  #hidden = 0; // calls up to this id were cleared
  #last = 0;
  #polling = null;
  #newsAt = 0;

  #onNews;

  /** @param {() => void} onNews called when there are new calls */
  constructor(onNews) {
    this.#onNews = onNews;
    document.getElementById("calls-clear").onclick = () => {
      this.#hidden = this.#last;
      this.#forget();
    };
  }

  /** Polls for calls, and polls faster while a call is in flight. */
  async follow() {
    for (;;) {
      if (!document.hidden) await this.poll();
      const works = this.#current() || [...this.#groups.values()].some(({ isUnderWay }) => isUnderWay);
      const busy = works && performance.now() - this.#newsAt < QUIET_MS;
      await new Promise((resolve) => setTimeout(resolve, busy ? SOON_MS : LATER_MS));
    }
  }

  /** Assigns all calls from now on to this action, until the returned function is called. */
  async begin(title) {
    await this.poll();
    this.#newsAt = performance.now();
    const action = { title, after: this.#last, until: Infinity };
    const current = this.#current();
    if (current) current.until = this.#last;
    this.#actions.push(action);
    return async () => {
      await this.poll();
      action.until = Math.min(action.until, this.#last);
      const group = this.#groups.get(action);
      if (group) this.#said.textContent = group.summary;
    };
  }

  /** Runs one poll at a time: two would show the same calls twice. */
  poll() {
    this.#polling ??= this.#look().finally(() => { this.#polling = null; });
    return this.#polling;
  }

  async #look() {
    try {
      let { calls, last } = await localStack.calls(this.#last);
      if (last < this.#last) {
        // the server has restarted
        this.#hidden = 0;
        this.#actions.length = 0;
        this.#forget();
        ({ calls, last } = await localStack.calls(0));
      }
      this.#last = last;
      this.#take(calls.filter(({ id }) => id > this.#hidden));
      if (calls.length > 0) {
        this.#newsAt = performance.now();
        this.#onNews();
      }
      this.#say("live", true);
    } catch {
      this.#say("the server does not respond", false);
    }
  }

  #take(calls) {
    const changed = new Map();
    for (const call of calls) {
      const group = this.#groupOf(call);
      changed.set(group, [...(changed.get(group) ?? []), call]);
    }
    for (const [group, itsCalls] of changed) group.take(itsCalls);
    while (this.#groups.size > KEPT) this.#drop(this.#groups.keys().next().value);
    this.#showEmptiness();
  }

  #groupOf(call) {
    const action = this.#actions.findLast(({ after, until }) => after < call.id && call.id <= until);
    // calls that the page did not cause are grouped by request
    const key = action ?? call.request ?? [...this.#groups.keys()].at(-1) ?? 0;
    if (!this.#groups.has(key)) this.#add(key, new Group(action?.title ?? call.what));
    return this.#groups.get(key);
  }

  #add(key, group) {
    for (const other of this.#groups.values()) other.fold();
    this.#groups.set(key, group);
    this.#list.prepend(group.node);
    if (!this.#list.contains(document.activeElement)) this.#region.scrollTop = 0;
  }

  #drop(key) {
    this.#groups.get(key).node.remove();
    this.#groups.delete(key);
  }

  #forget() {
    for (const key of [...this.#groups.keys()]) this.#drop(key);
    this.#showEmptiness();
  }

  #current() {
    return this.#actions.find(({ until }) => until === Infinity);
  }

  #showEmptiness() {
    this.#empty.hidden = this.#groups.size > 0;
    this.#list.hidden = !this.#empty.hidden; // an empty list must not be announced
  }

  #say(text, good) {
    if (this.#state.textContent === text) return; // a live region announces every change
    this.#state.textContent = text;
    this.#state.className = `badge ${good ? "good live" : "bad"}`;
  }
}
