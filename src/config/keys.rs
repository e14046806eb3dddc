//! The table of keys: every key of the configuration file, once, with its name, form, range, default and documentation.
//!
//! The modules that fill the settings read values with these constants. From the same constants follow the reports of unknown
//! and misspelt keys, the ranges in messages, and the check that `proxy.toml` documents every key with its default
//! (`reference`). The doc comment of a key is the first sentence of its documentation in `proxy.toml`.
//!
//! A new key takes an entry here, its paragraph in `proxy.toml`, and a line where the settings that it belongs to are built.

use std::ops::RangeInclusive;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::address::{self, AdminSocket, HostPattern};
use super::form::{
    Boolean, Key, Keys, List, Named, Number, Size, SizeOrBytes, Status, TableForm, TableListForm,
    Text, Time, WithDefault, Word, paths,
};
use super::url::{self, ExternalUrl, UpstreamAddress};
use super::value::{self, Error, Secret};
use crate::log::LogFormat;
use crate::net::cidr::Cidr;
use crate::net::host::Host;
use crate::net::listener::ListenAddr;
use crate::template::Template;
use crate::tls::ClientAuthMode;
use crate::tls::MinVersion;
use crate::upstream::HostHeader;

/// Returns the dotted paths of all keys and tables of the configuration file.
pub fn key_paths() -> Vec<String> {
    paths(KEYS).into_iter().map(|(path, _)| path).collect()
}

/// Defines a constant for each key of a table, and the list of them.
macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $constant:ident = $name:literal: $form:ty = $value:expr;)+) => {
        $(
            $(#[doc = $doc])+
            pub(crate) const $constant: Key<$form> = Key {
                name: $name,
                doc: concat!($($doc),+),
                form: $value,
            };
        )+

        /// The keys of this table.
        pub(crate) const KEYS: Keys = &[$(&$constant),+];
    };
}

keys! {
    /// Files with further sites and groups.
    INCLUDE = "include": List<String> = List(value::text);
    /// The addresses and threads of the proxy.
    LISTEN = "listen": TableForm = TableForm(listen::KEYS);
    /// The process log and the access log.
    LOG = "log": TableForm = TableForm(log::KEYS);
    /// What the proxy keeps on disk.
    STATE = "state": TableForm = TableForm(state::KEYS);
    /// TLS for clients.
    TLS = "tls": TableForm = TableForm(tls::KEYS);
    /// The authority for sites with tls = "acme".
    ACME = "acme": TableForm = TableForm(acme::KEYS);
    /// The limit on wrong passwords.
    THROTTLE = "throttle": TableForm = TableForm(throttle::KEYS);
    /// Every wait and every size is bounded without a line here.
    LIMITS = "limits": TableForm = TableForm(limits::KEYS);
    /// Names for sets of users, written "@ci" in grants.
    GROUPS = "groups": Named<List<String>> = Named { form: List(value::any_text), expected: "a table of lists of strings" };
    /// A site: host names, a certificate, routes.
    SITE = "site": TableListForm = TableListForm(site::KEYS);
}

/// `[listen]`
pub(crate) mod listen {
    use super::*;

    keys! {
        /// Addresses and ports for TLS.
        HTTPS = "https": List<ListenAddr> = List(address::listen_address);
        /// Addresses for plain HTTP.
        HTTP = "http": List<ListenAddr> = List(address::listen_address);
        /// Addresses for plain HTTP from proxies that terminate TLS.
        BEHIND_PROXY = "behind_proxy": List<ListenAddr> = List(address::behind_proxy_address);
        /// The address of the admin listener, or a socket in the file system.
        ADMIN = "admin": Text<AdminSocket> = Text(address::admin_socket);
        /// Networks that may use the admin listener, in addition to this machine.
        ADMIN_ALLOW = "admin_allow": List<Cidr> = List(address::network);
        /// Names that a request to the admin listener may have in Host, in addition to addresses, localhost and the hosts of
        /// the sites.
        ADMIN_HOSTS = "admin_hosts": List<Host> = List(address::host);
        /// The port in the https URLs that clients use.
        PUBLIC_PORT = "public_port": Number<u16> = Number::new(1..=65535);
        /// The number of threads that serve connections.
        WORKERS = "workers": Number<usize> = Number::new(1..=256);
        /// Networks of balancers that pass TLS connections through.
        PROXY_PROTOCOL = "proxy_protocol": List<Cidr> = List(address::network);
        /// Networks of proxies that terminate TLS and connect to an https or behind_proxy address.
        TRUSTED_PROXIES = "trusted_proxies": List<Cidr> = List(address::network);
    }
}

