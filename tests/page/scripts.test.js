import assert from "node:assert/strict"
import {beforeEach, suite, test} from "node:test"

import {address, bundles_for, deferred, model_class} from "../../bokeh_dyno/page/scripts.js"
import {Widget} from "./models.js"

test("the class of a model is null when no bundle has it", () => {
  assert.equal(model_class("Widget"), Widget)
  assert.equal(model_class("DataTable"), null)
})

test("an address is absolute, also in a page that has none of its own", () => {
  globalThis.location = {host: "site", href: "https://site/a/page"}
  globalThis.document = {baseURI: "https://parent/b/page"}
  assert.equal(address("/x"), "https://site/x")
  assert.equal(address("x"), "https://site/a/x")
  globalThis.location = {host: "", href: "about:srcdoc"}
  assert.equal(address("x"), "https://parent/b/x")
})

suite("of the bundles that come later, a message needs", () => {
  const BUNDLES = ["bokeh-gl", "bokeh-widgets", "bokeh-tables", "bokeh-mathjax"]
  beforeEach(() => {
    deferred.clear()
    for (const name of BUNDLES) deferred.set(name, {src: `/static/js/${name}.min.js`})
  })
  const needs = (message) => bundles_for(message).map(({src}) => /bokeh-(\w+)/.exec(src)[1])

  test("none when it has nothing new", () => {
    assert.deepEqual(needs('{"events":[{"kind":"ModelChanged","attr":"value","new":3}]}'), [])
    assert.deepEqual(needs('{"type":"object","name":"Slider","id":"p1"}'), [])
  })

  test("those with models when one of them has no class yet", () => {
    assert.deepEqual(needs('{"type":"object","name":"DataTable","id":"p1"}'), ["widgets", "tables"])
    const two = '[{"type": "object", "name": "Plot"}, {"type": "object", "name": "New"}]'
    assert.deepEqual(needs(two), ["widgets", "tables"])
  })

  test("WebGL's when an output backend is that", () => {
    assert.deepEqual(needs('{"output_backend":"webgl"}'), ["gl"])
    assert.deepEqual(needs('{"text":"about webgl"}'), [])
  })

  test("MathJax's when there is a formula", () => {
    for (const text of ['"$$x$$"', '"\\\\(x\\\\)"', '"\\\\[x\\\\]"', '{"name":"TeX"}', '"MathML"', '"Ascii"']) {
      assert.deepEqual(needs(text), ["mathjax"], text)
    }
    assert.deepEqual(needs('"5 $ (or less)"'), [])
  })

  test("none when it is binary, or none is left", () => {
    assert.deepEqual(needs(new ArrayBuffer(8)), [])
    deferred.clear()
    assert.deepEqual(needs('{"type":"object","name":"DataTable"}'), [])
  })
})
