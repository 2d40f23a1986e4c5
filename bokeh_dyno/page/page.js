// Shows the Bokeh apps of a page, and brings each back when its connection is lost: another worker, another dyno, another
// version of the site. On an app's own page, which Bokeh makes, bokeh_dyno/bokeh/__main__.py has this script in the place
// of Bokeh's. What the site serves of it is one script, dyno.js: the modules beside this file, joined (static.py).
//
// BokehJS gets its WebSockets from here (dial, in connection.js), so that the session and its document can be there before
// BokehJS is, and no message arrives before the bundle that it needs.
//
// BokehJS reconnects by itself, but gives up after 30 s, with the token that it has, and what it then shows is a new session
// without the visitor's values; and BokehJS 3.9 cannot read the document of a session that was made anew when it holds
// arrays ("buffer for id=… not found"), which 3.10 can. Once it can be given a fresh token and more patience, enter() and
// what it needs, in values.js, is all that is left of this.
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
import {BUSY, FINAL, TOO_BIG, TRY_AGAIN, delay, dial, handing_over, settle, sleep_lightly} from "./connection.js"
import {address, here, later, load, loading, ran} from "./scripts.js"
import {ENTERED, HARMS, enter, entered, suspects, texts, widgets} from "./values.js"

const QUIET = 1000 // ms without a word: most interruptions are shorter
const STABLE = 10_000 // ms that a connection has to stand for what failed before to be forgotten
const TRIES = 3 // to show a document: what BokehJS cannot read does not get better by asking for it again
const CONNECTIONS = 20 // that fail while the site answers: after 8 minutes or so, that does not get better either
const BLOCKED = 3 // of the first ones, none of which was even opened: something in between lets none pass
const SILENCES = 500 // requests that the site did not answer, some hours of them: it is gone
const LATE = 2000 // ms without the document: the session's worker does something else
const READ = 5000 // ms that a notice is there at least
const PASSES = 3 // of entering the values: some widgets, or their options, only come when others have theirs

const NO_PART = "This plot cannot be shown: a part of the page did not load. Reload it."
const NOT_LET_IN = "You are not let in to this plot at the moment. Reload the page."

const LEAVING = 2000 // ms after which a page that was about to be left is still there
let leaving = -Infinity

// The element that has the focus, in whatever shadow root
/** @type {(element: any) => any} */
const deepest = (element) => element?.shadowRoot?.activeElement ? deepest(element.shadowRoot.activeElement) : element
/** @type {(doc: Doc, model?: Model) => any[]} */
const controls = (doc, model) => {
  const root = model && doc.views_manager.find_one(model)?.el.shadowRoot
  return root ? [...root.querySelectorAll("input, textarea, select, button, [tabindex]")] : []
}

