// Shows the Bokeh apps of a page, and brings each back when its connection is lost: another worker, another dyno, another
// version of the site. On an app's own page, which Bokeh makes, bokeh_dyno/bokeh/own_page.py has this script in the place
// of Bokeh's. What the site serves of it is one script, dyno.js: the modules beside this file, joined (static.py).
//
// BokehJS gets its WebSockets from here (open_socket, in connection.js), so that the session and its document can be there
// before BokehJS is, and no message arrives before the bundle that it needs.
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
//   the headers of Bokeh's protocol, as open_socket reads them  the document is waited for a round trip longer
//   that it sends a message's parts, and calls on_change, in    everything: a message must not be sent in half
//     one go (open_socket's send)                               what a lost connection is blamed on, "Working…"
//   Document.on_message                                         that a callback failed which no visitor called
//   properties.NAME.is_unset, .get_value; views' el             what the visitor has entered, or the focus
//   Document.all_models                                         memory of views that are gone
//   the provider of MathJax                                     formulas that come later
//   Bokeh.require and what theme.js takes by it                 the page's colours, in plots and widgets
import {BUSY_DELAY, GIVE_UP, RESTART, TOO_BIG, TRY_AGAIN, delay} from "./connection.js"
import {open_socket, settle, sleep_or_wake, with_socket} from "./connection.js"
import {MAX_UPLOAD, address, deferred, load, load_reading, loading, page_scripts, page_url} from "./scripts.js"
import {watch_for_bokeh} from "./theme.js"
import {INPUTS, MAX_LOSSES, as_json, enter, entered, loss_keys, widgets} from "./values.js"

const NOTICE_AFTER = 1000 // ms without a word: most interruptions are shorter
const STABLE_AFTER = 10_000 // ms that a connection has to stand for what failed before to be forgotten
const MAX_SHOW_FAILURES = 3 // to show a document: what BokehJS cannot read does not get better by asking for it again
const MAX_FAILURES = 20 // that fail while the site answers: after 8 minutes or so, that does not get better either
const BLOCKED_AFTER = 3 // of the first ones, none of which was even opened: something in between lets none pass
const MAX_NO_ANSWERS = 500 // requests that the site did not answer, some hours of them: it is gone
const LATE_AFTER = 2000 // ms without the document: the session's worker does something else
const NOTE_TIME = 5000 // ms that a notice is there at least
const MAX_PASSES = 3 // of entering the values: some widgets, or their options, only come when others have theirs

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
const app_elements = (page) => {
  const own = new Set()
  return [...page.querySelectorAll("[data-bokeh-token]")].filter(({tagName, dataset: {bokehToken}}) => {
    const again = own.has(bokehToken)
    if (tagName == "SCRIPT") own.add(bokehToken)
    return !again
  })
}

// The sentences that are over the page, of all apps, at the bottom of the window
const notices = document.createElement("div")
Object.assign(notices.style, {
  position: "fixed", inset: "auto 8px 8px", zIndex: "9999", display: "grid", gap: "4px", justifyItems: "center",
  pointerEvents: "none",
})

/** @type {(size: number, most: number) => string} */
const too_large = (size, most) => {
  const [takes, possible] = [size, most].map((bytes) => (bytes / 1e6).toFixed(1))
  return `That is too large to be sent: it takes ${takes} MB, and ${possible} MB are possible.`
}

class App {
  // scripts: bundles that came with the element, if that came later than the page; they may not have run
  /** @param {Place} element @param {Script[] | null} scripts */
  constructor(element, scripts) {
    this.element = element
    this.scripts = scripts
    this.path = element.dataset.bokehApp
    this.number = this.app_elements(document).indexOf(element)
    this.token = element.dataset.bokehToken
    // or the site does not know this token at this page's address
    this.refreshable = scripts == null && location.host != ""
    this.attempt = 0
    this.failures = 0 // since a connection has stood for a while: of any kind, ...
    this.show_failures = 0 // ... and to show a document that was there
    this.no_answers = 0 // of the site, one after the other
    this.opened = false // whether a WebSocket ever was
    this.losses = new Map() // connections lost after a value was sent, by key, property and value
    this.skipped = new Set() // what is therefore not entered again
    this.given = new Set() // what has been entered in the new document, by key and property
    this.lacks = false // whether something that was entered has no place in the new document, so far
    /** @type {any} */
    this.view = null // the view that there is, and its WebSocket
    /** @type {Map<string, Record<string, string>> | null} */
    this.initial = null // what the widgets held when the page was opened: what differs is the visitor's
    this.own_page = element.tagName == "SCRIPT" // of the app, whose template has the places of the roots
    try {
      this.connection = this.open_socket() // while the browser still reads BokehJS, the server runs the app
    } catch {
      this.connection = null // connect() tries it again, and says why not
    }
  }

