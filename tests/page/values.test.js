import assert from "node:assert/strict"
import {suite, test} from "node:test"

import {MAX_LOSSES, as_json, enter, entered, fitting, loss_keys, widgets} from "../../bokeh_dyno/page/values.js"
import {document_of, model, table} from "./models.js"

suite("keys of widgets", () => {
  const keys = (...models) => [...widgets(document_of(...models)).keys()]

  test("are the type, the name and what it is called", () => {
    assert.deepEqual(keys(model("Slider", {}, {name: "height", title: "Height"})), ["Slider height Height 0"])
    assert.deepEqual(keys(model("Button", {}, {label: "Go"})), ["Button  Go 0"])
    assert.deepEqual(keys(model("Select", {}, {title: {text: "in a model"}})), ["Select  in a model 0"])
    assert.deepEqual(keys(model("TextInput")), ["TextInput   0"])
  })

  test("count those that are called the same, each model once", () => {
    const first = model("Slider", {}, {title: "x"}), second = model("Slider", {}, {title: "x"})
    const found = widgets(document_of(first, second, model("Slider", {}, {title: "y"})))
    assert.deepEqual([...found.keys()], ["Slider  x 0", "Slider  x 1", "Slider  y 0"])
    assert.equal(found.get("Slider  x 0"), first)
    assert.equal(found.get("Slider  x 1"), second)
  })

  test("are of widgets and tabs only", () => {
    assert.deepEqual(keys(model("Plot", {}, {}, class {}), model("Tabs", {}, {}, class {})), ["Tabs   0"])
  })

  test("are there without the bundle of widgets, too", () => {
    const {Models} = Bokeh
    Bokeh.Models = {get() { throw new Error("no") }}
    try {
      assert.deepEqual(keys(model("Slider"), model("Tabs", {}, {}, class {})), ["Tabs   0"])
    } finally {
      Bokeh.Models = Models
    }
  })

  test("of a table are three, its source only when it is editable", () => {
    const one = table({n: [1]})
    const found = widgets(document_of(one))
    assert.deepEqual([...found], [
      ["DataTable  table 0", one],
      ["DataTable  table 0 data", one.source],
      ["DataTable  table 0 rows", one.source.selected],
    ])
    assert.deepEqual(keys(table({n: [1]}, [], {editable: false})), ["DataTable  table 0", "DataTable  table 0 rows"])
  })
})

suite("what is entered", () => {
  test("is what a visitor can enter, and is set", () => {
    const one = model("FileInput", {value: "a", filename: undefined, mime_type: "text/plain", step: 3})
    assert.deepEqual(entered(one), {value: "a", mime_type: "text/plain"})
    assert.deepEqual(entered(one, ["value"]), {value: "a"})
  })

  test("of a group are the labels of what is chosen", () => {
    const labels = ["a", "b", "c"]
    assert.deepEqual(entered(model("CheckboxGroup", {active: [2, 0]}, {labels})), {active: ["c", "a"]})
    assert.deepEqual(entered(model("RadioGroup", {active: 1}, {labels})), {active: "b"})
    assert.deepEqual(entered(model("RadioGroup", {active: null}, {labels})), {active: null})
    assert.deepEqual(entered(model("Tabs", {active: 1}, {tabs: [{title: "one"}, {title: "two"}]})), {active: "two"})
    assert.deepEqual(entered(model("Toggle", {active: true})), {active: true})
  })

  test("is compared as JSON", () => {
    assert.deepEqual(as_json({value: [1, 2], color: "red"}), {value: "[1,2]", color: '"red"'})
  })
})