/// `[log]`
pub(crate) mod log {
    use super::*;

    keys! {
        /// The least important level that is written.
        LEVEL = "level": WithDefault<Word<LevelFilter>> = WithDefault {
            form: Word(&[
                ("error", LevelFilter::ERROR),
                ("warn", LevelFilter::WARN),
                ("info", LevelFilter::INFO),
                ("debug", LevelFilter::DEBUG),
                ("trace", LevelFilter::TRACE),
            ]),
            default: LevelFilter::INFO,
        };
        /// The format of both logs.
        FORMAT = "format": WithDefault<Word<LogFormat>> = WithDefault {
            form: Word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            default: LogFormat::Text,
        };
        /// The file of the process log.
        FILE = "file": Text<String> = Text(value::text);
        /// The file of the access log.
        ACCESS_FILE = "access_file": Text<String> = Text(value::text);
        /// Whether there is an access log.
        ACCESS = "access": WithDefault<Boolean> = WithDefault { form: Boolean, default: true };
    }
}

/// `[state]`
pub(crate) mod state {
    use super::*;

    keys! {
        /// The folder for what the proxy creates.
        DIR = "dir": Text<String> = Text(value::text);
    }
}

/// `[tls]`
pub(crate) mod tls {
    use super::*;

    keys! {
        /// The oldest version of TLS that is accepted.
        MIN_VERSION = "min_version": WithDefault<Word<MinVersion>> = WithDefault {
            form: Word(&[("1.2", MinVersion::V1_2), ("1.3", MinVersion::V1_3)]),
            default: MinVersion::V1_2,
        };
        /// A folder for the keys of session tickets, which several instances of the proxy share.
        TICKET_KEYS = "ticket_keys": Text<String> = Text(value::text);
    }
}

/// `[acme]`
pub(crate) mod acme {
    use super::*;

    keys! {
        /// An address to which the authority may write.
        EMAIL = "email": Text<String> = Text(value::email);
        /// The https URL of the authority's directory.
        DIRECTORY = "directory": Text<String> = Text(url::acme_directory);
        /// A PEM file with the CA that verifies the directory itself.
        DIRECTORY_CA = "directory_ca": Text<String> = Text(value::text);
    }
}

/// `[throttle]`
pub(crate) mod throttle {
    use super::*;

    keys! {
        /// The limit on wrong passwords: the number of different ones that one client network (an IPv4 address, or an IPv6
        /// /64) may send within the window.
        GUESSES = "guesses": WithDefault<Number<usize>> = WithDefault { form: Number::new(0..=1000), default: 10 };
        /// The window is the time for which a wrong password counts.
        WINDOW = "window": WithDefault<Time> = WithDefault { form: Time::Wait, default: Duration::from_secs(300) };
    }
}

/// `[limits]`
pub(crate) mod limits {
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;

    /// The default window of HTTP/2 and the largest one (RFC 9113 section 6.9).
    const H2_WINDOW_RANGE: RangeInclusive<u64> = 65_535..=0x7fff_ffff;

    type Count<T> = WithDefault<Number<T>>;
    type Bytes<T> = WithDefault<Size<T>>;
    type Wait = WithDefault<Time>;

    const fn count(default: usize) -> Count<usize> {
        WithDefault {
            form: Number::any(),
            default,
        }
    }

    const fn seconds(seconds: u64) -> Wait {
        WithDefault {
            form: Time::Wait,
            default: Duration::from_secs(seconds),
        }
    }

