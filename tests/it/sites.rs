//! Several sites on one address: each site has its own hosts, certificate, users and routes.

use crate::support::certs::{self, AUTHORITY};
use crate::support::proxy::{ALICE, directory, write_private};
use crate::support::{
    Client, HttpVersion, OK, Proxy, Registry, TestRequest, TestResponse, exchange,
};

/// The line of the password file for `bob` with the password `pw`.
fn bob() -> String {
    ALICE.replace("alice:", "bob:")
}

struct Site<'a> {
    hosts: &'a str,
    keys: &'a str,
    users: &'a str,
    routes: &'a [(&'a str, &'a str)],
}

/// The text of a site in the configuration.
fn site(site: &Site<'_>) -> String {
    let Site {
        hosts,
        keys,
        users,
        routes,
    } = site;
    let mut text = format!(
        "[[site]]\nhosts = [{hosts}]\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n{keys}\n\
         auth = {{ mode = \"basic\", htpasswd = \"{users}\", realm = \"{users}\" }}\n"
    );
    for (path, upstream) in *routes {
        text += &format!("[[site.route]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n");
    }
    text
}

/// Starts a proxy with these sites. alice is in the password file `htpasswd` and bob in `bobs`. One certificate has all names
/// that the clients use.
fn start(sites: &[Site<'_>]) -> Proxy {
    let dir = directory();
    write_private(&dir.path().join("bobs"), &bob());
    let (certificate, key) = AUTHORITY.issue(&["localhost", "127.0.0.1", "::1"]);
    std::fs::write(dir.path().join("cert.pem"), certificate).unwrap();
    std::fs::write(dir.path().join("key.pem"), key).unwrap();
    let sites: String = sites.iter().map(site).collect();
    let top =
        "[log]\naccess_file = \"access.log\"\n[listen]\nhttps = [\"127.0.0.1:0\"]\nworkers = 1\n";
    Proxy::start_in(dir, "unused", format!("{top}{sites}"))
}

/// Sends a GET request with `host` and the credentials of `user`.
fn get(proxy: &Proxy, http: HttpVersion, host: &str, user: &str, path: &str) -> TestResponse {
    let login = format!("{user}:pw");
    exchange(
        proxy,
        http,
        &TestRequest::new("GET", path)
            .basic_auth(login.as_bytes())
            .host(host),
    )
}

#[test]
fn each_site_has_its_own_users_and_routes() {
    let (one, two, stats) = (
        Registry::accepting_all(),
        Registry::accepting_all(),
        Registry::responding(OK),
    );
    let proxy = start(&[
        Site {
            hosts: "\"a.test\"",
            keys: "",
            users: "htpasswd",
            routes: &[("/v2/", &one.url()), ("/stats/", &stats.url())],
        },
        Site {
            hosts: "\"b.test\"",
            keys: "",
            users: "bobs",
            routes: &[("/v2/", &two.url())],
        },
    ]);
    for http in HttpVersion::BOTH {
        assert_eq!(get(&proxy, http, "a.test", "alice", "/v2/").status, 200);
        assert_eq!(get(&proxy, http, "b.test", "bob", "/v2/").status, 200);
        // A login of one site is not valid at the other site, even if it is in the login cache.
        for (host, user, realm) in [("a.test", "bob", "htpasswd"), ("b.test", "alice", "bobs")] {
            let response = get(&proxy, http, host, user, "/v2/");
            response.assert_rejection(401, "UNAUTHORIZED");
            assert_eq!(
                response.header("www-authenticate"),
                format!("Basic realm=\"{realm}\"")
            );
        }
        assert_eq!(get(&proxy, http, "a.test", "alice", "/stats/x").status, 200);
        let elsewhere = get(&proxy, http, "b.test", "bob", "/stats/x");
        assert_eq!(elsewhere.status, 404);
        assert!(!elsewhere.has_header("www-authenticate"));
    }
    for (registry, host) in [(&one, "a.test"), (&two, "b.test"), (&stats, "a.test")] {
        let seen = registry.requests();
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|seen| seen.header("host") == host));
    }
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.matches("site=a.test user=alice").count(), 4, "{log}");
    assert_eq!(log.matches("site=b.test user=bob").count(), 2, "{log}");
}

