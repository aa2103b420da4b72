// The line under the button: the events of the browser client.

const line = document.getElementById("progress");

const WORDS = {
  starting: () => "The app requests a session from the backend…",
  opened: ({ flow, mode }) => `The ${flow === "popup" ? "popup" : "Connect widget"} is open, in ${mode} mode.`,
  "source-connected": () => "The widget reports a connected source.",
  "source-disconnected": () => "The widget reports a disconnected source.",
  closed: () => "The widget was closed. The app reads the connection…",
  finishing: () => "The app posts the widget’s result to the backend…",
  waiting: ({ seconds, code }) => `The backend answered “${code}”. The app tries again in ${Math.ceil(seconds)} s.`,
};

/** @param {{type: string}} event */
export function progress(event) {
  line.textContent = WORDS[event.type]?.(event) ?? "";
  line.classList.toggle("wait", event.type === "waiting");
}

export function clearProgress() {
  line.textContent = "";
}
