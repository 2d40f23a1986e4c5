// Shows the Bokeh apps of a page, and brings each back when its connection is lost: another worker, another dyno, another
// version of the site. For BokehJS 3.9 and only through what it makes public: embed.add_document_from_session, documents,
// Document.config, .on_event("connection_lost"), .views_manager, Model.setv.
//
// BokehJS reconnects by itself, but gives up after 30 s, and cannot read the document of a session that was made anew
// when it holds arrays ("buffer for id=… not found"): its client/connection.js passes no buffers to replace_with_json.
// Once it does, and can be given a fresh token and more patience, connect() below is all that is left of this file.
//
// An app that sets curdoc().config.reconnect_session = False is left to itself.
(() => {
  "use strict"

  const QUIET = 1000 // ms without a word: most interruptions are shorter
  const RETRY = 1000 // ms between attempts, and as much again at random, so that a thousand pages do not come at once
  const SETTLE = 300 // ms for the server to answer the values, before the new view takes the old one's place
  const LATER = 2000 // ms after the apps are alive, until the bundles are loaded that none of them needed so far
  // what a visitor enters, in any widget; value_throttled and value_input are what some apps listen to instead of value
  const ENTERED = ["value", "value_throttled", "value_input", "active", "color", "filename", "mime_type"]

  const sleep = (ms, wake) => new Promise((done) => {
    setTimeout(done, ms)
    wake?.(done)
  })

  // The visitor's widgets of a document: Map from a key that outlives a deploy (what it is called, and which of those)
  // to the model. Ids would not do: they are numbered anew when the app has one model more.
  const widgets = (doc) => {
    const Widget = Bokeh.Models.get("Widget") ?? class {} // not there when no app of the page has one
    const found = new Map()
    for (const model of doc.all_models) {
      if (!(model instanceof Widget || model.type == "Tabs")) continue
      const called = `${model.type} ${model.name ?? ""} ${model.title?.text ?? model.title ?? model.label ?? ""}`
      let number = 0
      while (found.has(`${called} ${number}`)) number += 1
      found.set(`${called} ${number}`, model)
    }
    return found
  }

  const entered = (model) => {
    const values = {}
    for (const name of ENTERED) {
      const property = model.properties[name]
      if (property != null && !property.is_unset) values[name] = property.get_value()
    }
    return values
  }

  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b)

  // Whether a widget of the new document still takes the value
  const takes = (model, name, value) => {
    if (name.startsWith("value") && typeof model.start == "number" && typeof model.end == "number") {
      return [value].flat().every((one) => model.start <= one && one <= model.end)
    }
    if (name == "value" && model.options != null) {
      const options = Array.isArray(model.options) ? model.options : Object.values(model.options).flat()
      const allowed = options.map((option) => Array.isArray(option) ? option[0] : option)
      return [value].flat().every((one) => allowed.includes(one))
    }
    if (name == "active" && typeof value != "boolean") {
      const count = (model.labels ?? model.tabs)?.length
      return count == null || [value].flat().every((one) => one == null || one < count)
    }
    return true
  }

  class App {
    constructor(element, index) {
      this.element = element
      this.index = index
      this.path = element.dataset.bokehApp
      this.token = element.dataset.bokehToken
      this.attempt = 0
      this.before = null // what the widgets held when the page was opened: what differs is the visitor's
      this.opened = this.open()
    }

    async open() {
      try {
        await this.connect()
      } catch (error) {
        console.warn("bokeh-dyno: not yet:", error)
        await this.recover(null)
      }
    }

    // Open the session and show its document in a new element, which this returns.
    async connect(hidden = false) {
      const view = document.createElement("div")
      // laid out in its place and width, but not seen
      if (hidden) Object.assign(view.style, {visibility: "hidden", height: "0", overflow: "hidden"})
      this.element.append(view)
      try {
        const scheme = location.protocol == "https:" ? "wss:" : "ws:"
        // BokehJS keeps one connection for each URL and session: a number makes it open another
        const number = this.attempt++ == 0 ? "" : `?attempt=${this.attempt}`
        const url = `${scheme}//${location.host}${this.path}/ws${number}`
        const views = await Bokeh.embed.add_document_from_session(url, this.token, view)
        const doc = Bokeh.documents.find((doc) => doc.views_manager == views)
        if (doc.config.reconnect_session) {
          doc.config.setv({reconnect_session: false, notify_connection_status: false}, {sync: false})
          doc.on_event("connection_lost", (_, event) => {
            event.connection.deref()?.close() // or each change of a widget would be an error in the console
            void this.recover({doc, view})
          })
        }
        this.before ??= new Map([...widgets(doc)].map(([key, model]) => [key, entered(model)]))
        return {doc, view}
      } catch (error) {
        view.remove()
        throw error
      }
    }

    // Try until the site is back, then put the new view with the visitor's values in the place of the old one.
    async recover(old) {
      const notice = setTimeout(() => this.say("Reconnecting…"), QUIET)
      try {
        for (let wait = 0; ; wait = RETRY * (1 + Math.random())) {
          await sleep(wait, (now) => {
            addEventListener("online", now, {once: true})
            document.addEventListener("visibilitychange", now, {once: true})
          })
          const answer = await this.refresh()
          if (answer == "gone") {
            clearTimeout(notice)
            this.say("This plot is not available any more. Reload the page.")
            return
          }
          if (answer == "later") continue
          try {
            const fresh = await this.connect(old != null)
            if (old != null) {
              if (this.enter(old.doc, fresh.doc)) await sleep(SETTLE)
              this.replace(old, fresh)
            }
            break
          } catch (error) {
            console.info("bokeh-dyno: not yet:", error)
          }
        }
      } finally {
        clearTimeout(notice)
      }
      this.say(null)
    }

    // Ask the site for this page again: it knows who is looking, and renews the token of the same session.
    async refresh() {
      let text
      try {
        const response = await fetch(location.href, {
          headers: {"Bokeh-Token": `${this.index} ${this.token}`},
          cache: "no-store",
          signal: AbortSignal.timeout(10_000),
        })
        if (response.status >= 500 || response.status == 204) return "later"
        if (!response.ok) return "ready" // a page that came by POST, say: the token that it has will have to do
        text = await response.text()
      } catch {
        return "later"
      }
      const page = new DOMParser().parseFromString(text, "text/html")
      const element = page.querySelectorAll("[data-bokeh-token]")[this.index]
      if (element?.dataset.bokehApp !== this.path) return "gone"
      this.token = element.dataset.bokehToken
      return "ready"
    }

    // Give the widgets of the new document what the visitor had entered in the old one; return whether there was any.
    enter(old, fresh) {
      const now = widgets(fresh)
      let any = false
      for (const [key, model] of widgets(old)) {
        const target = now.get(key)
        if (target == null) continue
        const values = {}
        for (const [name, value] of Object.entries(entered(model))) {
          const visitors = !same(value, this.before.get(key)?.[name])
          if (visitors && !same(value, entered(target)[name]) && takes(target, name, value)) values[name] = value
        }
        if (Object.keys(values).length == 0) continue
        target.setv(values)
        any = true
      }
      return any
    }

    replace(old, fresh) {
      const focused = document.activeElement
      old.doc.views_manager.clear()
      old.view.remove()
      Bokeh.documents.splice(Bokeh.documents.indexOf(old.doc), 1)
      fresh.view.removeAttribute("style")
      if (focused instanceof HTMLElement && focused.isConnected) focused.focus()
    }

    say(text) {
      this.status?.remove()
      this.status = null
      if (text == null) return
      this.status = document.createElement("div")
      this.status.setAttribute("role", "status")
      this.status.className = "bokeh-status"
      this.status.textContent = text
      Object.assign(this.status.style, {
        position: "sticky", bottom: "8px", zIndex: "10", width: "fit-content", margin: "8px auto 0", padding: "4px 12px",
        borderRadius: "4px", font: "14px/20px system-ui, sans-serif", color: "#fff", background: "#333c",
      })
      this.element.append(this.status)
    }
  }

  // The bundles that the documents did not need when the site started: an app may add a table or a formula any time.
  const load_later = () => {
    const urls = [...document.querySelectorAll("[data-bokeh-later]")].flatMap((el) => el.dataset.bokehLater.split(" "))
    for (const url of new Set(urls)) {
      if (url == "" || document.querySelector(`script[src="${url}"]`) != null) continue
      const script = document.createElement("script")
      Object.assign(script, {src: url, async: false, fetchPriority: "low"})
      document.head.append(script)
    }
  }

  const start = async () => {
    const apps = [...document.querySelectorAll("[data-bokeh-token]")].map((element, index) => new App(element, index))
    await Promise.all(apps.map((app) => app.opened))
    setTimeout(load_later, LATER)
  }
  if (document.readyState == "loading") {
    document.addEventListener("DOMContentLoaded", start)
  } else {
    start()
  }
})()
