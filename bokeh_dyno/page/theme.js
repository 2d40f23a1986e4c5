// Plots and widgets take the colours of where they stand: light or dark by the `color-scheme` of their place, and what the
// site says in --plot-ground, --plot-text, --plot-line, --plot-accent and --plot-font (docs/embed.md).
//
// Nothing of the document is changed. Widgets get a style sheet beside Bokeh's own, in each shadow root. What is drawn on a
// canvas is asked for its colours when it is drawn: Bokeh looks for CSS first (--bk-…), then for the property; in between
// stands what is here, for properties that nobody has set. So the server hears nothing, and in the light all is as it was.
//
// An app that chooses a ground or a colour of text by itself, or by a theme, keeps its plot as it is, for half of one scheme
// and half of another cannot be read.

const UNSET = "rgb(1 2 3/0)", IS_UNSET = "rgba(1, 2, 3, 0)" // in the light: as Bokeh has it

// Of the text's colour, over the ground's
/** @type {(percent: number) => string} */
const mix = (percent) => `color-mix(in srgb,var(--t) ${percent}%,var(--g))`
/** @type {(percent: number, with_?: string) => string} */
const accent = (percent, with_ = "var(--g)") => `color-mix(in srgb,var(--a) ${percent}%,${with_})`

const DARK_TEXT = "#dfe5ec"

/** @type {(values: Record<string, string>) => string} */
const declared = (values) => Object.entries(values).map(([name, value]) => `--${name}:${value};`).join("")
/** @type {(name: string) => string} */
const button = (name) => declared({
  [name]: mix(0), [`${name}-border`]: mix(24), [`${name}-hover`]: mix(5), [`${name}-hover-border`]: mix(32),
  [`${name}-active`]: mix(9), [`${name}-active-border`]: mix(38),
  [`${name}-disabled`]: mix(11), [`${name}-disabled-border`]: mix(24),
})

// Of a light ground, these are Bokeh's own colours, or next to them
const VARIABLES = declared({
  "t": `var(--plot-text,light-dark(#18191d,${DARK_TEXT}))`,
  "g": "var(--plot-ground,light-dark(#fff,Canvas))",
  "l": `var(--plot-line,${mix(29)})`,
  "a": `var(--plot-accent,light-dark(#267bb6,#7fb6e6))`,
  "base-font": "var(--plot-font,var(--bokeh-base-font,Helvetica,Arial,sans-serif))",
  "color": "var(--t)", "background-color": "var(--g)", "inverted-color": "light-dark(#fff,var(--g))",
  "hover-color": mix(5), "surface-background-color": mix(9), "disabled-background-color": mix(9),
  "inactive-bg": mix(12), "inactive-fg": mix(44), "placeholder-color": mix(50), "disabled-color": mix(60),
  "shortcut-color": mix(60), "icon-color": `var(--bokeh-icon-color,${mix(60)})`,
  "icon-color-disabled": `var(--bokeh-icon-color-disabled,${mix(17)})`,
  "border-color": "light-dark(var(--l),color-mix(in srgb,var(--t) 20%,var(--l)))", "divider-color": mix(17),
  "highlight-color": accent(71), "active-border": accent(71), "active-bg": accent(27), "active-fg": "var(--a)",
  "input-focus-border-color": accent(71), "input-focus-halo-color": accent(40, "transparent"), "outline-color": "var(--a)",
  "error": "light-dark(#d14250,#ff9099)", "box-shadow-color": "light-dark(rgb(0 0 0/.175),rgb(0 0 0/.6))",
  "tooltip-arrow-color": "var(--g)",
  "odd": mix(6), "special": mix(4), "muted-text": mix(55), "selected": accent(15),
  "primary": "var(--plot-accent,light-dark(#428bca,var(--a)))", "primary-border": "var(--primary)",
  "primary-hover": accent(85, "var(--t)"), "primary-hover-border": "var(--primary-hover)",
  "primary-active": accent(75, "var(--t)"), "primary-active-border": "var(--primary-active)",
}) + button("default") + button("file")

const DAYS = [".flatpickr-day:hover", ".flatpickr-day:focus", ".flatpickr-day.inRange", ".flatpickr-day.prevMonthDay:hover",
  ".flatpickr-day.nextMonthDay:hover", ".flatpickr-time input:hover", ".flatpickr-time .flatpickr-am-pm:hover"]