/// The host of an absolute target takes precedence over `Host` (RFC 9112, section 3.2.2) if both are hosts of one site.
/// Otherwise the request gets 421.
#[test]
fn an_absolute_target_and_host_are_names_of_one_site() {
    let (one, two) = (Registry::accepting_all(), Registry::accepting_all());
    let proxy = start(&[
        Site {
            hosts: "\"a.test\", \"*.a.test\"",
            keys: "",
            users: "htpasswd",
            routes: &[("/v2/", &one.url())],
        },
        Site {
            hosts: "\"b.test\"",
            keys: "",
            users: "bobs",
            routes: &[("/v2/", &two.url())],
        },
    ]);
    for (target, host, status) in [
        ("https://a.test", "a.test", 200),
        ("https://a.test:1", "A.Test:2", 200),
        ("https://x.a.test", "a.test", 200),
        ("https://a.test", "x.a.test:", 200),
        ("https://a.test", "b.test", 421),
        ("https://b.test", "a.test", 421),
        ("https://a.test", "c.test", 421),
        ("https://c.test", "a.test", 421),
        ("https://c.test", "c.test", 421),
    ] {
        let before = one.requests().len();
        let mut client = Client::connect(&proxy);
        let login = "Authorization: Basic YWxpY2U6cHc=";
        client.send(format!(
            "GET {target}/v2/ HTTP/1.1\r\nHost: {host}\r\n{login}\r\n\r\n"
        ));
        let response = client.read_response("GET");
        assert_eq!(response.status, status, "{target} {host}");
        let forwarded = one.requests().split_off(before);
        assert_eq!(forwarded.len(), usize::from(status == 200));
        if let Some(seen) = forwarded.first() {
            // The `Host` that is forwarded is the host of the target, which selected the site.
            let normalized = |text: &str| text.to_lowercase().trim_end_matches(':').to_owned();
            let named = target.strip_prefix("https://").unwrap();
            assert_eq!(
                normalized(seen.header("host")),
                normalized(named),
                "{target} {host}"
            );
        }
    }
    assert!(two.requests().is_empty());
}

#[test]
fn an_exact_host_wins_and_a_wildcard_matches_one_label() {
    let names = ["exact", "below", "six"];
    let registries = names.map(|name| {
        Registry::responding(format!(
            "HTTP/1.1 200 OK\r\nX-Site: {name}\r\nContent-Length: 0\r\n\r\n"
        ))
    });
    let urls = registries.each_ref().map(Registry::url);
    let hosts = [
        "\"a.example.test\"",
        "\"*.example.test\"",
        "\"127.0.0.1\", \"[2001:db8::1]\"",
    ];
    let routes = urls.each_ref().map(|url| [("/v2/", url.as_str())]);
    let sites: Vec<_> = hosts
        .iter()
        .zip(&routes)
        .map(|(hosts, routes)| Site {
            hosts,
            keys: "",
            users: "htpasswd",
            routes,
        })
        .collect();
    let proxy = start(&sites);
    let at = |host: &str| {
        let response = get(&proxy, HttpVersion::Http1, host, "alice", "/v2/");
        (
            response.status,
            response
                .header_values("x-site")
                .first()
                .map(|name| (*name).to_owned()),
        )
    };
    for (host, name) in [
        ("a.example.test", "exact"),
        ("A.EXAMPLE.test.:8443", "exact"),
        ("b.example.test", "below"),
        ("b.Example.Test:1", "below"),
        ("127.0.0.1", "six"),
        ("127.0.0.1:5000", "six"),
        ("[2001:db8::1]:443", "six"),
        ("[2001:DB8:0:0::1]", "six"),
    ] {
        assert_eq!(at(host), (200, Some(name.to_owned())), "{host}");
    }
    for host in [
        "example.test",
        "x.b.example.test",
        "b.a.example.test",
        "aexample.test",
        "127.0.0.2",
        "[2001:db8::2]",
        "localhost",
    ] {
        assert_eq!(at(host), (421, None), "{host}");
    }
}

#[test]
fn a_lone_star_matches_every_other_host() {
    let (one, other) = (Registry::accepting_all(), Registry::accepting_all());
    let proxy = start(&[
        Site {
            hosts: "\"*\"",
            keys: "",
            users: "bobs",
            routes: &[("/v2/", &other.url())],
        },
        Site {
            hosts: "\"a.test\"",
            keys: "",
            users: "htpasswd",
            routes: &[("/v2/", &one.url())],
        },
    ]);
    for http in HttpVersion::BOTH {
        assert_eq!(get(&proxy, http, "a.test", "alice", "/v2/").status, 200);
        for host in ["x.a.test", "b.test", "127.0.0.1", "[::1]:8443"] {
            assert_eq!(get(&proxy, http, host, "bob", "/v2/").status, 200, "{host}");
            assert_eq!(
                get(&proxy, http, host, "alice", "/v2/").status,
                401,
                "{host}"
            );
        }
    }
    assert_eq!((one.requests().len(), other.requests().len()), (2, 8));
}

