import js from "@eslint/js"

// What the modules use of the browser, and no more: whatever else stands in none of them is a mistake
const BROWSER = [
  "AbortController", "AbortSignal", "Blob", "Bokeh", "CSSStyleSheet", "DOMParser", "Event", "KeyboardEvent", "MessageChannel",
  "MutationObserver", "URL", "WebSocket", "addEventListener", "clearTimeout", "console", "document", "fetch", "location",
  "queueMicrotask", "setTimeout", "window",
]
// dev.js is a script of its own
const OF_DEV = [
  "CSS", "EventSource", "ResizeObserver", "atob", "performance", "scrollTo", "scrollX", "scrollY",
  "sessionStorage",
]

const readonly = (...names) => Object.fromEntries(names.map((name) => [name, "readonly"]))

export default [
  js.configs.recommended,
  {
    files: ["bokeh_dyno/page/*.js"],
    languageOptions: {globals: readonly(...BROWSER)},
    // They are joined into one script: a name at the top of one must mean nothing else in any other. Two of a name are
    // a syntax error there, but for functions and var; and none may be one of the browser's that another module uses.
    rules: {
      "func-style": "error",
      "no-var": "error",
      "no-shadow": ["error", {builtinGlobals: true}],
    },
  },
  {files: ["bokeh_dyno/page/dev.js"], languageOptions: {globals: readonly(...OF_DEV)}},
  {
    files: ["tests/page/*.js"],
    languageOptions: {globals: readonly(...BROWSER, "EventTarget", "MessageEvent", "setImmediate")},
  },
]
