// Simulates an old browser for tests: removes features that Chrome 80, Safari 13.1 or Firefox 74 lacks.

/**
 * Deletes the newer features of this global object, except the kept ones. Returns a function that restores the features.
 * Playwright sends the text of this function to a page, so the function uses nothing from outside.
 */
export function takeNewerFeatures(scope, kept = []) {
  const newer = {
    AbortSignal: ["abort", "any", "timeout"],
    "AbortSignal.prototype": ["reason", "throwIfAborted"],
    "Array.prototype": ["at", "findLast", "findLastIndex", "toReversed", "toSorted", "toSpliced", "with"],
    Array: ["fromAsync"],
    Object: ["groupBy", "hasOwn"],
    Promise: ["any", "try", "withResolvers"],
    Response: ["json"],
    "Response.prototype": ["bytes"],
    "String.prototype": ["at", "replaceAll"],
    URL: ["canParse", "parse"],
    crypto: ["randomUUID"],
    "Crypto.prototype": ["randomUUID"],
    "": ["AggregateError", "FinalizationRegistry", "WeakRef", "navigation", "scheduler", "structuredClone"],
  };
  const removed = [];
  for (const [path, names] of Object.entries(newer)) {
    const object = path.split(".").reduce((found, name) => (name ? found?.[name] : found), scope);
    for (const name of names) {
      const described = object && Object.getOwnPropertyDescriptor(object, name);
      if (!kept.includes(name) && described?.configurable && delete object[name]) removed.push([object, name, described]);
    }
  }
  return () => removed.forEach(([object, name, described]) => Object.defineProperty(object, name, described));
}
