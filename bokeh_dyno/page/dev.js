// The page's side of bin/dev: has what is edited seen on the open page, and says what is wrong with it. A script of its
// own, which bokeh_dyno/start/dev.py sends as /dyno-dev/page.js and which is in every page of a dyno that runs there, and
// of no other. It has to be read before the scripts that wait for the whole page (defer).
//
// A page that was fetched anew is put in the place of the old one: what differs between what the site has sent and what it
// sends now is changed, and nothing else. So what a visitor has entered stays, and what scripts have made, the plots above
// all; their apps come back by themselves when the server is another one (recover() in page.js).
"use strict"
{
  const EVENTS = "/dyno-dev/events"
  const KEPT = "dyno-dev" // in sessionStorage, while the page is loaded anew
  const LISTEN_SOON = 100, LISTEN_AGAIN = 1000, FETCH_AGAIN = 300 // ms
  const MAX_ATTEMPTS = 20 // to fetch the page while the site is not ready
  const GROWING = 5000 // ms for a page that is loaded anew to become as long as it was

  // with data-method: how the page was asked for; data-generation: of what server
  const script = /** @type {HTMLScriptElement | null} */ (document.currentScript)
  /** @type {(ms: number) => Promise<void>} */
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
  /** @type {(tag: string, properties?: object, ...children: any[]) => any} */
  const make = (tag, properties = {}, ...children) => {
    const one = Object.assign(document.createElement(tag), properties)
    one.append(...children)
    return one
  }

  // --- what the site has sent ---

  // The nodes that came from the site, with what they were then: their attributes, or their text
  /** @type {WeakMap<any, any>} */
  const served = new WeakMap()
  /** @type {(node: any) => any} */
  const content = (node) => node.attributes == null
    ? node.nodeValue
    : Object.fromEntries([...node.attributes].filter(({name}) => name != "nonce").map((one) => [one.name, one.value]))
  /** @type {(node: any) => void} */
  const note = (node) => {
    served.set(node, content(node))
    node.childNodes.forEach(note)
  }

  /** @type {(one: any) => string} */
  const app_path = (one) => one.getAttribute?.("data-bokeh-app")
  /** @type {(href: string) => string} */
  const path_of = (href) => new URL(href, document.baseURI).pathname

  // What an element is called, by which it is found again wherever it is; null of those that are known by their place
  /** @type {(one: any) => string | null} */
  const name_of = (one) => {
    const kind = one.nodeName
    if (one.attributes == null || ["HTML", "HEAD", "BODY"].includes(kind)) return null
    if (app_path(one)) return `${kind} app ${app_path(one)}`
    if (one.getAttribute("id")) return `${kind} #${one.getAttribute("id")}`
    if (kind == "LINK" && one.href) return `${kind} ${one.rel} ${path_of(one.href)}`
    if (kind == "OPTION") return `${kind} ${name_of(one.closest("select") ?? document.body)} ${one.value}`
    if (!one.getAttribute("name")) return null
    const which = ["radio", "checkbox", "submit"].includes(one.type) ? one.value : ""
    return `${kind} ${one.type} ${one.getAttribute("name")} ${which}`
  }

  // The site's elements of a page that have a name, by that and which of those they are
  /** @type {(page: Document) => Map<string, any>} */
  const named = (page) => {
    const found = new Map(), counts = new Map()
    for (const one of page.querySelectorAll("[data-bokeh-app], [id], [name], link, option")) {
      const called = name_of(one)
      if (called == null || page == document && !served.has(one)) continue
      counts.set(called, (counts.get(called) ?? 0) + 1)
      found.set(`${called} ${counts.get(called)}`, one)
    }
    return found
  }

  // --- style sheets ---

  // Those that are there until the one in their place is loaded, by that one
  /** @type {WeakMap<any, any[]>} */
  const replaced = new WeakMap()
  const leaving = new WeakSet()
  /** @type {(link: any, href: string | null, is?: any) => void} */
  const swap = (link, href, is = served.get(link)) => {
    const fresh = link.cloneNode(true)
    if (href != null) fresh.setAttribute("href", href)
    const before = [link, ...replaced.get(link) ?? []]
    replaced.set(fresh, before)
    leaving.add(link)
    if (served.delete(link)) served.set(fresh, is)
    fresh.onload = () => before.forEach((one) => one.remove())
    link.after(fresh)
  }

  // The addresses of what a style sheet imports; another site's cannot be read
  /** @type {(sheet: any) => string[]} */
  const imports = (sheet) => {
    try {
      return [...sheet.cssRules].filter((rule) => rule.styleSheet)
        .flatMap(({styleSheet}) => [styleSheet.href, ...imports(styleSheet)])
    } catch {
      return []
    }
  }

  /** @type {(href: string) => string} */
  const anew = (href) => {
    const url = new URL(href)
    url.searchParams.set("dyno-dev", `${Date.now()}`)
    return url.href
  }
  /** @type {(root: any) => any[]} */
  const trees = (tree) =>
    [tree, ...[...tree.querySelectorAll("*")].flatMap(({shadowRoot}) => shadowRoot ? trees(shadowRoot) : [])]

  // Have the page show these files, the ends of addresses, as they are now; all of them with null. A script cannot be taken
  // back: return whether one of them is a script of this page.
  /** @type {(files: string[] | null) => boolean} */
  const show_files = (files) => {
    /** @type {(href: string) => boolean} */
    const is_one = (href) =>
      files?.some((file) => path_of(href).endsWith(`/${file}`)) ?? href.startsWith(location.origin)
    if (files != null && [...document.scripts].some(({src}) => src && is_one(src))) return true
    /** @type {(href: string) => Promise<any>} */
    const ask = (href) => fetch(href, {cache: "reload"}).catch(() => {})
    const all = trees(document).flatMap((tree) => [...tree.querySelectorAll("link[rel~=stylesheet], style, img")])
    for (const one of all) {
      if (leaving.has(one)) continue
      if (one.nodeName == "IMG") {
        if (one.src && is_one(one.src)) one.src = anew(one.src)
        continue
      }
      const imported = imports(one.sheet).filter(is_one)
      if (imported.length == 0 && !(one.href && is_one(one.href))) continue
      void Promise.all(imported.map(ask)).then(() => swap(one, one.href ? anew(one.href) : null))
    }
    return false
  }

  // --- the new page in the place of the old one ---

  // What a token carries beside the session's id: the app's arguments, and who is looking
  /** @type {(one: any) => any} */
  const carried = (one) => {
    try {
      const [said] = one.dataset.bokehToken.split(".")
      return JSON.parse(atob(said.replaceAll("-", "+").replaceAll("_", "/"))).__bk__zlib_
    } catch {
      return null
    }
  }

  // Where the parts of an app are on its own page: the views in them are not the site's
  /** @type {(page: Document) => any[]} */
  const roots = (page) => {
    const ids = page.querySelector("script[data-bokeh-roots]")?.getAttribute("data-bokeh-roots") ?? ""
    return ids.split(" ").map((id) => page.getElementById(id))
  }

  // Whether the new parts have a place: when there are more or less of them than before, all views are in one place, or the
  // rest of them in the first, which is right when they stand one below the other
  /** @type {(fresh: any[], places: any[]) => boolean} */
  const have_places = (fresh, places) => fresh.length == places.length
    || fresh.every((one, number) => number == 0 || one?.previousElementSibling == fresh[number - 1])

  // Put what a page now is in the place of what there is; another: of another server.
  /** @type {(page: Document, another: boolean) => void} */
  const put = (page, another) => {
    /** @type {Map<any, any>} */
    const partners = new Map() // by the element of the new page
    const old = named(document), places = roots(document)
    for (const [called, one] of named(page)) {
      const partner = old.get(called)
      // an app with other arguments is begun anew; with another server, it sees to that itself
      const stays = another || !app_path(one) || carried(one) == carried(partner)
      if (partner != null && stays) partners.set(one, partner)
    }
    roots(page).forEach((one, number) => one && places[number] && partners.set(one, places[number]))
    const taken = new Set(partners.values())

    /** @type {(live: any, fresh: any) => void} */
    const merge = (live, fresh) => {
      if (live.nodeName == "SCRIPT" && app_path(live) || places.includes(live)) return
      const was = served.get(live), is = content(fresh)
      if (live.nodeName == "LINK" && live.relList.contains("stylesheet") && was.href != is.href) {
        return swap(live, is.href, is)
      }
      served.set(live, is)
      if (typeof is == "string") {
        if (is != was) live.nodeValue = is
        return
      }
      for (const key of Object.keys({...was, ...is})) {
        if (was[key] === is[key]) continue
        if (is[key] == null) live.removeAttribute(key)
        else live.setAttribute(key, is[key])
      }
      // of NOSCRIPT, a page that is only read has the elements, and one that is shown their text
      if (app_path(live) || live.nodeName == "NOSCRIPT") return
      if (live.nodeName == "TEMPLATE") merge_children(live.content, fresh.content)
      merge_children(live, fresh)
    }

    /** @type {(live: any, fresh: any) => void} */
    const merge_children = (live, fresh) => {
      const ours = [...live.childNodes].filter((one) => served.has(one) && !taken.has(one))
      const free = ours.filter((one) => name_of(one) == null)
      const chosen = [...fresh.childNodes].map((child) => {
        if (partners.has(child) || name_of(child) != null) return partners.get(child)
        const number = free.findIndex((one) => one.nodeName == child.nodeName)
        return number < 0 ? null : free.splice(number, 1)[0]
      })
      const stay = new Set(chosen)
      ours.filter((one) => !stay.has(one)).forEach((one) => one.remove())
      let next = live.firstChild
      fresh.childNodes.forEach((/** @type {any} */ child, /** @type {number} */ number) => {
        while (next != null && !stay.has(next)) next = next.nextSibling // not the site's, or about to be taken elsewhere
        const one = chosen[number] ?? document.importNode(child, false)
        if (chosen[number] == null) served.set(one, content(child))
        if (one == next) next = next.nextSibling
        else {
          // while an app's own page is given the view that comes next, this is beside the old one, not yet seen
          const twins = places.includes(one) ? [...document.querySelectorAll(`[id="${CSS.escape(one.id)}"]`)] : []
          live.insertBefore(one, next)
          one.after(...twins.filter((twin) => twin != one))
        }
        merge(one, child)
      })
    }

    const focused = deepest(document.activeElement)
    merge(document.documentElement, page.documentElement)
    if (focused?.isConnected && deepest(document.activeElement) != focused) focused.focus({preventScroll: true})
  }

  // The element that has the focus, in whatever shadow root
  /** @type {(element: any) => any} */
  const deepest = (element) => element?.shadowRoot?.activeElement ? deepest(element.shadowRoot.activeElement) : element

  // Whether a page has the scripts of another: what one has done to a page cannot be taken back, and none runs that is only
  // put there. BokehJS may come and go with an app, for page.js loads what there is not.
  /** @type {(page: Document) => boolean} */
  const has_our_scripts = (page) => {
    /** @type {(all: any[]) => [string[], string[]]} */
    const sorted = (all) => {
      const run = all.filter(({type}) => type == "" || type == "module" || type.includes("javascript"))
      const codes = run.map(({src, text}) => src || text)
      /** @type {(code: string) => boolean} */
      const is_bokeh = (code) => /^https?:[^?]*\/(bokeh[^/?]*|dyno)\.js(\?|$)/.test(code)
      return [codes.filter((code) => !is_bokeh(code)).sort(), codes.filter(is_bokeh)]
    }
    /** @type {(code: string) => any} */
    const file = (code) => path_of(code).split("/").pop()
    const [own, bokeh] = sorted([...document.scripts].filter((one) => served.has(one)))
    const [new_own, new_bokeh] = sorted([...page.scripts])
    const further = new_bokeh.filter((code) => !bokeh.includes(code))
    const all = [...document.scripts].filter(({src}) => src).map(({src}) => src)
    return JSON.stringify(own) == JSON.stringify(new_own)
      && (further.length == 0 || window[Symbol.for("bokeh-dyno")])
      && !further.some((code) => all.some((other) => other != code && file(other) == file(code)))
  }

  let updates = 0
  // Fetch the page anew and put it in place, or load it anew where that cannot be done
  /** @type {(another: boolean) => Promise<void>} */
  const update = async (another) => {
    const number = ++updates
    const own = /** @type {any} */ (document.querySelector("script[data-bokeh-app]"))
    // on its own page, an app would be run once more
    /** @type {Record<string, string>} */
    const headers = own ? {"Bokeh-Token": `${app_path(own)} 0 ${own.dataset.bokehToken}`} : {}
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++, await sleep(FETCH_AGAIN)) {
      let response, text
      try {
        response = await fetch(location.href, {headers, cache: "no-store"})
        text = await response.text()
      } catch {
        // not now
      }
      if (number != updates) return
      if (response == null || text == null || [204, 429, 502, 503, 504].includes(response.status)) continue
      /** @type {(url: string) => string} */
      const page_of = (url) => url.replace(/#.*/, "")
      const page = new DOMParser().parseFromString(text, "text/html")
      const [entry] = /** @type {any[]} */ (performance.getEntriesByType("navigation"))
      if (response.status == 405 || script?.dataset.method && script.dataset.method != "GET") {
        failed = {message: "This page is the answer to a form. Send it again to see what was edited.", running: true}
      } else if (response.status >= 500 && !(entry?.responseStatus >= 400)) {
        failed = {message: `This page is now ${response.status}: ${page.title || response.statusText}`, answer: true}
      } else if (response.ok && !(entry?.responseStatus >= 400) && page_of(response.url) == page_of(location.href)
        && /html/.test(response.headers.get("Content-Type") ?? "") && has_our_scripts(page)
        && have_places(roots(page), roots(document))) {
        failed = null
        put(page, another)
      } else {
        return load_anew()
      }
      return show_errors()
    }
  }

  // --- a page that is loaded anew: what is entered, the focus and the scroll position go with it ---

  const load_anew = () => {
    const fields = [], all = named(document)
    for (const [called, one] of all) {
      const {type, value, checked} = one
      const chosen = [...one.options ?? []].map(({selected}) => selected)
      const before = [...one.options ?? []].map(({defaultSelected}) => defaultSelected)
      if (type == "password" || type == "file") continue
      const is_entered = checked != one.defaultChecked || value != (one.defaultValue ?? value)
      if (chosen.length > 0 ? `${chosen}` != `${before}` : is_entered) {
        fields.push({called, value, checked, chosen: [...one.selectedOptions ?? []].map((option) => option.value)})
      }
    }
    const focused = [...all].find(([, one]) => one == document.activeElement)
    const {selectionStart, selectionEnd} = focused?.[1] ?? {}
    const kept = {
      page: location.href, x: scrollX, y: scrollY, fields,
      focus: focused?.[0], selection: selectionStart == null ? null : [selectionStart, selectionEnd],
    }
    sessionStorage.setItem(KEPT, JSON.stringify(kept))
    location.reload()
  }

  const give_back = () => {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null")
    sessionStorage.removeItem(KEPT)
    if (kept?.page != location.href) return
    const all = named(document)
    for (const {called, value, checked, chosen} of kept.fields) {
      const one = all.get(called)
      if (one?.options) for (const option of one.options) option.selected = chosen.includes(option.value)
      else if (one?.type == "checkbox" || one?.type == "radio") one.checked = checked
      else if (one) one.value = value
    }
    all.get(kept.focus)?.focus({preventScroll: true})
    if (kept.selection) all.get(kept.focus)?.setSelectionRange(...kept.selection)
    // plots come later
    const watch = new ResizeObserver(() => scrollTo(kept.x, kept.y))
    watch.observe(document.documentElement)
    const end = () => watch.disconnect()
    setTimeout(end, GROWING)
    for (const type of ["wheel", "touchmove", "keydown", "pointerdown"]) addEventListener(type, end, {once: true})
  }

  // --- what it says ---

  const STYLE = `
    :host {
      all: initial !important; color-scheme: light dark !important; font: 16px/1.5 system-ui, sans-serif !important;
    }
    .sign {
      position: fixed; inset: 0 0 auto; z-index: 2147483647; height: 3px; overflow: hidden; pointer-events: none;
      color: transparent; font-size: 1px;
    }
    .sign:not(:empty) { background: linear-gradient(90deg, #2b6cb0, #7fb6ee, #2b6cb0) 0 / 200% 100%; }
    @media (prefers-reduced-motion: no-preference) {
      .sign:not(:empty) { animation: going 1s linear infinite; }
      @keyframes going { to { background-position: -200% 0; } }
    }
    dialog, .notes {
      box-sizing: border-box; width: min(60rem, 100vw - 16px); padding: 16px;
      border: 1px solid light-dark(#c9a3a3, #7c4a48); border-top: 4px solid light-dark(#b3261e, #ff8a80); border-radius: 6px;
      background: light-dark(#fff, #1d2026); color: light-dark(#1d232b, #e6eaef);
      box-shadow: 0 8px 32px #0006; overflow: auto; overscroll-behavior: contain; overflow-wrap: anywhere;
    }
    dialog { margin: 5vh auto auto; max-height: 90vh; }
    dialog::backdrop { background: #0006; }
    .notes {
      position: fixed; inset: auto 8px 8px auto; z-index: 2147483646; width: min(40rem, 100vw - 16px); max-height: 40vh;
      padding: 8px 12px; font-size: 14px;
    }
    .notes:empty { display: none; }
    header { display: flex; gap: 12px; align-items: baseline; justify-content: space-between; }
    h1, h2, p { margin: 0; font: inherit; }
    h1 { font-size: 1.1em; font-weight: 650; }
    h2 { margin-top: 12px; font-weight: 650; font-family: ui-monospace, monospace; font-size: 0.9em; }
    .notes h2 { margin-top: 4px; }
    .message { color: light-dark(#a81e1e, #ff9c94); white-space: pre-wrap; }
    pre {
      margin: 8px 0 0; padding: 8px 12px; border-radius: 4px; background: light-dark(#f3f4f6, #12151a); overflow: auto;
      font: 13px/1.45 ui-monospace, monospace; tab-size: 4; overflow-wrap: normal;
    }
    pre { max-height: 50vh; }
    .notes pre { max-height: 9em; }
    .faint { color: light-dark(#56606d, #a3adb9); font-size: 0.9em; }
    a { color: light-dark(#22598f, #86bdf5); }
    button {
      flex: none; min-width: 32px; min-height: 32px; padding: 0 10px; border: 1px solid light-dark(#858f9c, #727d8a);
      border-radius: 4px; background: none; color: inherit; font: inherit; font-size: 14px; cursor: pointer;
    }
    :focus-visible { outline: 2px solid light-dark(#22598f, #86bdf5); outline-offset: 2px; }
  `
  const host = make("div"), root = host.attachShadow({mode: "open"})
  const sheet = new CSSStyleSheet()
  sheet.replaceSync(STYLE)
  root.adoptedStyleSheets = [sheet]
  const sign = make("div", {className: "sign", role: "status"})
  const dialog = make("dialog")
  dialog.setAttribute("aria-labelledby", "title")
  const notes = make("section", {className: "notes", role: "alert"})
  root.append(sign, dialog, notes)

  /** @type {(building: boolean) => void} */
  const show_sign = (building) => sign.textContent = building ? "Taking the edit…" : ""

  /** @type {any[]} */
  let errors = []
  /** @type {any} */
  let failed = null // what is wrong with this very page
  /** @type {Map<any, string>} */
  const shown = new Map() // what was last said there: it may have been closed
  /** @type {(error: any) => any} */
  const described = ({where, file, line, message, traceback, answer}) => {
    const place = file ? `${file}${line ? `:${line}` : ""}` : where
    const parts = [make("p", {className: "message", textContent: message})]
    if (place) parts.unshift(make("h2", {textContent: place}))
    if (traceback) parts.push(make("pre", {textContent: traceback, tabIndex: 0}))
    if (answer) parts.push(make("p", {}, make("a", {href: location.href, target: "_blank", textContent: "Look at it"})))
    return make("article", {}, ...parts)
  }
  /** @type {(place: any, said: any[], title: string, text: string, close: () => void) => boolean} */
  const fill = (place, said, title, text, close) => {
    if (shown.get(place) == JSON.stringify(said)) return false
    shown.set(place, JSON.stringify(said))
    const button = make("button", {type: "button", textContent: "Close", onclick: close})
    const head = make("header", {}, make("h1", {id: place == dialog ? "title" : "", textContent: title}), button)
    const about = text ? [make("p", {className: "faint", textContent: text})] : []
    place.replaceChildren(...said.length > 0 ? [head, ...about, ...said.map(described)] : [])
    return true
  }

  const show_errors = () => {
    const all = [...errors, ...failed == null || failed.answer && errors.length > 0 ? [] : [failed]]
    const [running, broken] = [all.filter((one) => one.running), all.filter((one) => !one.running)]
    const title = broken.length == 1 ? "This edit does not run" : `This edit does not run: ${broken.length} errors`
    const text = "The page behind this is as it was before. It is put in place when the error is mended."
    if (fill(dialog, broken, title, text, () => dialog.close())) {
      if (broken.length == 0) dialog.close()
      else if (!dialog.open) dialog.showModal()
    }
    const named_so = running.some((one) => one.where) ? "Failed while running" : "Edited"
    fill(notes, running, named_so, "", () => notes.replaceChildren())
  }

  // --- what it is told ---

  /** @type {string | null | undefined} */
  let generation = script?.dataset.generation // null when there is none
  /** @type {any} */
  let state = null // of the edits, as bin/dev counts them
  /** @type {(message: any) => void} */
  const take = (message) => {
    const {type, files = []} = message
    show_sign(type == "building")
    if (type == "hello") {
      const missed = generation !== undefined && message.generation != null && generation != message.generation
      generation = message.generation
      if (missed || state != null && message.state != state) {
        show_files(null)
        void update(missed)
      }
    }
    if (type == "styles") show_files(files)
    if (type == "page") {
      if (show_files(files)) load_anew()
      else void update(false)
    }
    if (type == "serving" && message.generation != generation) void update(true)
    if (type == "notice") console.info(`bin/dev: ${message.text}`)
    if (message.errors) {
      errors = message.errors
      show_errors()
    }
    generation = message.generation ?? generation
    state = message.state ?? state
  }

  // A browser has six connections to a site: a page that is not seen leaves its own to others, and asks when it is seen
  /** @type {EventSource | null} */
  let source = null
  let soon = true // it was heard: the server ends a stream when nginx is to let go of it
  const listen = () => {
    source?.close()
    source = null
    if (document.visibilityState == "hidden") return
    const own = source = new EventSource(EVENTS)
    own.onmessage = ({data}) => {
      soon = true
      take(JSON.parse(data))
    }
    own.onerror = () => {
      own.close()
      if (!soon) show_sign(false)
      if (source == own) setTimeout(() => source == own && listen(), soon ? LISTEN_SOON : LISTEN_AGAIN)
      soon = false
    }
  }

  const start = () => {
    note(document.documentElement)
    document.documentElement.append(host)
    give_back()
    document.addEventListener("visibilitychange", listen)
    listen()
  }
  // when the page has been read, before any script that waits for that
  if (document.readyState != "loading") start()
  else document.addEventListener("readystatechange", start, {once: true})
}