    keys! {
        /// Client connections at the same time.
        CONNECTIONS = "connections": Count<usize> = count(10_000);
        /// Connections of one client network (an IPv4 address, or an IPv6 /64) at the same time.
        CONNECTIONS_PER_CLIENT = "connections_per_client": Count<usize> = count(1024);
        /// From the connection to the end of the TLS handshake, including a PROXY header.
        HANDSHAKE = "handshake": Wait = seconds(10);
        /// From the first byte of a request head to its end.
        HEAD = "head": Wait = seconds(15);
        /// Bytes of a request head.
        HEAD_SIZE = "head_size": Bytes<usize> = WithDefault { form: Size::new(4 * KIB..=MIB), default: 32 << 10 };
        /// Fields in a request head.
        HEAD_FIELDS = "head_fields": Count<usize> = WithDefault { form: Number::new(10..=100), default: 100 };
        /// Bytes of path and query.
        TARGET_SIZE = "target_size": Bytes<usize> = WithDefault { form: Size::new(256..=60 * KIB), default: 16 << 10 };
        /// Bytes of decoded "user:password".
        BASIC_SIZE = "basic_size": Bytes<usize> = WithDefault { form: Size::new(16..=64 * KIB), default: 1024 };
        /// How long a connection may stay open without a request, on HTTP/1 and HTTP/2.
        IDLE = "idle": Wait = seconds(75);
        /// Inactivity within a request body while the proxy waits for the client.
        BODY_IDLE = "body_idle": Wait = seconds(60);
        /// Inactivity of a write to a client.
        WRITE_IDLE = "write_idle": Wait = seconds(60);
        /// Bytes per second that a client must send of a request or read of a response.
        MIN_RATE = "min_rate": Bytes<u64> = WithDefault { form: Size::new(1..=MIB), default: KIB };
        /// Requests at the same time on one HTTP/2 connection.
        H2_STREAMS = "h2_streams": Count<u32> = WithDefault { form: Number::new(1..=10_000), default: 100 };
        /// Streams of one HTTP/2 connection that may be reset.
        H2_RESETS = "h2_resets": Count<usize> = count(200);
        /// Bytes that a client may send ahead on one HTTP/2 stream.
        H2_WINDOW = "h2_window": Bytes<u32> = WithDefault { form: Size::new(H2_WINDOW_RANGE), default: 4 << 20 };
        /// Bytes that a client may send ahead on one HTTP/2 connection.
        H2_CONNECTION_WINDOW = "h2_connection_window": Bytes<u32> = WithDefault { form: Size::new(H2_WINDOW_RANGE), default: 8 << 20 };
        /// Bytes that arrived over HTTP/2 and that no upstream has taken, all connections together.
        H2_MEMORY = "h2_memory": Bytes<usize> = WithDefault { form: Size::new(MIB..=MIB * MIB), default: 256 << 20 };
        /// The number of threads that hash passwords.
        HASH_THREADS = "hash_threads": Number<usize> = Number::new(1..=256);
        /// Password checks that may wait for a hash thread.
        HASH_QUEUE = "hash_queue": Count<usize> = count(256);
        /// How long a password check may wait while no check of its client network has a turn.
        HASH_WAIT = "hash_wait": Wait = seconds(60);
        /// Requests at the same time to one address of an upstream.
        UPSTREAM_CONNECTIONS = "upstream_connections": Count<usize> = count(256);
        /// Requests that may wait for an address of an upstream.
        UPSTREAM_QUEUE = "upstream_queue": Count<usize> = count(10_000);
        /// How long a request may wait for an address.
        UPSTREAM_WAIT = "upstream_wait": Wait = seconds(5);
        /// How long transfers may continue after TERM.
        DRAIN = "drain": Wait = seconds(30);
        /// How long the proxy accepts connections after TERM while /readyz reports that it is not ready.
        DRAIN_DELAY = "drain_delay": Wait = WithDefault { form: Time::OptionalWait, default: Duration::ZERO };
    }
}

/// `[[site]]`
pub(crate) mod site {
    use super::*;

    keys! {
        /// The names that clients use.
        HOSTS = "hosts": List<HostPattern> = List(address::host_pattern);
        /// The addresses of [listen] on which the site is served.
        LISTEN = "listen": List<ListenAddr> = List(address::behind_proxy_address);
        /// The certificate chain, the site's own certificate first, and the key, both PEM.
        TLS = "tls": TableForm = TableForm(certificate::KEYS);
        /// Client certificates, required in addition to auth and never instead of it.
        CLIENT_CA = "client_ca": Text<String> = Text(value::text);
        /// Whether a client must have a certificate.
        CLIENT_AUTH = "client_auth": WithDefault<Word<ClientAuthMode>> = WithDefault {
            form: Word(&[("required", ClientAuthMode::Required), ("optional", ClientAuthMode::Optional)]),
            default: ClientAuthMode::Required,
        };
        /// The scheme and authority of URLs in Location, Link and token realms.
        EXTERNAL_URL = "external_url": Text<ExternalUrl> = Text(url::external_url);
        /// How clients log in, for all routes of the site that have no auth of their own.
        AUTH = "auth": TableForm = TableForm(auth::KEYS);
        /// A route of the site above.
        ROUTE = "route": TableListForm = TableListForm(route::KEYS);
    }
}

