// The values of widgets: what a visitor has entered in a document, and the same in the document that takes its place.
import {model_class} from "./scripts.js"

export const MAX_LOSSES = 2 // connections that were lost after a value was sent: it is not entered again
// what a visitor enters, in any widget; value_throttled and value_input are what some apps listen to instead of value;
// the last two are a table's: of its Selection and, when it is editable, of its source
export const INPUTS = [
  "value", "value_throttled", "value_input", "active", "color", "filename", "mime_type", "indices", "data",
]

// The visitor's widgets of a document: Map from a key that outlives a deploy (what it is called, and which of those)
// to the model. Ids would not do: they are numbered anew when the app has one model more.
/** @type {(model: Model) => string} */
const title = (model) => model.title?.text ?? model.title ?? model.label ?? ""
/** @type {(doc: Doc) => Map<string, any>} */
export const widgets = (doc) => {
  const Widget = model_class("Widget") ?? class {} // not there when no app of the page has one
  const found = new Map()
  // all_models has those that are gone, too, until BokehJS looks for them: 30 s after the last change
  for (const model of new Set(doc.roots().flatMap((root) => [...root.references()]))) {
    if (!(model instanceof Widget || model.type == "Tabs")) continue
    const called = `${model.type} ${model.name ?? ""} ${title(model)}`
    let number = 0
    while (found.has(`${called} ${number}`)) number += 1
    const key = `${called} ${number}`
    found.set(key, model)
    if (model.editable) found.set(`${key} data`, model.source)
    if (model.source?.selected != null) found.set(`${key} rows`, model.source.selected)
  }
  return found
}

/** @type {(model: Model) => any} */
const labels = (model) => model.labels ?? model.tabs?.map((tab) => tab.title)
/** @type {(value: any, change: (one: any) => any) => any} */
const map_each = (value, change) => Array.isArray(value) ? value.map(change) : change(value)

// What a widget holds, by property; what is chosen of a group by its label, for a deploy may change their order
/** @type {(model: Model, names?: string[]) => Values} */
export const entered = (model, names = INPUTS) => {
  /** @type {Values} */
  const values = {}
  for (const name of names) {
    const property = model.properties[name]
    if (property == null || property.is_unset) continue
    const value = property.get_value()
    const choices = name == "active" && labels(model)
    values[name] = choices ? map_each(value, (index) => choices[index] ?? null) : value
  }
  return values
}

/** @type {(values: Values) => Record<string, string>} */
export const as_json = (values) =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, JSON.stringify(value)]))
/** @type {(a: any, b: any) => boolean} */
const is_same = (a, b) => JSON.stringify(a) === JSON.stringify(b)

// The value as a widget of the new document takes it, without what it has no place for any more; undefined when that
// leaves nothing
/** @type {(model: Model, name: string, value: any) => any} */
export const fitting = (model, name, value) => {
  /** @type {any[] | null | undefined} */
  let allowed = null
  if (name == "active") allowed = labels(model)
  if (name == "value" && (model.options ?? model.categories) != null) {
    const options = model.options ?? model.categories
    allowed = (Array.isArray(options) ? options : Object.values(options).flat())
      .map((option) => Array.isArray(option) ? option[0] : option)
  }
  if (value == null) return value
  if (allowed != null) {
    const left = [value].flat().filter((one) => allowed.includes(one))
    if (left.length == 0 && value.length != 0) return undefined
    return Array.isArray(value) ? left : value
  }
  const low = model.start ?? model.low, high = model.end ?? model.high // dates of a picker are not compared
  /** @type {(one: any) => boolean} */
  const fits = (one) => typeof one != "number" || (low ?? one) <= one && one <= (high ?? one)
  return !name.startsWith("value") || [value].flat().every(fits) ? value : undefined
}

// Give the widgets of the new document what the visitor had entered in the old one; return whether there was any. What
// has no place, all of it or a part, leaves app.lacks true.
/** @type {(old: Doc, fresh: Doc, app: any) => boolean} */
export const enter = (old, fresh, app) => {
  const {initial, losses, skipped, given} = app
  const then = widgets(old), now = widgets(fresh)
  let any = false
  app.lacks = false
  for (const [key, model] of then) {
    const target = now.get(key)
    const held = target == null ? {} : entered(target)
    /** @type {Values} */
    const values = {}
    for (const [name, value] of Object.entries(entered(model))) {
      const first = initial.get(key)?.[name], called = `${key}\n${name}`
      // not the visitor's, unless they have come back to it since the last time, or there already
      if (JSON.stringify(value) === first && !given.has(called) || is_same(value, held[name])) continue
      if (target == null) {
        app.lacks = true
        continue
      }
      // the rows of a table mean something in the same table only
      if (name == "data" && !given.has(called) && JSON.stringify(held.data) !== first) continue
      const table = key.replace(/ rows$/, "")
      if (name == "indices" && !is_same(then.get(table).source.data, now.get(table).source.data)) continue
      const fits = fitting(target, name, value)
      app.lacks ||= !is_same(fits, value)
      if (fits === undefined || is_same(fits, held[name])) continue
      if (losses.get(`${called}\n${JSON.stringify(fits)}`) >= MAX_LOSSES) {
        const one = then.get(key.replace(/ (rows|data)$/, ""))
        skipped.add(title(one) || one.name || one.type)
        continue
      }
      values[name] = name == "active" && labels(target) ? map_each(fits, (label) => labels(target).indexOf(label)) : fits
      given.add(called)
    }
    if (Object.keys(values).length == 0) continue
    target.setv(values)
    if (key.endsWith(" data")) now.get(key.replace(/ data$/, "")).view.change.emit() // or its rows stay as drawn
    any = true
  }
  return any
}

// What was entered in messages to the server, as enter() looks for it
/** @type {(doc: Doc, messages: Message[]) => Set<string>} */
export const loss_keys = (doc, messages) => {
  const all = messages.flatMap((message) => message.entered)
  const keys = new Map(all.length > 0 ? [...widgets(doc)].map(([key, model]) => [model, key]) : [])
  return new Set(all.map(([model, ...rest]) => [keys.get(model), ...rest].join("\n")))
}
