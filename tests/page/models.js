// Stand-ins for BokehJS's models and documents, as far as the page's modules look at them

export class Widget {}

globalThis.Bokeh = {
  Models: {
    get(name) {
      if (name in classes) return classes[name]
      throw new Error(`Model '${name}' does not exist`)
    },
  },
}
const classes = {Widget, Slider: Widget, Plot: class {}}

// A model that holds `held`; `own` are attributes that no visitor enters
export const model = (type, held = {}, own = {}, kind = Widget) => {
  const one = Object.assign(new kind(), {type, name: null, changes: []}, held, own)
  one.properties = Object.fromEntries(
    Object.keys(held).map((name) => [name, {is_unset: held[name] === undefined, get_value: () => one[name]}]),
  )
  one.setv = (values) => {
    one.changes.push(values)
    Object.assign(one, values)
  }
  return one
}

// A table with its source and the rows that are chosen
export const table = (data, indices = [], own = {}) => {
  const source = model("ColumnDataSource", {data}, {selected: model("Selection", {indices})})
  const view = {emitted: 0, change: {emit: () => view.emitted += 1}}
  return model("DataTable", {}, {title: "table", editable: true, source, view, ...own})
}

// A document with a root that refers to all of the models, and another one to the first
export const document_of = (...models) => ({
  roots: () => [{references: () => models}, {references: () => models.slice(0, 1)}],
})
