// Faults of the functions' calls. After each action, the page reads the connection, which is a call too. Setting a fault is
// therefore not followed by such a read, or the read would meet the fault.

import * as localStack from "./local-stack.js";

export class Faults {
  /** What each active fault does, such as “Human API answers 503 for every call”. */
  active = [];
  #choice = document.getElementById("fault");
  #state = document.getElementById("fault-state");
  #besideCalls = document.getElementById("calls-fault");
  #none = document.getElementById("fault-none");

  /**
   * @param {{stories: string[], faults: {service: string, fault: string, label: string}[]}} faults
   * @param {(action: () => Promise<object>) => void} flip
   */
  constructor({ stories, faults }, flip) {
    const list = document.getElementById("stories");
    for (const name of stories) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "chip";
      button.textContent = name;
      button.onclick = () => flip(() => localStack.simulate("story", { name }));
      list.append(button);
    }
    for (const { service, fault, label } of faults) {
      const option = new Option(label);
      Object.assign(option.dataset, { service, fault });
      this.#choice.append(option);
    }
    const set = (once) => () => flip(() => localStack.simulate("fault", { ...this.#choice.selectedOptions[0].dataset, once }));
    document.getElementById("fault-once").onclick = set(true);
    document.getElementById("fault-always").onclick = set(false);
    this.#none.onclick = () => flip(() => localStack.simulate("no-faults"));
    this.show();
  }

  /** Shows the active faults. */
  async show() {
    try {
      this.active = (await localStack.state()).faults.active;
      const words = this.active.length ? `${this.active.join(". ")}.` : "All services work.";
      this.#state.textContent = words;
      this.#state.classList.toggle("bad", this.active.length > 0);
      this.#besideCalls.textContent = words;
      this.#besideCalls.hidden = this.active.length === 0;
      this.#none.disabled = this.active.length === 0;
    } catch {
      this.#state.textContent = "The local program does not answer.";
    }
  }
}
