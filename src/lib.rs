//! tidegate: the gate in front of a container registry.
//!
//! It ends TLS, checks passwords from htpasswd files, and streams bodies of any length to a registry that has no
//! authentication of its own, or to one that has (Harbor). The program is `cli`; the public API of this crate is for its
//! tests and its demo, and promises nothing to others.
//!
//! # The way of a request
//!
//! ```text
//! client                                                                registry
//!   │                                                                       │
//! listen ──── connection ──── service ──── forward ──── upstream ───────────┤
//! a slot      PROXY, TLS,     target       headers,     a connection,       │
//!             HTTP, waits     site, route  the body     the framing         │
//!                             auth      → Identity                          │
//!                             registry  → Operation                         │
//!                             access    → Permit                            │
//!   │                                                                       │
//!   └─────── connection ──── service ──── forward ──── upstream ────────────┘
//!            lingering       or a         Location
//!            close           refusal,     and Link
//!                            access_log   repaired
//! ```
//!
//! [`service`] is the file to read first. The argument for security lies in types: an [`Identity`](auth::Identity) is
//! made only in [`auth`], a [`Permit`](access::Permit) only in [`access`], [`forward`] demands a permit, a
//! [`Password`](secret::Password) cannot print, and a [`Refusal`](refusal::Refusal) is matched without a wildcard. A
//! request uses one [`Snapshot`](snapshot::Snapshot), taken at its start; a reload is one atomic swap, and so is a
//! password file that has changed, or a certificate.
//!
//! One main thread accepts, obeys signals, answers the admin listener and checks endpoints; each worker thread has a
//! runtime, its connections and its connections to the upstreams to itself. Passwords are hashed, live files looked at,
//! and logs written, on threads of their own.
//!
//! # Words
//!
//! The same in code, configuration, logs and documents.
//!
//! | word | meaning |
//! |---|---|
//! | peer, client | the socket's other end; who we believe is asking |
//! | site | a set of host names with a certificate and routes |
//! | route | a path prefix of a site that leads to an upstream |
//! | upstream, endpoint | what a route leads to; one address of it |
//! | operation | what a request asks of a registry: an action on a repository |
//! | identity | anonymous, a user whose password or token was verified, or left to the upstream |
//! | grant | a right: who may do what where; they add up, and nothing else is allowed |
//! | permit | proof that this identity may do this operation |
//! | refusal | the gate's own answer in the upstream's place |
//! | settings, config, snapshot | a module's typed settings; their sum; everything built from one config |
//!
//! # Modules
//!
//! A module imports only from levels below its own, and from modules that stand before it on its own level. The configuration knows everybody; nobody below it knows the
//! configuration. `tests/it/rules.rs` holds this table against the code.
//!
//! | level | modules |
//! |---|---|
//! | 0 words | [`addr`] [`body`] `bounded_file` `buffers` `crypto` `fair_queue` `fair_share` `live_file` [`log`] [`metrics`] `percent` [`pid_file`] [`secret`] `state_file` [`systemd`] |
//! | 1 parts | [`htpasswd`] [`listen`] [`proxy_protocol`] [`registry`] [`target`] [`tls`] [`upstream`] |
//! | 2 who, and over what | [`acme`] [`auth`] [`connection`] |
//! | 3 may they | [`access`] |
//! | 4 there and back | [`forward`] |
//! | 5 around a request | [`access_log`] [`refusal`] [`site`] |
//! | 6 a request | [`service`] |
//! | 7 the file | [`config`] |
//! | 8 all that is built from it | [`snapshot`] |
//! | 9 how it is | [`admin`] [`inspect`] |
//! | 10 the process | [`server`] |
//! | 11 its commands | [`signals`] |
//! | 12 its words | [`cli`] |
//! | 13 its exit code | `main` |
//!
//! # Decisions
//!
//! - Host, route, credentials, rights, then everything else: who has not logged in does not learn what is wrong
//!   with a request.
//! - A backslash in a path is 400, escaped or not: some servers take it for a slash, and it could lead to another route
//!   than the one that was chosen.
//! - A route is chosen by a path without `;parameters`: servlet containers, which some registries run in, cut them off
//!   before they look at it. What is sent on keeps them.
//! - A path without a route is 404, and nobody is asked for a password: none is asked for nothing.
//! - The site follows from `Host`, not from the name in the TLS hello: HTTP/2 clients use one connection for
//!   several names. Where sites differ in the client certificates they ask for, the two must lead to the same ones (a
//!   trust domain); otherwise it is 421. A domain has ticket keys of its own, since a ticket stands for a certificate.
//! - Trust is what the CAs are, not what their file is called, and is judged for each request: after a reload what was
//!   verified under other CAs is verified again, so that a CA added disturbs nobody, and one taken away is away at once.
//! - What is sent to a registry is built from the parsed operation; query keys the API does not know are dropped. The keys
//!   that a registry writes into the `Location` of an upload are its own, whatever their names are, and come back to it;
//!   of those in the `Link` to the next page of a list the known ones do. None passes that differs from a key of the API
//!   in case only, or is no plain word, since another parser might take it for `mount` or `from`.
//! - A slash that is escaped within a repository name is a slash of the name: Portainer writes it so, and nginx and
//!   `distribution` read it so. Route and rights are judged on the decoded name, and the registry gets the plain one.
//!   Everywhere else an escaped slash is refused, and so are an escaped percent sign and an escaped backslash anywhere.
//! - A push by digest may name up to 64 tags (distribution specification, "Pushing Manifests"; ten is the least that a
//!   registry must take): all are of the repository whose right to push is asked for, and each must be a valid tag. A push
//!   by tag that names more of them is refused, since they would be lost silently.
//! - A read of a manifest by a reference that is neither a tag nor a digest is 404 to those who may read the repository, as
//!   for any other that is not there; a write is 400. An invalid digest of a blob or of referrers stays 400: the
//!   specification demands it for referrers, and it says more than a 404.
//! - An absolute target counts before Host (RFC 9112 section 3.2.2) and becomes the Host that the upstream gets, where both
//!   are names of one site. With Host of another site it is 421: a proxy in front that looked at one of the two has judged
//!   another request. An empty port is none, and the upstream gets it as the client wrote it.
//! - A mount whose source lies under another route becomes a plain upload: the source is read under that route's
//!   conditions, which the request has not met. A mount that names no source is sent on only where one route of the
//!   site can hold repositories.
//! - The list of repositories names none that lies under another route, as the registry behind knows no routes. It is
//!   given as it is where one route of the site can hold repositories, by a route for the list alone, and where the
//!   upstream knows who is asking.
//! - With grants, what none of them gives is 403 in the same words whether it exists or not; without any, every verified
//!   user may do everything. A user who is allowed nothing still hears what is wrong with his own request, and that
//!   `/v2/` is there; so does, where something is granted to anyone, who shows a token for nobody in particular; nobody
//!   else does: clients decide by that answer whether to log in.
//! - A 401 or 403 has a detail beside its usual words, though there is nothing more to say: without one docker takes it
//!   for a failure that may pass, and tries again.
//! - The right to mount is decided where permits are made: without the right to pull at the source, or at all
//!   repositories when none is named, the permit is for a plain upload. Where the user has the right and only the token
//!   lacks it, it is a 401 that names both scopes. That tells nothing: it follows from the user's own grants, never from
//!   what is there.
//! - The list of repositories is walked and filtered for those who may not pull all of it. Its `Link` goes on after the
//!   last name that was shown, never after a hidden one, and the registry is not asked to go on after one either: some tell
//!   by their answer whether they have it. When the bounds of the walk are reached with nothing to show,
//!   that is an error, not an end. The patterns of a grant of `catalog` do not narrow the list: what may be pulled does.
//! - A grant names users by UTF-8: a name with U+FFFD is refused, as it would stand for several.
//! - Framing that two parsers may read in two ways is 400 and the end of the connection: a length beside a transfer
//!   coding, a length said twice, even equally, a bare LF or CR, a folded line, a fragment in the target, white space behind
//!   a chunk's size without an extension to follow. hyper forgives some of it and hides what it forgave, so the bytes of
//!   HTTP/1 are followed before it has them. White space before an extension is read past, as RFC 9112 section 7.1.1
//!   demands. Any transfer coding but one `chunked` is 501. A fragment on HTTP/2 is cut off, as nobody reads it there.
//! - Resets are counted where they pass, in frames: those of the client whatever their error code is, since the client
//!   chooses it, and those of the proxy that tell of an error. At `limits.h2_resets` a connection is told to end, with
//!   what runs on it; at twice as many it is cut, and so is one that sends more than 1000 frames at once, and 100 a
//!   second, that ask for nothing. Neither ACK nor padding makes such a frame useful. A WINDOW_UPDATE is useful twice for
//!   each byte of a response that was sent, so that a client may read byte by byte.
//! - An HTTP/2 request whose DATA is not as long as its `content-length` is malformed (RFC 9113 section 8.1.1). The last
//!   announced bytes therefore go to the upstream only when the client has ended the stream: a malformed request is
//!   aborted, and never looks complete. Neither does one that the client resets, whatever the error code.
//! - An early response on HTTP/2 is readable: the stream is reset up to 5 s after the response, not with it, since curl
//!   7.88 drops the response otherwise. Until then what the client sends is discarded on arrival, without memory and
//!   without a further window. A client network group may keep a quarter of the places that are free, of 1024.
//!   What an unauthenticated client sends *before* its response may fill `limits.h2_window`, which `limits.h2_memory`
//!   bounds: a small first window that grows with the permit needs the window of a single stream, which hyper does not
//!   offer. Its adaptive window grows for the whole connection, and beyond `limits.h2_window`.
//! - A PROXY header is demanded of the networks that are named, and read from no others: where it may be missing, a
//!   client that reaches the port from a named network chooses its own address. It has the handshake's deadline. The
//!   admin listener takes none: monitoring connects to it directly. Addresses are read as HAProxy and nginx write them,
//!   IPv4-mapped ones and pairs of both IP versions included. Behind a header that names no client the sender is unknown,
//!   so `X-Forwarded-For` and `X-Forwarded-Proto` are not believed, also when the balancer is a trusted proxy.
//! - Of `X-Forwarded-For` the client is the rightmost address that is not trusted, since everything left of it is the
//!   client's own word; with a word that is no address, whoever wrote it. `X-Forwarded-Host` is never believed: `Host` is
//!   what a proxy passes on, and `external_url` what it hides.
//! - Beyond `limits.connections_per_client` a connection is closed: there is no TLS yet in which to answer. No client
//!   network has more than half of all, and the networks of an IPv6 /48 together have more than one network may only while
//!   they hold fewer than are free (`fair_share`).
//! - An upload reaches the registry as `application/octet-stream`, never as a form, whose fields it would obey
//!   before the query's.
//! - An early answer of the upstream stops the upload: it goes to the client at once, and the rest of the body is
//!   not sent on.
//! - Only a GET or HEAD without a body is sent twice, and once: when its reused connection died before any byte
//!   of an answer, or brought first what is no status line, such as the late body of a response to HEAD. In the latter case
//!   it goes over a fresh connection to the same endpoint. In the former it goes to another endpoint where there is one, and
//!   so it does when a fresh connection died: each may be restarted in turn, and no pull fails.
//! - Before anything was sent, a request of any kind may go to another endpoint, and when all refuse it waits for
//!   `connect_retry` from the first refusal on: a restart costs no request, and an outage is told at once.
//! - The requests of an upload meet one endpoint, which follows from the repository and the addresses as written: rendezvous
//!   hashing with a fixed function (`upstream::balance`), so that workers, reloads and other gates agree without a word.
//! - Upstream connections are shared by client network (`upstream::request_limit`): a network gets another one only while
//!   it has fewer than are free, so that the next network always finds some, and never more than half. An IPv6 /48 has two
//!   thirds at most, so that its networks leave each other some, too. The requests that wait take turns by /48 and /64.
//! - A request that only waits for its own client, which does not read a response or send an upload, gives its place to
//!   others that wait, and goes on. As many such requests are kept as there are places; beyond that the one that has waited
//!   longest is broken off, first of the network that has most: a client that stopped reading is worth less than one that waits.
//! - Names of upstreams are looked up on few threads, one lookup at a time for each name: `getaddrinfo` cannot be cancelled,
//!   and silent DNS servers must not take every thread that there is.
//! - Every endpoint is checked at start; until then it is neither up nor down, and the proxy is not ready (`/readyz`). An
//!   endpoint that is alone is then checked only while something seems wrong or after 30 s without a response to a request,
//!   so that checks do not fill a registry's log.
//! - Three refused connects or three unanswered checks put an endpoint down; only a check brings it back, since one that
//!   hangs still accepts. What it answers does not count. The last one is always tried.
//! - An https upstream is verified or not spoken to. There is no key to turn that off: plain HTTP is as safe as that, and
//!   says so.
//! - When unread HTTP/2 uploads of a client network group hold more than is left of `limits.h2_memory`, its connections
//!   that hold much are not read from, their downloads included: a window once given cannot be taken back, and what is read has to be kept.
//! - A client is slow only while it is waited for: `limits.floor_rate` counts neither the upstream's time nor that of other
//!   requests. The window begins anew with every minute's worth of bytes, so a burst buys no time later on.
//! - A client that breaks off is noticed within a second, also while the upstream takes nothing and so nobody reads from
//!   him; so is one that ends his side, as who closes looks no different: at once behind one whole request, and when
//!   nothing went either way for a quarter of a second behind half a one. nginx, too, ends both. Behind whole requests
//!   that came together the first is answered, as it takes reading on to see the end.
//!   An end behind more than the sockets hold cannot arrive before that is read, and `read_timeout` bounds it.
//! - A client of HTTP/1 that does not read holds one frame of an answer: another one is asked for when the one before it is written.
//! - AES-GCM is ring's where the processor has VAES and no AVX-512, and aws-lc's everywhere else: two libraries to watch, and
//!   half the time for each record on a machine of that kind. All else of TLS is aws-lc's alone.
//! - TLS has its buffers from the gate, by rustls' unbuffered interface; keys, records and alerts stay rustls' own. A
//!   client that sends the beginning of a record holds those bytes and nothing more.
//! - A log that is busy is written in pieces, a line up to some milliseconds late, so that no request wakes its thread.
//! - 499 in the log is a request without an answer, whoever ended it; `ended` says who did.
//! - Both logs have one form (`log::LogLine`): JSON lines begin with `time`, `level` and `message`, text lines quote every
//!   value that a logfmt parser could split. A wrong password names the user only where the password file has that user: any
//!   other name may be a password in the wrong field.
//! - A failed TLS handshake is logged at level info, ten lines a minute for each alert and sender: a client that does not
//!   trust a certificate never sends a request. A first record that is no ClientHello gets an alert, as from OpenSSL.
//! - A body cut short stays visibly cut, in both directions; trailers are dropped.
//! - An unknown user costs a hash of the file's prevailing kind, so that time does not tell who exists.
//! - A right login is remembered while it is used, until a pause of five minutes, for twelve hours at most, as a MAC
//!   over user, password and stored line: a push costs one hash, who works on is not refused for a guesser beside him,
//!   and a line that changes or goes ends it as soon as the file is read. Each line has room for four, since DES crypt
//!   and bcrypt take endless passwords for the same: nobody displaces another.
//! - A password file is live: looked at twice a second, and read when two looks in a row saw the same stamp, so never
//!   amid a write. One that cannot be read leaves the users as last read; one without users lets nobody in.
//! - A certificate and its key are live in the same way, as one: what is shown changes only when both were quiet and fit.
//!   CAs are not: whom the gate trusts changes with a reload, where somebody looks.
//! - A reload reads a live file that has changed only after two looks half a second apart saw the same, and for two seconds
//!   at most waits for that; then what was read before stays, and the thread that looks after it goes on. A pair that is
//!   quiet and does not fit refuses the reload.
//! - The end of a certificate is told when less than 21 days and than 7 are left, or a quarter and a twelfth of its life
//!   where that is less, and when it is there: once each.
//! - A token is for one site, one route and one stored line of its user, and is judged when a request starts: by its
//!   scope and by the rights of that moment. A minute of skew is allowed at both ends, as `distribution` does.
//! - Fewer rights than a token was asked for are no error; a request beyond its scope is a 401 that names the scope,
//!   so that clients fetch another one. Where the user has no right at all, no token is asked for.
//! - In token mode a ping is never anonymous: docker asks for a token only where `/v2/` answers 401.
//! - What a stranger can ask for and what costs more than a request that is sent on is bounded, in all and for each
//!   client network, with 503 at once: forms at the token endpoint (256, 32), and walks through the list of repositories
//!   (32, 8; of strangers 16, 4, so that they leave the users' room alone).
//! - The token endpoint takes passwords, never tokens: a token that begets tokens would never end.
//! - Guesses are counted by client network alone, so that nobody locks a user out from elsewhere, and 32 times as many by
//!   IPv6 /48, whose subscriber would else have 65,536 times as many; the same wrong password again is no guess; a right
//!   login forgives the guesses of its network at its own user only. A client that shares the network of a guesser and has
//!   not logged in lately waits with it. Of guesses at the same moment, as many more may be checked as there are hash
//!   threads, less one.
//! - A remembered login is keyed by the networks that proved it: a network that has used up its guesses is refused for
//!   right and wrong passwords alike, unless it has proved that login itself. How many credentials a network may compare
//!   with what others have proved is bounded as its guesses are, since a client could cancel a request before it counts.
//! - Password checks wait in a queue for each client network, served in turn. While it moves, waiting is better than 503:
//!   a check is given up only when its network has had no turn for a minute, longer than docker and containerd wait, since
//!   one whose client has left is skipped.
//! - A bad line of a password file is a warning: the other users must be able to log in.
//! - A password file is edited under a lock on itself and replaced by a rename; of a line only the hash changes.
//! - DES crypt is accepted, with a warning that 8 characters count.
//! - A path spelt with a slash too many or too few, or with two in a row, is redirected by a relative location, true under
//!   whatever name the client came. What is permitted is the plain path, and the client's next request is judged anew.
//! - A certificate of `tls = "acme"` is for one host, so that a name that leads elsewhere costs the others nothing. The first
//!   try is tls-alpn-01, whose port is always the gate's; where plain HTTP is listened to, http-01 follows at once, and
//!   later tries alternate: at most five refusals an hour, as Let's Encrypt wants it.
//! - A site that turns to `tls = "acme"`, or to another authority, shows what it has until the new certificate is there; after
//!   a restart it has none.
//! - A host without a certificate yet gets the alert `unrecognized_name`, no placeholder: nobody learns to click one away.
//! - Of gates that share `state.dir` one orders, under a file's lock; answers to the authority are files, so that any of
//!   them can give them, and each looks for what another got within a minute.
//! - Plain HTTP is redirected to https, but never under `/v2/`: the password would cross the network in the clear
//!   each time.
//! - A reload changes everything but `listen.workers`, the number of client connections, and the process's own
//!   log.
//! - A process is found by the path of the configuration that it was started with, links unresolved, since that path is
//!   what it reads again: its pid file records it. Several processes may keep their pid files in one directory. The lock of the
//!   file, not the process id in it, says that a process runs; the lock passes to a successor with the descriptor. Before
//!   `reload` signals, it verifies in `/proc` that the process has the locked file open.
//! - `reload` signals also when its own check finds errors: the process judges what it reads, and reports a failed reload in its
//!   log, its metrics and its status page, whoever asked for it.
//! - A reload is built on a thread of its own: accepting, signals and the watchdog go on. One that is asked for meanwhile
//!   comes after it.
//! - In an upgrade both processes hold the same sockets, so nobody is refused; remembered logins, counted guesses and
//!   ticket keys begin anew with the new process.
//! - Of the files that are named only the token secret may be a credential of systemd, which is copied at the start:
//!   certificates and password files change while the gate runs. A check outside of the service cannot see it, and warns.
//! - A closed path (`respond`) is closed to everyone: nobody is asked who he is, and no network is let through.
//! - Of client networks the longest prefix decides, since two lists have no order; of equal ones the refusal.
//! - A network that is enough alone (`satisfy = "any"`) is so whatever credentials come along, as in nginx, and however many
//!   wrong ones came before; right ones add their user's rights. With grants it is `@network`, which like anyone needs tokens: with Basic, docker sends a
//!   password from that network never or always.
//! - Over plain HTTP every name of the site, on any port, is the site: an upstream behind a gate knows no better.
//!   Of a challenge only the realm of `Bearer` is a URL, and only it is repaired.
//! - Preflights of named origins are answered without a password, since browsers send none; `*` is no origin.
//! - When a proxy.toml is imported from nginx, a directive that restricts access and has no counterpart closes its route,
//!   with a warning. It is not proved that the importer finds every restriction, so the file begins with the request to
//!   review each route.
//! - A gate is not ready when another one would do better: before it serves, while it drains, before an endpoint has
//!   responded once, with no endpoint up. A site without an endpoint is an error, and leaves the others served. A reload
//!   that failed, or a certificate near its end, is a warning: all gates have it, and a balancer would take out each.
//! - Watching has its own slots and seconds, on the main thread, and no password: the address or the file's rights say who
//!   may. It answers to addresses and known names alone, so that no page in a browser reads it by a name of its own.
//! - The status page is written whole for each request, and its script asks for the same page again: one truth, which is
//!   there without a script. Only its own parts may be loaded, and as a name is never a tag, nothing in it runs.
//! - No label holds what a client writes, so that the number of series is bounded by the configuration.
//! - `check --live` changes nothing anywhere. Its push always has the same bytes, so that it leaves one blob however often it
//!   is made, and sends the password only to a server that shows the configuration's own certificate. A listener that does
//!   not fit the configuration is an error of a push and a warning otherwise, since a check may come before the reload.
//! - `check` and `serve` report the same errors. `check` writes nothing, so it asks by the rights of its own process whether
//!   the logs and the files of `state.dir` could be made. A directory that is missing directly below `/var/log` or
//!   `/var/lib` is no error of `check`: systemd makes it when it starts the service.
//! - A remedy that names a value names one that the configuration accepts; the parser of the key has read it.
//! - `mode = "none"` on a public address is a warning unless the route has an `allow`: `allow = ["all"]` says that every
//!   client is meant. An upstream that is a listener of the proxy is a warning, not an error: whether a name leads back is
//!   for DNS to say.
//! - What could only be set wrong has no key: framing, `Host`, the client's address, the API version.

// 0: words that everyone uses.
pub mod addr;
pub mod body;
mod bounded_file;
mod buffers;
mod crypto;
mod fair_queue;
mod fair_share;
mod live_file;
pub mod log;
pub mod metrics;
mod percent;
pub mod pid_file;
pub mod secret;
mod state_file;
pub mod systemd;

// 1: parts that know nothing of each other.
pub mod htpasswd;
pub mod listen;
pub mod proxy_protocol;
pub mod registry;
pub mod target;
pub mod tls;
pub mod upstream;

// 2: who is asking, and over what.
pub mod acme;
pub mod auth;
pub mod connection;

// 3: whether they may.
pub mod access;

// 4: to the registry and back.
pub mod forward;

// 5: what surrounds a request.
pub mod access_log;
pub mod refusal;
pub mod site;

// 6: the life of a request.
pub mod service;

// 7: the file, and the sum of all settings.
pub mod config;

// 8: everything that is built from it.
pub mod snapshot;

// 9: what is shown of it.
pub mod admin;
pub mod inspect;

// 10: the running gate.
pub mod server;

// 11: what it is told from outside.
pub mod signals;

// 12: the command line.
pub mod cli;
