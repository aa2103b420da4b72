// A React hook for human-connect.js. Its types are in react.d.ts.

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { createHumanConnect } from "./human-connect.js";

/** @type {import("./react.d.ts").useHumanConnect} */
export function useHumanConnect({ api, user, getToken, loadClient, onEvent }) {
  const [state, setState] = useState({});
  // An answer shows only if no later call has begun, and only to the user for whom it is.
  const latest = useRef(0);
  const callbacks = useRef({});
  useEffect(() => {
    callbacks.current = { getToken, loadClient, onEvent };
  });

  const backend = useMemo(() => {
    const load = (flow) => (callbacks.current.loadClient ?? (() => globalThis.HumanConnect))(flow);
    return createHumanConnect({
      api,
      getToken: (refresh) => callbacks.current.getToken(refresh),
      loadClient: load,
      onEvent: (event) => callbacks.current.onEvent?.(event),
    });
  }, [api]);

  const run = useCallback(
    async (status, work) => {
      const mine = (latest.current += 1);
      const show = (more) => mine === latest.current && setState((before) => ({ connection: before.connection, user, ...more }));
      show({ status });
      try {
        const connection = await work();
        show({ status: "ready", connection });
        return connection;
      } catch (error) {
        show({ status: "failed", error });
        return null;
      }
    },
    [user],
  );

  useEffect(() => {
    setState({ user });
    // finishes a session that a reload interrupted, or waits for an open widget; otherwise reads the connection
    if (user != null) run("loading", async () => (await backend.resume()) ?? backend.getConnection());
    return () => void (latest.current += 1);
  }, [backend, run, user]);

  const connect = useCallback((options) => run("connecting", () => backend.connect(options)), [backend, run]);
  const { connection, status = "loading", error } = state.user === user ? state : {};
  return { connect, connection, status: user == null ? "signed-out" : status, error };
}
