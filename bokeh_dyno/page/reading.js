// What screen readers and the keyboard get of documents: names and roles where BokehJS gives none, and the data of plots as
// tables. A script of its own, reading.js, that page.js loads when there is something to read. It goes by the elements of
// BokehJS 3.9 and 3.10; what of them has another name one day is as it would be without this (tests/test_reading.py has
// them all). What an app says itself, html_attributes={"aria-label": …} of any of its models, stands.

const MOST_ROWS = 200
const AFTER = 200 // ms that changes of a document are collected for

/** @type {(el: Element, name: string, value: any) => void} */
const set = (el, name, value) => {
  if (value == null) el.removeAttribute(name)
  else if (el.getAttribute(name) != value) el.setAttribute(name, value)
}

// Give an element a name, unless somebody else has
const named = new WeakSet()
/** @type {(el: Element, name: string) => void} */
const call = (el, name) => {
  if (!name || !named.has(el) && ![null, "null"].includes(el.getAttribute("aria-label"))) return // MultiChoice has "null"
  named.add(el)
  set(el, "aria-label", name)
}

const keyed = new WeakSet()
/** @type {(el: HTMLElement, keys: Record<string, () => void>) => void} */
const on_keys = (el, keys) => {
  if (keyed.has(el)) return
  keyed.add(el)
  el.addEventListener("keydown", (event) => {
    if (event.target != el || !event.isTrusted || keys[event.key] == null) return
    event.preventDefault()
    event.stopImmediatePropagation()
    keys[event.key]()
  }, true)
}
/** @type {(el: Element, key: string, type?: string) => void} */
const press = (el, key, type = "keydown") => void el.dispatchEvent(new KeyboardEvent(type, {key, bubbles: true}))

// DateRangeSlider: Date range slider
/** @type {(name: string) => string} */
const words = (name) => name.charAt(0) + name.slice(1).replace(/[A-Z_]/g, " $&").replace("_", "").toLowerCase()

// What a slider's handle stands at, as it is shown beside it
/** @type {(handle: any) => void} */
const speak = (handle) => {
  const shown = handle.querySelector(".noUi-tooltip")
  if (shown != null) set(handle, "aria-valuetext", shown.textContent)
}

const ROLES = {
  ".bk-toggle": "button", ".bk-knob": "switch", ".bk-value-input": "button", ".bk-item": "button",
  ".bk-headers-wrapper": "tablist", ".bk-tab": "tab",
  ".bk-data-table": "group", ".slick-header": "table", ".slick-header-columns": "row", ".slick-header-column": "columnheader",
  ".slick-viewport": "grid", ".slick-row": "row", ".slick-cell": "gridcell",
}

