// The switches of the Human API stand-in.

import * as laptop from "./laptop.js";

export class StandIn {
  /**
   * @param {{singleUse: boolean, delayMs: number}} now
   * @param {(title: string, action: () => Promise<void>) => void} run does it, says so, shows what changed
   * @param {() => string} user whom the user's switches are about
   */
  constructor(now, run, user) {
    const singleUse = document.getElementById("single-use");
    singleUse.checked = now.singleUse;
    singleUse.onchange = () => {
      const on = singleUse.checked;
      run(on ? "Session tokens now work once." : "Session tokens may be used again.", () => laptop.standIn("single-use", { on }));
    };

    const delay = document.getElementById("delay");
    choose(delay, now.delayMs);
    delay.onchange = () => {
      const ms = Number(delay.value);
      run(ms ? `Human API now takes ${ms / 1000} s to answer.` : "Human API answers at once.", () => laptop.standIn("delay", { ms }));
    };

    press("rotate-secret", () => run("The client secret was rotated.", () => laptop.standIn("rotate-secret")));
    press("expire-tokens", () => run(`The tokens of ${user()} have expired.`, () => laptop.standIn("expire-tokens", { user: user() })));
    press("drop-user", () => run(`Human API has dropped ${user()}.`, () => laptop.standIn("drop-user", { user: user() })));
    press("lose", () => run(`The public token of ${user()} is lost.`, () => laptop.standIn("lose-public-token", { user: user() })));
  }
}

function choose(select, ms) {
  if (![...select.options].some((option) => Number(option.value) === ms)) select.add(new Option(`${ms / 1000} s`, ms));
  select.value = String(ms);
}

function press(id, action) {
  document.getElementById(id).onclick = action;
}
