// What goes wrong between the functions and what they call. The page's own look after each action is a call too: so
// setting a fault is followed by none, or it would be the one that meets it.

import * as laptop from "./laptop.js";

export class Faults {
  #choice = document.getElementById("fault");
  #state = document.getElementById("fault-state");
  #armed = document.getElementById("calls-fault"); // the same, where it will strike
  #failed;

  /**
   * @param {{services: {service: string, faults: string[]}[]}} faults
   * @param {(error: Error) => void} failed
   */
  constructor({ services }, failed) {
    this.#failed = failed;
    for (const { service, faults } of services) {
      const group = document.createElement("optgroup");
      group.label = service;
      for (const fault of faults) {
        const option = new Option(fault);
        option.dataset.service = service;
        group.append(option);
      }
      this.#choice.append(group);
    }
    this.#choice.selectedIndex = [...this.#choice.options].findIndex(({ value }) => value === "503");
    document.getElementById("fault-once").onclick = () => this.#set(true);
    document.getElementById("fault-always").onclick = () => this.#set(false);
    document.getElementById("fault-none").onclick = () => this.#do("no-faults");
    this.show();
  }

  /** Says what is to go wrong now. */
  async show() {
    try {
      const { active } = (await laptop.state()).faults;
      const say = ({ service, fault, once }) => `${once ? "the next call" : "every call"} of ${service}: ${fault}`;
      const words = `To go wrong: ${active.map(say).join("; ")}.`;
      this.#state.textContent = active.length ? words : "Nothing is to go wrong.";
      this.#state.classList.toggle("bad", active.length > 0);
      this.#armed.textContent = words;
      this.#armed.hidden = active.length === 0;
    } catch {
      this.#state.textContent = "What is to go wrong could not be read.";
    }
  }

  #set(once) {
    const option = this.#choice.selectedOptions[0];
    this.#do("fault", { service: option.dataset.service, fault: option.value, once });
  }

  async #do(action, details) {
    try {
      await laptop.standIn(action, details);
    } catch (error) {
      this.#failed(error);
    }
    await this.show();
  }
}