  open_socket() {
    this.url = address(`${this.path}/ws`).replace("http", "ws")
    return open_socket(this.url, this.token, this)
  }

  // Where this app is on a page: once, or as often as it is shown there
  /** @param {Document} page @returns {Place[]} */
  app_elements(page) {
    return app_elements(page).filter((one) => one.dataset.bokehApp == this.path)
  }

  async open() {
    for (const script of [...this.scripts ?? [], ...JSON.parse(this.element.dataset.bokehLater ?? "[]")]) {
      const src = address(script.src)
      if (!page_scripts.has(src) && !loading.has(src)) deferred.set(src, script)
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
      this.connection?.close()
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
  /** @param {View | null} old */
  async connect(old = null) {
    this.failures += 1 // unless it stands for a while
    this.closed = null
    const connection = this.connection = this.connection ?? this.open_socket()
    const {socket, arrived, release, watch} = connection
    this.closed = connection.closed
    const late = setTimeout(() => {
      if (this.said == null) this.say("This plot takes longer than usual: its server is busy.")
    }, LATE_AFTER)
    try {
      await arrived
    } finally {
      this.opened ||= connection.opened()
      this.connection = null
      clearTimeout(late)
    }
    try {
      await this.load(connection.metadata())
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
      const opened = with_socket(
        socket, () => add_document_from_session(url, this.token, place, one_each, this.own_page),
      )
      release()
      const views = await opened
      const view = this.watch(Bokeh.documents.find((doc) => doc.views_manager == views), places, connection)
      watch()
      this.element.classList.remove("bokeh-loading")
      this.element.style.minHeight = "" // that it had from the start, bokeh_dyno/flask/embed.py
      if (this.left) {
        this.remove(view)
        throw new Error("its element was taken away")
      }
      this.render()
      return view
    } catch (error) {
      this.show_failures += 1
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
    const further = scripts.filter(({src}) => !page_scripts.has(address(src)))
    this.complete = further.length == 0 || await load(further)
    if (!this.complete) {
      this.show_failures += 1
      throw new Error("a script of the document did not load")
    }
    if (this.left) throw new Error("its element was taken away")
  }

  // Be there when the document loses its connection; return it with the elements that show its roots.
  /** @param {Doc} doc @param {HTMLElement[]} places @param {Connection} connection */
  watch(doc, places, connection) {
    /** @type {View} */
    // beside: the old one, while it is given the values
    const view = {doc, places, connection, lost: false, beside: false}
    this.view = view
    // Panel sets both to false for every app of its own, which is no wish of the app's
    const recovers = doc.config.reconnect_session || !doc.config.notify_connection_status
    /** @type {(own?: any) => void} */
    const lose = (own) => {
      clearTimeout(view.stable)
      own?.close() // or each change of a widget would be an error in the console
      if (this.closed?.()?.code == RESTART) this.failures = 0
      if (recovers && !view.lost && !view.beside) void this.recover(view)
      view.lost = true
      this.count_losses(view)
    }
    if (recovers) {
      doc.config.setv({reconnect_session: false, notify_connection_status: false}, {sync: false})
      doc.on_event("connection_lost", (_, event) => lose(event.connection.deref()))
    }
    // after a beforeunload, also a download's, BokehJS says nothing
    connection.socket.addEventListener("close", () => lose())
    view.empty = doc.roots().length == 0
    doc.on_change(({attr, model, sync}) => {
      if (attr == null) {
        view.empty = doc.roots().length == 0
        this.render()
      } else if (sync && INPUTS.includes(attr)) { // BokehJS has just sent it
        connection.last()?.entered.push([model, attr, JSON.stringify(entered(model, [attr])[attr])])
      }
    })
    doc.on_message("dyno-failed", () => this.failed())
    this.initial ??= new Map([...widgets(doc)].map(([key, model]) => [key, as_json(entered(model))]))
    if (!view.lost) view.stable = setTimeout(() => this.failures = this.show_failures = 0, STABLE_AFTER)
    return view
  }

  // The connection is lost: what was not answered may be why.
  /** @param {View} view */
  count_losses({doc, connection: {sent}}) {
    const messages = [...sent.values()]
    sent.clear()
    messages.forEach(({timer}) => clearTimeout(timer))
    this.render()
    const code = this.closed?.()?.code
    const harm = code == RESTART ? 0 : code == TOO_BIG ? MAX_LOSSES : 1
    for (const one of loss_keys(doc, messages)) this.losses.set(one, (this.losses.get(one) ?? 0) + harm)
  }

  // The server has answered a message.
  /** @param {Message} message @param {boolean} failed */
  answered(message, failed) {
    if (this.losses.size > 0) loss_keys(this.view.doc, [message]).forEach((one) => this.losses.delete(one))
    if (failed) this.failed()
    else if (message.entered.length > 0 && message.time > this.noted_at + NOTE_TIME) this.note(null)
    this.render()
  }

  // A message would have been larger than the server takes.
  /** @param {number} size @param {number} most */
  refused(size, most) {
    this.note(too_large(size, most))
  }

  // A callback of the app has raised an exception.
  failed() {
    if (this.view == null || this.view.failed) return
    this.view.failed = true
    this.note("This plot may be out of date: its app has failed.")
  }

  // Try until the site is back, then put the new view with the visitor's values in the place of the old one. End with a
  // sentence where trying again cannot help.
  /** @param {View | null} old */
  async recover(old) {
    const began = Date.now()
    this.note(null)
    const notice = setTimeout(() => this.say("Reconnecting…"), NOTICE_AFTER)
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
      if (code >= GIVE_UP) return end(reason)
      if (code == TRY_AGAIN) {
        clearTimeout(notice)
        this.say(`${reason} Trying again…`)
        wait = delay(0, this.failures, BUSY_DELAY)
      } else if (this.failures >= MAX_FAILURES) {
        const why = this.opened ? "connection is lost again and again" : "WebSocket does not get through"
        return end(`This plot cannot be shown: its ${why}. Reload the page.`)
      }
      if (this.show_failures >= MAX_SHOW_FAILURES) return end(this.complete ? "This plot cannot be shown." : NO_PART)
      await sleep_or_wake(wait)
      const answer = this.left || await this.refresh()
      if (this.left) return end(null)
      if (answer == "gone") return end("This plot is not available any more. Reload the page.")
      if (answer == "refused") return end(NOT_LET_IN)
      if (answer == "later") {
        if (++this.no_answers >= MAX_NO_ANSWERS) {
          return end("This plot has ended: the site has not answered for hours. Reload the page.")
        }
        this.closed = null // what was said of the connection has been said
        continue
      }
      this.no_answers = 0
      if (!this.opened && this.failures >= BLOCKED_AFTER) {
        if (await this.is_forbidden()) return end(NOT_LET_IN)
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
      if (old != null && !await this.take_over(old, fresh)) continue
      if (this.skipped.size > 0) {
        const which = [...this.skipped].map((called) => `“${called}”`).join(", ")
        this.note(`Not entered again, for the connection was lost after it: ${which}.`)
      }
      return end(null)
    }
  }

  // Give the new view the values of the old one, and then its place; return whether it is still connected.
  /** @param {View} old @param {View} fresh */
  async take_over(old, fresh) {
    fresh.beside = true
    this.skipped.clear()
    this.given.clear()
    try {
      // the last thing is always to enter: the visitor may go on in the meantime
      for (let pass = 0; enter(old.doc, fresh.doc, this) && pass < MAX_PASSES; pass++) {
        await settle(fresh.doc, fresh.connection, this.lacks)
      }
    } catch (error) { // better without the values than not at all
      console.error("bokeh-dyno: what was entered could not be entered again:", error)
    }
    if (fresh.lost) {
      this.remove(fresh)
      this.view = old
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
      response = await fetch(page_url(), {
        method: this.refreshable ? "GET" : "HEAD",
        headers: this.refreshable ? {"Bokeh-Token": `${this.path} ${this.number} ${this.token}`} : {},
        cache: "no-store",
        signal: AbortSignal.timeout(10_000),
      })
      // the site is being worked on, but open sessions go on: the token that there is will do
      if (response.headers.has("Dyno-Maintenance")) return "ready"
      if (response.status >= 500 || [204, 429].includes(response.status)) return "later"
      if (!this.refreshable) return "ready"
      if ([401, 403].includes(response.status)) return "refused"
      if ([404, 410].includes(response.status)) return "gone"
      if (!response.ok) return "ready" // a page that came by POST, say: the token that it has will have to do
      text = await response.text()
    } catch {
      return "later"
    }
    const element = this.app_elements(new DOMParser().parseFromString(text, "text/html"))[this.number]
    if (element == null) return response.redirected ? "refused" : "gone" // to a login
    this.token = element.dataset.bokehToken
    return "ready"
  }

  // Whether the app is only for those who are let in: of a WebSocket that was refused, the browser does not say why.
  async is_forbidden() {
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
  /** @param {View} old @param {View} fresh */
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
  /** @param {View} old @param {View} fresh */
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
  /** @param {View} view */
  remove(view) {
    const {doc, places, connection: {socket}} = view
    const position = Bokeh.documents.indexOf(doc)
    if (position < 0) return // already
    view.lost = true
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
    this.connection?.close()
    if (this.view != null) this.remove(this.view)
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
    const {empty, connection} = this.view ?? {}
    let text = this.said
    if (empty) text ??= "This plot is empty so far."
    if ([...connection?.sent.values() ?? []].some((message) => message.slow)) text ??= "Working…"
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
    if (this.view != null && !empty) {
      if (!notices.isConnected) document.body.append(notices)
      notices.append(this.status)
    } else if (this.own_page) {
      const place = this.places?.[0]
      if (place != null) place.before(this.status)
      else (document.querySelector("main") ?? document.body).append(this.status)
    } else {
      this.element.append(this.status)
    }
    this.status.textContent = text // in the page already, or a screen reader would not say it
  }
}

// Show the apps of the page, those too that come later
const start = () => {
  addEventListener("beforeunload", () => leaving = Date.now())

  // A form of the site with a file that the server will not take: the browser says so, and does not send it
  addEventListener("change", (event) => {
    const target = /** @type {any} */ (event.target)
    if (target.type != "file" || !`${target.form?.action}`.startsWith(location.origin)) return
    const size = [...target.files].reduce((all, file) => all + file.size, 0)
    target.setCustomValidity(size > MAX_UPLOAD ? too_large(size, MAX_UPLOAD) : "")
    target.reportValidity()
  })

  // BokehJS comes after this script: it is there once the page is
  let whole = document.readyState == "complete"
  const loaded = new Promise((done) => {
    if (whole) done(null)
    document.addEventListener("DOMContentLoaded", done)
    addEventListener("load", done)
  }).then(() => {
    if (!whole) for (const script of document.scripts) page_scripts.add(script.src)
    whole = true
  })
  void loaded.then(load_reading)

  /** @type {Set<App>} */
  const apps = new Set()
  /** @type {() => any[]} */
  const bundles = () => [...document.scripts]
    .filter(({src}) => /\/bokeh[^/]*\.js/.test(src) && !page_scripts.has(src) && !loading.has(src))
    .map((script) => Object.fromEntries([...script.attributes].map(({name, value}) => [name, value])))
  const find_apps = () => {
    for (const element of app_elements(document)) {
      if (element.dataset.bokehOpen != null) continue
      element.dataset.bokehOpen = ""
      const app = new App(element, whole ? bundles() : null)
      apps.add(app)
      void loaded.then(() => app.open())
    }
  }
  find_apps()
  new MutationObserver(() => {
    for (const app of apps) {
      if (app.element.isConnected || app.own_page) continue // also when it was only moved
      app.leave()
      apps.delete(app)
    }
    find_apps()
  }).observe(document, {childList: true, subtree: true})
}

// a page may get this script again, with a part of it that comes later, or twice from the template of an app's own page
const LOADED = Symbol.for("bokeh-dyno")
if (!window[LOADED]) {
  window[LOADED] = true
  watch_for_bokeh()
  start()
}
