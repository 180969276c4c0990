/** Types of client.js. A test compares those of the events with the server's. */

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

/** Somebody else's message, or one from another of your own connections. */
export interface MessageEvent {
  type: "message";
  id: string;
  room: string;
  sender: string;
  data: JsonValue;
}

/** Another member joined or left. */
export interface PresenceEvent {
  type: "joined" | "left";
  room: string;
  sender: string;
  connection: string;
}

/** You have joined; it has an `id`, which tells it from that of another member. */
export interface JoinedEvent {
  type: "joined";
  id: string;
  room: string;
  sender: string;
  connection: string;
}

export interface PresentMember {
  sender: string;
  connections: string[];
}

/** Who is there; in a large room, `members` is empty. */
export interface PresentEvent {
  type: "present";
  room: string;
  count: number;
  members: PresentMember[];
}

/** Messages may be missing here: load from elsewhere what you need, or tell the reader. */
export interface GapEvent {
  type: "gap";
  room: string;
  since: string;
}

/** The messages that you missed while away have been sent. */
export interface ResumedEvent {
  type: "resumed";
  id: string;
  room: string;
  since: string;
}

/** `send` returns the `id`; it is not dispatched. */
export interface AcceptedEvent {
  type: "accepted";
  ref: string;
  id?: string;
}

/** Not dispatched. */
export interface PongEvent {
  type: "pong";
  ref?: string;
}

/** An error that is about none of the messages of `send`, whose promises have theirs. */
export interface ErrorEvent {
  type: "error";
  code: string;
  detail: string;
  path?: string;
  ref?: string;
}

export type RoomState = "connecting" | "open" | "closed";

/** The state has changed; where a connection ended, with its close code and the reason. */
export interface StateChange {
  state: RoomState;
  code?: number;
  reason?: string;
}

export interface RoomEventMap {
  message: CustomEvent<MessageEvent>;
  joined: CustomEvent<JoinedEvent | PresenceEvent>;
  left: CustomEvent<PresenceEvent>;
  present: CustomEvent<PresentEvent>;
  gap: CustomEvent<GapEvent>;
  resumed: CustomEvent<ResumedEvent>;
  error: CustomEvent<ErrorEvent>;
  state: CustomEvent<StateChange>;
}

export interface RoomOptions {
  /** Asked for a token before each attempt to connect. */
  token?: () => string | undefined | Promise<string | undefined>;
  /** Messages on their way at once (1). More are faster where the server is far away, but may
   * arrive in another order when it rejects one of them for a while. */
  inFlight?: number;
  /** Messages that may wait to be accepted, also while there is no connection (1000). */
  maxQueued?: number;
  /** Events that may wait, after a reconnection, for the answer to a message (1000); above, the
   * connection is given up. It must be more than the server keeps of a room. */
  maxHeld?: number;
  /** Milliseconds to wait before the first attempt to reconnect, at most (1000). */
  minDelay?: number;
  /** Milliseconds to wait before any attempt, at most (30,000). */
  maxDelay?: number;
  /** Milliseconds of silence before the connection is tested (20,000). */
  pingAfter?: number;
  /** Milliseconds that the server has to answer then (10,000). */
  pongWithin?: number;
  /** What to connect with, where there is no global `WebSocket`. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
}

/** Why a message was not sent: `code` is that of the server's error, `too_big` (for the server),
 * `queue_full` or `closed`. */
export class RoomError extends Error {
  constructor(code: string, detail: string);
  readonly code: string;
}

/** A room that stays joined until it is closed. */
export class Room extends EventTarget {
  /** Throws a `TypeError` for a URL that no WebSocket may have: another protocol, a fragment. */
  constructor(url: string | URL, options?: RoomOptions);

  /** `connecting`, also between two connections; `open`; or `closed`, for good. */
  readonly state: RoomState;

  /** Send any JSON value; the promise has its id, once the server has accepted it, or it is
   * rejected with a `RoomError`. */
  send(data: JsonValue): Promise<string>;

  /** Hand a new token to the open connection, so that it outlives the old one. */
  renew(): Promise<void>;

  /** Leave the room; what has not been accepted is rejected with the code `closed`. */
  close(): void;

  addEventListener<Type extends keyof RoomEventMap>(
    type: Type,
    listener: (event: RoomEventMap[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof RoomEventMap>(
    type: Type,
    listener: (event: RoomEventMap[Type]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** Join a room, like `/ws_broadcast/tea`. A URL may be relative to that of the page. */
export function connect(url: string | URL, options?: RoomOptions): Room;