// By selector: Bokeh's own rules that name a colour, most of them of the libraries that its widgets are made of
const RULES = {
  ":host": VARIABLES,
  ":focus-visible:focus-visible:focus-visible": "outline:2px solid var(--a);outline-offset:1px",
  ".bk-input": "color:var(--t)",
  "select:not([multiple]).bk-input,select:not([size]).bk-input":
    "background-image:linear-gradient(45deg,transparent 50%,var(--t) 50%),linear-gradient(-45deg,transparent 50%,var(--t) 50%);"
    + "background-size:5px 5px;background-position:right 15px center,right 10px center",
  ".bk-btn-light": "background-color:var(--g);color:var(--t)",
  ".bk-btn-light:hover": `background-color:${mix(5)}`,
  "a": "color:var(--plot-accent,LinkText)",
  ":host(.bk-Toolbar.bk-inner)": "background-color:var(--g)",
  ".noUi-target": `background:${mix(3)};border-color:${mix(20)};box-shadow:none`,
  ".noUi-handle": `border-color:${mix(40)};background:light-dark(var(--g),${mix(45)});box-shadow:0 1px 3px rgb(0 0 0/.25)`,
  ".noUi-handle:before,.noUi-handle:after": `background:${mix(12)}`,
  // the bar's colour, as it is when the app has chosen none
  ".noUi-connect[style*='rgb(230, 230, 230)']":
    `background-color:var(--plot-accent,light-dark(#e6e6e6,${accent(60)}))!important`,
  ".noUi-tooltip": "background:var(--g);color:var(--t);border-color:var(--l)",
  ".slick-header-columns,.slick-header-column,.slick-header.ui-state-default,.slick-row,.slick-cell.editable,.slick-pager":
    "background-color:var(--g);color:var(--t)",
  ".slick-header-column:hover": `background:${mix(8)}`,
  ".slick-row.odd": "background:var(--odd)",
  ".slick-row.selected,.slick-cell.selected": "background:var(--selected)",
  ".choices__inner,.choices__list--dropdown,.choices__list[aria-expanded]":
    "background-color:var(--g);color:var(--t);border-color:var(--l)",
  ".choices__input": "background-color:transparent;color:var(--t)",
  ".choices__list[aria-expanded] .choices__item--selectable.is-highlighted": `background-color:${mix(9)}`,
  ".choices__inner .choices__item.light": "color:var(--a);border-color:var(--a)",
  ".choices__inner .choices__item.solid": "background-color:var(--a);color:var(--inverted-color)",
  ".flatpickr-calendar": `background:var(--g);box-shadow:0 0 0 1px ${mix(17)},0 3px 13px var(--box-shadow-color)`,
  ".flatpickr-months .flatpickr-month,.flatpickr-weekdays,span.flatpickr-weekday": `background:${mix(9)};color:var(--t);fill:var(--t)`,
  ".flatpickr-current-month .flatpickr-monthDropdown-months": `background:${mix(9)};color:var(--t);fill:var(--t)`,
  ".flatpickr-months .flatpickr-prev-month,.flatpickr-months .flatpickr-next-month": "color:var(--t);fill:var(--t)",
  ".flatpickr-innerContainer,.flatpickr-time,.flatpickr-days": `background:var(--g);border-color:${mix(9)}`,
  ".flatpickr-calendar.arrowTop:before,.flatpickr-calendar.arrowTop:after": `border-bottom-color:${mix(9)}`,
  ".flatpickr-day,.flatpickr-time input,.flatpickr-time .flatpickr-time-separator,.flatpickr-time .flatpickr-am-pm":
    "color:var(--t)",
  [`${DAYS}`]: `background:${mix(12)};border-color:transparent`,
  ".flatpickr-day.prevMonthDay,.flatpickr-day.nextMonthDay,.flatpickr-day.flatpickr-disabled": `color:${mix(45)}`,
  ".flatpickr-day.selected,.flatpickr-day.startRange,.flatpickr-day.endRange,.flatpickr-day.selected:hover":
    "background:var(--a);border-color:var(--a);color:light-dark(#fff,var(--g))",
}
/** @type {(rules: Record<string, string>) => string} */
const style_sheet = (rules) => Object.entries(rules).map(([selector, body]) => `${selector}{${body}}`).join("")
const WIDGETS = style_sheet(RULES)
const MENUS = style_sheet({
  ":host": `${VARIABLES}background-color:var(--g);color:var(--t);border-color:var(--l)`,
  ".bk-divider": `background-color:${mix(17)}`,
  ":host>:not(.bk-divider):hover": `background-color:${mix(6)}`,
})

