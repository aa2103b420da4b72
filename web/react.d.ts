import type { Connection, HumanConnect, Settings } from "./human-connect.js";

/**
 * - `signed-out`: `user` is null or undefined.
 * - `loading`: the connection is being read, or an interrupted session is being finished.
 * - `ready`: `connection` is the newest.
 * - `connecting`: the widget is about to open, is open, or its result is being posted.
 * - `failed`: `error` says why. `connection` is what was known before.
 */
export type Status = "signed-out" | "loading" | "ready" | "connecting" | "failed";

/**
 * Reads the connection of the signed-in user, and reads it again for each new `user`. The hook never shows one user's connection to
 * another. It works under StrictMode and in server-side rendering, where its status is `loading`.
 */
export function useHumanConnect(
  settings: Settings & {
    /** Any value that changes with the signed-in user, for example the user's id; null if nobody is signed in. */
    user: string | number | null | undefined;
  },
): {
  /** Opens the widget. Resolves with the connection, or with null if the call has failed; `error` then says why. */
  connect(options?: Parameters<HumanConnect["connect"]>[0]): Promise<Connection | null>;
  connection: Connection | undefined;
  status: Status;
  error: unknown;
};