/// `site.tls` as a table
pub(crate) mod certificate {
    use super::*;

    keys! {
        /// The certificate chain, the site's own certificate first.
        CERT = "cert": Text<String> = Text(value::live_file);
        /// The key, both PEM.
        KEY = "key": Text<String> = Text(value::live_file);
    }
}

/// `site.auth` and `site.route.auth`
pub(crate) mod auth {
    use super::*;

    /// The value of `mode`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Mode {
        /// HTTP Basic.
        Basic,
        /// Tokens of the proxy, which clients get for a password.
        Token,
        /// The upstream authenticates clients.
        Upstream,
        /// There is no authentication.
        None,
    }

    fn mode(text: &str) -> Result<Mode, Error> {
        let modes = [
            ("basic", Mode::Basic),
            ("token", Mode::Token),
            ("upstream", Mode::Upstream),
            ("none", Mode::None),
        ];
        value::word(text, &modes)
    }

    keys! {
        /// How clients log in.
        MODE = "mode": Text<Mode> = Text(mode);
        /// A file as for nginx and Apache.
        HTPASSWD = "htpasswd": Text<String> = Text(value::live_file);
        /// The name that clients display.
        REALM = "realm": Text<String> = Text(value::any_text);
        /// A file with one line of at least 32 characters.
        SECRET = "secret": Text<Secret> = Text(value::secret);
        /// How long a token is valid.
        LIFETIME = "lifetime": WithDefault<Time> = WithDefault {
            form: Time::Within {
                // Clients take a shorter lifetime for one minute.
                min: Duration::from_secs(60),
                max: Duration::from_secs(24 * 60 * 60),
                why: "clients assume at least a minute, and a stolen token is valid for its whole lifetime",
            },
            // A push of several layers needs one token, and the token is not valid much longer than the push takes.
            default: Duration::from_secs(15 * 60),
        };
    }
}

/// `[[site.route]]`
pub(crate) mod route {
    use super::*;

    keys! {
        /// A prefix of the path that ends at a segment.
        PATH = "path": Text<String> = Text(url::path_prefix);
        /// The destination.
        UPSTREAM = "upstream": TableForm = TableForm(upstream::KEYS);
        /// A path without an upstream: every client gets this status, without a password.
        RESPOND = "respond": TableForm = TableForm(respond::KEYS);
        /// How clients log in.
        AUTH = "auth": TableForm = TableForm(auth::KEYS);
        /// Client networks that are allowed.
        ALLOW = "allow": List<Vec<Cidr>> = List(address::networks_or_all);
        /// Client networks that are denied.
        DENY = "deny": List<Vec<Cidr>> = List(address::networks_or_all);
        /// Which of network and password is required.
        SATISFY = "satisfy": WithDefault<Word<bool>> = WithDefault {
            form: Word(&[("all", false), ("any", true)]),
            default: false,
        };
        /// Origins whose web pages may use the route from a browser.
        CORS = "cors": List<ExternalUrl> = List(url::origin);
        /// /v2/ below the path is a registry.
        REGISTRY = "registry": WithDefault<Boolean> = WithDefault { form: Boolean, default: true };
        /// The largest request body.
        MAX_BODY = "max_body": WithDefault<SizeOrBytes> = WithDefault { form: SizeOrBytes, default: 0 };
        /// Further origins by which the upstream calls itself.
        INTERNAL_ORIGINS = "internal_origins": List<ExternalUrl> = List(url::origin);
        /// Fields to set, or with an empty value to remove, in requests to the upstream and in responses of the upstream.
        REQUEST_HEADERS = "request_headers": Named<Text<String>> = HEADERS;
        /// Fields to set, or with an empty value to remove, in requests to the upstream and in responses of the upstream.
        RESPONSE_HEADERS = "response_headers": Named<Text<String>> = HEADERS;
        /// Further fields about the client's request that the proxy sets for the upstream.
        FORWARDED = "forwarded": List<ForwardedWord> = List(forwarded);
        /// Whether clients may open WebSockets, with registry = false only.
        WEBSOCKET = "websocket": Boolean = Boolean;
        /// A file with further rights.
        GRANT_FILE = "grant_file": Text<String> = Text(value::live_file);
        /// Rights.
        GRANT = "grant": TableListForm = TableListForm(grant::KEYS);
    }

