//! The kinds of addresses on which the proxy serves sites: a test of hostile bytes runs over each of them.

use std::os::unix::net::UnixStream;

use tidegate::server::Scheme;

use super::frames::RawH2;
use super::proxy::TestConfig;
use super::{Client, PATIENCE, Proxy, certs, config, eventually_some};

/// A kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    /// `listen.https`.
    Https,
    /// `listen.behind_proxy` over TCP.
    BehindProxy,
    /// `listen.behind_proxy` over a Unix socket.
    UnixSocket,
}

impl ListenerKind {
    pub(crate) const ALL: [Self; 3] = [Self::Https, Self::BehindProxy, Self::UnixSocket];

    /// The configuration of [`config`] with an address of this kind. Requests to it need `X-Forwarded-Proto: https`, which an
    /// https address replaces.
    pub(crate) fn config(self) -> TestConfig {
        let config = config("", "");
        match self {
            Self::Https => config,
            Self::BehindProxy | Self::UnixSocket => config
                .lines(
                    "https",
                    "behind_proxy = [\"127.0.0.1:0\", \"unix:{dir}/http.sock\"]\ntrusted_proxies = [\"127.0.0.1\"]",
                )
                .lines("tls", ""),
        }
    }

    /// A connection for HTTP/1.
    pub(crate) fn connect(self, proxy: &Proxy) -> Client {
        self.connect_for(proxy, "http/1.1")
    }

    /// A connection for HTTP/2 on which the preface was sent.
    pub(crate) fn frames(self, proxy: &Proxy) -> RawH2 {
        let mut frames = RawH2::over(self.connect_for(proxy, "h2"));
        frames.send_preface(&[]);
        frames
    }

    fn connect_for(self, proxy: &Proxy, protocol: &str) -> Client {
        match self {
            Self::Https => Client::tls(
                proxy.https(),
                "localhost",
                certs::default_client_config(protocol),
            ),
            Self::BehindProxy => Client::plain(proxy.listener(Scheme::BehindProxy)),
            Self::UnixSocket => {
                let path = proxy.path("http.sock");
                let connect = || UnixStream::connect(&path).ok();
                let stream = eventually_some("the socket is there", connect);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                Client::from_socket(stream)
            }
        }
    }
}