// Name what is in the shadow root of one element of BokehJS.
/** @type {(root: ShadowRoot) => void} */
const name_parts = (root) => {
  const host = /** @type {HTMLElement} */ (root.host)
  const type = [...host.classList].find((name) => /^bk-[A-Z]/.test(name))?.slice(3) ?? ""
  const given = host.getAttribute("aria-label")
  if (given != null && host.role == null && !/Figure|Plot/.test(type)) host.role = "group"
  /** @type {any} */
  const label = root.querySelector(".bk-slider-title, label[for], .bk-label")?.cloneNode(true)
  label?.querySelector(".bk-slider-value")?.remove()
  const shown = label?.textContent.trim().replace(/:$/, "")
  // what a cell of a table is edited with
  const column = Number(/ l(\d+) /.exec(host.closest(".slick-cell")?.className ?? "")?.[1])
  const head = /** @type {ShadowRoot} */ (host.getRootNode()).querySelectorAll(".slick-header-column")[column]?.textContent
  const name = given || shown || head || words(type).replace(/ (input|button|picker)$/, "")
  /** @type {(selector: string, change: (el: any, number: number, all: NodeListOf<any>) => void) => void} */
  const each = (selector, change) => root.querySelectorAll(selector).forEach(change)
  /** @type {(el: Element) => boolean} */
  const active = (el) => el.classList.contains("bk-active")

  for (const [selector, role] of Object.entries(ROLES)) each(selector, (el) => el.role = role)
  each(".noUi-handle", (handle, number, {length}) => {
    call(handle, length > 1 ? `${name}, ${number == 0 ? "from" : "to"}` : name)
    speak(handle)
  })
  each("input, select, textarea, .choices", (input) => {
    if (input.type != "hidden" && ![...input.labels ?? []].some((one) => one.textContent.trim())) call(input, name)
    if (input.type == "search") set(input, "role", null)
    set(input, "aria-description", root.querySelector(".bk-description")?.getAttribute("title"))
  })
  each("button", (button) => {
    const {classList} = button
    if (button.textContent.trim() == "") {
      call(button, (/-(up|down)$/.exec(button.className)?.[1].replace("up", "Increase ").replace("down", "Decrease ") ?? "") + name)
    }
    if (classList.contains("bk-btn") && /Toggle|Group/.test(type)) set(button, "aria-pressed", active(button))
  })
  each(".bk-toggle", (eye) => { // of a password
    eye.tabIndex = 0
    call(eye, `Show ${name}`)
    set(eye, "aria-pressed", eye.classList.contains("bk-visible"))
    on_keys(eye, {Enter: () => eye.click(), " ": () => eye.click()})
  })
  each(".bk-knob", (knob) => { // what has the focus is the switch
    set(knob, "aria-checked", active(host))
    call(knob, name)
    set(host, "role", null)
    set(host, "aria-checked", null)
  })
  if (type == "Progress") {
    host.role = "progressbar"
    call(host, "Progress")
    set(host, "aria-valuetext", shown)
  }
  // MultiChoice has states where there are none to have, and no tie to its list
  each(".choices", (choices) => {
    const list = root.querySelector("[role=listbox]")
    if (list != null) set(choices, "aria-controls", list.id ||= "list")
  })
  each(".choices__list--multiple [aria-selected], .choices__list[aria-expanded]", (one) => {
    for (const state of ["selected", "expanded"]) set(one, `aria-${state}`, null)
  })
  each(".bk-value-input", (palette) => {
    call(palette, `${name}: ${palette.textContent}`)
    on_keys(palette, {" ": () => press(palette, "Enter", "keyup")})
  })
  each(".bk-tab", (tab) => {
    set(tab, "aria-selected", active(tab))
    on_keys(tab, {
      Enter: () => tab.click(), " ": () => tab.click(), Delete: () => tab.querySelector(".bk-close")?.click(),
    })
  })

  // A table's headers are beside its rows, with parts between that can have the focus
  each(".slick-viewport", (body) => call(body, "Table"))
  each(".slick-pane, .grid-canvas", (part) => set(part, "tabindex", null))

  // Tools: BokehJS has Enter for them, and the space bar for their menus
  if (type == "Toolbar") {
    host.role = "toolbar"
    call(host, "Plot tools")
  }
  each("[class*=Button][title], .bk-tool-overflow, div[title][tabindex]", (tool) => {
    tool.role = "button"
    call(tool, tool.title || "More tools")
    if (tool.matches(".bk-OnOffButton")) set(tool, "aria-pressed", active(tool))
    on_keys(tool, {" ": () => press(tool, "Enter"), ArrowDown: () => press(tool, " ")})
    // a screen reader's click has no pointer, which is what BokehJS listens to
    tool.onclick ??= (/** @type {MouseEvent} */ {detail}) => {
      if (detail == 0 && tool.matches("[class*=Button]")) press(tool, "Enter")
    }
  })
}

// The models of a document, its plots and tables among them
/** @type {(doc: Doc) => any[]} */
const models = (doc) => [...new Set(doc.roots().flatMap((root) => [...root.references()]))]
/** @type {(model: any) => boolean} */
const is_plot = ({renderers, x_range}) => renderers != null && x_range != null
/** @type {(text: any) => string} */
const plain = (text) => `${text?.text ?? text ?? ""}`
/** @type {(plot: any, sides: string[]) => any} */
const axis = (plot, sides) => sides.flatMap((side) => plot[side] ?? []).find((one) => one.axis_label !== undefined)