    /// An element of `forwarded`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum ForwardedWord {
        /// `X-Forwarded-Host`.
        Host,
        /// `X-Forwarded-Port`.
        Port,
        /// `X-Forwarded-Prefix`.
        Prefix,
        /// `X-Original-URI`.
        OriginalUri,
    }

    fn forwarded(text: &str) -> Result<ForwardedWord, Error> {
        let words = [
            ("host", ForwardedWord::Host),
            ("port", ForwardedWord::Port),
            ("prefix", ForwardedWord::Prefix),
            ("original-uri", ForwardedWord::OriginalUri),
        ];
        value::word(text, &words)
    }

    const HEADERS: Named<Text<String>> = Named {
        form: Text(value::any_text),
        expected: "a table of strings",
    };
}

/// `site.route.respond` as a table
pub(crate) mod respond {
    use super::*;

    keys! {
        /// The status of the response.
        STATUS = "status": Status = Status;
        /// The destination of a redirect.
        LOCATION = "location": Text<Template> = Text(value::location);
        /// A directory with the files of an ACME client.
        FILES = "files": Text<String> = Text(value::text);
        /// The body of the response, as plain text.
        TEXT = "text": Text<Template> = Text(value::response_text);
    }
}

/// `site.route.upstream` as a table
pub(crate) mod upstream {
    use super::*;

    keys! {
        /// Addresses that serve the same.
        URLS = "urls": List<UpstreamAddress> = List(url::upstream_address);
        /// A PEM file with the CAs that verify https:// addresses.
        CA = "ca": Text<String> = Text(value::text);
        /// A PEM file with the certificate that the proxy presents to https:// addresses.
        CERT = "cert": Text<String> = Text(value::live_file);
        /// A PEM file with the private key of that certificate.
        KEY = "key": Text<String> = Text(value::live_file);
        /// The name in the TLS handshake with https:// addresses, for which their certificates must be valid.
        SERVER_NAME = "server_name": Text<Host> = Text(address::host);
        /// The Host of requests to the upstream.
        HOST = "host": WithDefault<Text<HostHeader>> = WithDefault { form: Text(url::host_header), default: HostHeader::Client };
        // An upstream is near: if it does not answer a SYN for this long, it is down.
        /// The time for name resolution, all addresses of the name and the TLS handshake together.
        CONNECT_TIMEOUT = "connect_timeout": WithDefault<Time> = WithDefault { form: Time::Wait, default: Duration::from_secs(5) };
        // A registry on the same machine accepts connections again within two seconds of a restart.
        /// How long a request waits while connections are refused.
        CONNECT_RETRY = "connect_retry": WithDefault<Time> = WithDefault { form: Time::OptionalWait, default: Duration::from_secs(3) };
        // The usual value in nginx configurations for registries: committing a large blob may take minutes without a byte.
        /// The longest inactivity of the upstream while the proxy waits for it.
        READ_TIMEOUT = "read_timeout": WithDefault<Time> = WithDefault { form: Time::Wait, default: Duration::from_secs(900) };
    }
}

/// The file that `route.grant_file` names
pub(crate) mod grant_file {
    use super::*;

    keys! {
        /// Names for sets of users, written "@ci" in the grants of the file.
        GROUPS = "groups": Named<List<String>> = super::GROUPS.form;
        /// Rights.
        GRANT = "grant": TableListForm = TableListForm(grant::KEYS);
    }
}

/// `[[site.route.grant]]`
pub(crate) mod grant {
    use super::*;

    keys! {
        /// Users by name, groups.
        TO = "to": List<String> = List(value::any_text);
        /// Patterns for whole names.
        REPOSITORIES = "repositories": List<String> = List(value::any_text);
        /// The actions that the grant allows.
        ACTIONS = "actions": List<String> = List(value::any_text);
    }
}
