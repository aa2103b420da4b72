// The user of the app: a few made-up users, and any typed-in one.

const PRESETS = [
  { name: "Ada", id: "ada", email: "ada@example.test" },
  { name: "Grace (no e-mail)", id: "grace", email: null },
  { name: "Unusual id", id: "auth0|zoë+1 100%", email: "zoe@example.test" },
];
const REMEMBERED = "human-connect.user";

export class UserPicker {
  #form = document.getElementById("user-form");
  #id = document.getElementById("user-id");
  #email = document.getElementById("user-email");
  #name = document.getElementById("user-name");
  #mail = document.getElementById("user-mail");
  #initial = document.getElementById("user-initial");
  #other = document.getElementById("user-other");
  #chips = new Map();

  /** @param {(user: {id: string, email: string|null}) => void} onPick */
  constructor(onPick) {
    const presets = document.getElementById("user-presets");
    for (const preset of PRESETS) {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = "chip";
      chip.textContent = preset.name;
      chip.onclick = () => onPick({ id: preset.id, email: preset.email });
      this.#chips.set(preset, chip);
      presets.append(chip);
    }
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      onPick({ id: this.#id.value, email: this.#email.value || null });
    };
  }

  /** Returns the user of the last visit in this tab, or the first preset. */
  remembered() {
    try {
      return JSON.parse(sessionStorage.getItem(REMEMBERED)) ?? PRESETS[0];
    } catch {
      return PRESETS[0];
    }
  }

  show({ id, email }) {
    sessionStorage.setItem(REMEMBERED, JSON.stringify({ id, email }));
    this.#name.textContent = id;
    this.#mail.textContent = email ?? "no e-mail";
    this.#initial.textContent = [...id][0].toUpperCase();
    let known = false;
    for (const [preset, chip] of this.#chips) {
      const same = preset.id === id && preset.email === email;
      chip.setAttribute("aria-pressed", String(same));
      known ||= same;
    }
    if (known) {
      this.#form.reset();
    } else {
      this.#other.open = true;
      this.#id.value = id;
      this.#email.value = email ?? "";
    }
  }
}