// What a plot is called: by its title and what its author says of it, or by its axes
/** @type {(plot: any, said: string) => string} */
const name_of = (plot, said) => {
  const [y, x] = [["left", "right"], ["below", "above"]].map((sides) => plain(axis(plot, sides)?.axis_label))
  return [...new Set([plain(plot.title), said])].filter((part) => part).join(": ") || [y, x].filter((part) => part).join(" over ")
}

/** @type {(tag: string, properties: Record<string, any>, ...children: any[]) => any} */
const make = (tag, properties, ...children) => {
  const el = Object.assign(document.createElement(tag), properties)
  el.append(...children)
  return el
}

// --- the data -----------------------------------------------------------------------------------------------------------

/** @type {(value: any, is_time: boolean) => string} */
const cell = (value, is_time) => {
  if (value == null || Number.isNaN(value)) return ""
  if (typeof value == "number") {
    if (is_time) return new Date(value).toISOString().slice(0, 19).replace("T", " ").replace(/( 00:00)?:00$/, "")
    return `${Number.isInteger(value) ? value : Number(value.toPrecision(6))}`
  }
  if (typeof value == "string" || value.length == null) return `${value}`
  return typeof value[0] == "string" ? value.join(", ") : `${value.length} values`
}

// The columns of the sources that a plot shows, or a table: Map from a source to its columns by their names there
/** @type {(shown: any) => Map<any, Map<string, {label: string, own: string, is_time: boolean}>>} */
const columns = (shown) => {
  const found = new Map()
  /** @type {(source: any, field: string, label: string, own: string, is_time: boolean) => void} */
  const add = (source, field, label, own, is_time) => {
    if (source?.data?.[field] == null) return
    if (!found.has(source)) found.set(source, new Map())
    if (!found.get(source).has(field)) found.get(source).set(field, {label: label || own, own, is_time})
  }
  for (const {field, title: head, formatter} of shown.columns ?? []) {
    add(shown.source, field, head ?? field, field, /Date/.test(formatter?.type))
  }
  for (const renderer of shown.renderers ?? []) {
    const {glyph, data_source, visible} = renderer
    if (glyph == null || !visible) continue
    const item = [...shown.center, ...shown.right, ...shown.below, ...shown.left, ...shown.above].flatMap(({items}) => items ?? [])
      .find(({renderers}) => renderers?.includes(renderer))
    for (const [name, property] of Object.entries(glyph.properties)) {
      const value = /** @type {any} */ (property).get_value()
      if (value?.transform == null && /color|alpha|line|hatch|text_/.test(name)) continue // its looks
      const is_x = /^(x|left|right)/.test(name), is_y = /^(y|top|bottom)/.test(name)
      const its = axis(shown, is_x ? ["below", "above"] : is_y ? ["left", "right"] : [])
      for (const field of [value?.field ?? value?.expr?.fields ?? []].flat()) {
        add(data_source, field, plain(its?.axis_label), !is_x && plain(item?.label?.value) || field, /Date/.test(its?.type))
      }
    }
  }
  return found
}

// What is in a table: its caption, its head and its rows, as text
/** @type {(model: any, said: string) => {caption: string, head: string[], rows: string[][]}[]} */
const tables = (model, said) => [...columns(model)].map(([{data}, of_source]) => {
  const all = [...of_source.values()]
  const length = Math.max(...[...of_source.keys()].map((field) => data[field].length))
  const count = Math.min(length, MOST_ROWS)
  const rows = Array.from({length: count}, (_, number) => {
    const at = count < length ? Math.round(number * (length - 1) / (count - 1)) : number
    return [...of_source].map(([field, {is_time}]) => cell(data[field][at], is_time))
  })
  const head = all.map(({label, own}) => all.filter((other) => other.label == label).length > 1 ? `${label}: ${own}` : label)
  const few = count < length ? `${count} of ${length.toLocaleString("en")} rows, evenly spread` : `${length} ${length == 1 ? "row" : "rows"}`
  return {caption: [name_of(model, said), few].filter((part) => part).join(", "), head, rows}
})

