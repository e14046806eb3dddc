//! Tables of cases for every parser of single values, in `value`, `address` and `url`, with the texts of their errors.

use crate::net::host::Host;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::super::address::{
    HostPattern, host, host_pattern, listen_address, network, socket_address, unix_path,
};
use super::super::url::{UpstreamUrl, external_url, path_prefix, upstream_url};
use super::*;

/// The texts of a problem: error, why, remedy.
fn error_text<T: fmt::Debug>(read: Result<T, Error>) -> String {
    let error = read.unwrap_err();
    let parts = [Some(error.to_string()), error.why(), Some(error.remedy())];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" | ")
}

#[test]
fn durations_are_parsed() {
    let day = 24 * 3600 * 1000;
    let cases = [
        ("900s", 900_000),
        ("15m", 900_000),
        ("2h", 7_200_000),
        ("500ms", 500),
        ("1d", day),
        ("0s", 0),
        ("007s", 7000),
        ("3650d", 3650 * day),
    ];
    for (text, milliseconds) in cases {
        assert_eq!(
            duration(text),
            Ok(Duration::from_millis(milliseconds)),
            "{text}"
        );
    }
}

#[test]
fn malformed_durations_are_rejected_with_a_remedy() {
    let units = "the units are ms, s, m, h and d";
    let cases = [
        ("", "it is empty | write a value between the quotes".to_owned()),
        ("15", format!("the unit is missing | {units} | write \"15s\"")),
        ("15 ", format!("the unit is missing | {units} | write \"15s\"")),
        ("15x", format!("there is no unit \"x\" | {units} | write a whole number and a unit, as in \"1500ms\"")),
        ("15 m", format!("there is no unit \" m\" | {units} | write \"15m\"")),
        ("15M", format!("there is no unit \"M\" | {units} | write \"15m\"")),
        ("2hours", format!("there is no unit \"hours\" | {units} | write \"2h\"")),
        ("1h30m", format!("there is no unit \"h30m\" | {units} | write a whole number and a unit, as in \"1500ms\"")),
        ("1_000s", format!("there is no unit \"_000s\" | {units} | write a whole number and a unit, as in \"1500ms\"")),
        ("-5s", "it does not begin with a whole number | write a whole number and a unit, as in \"1500ms\"".into()),
        ("1.5s", "it does not begin with a whole number | write a whole number and a unit, as in \"1500ms\"".into()),
        ("s", "it does not begin with a whole number | write a whole number and a unit, as in \"1500ms\"".into()),
        ("3651d", "it is not in the range 0s to 3650d | write a value from 0s to 3650d".into()),
        ("99999999999999999999s", "it is not in the range 0s to 3650d | write a value from 0s to 3650d".into()),
        ("18446744073709551615d", "it is not in the range 0s to 3650d | write a value from 0s to 3650d".into()),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(duration(text)), expected, "{text}");
    }
}

