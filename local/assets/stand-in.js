// The switches of the Human API stand-in, and a button that runs the maintenance task `sweep`.

import * as localStack from "./local-stack.js";

export class StandIn {
  /**
   * @param {{singleUse: boolean, delayMs: number}} now
   * @param {(title: string, action: () => Promise<any>) => void} run runs the action. It reports the title and the returned text.
   * @param {() => string} user returns the user that the switches change
   */
  constructor(now, run, user) {
    const singleUse = document.getElementById("single-use");
    singleUse.checked = now.singleUse;
    singleUse.onchange = () => {
      const on = singleUse.checked;
      run(on ? "Session tokens now work once." : "Session tokens may be used again.", () => localStack.standIn("single-use", { on }));
    };

    const delay = document.getElementById("delay");
    choose(delay, now.delayMs);
    delay.onchange = () => {
      const ms = Number(delay.value);
      run(ms ? `Human API now takes ${ms / 1000} s to answer.` : "Human API answers at once.", () => localStack.standIn("delay", { ms }));
    };

    press("rotate-secret", () => run("The client secret was rotated.", () => localStack.standIn("rotate-secret")));
    press("expire-tokens", () => run(`The tokens of ${user()} have expired.`, () => localStack.standIn("expire-tokens", { user: user() })));
    press("drop-user", () => run(`Human API has dropped ${user()}.`, () => localStack.standIn("drop-user", { user: user() })));
    press("sweep", () => run("The task sweep has run.", async () => {
      const { resolved, failed, skipped, left } = await localStack.sweep();
      return `Resolved: ${resolved}, failed: ${failed}, skipped: ${skipped}, left unresolved: ${left}.`;
    }));
    press("lose", () => run(`The public token of ${user()} is lost.`, () => localStack.standIn("lose-public-token", { user: user() })));
  }
}

function choose(select, ms) {
  if (![...select.options].some((option) => Number(option.value) === ms)) select.add(new Option(`${ms / 1000} s`, ms));
  select.value = String(ms);
}

function press(id, action) {
  document.getElementById(id).onclick = action;
}
