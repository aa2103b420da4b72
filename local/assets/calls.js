// Follows the calls and puts each into the group of the action that has caused it, newest group first.

import { Group } from "./group.js";
import * as localStack from "./local-stack.js";

const SOON_MS = 200; // while a call is in flight
const LATER_MS = 1000;
const QUIET_MS = 3000; // after this time without news, the page polls slowly again
const KEPT = 60;

export class Calls {
  #region = document.getElementById("calls");
  #list = document.getElementById("groups");
  #empty = document.getElementById("calls-empty");
  #state = document.getElementById("calls-state");
  #said = document.getElementById("calls-said");
  #filter = document.getElementById("calls-filter");
  #own = document.getElementById("calls-own");
  #groups = new Map(); // by the id of the action, or of the request
  #hidden = 0; // actions and calls up to this id were cleared
  #last = 0;
  #polling = null;
  #newsAt = 0;
  #onNews;
  #onAgain;

  /**
   * @param {() => void} onNews called when there are new calls
   * @param {(request: object) => void} onAgain called with a request that the user sends again
   */
  constructor(onNews, onAgain) {
    this.#onNews = onNews;
    this.#onAgain = onAgain;
    document.getElementById("calls-clear").onclick = () => {
      this.#hidden = this.#last;
      this.#forget();
    };
    this.#filter.onchange = this.#own.onchange = () => this.#show();
    addEventListener("hashchange", () => this.#follow());
  }

  /** Polls for calls, and polls faster while a call is in flight. */
  async follow() {
    for (;;) {
      if (!document.hidden) await this.poll();
      const works = [...this.#groups.values()].some(({ isUnderWay }) => isUnderWay);
      const busy = works && performance.now() - this.#newsAt < QUIET_MS;
      await new Promise((resolve) => setTimeout(resolve, busy ? SOON_MS : LATER_MS));
    }
  }

  /** Assigns all calls from now on to this action, until it ends. Returns its id. */
  async begin(title) {
    const id = await localStack.beginAction(title, "user");
    this.#newsAt = performance.now();
    return id;
  }

  /** Ends an action, and returns its calls. */
  async end(id) {
    await localStack.endAction(id);
    await this.poll();
    const group = this.#groups.get(id);
    if (group) this.#said.textContent = group.summary;
    return group?.calls ?? [];
  }

  /** Runs one poll at a time: two would show the same calls twice. */
  poll() {
    this.#polling ??= this.#look().finally(() => { this.#polling = null; });
    return this.#polling;
  }

  async #look() {
    try {
      let { actions, calls, last } = await localStack.calls(this.#last);
      if (last < this.#last) {
        // the server has restarted
        this.#hidden = 0;
        this.#forget();
        ({ actions, calls, last } = await localStack.calls(0));
      }
      const isFirst = this.#last === 0;
      this.#last = last;
      const isShown = ({ id }) => id > this.#hidden;
      for (const action of actions.filter(isShown)) this.#add(action.id, new Group(action, this.#onAgain));
      this.#take(calls.filter(isShown));
      if (calls.length > 0) {
        this.#newsAt = performance.now();
        this.#onNews();
      }
      if (isFirst) this.#follow();
      this.#say("live", true);
    } catch {
      this.#say("The local program does not answer.", false);
    }
  }

  #take(calls) {
    const changed = new Map();
    for (const call of calls) {
      const group = this.#groupOf(call);
      if (group) changed.set(group, [...(changed.get(group) ?? []), call]);
    }
    for (const [group, itsCalls] of changed) group.take(itsCalls);
    while (this.#groups.size > KEPT) this.#drop(this.#groups.keys().next().value);
    this.#show();
  }

  /** Calls that the page did not cause are grouped by their request. */
  #groupOf({ id, action, request, what, began }) {
    const key = action ?? request ?? id;
    if (key <= this.#hidden) return null;
    if (!this.#groups.has(key)) this.#add(key, new Group({ id: key, title: what, kind: "other", began }, this.#onAgain));
    return this.#groups.get(key);
  }

  #add(key, group) {
    if (group.kind !== "console") for (const other of this.#groups.values()) other.fold();
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
    this.#show();
  }

  /** Applies the filter. */
  #show() {
    let shown = 0;
    for (const group of this.#groups.values()) {
      const isOwn = group.kind === "console" && !this.#own.checked;
      const isEmpty = group.kind !== "switch" && group.calls.length === 0;
      group.node.hidden = isOwn || isEmpty || !group.has(this.#filter.value);
      shown += group.node.hidden ? 0 : 1;
    }
    this.#empty.hidden = shown > 0;
    this.#list.hidden = shown === 0; // an empty list must not be announced
  }

  /** Opens the action that the address names. */
  #follow() {
    const group = this.#groups.get(Number(/^#action-(\d+)$/.exec(location.hash)?.[1]));
    if (!group) return;
    group.open();
    group.node.scrollIntoView();
  }

  #say(text, good) {
    if (this.#state.textContent === text) return; // a live region announces every change
    this.#state.textContent = text;
    this.#state.className = `badge ${good ? "good live" : "bad"}`;
  }
}