#[test]
fn sizes_are_parsed() {
    let cases = [
        ("512B", 512),
        ("32KiB", 32 << 10),
        ("4MiB", 4 << 20),
        ("1GiB", 1 << 30),
        ("2TiB", 2 << 40),
        ("1KB", 1000),
        ("1kB", 1000),
        ("10MB", 10_000_000),
        ("1GB", 1_000_000_000),
        ("1TB", 1_000_000_000_000),
        ("0B", 0),
        ("18446744073709551615B", u64::MAX),
        ("16777215TiB", 16_777_215 << 40),
    ];
    for (text, bytes) in cases {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn malformed_sizes_are_rejected_with_a_remedy() {
    let units = "the units are B, KiB, MiB, GiB, TiB (of 1024) and KB, MB, GB, TB (of 1000)";
    let cases = [
        ("", "it is empty | write a value between the quotes".to_owned()),
        ("512", format!("the unit is missing | {units} | write \"512B\"")),
        ("32k", format!("there is no unit \"k\" | {units} | write \"32KiB\"")),
        ("10m", format!("there is no unit \"m\" | {units} | write \"10MiB\"")),
        ("32kib", format!("there is no unit \"kib\" | {units} | write \"32KiB\"")),
        ("32Kbi", format!("there is no unit \"Kbi\" | {units} | write \"32KiB\"")),
        ("1x\u{1b}", format!("there is no unit \"x\\u{{1b}}\" | {units} | write a whole number and a unit, as in \"1536MiB\"")),
        ("-1B", "it does not begin with a whole number | write a whole number and a unit, as in \"1536MiB\"".into()),
        ("1,5GiB", "it does not begin with a whole number | write a whole number and a unit, as in \"1536MiB\"".into()),
        ("16777216TiB", "it is not in the range 0B to 16777215TiB | write a value from 0B to 16777215TiB".into()),
        ("18446744073709551616B", "it is not in the range 0B to 16777215TiB | write a value from 0B to 16777215TiB".into()),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(size(text)), expected, "{text}");
    }
}

#[test]
fn quantities_are_formatted_with_the_largest_unit_that_divides_them() {
    for (seconds, text) in [(0, "0ms"), (60, "1m"), (75, "75s"), (86_400, "1d")] {
        assert_eq!(format_duration(Duration::from_secs(seconds)), text);
    }
    for (bytes, text) in [
        (0, "0B"),
        (4096, "4KiB"),
        (65_535, "65535B"),
        (1 << 40, "1TiB"),
    ] {
        assert_eq!(format_size(bytes), text);
    }
}

#[test]
fn only_final_statuses_are_accepted() {
    for code in [200, 404, 503, 599] {
        assert_eq!(i64::from(http_status(code).unwrap().as_u16()), code);
    }
    for code in [i64::MIN, -1, 0, 101, 199, 600, 65_536 + 404, i64::MAX] {
        assert_eq!(
            error_text(http_status(code)),
            "it is not in the range 200 to 599 | write a value from 200 to 599"
        );
    }
}

#[test]
fn networks_are_parsed_or_rejected() {
    for text in ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"] {
        assert_eq!(network(text).unwrap().to_string(), text);
    }
    let cases = [
        ("", "it is empty | write a value between the quotes"),
        (
            "lan",
            "it is not a network | write an address, or one with the length of its prefix, as in \"10.0.0.0/8\"",
        ),
        (
            "10.0.0.0/33",
            "it is not a network: its prefix is longer than the address | write at most 32 after an IPv4 address, and at most 128 after an IPv6 address",
        ),
        (
            "10.1.2.3/8",
            "it is not a network: the address has bits beyond the prefix | write \"10.0.0.0/8\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(network(text)), expected, "{text}");
    }
}

#[test]
fn socket_addresses_are_parsed_or_rejected() {
    for text in ["[::]:443", "127.0.0.1:80", "[::1]:0", "10.0.0.1:65535"] {
        assert_eq!(socket_address(text).unwrap().to_string(), text);
    }
    let cases = [
        ("", "it is empty | write a value between the quotes"),
        (
            ":443",
            "it is not an address and a port | write \"[::]:443\" for all addresses",
        ),
        (
            "*:443",
            "it is not an address and a port | write \"[::]:443\" for all addresses",
        ),
        (
            "443",
            "it is not an address and a port | write \"[::]:443\" for all addresses",
        ),
        (
            "localhost:80",
            "it is not an address and a port | write \"127.0.0.1:80\" or \"[::1]:80\"",
        ),
        (
            "example.com:80",
            "it is not an address and a port | write an address of this machine, or \"[::]:80\" for all of them",
        ),
        (
            "127.0.0.1",
            "it is not an address and a port | write \"127.0.0.1:443\", an address and its port",
        ),
        (
            "::1",
            "it is not an address and a port | write \"[::1]:443\", an address and its port",
        ),
        (
            "[::]",
            "it is not an address and a port | write \"[::]:443\", an address and its port",
        ),
        (
            "127.0.0.1:65536",
            "it is not an address and a port | write \"127.0.0.1:443\", with a port from 0 to 65535",
        ),
        (
            "ä\u{7}",
            "it is not an address and a port | write \"[::]:443\", with a port from 0 to 65535",
        ),
        (
            "::1:443",
            "it is not an address and a port | write \"[::1]:443\"",
        ),
        (
            ":::443",
            "it is not an address and a port | write \"[::]:443\"",
        ),
        (
            "2001:db8::1",
            "it is not an address and a port | write \"[2001:db8::1]:443\", an address and its port",
        ),
        (
            "localhost",
            "it is not an address and a port | write \"127.0.0.1:443\" or \"[::1]:443\"",
        ),
        (
            "https://127.0.0.1:8443/",
            "it is not an address and a port | write \"127.0.0.1:8443\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(socket_address(text)), expected, "{text}");
    }
}

#[test]
fn host_patterns_are_parsed() {
    let name = |name: &str| HostPattern::Exact(Host::Name(name.to_owned()));
    let address = |text: &str| HostPattern::Exact(Host::Address(text.parse::<IpAddr>().unwrap()));
    let cases = [
        ("docker.example.com", name("docker.example.com")),
        ("Docker.Example.COM", name("docker.example.com")),
        ("localhost", name("localhost")),
        ("my_registry", name("my_registry")),
        ("xn--bcher-kva.example", name("xn--bcher-kva.example")),
        ("3com.com", name("3com.com")),
        ("10.0.0.1", address("10.0.0.1")),
        ("[2001:DB8::1]", address("2001:db8::1")),
        ("::1", address("::1")),
        ("::ffff:10.0.0.1", address("10.0.0.1")),
        ("*.Example.com", HostPattern::Wildcard("example.com".into())),
        ("*.lan", HostPattern::Wildcard("lan".into())),
        ("*", HostPattern::Any),
    ];
    for (text, pattern) in cases {
        let read = host_pattern(text).unwrap();
        assert_eq!(read, pattern, "{text}");
        assert_eq!(
            host_pattern(&read.to_string()),
            Ok(read),
            "{text} shown and read again"
        );
    }
}

#[test]
fn malformed_host_patterns_are_rejected_with_a_remedy() {
    let site = "a site is found by the host alone, on every address that the proxy listens on";
    let no_port = format!("a port has no place in it | {site}");
    let no_scheme = format!("a scheme has no place in it | {site}");
    let label = "it is not a host name | use labels of letters, digits, - and _, at most 63 of them, with dots between the labels";
    let star = "it is not a pattern with its * in front | write \"*.example.com\" for one label, or \"*\" for any host";
    let cases = [
        ("", "it is empty | write a value between the quotes".to_owned()),
        ("*.", star.to_owned()),
        ("a.example:5000", format!("{no_port} | write \"a.example\"")),
        ("[::1]:443", format!("{no_port} | write \"[::1]\"")),
        ("10.0.0.1:443", format!("{no_port} | write \"10.0.0.1\"")),
        ("*.example:443", format!("{no_port} | write \"*.example\"")),
        ("https://a.example", format!("{no_scheme} | write \"a.example\"")),
        ("https://bob:pa/ss@a.example:443/v2/", format!("{no_scheme} | write \"a.example\"")),
        ("a.example/v2/", format!("a path has no place in it | {site} | write \"a.example\"")),
        ("a.example.", "it is not a name without a dot at its end | write \"a.example\"".into()),
        ("*example.com", star.into()),
        ("a.*.com", star.into()),
        ("*.*.com", star.into()),
        ("bücher.example", "it is not an ASCII name | write the name in its ASCII form, which begins with \"xn--\"".into()),
        ("256.1.1.1", "it is not an IPv4 address | write four numbers from 0 to 255".into()),
        ("1.2.3.4.5", "it is not an IPv4 address | write four numbers from 0 to 255".into()),
        ("*.10.0.0", "it is not an IPv4 address | write four numbers from 0 to 255".into()),
        ("[zz]", "it is not an IPv6 address in brackets | write \"zz\"".into()),
        ("[::g]", "it is not an IPv6 address in brackets | write an IPv6 address between the brackets, as in \"[2001:db8::1]\"".into()),
        ("[10.0.0.1]", "it is not an IPv6 address in brackets | write \"10.0.0.1\"".into()),
        ("https://", format!("{no_scheme} | write \"docker.example.com\", the name that clients use")),
        ("-a.example", label.into()),
        ("a-.example", label.into()),
        ("a..example", label.into()),
        ("a b", label.into()),
        ("a\n", label.into()),
        ("~^.*$", star.into()),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(host_pattern(text)), expected, "{text}");
    }
    assert_eq!(error_text(host_pattern(&"a".repeat(64))), label);
    assert_eq!(
        error_text(host_pattern(&"ab.".repeat(85))),
        error_text(host_pattern(&format!("{}.", "ab.".repeat(84) + "ab")))
    );
    assert_eq!(error_text(host_pattern(&["a"; 128].join("."))), label);
}

#[test]
fn upstream_urls_are_parsed() {
    let cases = [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://Registry", "http://registry:80"),
        ("HTTP://registry:80", "http://registry:80"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://[::1]", "http://[::1]:80"),
        ("https://harbor.lan", "https://harbor.lan:443"),
        ("https://harbor.lan:8443", "https://harbor.lan:8443"),
        ("unix:/run/registry.sock", "unix:/run/registry.sock"),
        ("unix:registry.sock", "unix:registry.sock"),
    ];
    for (text, shown) in cases {
        assert_eq!(upstream_url(text).unwrap().to_string(), shown, "{text}");
    }
    assert_eq!(
        upstream_url("https://h"),
        Ok(UpstreamUrl::Https {
            host: Host::Name("h".into()),
            port: 443
        })
    );
    assert_eq!(
        upstream_url("unix:/a b"),
        Ok(UpstreamUrl::Unix("/a b".into()))
    );
}

#[test]
fn malformed_upstream_urls_are_rejected_with_a_remedy() {
    let form = "it is not a URL such as \"http://127.0.0.1:5000\" or \"unix:/run/registry.sock\"";
    let why = "the proxy sends the path of the request as it is to every upstream";
    let unix = "it is not \"unix:\" and the path of a socket";
    let otherwise =
        "write \"http://127.0.0.1:5000\", with the host and port at which the upstream listens";
    let port = "it is not a URL with a port from 1 to 65535 | write the port as a number, as in \"http://127.0.0.1:5000\"";
    let brackets = "it is not a host with its IPv6 address in brackets";
    let cases = [
        ("", "it is empty | write a value between the quotes".to_owned()),
        ("127.0.0.1:5000", format!("{form} | write \"http://127.0.0.1:5000\"")),
        ("registry:5000/v2", format!("{form} | write \"http://registry:5000\"")),
        ("ftp://registry", format!("{form} | write \"http://registry\"")),
        ("http://r:5000/", format!("a slash at the end has no place in it | {why} | write \"http://r:5000\"")),
        ("http://r/v2/", format!("a path has no place in it | {why} | write \"http://r\"")),
        ("http://r?x=1", format!("a query has no place in it | {why} | write \"http://r\"")),
        ("http://r#x", format!("a query has no place in it | {why} | write \"http://r\"")),
        ("http://u:hunter2@r:5000", "a user name has no place in it | secrets are never in this file | write \"http://r:5000\"".into()),
        ("http://u:hunt/er2@r/x", "a user name has no place in it | secrets are never in this file | write \"http://r\"".into()),
        ("u:hunter2@r", format!("{form} | write \"http://r\"")),
        ("http://", format!("{form} | {otherwise}")),
        ("http://:5000", format!("{form} | {otherwise}")),
        ("http://r:", port.to_owned()),
        ("http://r:0", port.to_owned()),
        ("http://r:+80", port.to_owned()),
        ("http://r:65536", port.to_owned()),
        ("http://::1", format!("{brackets} | write \"http://[::1]\"")),
        ("http://::1:5000", format!("{brackets} | write \"http://[::1]:5000\"")),
        ("https://2001:db8::1", format!("{brackets} | write \"https://[2001:db8::1]\"")),
        ("http://a:b:80", format!("{brackets} | {otherwise}")),
        ("http://[::g]:80", "it is not an IPv6 address in brackets | write an IPv6 address between the brackets, as in \"[2001:db8::1]\"".into()),
        ("http://[r]:80", "it is not an IPv6 address in brackets | write \"http://r:80\"".into()),
        ("http://r.:5000", "it is not a name without a dot at its end | write \"http://r:5000\"".into()),
        ("http://*.r", format!("it is not a host name; a URL has no wildcard | {otherwise}")),
        ("/run/r.sock", format!("{form} | write \"unix:/run/r.sock\"")),
        ("/", format!("{form} | {otherwise}")),
        ("unix:", format!("{unix} | write \"unix:/run/registry.sock\", with the path of the socket")),
        ("http://unix:/run/r.sock:/", format!("{form} | write \"unix:/run/r.sock\"")),
        ("unix:run/", format!("{unix} | write \"unix:run\"")),
        ("unix:/run/r.sock:", format!("{unix} | write \"unix:/run/r.sock\"")),
        ("unix:/run/", format!("{unix} | write \"unix:/run\"")),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(upstream_url(text)), expected, "{text}");
    }
    let longest = format!("unix:/{}", "x".repeat(106));
    assert!(upstream_url(&longest).is_ok());
    assert!(error_text(upstream_url(&format!("{longest}x"))).contains("107 bytes"));
    assert!(!error_text(upstream_url("http://u:hunter2@r")).contains("hunter2"));
}

#[test]
fn external_urls_are_parsed_or_rejected() {
    let cases = [
        (
            "https://docker.example.com",
            "https://docker.example.com",
            None,
        ),
        (
            "https://Docker.example.com:443",
            "https://docker.example.com",
            None,
        ),
        (
            "https://docker.example.com:8443",
            "https://docker.example.com:8443",
            Some(8443),
        ),
        (
            "http://[2001:db8::1]:8080",
            "http://[2001:db8::1]:8080",
            Some(8080),
        ),
        ("http://a:443", "http://a:443", Some(443)),
    ];
    for (text, shown, port) in cases {
        let read = external_url(text).unwrap();
        assert_eq!(
            (read.to_string().as_str(), read.port),
            (shown, port),
            "{text}"
        );
    }
    let why = "a registry is at /v2/ of its host; clients know no other place";
    let form = "it is not a URL such as \"https://docker.example.com\"";
    let cases = [
        (
            "https://a/registry",
            format!("a path has no place in it | {why} | write \"https://a\""),
        ),
        ("a.example", format!("{form} | write \"https://a.example\"")),
        (
            "unix:/run/x",
            format!(
                "{form} | write \"https://docker.example.com\", with the host that is meant, and no wildcard"
            ),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(external_url(text)), expected, "{text}");
    }
}

#[test]
fn path_prefixes_are_parsed_or_rejected() {
    for text in [
        "/",
        "/v2/",
        "/v2",
        "/a/b-c_d.e~f/",
        "/...",
        "/.well-known/",
        "/a:b@c",
    ] {
        assert_eq!(path_prefix(text).as_deref(), Ok(text));
    }
    let form = "it is not a path from / on, without //, . and ..";
    let bytes = "it is not a canonical path | write unescaped letters, digits and -._~!$&'()+,;=:@ after a slash";
    let cases = [
        ("", "it is empty | write a value between the quotes".to_owned()),
        ("v2/", format!("{form} | write \"/v2/\"")),
        ("//", format!("{form} | write \"/\"")),
        ("/v2//", format!("{form} | write \"/v2/\"")),
        ("/a//b", format!("{form} | write \"/a/b\"")),
        ("/a/./b/", format!("{form} | write \"/a/b/\"")),
        ("/v2/..", format!("{form} | write \"/v2\"")),
        (
            "/v2/*",
            "it is not a prefix without wildcards | write \"/v2/\"".into(),
        ),
        (
            "/v2/?x",
            "a query has no place in it | routes are chosen by the path alone | write \"/v2/\""
                .into(),
        ),
        (
            "v2/*",
            "it is not a prefix without wildcards | write \"/v2/\"".into(),
        ),
        (
            "?x",
            "a query has no place in it | routes are chosen by the path alone | write \"/\""
                .into(),
        ),
        (
            "https://a/v2/",
            "a scheme has no place in it | the host is the site's; a route is chosen by the path alone | write \"/v2/\""
                .into(),
        ),
        ("/v2/%41", bytes.into()),
        ("/ü", bytes.into()),
        ("/a b", bytes.into()),
        ("/a\\b", bytes.into()),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(path_prefix(text)), expected, "{text}");
    }
}

