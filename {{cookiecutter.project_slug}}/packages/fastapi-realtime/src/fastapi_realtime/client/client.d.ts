/** Types of client.js. A test compares the events with the server's. */

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

/** A message of another member, or of your user's other connections; without `id` if not kept. */
export interface MessageEvent {
  type: "message";
  id?: string;
  room: string;
  sender: string;
  data: JsonValue;
}

/** More text for the message with the id `to`. */
export interface AppendEvent {
  type: "append";
  id: string;
  room: string;
  sender: string;
  to: string;
  data: string;
}

/** Who a sender is, if its token says so. */
export interface Profile {
  name?: string;
  picture?: string;
}

/** Another member joined or left. */
export interface PresenceEvent {
  type: "joined" | "left";
  room: string;
  sender: string;
  connection: string;
  profile?: Profile;
}

/** You have joined. Unlike the `joined` of another member, it has an `id`. */
export interface JoinedEvent {
  type: "joined";
  id: string;
  room: string;
  sender: string;
  connection: string;
  ref?: string;
}

export interface PresentMember {
  sender: string;
  connections: string[];
  profile?: Profile;
}

/** Who is in the room. In a large room, `members` is empty. */
export interface PresentEvent {
  type: "present";
  room: string;
  count: number;
  members: PresentMember[];
}

/** Messages may be missing here: load them from elsewhere, or tell the user. */
export interface GapEvent {
  type: "gap";
  room: string;
  since: string;
}

/** All messages missed since `since` have been sent. */
export interface ResumedEvent {
  type: "resumed";
  id: string;
  room: string;
  since: string;
}

/** Not dispatched; `send` resolves to its `id`. */
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

/** An error that is not about a message, which rejects the promise of `send`; or why a room can't
 * be joined, which closes it. */
export interface ErrorEvent {
  type: "error";
  code: string;
  detail: string;
  path?: string;
  ref?: string;
  room?: string;
}

export type RoomState = "connecting" | "open" | "closed";

/** The state has changed; `code` and `reason` are those of a connection that ended. If the server
 * refuses the room, `code` is 401, 403 or 422: after a failed attempt, the client asks by a GET to
 * the same URL, since browsers hide the answer to a handshake. */
export interface StateChange {
  state: RoomState;
  code?: number;
  reason?: string;
}

export interface RoomEventMap {
  message: CustomEvent<MessageEvent>;
  append: CustomEvent<AppendEvent>;
  joined: CustomEvent<JoinedEvent | PresenceEvent>;
  left: CustomEvent<PresenceEvent>;
  present: CustomEvent<PresentEvent>;
  gap: CustomEvent<GapEvent>;
  resumed: CustomEvent<ResumedEvent>;
  error: CustomEvent<ErrorEvent>;
  state: CustomEvent<StateChange>;
}

export interface RoomOptions {
  /** Called for a token before each attempt to connect. Must answer within `tokenWithin`. */
  token?: () => string | undefined | Promise<string | undefined>;
  /** Messages in flight at once (1). More are faster if the server is far away, but may be
   * published in another order if one is rejected and sent again. */
  inFlight?: number;
  /** Messages not yet accepted, at most (1000); then `send` rejects with `queue_full`. */
  maxQueued?: number;
  /** Events held after a reconnection until sent messages are accepted (1000); above, it
   * reconnects. Must be more than the server's history of a room. */
  maxHeld?: number;
  /** Maximum milliseconds before the first attempt to reconnect (1000); doubled each time. */
  minDelay?: number;
  /** Maximum milliseconds before any attempt (30,000). */
  maxDelay?: number;
  /** Milliseconds to wait for `token` before the attempt counts as lost (30,000). */
  tokenWithin?: number;
  /** Milliseconds without data from the server before a ping is sent (20,000). */
  pingAfter?: number;
  /** Milliseconds to wait for the pong before reconnecting (10,000). An attempt counts as lost
   * after `pingAfter` and `pongWithin` without data; an event stream, after 30,000 at least. */
  pongWithin?: number;
  /** Where a WebSocket can't be opened, read Server-Sent Events and send by POST (false). Whatever
   * opened is used again, until it fails to. `join` and messages that are not kept need a WebSocket.
   * Another server than that of the page must allow the requests: CORS. */
  fallback?: boolean;
  /** The `WebSocket` class, if there is no global one. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
}

/** Why a message or a token was not sent: `code` is the server's error code, or `too_big` (1009),
 * `queue_full`, `closed`, `no_token` or `not_available`. */
export class RoomError extends Error {
  constructor(code: string, detail: string);
  readonly code: string;
}

export interface SendOptions {
  /** If false, only who is there now receives it, and only if the room is open here; `send`
   * resolves to an empty text at once. For typing indicators and the like. Needs a WebSocket. */
  keep?: boolean;
}

export interface JoinOptions {
  /** How many of the latest messages to receive first (0). */
  last?: number;
}

/** A room, joined until it is closed. */
export interface Room extends EventTarget {
  /** The name; of the room in the URL, once it is open. */
  readonly name: string | undefined;

  /** `connecting`, also while reconnecting; `open`; or `closed`, for good. */
  readonly state: RoomState;

  /** Send a JSON value. Resolves to the message's id once the server has accepted it; rejects
   * with a `RoomError`. */
  send(data: JsonValue, options?: SendOptions): Promise<string>;

  /** Join another room on the same connection. After a reconnect, each room resumes from its own
   * last message. Returns the same object for the same name until it is closed. Needs a WebSocket:
   * with `fallback`, the room may close after an `error` with the code `not_available`. */
  join(name: string, options?: JoinOptions): Room;

  /** Send a new token, so that the connection stays open when the old one expires. Rejects with
   * `no_token` if the callback does not answer within `tokenWithin`. */
  renew(): Promise<void>;

  /** Leave the room for good; messages not yet accepted are rejected with `closed`. The room of
   * the URL is the last: its connection closes, and with it all others. */
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

/** Join a room, such as `/ws_broadcast/tea`. The URL may be relative to the page. Throws a
 * `TypeError` for an invalid one: another scheme, or a fragment. */
export function connect(url: string | URL, options?: RoomOptions): Room;
