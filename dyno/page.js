// Shows the Bokeh apps of a page, and brings each back when its connection is lost: another worker, another dyno, another
// version of the site. On an app's own page, which Bokeh makes, dyno/bokeh.py has this script in the place of Bokeh's.
//
// BokehJS gets its WebSockets from here (dial, below), so that the session and its document can be there before BokehJS
// is, and no message arrives before the bundle that it needs.
//
// BokehJS reconnects by itself, but gives up after 30 s, with the token that it has, and what it then shows is a new session
// without the visitor's values; and BokehJS 3.9 cannot read the document of a session that was made anew when it holds
// arrays ("buffer for id=… not found"), which 3.10 can. Once it can be given a fresh token and more patience, enter() and
// what it needs is all that is left of this file.
//
// An app that sets curdoc().config.reconnect_session = False is left to itself.
//
// What is taken from BokehJS 3.9 and 3.10. Documented: Bokeh.documents, index, Models.get, Document.roots, .on_change,
// .remove_on_change, Model.setv, .references. Not documented, and what goes without:
//   embed.add_document_from_session, Document.views_manager     everything: the page says that it cannot be shown
//   Document.config, .on_event("connection_lost")               everything: a page must not be left half alive
//   that it takes the global WebSocket and its onclose at once  everything: it would open one of its own
//   the headers of Bokeh's protocol, read by dial               the document is waited for a round trip longer
//   properties.NAME.is_unset, .get_value; views' el             what the visitor has entered, or the focus
//   Document.all_models                                         memory of views that are gone
//   the provider of MathJax                                     formulas that come later
(() => {
  "use strict"

  const QUIET = 1000 // ms without a word: most interruptions are shorter
  const STABLE = 10_000 // ms that a connection has to stand for what failed before to be forgotten
  const TRIES = 3 // to show a document: what BokehJS cannot read does not get better by asking for it again
  const CONNECTIONS = 20 // that fail while the site answers: after 8 minutes or so, that does not get better either

  // ms until the next attempt. While the site is away, a twentieth of the time that it has been: a page is back soon after
  // the site is. When the site answers, but then something fails, twice as much each time. And half as much again at
  // random, so that a thousand pages do not come at once.
  const RETRY = 800, LONGEST_WAIT = 20_000
  const BUSY = 5000 // instead of RETRY, when the server says that it has no room
  const delay = (away, failures, least = RETRY) =>
    Math.min(LONGEST_WAIT, Math.max(least * 2 ** Math.max(0, failures - 1), away / 20)) * (1 + Math.random() / 2)

  // ms of silence from the server, after the values are entered, that mean it has run the app's callbacks: at first,
  // then after something that it said; and how long that is waited for when it is never silent
  const FIRST = 800, SETTLE = 300, LONGEST = 1500
  // close codes (dyno/websocket.py), the reason being a sentence for the visitor: try again later; do not try again
  const TRY_AGAIN = 1013, FINAL = 4000
  const TOO_BIG = 1009 // what was sent; it would be sent again
  const PASSES = 3 // of entering the values: some widgets, or their options, only come when others have theirs
  // what a visitor enters, in any widget; value_throttled and value_input are what some apps listen to instead of value;
  // the last two are a table's: of its Selection and, when it is editable, of its source
  const ENTERED = [
    "value", "value_throttled", "value_input", "active", "color", "filename", "mime_type", "indices", "data",
  ]

  const LEAVING = 2000 // ms after which a page that was about to be left is still there
  let leaving = -Infinity
  addEventListener("beforeunload", () => leaving = Date.now())

  const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

  // The same, but less long when the network or the visitor comes back
  const sleep_lightly = async (ms) => {
    const awake = new AbortController()
    await new Promise((wake) => {
      setTimeout(wake, ms)
      addEventListener("online", wake, {signal: awake.signal})
      document.addEventListener("visibilitychange", wake, {signal: awake.signal})
    })
    awake.abort()
  }

  // Wait until the server has answered what was entered
  const settle = async (doc) => {
    const began = Date.now()
    let silent = began + FIRST
    const listen = (event) => {
      if (!event.sync) silent = Date.now() + SETTLE
    }
    doc.on_change(listen)
    while (Date.now() < Math.min(silent, began + LONGEST)) await sleep(20)
    doc.remove_on_change(listen)
  }

  // The class of a model by its name, null when no bundle that is there has it
  const model_class = (name) => {
    try {
      return Bokeh.Models.get(name)
    } catch {
      return null
    }
  }

  // The bundles that the apps did not need when the site started, attributes of their script tags by address
  const later = new Map()

  // Those of them that a message needs. An app may add a table or a formula at any time, or show other things to others.
  const needed_for = (message) => {
    if (later.size == 0 || typeof message != "string") return []
    const models = [...message.matchAll(/"type":\s*"object",\s*"name":\s*"([^"]+)"/g)].map((match) => match[1])
    const unknown = models.some((name) => model_class(name) == null)
    return [...later.values()].filter(({src}) => {
      if (src.includes("/bokeh-gl")) return message.includes('"webgl"')
      if (src.includes("/bokeh-mathjax")) return /\$\$|\\\\[([]|"(TeX|MathML|Ascii)/.test(message)
      return unknown
    })
  }

  // Load scripts, in their order; return whether all are there. What failed is loaded anew for whoever asks next.
  const loading = new Map()
  const load = async (scripts) => {
    let all = true
    for (const attributes of scripts) {
      if (loading.has(attributes.src)) continue // for another app
      const script = document.createElement("script")
      script.async = false
      for (const [name, value] of Object.entries(attributes)) script.setAttribute(name, value)
      loading.set(attributes.src, new Promise((done) => {
        script.onload = () => done(true)
        script.onerror = () => done(false)
      }))
      document.head.append(script)
    }
    for (const {src} of scripts) {
      if (await loading.get(src)) {
        later.delete(src)
      } else {
        loading.delete(src)
        all = false
      }
    }
    // BokehJS looks for MathJax once, when it makes the first widget
    try {
      const math = Bokeh.index.query_one((view) => view.provider != null)?.provider
      if (math?.status == "failed") await math.fetch()
    } catch (error) {
      console.error("bokeh-dyno: formulas stay as they are:", error)
    }
    return all
  }

  // Let the promises that are resolved go on: BokehJS reads a document in those, and takes nothing else before
  const turn = () => new Promise((done) => {
    const {port1, port2} = new MessageChannel() // a timer would take 4 ms
    port1.onmessage = done
    port2.postMessage(null)
  })

  // Open a session's WebSocket. Its events wait for release(), when BokehJS listens, and each for the bundles it needs.
  //
  // The document comes right after the ACK, a round trip before BokehJS has it from having asked, and while it is still
  // being read (_WebSocket in dyno/worker.py): the ACK's metadata name the request that this answers. BokehJS asks all
  // the same, as its first message; that goes no further, and what has come becomes the answer to it. A server that does
  // not know this just waits for BokehJS.
  //
  // A close is heard only after watch(), which listens for it: the views of some models wait for an image, or for MathJax.
  //
  // `there` is resolved when the document is, and rejected when the connection is lost before: of a WebSocket that does
  // not get so far, BokehJS would write errors into the console.
  const dial = (url, token) => {
    const socket = new WebSocket(`${url}?document=1`, ["bokeh", token])
    socket.binaryType = "arraybuffer"
    const events = []
    let closed = null // the event
    let busy = true, passing = null // until release()
    let header = null, left = 0 // of the message that is coming: header, metadata, content, and two parts for each buffer
    let request = null, reply = null // the id of the request that the server answers unasked; the event that begins that
    let asked = null // the id of BokehJS's own request
    let watch = null
    const watched = new Promise((done) => watch = done)

    const there = new Promise((resolve, reject) => {
      const whole = (event) => {
        if (left == 0) {
          header = JSON.parse(event.data)
          left = 3 + 2 * (header.num_buffers ?? 0)
          if (request != null && header.reqid == request) reply = event
        }
        left -= 1
        if (header.msgtype == "ACK" && left == 1) request = JSON.parse(event.data).document ?? null
        return left == 0 && (request == null || reply != null)
      }
      const read = (event) => {
        try {
          if (!whole(event)) return
        } catch { // another protocol: for BokehJS to understand, or not
          reply = null
        }
        socket.removeEventListener("message", read)
        resolve()
      }
      socket.addEventListener("message", read)
      socket.addEventListener("close", (event) => {
        closed ??= event
        reject(new Error(`the WebSocket was closed with ${event.code}`))
      })
    })
    there.catch(() => {}) // whoever waits for it is told

    const pass = async () => {
      busy = true
      for (let event; (event = events.shift()) != null; await turn()) {
        const scripts = needed_for(event.data)
        if (scripts.length > 0 && !await load(scripts)) socket.close() // BokehJS cannot read this: from the start, with the next connection
        if (event.type == "close") await watched
        const answer = () => ({data: JSON.stringify({...JSON.parse(event.data), reqid: asked})})
        passing = new event.constructor(event.type, event == reply ? answer() : event)
        socket.dispatchEvent(passing)
      }
      busy = false
    }
    const take = (event) => {
      if (event == passing || !busy && event.type != "close" && needed_for(event.data).length == 0) return
      event.stopImmediatePropagation()
      events.push(event)
      if (!busy) void pass()
    }
    for (const type of ["open", "message", "error", "close"]) socket.addEventListener(type, take)

    const release = () => {
      let parts = 0
      if (reply != null) {
        socket.send = (part) => {
          if (parts++ == 0) asked = JSON.parse(part).msgid
          if (parts == 3) delete socket.send
        }
      }
      void pass()
    }
    return {socket, there, release, watch, closed: () => closed, close: () => socket.close()}
  }

  // Call BokehJS, which makes a WebSocket at once, with `socket` for that; return its promise.
  const handing_over = (socket, call) => {
    const native = window.WebSocket
    window.WebSocket = new Proxy(native, {construct: () => socket})
    try {
      return call()
    } finally {
      window.WebSocket = native
    }
  }

  // The visitor's widgets of a document: Map from a key that outlives a deploy (what it is called, and which of those)
  // to the model. Ids would not do: they are numbered anew when the app has one model more.
  const widgets = (doc) => {
    const Widget = model_class("Widget") ?? class {} // not there when no app of the page has one
    const found = new Map()
    // all_models has those that are gone, too, until BokehJS looks for them: 30 s after the last change
    for (const model of new Set(doc.roots().flatMap((root) => [...root.references()]))) {
      if (!(model instanceof Widget || model.type == "Tabs")) continue
      const called = `${model.type} ${model.name ?? ""} ${model.title?.text ?? model.title ?? model.label ?? ""}`
      let number = 0
      while (found.has(`${called} ${number}`)) number += 1
      const key = `${called} ${number}`
      found.set(key, model)
      if (model.editable) found.set(`${key} data`, model.source)
      if (model.source?.selected != null) found.set(`${key} rows`, model.source.selected)
    }
    return found
  }

  const labels = (model) => model.labels ?? model.tabs?.map((tab) => tab.title)
  const each = (value, change) => Array.isArray(value) ? value.map(change) : change(value)

  // What a widget holds, by property; what is chosen of a group by its label, for a deploy may change their order
  const entered = (model) => {
    const values = {}
    for (const name of ENTERED) {
      const property = model.properties[name]
      if (property == null || property.is_unset) continue
      const value = property.get_value()
      const choices = name == "active" && labels(model)
      values[name] = choices ? each(value, (index) => choices[index] ?? null) : value
    }
    return values
  }

  const texts = (values) =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, JSON.stringify(value)]))
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b)

  // The value as a widget of the new document takes it, without what it has no place for any more; undefined when that
  // leaves nothing
  const fitting = (model, name, value) => {
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
    const fits = (one) => typeof one != "number" || (low ?? one) <= one && one <= (high ?? one)
    return !name.startsWith("value") || [value].flat().every(fits) ? value : undefined
  }

  // The element that has the focus, in whatever shadow root
  const deepest = (element) => element?.shadowRoot?.activeElement ? deepest(element.shadowRoot.activeElement) : element
  const controls = (doc, model) => {
    const root = model && doc.views_manager.find_one(model)?.el.shadowRoot
    return root ? [...root.querySelectorAll("input, textarea, select, button, [tabindex]")] : []
  }

  class App {
    constructor(element) {
      this.element = element
      this.path = element.dataset.bokehApp
      this.number = this.elements(document).indexOf(element)
      this.token = element.dataset.bokehToken
      this.attempt = 0
      this.failures = 0 // since a connection has stood for a while: of any kind, ...
      this.unshown = 0 // ... and to show a document that was there
      this.before = null // what the widgets held when the page was opened: what differs is the visitor's
      this.own_page = element.tagName == "SCRIPT" // of the app, whose template has the places of the roots
      try {
        this.dialed = this.dial() // while the browser still reads BokehJS, the server runs the app
      } catch {
        this.dialed = null // connect() tries it again, and says why not
      }
    }

    dial() {
      const scheme = location.protocol == "https:" ? "wss:" : "ws:"
      this.url = `${scheme}//${location.host}${this.path}/ws`
      return dial(this.url, this.token)
    }

    // Where this app is on a page: once, or as often as it is shown there
    elements(page) {
      return [...page.querySelectorAll("[data-bokeh-token]")].filter((one) => one.dataset.bokehApp == this.path)
    }

    async open() {
      this.places = this.own_page
        ? this.element.dataset.bokehRoots.split(" ").map((id) => document.getElementById(id)).filter((place) => place)
        : [this.element.appendChild(document.createElement("div"))]
      const missing = ["Bokeh", "Bokeh.embed", "Bokeh.embed.add_document_from_session", "Bokeh.documents"]
        .find((path) => path.split(".").reduce((value, name) => value?.[name], window) == null)
      if (missing != null) {
        this.dialed?.close()
        console.error(`bokeh-dyno: there is no ${missing} (Bokeh ${window.Bokeh?.version ?? "did not load"})`)
        this.say(`This plot cannot be shown${window.Bokeh == null ? ": a part of the page did not load. Reload it." : "."}`)
        return
      }
      try {
        await this.connect()
      } catch (error) {
        console.warn("bokeh-dyno: not yet:", error)
        await this.recover(null)
      }
    }

    // Open the session and show its document: at first in its places, later in new ones beside those of the old
    // document, not seen yet.
    async connect(old = null) {
      this.failures += 1 // unless it stands for a while
      this.closed = null
      const dialed = this.dialed ?? this.dial()
      const {socket, there, release, watch} = dialed
      this.dialed = null
      this.closed = dialed.closed
      await there
      const places = old?.places.map((place) => {
        const fresh = place.cloneNode(false)
        // laid out in its place and width, but not seen
        Object.assign(fresh.style, {display: "block", visibility: "hidden", height: "0", overflow: "hidden"})
        place.after(fresh)
        return fresh
      }) ?? this.places
      try {
        const {add_document_from_session} = Bokeh.embed
        // BokehJS keeps one connection for each URL and session: a number makes it open another
        const url = `${this.url}?attempt=${++this.attempt}`
        const one_each = places.length > 1 ? places : []
        const place = places[0] ?? document.body
        const opened = handing_over(
          socket, () => add_document_from_session(url, this.token, place, one_each, this.own_page),
        )
        release()
        const views = await opened
        const shown = this.watch(Bokeh.documents.find((doc) => doc.views_manager == views), places, socket)
        watch()
        return shown
      } catch (error) {
        this.unshown += 1
        socket.onclose = null // BokehJS would open another
        socket.close()
        places.forEach((place) => old == null ? place.replaceChildren() : place.remove())
        throw error
      }
    }

    // Be there when the document loses its connection; return it with the elements that show its roots.
    watch(doc, places, socket) {
      const shown = {doc, places, lost: false, beside: false} // beside: the old one, while it is given the values
      if (doc.config.reconnect_session) {
        doc.config.setv({reconnect_session: false, notify_connection_status: false}, {sync: false})
        const lose = (connection) => {
          clearTimeout(shown.stable)
          connection?.close() // or each change of a widget would be an error in the console
          if (!shown.lost && !shown.beside) void this.recover(shown)
          shown.lost = true
        }
        doc.on_event("connection_lost", (_, event) => lose(event.connection.deref()))
        socket.addEventListener("close", () => lose()) // after a beforeunload, also a download's, BokehJS says nothing
      }
      this.before ??= new Map([...widgets(doc)].map(([key, model]) => [key, texts(entered(model))]))
      if (!shown.lost) shown.stable = setTimeout(() => this.failures = this.unshown = 0, STABLE)
      return shown
    }

    // Try until the site is back, then put the new view with the visitor's values in the place of the old one. End with a
    // sentence where trying again cannot help.
    async recover(old) {
      const began = Date.now()
      const notice = setTimeout(() => this.say("Reconnecting…"), QUIET)
      const end = (text) => {
        clearTimeout(notice)
        this.say(text)
      }
      let wait = this.failures > 1 ? delay(0, this.failures) : began - leaving < LEAVING ? LEAVING : 0
      for (;; wait = delay(Date.now() - began, this.failures)) {
        const {code, reason} = this.closed?.() ?? {}
        if (code == TOO_BIG) return end("That is too large to be sent. Reload the page.")
        if (code >= FINAL) return end(reason)
        if (code == TRY_AGAIN) {
          clearTimeout(notice)
          this.say(`${reason} Trying again…`)
          wait = delay(0, this.failures, BUSY)
        } else if (this.failures >= CONNECTIONS) {
          return end("This plot cannot be shown: its connection is lost again and again. Reload the page.")
        }
        if (this.unshown >= TRIES) return end("This plot cannot be shown.")
        await sleep_lightly(wait)
        const answer = await this.refresh()
        if (answer == "gone") return end("This plot is not available any more. Reload the page.")
        if (answer == "later") {
          this.closed = null // what was said of the connection has been said
          continue
        }
        let fresh
        try {
          fresh = await this.connect(old)
        } catch (error) {
          console.info("bokeh-dyno: not yet:", error)
          continue
        }
        if (old != null && !await this.succeed(old, fresh)) continue
        return end(null)
      }
    }

    // Give the new view the values of the old one, and then its place; return whether it is still connected.
    async succeed(old, fresh) {
      fresh.beside = true
      try {
        for (let pass = 0; pass < PASSES && this.enter(old.doc, fresh.doc); pass++) await settle(fresh.doc)
      } catch (error) { // better without the values than not at all
        console.error("bokeh-dyno: what was entered could not be entered again:", error)
      }
      if (fresh.lost) {
        this.remove(fresh)
        return false
      }
      fresh.beside = false
      this.replace(old, fresh)
      return true
    }

    // Ask the site for this page again: it knows who is looking, and renews the token of the same session.
    async refresh() {
      let text
      try {
        const response = await fetch(location.href, {
          headers: {"Bokeh-Token": `${this.path} ${this.number} ${this.token}`},
          cache: "no-store",
          signal: AbortSignal.timeout(10_000),
        })
        if (response.status >= 500 || [204, 429].includes(response.status)) return "later"
        if ([401, 403, 404, 410].includes(response.status)) return "gone"
        if (!response.ok) return "ready" // a page that came by POST, say: the token that it has will have to do
        text = await response.text()
      } catch {
        return "later"
      }
      const element = this.elements(new DOMParser().parseFromString(text, "text/html"))[this.number]
      if (element == null) return "gone"
      this.token = element.dataset.bokehToken
      return "ready"
    }

    // Give the widgets of the new document what the visitor had entered in the old one; return whether there was any.
    enter(old, fresh) {
      const then = widgets(old), now = widgets(fresh)
      let any = false
      for (const [key, model] of then) {
        const target = now.get(key)
        if (target == null) continue
        const held = entered(target), values = {}
        for (const [name, value] of Object.entries(entered(model))) {
          const before = this.before.get(key)?.[name]
          if (JSON.stringify(value) === before || same(value, held[name])) continue // not the visitor's, or there already
          // the rows of a table mean something in the same table only
          if (name == "data" && JSON.stringify(held.data) !== before) continue
          const table = key.replace(/ rows$/, "")
          if (name == "indices" && !same(then.get(table).source.data, now.get(table).source.data)) continue
          const fits = fitting(target, name, value)
          if (fits === undefined || same(fits, held[name])) continue
          values[name] = name == "active" && labels(target) ? each(fits, (label) => labels(target).indexOf(label)) : fits
        }
        if (Object.keys(values).length == 0) continue
        target.setv(values)
        if (key.endsWith(" data")) now.get(key.replace(/ data$/, "")).view.change.emit() // or its rows stay as drawn
        any = true
      }
      return any
    }

    // Put the new view in the place of the old one, and the focus where it was, with what is typed but not yet entered.
    replace(old, fresh) {
      let focus = () => {}
      try {
        focus = this.refocus(old, fresh)
      } catch (error) {
        console.error("bokeh-dyno: the focus is lost:", error)
      }
      old.places.forEach((place, number) => fresh.places[number].style.cssText = place.style.cssText)
      this.remove(old)
      focus()
    }

    // Return what puts the focus where it was, once the old view is gone.
    refocus(old, fresh) {
      const focused = deepest(document.activeElement)
      let successor = null
      for (const [key, model] of widgets(old.doc)) {
        const position = controls(old.doc, model).indexOf(focused)
        if (position >= 0) successor = controls(fresh.doc, widgets(fresh.doc).get(key))[position]
      }
      if (successor == null || successor.tagName != focused.tagName) return () => {}
      const typed = focused.value, selection = [focused.selectionStart, focused.selectionEnd]
      return () => {
        successor.focus({preventScroll: true})
        if (selection[0] == null) return // not a text
        if (successor.value != typed) {
          successor.value = typed
          successor.dispatchEvent(new Event("input"))
          // the browser itself says this only of what is typed from now on
          successor.addEventListener("blur", () => successor.dispatchEvent(new Event("change")), {once: true})
        }
        successor.setSelectionRange(...selection)
      }
    }

    // Take a document from the page, and its data, for BokehJS keeps each document that it was ever given.
    remove({doc, places}) {
      try {
        doc.views_manager.clear()
        for (const model of doc.all_models) {
          if (model.type == "ColumnDataSource") model.setv({data: {}}, {sync: false})
        }
      } catch (error) {
        console.error("bokeh-dyno: what a view that is gone holds is not given back:", error)
      }
      places.forEach((place) => place.remove())
      Bokeh.documents.splice(Bokeh.documents.indexOf(doc), 1)
    }

    say(text) {
      this.status?.remove()
      this.status = null
      if (text == null) return
      this.status = document.createElement("div")
      this.status.setAttribute("role", "status")
      this.status.className = "bokeh-status"
      Object.assign(this.status.style, {
        position: "sticky", bottom: "8px", zIndex: "10", width: "fit-content", margin: "8px auto 0", padding: "4px 12px",
        borderRadius: "4px", font: "14px/20px system-ui, sans-serif", color: "#fff", background: "#333c",
      })
      const place = this.own_page ? document.body : this.element
      place.append(this.status)
      this.status.textContent = text // in the page already, or a screen reader would not say it
    }
  }

  // a page may get this script once more, with a part of it that comes later
  const added = [...document.querySelectorAll("[data-bokeh-token]:not([data-bokeh-open])")]
  const apps = added.map((element) => new App(element))
  for (const {element} of apps) element.dataset.bokehOpen = ""
  const present = new Set([...document.scripts].map((script) => script.getAttribute("src")))
  for (const {element} of apps) {
    for (const script of JSON.parse(element.dataset.bokehLater ?? "[]")) {
      if (!present.has(script.src)) later.set(script.src, script)
    }
  }
  // BokehJS comes after this script: it is there once the page is
  const loaded = new Promise((done) => {
    if (document.readyState == "complete") done()
    document.addEventListener("DOMContentLoaded", done)
    addEventListener("load", done)
  })
  void loaded.then(() => apps.forEach((app) => void app.open()))
})()