#[test]
fn words_are_parsed_or_suggested() {
    let modes = [("basic", 1), ("token", 2), ("none", 3)];
    assert_eq!(word("token", &modes), Ok(2));
    let cases = [
        ("baisc", "there is no \"baisc\" | did you mean \"basic\"?"),
        ("Token", "there is no \"Token\" | did you mean \"token\"?"),
        (
            "digest",
            "there is no \"digest\" | write \"basic\" or \"token\" or \"none\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error_text(word(text, &modes)), expected);
    }
    assert_eq!(text("x"), Ok("x".to_owned()));
    assert_eq!(text(""), Err(Error::Empty));
}

#[test]
fn a_secret_is_a_file_or_a_credential() {
    let named = |name: &str| Ok(Secret::Credential(name.to_owned()));
    assert_eq!(secret("credential:token-secret"), named("token-secret"));
    assert_eq!(secret("credential:..a"), named("..a"));
    let file = secret("a/credential:b").unwrap();
    assert_eq!(file, Secret::File(PathBuf::from("a/credential:b")));
    let below = file.below(Path::new("/etc"));
    assert_eq!(below, Secret::File(PathBuf::from("/etc/a/credential:b")));
    assert_eq!(secret(""), Err(Error::Empty));
}

#[test]
fn a_credential_is_never_a_path() {
    let long = "a".repeat(256);
    for name in [
        "",
        ".",
        "..",
        "../passwd",
        "/etc/passwd",
        "a/b",
        "a:b",
        "a b",
        "a\n",
        "ä",
        &long,
    ] {
        let rejected = secret(&format!("credential:{name}"));
        assert!(matches!(rejected, Err(Error::Malformed { .. })), "{name}");
    }
}

#[test]
fn a_file_that_changes_cannot_be_a_credential() {
    assert_eq!(live_file("a.pem").as_deref(), Ok("a.pem"));
    let rejected = live_file("credential:key").unwrap_err();
    assert!(rejected.why().unwrap().contains("changes while it runs"));
}

/// Asserts that the value which a remedy tells the reader to write is accepted, if the remedy names one in full.
fn assert_remedy_is_accepted<T: fmt::Debug>(
    text: &str,
    parse: fn(&str) -> Result<T, Error>,
) -> Result<(), TestCaseError> {
    let remedy = parse_explained(text, &parse)
        .err()
        .map(|error| error.remedy());
    let remedy = remedy.unwrap_or_default();
    let Some(quoted) = remedy.strip_prefix("write \"") else {
        return Ok(());
    };
    // The value ends at the first quote that is not escaped, and an explanation may follow.
    let mut is_escaped = false;
    let end = quoted.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    let value = quoted.get(..end.unwrap()).unwrap();
    let toml = format!("\"{value}\"");
    let written = toml::de::DeValue::parse(&toml).unwrap();
    let written = written.get_ref().as_str().unwrap();
    prop_assert!(parse(written).is_ok(), "{text:?}: {remedy}");
    Ok(())
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,40}|[0-9]{1,25}[a-zA-Z.]{0,4}|(https?|unix)?:?/{0,2}[a-z0-9@:./\\[\\]*?-]{0,30}") {
        let all = [
            duration(&text).err(), size(&text).err(), socket_address(&text).err(),
            host_pattern(&text).err(), upstream_url(&text).err(), external_url(&text).err(),
            path_prefix(&text).err(), unix_path(&text).err(),
        ];
        for error in all.into_iter().flatten() {
            prop_assert!(!error.to_string().is_empty());
            let _ = (error.why(), error.remedy());
        }
    }

    #[test]
    fn the_value_in_a_remedy_is_accepted(
        text in "[ -~]{0,20}|(https?|unix|ftp)?:?/{0,3}[a-z0-9@:./\\[\\]*?%$-]{0,30}|[0-9a-f:.\\[\\]]{1,20}|[0-9]{1,25}[a-zA-Z.]{0,4}"
    ) {
        assert_remedy_is_accepted(&text, duration)?;
        assert_remedy_is_accepted(&text, size)?;
        assert_remedy_is_accepted(&text, listen_address)?;
        assert_remedy_is_accepted(&text, network)?;
        assert_remedy_is_accepted(&text, host)?;
        assert_remedy_is_accepted(&text, host_pattern)?;
        assert_remedy_is_accepted(&text, upstream_url)?;
        assert_remedy_is_accepted(&text, external_url)?;
        assert_remedy_is_accepted(&text, path_prefix)?;
        assert_remedy_is_accepted(&text, unix_path)?;
        assert_remedy_is_accepted(&text, secret)?;
    }

    #[test]
    fn parsed_urls_are_canonical(text in "(https?://)[a-zA-Z0-9.:\\[\\]]{1,12}") {
        if let Ok(url) = external_url(&text) {
            prop_assert_eq!(external_url(&url.to_string()), Ok(url));
        }
        if let Ok(url) = upstream_url(&text) {
            prop_assert_eq!(upstream_url(&url.to_string()), Ok(url));
        }
    }
}
