// What tsc knows beside the page's modules: what they use of BokehJS (the head of page.js has what of it is
// documented), and what they hand to each other

interface Model {
  type: string
  name: string | null
  properties: Record<string, {is_unset: boolean, get_value(): any}>
  tabs?: Model[]
  references(): Iterable<Model>
  setv(values: Values, options?: {sync: boolean}): void
  [property: string]: any
}

interface Doc {
  all_models: Iterable<Model>
  config: Model
  views_manager: any
  roots(): Model[]
  on_change(callback: (event: Change) => void): void
  remove_on_change(callback: (event: Change) => void): void
  on_event(name: string, callback: (doc: Doc, event: any) => void): void
  on_message(name: string, callback: (data: any) => void): void
}

type Change = {attr?: string, model: Model, sync: boolean}
type Values = Record<string, any> // of a model, by property

declare const Bokeh: {
  documents: any[]
  embed: {add_document_from_session(...args: any[]): Promise<any>}
  index?: {query_one(test: (view: any) => boolean): any}
  Models: {get(name: string): any}
  version: string
}

interface Window {
  Bokeh?: typeof Bokeh
  WebSocket: typeof WebSocket
  [key: symbol]: boolean
}

// where an app is on a page, or the script of its own page
type Place = HTMLElement & {dataset: {bokehApp: string, bokehToken: string, bokehRoots: string}}
type Script = {src: string, [attribute: string]: string} // the attributes of its tag
type Metadata = {scripts?: Script[], styles?: string[], [name: string]: any} // of an ACK
type Message = {entered: [model: Model, property: string, json: string][], slow: boolean, time: number, timer?: number}
type Listener = {
  answered(message: Message, failed: boolean): void
  refused(size: number, most: number): void
  render(): void
  opened?: boolean
}
type Connection = ReturnType<typeof import("../../bokeh_dyno/page/connection.js").open_socket>

type View = {
  doc: Doc
  places: HTMLElement[]
  connection: Connection
  lost: boolean
  beside: boolean
  stable?: number
  empty?: boolean
  failed?: boolean
}
