// A session's connection: the WebSocket that BokehJS gets from here, what is sent and answered, and when to try again.
import {bundles_for, load} from "./scripts.js"

const SLOW_AFTER = 1000 // ms without the answer to what the visitor has entered
const PART_COST = 500 // bytes for which each part of a message counts, beside its own
// close codes (bokeh_dyno/bokeh/websocket.py), the reason being a sentence for the visitor: try again later; do not try
// again
export const TRY_AGAIN = 1013, GIVE_UP = 4000
export const RESTART = 1012 // the server ends its sessions: it is no failure, and nothing that was entered is why
export const TOO_BIG = 1009 // what was sent, to a server that did not say how much it takes

// ms until the next attempt. While the site is away, a twentieth of the time that it has been: a page is back soon after
// the site is. When the site answers, but then something fails, twice as much each time. And half as much again at
// random, so that a thousand pages do not come at once.
const FIRST_DELAY = 800, MAX_DELAY = 20_000
export const BUSY_DELAY = 5000 // instead of FIRST_DELAY, when the server says that it has no room
/** @type {(away: number, failures: number, least?: number) => number} */
export const delay = (away, failures, least = FIRST_DELAY) =>
  Math.min(MAX_DELAY, Math.max(least * 2 ** Math.max(0, failures - 1), away / 20)) * (1 + Math.random() / 2)

// ms of silence from the server, after the values are entered, that mean it has run the app's callbacks: at first, then
// after something that it said; after its answer, the latter only for what has no place so far, which may come with what
// callbacks have left for later. And how long that is waited for when it is never silent.
const QUIET_FIRST = 800, QUIET_NEXT = 300, QUIET_LAST = 50, MAX_SETTLE = 1500

/** @type {(ms: number) => Promise<void>} */
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

// The same, but less long when the network or the visitor comes back
/** @type {(ms: number) => Promise<void>} */
export const sleep_or_wake = async (ms) => {
  const awake = new AbortController()
  await new Promise((wake) => {
    setTimeout(wake, ms)
    addEventListener("online", wake, {signal: awake.signal})
    document.addEventListener("visibilitychange", wake, {signal: awake.signal})
  })
  awake.abort()
}

// Wait until the server has answered what was entered; lacks: something has no place so far
/** @type {(doc: Doc, connection: {sent: Map<string, Message>}, lacks: boolean) => Promise<void>} */
export const settle = async (doc, {sent}, lacks) => {
  const began = Date.now()
  let silent = began + QUIET_FIRST, answered = sent.size == 0
  const last = lacks ? QUIET_NEXT : QUIET_LAST
  /** @type {(event: Change) => void} */
  const listen = (event) => {
    if (!event.sync) silent = Date.now() + (answered ? last : QUIET_NEXT)
  }
  doc.on_change(listen)
  while (Date.now() < Math.min(silent, began + MAX_SETTLE)) {
    await sleep(20)
    if (!answered && sent.size == 0) silent = Date.now() + last
    answered ||= sent.size == 0
  }
  doc.remove_on_change(listen)
}

// Let the promises that are resolved go on: BokehJS reads a document in those, and takes nothing else before
const next_task = () => new Promise((done) => {
  const {port1, port2} = new MessageChannel() // a timer would take 4 ms
  port1.onmessage = done
  port2.postMessage(null)
})