suite("a value fits a widget", () => {
  const options = ["a", "b", ["c", "the third"]]

  test("when it is one of its options, whatever they are called", () => {
    const select = model("Select", {}, {options})
    assert.equal(fitting(select, "value", "b"), "b")
    assert.equal(fitting(select, "value", "c"), "c")
    assert.equal(fitting(select, "value", "the third"), undefined)
    assert.equal(fitting(model("Select", {}, {options: {group: ["d"], other: options}}), "value", "b"), "b")
    assert.equal(fitting(model("CategoricalSlider", {}, {categories: ["a"]}), "value", "b"), undefined)
  })

  test("without those of several that are no options any more", () => {
    const choice = model("MultiChoice", {}, {options})
    assert.deepEqual(fitting(choice, "value", ["x", "c", "a"]), ["c", "a"])
    assert.equal(fitting(choice, "value", ["x"]), undefined)
    assert.deepEqual(fitting(choice, "value", []), [])
  })

  test("when it is the label of one of a group", () => {
    const group = model("RadioGroup", {}, {labels: ["a", "b"]})
    assert.equal(fitting(group, "active", "b"), "b")
    assert.equal(fitting(group, "active", "c"), undefined)
    assert.equal(fitting(model("Toggle"), "active", true), true)
  })

  test("when it is nothing", () => {
    assert.equal(fitting(model("Select", {}, {options}), "value", null), null)
    assert.equal(fitting(model("RadioGroup", {}, {labels: ["a"]}), "active", null), null)
  })

  test("when it is between the ends, and both of a range are", () => {
    const slider = model("Slider", {}, {start: 1, end: 3}), spinner = model("Spinner", {}, {low: 1, high: 2})
    assert.deepEqual([0, 1, 3, 4].map((value) => fitting(slider, "value", value)), [undefined, 1, 3, undefined])
    assert.deepEqual([0, 1, 2, 3].map((value) => fitting(spinner, "value", value)), [undefined, 1, 2, undefined])
    assert.equal(fitting(model("Spinner", {}, {low: null, high: null}), "value", -9), -9)
    assert.deepEqual(fitting(slider, "value", [1, 2]), [1, 2])
    assert.equal(fitting(slider, "value", [1, 4]), undefined)
    assert.equal(fitting(slider, "value_throttled", 4), undefined)
    assert.equal(fitting(slider, "indices", 4), 4)
    assert.equal(fitting(slider, "value", "2020-01-01"), "2020-01-01")
  })
})

