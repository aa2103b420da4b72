// The progress line under the button: the steps that human-connect-backend.js reports.

const line = document.getElementById("progress");

const WORDS = {
  starting: () => "Requesting a session from the backend…",
  opened: ({ flow, mode }) => `The ${flow === "popup" ? "popup" : "Connect widget"} is open, in ${mode} mode.`,
  connected: () => "The widget reports a connected source.",
  disconnected: () => "The widget reports a disconnected source.",
  closed: () => "The widget was closed. Reading the connection…",
  finishing: () => "Reporting to the backend…",
  waiting: ({ seconds, code }) => `Not yet: ${code}. Next attempt in ${Math.ceil(seconds)} s.`,
  finished: () => "",
};

export function progress(step, detail) {
  line.textContent = WORDS[step]?.(detail) ?? "";
  line.classList.toggle("wait", step === "waiting");
}

export function clearProgress() {
  line.textContent = "";
}