// Where apps are on a page. A script with a token is an app's own page, and may be there twice.
/** @type {(page: any) => Place[]} */
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
  /** @param {Place} element @param {Script[] | null} scripts */
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
    /** @type {any} */
    this.shown = null // the view that there is, and its WebSocket
    /** @type {Map<string, Record<string, string>> | null} */
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
  /** @param {Document} page @returns {Place[]} */
  elements(page) {
    return elements(page).filter((one) => one.dataset.bokehApp == this.path)
  }

  async open() {
    for (const script of [...this.scripts ?? [], ...JSON.parse(this.element.dataset.bokehLater ?? "[]")]) {
      const src = address(script.src)
      if (!ran.has(src) && !loading.has(src)) later.set(src, script)
    }
    /** @type {any[]} */
    this.places = this.own_page
      ? this.element.dataset.bokehRoots.split(" ").map((id) => document.getElementById(id)).filter((place) => place)
      : [this.element.appendChild(document.createElement("div"))]
    if (window.Bokeh == null && this.scripts != null) await load(this.scripts)
    if (this.left) return
    /** @type {(value: any, name: string) => any} */
    const reach = (value, name) => value?.[name]
    const missing = ["Bokeh", "Bokeh.embed", "Bokeh.embed.add_document_from_session", "Bokeh.documents"]
      .find((path) => path.split(".").reduce(reach, window) == null)
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
  /** @param {Shown | null} old */
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
    /** @type {any[]} */
    const places = old?.places.map((place) => {
      /** @type {any} */
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
  /** @param {Metadata} metadata */
  async load({scripts = [], styles = []}) {
    /** @type {NodeListOf<HTMLLinkElement>} */
    const links = document.querySelectorAll("link[rel=stylesheet]")
    const linked = [...links].map((link) => link.href)
    for (const href of styles.filter((style) => !linked.includes(address(style)))) {
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
  /** @param {Doc} doc @param {HTMLElement[]} places @param {Dialed} dialed */
  watch(doc, places, dialed) {
    /** @type {Shown} */
    const shown = {doc, places, dialed, lost: false, beside: false} // beside: the old one, while it is given the values
    this.shown = shown
    // Panel sets both to false for every app of its own, which is no wish of the app's
    const recovers = doc.config.reconnect_session || !doc.config.notify_connection_status
    /** @type {(connection?: any) => void} */
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

  // The connection is lost: what was not answered may be why.
  /** @param {Shown} shown */
  blame({doc, dialed: {sent}}) {
    const messages = [...sent.values()]
    sent.clear()
    messages.forEach(({timer}) => clearTimeout(timer))
    this.render()
    const harm = this.closed?.()?.code == TOO_BIG ? HARMS : 1
    for (const one of suspects(doc, messages)) this.harms.set(one, (this.harms.get(one) ?? 0) + harm)
  }

  // The server has answered a message.
  /** @param {Message} message @param {boolean} failed */
  answered(message, failed) {
    if (this.harms.size > 0) suspects(this.shown.doc, [message]).forEach((one) => this.harms.delete(one))
    if (failed) this.failed()
    else if (message.entered.length > 0 && message.time > this.noted_at + READ) this.note(null)
    this.render()
  }

  // A message would have been larger than the server takes.
  /** @param {number} size @param {number} most */
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
  /** @param {Shown | null} old */
  async recover(old) {
    const began = Date.now()
    this.note(null)
    const notice = setTimeout(() => this.say("Reconnecting…"), QUIET)
    /** @type {(text: string | null) => void} */
    const end = (text) => {
      clearTimeout(notice)
      this.say(text)
      if (this.left && old != null) this.remove(old)
    }
    let wait = this.failures > 1 ? delay(0, this.failures) : began - leaving < LEAVING ? LEAVING : 0
    for (;; wait = delay(Date.now() - began, this.failures)) {
      /** @type {any} */
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
  /** @param {Shown} old @param {Shown} fresh */
  async succeed(old, fresh) {
    fresh.beside = true
    this.left_out.clear()
    try {
      for (let pass = 0; pass < PASSES && enter(old.doc, fresh.doc, this); pass++) await settle(fresh.doc)
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

  // Put the new view in the place of the old one, and the focus where it was, with what is typed but not yet entered.
  /** @param {Shown} old @param {Shown} fresh */
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
  /** @param {Shown} old @param {Shown} fresh */
  refocus(old, fresh) {
    const focused = deepest(document.activeElement)
    /** @type {any} */
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
  /** @param {Shown} shown */
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
  /** @param {string | null} text */
  say(text) {
    this.said = text
    this.render()
  }

  // Say what has happened: until it is clicked, or the visitor goes on and that works.
  /** @param {string | null} text */
  note(text) {
    this.noted = text
    /** @type {number} */
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

// Show the apps of the page, those too that come later
const start = () => {
  addEventListener("beforeunload", () => leaving = Date.now())

  // BokehJS comes after this script: it is there once the page is
  let whole = document.readyState == "complete"
  const loaded = new Promise((done) => {
    if (whole) done(null)
    document.addEventListener("DOMContentLoaded", done)
    addEventListener("load", done)
  }).then(() => {
    if (!whole) for (const script of document.scripts) ran.add(script.src)
    whole = true
  })

  /** @type {Set<App>} */
  const apps = new Set()
  /** @type {() => any[]} */
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
}

// a page may get this script again, with a part of it that comes later, or twice from the template of an app's own page
const HERE = Symbol.for("bokeh-dyno")
if (!window[HERE]) {
  window[HERE] = true
  start()
}
