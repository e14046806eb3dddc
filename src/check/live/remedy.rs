//! The meaning of the errno of a failed connect(2), and the remedy for the operator: one sentence each.

use std::error::Error;
use std::io;

use rustix::io::Errno;

/// The meaning of a failed connect to `server` over TCP, and the remedy.
pub(crate) fn errno_remedy(error: &(dyn Error + 'static), server: &str) -> (String, String) {
    let explain = |what: &str, fix: String| (what.to_owned(), fix);
    match errno(error) {
        Some(Errno::CONNREFUSED) => explain(
            "nothing listens there (connection refused)",
            format!("start {server}, or correct the address: ss -ltnp shows what listens on this machine"),
        ),
        Some(Errno::CONNRESET | Errno::PIPE) => explain(
            "the connection was reset",
            format!("look at the log of {server}: it, or a firewall before it, ended the connection"),
        ),
        Some(Errno::TIMEDOUT) => explain(
            "the connection attempt got no response (timed out)",
            "correct the address, start that machine, or open the port in the firewalls between".to_owned(),
        ),
        Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => explain(
            "that machine cannot be reached (no route to host)",
            "correct the address, start that machine, or open the port in its firewall".to_owned(),
        ),
        Some(Errno::NETUNREACH | Errno::NETDOWN) => explain(
            "this machine has no route to that network (network is unreachable)",
            "correct the address, or add the route: ip route lists the routes".to_owned(),
        ),
        Some(Errno::ACCESS | Errno::PERM) => explain(
            "this machine forbids the connection (permission denied)",
            "allow it in the firewall for outgoing connections, or in IPAddressDeny= and RestrictAddressFamilies= of the unit".to_owned(),
        ),
        Some(Errno::ADDRNOTAVAIL) => explain(
            "this machine has no address from which it could connect (address not available)",
            "write an IPv4 address where this machine has no IPv6, or free local ports: ss -s counts them".to_owned(),
        ),
        Some(Errno::AFNOSUPPORT) => explain(
            "the kernel of this machine has no such address family (IPv6 is disabled)",
            "write an IPv4 address, or enable IPv6 in the kernel".to_owned(),
        ),
        Some(Errno::MFILE | Errno::NFILE) => explain(
            "this process has no descriptor left (too many open files)",
            "raise the limit: ulimit -n shows it".to_owned(),
        ),
        Some(other) => explain(
            &io::Error::from(other).to_string(),
            format!("see whether {server} runs and whether its address is correct"),
        ),
        // An error of getaddrinfo has no errno.
        None => explain(
            &format!("the name has no address ({})", innermost(error)),
            "correct the name, or its entry in the DNS or in /etc/hosts: getent hosts NAME shows what this machine finds".to_owned(),
        ),
    }
}

/// The meaning of a failed connect to a socket in the file system, and the remedy.
pub(crate) fn unix_remedy(error: &(dyn Error + 'static), server: &str) -> (String, String) {
    let explain = |what: &str, fix: String| (what.to_owned(), fix);
    match errno(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => explain(
            "there is no such socket file",
            format!("start {server}, or correct the path"),
        ),
        Some(Errno::CONNREFUSED) => explain(
            "no process listens on this file (connection refused)",
            format!("start {server}; it may want the file removed first"),
        ),
        Some(Errno::ACCESS | Errno::PERM) => explain(
            "this user may not connect to the socket (permission denied)",
            "run the check as the user that serves (sudo -u tidegate), and let that user enter the folders and write to the socket file".to_owned(),
        ),
        Some(Errno::PROTOTYPE) => explain(
            "the socket is of another type than a stream (protocol wrong type for socket)",
            format!("correct the path, or let {server} listen on a stream socket"),
        ),
        _ => errno_remedy(error, server),
    }
}

/// The errno of the error, or of the first of its sources that has one.
fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    chain(error).find_map(|cause| Errno::from_io_error(cause.downcast_ref()?))
}

/// The text of the last source of an error.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let last = chain(error).last();
    last.map(ToString::to_string).unwrap_or_default()
}

/// The error and its sources.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_of_connect_has_a_sentence_and_a_remedy_of_its_own() {
        let all = [
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::TIMEDOUT,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::ACCESS,
            Errno::ADDRNOTAVAIL,
            Errno::AFNOSUPPORT,
            Errno::MFILE,
        ];
        let mut seen = std::collections::HashSet::new();
        for errno in all {
            let (what, fix) = errno_remedy(&io::Error::from(errno), "the registry");
            assert!(!what.contains("os error"), "{what}");
            assert!(seen.insert(what.clone()), "{what}");
            assert!(seen.insert(fix.clone()), "{fix}");
        }
        let (what, _) = errno_remedy(&io::Error::from(Errno::NOBUFS), "the registry");
        assert!(what.contains("buffer space"), "{what}");
        for errno in [Errno::NOENT, Errno::CONNREFUSED, Errno::ACCESS] {
            let (what, fix) = unix_remedy(&io::Error::from(errno), "the registry");
            assert!(seen.insert(what.clone()), "{what}");
            assert!(seen.insert(fix), "{what}");
        }
        let unresolved = io::Error::other("Name or service not known");
        let (what, fix) = errno_remedy(&unresolved, "the registry");
        assert!(
            what.contains("has no address") && what.contains("not known"),
            "{what}"
        );
        assert!(fix.contains("getent hosts"), "{fix}");
    }
}