// The colours of a place are those of an element in it that nobody sees. When they change, whatever made them change, the
// browser tells of it by a transition; and by an animation, when the place is shown after it was not.
const PROBE = style_sheet({
  ":host": "position:absolute!important;visibility:hidden;pointer-events:none",
  "i": `color:var(--plot-text,light-dark(${UNSET},${DARK_TEXT}));`
    + `background:var(--plot-ground,light-dark(${UNSET},Canvas));`
    + `outline-color:var(--plot-line,light-dark(${UNSET},#3b444e));font-family:var(--plot-font,"");`
    + "display:block;transition:1ms;transition-property:color,background-color,outline-color;animation:shown 1ms",
  "@keyframes shown": "to{opacity:1}",
})

// A colour as numbers, whatever CSS calls it: BokehJS does not read every way
/** @type {any} */
let pixel = null
/** @type {(colour: string) => string} */
const rgb = (colour) => {
  pixel ??= document.createElement("canvas").getContext("2d", {willReadFrequently: true})
  pixel.clearRect(0, 0, 1, 1)
  pixel.fillStyle = colour
  pixel.fillRect(0, 0, 1, 1)
  const [red, green, blue, alpha] = pixel.getImageData(0, 0, 1, 1).data
  return `rgb(${red} ${green} ${blue} / ${alpha / 255})`
}

// Have the views of a root look for their colours again
/** @type {(root: any) => void} */
const paint = (root) => {
  for (const view of root.views.all_views()) {
    if (view.glyph != null) void view.set_visuals()
    else if (view.model.type == "Legend") view.rerender()
    else view.request_repaint?.()
  }
}

class Colours {
  // "" where Bokeh's own stays
  text = ""
  ground = ""
  line = ""
  font = ""

  /** @param {HTMLElement} place */
  constructor(place) {
    /** @type {Set<any>} */
    this.views = new Set() // of the roots that stand there
    this.element = document.createElement("div")
    const shadow = this.element.attachShadow({mode: "open"})
    shadow.innerHTML = `<style>${PROBE}</style><i></i>`
    this.probe = /** @type {HTMLElement} */ (shadow.lastChild)
    place.prepend(this.element)
    this.read()
    shadow.addEventListener("transitionend", () => this.refresh())
    shadow.addEventListener("animationstart", () => this.refresh())
  }

  // Return whether a colour is another one than before
  read() {
    const before = this.text + this.ground + this.line
    const {color, backgroundColor, outlineColor, fontFamily} = window.getComputedStyle(this.probe)
    const [text, ground, line] = [color, backgroundColor, outlineColor].map((one) => one == IS_UNSET ? "" : rgb(one))
    Object.assign(this, {text, ground, line, font: fontFamily.replace(/^""$/, "")})
    return text + ground + line != before
  }

  refresh() {
    if (!this.read()) return
    for (const root of this.views) {
      if (root.el.isConnected) paint(root)
      else this.views.delete(root)
    }
  }
}

/** @type {WeakMap<HTMLElement, Colours>} */
const by_place = new WeakMap()
/** @type {WeakMap<object, Colours>} */
const by_root = new WeakMap()

const DECIDING = ["background_fill_color", "border_fill_color", "text_color", "axis_label_text_color",
  "major_label_text_color", "label_text_color", "title_text_color"]

// Whether a plot, or what has a ground of its own in it, is drawn in the colours of its place: not where the app has chosen
// the ground, or the colour of what is written on it
/** @type {Map<any, boolean> | null} */
let decided = null // for what is drawn now
/** @type {(model: any) => boolean} */
const follows = (model) => {
  if (decided == null) {
    decided = new Map()
    queueMicrotask(() => decided = null)
  }
  if (!decided.has(model)) {
    const {title, above = [], below = [], left = [], right = []} = model
    const chosen = [model, title, ...above, ...below, ...left, ...right].some((one) => DECIDING.some((name) => {
      const property = one?.properties?.[name]
      return property?.dirty && property.get_value() != null
    }))
    decided.set(model, !chosen)
  }
  return decided.get(model) ?? true
}

