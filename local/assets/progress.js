// How far connecting is, in a line under the button: the steps that the backend's client tells of.

const line = document.getElementById("progress");

const WORDS = {
  starting: () => "Asking the backend what opens the widget…",
  opened: ({ flow, mode }) => `The ${flow === "popup" ? "popup" : "Connect widget"} is open, in ${mode} mode.`,
  connected: () => "The widget says that a source was connected.",
  disconnected: () => "The widget says that a source was disconnected.",
  closed: () => "The widget was closed. Looking at what is connected…",
  finishing: () => "Telling the backend…",
  waiting: ({ seconds, code }) => `Not yet: ${code}. Once more in ${Math.ceil(seconds)} s.`,
  finished: () => "",
};

export function progress(step, detail) {
  line.textContent = WORDS[step]?.(detail) ?? "";
  line.classList.toggle("wait", step === "waiting");
}

export function clearProgress() {
  line.textContent = "";
}
