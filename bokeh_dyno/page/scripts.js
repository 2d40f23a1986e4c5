// The scripts and the parts of BokehJS that documents need: which a message waits for, and loading them.

// The class of a model by its name, null when no bundle that is there has it
/** @type {(name: string) => any} */
export const model_class = (name) => {
  try {
    return Bokeh.Models.get(name)
  } catch {
    return null
  }
}

// A page in <iframe srcdoc> has no address of its own, and cannot be asked for again
export const page_url = () => location.host ? location.href : document.baseURI
/** @type {(path: string) => string} */
export const address = (path) => new URL(path, page_url()).href

// The tag of this script: it has the nonce of the page, which other scripts need, too, and how much may be sent
const tag = /** @type {HTMLScriptElement | null} */ (globalThis.document?.currentScript)
const nonce = tag?.nonce ?? ""
export const MAX_UPLOAD = Number(tag?.dataset.maxUpload ?? Infinity) // bytes

// Addresses of the scripts that the browser ran because they are in the page. Others may be in it later: of a fragment
// that came as text, they do not run.
/** @type {Set<string>} */
export const page_scripts = new Set()

// The bundles that the apps did not need when the site started, attributes of their script tags by address
/** @type {Map<string, Script>} */
export const deferred = new Map()

// Those of them that a message needs. An app may add a table or a formula at any time, or show other things to others.
/** @type {(message: any) => Script[]} */
export const bundles_for = (message) => {
  if (deferred.size == 0 || typeof message != "string") return []
  const models = [...message.matchAll(/"type":\s*"object",\s*"name":\s*"([^"]+)"/g)].map((match) => match[1])
  const unknown = models.some((name) => model_class(name) == null)
  return [...deferred.values()].filter(({src}) => {
    if (src.includes("/bokeh-gl")) return message.includes('"webgl"')
    if (src.includes("/bokeh-mathjax")) return /\$\$|\\\\[([]|"(TeX|MathML|Ascii)/.test(message)
    return unknown
  })
}

// Load scripts, in their order; return whether all are there. What failed is loaded anew for whoever asks next.
/** @type {Map<string, Promise<boolean>>} */
export const loading = new Map()
/** @type {(scripts: Script[]) => Promise<boolean>} */
export const load = async (scripts) => {
  let all = true
  for (const attributes of scripts) {
    const src = address(attributes.src)
    if (loading.has(src)) continue // for another app
    const script = document.createElement("script")
    script.async = false
    for (const [name, value] of Object.entries(attributes)) script.setAttribute(name, value)
    if (nonce) script.nonce = nonce
    loading.set(src, new Promise((done) => {
      script.onload = () => done(true)
      script.onerror = () => done(false)
    }))
    document.head.append(script)
  }
  for (const src of scripts.map((script) => address(script.src))) {
    if (await loading.get(src)) {
      deferred.delete(src)
    } else {
      loading.delete(src)
      all = false
    }
  }
  // BokehJS looks for MathJax once, when it makes the first widget
  try {
    const math = window.Bokeh?.index?.query_one((view) => view.provider != null)?.provider
    if (math?.status == "failed") await math.fetch()
  } catch (error) {
    console.error("bokeh-dyno: formulas stay as they are:", error)
  }
  return all
}

// The script that makes documents readable, in a second: they are drawn without it
export const load_reading = () => {
  const src = tag?.dataset.reading
  if (src) setTimeout(load, 1000, [{src}]) // not where somebody's own code has loaded this one
}
