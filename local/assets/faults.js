// Faults of the functions' calls. After each action, the page reads the connection, which is a call too. Setting a fault is
// therefore not followed by such a read, or the read would meet the fault.

import * as localStack from "./local-stack.js";

export class Faults {
  #choice = document.getElementById("fault");
  #state = document.getElementById("fault-state");
  #armed = document.getElementById("calls-fault"); // the same text beside the calls
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

  /** Shows the active faults. */
  async show() {
    try {
      const { active } = (await localStack.state()).faults;
      const say = ({ service, fault, once }) => `${once ? "the next call" : "every call"} of ${service}: ${fault}`;
      const words = `Active faults: ${active.map(say).join("; ")}.`;
      this.#state.textContent = active.length ? words : "No active fault.";
      this.#state.classList.toggle("bad", active.length > 0);
      this.#armed.textContent = words;
      this.#armed.hidden = active.length === 0;
    } catch {
      this.#state.textContent = "The active faults could not be read.";
    }
  }

  #set(once) {
    const option = this.#choice.selectedOptions[0];
    this.#do("fault", { service: option.dataset.service, fault: option.value, once });
  }

  async #do(action, details) {
    try {
      await localStack.standIn(action, details);
    } catch (error) {
      this.#failed(error);
    }
    await this.show();
  }
}