suite("entering again", () => {
  // What the page does: `initial` is what the widgets held when it was opened
  const again = (old, fresh, {initial = [], losses = []} = {}) => {
    const app = {initial: new Map(initial), losses: new Map(losses), skipped: new Set(), given: new Set()}
    return {any: enter(document_of(...old), document_of(...fresh), app), skipped: [...app.skipped]}
  }
  const slider = (value, own) => model("Slider", {value}, {title: "x", ...own})

  test("gives the same widget the visitor's value, wherever it is now", () => {
    const fresh = [model("Slider", {value: 9}, {title: "new"}), slider(1)]
    assert.equal(again([slider(2)], fresh).any, true)
    assert.deepEqual(fresh.map((one) => one.changes), [[], [{value: 2}]])
  })

  test("gives back what it was at first, when something else has been given in the meantime", () => {
    const app = {initial: new Map([["Slider  x 0", {value: "1"}]]), losses: new Map(), skipped: new Set(), given: new Set()}
    const fresh = slider(1)
    for (const value of [5, 1]) assert.equal(enter(document_of(slider(value)), document_of(fresh), app), true)
    assert.deepEqual(fresh.changes, [{value: 5}, {value: 1}])
  })

  test("leaves what has no place any more", () => {
    const fresh = [slider(1, {title: "y"}), slider(1, {title: "z"})]
    assert.equal(again([slider(2), slider(3, {title: "z"})], fresh).any, true)
    assert.deepEqual(fresh.map((one) => one.changes), [[], [{value: 3}]])
    assert.equal(again([slider(2)], fresh).any, false)
  })

  test("says when something has no place, so far", () => {
    const lacks = (old, fresh, initial = []) => {
      const app = {initial: new Map(initial), losses: new Map(), skipped: new Set(), given: new Set()}
      enter(document_of(old), document_of(fresh), app)
      return app.lacks
    }
    const choice = (value, options) => model("MultiChoice", {value}, {options})
    assert.equal(lacks(slider(2), slider(1)), false)
    assert.equal(lacks(slider(2), slider(1, {title: "y"})), true)
    assert.equal(lacks(slider(2), slider(1, {title: "y"}), [["Slider  x 0", {value: "2"}]]), false)
    assert.equal(lacks(slider(2), slider(1, {end: 1})), true)
    assert.equal(lacks(choice(["a", "b"], ["a", "b"]), choice([], ["a"])), true)
    assert.equal(lacks(choice(["a", "b"], ["a", "b"]), choice([], ["b", "a"])), false)
  })

  test("leaves what the visitor did not enter, what is there already and what does not fit", () => {
    for (const [fresh, initial] of [
      [slider(1), [["Slider  x 0", {value: "2"}]]],
      [slider(2), []],
      [slider(1, {end: 1}), []],
    ]) {
      assert.equal(again([slider(2)], [fresh], {initial}).any, false)
      assert.deepEqual(fresh.changes, [])
    }
  })

  test("leaves what fits in part when that is there already", () => {
    const fresh = model("MultiChoice", {value: ["a"]}, {options: ["a"]})
    assert.equal(again([model("MultiChoice", {value: ["a", "b"]}, {options: ["a", "b"]})], [fresh]).any, false)
    assert.deepEqual(fresh.changes, [])
  })

  test("chooses by the label, for the order may be another", () => {
    const fresh = [
      model("CheckboxGroup", {active: []}, {labels: ["c", "b", "a"]}),
      model("RadioGroup", {active: null}, {labels: ["b", "a"]}),
    ]
    again([
      model("CheckboxGroup", {active: [0, 1]}, {labels: ["a", "b", "c"]}),
      model("RadioGroup", {active: 0}, {labels: ["a", "b"]}),
    ], fresh)
    assert.deepEqual(fresh.map((one) => one.active), [[2, 1], 1])
  })

  test("changes a table's rows and their selection in the same table only, and has it drawn", () => {
    const first = {n: [1, 2]}, changed = {n: [1, 9]}
    const initial = [["DataTable  table 0 data", {data: JSON.stringify(first)}]]
    const same = table(first)
    assert.equal(again([table(changed, [1])], [same], {initial}).any, true)
    assert.deepEqual([same.source.data, same.source.selected.indices, same.view.emitted], [changed, [1], 1])
    const other = table({n: [3]})
    assert.equal(again([table(changed, [1])], [other], {initial}).any, false)
    assert.deepEqual([other.source.changes, other.source.selected.changes, other.view.emitted], [[], [], 0])
  })

  test("leaves out, by name, what cost the connection often enough", () => {
    const named = [slider(2), model("TextInput", {value: "a"}, {name: "text"}), model("Switch", {active: true})]
    const fresh = [slider(1), model("TextInput", {value: ""}, {name: "text"}), model("Switch", {active: false})]
    const keys = ["Slider  x 0\nvalue\n2", 'TextInput text  0\nvalue\n"a"', "Switch   0\nactive\ntrue"]
    const losses = keys.map((key) => [key, MAX_LOSSES])
    assert.deepEqual(again(named, fresh, {losses}), {any: false, skipped: ["x", "text", "Switch"]})
    assert.deepEqual(fresh.flatMap((one) => one.changes), [])
    assert.equal(again(named, fresh, {losses: keys.map((key) => [key, MAX_LOSSES - 1])}).any, true)
    assert.deepEqual(fresh.map((one) => one.changes), [[{value: 2}], [{value: "a"}], [{active: true}]])
  })

  test("calls a table by its title, whichever part of it cost the connection", () => {
    const first = {n: [1, 2]}, changed = {n: [1, 9]}
    const initial = [["DataTable  table 0 data", {data: JSON.stringify(first)}]]
    const losses = [[`DataTable  table 0 data\ndata\n${JSON.stringify(changed)}`, MAX_LOSSES]]
    assert.deepEqual(again([table(changed)], [table(first)], {initial, losses}), {any: false, skipped: ["table"]})
  })
})

test("what may have cost the connection is named as entering looks for it", () => {
  const one = model("Slider", {value: 2}, {title: "x"}), source = model("ColumnDataSource")
  const slider = [one, "value", "2"]
  const messages = [{entered: [slider]}, {entered: [slider, [source, "data", "{}"]]}, {entered: []}]
  assert.deepEqual([...loss_keys(document_of(one), messages)], ["Slider  x 0\nvalue\n2", "\ndata\n{}"])
  assert.deepEqual([...loss_keys({roots: () => assert.fail("nothing to look for")}, [{entered: []}])], [])
})