// Open a session's WebSocket. Its events wait for release(), when BokehJS listens, and each for the bundles it needs.
//
// The document comes right after the ACK, a round trip before BokehJS has it from having asked, and while it is still
// being read (WebSocket in bokeh_dyno/bokeh/websocket.py): the ACK's metadata name the request that this answers.
// BokehJS asks all the same, as its first message; that goes no further, and what has come becomes the answer to it. A
// server that does not know this just waits for BokehJS.
//
// A close is heard only after watch(), which listens for it: the views of some models wait for an image, or for MathJax.
//
// `metadata` are the ACK's; besides `document`: `most`, the bytes that a message may have, and `scripts` and `styles`,
// what this very document needs. `sent` are the messages that the server has not answered, which it does one after the
// other, each when the app's callbacks have run; `listener` is called for what becomes of them.
//
// `arrived` is resolved when the document has, and rejected when the connection is lost before: of a WebSocket that does
// not get so far, BokehJS would write errors into the console.
/** @param {string} url @param {string} token @param {Listener} listener */
export const open_socket = (url, token, listener) => {
  // again: for the count of pages that came back (/metrics)
  const socket = new WebSocket(`${url}?document=1${listener.opened ? "&again=1" : ""}`, ["bokeh", token])
  socket.binaryType = "arraybuffer"
  /** @type {any[]} */
  const events = []
  /** @type {CloseEvent | null} */
  let closed = null // the event
  let busy = true // until release()
  /** @type {any} */
  let delivering = null
  let left = 0 // of the message that is coming: header, metadata, content, and two parts for each buffer
  /** @type {any} */
  let header = null
  /** @type {string | null} */
  let request = null // the id of the request that the server answers unasked
  /** @type {any} */
  let reply = null // the event that begins that
  /** @type {string | null} */
  let asked = null // the id of BokehJS's own request
  let opened = false
  /** @type {Metadata} */
  let metadata = {}
  /** @type {any[]} */
  let parts = [] // of the message that BokehJS is sending: header, metadata, content …
  /** @type {any} */
  let outgoing = null // its header
  /** @type {Message | null} */
  let last = null // message that it has sent
  /** @type {Map<string, Message>} */
  const sent = new Map() // by id: {entered, slow, timer}
  /** @type {any} */
  let watch = null
  const watched = new Promise((done) => watch = done)

  /** @type {Promise<void>} */
  const arrived = new Promise((resolve, reject) => {
    /** @type {(event: MessageEvent) => boolean} */
    const whole = (event) => {
      if (left == 0) {
        header = JSON.parse(event.data)
        left = 3 + 2 * (header.num_buffers ?? 0)
        if (request != null && header.reqid == request) reply = event
      }
      left -= 1
      if (header.msgtype == "ACK" && left == 1) {
        metadata = JSON.parse(event.data)
        request = metadata.document ?? null
      }
      if (left == 0 && sent.has(header.reqid)) {
        /** @type {any} */
        const message = sent.get(header.reqid)
        clearTimeout(message.timer)
        sent.delete(header.reqid)
        listener.answered(message, header.msgtype == "ERROR" && JSON.parse(event.data).text == "the app has failed")
      }
      return left == 0 && (request == null || reply != null)
    }
    /** @type {(event: MessageEvent) => void} */
    const read = (event) => {
      if (event == delivering) return // seen already
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
  arrived.catch(() => {}) // whoever waits for it is told

  const deliver = async () => {
    busy = true
    for (let event; (event = events.shift()) != null; await next_task()) {
      const scripts = bundles_for(event.data)
      // BokehJS cannot read what it lacks a script for: from the start, with the next connection
      if (scripts.length > 0 && !await load(scripts)) socket.close()
      if (event.type == "close") await watched
      const answer = () => ({data: JSON.stringify({...JSON.parse(event.data), reqid: asked})})
      delivering = new event.constructor(event.type, event == reply ? answer() : event)
      socket.dispatchEvent(delivering)
    }
    busy = false
  }
  /** @type {(event: any) => void} */
  const hold = (event) => {
    if (event == delivering || !busy && event.type != "close" && bundles_for(event.data).length == 0) return
    event.stopImmediatePropagation()
    events.push(event)
    if (!busy) void deliver()
  }
  for (const type of ["open", "message", "error", "close"]) socket.addEventListener(type, hold)

  // What BokehJS sends, when it is whole
  const send_native = socket.send.bind(socket)
  /** @type {(part: any) => number} */
  const bytes = (part) => PART_COST + (part.byteLength ?? new Blob([part]).size)
  /** @type {(part: any) => number} */
  const bytes_at_most = (part) => PART_COST + (part.byteLength ?? 3 * part.length)
  /** @type {(numbers: number[]) => number} */
  const sum = (numbers) => numbers.reduce((all, one) => all + one, 0)
  /** @type {(part: any) => void} */
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
    if (sum(whole_message.map(bytes_at_most)) > metadata.most && sum(whole_message.map(bytes)) > metadata.most) {
      return listener.refused(sum(whole_message.map(bytes)), metadata.most) // nobody waits for the answer to a change
    }
    if (outgoing.msgtype == "PATCH-DOC" && socket.readyState == WebSocket.OPEN) {
      const message = last
      sent.set(outgoing.msgid, message)
      message.timer = setTimeout(() => {
        message.slow = true
        listener.render()
      }, SLOW_AFTER)
    }
    for (const one of whole_message) send_native(one)
  }

  const release = () => {
    socket.send = send
    void deliver()
  }
  return {
    socket, arrived, release, watch, sent,
    closed: () => closed, metadata: () => metadata, opened: () => opened, last: () => last, close: () => socket.close(),
  }
}

// Call BokehJS, which makes a WebSocket at once, with `socket` for that; return its promise.
/** @type {(socket: WebSocket, call: () => Promise<any>) => Promise<any>} */
export const with_socket = (socket, call) => {
  const native = window.WebSocket
  window.WebSocket = new Proxy(native, {construct: () => socket})
  try {
    return call()
  } finally {
    window.WebSocket = native
  }
}
