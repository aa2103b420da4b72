// A page in TypeScript. It must compile, and the lines with `@ts-expect-error` must not.

import { createHumanConnect, HumanConnectError, type Connection, type ErrorCode, type HumanConnectEvent } from "human-connect";
import { useHumanConnect } from "human-connect/react";

const settings = { api: "https://api.example.test", getToken: async (refresh: boolean) => (refresh ? "new" : "old") };

function text(event: HumanConnectEvent): string {
  switch (event.type) {
    case "opened": return `${event.flow} ${event.mode}`;
    case "waiting": return `${event.seconds.toFixed()} ${event.code}`;
    case "finished": return event.connection.sources.map(({ name }) => name).join();
    case "source-connected":
    case "source-disconnected": return String(event.report);
    case "starting":
    case "closed":
    case "finishing": return "";
  }
  const none: never = event;
  return none;
}

const code: ErrorCode = "finish_in_progress";
// @ts-expect-error no such code
const other: ErrorCode = "made_up";

export async function page(signal: AbortSignal): Promise<Connection | null> {
  const backend = createHumanConnect({ ...settings, onEvent: (event) => console.log(text(event), code, other) });
  // @ts-expect-error no such generation
  await backend.connect({ flow: "made-up" });
  const session = await backend.getSession({ flow: "popup", signal });
  if (session.flow === "popup") console.log(session.finishUrl);
  else console.log(session.token, session.expiresIn);
  try {
    return await backend.connect({ flow: "connect", signal, widget: { segment: "a", enableFocusTrap: true } });
  } catch (error) {
    if (error instanceof HumanConnectError && error.code === "user_changed") return null;
    throw error;
  }
}

export function Component() {
  const { connect, connection, status } = useHumanConnect({ ...settings, user: "ada" });
  if (status === "connecting") return null;
  // @ts-expect-error no such status
  if (status === "made-up") return null;
  return connection?.connected ? connection.humanId : connect({ flow: "connect" });
}
