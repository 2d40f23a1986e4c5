"""What hypothesis makes attacks of: requests, handshakes, frames and messages with something odd in one part or another."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable

from attacker import ATTACKER, deflated
from frames import BINARY, PING, TEXT, frame
from hypothesis import strategies as st


def one_of(*values: object) -> st.SearchStrategy:
    """Return a strategy that takes one of the values."""
    return st.sampled_from(values)


def long(text: object) -> st.SearchStrategy:
    """Return a strategy that makes much of a little."""
    return one_of(1, 3, 300, 9000, 40_000).map(lambda times: text * times)


address = st.integers(1, 250).map(lambda number: f"{ATTACKER}{number}")

# --- HTTP -------------------------------------------------------------------------------------------------------------

ROUTES = [
    "/", "/echo", "/folder", "/absolute", "/drawn", "/healthz", "/metadata", "/ws", "/favicon.ico", "/nothing",
    "/bkapp", "/bkapp/", "/bkapp/counter", "/bkapp/counter/", "/bkapp/counter/autoload.js", "/bkapp/counter/metadata",
    "/bkapp/counter/ws", "/bkapp/plain.one", "/bkapp/nothing", "/bkapp/static/js/bokeh.min.js", "/bkapp/static/",
    "/bkapp/static/nothing.js", "/bkapp/static/extensions/x/y.js", "/bkapp/healthz",
]  # fmt: skip
TAILS = [
    "", "/", "//", "/.", "/..", "/../../../etc/passwd", "/%2e%2e/%2e%2e", "/..%2f..", "/..;/", "%00", "%0d%0aX: y",
    "%", "%zz",
    "%ff", "%c0%ae", "%u0041", ";a=b", "?", "??", "?a=b&a=c&=&&", "?a[]=%", "?word=%ff", "?word=%00", "#x", "\\",
    "\x7f", "\xe9",
    "*", "?bokeh-token=", "?bokeh-token=eyJ.x", "?bokeh-token=%00", "?bokeh-token=a&bokeh-token=b",
    "?bokeh-session-id=x", "?bokeh-autoload-element=x&bokeh-app-path=/&bokeh-absolute-url=http://evil.example",
    "?bokeh-autoload-element=%3Cscript%3E&resources=none", "?v=1", "?document=1", "?bytes=a",
]  # fmt: skip
METHODS = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "PRI", "get",
    "G" * 9000, "",
]  # fmt: skip
VERSIONS = ["HTTP/1.1"] * 5 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTTP/1.", "HTTP/1.1 x", "http/1.1", ""]
HOSTS = ["localhost", "", "evil.example:99999", "a" * 300, "a." * 200, "[::1", "[::1]:80", "a b", "..", ".a", "a..b",
    "-", "*", "\xff",
         "a:b:c", "http://a", "a@b", "a/b", "%00", "xn--", "\u00fc.example"]  # fmt: skip
LENGTHS = [
    "0", "5", "6", "-1", "+5", "5,5", "5, 6", "0x5", "5 5", "abc", "", "9" * 30, "18446744073709551616", "21000000",
]  # fmt: skip
ENCODINGS = [
    "chunked", "Chunked", "chunked, chunked", "identity", "gzip, chunked", "xchunked", "\x0bchunked", "",
    "chunked;x=y",
]  # fmt: skip
BODIES = [
    b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5;ext=\"\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"-1\r\n",
    b"zz\r\n", b"\r\n",
    b"F" * 20 + b"\r\n", b"0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n", b"0\r\n\r\nGET /echo HTTP/1.1\r\nHost: a\r\n\r\n",
    bytes(100_000),
    b"GET /bkapp/counter HTTP/1.1\r\nHost: a\r\n\r\n", b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n",
]  # fmt: skip
FIELDS = {
    "Content-Length": LENGTHS,
    "Transfer-Encoding": ENCODINGS,
    "Host": HOSTS,
    "Range": ["bytes=0-", "bytes=-1", "bytes=0-0", "bytes=" + "0-0," * 500, "bytes=5-1", "bytes=" + "9" * 30 + "-",
    "items=1", "="],
    "Expect": ["100-continue", "200-ok", ""],
    "Connection": ["close", "Upgrade", "keep-alive, Upgrade", "Host, X-Forwarded-For", ","],
    "Upgrade": ["websocket", "h2c", "WebSocket, x", "\xff", ""],
    "Accept-Encoding": ["gzip", "gzip;q=nan", "*;q=0", "br, " * 500, ";"],
    "Accept": ["*/*;q=" + "9" * 50, "text/html;level=" + "x" * 1000, "/"],
    "Cookie": ["a=b; " * 4000, "=", "session=" + "A" * 3000, "a=\xff", ";;;"],
    "Authorization": ["Basic", "Basic !!!!", "Bearer " + "x" * 8000, "Digest username=\""],
    "If-Modified-Since": ["nonsense", "Thu, 99 Foo 9999 99:99:99 GMT", "0"],
    "If-None-Match": ["*", 'W/"', '"a", ' * 500],
    "Content-Type": ["multipart/form-data", "multipart/form-data; boundary=", "text/html; charset=\xff",
    "application/json", "/"],
    "Content-Encoding": ["gzip", "gzip, gzip"],
    "X-Forwarded-Proto": ["https", "https, http", "\xff", "javascript", "a" * 5000],
    "X-Forwarded-Host": ["evil.example", "a b", ""],
    "X-Request-ID": ["x" * 9000, "\x01", '"'],
    "Origin": ["null", "http://evil.example", "http://", "\xff", "file://"],
    "Referer": ["http://evil.example/?" + "x" * 8000],
    "Bokeh-Token": ["x", "/bkapp/counter 0 x", "/bkapp/counter 0 eyJ.x", " " * 100, "/bkapp/counter 0 " + "A" * 20_000],
    "Sec-WebSocket-Key": ["", "x"],
    "Sec-Fetch-Mode": ["navigate", "x" * 5000],
    "Sec-WebSocket-Protocol": ["bokeh, x", ", , ,", "bokeh"],
}  # fmt: skip
ODD_LINES = [
    b"no colon", b": no name", b"Space : x", b"X: a\r\n folded", b"X: a\r\n\tfolded", b" first: folded",
    b"X:" + b"y" * 40_000,
    b"\x00: x", b"X: \x00", b"X: a\rb", b"X: a\nY: b", b"X\xff: y", b"X" * 9000 + b": y", b"X_Forwarded_For: 1",
    b"X: " + bytes(range(128, 256)),
    b"\r\n".join(b"X-%d: y" % number for number in range(300)), b"Transfer-Encoding : chunked",
    b"Content-Length: 5\r\nContent-Length: 6",
]  # fmt: skip

targets = st.one_of(
    one_of(*ROUTES),
    st.builds(lambda route, tail: route + tail, one_of(*ROUTES), one_of(*TAILS)),
    st.builds(lambda route, tail: route + tail, one_of(*ROUTES), one_of("a", "%25", "/.", "?x=", "&a=b").flatmap(long)),
    st.builds(lambda start, route: start + route, one_of("http://evil.example", "//evil.example", "http:", "*", "x"),
    one_of(*ROUTES)),
    one_of("/with/counter", "/with/counter?a=b&word=%ff", "/with/counter?bokeh-token=x"),
    st.binary(max_size=30).map(lambda some: "/" + some.decode("latin-1")),
)  # fmt: skip
named = st.one_of(*(st.tuples(st.just(name), one_of(*values)) for name, values in FIELDS.items())).map(
    lambda field: f"{field[0]}: {field[1]}".encode("latin-1", "replace")
)
some_field = st.tuples(st.binary(min_size=1, max_size=10), st.binary(max_size=30)).map(b": ".join)
fields = st.one_of(named, named, named, named, one_of(*ODD_LINES), some_field)


@st.composite
def requests(draw: Callable) -> bytes:
    """A request with something odd in one of its parts, or in several; most have a sane first line."""
    sane = draw(one_of(True, True, True, False))
    method = draw(one_of("GET", "POST") if sane else one_of(*METHODS))
    version = "HTTP/1.1" if sane else draw(one_of(*VERSIONS))
    first = f"{method} {draw(targets)} {version}"
    lines = [first.encode("latin-1"), f"X-Forwarded-For: {draw(address)}".encode()]
    lines += draw(one_of(*[[b"Host: localhost"]] * 9, []))
    lines += draw(st.lists(fields, max_size=2))
    lines += draw(one_of(*[[b"Connection: close"]] * 6, []))
    end = draw(one_of(*[b"\r\n\r\n"] * 12, b"\n\n", b"\r\n", b""))
    return b"\r\n".join(lines) + end + draw(one_of(*[b""] * 12, *BODIES))


# --- WebSocket handshakes ---------------------------------------------------------------------------------------------

PARAMETERS = [
    "", "server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits", "server_max_window_bits",
    *(f"{side}_max_window_bits={bits}" for side in ("server", "client") for bits in (*range(7, 17), 0, -1, 99, "x",
    '"9"', "", "9" * 30)),
    "client_max_window_bits; client_max_window_bits", "server_max_window_bits=9; server_max_window_bits=10",
    "unknown", "unknown=1",
    "=", ";", "server_no_context_takeover=1",
]  # fmt: skip
extensions = st.one_of(
    one_of(*PARAMETERS).map(lambda parameter: f"permessage-deflate; {parameter}".rstrip("; ")),
    st.lists(one_of(*PARAMETERS), min_size=2, max_size=4).map(lambda some: "; ".join(["permessage-deflate", *some])),
    st.lists(one_of(*PARAMETERS), min_size=2,
    max_size=3).map(lambda some: ", ".join(f"permessage-deflate; {one}" for one in some)),
    one_of("", ",", ";", "x-webkit-deflate-frame", "permessage-bzip2", "permessage-deflate" * 9, "\xff", "a=b",
    "permessage-deflate; " * 300),
)  # fmt: skip
HANDSHAKE = {
    "Sec-WebSocket-Version": ["13", "0", "8", "14", "-1", "abc", "13, 8", "", "9" * 30],
    "Sec-WebSocket-Key": [
        "",
        "x",
        "dGhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ",
        "\xff" * 16,
        "A" * 9000,
        "dGhl, dGhl",
    ],
    "Upgrade": ["websocket", "WebSocket", "WEBSOCKET", "h2c", "websocket, h2c", ""],
    "Connection": ["Upgrade", "upgrade", "keep-alive, Upgrade", "close", "", "Upgrade, Upgrade"],
    "Origin": ["null", "http://evil.example", "", "http://localhost", "\xff"],
    "Sec-WebSocket-Accept": ["x"],
    "Content-Length": ["5", "-1"],
}
PROTOCOLS = ["bokeh, {token}", "bokeh,{token}", "{token}, bokeh", "bokeh", "", "{token}", "bokeh, {token}, x",
    "bokeh, x{token}", "bokeh, \xff",
             "Bokeh, {token}", "bokeh, eyJ.x", "bokeh, " + "A" * 20_000, ",,,", "bokeh, {token}="]  # fmt: skip


@st.composite
def handshakes(draw: Callable) -> list[str]:
    """The lines of a handshake with something odd in one or two of its headers; {token} stands for a good one."""
    path = draw(
        one_of(
            *["/bkapp/counter/ws"] * 15,
            "/bkapp/counter/ws?document=1",
            "/bkapp/counter/ws/",
            "/bkapp/nothing/ws",
            "/ws",
        )
    )
    odd = {name: draw(one_of(*values)) for name, values in HANDSHAKE.items() if draw(one_of(True, *[False] * 11))}
    headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "X-Forwarded-For": draw(address),
        "Sec-WebSocket-Protocol": draw(one_of(*["bokeh, {token}"] * 50, *PROTOCOLS)),
        "Sec-WebSocket-Extensions": draw(extensions),
        **odd,
    }
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return [f"GET {path} HTTP/1.1", *lines, *draw(one_of([], [], [], lines[-1:], lines[3:4], lines[6:7]))]


# --- WebSocket frames -------------------------------------------------------------------------------------------------

PAYLOADS = [
    b"",
    b"x",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"{}",
    b'{"msgid": "1", "msgtype": "PATCH-DOC"}',
    bytes(200),
    b"a" * 70_000,
]
COMPRESSED = [
    b"",
    b"\0",
    b"\xff" * 100,
    deflated(b"{}"),
    deflated(bytes(100_000)),
    deflated(b"a" * 25_000_000),
    deflated(b"{}")[:-1],
    b"\x03\0",
]

frames = st.one_of(
    st.builds(
        frame,
        one_of(*PAYLOADS),
        st.integers(0, 15),
        final=st.booleans(),
        reserved=one_of(0, 0, 0, 1, 2, 4, 7),
        masked=one_of(True, True, True, False),
    ),
    st.builds(frame, one_of(*COMPRESSED), one_of(TEXT, BINARY, 0, PING), final=st.booleans(), reserved=one_of(4, 4, 5)),
    st.builds(frame, one_of(*PAYLOADS), one_of(TEXT, BINARY, PING, 8), announced=one_of(0, 1, 126, 65_536, 21_000_000,
    2**62, 2**63)),
    st.builds(lambda code, reason: frame(code.to_bytes(2, "big") + reason, 8), st.integers(0, 65535), one_of(b"",
    b"\xff", b"x" * 120)),
    st.binary(min_size=1, max_size=60),
)  # fmt: skip


# --- messages of Bokeh's protocol -------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), one_of("", "a" * 2000, "\ud800",
    10**400, -1, 2**64, 1e308)
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=6), part, max_size=4),
    max_leaves=8,
)
ids = one_of(
    "SLIDER", "SOURCE", "PLOT", "COLUMN", "none", "", 0
)  # what stands in capitals is replaced by the model's id
references = st.builds(lambda one: {"id": one}, ids)
DTYPES = [
    "uint8",
    "int32",
    "float64",
    "U8",
    "U1000",
    "S9",
    "O",
    "object",
    "M8[s]",
    "m8",
    "f8,f8",
    "(3,)f8",
    "V9",
    ">f4",
    "nonsense",
    "",
    "x" * 2000,
]
packed = one_of(b"", b"12345678", bytes(4000)).map(lambda data: base64.b64encode(gzip.compress(data)).decode())


def encoded(values: st.SearchStrategy) -> st.SearchStrategy:
    """Return a strategy for what Bokeh reads as something that JSON has not."""

    def of(kind: str, **parts: st.SearchStrategy) -> st.SearchStrategy:
        return st.fixed_dictionaries({"type": st.just(kind)}, optional=parts)

    lists = st.lists(values, max_size=4)
    data = st.one_of(packed, references, one_of("", "!", "AAAA", "H4sIAAAA"), values)
    bytes_ = of("bytes", data=data)
    order = one_of("little", "big", 0)
    return st.one_of(
        of("number", value=st.one_of(one_of("nan", "inf", "-inf", "1e999", "x", "9" * 5000), values)),
        of("array", entries=lists),
        of("set", entries=lists),
        of("map", entries=st.one_of(st.lists(st.tuples(values, values), max_size=3), lists)),
        bytes_,
        of("slice", start=values, stop=values, step=values),
        of("typed_array", array=st.one_of(bytes_, lists), order=order, dtype=one_of(*DTYPES)),
        of("ndarray", array=st.one_of(bytes_, lists), order=order, dtype=one_of(*DTYPES),
        shape=st.lists(st.integers(-2, 10**9), max_size=3)),
        of("ndarray", array=bytes_, order=order, dtype=one_of("uint8", "float64"), shape=one_of([2, 4], [8], [4000],
        [], [-1, 8], "x", None)),
        of("object", name=one_of(*MODELS), id=ids, attributes=st.dictionaries(one_of(*ATTRIBUTES), values, max_size=4)),
        of("object", name=one_of(*MODELS), id=st.text(max_size=3)),
        of("event", name=one_of("button_click", "connection_lost", "tap", "document_ready", "x"),
        values=st.one_of(values, st.just({"model": None}))),
        of("ref", id=ids), of("symbol", name=values), of("value", value=values), of("expr", expr=values),
        of("nonsense", value=values),
    )  # fmt: skip


MODELS = [
    "Slider",
    "Div",
    "Column",
    "ColumnDataSource",
    "Figure",
    "figure",
    "Label",
    "CustomJS",
    "Range1d",
    "Model",
    "Plot",
    "DataTable",
    "Nothing",
    "",
    0,
]
ATTRIBUTES = ["value", "data", "children", "title", "text", "name", "tags", "id", "start", "end", "x_range",
    "js_property_callbacks", "subscribed_events",
              "text_color", "line_dash", "styles", "renderers", "document", "__class__", "nothing"]  # fmt: skip
values = st.recursive(scalars | references, lambda part: encoded(part) | st.lists(part, max_size=3), max_leaves=6)
columns = st.one_of(st.dictionaries(one_of("x", "y", "z", "index"), values, max_size=3), values)
patches = st.lists(
    st.tuples(st.one_of(st.integers(-9, 9), encoded(st.integers(-9, 9)), st.lists(st.integers(), max_size=3)), values),
    max_size=3,
)


def event(kind: str, **parts: st.SearchStrategy) -> st.SearchStrategy:
    """Return a strategy for an event of a PATCH-DOC, of which a part may be missing."""
    return st.fixed_dictionaries({"kind": st.just(kind)}, optional=parts) | st.fixed_dictionaries(
        {"kind": st.just(kind), **parts}
    )


events = st.one_of(
    event("ModelChanged", model=references, attr=one_of(*ATTRIBUTES), new=values),
    event("ModelChanged", model=st.just({"id": "SLIDER"}), attr=one_of("value", "start", "end", "title", "name"),
    new=values),
    event("ColumnDataChanged", model=references, attr=one_of("data", "x"), data=columns, cols=values),
    event("ColumnsStreamed", model=st.just({"id": "SOURCE"}), attr=one_of("data", "x"), data=columns,
    rollover=st.one_of(scalars, st.integers(-5, 5))),
    event("ColumnsPatched", model=st.just({"id": "SOURCE"}), attr=one_of("data", "x"),
    patches=st.dictionaries(one_of("x", "y", "z"), patches, max_size=2)),
    event("RootAdded", model=st.one_of(references, encoded(scalars))),
    event("RootRemoved", model=references),
    event("TitleChanged", title=values),
    event("MessageSent", msg_type=one_of("bokeh_event", "x", 0), msg_data=encoded(values)),
    anything,
)  # fmt: skip
documents = st.fixed_dictionaries({}, optional={"doc": st.one_of(anything, st.fixed_dictionaries(
    {"roots": st.lists(encoded(scalars), max_size=2), "version": scalars}, optional={"title": values,
    "defs": anything, "config": encoded(scalars)}))})  # fmt: skip
contents = st.one_of(
    st.lists(events, max_size=4).map(lambda some: {"events": some}),
    st.lists(events, max_size=4).map(lambda some: {"events": some}),
    documents,
    anything,
    one_of(*({"events": [{"kind": "TitleChanged", "title": depth * [1]}]} for depth in (1, 10_000))),
).map(json.dumps) | one_of(
    "", "{", "[" * 5000, '{"a":' * 5000, "nul", "1" * 5000, "NaN", '{"events": [-Infinity]}', '{"a": 1, "a": 2}'
)


@st.composite
def messages(draw: Callable) -> list[str | bytes]:
    """The parts of a message: those of a good one, or with a header or buffers that are none."""
    header: object = {
        "msgid": draw(scalars),
        "msgtype": draw(one_of(*["PATCH-DOC"] * 8, "PUSH-DOC", "PULL-DOC-REQ", "SERVER-INFO-REQ", "ACK", "OK", "x")),
    }
    parts: list[str | bytes] = ["", "{}", draw(contents)]
    if draw(one_of(True, False, False, False, False)):
        buffers = draw(st.integers(0, 2))
        header["num_buffers"] = draw(one_of(buffers, buffers, -1, 10**9, 1.0, "1", None, [], True))
        for number in range(buffers):
            parts += [
                json.dumps(draw(one_of({"id": f"b{number}"}, {"id": f"b{number}"}, {}, {"id": []}, 0))),
                draw(st.binary(max_size=40)),
            ]
    elif draw(one_of(True, *[False] * 9)):
        header = draw(anything)
    parts[0] = json.dumps(header)
    if draw(one_of(True, *[False] * 19)):  # text where binary is due, and the reverse
        place = draw(st.integers(0, len(parts) - 1))
        parts[place] = parts[place].encode("utf-8", "replace") if isinstance(parts[place], str) else "text"
    return parts