// Fill the panel; cells that there are already get other text only, so that whoever reads them is not thrown out.
/** @type {(panel: any, all: ReturnType<typeof tables>) => void} */
const fill = (panel, all) => {
  const shape = JSON.stringify(all.map(({head, rows}) => [head, rows.length]))
  const texts = all.flatMap(({caption, rows}) => [caption, ...rows.flat()])
  if (panel.dataset.shape != shape) {
    panel.dataset.shape = shape
    panel.replaceChildren(...all.map(({head, rows}) => make("table", {},
      make("caption", {}),
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", {scope: "col"}, text)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(() => make("td", {}))))),
    )), ...all.length > 0 ? [] : ["No data so far"])
  }
  panel.querySelectorAll("caption, td").forEach((/** @type {Element} */ one, /** @type {number} */ number) => {
    if (one.textContent != texts[number]) one.textContent = texts[number]
  })
}

// Of next to no weight: what the site says of .bokeh-data has more. Not seen until the keyboard is there, as a link to skip to
// the content is.
const STYLE = [
  "{position:absolute;z-index:1;color:var(--plot-text,CanvasText);font:14px/20px var(--plot-font,system-ui,sans-serif)}",
  ":where(:not(:focus-within,.open)){width:1px;height:1px;margin-top:-1px;overflow:hidden;clip-path:inset(50%)}",
  ":where(.open){position:static;margin-top:12px}",
  " :where(button,div){border:1px solid var(--plot-line,#888);border-radius:4px;color:inherit;background:var(--plot-ground,Canvas)}",
  " button{padding:4px 12px;font:inherit;font-weight:400;white-space:nowrap;cursor:pointer}",
  " div{width:fit-content;max-width:100%;max-height:60vh;margin-top:8px;overflow:auto;box-sizing:border-box}",
  " table{min-width:36ch;margin:12px;border-collapse:collapse}",
  " caption{padding-bottom:4px;text-align:start;font-weight:600}",
  " td{white-space:nowrap}",
  " :where(td,th){padding:2px 24px 2px 0;text-align:start;font-variant-numeric:tabular-nums}",
].map((rule) => `:where(.bokeh-data)${rule}`).join("")
const sheet = new CSSStyleSheet()


// Keeps the documents of a place readable: whatever they become is named, and their data are a table for whoever opens it.
class Reader {
  /** @param {HTMLElement} element of an app, or the script of its own page, or around a static plot */
  constructor(element) {
    this.element = element
    this.open = false
    /** @type {Set<Doc>} */
    this.docs = new Set()
    /** @type {number | undefined} */
    this.timer = undefined
    this.observed = new WeakSet()
    this.observer = new MutationObserver((records) => {
      for (const {attributeName, target} of records) if (attributeName == "aria-valuetext") speak(target)
      if (records.some(({target}) => target.nodeName != "STYLE")) this.soon() // as at each drawing
    })
  }

  /** @param {Doc} doc */
  follow(doc) {
    this.docs.add(doc)
    doc.on_change(({model}) => { // not at each point of a stream, or of a zoom
      if (this.open || !/Source|View|Range|Selection/.test(model?.type)) this.soon()
    })
    this.read()
  }

  soon() {
    this.timer ??= setTimeout(() => this.read(), AFTER)
  }

  // Read the documents that there are: two, while one takes the place of another.
  read() {
    this.timer = undefined
    for (const doc of this.docs) if (!Bokeh.documents.includes(doc)) this.docs.delete(doc)
    try {
      let last
      for (const doc of this.docs) {
        const places = places_of(doc)
        for (const place of places) this.walk(place)
        this.name_plots(doc)
        if (places.length > 0) last = {doc, places}
      }
      if (last != null) this.show_data(last.doc, last.places)
    } catch (error) { // the plot is there all the same
      console.error("bokeh-dyno: a screen reader finds less than it could:", error)
    }
  }