#[test]
fn an_external_url_is_in_every_rewritten_response_field() {
    let registry = Registry::start(|exchange| {
        let host = exchange.head.header("host").to_owned();
        exchange.send(format!(
            "HTTP/1.1 202 Accepted\r\nLocation: http://{host}/v2/x\r\nContent-Location: https://{host}/v2/y\r\n\
             Link: <http://{host}/v2/z>; rel=\"next\"\r\nContent-Length: 0\r\n\r\n"
        ));
    });
    let url = registry.url();
    let proxy = start(&[
        Site {
            hosts: "\"a.test\"",
            keys: "",
            users: "htpasswd",
            routes: &[("/v2/", &url)],
        },
        Site {
            hosts: "\"b.test\"",
            keys: "external_url = \"https://pub.example:444\"",
            users: "htpasswd",
            routes: &[("/v2/", &url)],
        },
    ]);
    for http in HttpVersion::BOTH {
        for (host, origin) in [
            ("a.test:8443", "https://a.test:8443"),
            ("b.test:8443", "https://pub.example:444"),
        ] {
            let response = get(&proxy, http, host, "alice", "/v2/");
            assert_eq!(response.header("location"), format!("{origin}/v2/x"));
            assert_eq!(
                response.header("content-location"),
                format!("{origin}/v2/y")
            );
            assert_eq!(
                response.header("link"),
                format!("<{origin}/v2/z>; rel=\"next\"")
            );
        }
    }
}

#[test]
fn a_client_without_sni_gets_the_first_certificate_and_the_site_of_its_host() {
    let (one, two) = (Registry::accepting_all(), Registry::accepting_all());
    let proxy = start(&[
        Site {
            hosts: "\"localhost\"",
            keys: "",
            users: "htpasswd",
            routes: &[("/v2/", &one.url())],
        },
        Site {
            hosts: "\"127.0.0.1\"",
            keys: "",
            users: "bobs",
            routes: &[("/v2/", &two.url())],
        },
    ]);
    let config = certs::default_client_config("http/1.1");
    let mut client = Client::tls(proxy.https(), "127.0.0.1", config);
    let request = TestRequest::new("GET", "/v2/")
        .basic_auth(b"bob:pw")
        .host("127.0.0.1");
    assert_eq!(client.exchange(&request).status, 200);
    assert_eq!((one.requests().len(), two.requests().len()), (0, 1));
}

#[test]
fn a_host_that_two_sites_name_is_an_error() {
    let dir = directory();
    let routes = [("/v2/", "http://127.0.0.1:1")];
    let duplicates = ["\"a.test\", \"*.b.test\"", "\"A.test\"", "\"*.B.test\""].map(|hosts| {
        site(&Site {
            hosts,
            keys: "",
            users: "htpasswd",
            routes: &routes,
        })
    });
    let text = format!(
        "[listen]\nhttps = [\"127.0.0.1:0\"]\n{}",
        duplicates.concat()
    );
    let refused = Proxy::try_start(dir, "unused", &text)
        .err()
        .expect("the configuration is rejected")
        .to_string();
    for host in [
        "the host a.test was named before",
        "the host *.b.test was named before",
    ] {
        assert!(refused.contains(host), "{refused}");
    }
}

#[test]
fn a_warning_names_an_ip_host_behind_a_first_site_with_another_client_ca() {
    let dir = directory();
    std::fs::write(dir.path().join("ours.pem"), AUTHORITY.pem()).unwrap();
    let routes = [("/v2/", "http://127.0.0.1:1")];
    let with_client_ca = Site {
        hosts: "\"localhost\"",
        keys: "client_ca = \"ours.pem\"",
        users: "htpasswd",
        routes: &routes,
    };
    let address = Site {
        hosts: "\"127.0.0.1\"",
        keys: "",
        users: "htpasswd",
        routes: &routes,
    };
    for (sites, warned) in [
        ([&with_client_ca, &address], true),
        ([&address, &with_client_ca], false),
    ] {
        let text = format!(
            "[listen]\nhttps = [\"127.0.0.1:0\"]\n{}",
            sites.map(site).concat()
        );
        let file = dir.path().join("proxy.toml");
        std::fs::write(&file, text).unwrap();
        let (_server, problems) = tidegate::server::Server::open(&file).unwrap();
        let text = problems.to_string();
        assert_eq!(
            text.contains("requests for 127.0.0.1 will get 421"),
            warned,
            "{text}"
        );
    }
}
