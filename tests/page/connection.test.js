import assert from "node:assert/strict"
import {afterEach, beforeEach, mock, suite, test} from "node:test"

import {BUSY_DELAY, delay, open_socket, settle, with_socket} from "../../bokeh_dyno/page/connection.js"

suite("the wait until the next attempt", () => {
  beforeEach(() => mock.method(Math, "random", () => 0))
  afterEach(() => mock.restoreAll())

  test("is twice as long after each failure, up to a limit", () => {
    assert.deepEqual([0, 1, 2, 3, 4].map((failures) => delay(0, failures)), [800, 800, 1600, 3200, 6400])
    assert.equal(delay(0, 99), 20_000)
    assert.deepEqual([1, 2].map((failures) => delay(0, failures, BUSY_DELAY)), [5000, 10_000])
  })

  test("is a twentieth of the site's absence", () => {
    assert.deepEqual([0, 60_000, 200_000, 1e9].map((away) => delay(away, 1)), [800, 3000, 10_000, 20_000])
  })

  test("is up to half as much again", () => {
    mock.method(Math, "random", () => 1)
    assert.deepEqual([delay(0, 1), delay(0, 99)], [1200, 30_000])
  })
})

suite("what was entered is waited for", () => {
  beforeEach(() => mock.timers.enable({apis: ["setTimeout", "Date"]}))
  afterEach(() => mock.timers.reset())

  // ms until it is over; `at` are those after which it is answered, or something else is said
  const wait = async (lacks, ...at) => {
    const sent = new Map([["1", {}]])
    let listen, over = false, ms = 0
    const doc = {on_change: (callback) => listen = callback, remove_on_change() {}}
    void settle(doc, {sent}, lacks).then(() => over = true)
    for (; !over; ms += 20) {
      if (ms == at[0]) sent.clear()
      else if (at.includes(ms)) listen({sync: false})
      mock.timers.tick(20)
      for (let turn = 0; turn < 5; turn++) await null
    }
    return ms
  }

  test("until it is answered", async () => assert.deepEqual([await wait(false, 100), await wait(false, 600)], [180, 680]))
  test("until what comes with that is there", async () => assert.equal(await wait(false, 100, 140), 200))
  test("for longer when something has no place so far", async () => {
    assert.deepEqual([await wait(true, 100), await wait(true, 100, 300)], [420, 600])
  })
  test("not for ever when there is no answer", async () => assert.equal(await wait(true), 800))
  test("not for ever when something is said again and again", async () => {
    assert.equal(await wait(true, 100, ...[...Array(99).keys()].map((number) => number * 200)), 1500)
  })
})

// node's own would keep the process
globalThis.MessageChannel = class {
  port1 = {onmessage() {}}
  port2 = {postMessage: () => setImmediate(() => this.port1.onmessage())}
}

class Socket extends EventTarget {
  static OPEN = 1
  readyState = 1
  sent = []
  send(part) {
    this.sent.push(part)
  }
  close() {
    this.closed = true
  }
  // a message of the server: its header, metadata and content
  say(header, metadata = {}, content = {}) {
    for (const part of [header, metadata, content]) {
      this.dispatchEvent(new MessageEvent("message", {data: JSON.stringify(part)}))
    }
  }
}

