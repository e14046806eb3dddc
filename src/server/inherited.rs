//! Listening sockets that were there before the process: systemd's, or those of the process that this one succeeds.
//!
//! `cli` receives them, `server` takes from them what the configuration names. Those that nobody takes stay open:
//! connections wait in them until a reload or a successor takes them.

use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;

use crate::net::listener::ListenAddr;
use crate::net::listener::SYSTEMD;

/// Sockets by the words of the configuration that take them.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    sockets: Vec<(String, TcpListener)>,
}

impl InheritedSockets {
    /// What systemd passed to this process (sd_listen_fds(3)).
    ///
    /// # Errors
    /// A descriptor is no listening TCP socket.
    pub fn from_env() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        // Without LISTEN_PID they may be meant for another process.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(Self::default());
        }
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        let mut names = names.split(':');
        for index in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty());
            let name = name.unwrap_or("unknown");
            if let Some(socket) = passed.take_tcp_listener(index)? {
                inherited.add(format!("{SYSTEMD}{name}"), socket);
            }
        }
        Ok(inherited)
    }

    /// Adds a socket under the words that took it before.
    pub fn add(&mut self, words: String, socket: TcpListener) {
        self.sockets.push((words, socket));
    }

    /// Takes what this entry of the configuration means: one socket of an address, all of a name.
    pub fn take(&mut self, binding: &ListenAddr) -> Vec<TcpListener> {
        let words = binding.to_string();
        let most = match binding {
            ListenAddr::Address(_) => 1,
            ListenAddr::Named(_) => usize::MAX,
        };
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for (name, socket) in self.sockets.drain(..) {
            if name == words && taken.len() < most {
                taken.push(socket);
            } else {
                left.push((name, socket));
            }
        }
        self.sockets = left;
        taken
    }

    /// The words by which they can be taken.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(|(name, _)| name.as_str())
    }

    /// All of them, to be handed on.
    pub fn sockets(&self) -> &[(String, TcpListener)] {
        &self.sockets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn a_name_takes_all_of_it_and_an_address_one() {
        let mut inherited = InheritedSockets::default();
        for words in ["systemd:a", "127.0.0.1:0", "systemd:a", "127.0.0.1:0"] {
            inherited.add(words.to_owned(), socket());
        }
        let address = ListenAddr::Address("127.0.0.1:0".parse().unwrap());
        assert_eq!(inherited.take(&ListenAddr::Named("b".to_owned())).len(), 0);
        assert_eq!(inherited.take(&ListenAddr::Named("a".to_owned())).len(), 2);
        assert_eq!(inherited.take(&address).len(), 1);
        assert_eq!(inherited.names().collect::<Vec<_>>(), ["127.0.0.1:0"]);
    }
}
