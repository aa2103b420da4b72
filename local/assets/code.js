// The tab with the code of a page for the chosen widget: files of `web/examples`, as the README shows them.

const CODE = {
  connect: ["page.js", "Human API’s client opens the Connect widget. page.html loads it from npm’s humanapi-connect-client."],
  popup: ["popup-client.js", "clients.js loads connect.js for the popup, and Human API’s client for users who must connect again."],
  phone: ["mobile.md", "The app requests a popup session. Human API’s SDK posts the result to finishUrl. web/examples/mobile.md has each step."],
};

export class Code {
  #title = document.getElementById("code-title");
  #hint = document.getElementById("code-hint");
  #code = document.getElementById("code");

  constructor() {
    const tabs = ["app", "code"].map((name) => document.getElementById(`tab-${name}`));
    for (const [place, tab] of tabs.entries()) {
      tab.onclick = () => select(tab);
      tab.onkeydown = ({ key }) => {
        if (key !== "ArrowLeft" && key !== "ArrowRight") return;
        const other = tabs[1 - place];
        select(other);
        other.focus();
      };
    }
    const select = (chosen) => {
      for (const tab of tabs) {
        tab.setAttribute("aria-selected", String(tab === chosen));
        tab.tabIndex = tab === chosen ? 0 : -1;
        document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
      }
    };
    const copy = document.getElementById("code-copy");
    copy.onclick = async () => {
      await navigator.clipboard.writeText(this.#code.textContent);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 2000);
    };
  }

  async show(way) {
    const [file, hint] = CODE[way];
    this.#title.textContent = file;
    this.#hint.textContent = hint;
    const text = await fetch(`/assets/examples/${file}`).then((response) => response.text());
    // a document explains more: the tab has its first block of code
    this.#code.textContent = /^ *```http\n([^]*?)^ *```/m.exec(text)?.[1].replace(/^ {3}/gm, "") ?? text;
  }
}