const BLACK = /^(black|#000(000)?)$/, WHITE = /^(white|#fff(fff)?)$/i

// What CSS is asked for here, and the property that decides; all else, of which there is much at each drawing, is Bokeh's
/** @type {Record<string, string>} */
const THEMED = {"line-color": "line_color", "line-alpha": "line_color", "fill-color": "fill_color", "text-color": "text_color",
  "text-font": "text_font"}

// What is about to be drawn has this colour, or font; "" where it is Bokeh's, or the app's
/** @type {(visual: any, name: string) => string} */
const themed = (visual, name) => {
  const property = visual[THEMED[name] ?? ""]
  const {obj} = visual, {model} = obj
  const colours = property && by_root.get(obj.root)
  if (colours == null || property.is_unset) return ""
  const value = property.get_value()
  // a model that another one has made for itself, as a colour bar its axis, has all its properties set
  const is_chosen = property.dirty && (model.document != null || value != property.default_value(model))
  if (value == null || is_chosen) return ""
  if (name == "text-font") return colours.font
  if (!follows(obj.plot_view?.model ?? model) || model.properties.background_fill_color && !follows(model)) return ""
  const is_black = BLACK.test(value) // axes and their ticks, and whatever an app adds: between lines and text
  if (name == "line-color") return is_black && colours.text || colours.line
  if (name == "line-alpha") return is_black && colours.text && !visual.line_alpha.dirty ? "0.6" : ""
  if (name == "text-color") return colours.text
  return name == "fill-color" && WHITE.test(value) ? colours.ground : ""
}

// Have this BokehJS do as the head of this file says
/** @param {any} bokeh */
const follow = (bokeh) => {
  const {DOMView, DOMComponentView} = bokeh.require("core/dom_view")
  const {VisualProperties} = bokeh.require("core/visuals/visual")
  const {CanvasLayer} = bokeh.require("core/util/canvas")
  const {GlyphView} = bokeh.require("models/glyphs/glyph")
  const {color2rgba, encode_rgba} = bokeh.require("core/util/color")
  const {ContextMenu} = bokeh.require("core/util/menus")
  /** @type {(kind: {prototype: any}, name: string, instead: (view: any, native: () => any, given: any) => any) => void} */
  const wrap = ({prototype}, name, instead) => {
    const native = prototype[name]
    /** @this {any} @param {any[]} given */
    prototype[name] = function (...given) {
      return instead(this, () => native.apply(this, given), given[0])
    }
  }
  wrap(DOMComponentView, "static_stylesheets", (_, native) => [...native(), WIDGETS])
  wrap(ContextMenu, "stylesheets", (_, native) => [...native(), MENUS])
  wrap(VisualProperties, "_get_css_value", (visual, native, name) => native() || themed(visual, name))
  // BokehJS 3.9 clears all but the half of the outermost pixels
  wrap(CanvasLayer, "clear", (layer, native) => {
    native()
    if (layer.backend != "svg") layer.ctx.clearRect(-1, -1, 1e5, 1e5)
  })
  // figure.text() itself says that text is black
  wrap(GlyphView, "set_visuals", (glyph, native) => {
    native()
    const {text} = by_root.get(glyph.root) ?? {}, {text_color, parent, model} = glyph
    if (!text || !BLACK.test(model.text_color?.value) || !follows(parent.plot_view.model)) return
    glyph._define_attr("text_color", new text_color.constructor(encode_rgba(color2rgba(text)), text_color.length))
  })
  wrap(DOMView, "build", (root, native, place) => {
    let colours = by_place.get(place)
    if (colours == null || colours.element.parentNode != place) by_place.set(place, colours = new Colours(place))
    colours.views.add(root)
    by_root.set(root, colours)
    // glyphs were there before their root had a place
    if (colours.text) for (const view of root.views.all_views()) if (view.glyph != null) void view.set_visuals()
    native()
    place.append(colours.element) // behind the root, which may be the first of its place for a style sheet
  })
}

// Look for BokehJS: here already, or one of the scripts that come later. It is there before the next script is run.
export const watch_for_bokeh = () => {
  if (!window.CSS.supports("color", "light-dark(red,red)")) return
  const seen = new Set()
  const look = () => {
    const bokeh = window.Bokeh
    if (bokeh == null || seen.has(bokeh)) return
    seen.add(bokeh)
    try {
      follow(bokeh)
    } catch (error) {
      console.info(`bokeh-dyno: plots do not follow the page's colours with Bokeh ${bokeh.version}:`, error)
    }
  }
  look()
  document.addEventListener("load", look, true) // of a script, which is heard on its way down only
}
