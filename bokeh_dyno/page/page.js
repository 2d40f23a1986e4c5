// Shows the Bokeh apps of a page, and brings each back when its connection is lost: another worker, another dyno, another
// version of the site. On an app's own page, which Bokeh makes, bokeh_dyno/bokeh/__main__.py has this script in the place of Bokeh's.
//
// BokehJS gets its WebSockets from here (dial, below), so that the session and its document can be there before BokehJS
// is, and no message arrives before the bundle that it needs.
//
// BokehJS reconnects by itself, but gives up after 30 s, with the token that it has, and what it then shows is a new session
// without the visitor's values; and BokehJS 3.9 cannot read the document of a session that was made anew when it holds
// arrays ("buffer for id=… not found"), which 3.10 can. Once it can be given a fresh token and more patience, enter() and
// what it needs is all that is left of this file.
//
// An app that sets curdoc().config.reconnect_session = False is left to itself, with BokehJS's own notice.
//
// What is taken from BokehJS 3.9 and 3.10. Documented: Bokeh.documents, index, Models.get, Document.roots, .on_change,
// .remove_on_change, Model.setv, .references. Not documented, and what goes without:
//   embed.add_document_from_session, Document.views_manager     everything: the page says that it cannot be shown
//   Document.config, .on_event("connection_lost")               everything: a page must not be left half alive
//   that it takes the global WebSocket and its onclose at once  everything: it would open one of its own
//   the headers of Bokeh's protocol, as dial reads them         the document is waited for a round trip longer
//   that it sends a message's parts, and calls on_change, in    everything: a message must not be sent in half
//     one go (dial's send)                                      what a lost connection is blamed on, "Working…"
//   Document.on_message                                         that a callback failed which no visitor called
//   properties.NAME.is_unset, .get_value; views' el             what the visitor has entered, or the focus
//   Document.all_models                                         memory of views that are gone
//   the provider of MathJax                                     formulas that come later
(() => {
  "use strict"

  // a page may get this script again, with a part of it that comes later, or twice from the template of an app's own page
  const HERE = Symbol.for("bokeh-dyno")
  if (window[HERE]) return
  window[HERE] = true

  const QUIET = 1000 // ms without a word: most interruptions are shorter
  const STABLE = 10_000 // ms that a connection has to stand for what failed before to be forgotten
  const TRIES = 3 // to show a document: what BokehJS cannot read does not get better by asking for it again
  const CONNECTIONS = 20 // that fail while the site answers: after 8 minutes or so, that does not get better either
  const BLOCKED = 3 // of the first ones, none of which was even opened: something in between lets none pass
  const SILENCES = 500 // requests that the site did not answer, some hours of them: it is gone
  const HARMS = 2 // connections that were lost after a value was sent: it is not entered again
  const LATE = 2000 // ms without the document: the session's worker does something else
  const SLOW = 1000 // ms without the answer to what the visitor has entered
  const READ = 5000 // ms that a notice is there at least

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
  // close codes (bokeh_dyno/bokeh/websocket.py), the reason being a sentence for the visitor: try again later; do not try again
  const TRY_AGAIN = 1013, FINAL = 4000
  const TOO_BIG = 1009 // what was sent, to a server that did not say how much it takes
  const FRAGMENT = 500 // bytes for which each part of a message counts, beside its own
  const PASSES = 3 // of entering the values: some widgets, or their options, only come when others have theirs
  // what a visitor enters, in any widget; value_throttled and value_input are what some apps listen to instead of value;
  // the last two are a table's: of its Selection and, when it is editable, of its source
  const ENTERED = [
    "value", "value_throttled", "value_input", "active", "color", "filename", "mime_type", "indices", "data",
  ]

  const NO_PART = "This plot cannot be shown: a part of the page did not load. Reload it."
  const NOT_LET_IN = "You are not let in to this plot at the moment. Reload the page."

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

  // A page in <iframe srcdoc> has no address of its own, and cannot be asked for again
  const here = () => location.host ? location.href : document.baseURI
  const address = (path) => new URL(path, here()).href

  // Addresses of the scripts that the browser ran because they are in the page. Others may be in it later: of a fragment
  // that came as text, they do not run.
  const ran = new Set()

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
      const src = address(attributes.src)
      if (loading.has(src)) continue // for another app
      const script = document.createElement("script")
      script.async = false
      for (const [name, value] of Object.entries(attributes)) script.setAttribute(name, value)
      loading.set(src, new Promise((done) => {
        script.onload = () => done(true)
        script.onerror = () => done(false)
      }))
      document.head.append(script)
    }
    for (const src of scripts.map((script) => address(script.src))) {
      if (await loading.get(src)) {
        later.delete(src)
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

  // Let the promises that are resolved go on: BokehJS reads a document in those, and takes nothing else before
  const turn = () => new Promise((done) => {
    const {port1, port2} = new MessageChannel() // a timer would take 4 ms
    port1.onmessage = done
    port2.postMessage(null)
  })

  // Open a session's WebSocket. Its events wait for release(), when BokehJS listens, and each for the bundles it needs.
  //
  // The document comes right after the ACK, a round trip before BokehJS has it from having asked, and while it is still
  // being read (WebSocket in bokeh_dyno/bokeh/websocket.py): the ACK's metadata name the request that this answers. BokehJS asks all
  // the same, as its first message; that goes no further, and what has come becomes the answer to it. A server that does
  // not know this just waits for BokehJS.
  //
  // A close is heard only after watch(), which listens for it: the views of some models wait for an image, or for MathJax.
  //
  // `about` are the ACK's metadata; besides `document`: `most`, the bytes that a message may have, and `scripts` and
  // `styles`, what this very document needs. `sent` are the messages that the server has not answered, which it does one
  // after the other, each when the app's callbacks have run; `told` is called for what becomes of them.
  //
  // `there` is resolved when the document is, and rejected when the connection is lost before: of a WebSocket that does
  // not get so far, BokehJS would write errors into the console.
  const dial = (url, token, told) => {
    const socket = new WebSocket(`${url}?document=1`, ["bokeh", token])
    socket.binaryType = "arraybuffer"
    const events = []
    let closed = null // the event
    let busy = true, passing = null // until release()
    let header = null, left = 0 // of the message that is coming: header, metadata, content, and two parts for each buffer
    let request = null, reply = null // the id of the request that the server answers unasked; the event that begins that
    let asked = null // the id of BokehJS's own request
    let about = {}, opened = false
    let parts = [], outgoing = null // of the message that BokehJS is sending: header, metadata, content …; its header
    let last = null // message that it has sent
    const sent = new Map() // by id: {entered, slow, timer}
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
        if (header.msgtype == "ACK" && left == 1) {
          about = JSON.parse(event.data)
          request = about.document ?? null
        }
        if (left == 0 && sent.has(header.reqid)) {
          const message = sent.get(header.reqid)
          clearTimeout(message.timer)
          sent.delete(header.reqid)
          told.answered(message, header.msgtype == "ERROR" && JSON.parse(event.data).text == "the app has failed")
        }
        return left == 0 && (request == null || reply != null)
      }
      const read = (event) => {
        if (event == passing) return // seen already
        try {
          if (whole(event)) resolve()
        } catch { // another protocol: for BokehJS to understand, or not
          reply = null
          socket.removeEventListener("message", read)
          resolve()
        }
      }
      socket.addEventListener("message", read)
      socket.addEventListener("open", () => opened = true)
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

    // What BokehJS sends, when it is whole
    const send_native = socket.send.bind(socket)
    const bytes = (part) => FRAGMENT + (part.byteLength ?? new Blob([part]).size)
    const bytes_at_most = (part) => FRAGMENT + (part.byteLength ?? 3 * part.length)
    const sum = (numbers) => numbers.reduce((all, one) => all + one, 0)
    const send = (part) => {
      if (parts.length == 0) outgoing = JSON.parse(part)
      parts.push(part)
      if (parts.length < 3 + 2 * (outgoing.num_buffers ?? 0)) return
      const whole_message = parts.splice(0)
      if (reply != null && asked == null) {
        asked = outgoing.msgid
        return
      }
      last = {entered: [], slow: false, time: Date.now()}
      if (sum(whole_message.map(bytes_at_most)) > about.most && sum(whole_message.map(bytes)) > about.most) {
        return told.refused(sum(whole_message.map(bytes)), about.most) // nobody waits for the answer to a change
      }
      if (outgoing.msgtype == "PATCH-DOC" && socket.readyState == WebSocket.OPEN) {
        const message = last
        sent.set(outgoing.msgid, message)
        message.timer = setTimeout(() => {
          message.slow = true
          told.render()
        }, SLOW)
      }
      for (const one of whole_message) send_native(one)
    }

    const release = () => {
      socket.send = send
      void pass()
    }
    return {
      socket, there, release, watch, sent,
      closed: () => closed, about: () => about, opened: () => opened, last: () => last, close: () => socket.close(),
    }
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
  const title = (model) => model.title?.text ?? model.title ?? model.label ?? ""
  const widgets = (doc) => {
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

  const labels = (model) => model.labels ?? model.tabs?.map((tab) => tab.title)
  const each = (value, change) => Array.isArray(value) ? value.map(change) : change(value)

  // What a widget holds, by property; what is chosen of a group by its label, for a deploy may change their order
  const entered = (model, names = ENTERED) => {
    const values = {}
    for (const name of names) {
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

  // Where apps are on a page. A script with a token is an app's own page, and may be there twice.
  const elements = (page) => {
    const own = new Set()
    return [...page.querySelectorAll("[data-bokeh-token]")].filter(({tagName, dataset: {bokehToken}}) => {
      const again = own.has(bokehToken)
      if (tagName == "SCRIPT") own.add(bokehToken)
      return !again
    })
  }

  // The sentences that are over the page, of all apps, at the bottom of the window
  const board = document.createElement("div")
  Object.assign(board.style, {
    position: "fixed", inset: "auto 8px 8px", zIndex: "9999", display: "grid", gap: "4px", justifyItems: "center",
    pointerEvents: "none",
  })

  class App {
    // scripts: bundles that came with the element, if that came later than the page; they may not have run
    constructor(element, scripts) {
      this.element = element
      this.scripts = scripts
      this.path = element.dataset.bokehApp
      this.number = this.elements(document).indexOf(element)
      this.token = element.dataset.bokehToken
      this.of_page = scripts == null && location.host != "" // or the site does not know this token at this page's address
      this.attempt = 0
      this.failures = 0 // since a connection has stood for a while: of any kind, ...
      this.unshown = 0 // ... and to show a document that was there
      this.silences = 0 // of the site, one after the other
      this.opened = false // whether a WebSocket ever was
      this.harms = new Map() // connections lost after a value was sent, by key, property and value
      this.left_out = new Set() // what is therefore not entered again
      this.shown = null // the view that there is, and its WebSocket
      this.before = null // what the widgets held when the page was opened: what differs is the visitor's
      this.own_page = element.tagName == "SCRIPT" // of the app, whose template has the places of the roots
      try {
        this.dialed = this.dial() // while the browser still reads BokehJS, the server runs the app
      } catch {
        this.dialed = null // connect() tries it again, and says why not
      }
    }

    dial() {
      this.url = address(`${this.path}/ws`).replace("http", "ws")
      return dial(this.url, this.token, this)
    }

    // Where this app is on a page: once, or as often as it is shown there
    elements(page) {
      return elements(page).filter((one) => one.dataset.bokehApp == this.path)
    }

    async open() {
      for (const script of [...this.scripts ?? [], ...JSON.parse(this.element.dataset.bokehLater ?? "[]")]) {
        const src = address(script.src)
        if (!ran.has(src) && !loading.has(src)) later.set(src, script)
      }
      this.places = this.own_page
        ? this.element.dataset.bokehRoots.split(" ").map((id) => document.getElementById(id)).filter((place) => place)
        : [this.element.appendChild(document.createElement("div"))]
      if (window.Bokeh == null && this.scripts != null) await load(this.scripts)
      if (this.left) return
      const missing = ["Bokeh", "Bokeh.embed", "Bokeh.embed.add_document_from_session", "Bokeh.documents"]
        .find((path) => path.split(".").reduce((value, name) => value?.[name], window) == null)
      if (missing != null) {
        this.dialed?.close()
        console.error(`bokeh-dyno: there is no ${missing} (Bokeh ${window.Bokeh?.version ?? "did not load"})`)
        this.say(window.Bokeh == null ? NO_PART : "This plot cannot be shown.")
        return
      }
      try {
        await this.connect()
        this.say(null)
      } catch (error) {
        if (this.left) return
        console.warn("bokeh-dyno: not yet:", error)
        await this.recover(null)
      }
    }

    // Open the session and show its document: at first in its places, later in new ones beside those of the old
    // document, not seen yet.
    async connect(old = null) {
      this.failures += 1 // unless it stands for a while
      this.closed = null
      const dialed = this.dialed = this.dialed ?? this.dial()
      const {socket, there, release, watch} = dialed
      this.closed = dialed.closed
      const late = setTimeout(() => {
        if (this.said == null) this.say("This plot takes longer than usual: its server is busy.")
      }, LATE)
      try {
        await there
      } finally {
        this.opened ||= dialed.opened()
        this.dialed = null
        clearTimeout(late)
      }
      try {
        await this.load(dialed.about())
      } catch (error) {
        socket.close()
        throw error
      }
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
        const shown = this.watch(Bokeh.documents.find((doc) => doc.views_manager == views), places, dialed)
        watch()
        if (this.left) {
          this.remove(shown)
          throw new Error("its element was taken away")
        }
        this.render()
        return shown
      } catch (error) {
        this.unshown += 1
        socket.onclose = null // BokehJS would open another
        socket.close()
        places.forEach((place) => old == null ? place.replaceChildren() : place.remove())
        throw error
      }
    }

    // Load what this very document needs and the page does not have.
    async load({scripts = [], styles = []}) {
      const linked = [...document.querySelectorAll("link[rel=stylesheet]")].map((link) => link.href)
      for (const href of styles.filter((href) => !linked.includes(address(href)))) {
        document.head.append(Object.assign(document.createElement("link"), {rel: "stylesheet", href}))
      }
      const further = scripts.filter(({src}) => !ran.has(address(src)))
      this.complete = further.length == 0 || await load(further)
      if (!this.complete) {
        this.unshown += 1
        throw new Error("a script of the document did not load")
      }
      if (this.left) throw new Error("its element was taken away")
    }

    // Be there when the document loses its connection; return it with the elements that show its roots.
    watch(doc, places, dialed) {
      const shown = {doc, places, dialed, lost: false, beside: false} // beside: the old one, while it is given the values
      this.shown = shown
      // Panel sets both to false for every app of its own, which is no wish of the app's
      const recovers = doc.config.reconnect_session || !doc.config.notify_connection_status
      const lose = (connection) => {
        clearTimeout(shown.stable)
        connection?.close() // or each change of a widget would be an error in the console
        if (recovers && !shown.lost && !shown.beside) void this.recover(shown)
        shown.lost = true
        this.blame(shown)
      }
      if (recovers) {
        doc.config.setv({reconnect_session: false, notify_connection_status: false}, {sync: false})
        doc.on_event("connection_lost", (_, event) => lose(event.connection.deref()))
      }
      // after a beforeunload, also a download's, BokehJS says nothing
      dialed.socket.addEventListener("close", () => lose())
      shown.empty = doc.roots().length == 0
      doc.on_change(({attr, model, sync}) => {
        if (attr == null) {
          shown.empty = doc.roots().length == 0
          this.render()
        } else if (sync && ENTERED.includes(attr)) { // BokehJS has just sent it
          dialed.last()?.entered.push([model, attr, JSON.stringify(entered(model, [attr])[attr])])
        }
      })
      doc.on_message("dyno-failed", () => this.failed())
      this.before ??= new Map([...widgets(doc)].map(([key, model]) => [key, texts(entered(model))]))
      if (!shown.lost) shown.stable = setTimeout(() => this.failures = this.unshown = 0, STABLE)
      return shown
    }

    // What was entered in messages to the server, as enter() looks for it
    suspects(doc, messages) {
      const all = messages.flatMap((message) => message.entered)
      const keys = new Map(all.length > 0 ? [...widgets(doc)].map(([key, model]) => [model, key]) : [])
      return new Set(all.map(([model, ...rest]) => [keys.get(model), ...rest].join("\n")))
    }

    // The connection is lost: what was not answered may be why.
    blame({doc, dialed: {sent}}) {
      const messages = [...sent.values()]
      sent.clear()
      messages.forEach(({timer}) => clearTimeout(timer))
      this.render()
      const harm = this.closed?.()?.code == TOO_BIG ? HARMS : 1
      for (const one of this.suspects(doc, messages)) this.harms.set(one, (this.harms.get(one) ?? 0) + harm)
    }

    // The server has answered a message.
    answered(message, failed) {
      if (this.harms.size > 0) this.suspects(this.shown.doc, [message]).forEach((one) => this.harms.delete(one))
      if (failed) this.failed()
      else if (message.entered.length > 0 && message.time > this.noted_at + READ) this.note(null)
      this.render()
    }

    // A message would have been larger than the server takes.
    refused(size, most) {
      const [takes, possible] = [size, most].map((bytes) => (bytes / 1e6).toFixed(1))
      this.note(`That is too large to be sent: it takes ${takes} MB, and ${possible} MB are possible.`)
    }

    // A callback of the app has raised an exception.
    failed() {
      if (this.shown == null || this.shown.failed) return
      this.shown.failed = true
      this.note("This plot may be out of date: its app has failed.")
    }

    // Try until the site is back, then put the new view with the visitor's values in the place of the old one. End with a
    // sentence where trying again cannot help.
    async recover(old) {
      const began = Date.now()
      this.note(null)
      const notice = setTimeout(() => this.say("Reconnecting…"), QUIET)
      const end = (text) => {
        clearTimeout(notice)
        this.say(text)
        if (this.left && old != null) this.remove(old)
      }
      let wait = this.failures > 1 ? delay(0, this.failures) : began - leaving < LEAVING ? LEAVING : 0
      for (;; wait = delay(Date.now() - began, this.failures)) {
        const {code, reason} = this.closed?.() ?? {}
        if (code >= FINAL) return end(reason)
        if (code == TRY_AGAIN) {
          clearTimeout(notice)
          this.say(`${reason} Trying again…`)
          wait = delay(0, this.failures, BUSY)
        } else if (this.failures >= CONNECTIONS) {
          const why = this.opened ? "connection is lost again and again" : "WebSocket does not get through"
          return end(`This plot cannot be shown: its ${why}. Reload the page.`)
        }
        if (this.unshown >= TRIES) return end(this.complete ? "This plot cannot be shown." : NO_PART)
        await sleep_lightly(wait)
        const answer = this.left || await this.refresh()
        if (this.left) return end(null)
        if (answer == "gone") return end("This plot is not available any more. Reload the page.")
        if (answer == "refused") return end(NOT_LET_IN)
        if (answer == "later") {
          if (++this.silences >= SILENCES) {
            return end("This plot has ended: the site has not answered for hours. Reload the page.")
          }
          this.closed = null // what was said of the connection has been said
          continue
        }
        this.silences = 0
        if (!this.opened && this.failures >= BLOCKED) {
          if (await this.locked()) return end(NOT_LET_IN)
          clearTimeout(notice)
          this.say("This plot is not here yet: its WebSocket does not get through. Trying again…")
        }
        let fresh
        try {
          fresh = await this.connect(old)
        } catch (error) {
          console.info("bokeh-dyno: not yet:", error)
          continue
        }
        if (old != null && !await this.succeed(old, fresh)) continue
        if (this.left_out.size > 0) {
          const which = [...this.left_out].map((called) => `“${called}”`).join(", ")
          this.note(`Not entered again, for the connection was lost after it: ${which}.`)
        }
        return end(null)
      }
    }

    // Give the new view the values of the old one, and then its place; return whether it is still connected.
    async succeed(old, fresh) {
      fresh.beside = true
      this.left_out.clear()
      try {
        for (let pass = 0; pass < PASSES && this.enter(old.doc, fresh.doc); pass++) await settle(fresh.doc)
      } catch (error) { // better without the values than not at all
        console.error("bokeh-dyno: what was entered could not be entered again:", error)
      }
      if (fresh.lost) {
        this.remove(fresh)
        this.shown = old
        return false
      }
      fresh.beside = false
      this.replace(old, fresh)
      return true
    }

    // Ask the site for this page again: it knows who is looking, and renews the token of the same session. What is no part
    // of the page keeps its token.
    async refresh() {
      let response, text
      try {
        response = await fetch(here(), {
          method: this.of_page ? "GET" : "HEAD",
          headers: this.of_page ? {"Bokeh-Token": `${this.path} ${this.number} ${this.token}`} : {},
          cache: "no-store",
          signal: AbortSignal.timeout(10_000),
        })
        if (response.status >= 500 || [204, 429].includes(response.status)) return "later"
        if (!this.of_page) return "ready"
        if ([401, 403].includes(response.status)) return "refused"
        if ([404, 410].includes(response.status)) return "gone"
        if (!response.ok) return "ready" // a page that came by POST, say: the token that it has will have to do
        text = await response.text()
      } catch {
        return "later"
      }
      const element = this.elements(new DOMParser().parseFromString(text, "text/html"))[this.number]
      if (element == null) return response.redirected ? "refused" : "gone" // to a login
      this.token = element.dataset.bokehToken
      return "ready"
    }

    // Whether the app is only for those who are let in: of a WebSocket that was refused, the browser does not say why.
    async locked() {
      try {
        const {status, type} = await fetch(`${address(this.path)}/metadata`, {
          redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(10_000),
        })
        return [401, 403].includes(status) || type == "opaqueredirect"
      } catch {
        return false
      }
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
          if (this.harms.get([key, name, JSON.stringify(fits)].join("\n")) >= HARMS) {
            const one = then.get(key.replace(/ (rows|data)$/, ""))
            this.left_out.add(title(one) || one.name || one.type)
            continue
          }
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
    remove(shown) {
      const {doc, places, dialed: {socket}} = shown
      const position = Bokeh.documents.indexOf(doc)
      if (position < 0) return // already
      shown.lost = true
      socket.onclose = null // nor does BokehJS need to know
      socket.close()
      try {
        doc.views_manager.clear()
        for (const model of doc.all_models) {
          if (model.type == "ColumnDataSource") model.setv({data: {}}, {sync: false})
        }
      } catch (error) {
        console.error("bokeh-dyno: what a view that is gone holds is not given back:", error)
      }
      places.forEach((place) => place.remove())
      Bokeh.documents.splice(position, 1)
    }

    // The element was taken from the page: its document and its WebSocket go, too.
    leave() {
      this.left = true
      this.dialed?.close()
      if (this.shown != null) this.remove(this.shown)
      this.render()
      delete this.element.dataset.bokehOpen // it may come back
    }

    // Say how things stand, until that is taken back with null.
    say(text) {
      this.said = text
      this.render()
    }

    // Say what has happened: until it is clicked, or the visitor goes on and that works.
    note(text) {
      this.noted = text
      this.noted_at = Date.now()
      this.render()
    }

    // Have the page say what there is to say: where the plot would be, or over the page when there is one.
    render() {
      const {empty, dialed} = this.shown ?? {}
      let text = this.said
      if (empty) text ??= "This plot is empty so far."
      if ([...dialed?.sent.values() ?? []].some((message) => message.slow)) text ??= "Working…"
      text ??= this.noted
      if (this.left) text = null
      if (text == this.status?.textContent) return
      this.status?.remove()
      this.status = null
      if (text == null) return
      this.status = document.createElement("div")
      this.status.setAttribute("role", "status")
      this.status.className = "bokeh-status"
      Object.assign(this.status.style, {
        width: "fit-content", margin: "8px auto 0", padding: "4px 12px", border: "1px solid #888", borderRadius: "4px",
        font: "14px/20px system-ui, sans-serif", color: "#fff", background: "#333", pointerEvents: "auto",
      })
      if (text == this.noted) this.status.onclick = () => this.note(null)
      if (this.shown != null && !empty) {
        if (!board.isConnected) document.body.append(board)
        board.append(this.status)
      } else if (this.own_page) {
        const place = this.places?.[0]
        if (place != null) place.before(this.status)
        else document.body.append(this.status)
      } else {
        this.element.append(this.status)
      }
      this.status.textContent = text // in the page already, or a screen reader would not say it
    }
  }

  // BokehJS comes after this script: it is there once the page is
  let whole = document.readyState == "complete"
  const loaded = new Promise((done) => {
    if (whole) done()
    document.addEventListener("DOMContentLoaded", done)
    addEventListener("load", done)
  }).then(() => {
    if (!whole) for (const script of document.scripts) ran.add(script.src)
    whole = true
  })

  const apps = new Set()
  const bundles = () => [...document.scripts]
    .filter(({src}) => /\/bokeh[^/]*\.js/.test(src) && !ran.has(src) && !loading.has(src))
    .map((script) => Object.fromEntries([...script.attributes].map(({name, value}) => [name, value])))
  const look = () => {
    for (const element of elements(document)) {
      if (element.dataset.bokehOpen != null) continue
      element.dataset.bokehOpen = ""
      const app = new App(element, whole ? bundles() : null)
      apps.add(app)
      void loaded.then(() => app.open())
    }
  }
  look()
  new MutationObserver(() => {
    for (const app of apps) {
      if (app.element.isConnected || app.own_page) continue // also when it was only moved
      app.leave()
      apps.delete(app)
    }
    look()
  }).observe(document, {childList: true, subtree: true})
})()