  // Name what is in an element, or in a shadow root, and in all of those that are in it.
  /** @param {any} root */
  walk(root) {
    if (!this.observed.has(root)) {
      this.observed.add(root)
      this.observer.observe(root, {childList: true, subtree: true, attributeFilter: ["class", "aria-valuetext"]})
    }
    if (root.host != null) name_parts(root)
    for (const {shadowRoot} of root.querySelectorAll("*")) if (shadowRoot != null) this.walk(shadowRoot)
  }

  // What the author says of a plot; or of the app, when that is its only one
  /** @param {any} plot @param {number} count */
  said(plot, count) {
    const attributes = plot.html_attributes ?? {}
    const of_plot = attributes.get?.("aria-label") ?? attributes["aria-label"]
    return of_plot ?? (count == 1 && this.element.dataset.bokehAlt || "")
  }

  // A plot is a picture with a name. What can have the focus lies over it, with its toolbar inside: that is no picture.
  /** @param {Doc} doc */
  name_plots(doc) {
    const plots = models(doc).filter(is_plot)
    for (const plot of plots) {
      const el = doc.views_manager.find_one(plot)?.el
      const parts = el?.shadowRoot?.querySelector(".bk-Canvas")?.shadowRoot?.querySelectorAll("canvas, .bk-events") ?? []
      for (const [number, part] of parts.entries()) {
        if (number == 0) {
          set(el, "aria-label", null)
          part.role = "img"
          set(part, "aria-label", name_of(plot, this.said(plot, plots.length)) || this.called())
        } else if (part.tagName == "CANVAS") {
          set(part, "aria-hidden", true)
        } else {
          part.role = "group"
          set(part, "aria-label", "Plot")
        }
      }
    }
  }

  called() {
    return this.element.getAttribute("aria-label") || document.title
  }

  // The button behind the plots, and behind that the table while it is open
  /** @param {Doc} doc @param {HTMLElement[]} places */
  show_data(doc, places) {
    const shown = models(doc).filter((model) => is_plot(model) || model.columns != null && model.source != null)
    if (this.data == null && shown.length > 0) this.make_data(places)
    if (this.data != null) this.data.hidden = shown.length == 0
    if (this.open) fill(this.panel, shown.flatMap((model) => tables(model, this.said(model, shown.length))))
  }

  /** @param {HTMLElement[]} places */
  make_data(places) {
    if (!document.adoptedStyleSheets.includes(sheet)) {
      sheet.replaceSync(STYLE)
      document.adoptedStyleSheets.push(sheet)
    }
    this.button = make("button", {type: "button", ariaExpanded: "false", onclick: () => this.toggle(!this.open)}, "Data as a table")
    this.panel = make("div", {role: "region", ariaLabel: `Data: ${this.called()}`, tabIndex: 0})
    this.data = make("section", {className: "bokeh-data"}, this.button)
    this.data.onkeydown = (/** @type {KeyboardEvent} */ {key}) => {
      if (key == "Escape" && this.open) this.toggle(false)
    }
    places.at(-1)?.after(this.data)
  }

  /** @param {boolean} open */
  toggle(open) {
    this.open = open
    this.button.ariaExpanded = `${open}`
    this.data.classList.toggle("open", open)
    if (open) {
      this.data.append(this.panel)
      this.read()
      this.panel.focus()
    } else {
      this.panel.remove()
      this.button.focus()
    }
  }
}

// The elements that a document's roots are in
/** @type {(doc: Doc) => any[]} */
const places_of = (doc) => [...doc.views_manager ?? []].flatMap(({el}) => el?.parentElement ?? [])

/** @type {WeakSet<Doc>} */
const known = new WeakSet()
/** @type {WeakMap<Element, Reader>} */
const readers = new WeakMap()
const find_documents = () => {
  for (const doc of window.Bokeh?.documents ?? []) {
    const place = known.has(doc) ? null : places_of(doc)[0]
    if (place == null) continue
    known.add(doc)
    const element = place.closest("[data-bokeh-app]") ?? document.querySelector("script[data-bokeh-token]") ?? place
    if (!readers.has(element)) readers.set(element, new Reader(element))
    readers.get(element)?.follow(doc)
  }
}
find_documents()
new MutationObserver(find_documents).observe(document, {childList: true, subtree: true})