suite("a session's WebSocket", () => {
  let socket, connection, listener, heard
  beforeEach(() => {
    globalThis.WebSocket = Object.assign(function (...args) {
      socket = Object.assign(new Socket(), {args})
      return socket
    }, {OPEN: 1})
    listener = {answered: mock.fn(), refused: mock.fn(), render: mock.fn()}
    connection = open_socket("ws://site/app/ws", "token", listener)
    heard = []
    mock.timers.enable({apis: ["setTimeout"]})
  })
  afterEach(() => mock.timers.reset())
  const turns = async () => {
    for (let turn = 0; turn < 20; turn++) await new Promise((done) => setImmediate(done))
  }
  const listen = () => {
    const into = heard // what is still on its way belongs to this test
    for (const type of ["open", "message", "close"]) {
      socket.addEventListener(type, (event) => into.push(event.data ?? type))
    }
    connection.release()
  }
  const send = (header, ...rest) => {
    for (const part of [JSON.stringify(header), "{}", "{}", ...rest]) socket.send(part)
  }
  const patch = (msgid) => send({msgtype: "PATCH-DOC", msgid})

  test("asks for the document at once, with the token", () => {
    assert.deepEqual(socket.args, ["ws://site/app/ws?document=1", ["bokeh", "token"]])
  })

  test("is there once the document is, and keeps what came until BokehJS listens", async () => {
    socket.dispatchEvent(new Event("open"))
    socket.say({msgtype: "ACK"}, {document: "unasked", most: 5000})
    let arrived = false
    void connection.arrived.then(() => arrived = true)
    await turns()
    assert.equal(arrived, false)
    socket.say({msgtype: "PULL-DOC-REPLY", reqid: "unasked"}, {}, {doc: 1})
    await connection.arrived
    assert.deepEqual(connection.metadata(), {document: "unasked", most: 5000})
    assert.equal(connection.opened(), true)
    listen()
    send({msgtype: "PULL-DOC-REQ", msgid: "bokehjs"})
    await turns()
    assert.equal(heard.length, 7)
    assert.equal(heard[0], "open")
    assert.deepEqual(JSON.parse(heard[4]), {msgtype: "PULL-DOC-REPLY", reqid: "bokehjs"})
    assert.deepEqual(socket.sent, [], "the request is answered already")
    patch("later")
    assert.equal(socket.sent.length, 3)
  })

  test("of a server that sends no document unasked is there with the ACK", async () => {
    socket.say({msgtype: "ACK"})
    await connection.arrived
    listen()
    send({msgtype: "PULL-DOC-REQ", msgid: "bokehjs"})
    assert.equal(socket.sent.length, 3)
  })

  test("that is closed before is not there", async () => {
    socket.dispatchEvent(Object.assign(new Event("close"), {code: 1013}))
    await assert.rejects(connection.arrived, /1013/)
    assert.equal(connection.closed().code, 1013)
  })

  test("hands a close over only when somebody watches", async () => {
    socket.say({msgtype: "ACK"})
    listen()
    socket.dispatchEvent(Object.assign(new Event("close"), {code: 1006}))
    await turns()
    assert.equal(heard.length, 3)
    connection.watch()
    await turns()
    assert.equal(heard.at(-1), "close")
  })

  test("sends whole messages, with their buffers", async () => {
    listen()
    send({msgtype: "PATCH-DOC", msgid: "1", num_buffers: 1})
    assert.deepEqual(socket.sent, [])
    socket.send('{"id": "b"}')
    socket.send(new ArrayBuffer(8))
    assert.equal(socket.sent.length, 5)
  })

  test("sends nothing that is larger than the server takes", async () => {
    socket.say({msgtype: "ACK"}, {most: 2000})
    listen()
    send({msgtype: "PATCH-DOC", msgid: "1", num_buffers: 1}, "{}", new ArrayBuffer(1000))
    assert.deepEqual(socket.sent, [])
    assert.equal(listener.refused.mock.callCount(), 1)
    assert.equal(listener.refused.mock.calls[0].arguments[1], 2000)
    assert.ok(listener.refused.mock.calls[0].arguments[0] > 5 * 500 + 1000)
    patch("2")
    assert.equal(socket.sent.length, 3)
  })

  test("tells what was answered, and what is slow", () => {
    listen()
    patch("1")
    patch("2")
    const [first, second] = connection.sent.values()
    assert.equal(connection.last(), second)
    socket.say({msgtype: "OK", reqid: "1"})
    assert.deepEqual([...connection.sent.keys()], ["2"])
    mock.timers.tick(1000)
    assert.deepEqual([first.slow, second.slow, listener.render.mock.callCount()], [false, true, 1])
    socket.say({msgtype: "ERROR", reqid: "2"}, {}, {text: "the app has failed"})
    assert.deepEqual(listener.answered.mock.calls.map((call) => call.arguments), [[first, false], [second, true]])
    patch("3")
    socket.say({msgtype: "ERROR", reqid: "3"}, {}, {text: "something else"})
    assert.equal(listener.answered.mock.calls[2].arguments[1], false)
  })
})

test("BokehJS gets the WebSocket that is there, and others make their own again", () => {
  const native = class {}
  globalThis.window = {WebSocket: native}
  const socket = {}
  assert.equal(with_socket(socket, () => new window.WebSocket("ws://x")), socket)
  assert.equal(window.WebSocket, native)
  assert.throws(() => with_socket(socket, () => { throw new Error("no") }), /no/)
  assert.equal(window.WebSocket, native)
})
